// SPDX-License-Identifier: MIT OR Apache-2.0
//! A snapshot of a device's memory: how long it is, and how it was cut.

/// What is said of a snapshot before its chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Snapshot {
    /// Its bytes.
    pub size: u64,
    /// The bytes of each chunk but the last: the length of the source's region.
    pub window: u64,
}

/// The length of a snapshot's beginning in the data, in bytes.
pub(super) const LEN: usize = 16;

impl Snapshot {
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let bytes = [self.size, self.window].into_iter().flat_map(u64::to_le_bytes);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        out
    }

    /// What its beginning says, if it can be right.
    pub fn decode(bytes: &[u8; LEN]) -> Option<Snapshot> {
        let (size, window) = bytes.split_first_chunk()?;
        let size = u64::from_le_bytes(*size);
        let window = u64::from_le_bytes(*window.first_chunk()?);
        (size > 0 && window > 0).then_some(Snapshot { size, window })
    }

    /// The length of the chunk that begins at `pos`.
    pub fn chunk_at(&self, pos: u64) -> u64 {
        self.size.saturating_sub(pos).min(self.window)
    }

    /// Whether a device whose region has `window` bytes cuts it in the same way.
    pub fn is_cut_as_by(&self, window: u64) -> bool {
        self.window == window || self.size <= self.window.min(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_it_was_written_and_cut_to_its_end() {
        let snapshot = Snapshot { size: 2500, window: 1000 };
        assert_eq!(Snapshot::decode(&snapshot.encode()), Some(snapshot));
        assert_eq!([0, 1000, 2000].map(|pos| snapshot.chunk_at(pos)), [1000, 1000, 500]);
        for (size, window) in [(0, 1), (1, 0)] {
            assert_eq!(Snapshot::decode(&Snapshot { size, window }.encode()), None);
        }
        let cuts = [1000, 2500, 1001, 999].map(|window| snapshot.is_cut_as_by(window));
        assert_eq!(cuts, [true, false, false, false]);
        let short = Snapshot { size: 900, window: 1000 };
        assert!(short.is_cut_as_by(900) && short.is_cut_as_by(5000) && !short.is_cut_as_by(899));
    }
}
