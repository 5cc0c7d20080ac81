// SPDX-License-Identifier: MIT OR Apache-2.0
//! Payloads of features.

/// Copies bytes into `u64`s, because the payloads of features contain aligned ones.
pub(super) fn bytes_to_words(bytes: &[u8], words: &mut [u64]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut one = [0; 8];
        one.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(one);
    }
}

/// The way back.
pub(super) fn words_to_bytes(words: &[u64], bytes: &mut [u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}
