// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fields one after another, in what is written and in what is read.

/// Writes little-endian fields one after another. The callers' types rule out that something does
/// not fit.
pub(in crate::stream) struct Put<'a> {
    pub out: &'a mut [u8],
    pub at: usize,
}

impl Put<'_> {
    pub fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(slot) = self.out.get_mut(self.at..end) {
            slot.copy_from_slice(bytes);
        }
        self.at = end;
    }
}

/// Reads little-endian fields one after another. Past the end it returns zeros; callers check
/// lengths first.
pub(in crate::stream) struct Get<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Get<'_> {
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        if let Some(from) = self.bytes.get(self.at..self.at.saturating_add(N)) {
            out.copy_from_slice(from);
        }
        self.at = self.at.saturating_add(N);
        out
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
