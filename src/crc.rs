// SPDX-License-Identifier: MIT OR Apache-2.0
//! CRC-32, as zlib has it, over what does not lie together.

/// Of the parts, as if they were one.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_zlib_however_it_is_divided() {
        for parts in [&[&b"123456789"[..]][..], &[b"1234", b"", b"56789"]] {
            assert_eq!(crc32(parts), 0xCBF4_3926);
        }
        assert_eq!(crc32(&[]), 0);
    }
}
