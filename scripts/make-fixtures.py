#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A second implementation of the native stream, written from docs/stream-format.md alone.

  make-fixtures.py [DIR]         writes the fixtures and their manifest (tests/fixtures)
  make-fixtures.py --check FILE [KEY]
                                 reads a stream as the document says; prints its items, one a
                                 line; exit 1 and the error's name where it is refused. With a
                                 KEY of 64 hex digits it must be authenticated with that
  make-fixtures.py --example     prints the document's worked example

It shares nothing with the library: where the two disagree, the document decides. What a fixture
must lead to is written down by hand, not computed with the reader below.
"""

import json
import os
import struct
import sys
import unicodedata
import zlib

sys.dont_write_bytecode = True
from blake3_reference import derive_key, keyed_hash  # noqa: E402

MAGIC = b"\x89VFIOMIG"
IDENTITY_MAGIC = b"\x89VFIOMID"
CHECKPOINT_MAGIC = b"\x89VFIOMCP"
TRAILER_MAGIC = b"\x89VFIOMCE"
CHECKPOINT_ID = bytes(range(32, 48))
MANIFEST_CONTEXT = "libvfiomig 2026-12-01 manifest of a checkpoint"
MARK = b"VMFr"
IDENTITY, DATA, INITIAL, BLOB, RESTART, END = 1, 2, 3, 4, 5, 6
OPTIONAL = 1
MIGRATION_ID = bytes(range(16))
OTHER_MIGRATION_ID = bytes(range(16, 32))
AUTHENTICATED = 1
CONTEXT = "libvfiomig 2026-11-30 native stream from source to target"
KEYS = {1: bytes(range(64, 96)), 2: bytes(range(96, 128))}
NONCE = bytes(range(128, 160))
CHALLENGE = bytes(range(160, 192))
DEFAULT_LIMITS = {
    "max_frame": 4 << 20,
    "max_blob": 1 << 20,
    "max_blobs": 256,
    "max_restarts": 64,
    "max_total": 1 << 40,
}


# ---- writing ---------------------------------------------------------------------------------

def preamble(migration_id=MIGRATION_ID, major=1, minor=0, required=0, optional=0, magic=MAGIC,
             spoil=0):
    head = magic + struct.pack("<HHII", major, minor, required, optional) + migration_id
    return head + struct.pack("<I", zlib.crc32(head) ^ spoil)


def stream_key(key, binding):
    return keyed_hash(derive_key(CONTEXT, key), binding)


def auth_block(migration_id, key_id=1, device=0, challenge=None, nonce=NONCE, algorithm=1,
               flags=None, mark=b"VMAu", reserved=0, spoil=0):
    head = mark + struct.pack("<HHII", algorithm, int(challenge is not None) if flags is None
                              else flags, key_id, device)
    head += nonce + (challenge or bytes(32)) + bytes(11) + bytes([reserved])
    return head + struct.pack("<I", zlib.crc32(migration_id + head) ^ spoil)


class Writer:
    """Writes what it is told to, also what no writer may write."""

    def __init__(self, migration_id=MIGRATION_ID, device=0, auth=None, spoil_tag=b"", **about):
        self.migration_id, self.device, self.key = migration_id, device, None
        if auth is not None:
            about = dict({"required": AUTHENTICATED}, **about)
        self.out = preamble(migration_id, **about)
        if auth is not None:
            key = KEYS.get(auth.get("key_id", 1), bytes(32))
            block = auth_block(migration_id, **dict({"device": device}, **auth))
            self.key = stream_key(key, self.out + block)
            self.out += block + (spoil_tag or keyed_hash(self.key, block + self.out))
        self.sequence = 0
        self.digest = 0
        self.totals = [0, 0, 0]

    def frame(self, kind, payload=b"", flags=0, sequence=None, device=None, length=None,
              migration_id=None, mark=MARK, spoil_header=0, spoil_payload=0, counted=True,
              spoil_tag=0):
        sequence = self.sequence if sequence is None else sequence
        device = self.device if device is None else device
        payload_check = 0 if self.key else zlib.crc32(payload)
        head = mark + struct.pack(
            "<HHIIQI", kind, flags, device, len(payload) if length is None else length, sequence,
            payload_check ^ spoil_payload)
        assert len(head) == 28
        check = zlib.crc32((migration_id or self.migration_id) + head) ^ spoil_header
        self.out += head + struct.pack("<I", check)
        if self.key:
            tag = keyed_hash(self.key, payload + self.out[-32:])
            self.out += bytes([tag[0] ^ spoil_tag]) + tag[1:]
        self.out += payload
        self.sequence += 1
        if counted and kind != END:
            self.digest = zlib.crc32(head, self.digest)
            if kind == DATA:
                self.totals[0] += len(payload)
                self.totals[1] += 1
            elif kind == BLOB:
                self.totals[2] += 1
            elif kind == RESTART:
                self.totals = [0, 0, 0]
        return self

    def identity(self, payload=None, **more):
        return self.frame(IDENTITY, simple_identity() if payload is None else payload, **more)

    def data(self, payload, **more):
        return self.frame(DATA, payload, **more)

    def initial(self, generation=1, reserved=0, **more):
        return self.frame(INITIAL, struct.pack("<II", generation, reserved), **more)

    def blob(self, kind, piece, reserved=0, **more):
        return self.frame(BLOB, struct.pack("<II", kind, reserved) + piece, **more)

    def restart(self, count=1, reserved=0, **more):
        return self.frame(RESTART, struct.pack("<II", count, reserved), **more)

    def end(self, add=(0, 0, 0), spoil=0, reserved=0, **more):
        bytes_, frames, blobs = (a + b for a, b in zip(self.totals, add))
        return self.frame(END, struct.pack("<QQIIQ", bytes_, frames, blobs, self.digest ^ spoil,
                                           reserved), **more)


def field(number, value):
    return struct.pack("<HH", number, len(value)) + value


def simple_identity():
    return field(1, b"pci") + field(6, struct.pack("<Q", 1))


def pci(vendor, device, sub_vendor, sub_device, revision):
    return field(3, struct.pack("<HHHHB", vendor, device, sub_vendor, sub_device, revision))


def full_identity():
    # The order is free; this is the library's.
    return (field(1, b"pci") + field(2, b"mlx5_vfio_pci") + field(4, b"mtty-2")
            + field(5, "6.12.57-t\u00e4st".encode()) + pci(0x15b3, 0x101e, 0x15b4, 0x23, 0x7f)
            + field(6, struct.pack("<Q", 7)) + field(7, struct.pack("<Q", 0x0123456789ABCDEF))
            + field(8, bytes(range(256))) + field(9, b"nvidia-1155")
            + field(10, b"570.133.10") + field(11, b"533BB7E5866E52F63B9ACCB")
            + field(12, b"28.39.1002") + field(13, struct.pack("<I", 2)))


def exported(fields, major=1, minor=0, length=None, magic=IDENTITY_MAGIC, spoil=0):
    head = magic + struct.pack("<HHI", major, minor, len(fields) if length is None else length)
    return head + struct.pack("<I", zlib.crc32(head + fields) ^ spoil) + fields


def checkpoint_end(magic, body, spoil=0, reserved=0):
    body = magic + body + bytes(60 - 8 - len(body) - 1) + bytes([reserved])
    return body + struct.pack("<I", zlib.crc32(body) ^ spoil)


def record(fields):
    return struct.pack("<I", len(fields)) + fields


class Checkpoint:
    """Writes what it is told to, also what no writer may write."""

    def __init__(self, key_id=None, required=None, major=1, minor=0, optional=0,
                 magic=CHECKPOINT_MAGIC, **more):
        self.key_id = key_id
        required = int(key_id is not None) if required is None else required
        self.head = checkpoint_end(magic, struct.pack("<HHII", major, minor, required, optional)
                                   + CHECKPOINT_ID, **more)
        self.streams, self.at = {}, 4096
        self.about = (field(1, struct.pack("<Q", 1764547200 * 10**9))
                      + field(2, struct.pack("<Q", 7)))
        self.records = []

    def piece(self, stream, align=4096):
        """Where it lies."""
        self.at = (self.at + align - 1) // align * align
        self.streams[self.at] = stream
        self.at += len(stream)
        return self.at - len(stream), len(stream)

    def device(self, name, writer, cuts=(), without=(), more=b"", pieces=None, **instead):
        """A device whose stream is in pieces that end at `cuts`."""
        out = writer.out
        if pieces is None:
            ends = [0, *cuts, len(out)]
            pieces = [self.piece(out[a:b]) for a, b in zip(ends, ends[1:])]
        at, head = (40, 32) if writer.key is None else (168, 64)
        length = struct.unpack("<I", out[at + 12:at + 16])[0]
        fields = {1: name, 2: struct.pack("<I", writer.device), 3: writer.migration_id,
                  4: b"".join(struct.pack("<QQ", *piece) for piece in pieces), 5: out[-32:],
                  6: out[at + head:at + head + length]}
        fields.update({int(number[1:]): value for number, value in instead.items()})
        self.records.append(b"".join(field(number, value) for number, value in fields.items()
                                     if number not in without) + more)
        return self

    def manifest(self, mark=b"VMCm", count=None, about=None, tail=b""):
        about = self.about if about is None else about
        count = len(self.records) if count is None else count
        return (mark + struct.pack("<I", count) + record(about)
                + b"".join(map(record, self.records)) + tail)

    def block(self, body, mark=b"VMCa", algorithm=1, reserved=0, key=None, spoil=0):
        block = mark + struct.pack("<HHII", algorithm, reserved, self.key_id, 0)
        own = derive_key(MANIFEST_CONTEXT, key or KEYS.get(self.key_id, bytes(32)))
        tag = keyed_hash(own, self.head + body + block)
        return block + bytes([tag[0] ^ spoil]) + tag[1:]

    def end(self, body=None, block=None, offset=None, length=None, ident=CHECKPOINT_ID,
            spoil_manifest=0, **more):
        body = self.manifest() if body is None else body
        if self.key_id is not None:
            body += self.block(body, **(block or {}))
        out = bytearray(self.at)
        out[:64] = self.head
        for at, stream in self.streams.items():
            out[at:at + len(stream)] = stream
        rest = struct.pack("<QQ", self.at if offset is None else offset,
                           len(body) if length is None else length)
        rest += ident + struct.pack("<I", zlib.crc32(body) ^ spoil_manifest)
        return bytes(out) + body + checkpoint_end(TRAILER_MAGIC, rest, **more)


# ---- what items look like in the manifest ------------------------------------------------------

SIMPLE = {"identity": {"bus": "pci", "migration_flags": 1}}
FULL = {"identity": {
    "bus": "pci", "driver": "mlx5_vfio_pci", "mdev_type": "mtty-2",
    "kernel_release": "6.12.57-t\u00e4st", "pci": [0x15b3, 0x101e, 0x15b4, 0x23],
    "pci_revision": 0x7f, "migration_flags": 7, "state_size": "0123456789abcdef",
    "vendor_data": bytes(range(256)).hex(), "vendor_type": "nvidia-1155",
    "driver_version": "570.133.10", "driver_srcversion": "533BB7E5866E52F63B9ACCB",
    "firmware": "28.39.1002", "protocol": 2}}


def d(payload):
    return {"data": payload.hex()}


def i(generation=1):
    return {"initial_complete": generation}


def b(kind, piece):
    return {"blob": piece.hex(), "kind": kind}


R = {"restart": True}
E = {"end": True}


# ---- the fixtures ------------------------------------------------------------------------------

def fixtures():
    """(name, what it shows, writer, items in order, "END" or the error, further manifest keys)"""
    made = []

    def add(name, about, writer, items, result="END", **more):
        out = writer.out if isinstance(writer, Writer) else writer
        made.append((name, about, out, items, result, more))

    # Streams that every reader takes, and that the library's writer makes byte for byte.
    lib = {"encode": True}
    add("minimal", "the document's worked example",
        Writer().identity().data(b"state").end(), [SIMPLE, d(b"state"), E], **lib)
    add("no-data", "a stream may have no data: what that means is the session's business",
        Writer().identity().end(), [SIMPLE, E], **lib)
    add("device-number", "the largest device number, another migration id",
        Writer(migration_id=OTHER_MIGRATION_ID, device=0xFFFFFFFF).identity().data(b"x").end(),
        [SIMPLE, d(b"x"), E], migration_id=OTHER_MIGRATION_ID.hex(), device=0xFFFFFFFF, **lib)
    add("initial-complete", "data, the mark, more data",
        Writer(device=3).identity().data(b"first").initial(1).data(b"second").end(),
        [SIMPLE, d(b"first"), i(1), d(b"second"), E], device=3, **lib)
    add("initial-twice", "initial data that started again",
        Writer().identity().data(b"a").initial(1).data(b"b").initial(2).data(b"c").end(),
        [SIMPLE, d(b"a"), i(1), d(b"b"), i(2), d(b"c"), E], **lib)
    add("blobs", "blobs between data, one empty, one kind twice",
        Writer().identity().blob(7, b"config space").data(b"a").blob(0xFFFFFFFF, b"")
        .blob(7, b"again").data(b"b").end(),
        [SIMPLE, b(7, b"config space"), d(b"a"), b(0xFFFFFFFF, b""), b(7, b"again"), d(b"b"), E],
        **lib)
    add("restart", "totals count from the last restart, the digest from the beginning",
        Writer().identity().data(b"void").blob(1, b"void").initial(1).restart(1)
        .data(b"new").initial(2).restart(2).data(b"newest").blob(2, b"kept").end(),
        [SIMPLE, d(b"void"), b(1, b"void"), i(1), R, d(b"new"), i(2), R, d(b"newest"),
         b(2, b"kept"), E], **lib)
    add("restart-first", "a restart before any data",
        Writer().identity().restart(1).data(b"x").end(), [SIMPLE, R, d(b"x"), E], **lib)
    long = bytes((n * 7 + n // 251) & 0xFF for n in range(9000))
    add("longer", "frames longer than a page, and of one byte",
        Writer().identity().data(long).data(b"\0").data(long[:1]).end(),
        [SIMPLE, d(long), d(b"\0"), d(long[:1]), E], **lib)
    add("identity-full", "every field of the identity",
        Writer().identity(full_identity()).data(b"x").end(), [FULL, d(b"x"), E], **lib)

    # Streams that every reader takes, of writers that are not this library's.
    reordered = (field(13, struct.pack("<I", 2)) + field(12, b"28.39.1002")
                 + field(11, b"533BB7E5866E52F63B9ACCB")
                 + field(10, b"570.133.10") + field(9, b"nvidia-1155") + field(8, bytes(range(256)))
                 + field(7, struct.pack("<Q", 0x0123456789ABCDEF))
                 + field(6, struct.pack("<Q", 7)) + field(5, "6.12.57-t\u00e4st".encode())
                 + field(4, b"mtty-2") + pci(0x15b3, 0x101e, 0x15b4, 0x23, 0x7f)
                 + field(2, b"mlx5_vfio_pci") + field(1, b"pci"))
    add("identity-reordered", "the order of fields is free",
        Writer().identity(reordered).data(b"x").end(), [FULL, d(b"x"), E])
    add("identity-of-before", "an identity without the fields that came later",
        Writer().identity(simple_identity() + field(2, b"nvidia")).data(b"x").end(),
        [{"identity": {"bus": "pci", "migration_flags": 1, "driver": "nvidia"}}, d(b"x"), E])
    add("identity-empty", "an identity that knows nothing",
        Writer().identity(b"").data(b"x").end(), [{"identity": {}}, d(b"x"), E])
    add("identity-unknown-field", "unknown fields are skipped, large numbers also twice",
        Writer().identity(field(30, b"new") + simple_identity() + field(0x8001, b"")
                          + field(0x8001, b"twice") + field(0xFFFF, b"\0")).data(b"x").end(),
        [SIMPLE, d(b"x"), E])
    add("identity-longest-texts", "texts as long as they may be",
        Writer().identity(field(1, b"b" * 15) + field(2, b"d" * 63) + field(4, b"m" * 63)
                          + field(5, b"r" * 71) + field(6, struct.pack("<Q", 1 << 63))).end(),
        [{"identity": {"bus": "b" * 15, "driver": "d" * 63, "mdev_type": "m" * 63,
                       "kernel_release": "r" * 71, "migration_flags": 1 << 63}}, E], **lib)
    add("newer-minor", "a newer minor format, with an optional feature",
        Writer(minor=9, optional=0x80000001).identity().data(b"x").end(), [SIMPLE, d(b"x"), E])
    add("newer-writer", "unknown optional frames are verified, counted and skipped",
        Writer(minor=1).identity().frame(7, b"from the future", flags=OPTIONAL).data(b"x")
        .frame(0xFFFF, b"", flags=OPTIONAL).frame(0, bytes(500), flags=OPTIONAL).data(b"y").end(),
        [SIMPLE, d(b"x"), d(b"y"), E])

    # The preamble.
    rest = Writer().identity().data(b"x").end().out[40:]
    add("bad-magic", "another first byte", preamble(magic=b"\x88VFIOMIG") + rest, [], "EPROTO")
    add("bad-preamble-check", "a wrong check of the preamble", preamble(spoil=1) + rest, [],
        "EBADMSG")
    flipped = bytearray(preamble() + rest)
    flipped[8] ^= 2
    add("flipped-version", "a flipped bit in the version is damage, not a newer format",
        bytes(flipped), [], "EBADMSG")
    add("other-major", "major 2 with a right check", Writer(major=2).identity().end(), [], "EPROTO")
    add("major-0", "major 0", Writer(major=0).identity().end(), [], "EPROTO")
    add("required-feature", "a required feature that nobody has",
        Writer(required=0x80000000).identity().data(b"x").end(), [], "EPROTO")

    # Headers.
    start = lambda **about: Writer(**about).identity()
    add("bad-mark", "a frame that does not begin with the mark",
        start().data(b"x", mark=b"VMFs").end(), [SIMPLE], "EPROTO")
    add("bad-header-check", "a wrong check of a header",
        start().data(b"x", spoil_header=0x80000000).end(), [SIMPLE], "EBADMSG")
    add("bad-payload-check", "a wrong check of a payload: nothing of it is passed on",
        start().data(b"good").data(b"bad", spoil_payload=1).end(), [SIMPLE, d(b"good")], "EBADMSG")
    add("bad-identity-check", "a wrong check of the identity's payload",
        Writer().identity(spoil_payload=1).end(), [], "EBADMSG")
    add("foreign-frame", "a frame of another migration id",
        start().data(b"x", migration_id=OTHER_MIGRATION_ID).end(), [SIMPLE], "EBADMSG")
    add("foreign-preamble", "all frames under another migration id's preamble",
        preamble(OTHER_MIGRATION_ID) + rest, [], "EBADMSG")
    add("sequence-gap", "a frame is missing",
        start().data(b"a").data(b"b", sequence=3).end(), [SIMPLE, d(b"a")], "EPROTO")
    add("sequence-repeated", "a frame comes twice",
        start().data(b"a").data(b"a", sequence=1).end(), [SIMPLE, d(b"a")], "EPROTO")
    add("sequence-from-1", "the first frame must be number 0",
        Writer().identity(sequence=1).end(), [], "EPROTO")
    add("other-device", "a frame of another device",
        start().data(b"x", device=1).end(), [SIMPLE], "EPROTO")
    add("unknown-flag", "a reserved flag on a known type",
        start().data(b"x", flags=2).end(), [SIMPLE], "EPROTO")
    add("optional-data", "known types are never optional",
        start().data(b"x", flags=OPTIONAL).end(), [SIMPLE], "EPROTO")
    add("unknown-mandatory-frame", "an unknown type without OPTIONAL",
        start(minor=1).frame(7, b"must be understood").end(), [SIMPLE], "EPROTO")
    add("unknown-frame-unknown-flag", "OPTIONAL does not excuse other flags",
        start().frame(7, b"x", flags=OPTIONAL | 0x8000).end(), [SIMPLE], "EPROTO")
    add("optional-frame-damaged", "a frame that is skipped is still verified",
        start().frame(7, b"x", flags=OPTIONAL, spoil_payload=1).end(), [SIMPLE], "EBADMSG")
    add("optional-frame-first", "the first frame is the identity, whatever may be skipped",
        Writer().frame(7, b"x", flags=OPTIONAL).identity().end(), [], "EPROTO")

    # Payloads.
    add("no-identity", "data without an identity", Writer().data(b"x").end(), [], "EPROTO")
    add("identity-twice", "a second identity", start().identity().end(), [SIMPLE], "EPROTO")
    for name, about, payload in [
        ("cut-head", "a field's head is cut off", b"\x01\0\x03"),
        ("cut-value", "a field reaches beyond the payload", b"\x01\0\x04\0pci"),
        ("empty-text", "an empty text", field(1, b"")),
        ("long-bus", "a bus of 16 bytes", field(1, b"b" * 16)),
        ("long-driver", "a driver of 64 bytes", field(2, b"d" * 64)),
        ("long-mdev-type", "an mdev type of 64 bytes", field(4, b"m" * 64)),
        ("long-release", "a kernel release of 72 bytes, 71 characters",
         field(5, b"r" * 70 + "\u00e4".encode())),
        ("long-vendor-type", "a vendor's type of 64 bytes", field(9, b"t" * 64)),
        ("long-driver-version", "a driver's version of 64 bytes", field(10, b"v" * 64)),
        ("long-srcversion", "a srcversion of 64 bytes", field(11, b"s" * 64)),
        ("long-firmware", "a firmware's version of 64 bytes", field(12, b"f" * 64)),
        ("short-protocol", "a protocol of 2 bytes", field(13, bytes(2))),
        ("version-twice", "a driver's version that stands there twice",
         field(10, b"1") + field(10, b"1")),
        ("control", "a control character", field(2, b"a\x1b[2J")),
        ("control-c1", "a control character of two bytes", field(2, "a\u009bJ".encode())),
        ("not-utf8", "a text that is not UTF-8", field(2, b"\xff")),
        ("nul", "a text with a NUL", field(2, b"vfio\0")),
        ("known-twice", "a field that stands there twice", simple_identity() + field(1, b"pci")),
        ("unknown-twice", "an unknown one with a number below 32",
         field(31, b"") + field(31, b"")),
        ("short-pci", "PCI IDs of 8 bytes", field(3, bytes(8))),
        ("short-flags", "migration flags of 4 bytes", field(6, bytes(4))),
        ("short-size", "a state size of 4 bytes", field(7, bytes(4))),
        ("long-vendor", "a vendor string of 257 bytes", field(8, bytes(257))),
    ]:
        add("identity-" + name, about, Writer().identity(payload).end(), [], "EPROTO")
    add("identity-4096", "the longest identity",
        Writer().identity(simple_identity() + field(99, bytes(4096 - 19 - 4))).end(), [SIMPLE, E])
    add("identity-4097", "an identity that is too long",
        Writer().identity(simple_identity() + field(99, bytes(4097 - 19 - 4))).end(), [],
        "EMSGSIZE")
    add("empty-data", "data frames are not empty", start().data(b"").end(), [SIMPLE], "EPROTO")
    add("initial-short", "a mark of 4 bytes",
        start().frame(INITIAL, b"\1\0\0\0").end(), [SIMPLE], "EPROTO")
    add("initial-long", "a mark of 12 bytes",
        start().frame(INITIAL, b"\1" + bytes(11)).end(), [SIMPLE], "EPROTO")
    add("initial-reserved", "a reserved field of a mark",
        start().initial(1, reserved=1).end(), [SIMPLE], "EPROTO")
    add("blob-short", "a blob without its head", start().frame(BLOB, bytes(7)).end(), [SIMPLE],
        "EPROTO")
    add("blob-reserved", "a reserved field of a blob",
        start().blob(1, b"x", reserved=0x01000000).end(), [SIMPLE], "EPROTO")
    add("restart-long", "a restart of 12 bytes",
        start().frame(RESTART, b"\1" + bytes(11)).end(), [SIMPLE], "EPROTO")
    add("restart-reserved", "a reserved field of a restart",
        start().restart(1, reserved=1).end(), [SIMPLE], "EPROTO")

    add("initial-0", "generations begin at 1", start().initial(0).end(), [SIMPLE], "EPROTO")
    add("initial-repeated", "a generation that does not rise",
        start().initial(1).data(b"x").initial(1).end(), [SIMPLE, i(1), d(b"x")], "EPROTO")
    add("initial-repeated-after-restart", "generations rise over a restart, too",
        start().initial(2).restart(1).initial(2).end(), [SIMPLE, i(2), R], "EPROTO")
    add("restart-0", "restarts count from 1", start().restart(0).end(), [SIMPLE], "EPROTO")
    add("restart-repeated", "a count that does not rise", start().restart(3).restart(3).end(),
        [SIMPLE, R], "EPROTO")

    # The end.
    body = lambda: start().data(b"abc").data(b"de").blob(1, b"x")
    items = [SIMPLE, d(b"abc"), d(b"de"), b(1, b"x")]
    add("end-bytes", "a byte too many in the totals", body().end(add=(1, 0, 0)), items, "EPROTO")
    add("end-frames", "a frame too few in the totals", body().end(add=(0, -1, 0)), items, "EPROTO")
    add("end-blobs", "a blob too many in the totals", body().end(add=(0, 0, 1)), items, "EPROTO")
    add("end-digest", "a wrong digest", body().end(spoil=1), items, "EPROTO")
    add("end-reserved", "a reserved field of the end", body().end(reserved=1 << 63), items,
        "EPROTO")
    add("end-short", "an end of 24 bytes", body().frame(END, bytes(24)), items, "EPROTO")
    add("end-check", "a wrong check of the end's payload", body().end(spoil_payload=1), items,
        "EBADMSG")
    swapped = body()
    swapped.digest = start().data(b"abc").data(b"dE").blob(1, b"x").digest
    add("end-replaced-frame", "the totals of a stream in which one payload was another",
        swapped.end(), items, "EPROTO")
    voided = start().data(b"void").restart(1)
    voided.totals = [4, 1, 0]
    add("end-counts-void-data", "totals that count what a restart voided", voided.end(),
        [SIMPLE, d(b"void"), R], "EPROTO")
    add("after-end-byte", "a byte after the end", body().end().out + b"\0", items + [E], "EPROTO")
    add("after-end-frame", "a frame after the end", body().end().data(b"more"), items + [E],
        "EPROTO")
    add("empty", "no bytes at all", b"", [], "ENODATA")
    add("cut-preamble", "a preamble that is cut off", preamble()[:39], [], "ENODATA")
    add("cut-payload", "cut within a payload", body().out[:-1], items[:-1], "ENODATA")
    add("no-end", "everything but the end", body().out, items, "ENODATA")
    add("cut-end", "cut one byte before the end", body().end().out[:-1], items, "ENODATA")

    # Limits. Where nothing is said, the defaults hold.
    huge = lambda kind, length, **more: start().frame(kind, b"", length=length, **more)
    add("data-too-long", "refused when the header is there",
        huge(DATA, (4 << 20) + 1), [SIMPLE], "EMSGSIZE")
    add("data-4-gib", "the largest length that can be written", huge(DATA, 0xFFFFFFFF), [SIMPLE],
        "EMSGSIZE")
    add("data-longest", "the longest data frame is awaited", huge(DATA, 4 << 20), [SIMPLE],
        "ENODATA")
    add("end-4-gib", "an end of another length is refused when the header is there",
        huge(END, 0xFFFFFFFF), [SIMPLE], "EPROTO")
    add("blob-too-long", "a blob of 1 MiB and a byte", huge(BLOB, (1 << 20) + 9), [SIMPLE],
        "EMSGSIZE")
    add("blob-longest", "the longest blob is awaited", huge(BLOB, (1 << 20) + 8), [SIMPLE],
        "ENODATA")
    add("optional-too-long", "a skipped frame has the limit of data frames",
        huge(7, (4 << 20) + 1, flags=OPTIONAL), [SIMPLE], "EMSGSIZE")
    add("mandatory-too-long", "an unknown mandatory type is the first thing to say",
        huge(7, 0xFFFFFFFF), [SIMPLE], "EPROTO")
    few = start()
    for n in range(5):
        few.blob(n, b"")
    add("blobs-too-many", "the third of two blobs", few.end(), [SIMPLE, b(0, b""), b(1, b"")],
        "EMSGSIZE", limits={"max_blobs": 2})
    add("blobs-per-restart", "blobs count from the last restart",
        start().blob(1, b"").blob(2, b"").restart(1).blob(3, b"").blob(4, b"").end(),
        [SIMPLE, b(1, b""), b(2, b""), R, b(3, b""), b(4, b""), E], limits={"max_blobs": 2})
    again = start()
    for n in range(65):
        again.restart(n + 1)
    add("restarts-too-many", "the 65th restart", again.end(), [SIMPLE] + [R] * 64, "EMSGSIZE")
    add("total-too-much", "data before a restart counts as well",
        start().data(b"12345").restart(1).data(b"6789").data(b"0").end(),
        [SIMPLE, d(b"12345"), R, d(b"6789")], "EMSGSIZE", limits={"max_total": 9})
    add("total-skipped", "frames that are skipped count as well",
        start().data(b"12345").frame(0x4000, b"67890", flags=1).end(),
        [SIMPLE, d(b"12345")], "EMSGSIZE", limits={"max_total": 9})
    add("total-skipped-exactly", "as much as the limit allows, half of it skipped",
        start().data(b"12345").frame(0x4000, b"6789", flags=1).end(),
        [SIMPLE, d(b"12345"), E], limits={"max_total": 9})
    add("total-exactly", "as much as the limit allows",
        start().data(b"12345").restart(1).data(b"6789").end(),
        [SIMPLE, d(b"12345"), R, d(b"6789"), E], limits={"max_total": 9})
    authenticated(add, long)
    return made


def authenticated(add, long):
    """The same for streams with tags. The reader has both keys, unless something else is said."""
    has = lambda **more: dict({"keys": {str(n): key.hex() for n, key in KEYS.items()}}, **more)
    made_with = lambda key_id=1, **more: dict({"key_id": key_id, "key": KEYS[key_id].hex(),
                                               "nonce": NONCE.hex()}, **more)
    start = lambda about=None, **more: Writer(auth=about or {}, **more).identity()
    body = [SIMPLE, d(b"x"), E]

    def add_auth(name, about, writer, items, result="END", **more):
        add("auth-" + name, about, writer, items, result, **dict({"auth": has()}, **more))

    add_auth("minimal", "the document's example with tags", start().data(b"state").end(),
             [SIMPLE, d(b"state"), E], encode=True, made_with=made_with())
    add_auth("challenge", "another key, and what the reader has chosen",
             start({"key_id": 2, "challenge": CHALLENGE}, device=3,
                   migration_id=OTHER_MIGRATION_ID).data(b"x").end(), body, encode=True, device=3,
             migration_id=OTHER_MIGRATION_ID.hex(), auth=has(challenge=CHALLENGE.hex()),
             made_with=made_with(2, challenge=CHALLENGE.hex()))
    add_auth("everything", "all types of frames, of several chunks and of one byte",
             start().data(b"void").blob(1, b"void").initial(1).restart(1).data(long)
             .initial(2).data(long[:1024]).blob(2, b"kept").data(long[:1]).end(),
             [SIMPLE, d(b"void"), b(1, b"void"), i(1), R, d(long), i(2), d(long[:1024]),
              b(2, b"kept"), d(long[:1]), E], encode=True, made_with=made_with())
    add_auth("newer-writer", "unknown optional frames have tags, too",
             start(minor=1, optional=4).frame(7, b"from the future", flags=OPTIONAL).data(b"x")
             .end(), body)
    add_auth("challenge-nobody-asked-for", "a reader that has chosen none takes any",
             start({"challenge": CHALLENGE}).data(b"x").end(), body)

    add_auth("missing", "a stream without tags, where they must be",
             Writer().identity().data(b"x").end(), [], "EPERM")
    add_auth("not-required", "a stream without tags, where they need not be",
             Writer().identity().data(b"x").end(), body, auth=has(allow=True))
    add_auth("no-key-at-all", "a stream with tags, and nothing to verify them with",
             start().data(b"x").end(), [], "EPERM", auth=None)
    add_auth("key-unknown", "the id of a key that the reader does not have",
             start({"key_id": 3}).data(b"x").end(), [], "EPERM")
    add_auth("key-other", "the same id, another key", start().data(b"x").end(), [], "EBADMSG",
             auth={"keys": {"1": KEYS[2].hex()}})
    add_auth("challenge-other", "made for another load",
             start({"challenge": NONCE}).data(b"x").end(), [], "EXDEV",
             auth=has(challenge=CHALLENGE.hex()))
    add_auth("challenge-missing", "made for any load", start().data(b"x").end(), [], "EXDEV",
             auth=has(challenge=CHALLENGE.hex()))
    add_auth("challenge-without-flag", "a challenge that no flag announces",
             start({"challenge": CHALLENGE, "flags": 0}).data(b"x").end(), [], "EPROTO")
    add_auth("own-mac", "a MAC that the reader does not have",
             start({"algorithm": 2}).data(b"x").end(), [], "EPERM")
    add_auth("algorithm", "an algorithm that nobody knows",
             start({"algorithm": 3}).data(b"x").end(), [], "EPROTO")
    add_auth("flags", "a flag that nobody knows", start({"flags": 2}).data(b"x").end(), [],
             "EPROTO")
    add_auth("reserved", "a reserved byte", start({"reserved": 1}).data(b"x").end(), [], "EPROTO")
    add_auth("mark", "no block where one must be", start({"mark": b"VMAv"}).data(b"x").end(), [],
             "EPROTO")
    add_auth("block-check", "a wrong check of the block", start({"spoil": 1}).data(b"x").end(),
             [], "EBADMSG")
    add_auth("block-tag", "a wrong tag of the block",
             start(spoil_tag=bytes(32)).data(b"x").end(), [], "EBADMSG")
    add_auth("block-device", "the block names another device",
             start({"device": 1}).data(b"x").end(), [], "EPROTO")
    add_auth("frame-tag", "a wrong tag: nothing of its frame is passed on",
             start().data(b"good").data(b"bad", spoil_tag=1).end(), [SIMPLE, d(b"good")],
             "EBADMSG")
    add_auth("restart-tag", "a wrong tag of a restart: the device is not reset for it",
             start().data(b"good").restart(1, spoil_tag=1).end(), [SIMPLE, d(b"good")], "EBADMSG")
    add_auth("skipped-tag", "a wrong tag of a frame that is skipped",
             start().frame(7, b"x", flags=OPTIONAL, spoil_tag=0x80).data(b"x").end(), [SIMPLE],
             "EBADMSG")
    add_auth("end-tag", "a wrong tag of the end", start().data(b"x").end(spoil_tag=1),
             [SIMPLE, d(b"x")], "EBADMSG")
    add_auth("end-counts", "wrong totals with a right tag",
             start().data(b"x").end(add=(1, 0, 0)), [SIMPLE, d(b"x")], "EPROTO")
    add_auth("payload-check", "a payload check where a tag does its work",
             start().data(b"x", spoil_payload=1).end(), [SIMPLE], "EBADMSG")
    add_auth("bad-preamble", "the preamble's check comes first",
             start(spoil=1).data(b"x").end(), [], "EBADMSG")
    whole = start().data(b"x").end().out
    add_auth("cut-block", "cut within the block", whole[:40 + 127], [], "ENODATA")
    add_auth("cut-tag", "cut within a tag", start().data(b"x").out[:-2], [SIMPLE], "ENODATA")
    add_auth("no-end", "everything but the end", start().data(b"x").out, [SIMPLE, d(b"x")],
             "ENODATA")
    add_auth("after-end", "a byte after the end", whole + b"\0", body, "EPROTO")


def exported_fixtures():
    """(name, what it shows, bytes, the identity or the error's name, whether the library's writer
    makes these bytes)"""
    full, simple = FULL["identity"], SIMPLE["identity"]
    plain = exported(simple_identity())
    flipped = bytearray(exported(full_identity()))
    flipped[8] ^= 2
    unknown = simple_identity() + field(30, b"new") + field(0xFFFF, b"")
    return [
        ("simple", "two fields", plain, simple, True),
        ("full", "every field", exported(full_identity()), full, True),
        ("empty", "an identity that knows nothing", exported(b""), {}, False),
        ("unknown", "unknown fields are skipped", exported(unknown), simple, False),
        ("newer-minor", "a newer minor format", exported(unknown, minor=7), simple, False),
        ("longest", "as long as may be",
         exported(simple_identity() + field(99, bytes(4096 - 19 - 4))), simple, False),
        ("too-long", "a byte longer",
         exported(simple_identity() + field(99, bytes(4097 - 19 - 4))), "EMSGSIZE", False),
        ("4-gib", "a length that is not there", exported(b"", length=0xFFFFFFFF), "EMSGSIZE",
         False),
        ("no-bytes", "nothing at all", b"", "EPROTO", False),
        ("cut-head", "a head that is cut off", plain[:19], "EPROTO", False),
        ("cut", "a byte is missing at the end", plain[:-1], "EPROTO", False),
        ("longer", "a byte after the end", plain + b"\0", "EPROTO", False),
        ("magic", "that of a stream", exported(simple_identity(), magic=MAGIC), "EPROTO", False),
        ("check", "a wrong check", exported(simple_identity(), spoil=1), "EBADMSG", False),
        ("flipped-version", "a flipped bit in the version is damage", bytes(flipped), "EBADMSG",
         False),
        ("major", "another major format", exported(simple_identity(), major=2), "EPROTO", False),
        ("known-twice", "a field that stands there twice",
         exported(simple_identity() + field(1, b"pci")), "EPROTO", False),
        ("control", "a control character", exported(field(12, b"\x1b[2J")), "EPROTO", False),
    ]


def checkpoint_fixtures():
    """(name, what it shows, bytes, devices or the error's name, whether the library's writer makes
    these bytes, what the reader verifies it with)"""
    one = lambda **more: Writer(**more).identity().data(b"state").end()
    two = lambda **more: Writer(device=1, **more).identity(full_identity()).data(b"more").end()
    plain = lambda **more: Checkpoint(**more).device(b"net0", one())
    both = lambda: plain().device("gpu-\u00e4".encode(), two(), cuts=(100, 333))
    made = []

    def add(name, about, out, result, encode=False, keys=None, allow=False):
        auth = None if keys is None else {"keys": {str(n): KEYS[n].hex() for n in keys}}
        if allow:
            auth["allow"] = True
        made.append((name, about, out.end() if isinstance(out, Checkpoint) else out, result,
                     encode, auth))

    net0 = {"name": "net0", "device": 0, "migration_id": MIGRATION_ID.hex(), "bytes": 5,
            "stream": "END", "pieces": 1}
    gpu = {"name": "gpu-\u00e4", "device": 1, "migration_id": MIGRATION_ID.hex(), "bytes": 4,
           "stream": "END", "pieces": 3}
    damaged = dict(net0, stream="EBADMSG")
    add("one", "one device", plain(), [net0], True)
    add("two", "two devices, one in three pieces", both(), [net0, gpu], True)
    noted = plain()
    noted.about += field(3, b"ram.img")
    add("note", "a note", noted, [net0], True)
    add("newer", "a newer minor format: unknown fields and features",
        Checkpoint(minor=3, optional=4).device(b"net0", one(), more=field(31, b"x")
                                               + field(99, b"") + field(99, b"")), [net0])
    bare = plain()
    bare.about = b""
    add("about-nothing", "nothing is known of the checkpoint", bare, [net0])
    add("packed", "pieces need not be aligned", packed(one()), [net0])
    spoilt = bytearray(plain().end())
    spoilt[4096 + 123] ^= 1
    add("damaged-stream", "the manifest does not say that a stream is whole", bytes(spoilt),
        [damaged])
    other = plain()
    other.streams[4096] = Writer(migration_id=OTHER_MIGRATION_ID).identity().data(b"state").end().out
    add("other-stream", "a whole stream, but another one", other, [dict(net0, stream="EPROTO")])
    add("end-other", "the record says another end",
        Checkpoint().device(b"net0", one(), f5=two().out[-32:]),
        [dict(net0, bytes=4, stream="EPROTO")])
    add("identity-other", "the record says another identity",
        Checkpoint().device(b"net0", one(), f6=full_identity()), [dict(net0, stream="EPROTO")])

    # Authenticated.
    auth = lambda n=1: {"auth": {"key_id": n}}
    sealed = lambda **more: Checkpoint(1).device(b"net0", one(**auth()), **more)
    add("auth", "authenticated", sealed(), [net0], True, keys=(1, 2))
    add("auth-no-key", "nothing to verify it with", sealed(), "EPERM")
    add("auth-key-unknown", "another key", sealed(), "EPERM", keys=(2,))
    add("auth-missing", "not authenticated, where it must be", plain(), "EPERM", keys=(1,))
    add("auth-allowed", "not authenticated, where it need not be", plain(), [net0], keys=(1,),
        allow=True)
    add("auth-tag", "a wrong tag", sealed().end(block={"spoil": 1}), "EBADMSG", keys=(1,))
    add("auth-key-other", "the same id, another key", sealed().end(block={"key": KEYS[2]}),
        "EBADMSG", keys=(1,))
    add("auth-mac", "a MAC that the reader does not have", sealed().end(block={"algorithm": 2}),
        "EPERM", keys=(1,))
    add("auth-algorithm", "an algorithm that nobody knows", sealed().end(block={"algorithm": 3}),
        "EPROTO", keys=(1,))
    add("auth-reserved", "a reserved field", sealed().end(block={"reserved": 1}), "EPROTO",
        keys=(1,))
    add("auth-mark", "no block where one must be", sealed().end(block={"mark": b"VMCb"}), "EPROTO",
        keys=(1,))
    add("auth-no-block", "a manifest shorter than a block",
        Checkpoint(required=1).end(body=bytes(47)), "EPROTO", keys=(1,))

    # Both ends.
    whole = plain().end()
    add("no-bytes", "nothing at all", b"", "EPROTO")
    add("cut-head", "a head that is cut off", whole[:63], "EPROTO")
    add("head-only", "a head and nothing else", whole[:64], "ENODATA")
    add("cut", "a byte is missing", whole[:-1], "ENODATA")
    add("longer", "a byte more", whole + b"\0", "ENODATA")
    add("magic", "a stream is not a checkpoint", bytes(one().out), "EPROTO")
    add("head-check", "a wrong check of the head", plain(spoil=1), "EBADMSG")
    add("head-reserved", "a reserved byte of the head", plain(reserved=1), "EPROTO")
    add("major", "another major format", plain(major=2), "EPROTO")
    add("required", "a required feature that nobody has", plain(required=2), "EPROTO")
    add("trailer-check", "a wrong check of the trailer", plain().end(spoil=1), "EBADMSG")
    add("trailer-reserved", "a reserved byte of the trailer", plain().end(reserved=1), "EPROTO")
    add("trailer-id", "the trailer of another one", plain().end(ident=MIGRATION_ID), "EPROTO")
    add("manifest-long", "a manifest over 8 MiB", plain().end(length=(8 << 20) + 1), "EMSGSIZE")
    add("manifest-huge", "a manifest of 16 EiB", plain().end(length=(1 << 64) - 1), "EMSGSIZE")
    add("manifest-offset", "a manifest that begins elsewhere", plain().end(offset=4096), "EPROTO")
    add("manifest-wrap", "an offset that wraps around", plain().end(offset=(1 << 64) - 1), "EPROTO")
    add("manifest-check", "a wrong check of the manifest", plain().end(spoil_manifest=1),
        "EBADMSG")

    # The manifest.
    body = lambda **more: plain().end(body=plain().manifest(**more))
    add("mark", "another mark", body(mark=b"VMCn"), "EPROTO")
    add("count-more", "a record is missing", body(count=2), "EPROTO")
    add("count-less", "a record too many", body(count=0), "EPROTO")
    add("count-huge", "more devices than may be", body(count=1025), "EMSGSIZE")
    add("no-device", "no device at all", Checkpoint(), "EPROTO")
    add("tail", "a byte behind the records", body(tail=b"\0"), "EPROTO")
    add("about-twice", "a field of the first record that stands there twice",
        body(about=field(2, bytes(8)) * 2), "EPROTO")
    add("about-short", "a generation of 4 bytes", body(about=field(2, bytes(4))), "EPROTO")
    add("about-cut", "a record that ends within a field", body(about=b"\1\0\x08\0"), "EPROTO")
    add("note-long", "a note of 4097 bytes", body(about=field(3, bytes(4097))), "EMSGSIZE")
    device = lambda **more: Checkpoint().device(b"net0", one(), **more)
    for number in range(1, 7):
        add(f"without-{number}", f"field {number} is missing", device(without=(number,)), "EPROTO")
    for name, about, more in [
        ("name-empty", "an empty name", {"f1": b""}),
        ("name-long", "a name of 64 bytes", {"f1": b"n" * 64}),
        ("name-control", "a control character", {"f1": b"net\n"}),
        ("name-utf8", "a name that is not UTF-8", {"f1": b"\xff"}),
        ("device-short", "a number of 2 bytes", {"f2": bytes(2)}),
        ("id-short", "a migration id of 8 bytes", {"f3": bytes(8)}),
        ("pieces-none", "no pieces", {"f4": b""}),
        ("pieces-odd", "half a piece", {"f4": bytes(8)}),
        ("pieces-many", "65 pieces", {"f4": struct.pack("<QQ", 4096, 1) * 65}),
        ("piece-empty", "a piece of no bytes", {"f4": struct.pack("<QQ", 4096, 0)}),
        ("piece-head", "a piece within the head", {"f4": struct.pack("<QQ", 63, 100)}),
        ("piece-outside", "a piece that reaches into the manifest",
         {"f4": struct.pack("<QQ", 4096, 200)}),
        ("piece-wrap", "a piece that wraps around", {"f4": struct.pack("<QQ", 4096, (1 << 64) - 1)}),
        ("piece-overlap", "pieces that overlap",
         {"f4": struct.pack("<QQQQ", 4096, 100, 4195, 1)}),
        ("end-short", "totals of 24 bytes", {"f5": bytes(24)}),
        ("end-reserved", "a reserved field of the totals", {"f5": bytes(31) + b"\1"}),
        ("identity-bad", "an identity that breaks the rules", {"f6": field(1, b"")}),
        ("identity-long", "an identity of 4097 bytes", {"f6": field(99, bytes(4093))}),
    ]:
        add(name, about, device(**more), "EPROTO")
    add("name-longest", "the longest name", Checkpoint().device(b"n" * 63, one()),
        [dict(net0, name="n" * 63)])
    add("name-twice", "a name twice", plain().device(b"net0", two()), "EPROTO")
    add("stream-twice", "a stream twice", plain().device(b"net1", one()), "EPROTO")
    shared = plain()
    add("piece-shared", "two devices share a piece",
        shared.device(b"gpu", two(), pieces=[(4096, 10)]), "EPROTO")
    return made


def packed(writer):
    """A checkpoint whose one stream follows the head at once."""
    made = Checkpoint()
    made.at = 64
    return made.device(b"net0", writer, pieces=[made.piece(writer.out, align=1)]).end()


def write(directory):
    os.makedirs(directory, exist_ok=True)
    rows, names = [], set()
    for name, about, out, items, result, more in fixtures():
        assert name not in names, name
        names.add(name)
        row = {"file": name + ".bin", "about": about, "migration_id": MIGRATION_ID.hex(),
               "device": 0, "encode": False, "limits": {}, "items": items, "result": result}
        row.update({key: value for key, value in more.items() if value is not None})
        found = read(out, dict(DEFAULT_LIMITS, **row["limits"]), row.get("auth"))
        if found != (items, result):
            sys.exit(f"{name}: the reader here says {found}, written down is {(items, result)}")
        with open(os.path.join(directory, row["file"]), "wb") as file:
            file.write(out)
        rows.append(row)
    identities = []
    for name, about, out, result, encode in exported_fixtures():
        found = read_exported(out)
        if found != result:
            sys.exit(f"{name}: the reader here says {found}, written down is {result}")
        row = {"file": "exported-" + name + ".bin", "about": about, "encode": encode}
        row.update({"identity": result, "result": "END"} if isinstance(result, dict)
                   else {"result": result})
        with open(os.path.join(directory, row["file"]), "wb") as file:
            file.write(out)
        identities.append(row)

    checkpoints = []
    for name, about, out, result, encode, auth in checkpoint_fixtures():
        found = read_checkpoint(out, auth)
        if found != result:
            sys.exit(f"{name}: the reader here says {found}, written down is {result}")
        row = {"file": "checkpoint-" + name + ".bin", "about": about, "encode": encode}
        row.update({"devices": result, "result": "END"} if isinstance(result, list)
                   else {"result": result})
        if auth:
            row["auth"] = auth
        with open(os.path.join(directory, row["file"]), "wb") as file:
            file.write(out)
        checkpoints.append(row)

    def lines(of):
        return ",\n".join(json.dumps(row, ensure_ascii=True) for row in of)
    with open(os.path.join(directory, "manifest.json"), "w", encoding="ascii") as file:
        file.write('{"fixtures": [\n' + lines(rows) + '\n],\n"identities": [\n'
                   + lines(identities) + '\n],\n"checkpoints": [\n' + lines(checkpoints)
                   + "\n]}\n")
    total = sum(len(out) for _, _, out, _, _, _ in fixtures())
    print(f"{len(rows)} fixtures, {total} bytes; {len(identities)} identities, "
          f"{len(checkpoints)} checkpoints")


# ---- reading -----------------------------------------------------------------------------------

class Refused(Exception):
    pass


def check(condition, error):
    if not condition:
        raise Refused(error)


def read_identity(payload):
    found, seen, at = {}, set(), 0
    texts = {1: ("bus", 15), 2: ("driver", 63), 4: ("mdev_type", 63), 5: ("kernel_release", 71),
             9: ("vendor_type", 63), 10: ("driver_version", 63), 11: ("driver_srcversion", 63),
             12: ("firmware", 63)}
    while at < len(payload):
        check(at + 4 <= len(payload), "EPROTO")
        number, length = struct.unpack_from("<HH", payload, at)
        at += 4
        check(at + length <= len(payload), "EPROTO")
        value = payload[at:at + length]
        at += length
        check(number >= 32 or number not in seen, "EPROTO")
        seen.add(number)
        if number in texts:
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError:
                raise Refused("EPROTO") from None
            name, longest = texts[number]
            check(1 <= length <= longest, "EPROTO")
            check(not any(unicodedata.category(c) == "Cc" for c in text), "EPROTO")
            found[name] = text
        elif number == 3:
            check(length == 9, "EPROTO")
            *ids, found["pci_revision"] = struct.unpack("<HHHHB", value)
            found["pci"] = ids
        elif number == 6:
            check(length == 8, "EPROTO")
            found["migration_flags"] = struct.unpack("<Q", value)[0]
        elif number == 7:
            check(length == 8, "EPROTO")
            found["state_size"] = value[::-1].hex()
        elif number == 8:
            check(length <= 256, "EPROTO")
            found["vendor_data"] = value.hex()
        elif number == 13:
            check(length == 4, "EPROTO")
            found["protocol"] = struct.unpack("<I", value)[0]
    return found


def read_exported(data):
    """The identity, or the error's name."""
    try:
        check(len(data) >= 20 and data[:8] == IDENTITY_MAGIC, "EPROTO")
        major, _minor, length, right = struct.unpack("<HHII", data[8:20])
        check(length <= 4096, "EMSGSIZE")
        check(len(data) == 20 + length, "EPROTO")
        check(zlib.crc32(data[:16] + data[20:]) == right, "EBADMSG")
        check(major == 1, "EPROTO")
        return read_identity(data[20:])
    except Refused as refused:
        return str(refused)


def read_fields(data):
    fields, at = {}, 0
    while at < len(data):
        check(at + 4 <= len(data), "EPROTO")
        number, length = struct.unpack_from("<HH", data, at)
        at += 4 + length
        check(at <= len(data), "EPROTO")
        check(number >= 32 or number not in fields, "EPROTO")
        fields[number] = data[at - length:at]
    return fields


def read_checkpoint(data, auth=None):
    """Its devices, or the error's name."""
    try:
        return list(checkpoint_devices(data, auth))
    except Refused as refused:
        return str(refused)


def checkpoint_devices(data, auth):
    head, trailer = data[:64], data[-64:]
    check(len(head) == 64 and head[:8] == CHECKPOINT_MAGIC, "EPROTO")
    check(zlib.crc32(head[:60]) == struct.unpack("<I", head[60:])[0], "EBADMSG")
    major, _minor, required, _optional = struct.unpack("<HHII", head[8:20])
    check(major == 1 and required & ~1 == 0 and not any(head[36:60]), "EPROTO")
    check(len(data) >= 128 and trailer[:8] == TRAILER_MAGIC, "ENODATA")
    check(zlib.crc32(trailer[:60]) == struct.unpack("<I", trailer[60:])[0], "EBADMSG")
    offset, length, ident, right = struct.unpack("<QQ16sI", trailer[8:44])
    check(not any(trailer[44:60]) and ident == head[20:36], "EPROTO")
    check(length <= 8 << 20, "EMSGSIZE")
    check(offset >= 64 and offset + length == len(data) - 64, "EPROTO")
    manifest = data[offset:-64]
    check(zlib.crc32(manifest) == right, "EBADMSG")
    if required & 1:
        check(length >= 48, "EPROTO")
        block = manifest[-48:]
        mark, algorithm, reserved, key_id, more = struct.unpack("<4sHHII", block[:16])
        check(mark == b"VMCa" and algorithm in (1, 2) and not reserved and not more, "EPROTO")
        check(auth and algorithm == 1 and str(key_id) in auth["keys"], "EPERM")
        own = derive_key(MANIFEST_CONTEXT, bytes.fromhex(auth["keys"][str(key_id)]))
        check(keyed_hash(own, head + manifest[:-32]) == block[16:], "EBADMSG")
        manifest = manifest[:-48]
    else:
        check(auth is None or auth.get("allow"), "EPERM")
    records = read_manifest(manifest, offset)
    for fields in records:
        pieces = [struct.unpack_from("<QQ", fields[4], at) for at in range(0, len(fields[4]), 16)]
        stream = b"".join(data[at:at + size] for at, size in pieces)
        items, result = read(stream, DEFAULT_LIMITS, auth)
        device = struct.unpack("<I", fields[2])[0]
        if result == "END":
            at = 168 if stream[12] & 1 else 40
            same = (stream[20:36] == fields[3] and stream[at + 8:at + 12] == fields[2]
                    and stream[-32:] == fields[5] and items[0]["identity"] == read_identity(fields[6]))
            result = "END" if same else "EPROTO"
        yield {"name": fields[1].decode(), "device": device, "migration_id": fields[3].hex(),
               "bytes": struct.unpack("<Q", fields[5][:8])[0], "stream": result,
               "pieces": len(pieces)}


def read_manifest(manifest, end):
    """The fields of each device."""
    at = 0

    def take(length):
        nonlocal at
        check(at + length <= len(manifest), "EPROTO")
        at += length
        return manifest[at - length:at]

    mark, count = struct.unpack("<4sI", take(8))
    check(mark == b"VMCm", "EPROTO")
    check(count <= 1024, "EMSGSIZE")
    about = read_fields(take(struct.unpack("<I", take(4))[0]))
    check(all(len(about.get(number, bytes(8))) == 8 for number in (1, 2)), "EPROTO")
    records = [read_fields(take(struct.unpack("<I", take(4))[0])) for _ in range(count)]
    check(at == len(manifest), "EPROTO")
    for fields in records:
        check(all(number in fields for number in range(1, 7)), "EPROTO")
        check(len(fields[2]) == 4 and len(fields[3]) == 16 and len(fields[5]) == 32, "EPROTO")
        check(fields[5][24:] == bytes(8), "EPROTO")
        check(16 <= len(fields[4]) <= 1024 and len(fields[4]) % 16 == 0, "EPROTO")
        check(len(fields[6]) <= 4096, "EPROTO")
        read_identity(fields[6])
        try:
            name = fields[1].decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("EPROTO") from None
        check(1 <= len(fields[1]) <= 63, "EPROTO")
        check(not any(unicodedata.category(c) == "Cc" for c in name), "EPROTO")
    check(len(about.get(3, b"")) <= 4096, "EMSGSIZE")
    check(records, "EPROTO")
    for numbers in ((1,), (2, 3)):
        named = [tuple(fields[number] for number in numbers) for fields in records]
        check(len(set(named)) == len(named), "EPROTO")
    free = 64
    for offset, length in sorted(struct.unpack_from("<QQ", fields[4], at) for fields in records
                                 for at in range(0, len(fields[4]), 16)):
        check(length >= 1 and offset >= free and offset + length <= end, "EPROTO")
        free = offset + length
    return records


def read(stream, limits, auth=None):
    """Items in order, and "END" or the error's name."""
    items = []
    try:
        for item in read_items(stream, limits, auth):
            items.append(item)
        return items, "END"
    except Refused as refused:
        return items, str(refused)


def read_block(head, block, tag, auth):
    """The stream's own key, and the device's number."""
    migration_id = head[20:36]
    mark, algorithm, flags, key_id, device = struct.unpack("<4sHHII", block[:16])
    challenge, reserved = block[48:80], block[80:92]
    check(mark == b"VMAu", "EPROTO")
    check(zlib.crc32(migration_id + block[:92]) == struct.unpack("<I", block[92:])[0], "EBADMSG")
    check(algorithm in (1, 2) and flags in (0, 1) and not any(reserved), "EPROTO")
    check(flags or not any(challenge), "EPROTO")
    check(algorithm == 1 and str(key_id) in auth["keys"], "EPERM")
    key = stream_key(bytes.fromhex(auth["keys"][str(key_id)]), head + block)
    check(keyed_hash(key, block + head) == tag, "EBADMSG")
    if "challenge" in auth:
        check(flags and challenge.hex() == auth["challenge"], "EXDEV")
    return key, device


def read_items(stream, limits, auth):
    at = 0

    def take(length):
        nonlocal at
        check(at + length <= len(stream), "ENODATA")
        at += length
        return stream[at - length:at]

    head = take(40)
    check(head[:8] == MAGIC, "EPROTO")
    check(zlib.crc32(head[:36]) == struct.unpack("<I", head[36:])[0], "EBADMSG")
    major, _minor, required, _optional = struct.unpack("<HHII", head[8:20])
    check(major == 1, "EPROTO")
    check(required & ~AUTHENTICATED == 0, "EPROTO")
    migration_id = head[20:36]
    key, the_device = None, None
    if required & AUTHENTICATED:
        check(auth is not None, "EPERM")
        block, tag = take(96), take(32)
        key, the_device = read_block(head, block, tag, auth)
    else:
        check(auth is None or auth.get("allow"), "EPERM")

    due, digest, others, restarts, ever = 0, 0, 0, 0, 0
    data_bytes = data_frames = blobs = 0
    generation = count = 0
    while True:
        head = take(32)
        tag = take(32) if key else None
        mark, kind, flags, device, length, sequence, payload_check, header_check = struct.unpack(
            "<4sHHIIQII", head)
        check(mark == MARK, "EPROTO")
        check(zlib.crc32(migration_id + head[:28]) == header_check, "EBADMSG")
        check(sequence == due, "EPROTO")
        check((sequence == 0) == (kind == IDENTITY), "EPROTO")
        the_device = device if the_device is None else the_device
        check(device == the_device, "EPROTO")
        known = IDENTITY <= kind <= END
        check(flags & ~(0 if known else OPTIONAL) == 0, "EPROTO")
        if kind != DATA:
            others += 1
            check(others <= 65536, "EMSGSIZE")
        if kind == IDENTITY:
            check(length <= 4096, "EMSGSIZE")
        elif kind == DATA:
            check(length >= 1, "EPROTO")
            check(length <= limits["max_frame"], "EMSGSIZE")
        elif kind in (INITIAL, RESTART):
            check(length == 8, "EPROTO")
        elif kind == BLOB:
            check(length >= 8, "EPROTO")
            check(length - 8 <= limits["max_blob"], "EMSGSIZE")
            check(blobs < limits["max_blobs"], "EMSGSIZE")
        elif kind == END:
            check(length == 32, "EPROTO")
        else:
            check(flags & OPTIONAL, "EPROTO")
            check(length <= limits["max_frame"], "EMSGSIZE")
        if kind == DATA or not known:
            ever += length
            check(ever <= limits["max_total"], "EMSGSIZE")
        if kind == RESTART:
            restarts += 1
            check(restarts <= limits["max_restarts"], "EMSGSIZE")
        payload = take(length)
        check((0 if key else zlib.crc32(payload)) == payload_check, "EBADMSG")
        check(not key or keyed_hash(key, payload + head) == tag, "EBADMSG")
        if kind != END:
            digest = zlib.crc32(head[:28], digest)
        due += 1
        if kind == IDENTITY:
            yield {"identity": read_identity(payload)}
        elif kind == DATA:
            data_bytes, data_frames = data_bytes + length, data_frames + 1
            yield d(payload)
        elif kind == INITIAL:
            before = generation
            generation, reserved = struct.unpack("<II", payload)
            check(reserved == 0 and generation > before, "EPROTO")
            yield i(generation)
        elif kind == BLOB:
            number, reserved = struct.unpack("<II", payload[:8])
            check(reserved == 0, "EPROTO")
            blobs += 1
            yield b(number, payload[8:])
        elif kind == RESTART:
            before = count
            count, reserved = struct.unpack("<II", payload)
            check(reserved == 0 and count > before, "EPROTO")
            data_bytes = data_frames = blobs = 0
            yield R
        elif kind == END:
            totals = struct.unpack("<QQIIQ", payload)
            check(totals == (data_bytes, data_frames, blobs, digest, 0), "EPROTO")
            yield E
            check(at == len(stream), "EPROTO")
            return


def check_file(path, key=None):
    with open(path, "rb") as file:
        auth = {"keys": {"1": key}} if key else None
        items, result = read(file.read(), DEFAULT_LIMITS, auth)
    for item in items:
        print(json.dumps(item))
    print(result)
    return 0 if result == "END" else 1


# ---- the worked example ------------------------------------------------------------------------

def example():
    out = Writer().identity().data(b"state").end().out
    parts = [(8, "magic: 0x89, VFIOMIG"), (2, "major 1"), (2, "minor 0"),
             (4, "required features: none"), (4, "optional features: none"), (16, "migration id"),
             (4, "check: CRC-32 of the 36 bytes before")]

    def header(name, kind, length, sequence):
        return [(4, f"mark VMFr: the {name} frame"), (2, f"type {kind}: {name}"),
                (2, "flags: none"), (4, "device 0"), (4, f"length {length}"),
                (8, f"sequence {sequence}"), (4, "payload check"),
                (4, "header check: CRC-32 of migration id ‖ the 28 bytes before")]

    parts += header("IDENTITY", 1, 19, 0)
    parts += [(2, "field 1: bus"), (2, "3 bytes"), (3, "pci"), (2, "field 6: migration flags"),
              (2, "8 bytes"), (8, "STOP_COPY")]
    parts += header("DATA", 2, 5, 1) + [(5, "state")]
    parts += header("END", 6, 32, 2)
    parts += [(8, "5 bytes of data"), (8, "in 1 DATA frame"), (4, "no blobs"),
              (4, "digest: CRC-32 of bytes 40…67 ‖ 91…118"), (8, "reserved")]
    at = 0
    lines = []
    for size, text in parts:
        rest, first = out[at:at + size], True
        while rest:
            line, rest = rest[:8], rest[8:]
            lines.append(f"{at:5}  {line.hex(' ').upper():23}  {text if first else ''}".rstrip())
            at, first = at + len(line), False
    assert at == len(out)
    return "\n".join(lines)


def main():
    args = sys.argv[1:]
    if args[:1] == ["--check"] and len(args) in (2, 3):
        sys.exit(check_file(*args[1:]))
    if args == ["--example"]:
        print(example())
        return
    if len(args) > 1 or args[:1] and args[0].startswith("-"):
        sys.exit(__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    write(args[0] if args else os.path.join(here, "..", "tests", "fixtures"))


main()
