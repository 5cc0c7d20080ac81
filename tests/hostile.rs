// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile streams, row by row: every field of everything in a stream at its extremes, a cut at each
//! byte, and the ten holes of the loader that most VMMs run today. Whoever makes these has what
//! anybody has: all checksums are right again, unless the row is about one.
//!
//! Each row says which code it leads to. With each goes: nothing of the bad frame has reached the driver,
//! the device is reset, memory stays within what docs/stream-format.md says, and the device takes the
//! next stream.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod counting;

use std::io::Write;
use std::time::Duration;

use common::{Side, check_clean, side};
use vfiomig::Load;
use vfiomig::error::{Code, Errno, Error, Outcome};
use vfiomig::session::{LoadOptions, SaveOptions, SaveStatus};
use vfiomig::stream::{Auth, Format};
use vfiomig_sim::{SimOptions, State, quirk};

/// What becomes of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gets {
    /// This code, as soon as it can be seen.
    Is(Code),
    /// Loaded like any other: the field is the writer's to choose.
    Taken,
    /// A length that is allowed and not true: BADMSG if as much is there, NODATA at the commit if not.
    Damaged,
    /// In an authenticated stream only: there is no such field.
    NoField,
}
use Code::{BadMsg, MsgSize, NoData, Perm, Proto};
use Gets::{Damaged, Is, NoField, Taken};

/// Where a field is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Preamble,
    /// The authentication block and its tag.
    Block,
    /// The header of the last frame of this type.
    Header(u16),
    /// Its tag.
    Tag(u16),
    /// Its payload.
    Payload(u16),
}
use Place::{Block, Header, Payload, Preamble, Tag};

const IDENTITY: u16 = 1;
const DATA: u16 = 2;
const MARK: u16 = 3;
const BLOB: u16 = 4;
const RESTART: u16 = 5;
const END: u16 = 6;

/// A field, and what its values lead to: each from its first value on. Left: a plain stream, right:
/// one that is authenticated.
type Row = (Place, &'static str, usize, usize, &'static [(u64, Gets)], &'static [(u64, Gets)]);

const MAX_FRAME: u64 = 4 << 20;
const MAX_BLOB: u64 = 1 << 20;
const NO: &[(u64, Gets)] = &[(0, NoField)];
const BAD: &[(u64, Gets)] = &[(0, Is(BadMsg))];
const WRONG: &[(u64, Gets)] = &[(0, Is(Proto))];
const ANY: &[(u64, Gets)] = &[(0, Taken)];

#[rustfmt::skip]
const FIELDS: &[Row] = &[
    // place           field              at len  plain                                    authenticated
    (Preamble,         "magic",            0, 8, WRONG,                                    WRONG),
    (Preamble,         "major",            8, 2, WRONG,                                    WRONG),
    (Preamble,         "minor",           10, 2, ANY,                                      BAD),
    (Preamble,         "required",        12, 4, &[(1, Is(Perm)), (2, Is(Proto))],         &[(0, Is(Perm)), (2, Is(Proto))]),
    (Preamble,         "optional",        16, 4, ANY,                                      BAD),
    (Preamble,         "migration id",    20, 8, BAD,                                      BAD),
    (Preamble,         "migration id",    28, 8, BAD,                                      BAD),
    (Preamble,         "check",           36, 4, BAD,                                      BAD),
    (Block,            "mark",             0, 4, NO,                                       WRONG),
    (Block,            "algorithm",        4, 2, NO,                                       &[(0, Is(Proto)), (2, Is(Perm)), (3, Is(Proto))]),
    (Block,            "flags",            6, 2, NO,                                       &[(1, Is(BadMsg)), (2, Is(Proto))]),
    (Block,            "key id",           8, 4, NO,                                       &[(0, Is(Perm)), (2, Is(BadMsg)), (3, Is(Perm))]),
    (Block,            "device",          12, 4, NO,                                       BAD),
    (Block,            "nonce",           16, 8, NO,                                       BAD),
    (Block,            "nonce",           40, 8, NO,                                       BAD),
    (Block,            "challenge",       48, 8, NO,                                       WRONG),
    (Block,            "reserved",        80, 8, NO,                                       WRONG),
    (Block,            "check",           92, 4, NO,                                       BAD),
    (Block,            "tag",             96, 8, NO,                                       BAD),
    (Block,            "tag",            120, 8, NO,                                       BAD),
    (Header(IDENTITY), "mark",             0, 4, WRONG,                                    WRONG),
    (Header(IDENTITY), "type",             4, 2, WRONG,                                    WRONG),
    (Header(IDENTITY), "flags",            6, 2, WRONG,                                    WRONG),
    (Header(IDENTITY), "device",           8, 4, WRONG,                                    WRONG),
    (Header(IDENTITY), "length",          12, 4, &[(0, Damaged), (4097, Is(MsgSize))],     &[(0, Damaged), (4097, Is(MsgSize))]),
    (Header(IDENTITY), "sequence",        16, 8, WRONG,                                    WRONG),
    (Header(IDENTITY), "payload check",   24, 4, BAD,                                      BAD),
    (Header(IDENTITY), "header check",    28, 4, BAD,                                      BAD),
    (Tag(IDENTITY),    "tag",              0, 8, NO,                                       BAD),
    (Payload(IDENTITY), "field's length",  2, 2, WRONG,                                    BAD),
    (Header(DATA),     "mark",             0, 4, WRONG,                                    WRONG),
    (Header(DATA),     "type",             4, 2, WRONG,                                    WRONG),
    (Header(DATA),     "flags",            6, 2, WRONG,                                    WRONG),
    (Header(DATA),     "device",           8, 4, WRONG,                                    WRONG),
    (Header(DATA),     "length",          12, 4, &[(0, Is(Proto)), (1, Damaged), (MAX_FRAME + 1, Is(MsgSize))],
                                                 &[(0, Is(Proto)), (1, Damaged), (MAX_FRAME + 1, Is(MsgSize))]),
    (Header(DATA),     "sequence",        16, 8, WRONG,                                    WRONG),
    (Header(DATA),     "payload check",   24, 4, BAD,                                      BAD),
    (Header(DATA),     "header check",    28, 4, BAD,                                      BAD),
    (Tag(DATA),        "tag",              0, 8, NO,                                       BAD),
    (Tag(DATA),        "tag",             24, 8, NO,                                       BAD),
    (Header(MARK),     "flags",            6, 2, WRONG,                                    WRONG),
    (Header(MARK),     "length",          12, 4, WRONG,                                    WRONG),
    (Header(MARK),     "sequence",        16, 8, WRONG,                                    WRONG),
    (Payload(MARK),    "generation",       0, 4, &[(0, Is(Proto)), (2, Taken)],            BAD),
    (Payload(MARK),    "reserved",         4, 4, WRONG,                                    BAD),
    (Header(BLOB),     "flags",            6, 2, WRONG,                                    WRONG),
    (Header(BLOB),     "length",          12, 4, &[(0, Is(Proto)), (8, Damaged), (MAX_BLOB + 9, Is(MsgSize))],
                                                 &[(0, Is(Proto)), (8, Damaged), (MAX_BLOB + 9, Is(MsgSize))]),
    (Header(BLOB),     "sequence",        16, 8, WRONG,                                    WRONG),
    (Payload(BLOB),    "kind",             0, 4, ANY,                                      BAD),
    (Payload(BLOB),    "reserved",         4, 4, WRONG,                                    BAD),
    (Header(RESTART),  "length",          12, 4, WRONG,                                    WRONG),
    (Header(RESTART),  "sequence",        16, 8, WRONG,                                    WRONG),
    (Payload(RESTART), "count",            0, 4, &[(0, Is(Proto)), (1, Taken)],            BAD),
    (Payload(RESTART), "reserved",         4, 4, WRONG,                                    BAD),
    (Header(END),      "flags",            6, 2, WRONG,                                    WRONG),
    (Header(END),      "length",          12, 4, WRONG,                                    WRONG),
    (Header(END),      "sequence",        16, 8, WRONG,                                    WRONG),
    (Payload(END),     "bytes of data",    0, 8, WRONG,                                    BAD),
    (Payload(END),     "DATA frames",      8, 8, WRONG,                                    BAD),
    (Payload(END),     "blobs",           16, 4, WRONG,                                    BAD),
    (Payload(END),     "digest",          20, 4, WRONG,                                    BAD),
    (Payload(END),     "reserved",        24, 8, WRONG,                                    BAD),
];

/// The numbers at which something changes in computers, as far as they fit.
fn extremes(len: usize, rules: &[(u64, Gets)]) -> Vec<u64> {
    let most = if len == 8 { u64::MAX } else { (1 << (8 * len)) - 1 };
    let mut all: Vec<u64> = [7, 8, 15, 16, 31, 32, 62, 63]
        .iter()
        .flat_map(|bit| [(1u64 << bit) - 1, 1 << bit])
        .chain([0, 1, 2, most - 1, most])
        .chain(rules.iter().flat_map(|(from, _)| [from.saturating_sub(1), *from, from + 1]))
        .filter(|value| *value <= most)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn verdict(rules: &[(u64, Gets)], value: u64) -> Gets {
    let rule = rules.iter().rev().find(|(from, _)| *from <= value);
    rule.or(rules.first()).unwrap().1
}

// --- streams ---------------------------------------------------------------------------------------

#[derive(Clone)]
struct Frame {
    head: Vec<u8>,
    tag: Vec<u8>,
    payload: Vec<u8>,
}

impl Frame {
    fn kind(&self) -> u16 {
        u16::from_le_bytes([self.head[4], self.head[5]])
    }
}

/// A native stream in its parts.
#[derive(Clone)]
struct Stream {
    preamble: Vec<u8>,
    block: Vec<u8>,
    frames: Vec<Frame>,
}

fn put_crc(bytes: &mut [u8], at: usize, parts: &[&[u8]]) {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    bytes[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

impl Stream {
    fn parse(bytes: &[u8], authenticated: bool) -> Stream {
        let (preamble, rest) = bytes.split_at(40);
        let (block, mut rest) = rest.split_at(if authenticated { 128 } else { 0 });
        let mut frames = vec![];
        while !rest.is_empty() {
            let (head, behind) = rest.split_at(32);
            let (tag, behind) = behind.split_at(if authenticated { 32 } else { 0 });
            let len = u32::from_le_bytes(head[12..16].try_into().unwrap());
            let (payload, behind) = behind.split_at(len as usize);
            let [head, tag, payload] = [head, tag, payload].map(<[u8]>::to_vec);
            frames.push(Frame { head, tag, payload });
            rest = behind;
        }
        Stream { preamble: preamble.to_vec(), block: block.to_vec(), frames }
    }

    /// The number of the frame that a place is in; the first for what comes before.
    fn frame(&self, place: Place) -> usize {
        let kind = match place {
            Preamble | Block => return 0,
            Header(kind) | Tag(kind) | Payload(kind) => kind,
        };
        self.frames.iter().rposition(|frame| frame.kind() == kind).unwrap()
    }

    fn place(&mut self, place: Place) -> &mut [u8] {
        let at = self.frame(place);
        match place {
            Preamble => &mut self.preamble,
            Block => &mut self.block,
            Header(_) => &mut self.frames[at].head,
            Tag(_) => &mut self.frames[at].tag,
            Payload(_) => &mut self.frames[at].payload,
        }
    }

    /// All checks are right again, as far as they can be without a key.
    fn seal(&mut self, but: Place, changed: usize, field: &str) {
        let keep = |place: Place, check: &str| but == place && field == check;
        let id = self.preamble[20..36].to_vec();
        if !keep(Preamble, "check") {
            let (front, _) = self.preamble.split_at(36);
            let front = front.to_vec();
            put_crc(&mut self.preamble, 36, &[&front]);
        }
        // Who splices frames into another stream cannot make their headers again.
        if keep(Preamble, "migration id") {
            return;
        }
        let authenticated = !self.block.is_empty();
        if authenticated && !keep(Block, "check") {
            let front = self.block[..92].to_vec();
            put_crc(&mut self.block, 92, &[&id, &front]);
        }
        let mut digest = crc32fast::Hasher::new();
        for (at, frame) in self.frames.iter_mut().enumerate() {
            let here = at == changed && matches!(but, Header(_));
            let keeps_digest = at == changed && field == "digest";
            if frame.kind() == END && !keeps_digest && !authenticated {
                frame.payload[20..24].copy_from_slice(&digest.clone().finalize().to_le_bytes());
            }
            let keeps_payload_check = here && field == "payload check";
            if !(authenticated || keeps_payload_check) {
                let payload = frame.payload.clone();
                put_crc(&mut frame.head, 24, &[&payload]);
            }
            if !(here && field == "header check") {
                let front = frame.head[..28].to_vec();
                put_crc(&mut frame.head, 28, &[&id, &front]);
            }
            digest.update(&frame.head[..28]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let frames = self.frames.iter().flat_map(|f| [&f.head[..], &f.tag, &f.payload].concat());
        [&self.preamble[..], &self.block].concat().into_iter().chain(frames).collect()
    }

    /// Device data in the frames before this one, in bytes.
    fn data_before(&self, frame: usize) -> u64 {
        let data = self.frames[..frame].iter().filter(|frame| frame.kind() == DATA);
        data.map(|frame| frame.payload.len() as u64).sum()
    }
}

fn keys(id: u32, key: &mut [u8; 32]) -> Result<(), Errno> {
    match id {
        1 | 2 => *key = [id as u8; 32],
        _ => return Err(Errno(libc::ENOKEY)),
    }
    Ok(())
}

fn small(seed: u64) -> SimOptions {
    SimOptions { seed, state_size: 700, ..SimOptions::default() }
}

/// A stream with a frame of each type, and the contents of its device.
fn native(authenticated: bool) -> (Stream, u64) {
    let source = side(small(1));
    let auth = authenticated.then(|| Auth::with_keys(1, keys));
    let options = SaveOptions { max_frame: 200, auth, ..SaveOptions::default() };
    let mut save = source.device.save(options).unwrap();
    let (mut buf, mut bytes, mut drained) = (vec![0; 8192], vec![], 0);
    loop {
        let next = save.next(&mut buf).unwrap();
        bytes.extend_from_slice(&buf[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::End => break,
            SaveStatus::Drained => drained += 1,
        }
        match (next.status, drained) {
            (SaveStatus::Drained, 1) => {
                source.sim.guest_reset();
                source.device.was_reset().unwrap();
                source.sim.guest_write(9, 99, 9).unwrap();
            }
            (SaveStatus::Drained, _) => {
                save.blob(5, b"the VMM's own").unwrap();
                save.stop().unwrap();
            }
            _ => {}
        }
    }
    (Stream::parse(&bytes, authenticated), source.sim.digest())
}

fn options(format: Format, authenticated: bool) -> LoadOptions {
    LoadOptions {
        format,
        blobs: Some(Box::new(|_, _| Ok(()))),
        write_timeout: Duration::from_millis(20),
        auth: authenticated.then(|| Auth::with_keys(1, keys)),
        ..LoadOptions::default()
    }
}

// --- what a target does with them --------------------------------------------------------------------

/// What docs/stream-format.md says a reader needs: twice what has come, and the buffer to receive into.
fn memory_for(came: usize) -> usize {
    2 * came + (512 << 10) + (64 << 10)
}

/// A target, and what the rows so far have come to.
struct Target {
    side: Side,
    empty: u64,
    /// What a stream that is taken makes of it.
    full: u64,
    rows: usize,
    failed: Vec<String>,
}

impl Target {
    fn new(options: SimOptions, full: u64) -> Target {
        let side = side(options);
        let empty = side.sim.digest();
        Target { side, empty, full, rows: 0, failed: vec![] }
    }

    /// One row. `given` is what the driver may have been given, in bytes.
    fn row(
        &mut self,
        name: &str,
        expected: Gets,
        given: u64,
        options: LoadOptions,
        feed: impl Fn(&mut Load) -> Result<usize, Error>,
    ) {
        self.rows += 1;
        let sim = &self.side.sim;
        let before = sim.bytes_written();
        let mut came = 0;
        let mut load = None;
        let (result, held) = counting::cost(|| {
            let load = load.insert(self.side.device.load(options)?);
            came = feed(load)?;
            load.commit()
        });
        let got = result.as_ref().err().map(Error::code);
        let wanted = match expected {
            Is(code) => Some(code),
            _ => None,
        };
        let mut wrong = vec![];
        let mut check = |good: bool, what: &str| wrong.extend((!good).then(|| what.to_owned()));
        check(got == wanted, &format!("got {got:?}, not {wanted:?}: {result:?}"));
        let written = sim.bytes_written() - before;
        check(written == given, &format!("the driver has {written} bytes, not {given}"));
        check(held <= memory_for(came.max(8192)), &format!("{held} bytes of memory"));
        if let Err(error) = &result {
            let outcome = error.failure().map(|failure| failure.outcome);
            check(outcome == Some(Outcome::Reset), &format!("{outcome:?}"));
            let state = (sim.state(), sim.digest());
            check(state == (State::RUNNING, self.empty), "the device was not reset");
            // It is over: nothing more is taken.
            let more = load.as_mut().map(|load| load.push(b"more").is_err());
            check(more != Some(false), "more was taken after an error");
        } else {
            let state = (sim.state(), sim.digest());
            check(state == (State::STOP, self.full), "it is not what was saved");
        }
        drop(load);
        if !wrong.is_empty() {
            self.failed.push(format!("{name}: {}", wrong.join("; ")));
        }
        check_clean(&self.side);
        if sim.state() != State::RUNNING {
            self.side.device.reset().unwrap();
        }
    }

    /// The line for people; fails if a row did.
    fn close(self, what: &str) {
        let Target { rows, failed, .. } = self;
        let good = rows - failed.len();
        let line = format!("hostile: {good} of {rows} rows, {what}, {} failed", failed.len());
        std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
        assert!(failed.is_empty() && rows > 10, "{}", failed.join("\n"));
    }
}

/// Pushes in pieces of this length.
fn push(load: &mut Load, bytes: &[u8], step: usize) -> Result<usize, Error> {
    bytes.chunks(step).try_for_each(|piece| load.push(piece).map(drop))?;
    Ok(bytes.len())
}

fn fields(authenticated: bool) {
    let (good, digest) = native(authenticated);
    let mut target = Target::new(small(2), digest);
    for &(place, field, at, len, plain, tagged) in FIELDS {
        let rules = if authenticated { tagged } else { plain };
        if rules == NO {
            continue;
        }
        for value in extremes(len, rules) {
            let mut bad = good.clone();
            let frame = bad.frame(place);
            let slot = &mut bad.place(place)[at..at + len];
            if slot == &value.to_le_bytes()[..len] {
                continue;
            }
            slot.copy_from_slice(&value.to_le_bytes()[..len]);
            bad.seal(place, frame, field);
            let bytes = bad.bytes();
            let gets = match verdict(rules, value) {
                Damaged => {
                    let before = good.bytes().len() - behind(&good, frame);
                    let there = value <= (bytes.len() - before) as u64;
                    Is(if there { BadMsg } else { NoData })
                }
                other => other,
            };
            let given = good.data_before(if gets == Taken { good.frames.len() } else { frame });
            for step in [bytes.len(), 37, 1] {
                let name = format!("{place:?} {field} = {value:#x}, pieces of {step}");
                let options = options(Format::Native, authenticated);
                target.row(&name, gets, given, options, |load| push(load, &bytes, step));
            }
        }
    }
    target.row(
        "unchanged",
        Taken,
        good.data_before(good.frames.len()),
        options(Format::Native, authenticated),
        |load| push(load, &good.bytes(), 100),
    );
    target.close(if authenticated { "fields of an authenticated stream" } else { "fields" });
}

/// Bytes of the stream from this frame's payload on.
fn behind(stream: &Stream, frame: usize) -> usize {
    let later = stream.frames[frame + 1..].iter();
    let later: usize = later.map(|f| f.head.len() + f.tag.len() + f.payload.len()).sum();
    later + stream.frames[frame].payload.len()
}

#[test]
fn every_field_at_its_extremes() {
    fields(false);
}

#[test]
fn every_field_of_an_authenticated_stream_at_its_extremes() {
    fields(true);
}

#[test]
fn a_cut_at_every_byte() {
    for authenticated in [false, true] {
        let (good, digest) = native(authenticated);
        let bytes = good.bytes();
        let mut target = Target::new(small(2), digest);
        for cut in 0..bytes.len() {
            // Whole frames before the cut.
            let whole =
                (0..good.frames.len()).rev().find(|at| bytes.len() - behind(&good, *at) <= cut);
            let whole = whole.map_or(0, |at| {
                let ends = bytes.len() - behind(&good, at) + good.frames[at].payload.len();
                at + usize::from(ends <= cut)
            });
            let given = good.data_before(whole);
            let options = options(Format::Native, authenticated);
            let name = format!("cut at {cut}");
            target.row(&name, Is(NoData), given, options, |load| push(load, &bytes[..cut], 1000));
        }
        target.close(if authenticated { "cuts of an authenticated stream" } else { "cuts" });
    }
}

// --- QEMU's format -----------------------------------------------------------------------------------

const SETUP: u64 = 0xffff_ffff_ef10_0003;
const DATA_TAG: u64 = 0xffff_ffff_ef10_0004;
const CONFIG: u64 = 0xffff_ffff_ef10_0002;
const END_TAG: u64 = 0xffff_ffff_ef10_0001;

/// A main channel: words of 64 bits, and data.
#[derive(Clone)]
enum Word {
    Number(&'static str, u64),
    Data(Vec<u8>),
    /// The VMM's own part: it reads this itself.
    Own,
}
use Word::{Data, Number, Own};

fn qemu() -> (Vec<Word>, u64) {
    let source = side(small(1));
    let options = SaveOptions { format: Format::Qemu, max_frame: 300, ..SaveOptions::default() };
    let mut save = source.device.save(options).unwrap();
    let (mut buf, mut state) = (vec![0; 8192], vec![]);
    let mut stopped = false;
    // The state as it is, without its framing: that is made here.
    loop {
        let next = save.next(&mut buf).unwrap();
        let mut rest = &buf[..next.len];
        while rest.len() >= 8 {
            let word = u64::from_be_bytes(rest[..8].try_into().unwrap());
            rest = &rest[8..];
            if word == DATA_TAG {
                let len = u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize;
                state.push(rest[8..8 + len].to_vec());
                rest = &rest[8 + len..];
            }
        }
        match next.status {
            SaveStatus::Drained if stopped => break,
            SaveStatus::Drained => {
                save.stop().unwrap();
                stopped = true;
            }
            _ => {}
        }
    }
    let mut words = vec![Number("setup", SETUP), Number("end of setup", END_TAG)];
    for piece in state {
        words.extend([Number("data", DATA_TAG), Number("length", piece.len() as u64), Data(piece)]);
        words.push(Number("end of data", END_TAG));
    }
    words.extend([Number("config", CONFIG), Own, Number("end of config", END_TAG)]);
    (words, source.sim.digest())
}

/// Receives into the library's memory, as a VMM does, for which the bytes of others stay in its stream.
fn receive(load: &mut Load, words: &[Word], cut: usize) -> Result<usize, Error> {
    let mut came = 0;
    for word in words {
        let bytes = match word {
            Number(_, number) => number.to_be_bytes().to_vec(),
            Data(bytes) => bytes.clone(),
            Own => continue,
        };
        let mut rest = &bytes[..bytes.len().min(cut - came)];
        came += rest.len();
        while !rest.is_empty() {
            let room = load.space()?;
            let len = room.len().min(rest.len());
            room[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            load.received(len)?;
        }
    }
    Ok(came)
}

/// Data before this word, in bytes.
fn data_before(words: &[Word], at: usize) -> u64 {
    words[..at].iter().map(|word| if let Data(data) = word { data.len() as u64 } else { 0 }).sum()
}

#[test]
fn every_word_of_qemus_format_at_its_extremes() {
    const MAX_TOTAL: u64 = 1 << 40;
    let (good, digest) = qemu();
    let mut target = Target::new(small(2), digest);
    for (at, word) in good.iter().enumerate() {
        let Number(name, number) = word else { continue };
        // A length that is allowed is cut off behind it: what follows would be data.
        let left = MAX_TOTAL - data_before(&good, at);
        let lengths = [(0, Is(Proto)), (1, Is(NoData)), (left + 1, Is(MsgSize))];
        let is_length = *name == "length";
        let rules: &[(u64, Gets)] = if is_length { &lengths } else { WRONG };
        let near = [number - 1, number + 100, number ^ 1 << 63];
        for value in extremes(8, rules).into_iter().chain(near) {
            if value == *number {
                continue;
            }
            let mut bad = good.clone();
            bad[at] = Number(name, value);
            if is_length {
                bad.truncate(at + 1);
            }
            // Those of QEMU's tags that may stand there instead.
            let gets = verdict(rules, value);
            let fits = (*name == "end of data" && value == DATA_TAG)
                || (SETUP..=SETUP + 3).contains(&value)
                || (END_TAG - 1..SETUP).contains(&value) && value != END_TAG - 1;
            if !is_length && fits {
                continue;
            }
            let given = data_before(&good, at);
            let name = format!("{name} ({at}) = {value:#x}");
            target.row(&name, gets, given, options(Format::Qemu, false), |load| {
                receive(load, &bad, usize::MAX)
            });
        }
    }
    let len: usize =
        good.iter().map(|word| if let Data(data) = word { data.len() } else { 8 }).sum();
    let len = len - 8;
    for cut in 0..len {
        // Data is passed on as it comes: the format has nothing to verify it with.
        let mut at = 0;
        let mut given = 0;
        for word in &good {
            match word {
                Number(..) => at += 8,
                Data(data) => {
                    given += data.len().min(cut.saturating_sub(at)) as u64;
                    at += data.len();
                }
                Own => {}
            }
        }
        let options = options(Format::Qemu, false);
        let name = format!("cut at {cut}");
        target.row(&name, Is(NoData), given, options, |load| receive(load, &good, cut));
    }
    target.close("words and cuts of QEMU's main channel");
}

// --- packets, and the ten holes ------------------------------------------------------------------------

fn packet(version: u32, idx: u32, flags: u32, bytes: &[u8]) -> Vec<u8> {
    [&[version, idx, flags].map(u32::to_be_bytes).concat(), bytes].concat()
}

fn config(before: u64, after: u64) -> Vec<u8> {
    [&before.to_be_bytes()[..], b"own", &after.to_be_bytes()].concat()
}

/// Packets in order, the configuration last.
fn packets(words: &[Word]) -> Vec<Vec<u8>> {
    let data =
        words.iter().filter_map(|word| if let Data(data) = word { Some(data) } else { None });
    let mut all: Vec<_> = (0..).zip(data).map(|(idx, data)| packet(0, idx, 0, data)).collect();
    all.push(packet(0, all.len() as u32, 1, &config(CONFIG, END_TAG)));
    all
}

const BEGIN: &[Word] = &[Number("setup", SETUP), Number("end of setup", END_TAG)];

/// Brings packets in this order, when the main channel has come so far.
fn bring(load: &mut Load, main: &[Word], all: &[Vec<u8>]) -> Result<usize, Error> {
    let came = receive(load, main, usize::MAX)?;
    let packets = load.packets().unwrap();
    all.iter().try_for_each(|packet| packets.submit(packet))?;
    packets.run()?;
    Ok(came + all.iter().map(Vec::len).sum::<usize>())
}

#[test]
fn every_field_of_a_packet_at_its_extremes() {
    const AHEAD: u64 = 1 << 20;
    let (words, digest) = qemu();
    let good = packets(&words);
    let (last, idx) = (good.len() - 1, (good.len() - 1) as u32);
    let mut target = Target::new(small(2), digest);
    let mut row = |name: &str, gets: Gets, given: u64, all: &[Vec<u8>]| {
        let options = options(Format::QemuPackets, false);
        target.row(name, gets, given, options, |load| bring(load, BEGIN, all));
    };
    let all = data_before(&words, words.len());
    row("in order", Taken, all, &good);
    row("the other way round", Taken, all, &good.iter().rev().cloned().collect::<Vec<_>>());
    // Each comes before the others: what is wrong with it shows by itself, or by what follows.
    let mut with = |name: &str, bad: Vec<u8>, gets: Gets| {
        row(name, gets, 0, &[&[bad], &good[1..]].concat());
    };
    let first = good[0][12..].to_vec();
    for value in extremes(4, &[]).into_iter().map(|value| value as u32).filter(|value| *value > 0) {
        with(&format!("version {value:#x}"), packet(value, 0, 0, &first), Is(Proto));
        // 1 says that a configuration comes, between tags.
        with(&format!("flags {value:#x}"), packet(0, 0, value, &first), Is(Proto));
    }
    for value in extremes(4, &[(1, Is(Proto)), (AHEAD + 1, Is(MsgSize))]) {
        let gets = if value <= AHEAD { Is(Proto) } else { Is(MsgSize) };
        if value > 0 {
            with(&format!("index {value:#x}"), packet(0, value as u32, 0, &first), gets);
        }
    }
    for cut in 0..=12 {
        with(&format!("cut at {cut}"), good[0][..cut].to_vec(), Is(Proto));
    }
    for value in extremes(8, &[]) {
        for wrong in [config(value, END_TAG), config(CONFIG, value)] {
            let all = [vec![packet(0, idx, 1, &wrong)], good[..last].to_vec()].concat();
            row(&format!("configuration's tag {value:#x}"), Is(Proto), 0, &all);
        }
    }
    for cut in 0..good[last].len() - 1 {
        let all = [vec![good[last][..cut].to_vec()], good[..last].to_vec()].concat();
        row(&format!("configuration cut at {cut}"), Is(Proto), 0, &all);
    }
    target.close("fields and cuts of QEMU's packets");
}

/// What QEMU's own loader does not check: it trusts its source.
#[test]
fn the_ten_holes() {
    let (words, digest) = qemu();
    let good = packets(&words);
    let last = (good.len() - 1) as u32;
    let (begin, tags) = (|| BEGIN.to_vec(), config(CONFIG, END_TAG));
    let piece =
        |len: u64| [begin(), vec![Number("data", DATA_TAG), Number("length", len)]].concat();
    let mut target = Target::new(small(2), digest);
    let mut main = |name: &str, gets: Gets, words: &[Word]| {
        let given = if gets == Is(NoData) { data_before(words, words.len()) } else { 0 };
        let options = options(Format::Qemu, false);
        target.row(name, gets, given, options, |load| receive(load, words, usize::MAX));
    };
    main("1: a piece of 4 GiB is announced", Is(NoData), &piece(u32::MAX.into()));
    main("5: SETUP twice", Is(Proto), &[begin(), begin()].concat());
    main("5: data before SETUP", Is(Proto), &piece(9)[2..]);
    main("6: cut between two sections", Is(NoData), &words[..words.len() - 3]);
    main("7: a piece of more than any device has", Is(MsgSize), &piece((1 << 40) + 1));
    main("7: a piece of 2^64 - 1", Is(MsgSize), &piece(u64::MAX));

    let mut some = |name: &str, gets: Gets, main: &[Word], all: &[Vec<u8>]| {
        let options = LoadOptions { max_queued: 100_000, ..options(Format::QemuPackets, false) };
        target.row(name, gets, 0, options, |load| bring(load, main, all));
    };
    let one = |idx: u32, flags: u32, bytes: &[u8]| vec![packet(0, idx, flags, bytes)];
    let config_at = |idx: u32| one(idx, 1, &tags);
    some("2: index 2^32 - 2", Is(MsgSize), BEGIN, &one(u32::MAX - 1, 0, b"x"));
    some("2: the configuration at index 2^32 - 2", Is(MsgSize), BEGIN, &config_at(u32::MAX - 1));
    some("3: a packet without data", Is(Proto), BEGIN, &one(1, 0, b""));
    let many: Vec<_> = (1..2000).map(|idx| packet(0, idx, 0, b"x")).collect();
    some("3: many small packets, and the first one never", Is(Code::TimedOut), BEGIN, &many);
    let twice = [config_at(last), config_at(last + 1)].concat();
    some("4: two configurations", Is(Proto), BEGIN, &twice);
    let lower = [config_at(last), config_at(last - 1)].concat();
    some("4: a second configuration before the first", Is(Proto), BEGIN, &lower);
    let behind = [config_at(1), one(2, 0, b"x")].concat();
    some("4: data behind the configuration", Is(Proto), BEGIN, &behind);
    let config = [BEGIN, &words[words.len() - 3..]].concat();
    some("5: the configuration on the main channel", Is(Proto), &config, &[]);
    let options_of = || options(Format::QemuPackets, false);
    let all = data_before(&words, words.len());
    target.row(
        "5: data on the main channel while packets are loaded",
        Is(Proto),
        all,
        options_of(),
        |load| {
            bring(load, BEGIN, &good)?;
            receive(load, &words[2..], usize::MAX)
        },
    );
    target.close("the ten holes");
    the_holes_that_drivers_make(&words, digest);
    the_holes_that_nothing_in_the_stream_shows();
}

/// 7, 9 and 10: a driver that takes nothing, signals, and a reset that fails.
fn the_holes_that_drivers_make(words: &[Word], digest: u64) {
    let with = |quirks, eintr_every| SimOptions { quirks, eintr_every, ..small(2) };
    let mut takes_nothing = Target::new(with(quirk::WRITE_ZERO, 0), digest);
    let feed = |load: &mut Load| receive(load, words, usize::MAX);
    let options_of = || options(Format::Qemu, false);
    takes_nothing.row("7: a driver that takes nothing", Is(Code::Io), 0, options_of(), feed);
    assert_eq!(takes_nothing.failed, [""; 0]);
    let mut signals = Target::new(with(0, 2), digest);
    let all = data_before(words, words.len());
    signals.row("9: signals at every second write", Taken, all, options_of(), feed);
    assert_eq!(signals.failed, [""; 0]);
    let stuck = side(with(quirk::NO_RESET, 0));
    let mut load = stuck.device.load(options_of()).unwrap();
    receive(&mut load, BEGIN, usize::MAX).unwrap();
    let error = receive(&mut load, BEGIN, usize::MAX).unwrap_err();
    assert_eq!(error.code(), Proto, "10: a device that cannot be reset");
    assert_eq!(error.failure().unwrap().outcome, Outcome::Lost);
    drop(load);
    check_clean(&stuck);
}

/// 8: whose state it is.
fn the_holes_that_nothing_in_the_stream_shows() {
    let target = side(SimOptions { driver: "another".into(), ..small(2) });
    // QEMU's format cannot say it, so a load that asks is refused before the device is touched.
    let policy = vfiomig::compat::Policy::default().deciding(Box::new(|_, _| Ok(()))).unwrap();
    let asks = LoadOptions { policy, ..options(Format::Qemu, false) };
    assert_eq!(target.device.load(asks).err().unwrap().code(), Code::Inval);
    assert_eq!(target.sim.count(vfiomig_sim::Op::SetState), 0);
    let (good, _) = native(false);
    let mut load = target.device.load(options(Format::Native, false)).unwrap();
    assert_eq!(load.push(&good.bytes()).unwrap_err().code(), Code::OtherDevice);
    assert_eq!(target.sim.bytes_written(), 0);
    drop(load);
    check_clean(&target);
}
