# SPDX-License-Identifier: MIT OR Apache-2.0
"""BLAKE3 in plain Python, from the public specification: for make-fixtures.py, which must share
nothing with the library. Slow, and for nothing else.

  plain_hash(data), keyed_hash(key, data), derive_key(context, material): 32 bytes each
"""

import struct

OUT_LEN, KEY_LEN, BLOCK_LEN, CHUNK_LEN = 32, 32, 64, 1024
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
KEYED_HASH, DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 16, 32, 64
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB,
      0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
# Where the quarter rounds work: the columns, then the diagonals.
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
WORD = 0xFFFFFFFF


def rotated(word, by):
    return (word >> by | word << (32 - by)) & WORD


def compress(chaining, block, counter, length, flags):
    """The first half of what the compression function gives: a chaining value."""
    state = list(chaining) + list(IV[:4]) + [counter & WORD, counter >> 32, length, flags]
    words = list(struct.unpack("<16I", block.ljust(BLOCK_LEN, b"\0")))
    for _ in range(7):
        for n, (a, b, c, d) in enumerate(QUARTERS):
            for word, by_d, by_b in ((words[2 * n], 16, 12), (words[2 * n + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & WORD
                state[d] = rotated(state[d] ^ state[a], by_d)
                state[c] = (state[c] + state[d]) & WORD
                state[b] = rotated(state[b] ^ state[c], by_b)
        words = [words[n] for n in PERMUTATION]
    return [state[n] ^ state[n + 8] for n in range(8)]


def chunk(key, flags, data, counter, root):
    blocks = [data[at:at + BLOCK_LEN] for at in range(0, len(data), BLOCK_LEN)] or [b""]
    chaining = key
    for n, block in enumerate(blocks):
        last = n == len(blocks) - 1
        here = flags | (CHUNK_START if n == 0 else 0) | (CHUNK_END if last else 0)
        chaining = compress(chaining, block, counter, len(block), here | (root if last else 0))
    return chaining


def tree(key, flags, data, counter=0, root=ROOT):
    """The chaining value over data whose first chunk has this number."""
    if len(data) <= CHUNK_LEN:
        return chunk(key, flags, data, counter, root)
    # The left side has the largest power of two of whole chunks that leaves something over.
    left = 1 << ((len(data) - 1) // CHUNK_LEN).bit_length() - 1
    sides = (tree(key, flags, data[:left * CHUNK_LEN], counter, 0)
             + tree(key, flags, data[left * CHUNK_LEN:], counter + left, 0))
    return compress(key, struct.pack("<16I", *sides), 0, BLOCK_LEN, flags | PARENT | root)


def words_of(key):
    assert len(key) == KEY_LEN
    return list(struct.unpack("<8I", key))


def plain_hash(data):
    return struct.pack("<8I", *tree(list(IV), 0, data))


def keyed_hash(key, data):
    return struct.pack("<8I", *tree(words_of(key), KEYED_HASH, data))


def derive_key(context, material):
    of_context = struct.pack("<8I", *tree(list(IV), DERIVE_KEY_CONTEXT, context.encode()))
    return struct.pack("<8I", *tree(words_of(of_context), DERIVE_KEY_MATERIAL, material))


def self_test():
    """Digests that everybody knows: of one chunk, and of two."""
    known = {bytes(n % 251 for n in range(1025)):
             "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
             b"": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
             b"abc": "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"}
    for data, digest in known.items():
        assert plain_hash(data).hex() == digest, data


self_test()
