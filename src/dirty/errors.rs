//! What went wrong during a run, and which addresses count as dirty because of it.

use std::ops::RangeInclusive;

use super::tracker::TrackerKind;
use crate::alloc;
use crate::error::Code;

/// Something that made addresses count as dirty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyError {
    /// Number of the source, where one is to blame.
    pub source: Option<u32>,
    /// Its tracker at the time.
    pub tracker: TrackerKind,
    /// What a caller can act on.
    pub code: Code,
    /// First address that counts as dirty.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// For people.
    pub message: String,
}

/// This many are kept.
const KEPT: usize = 64;

/// A guest may cause as many errors as it likes. Of those that are too many to be kept, fewer and
/// fewer are logged: the 128th, the 256th and so on.
fn is_logged(total: u64) -> bool {
    total <= KEPT as u64 || total.is_power_of_two()
}

/// The errors of a run, oldest first. When there are too many, the newest one grows until it covers
/// the rest: what counted as dirty for an error is always within one that is kept.
#[derive(Default)]
pub(super) struct Errors {
    kept: Vec<DirtyError>,
    pub total: u64,
}

impl Errors {
    pub fn add(&mut self, error: DirtyError) {
        self.total += 1;
        if is_logged(self.total) {
            let DirtyError { first, last, message, .. } = &error;
            log::warn!(
                target: "vfiomig::dirty",
                "{first:#x} to {last:#x} counts as dirty: {message}"
            );
        }
        if self.total == KEPT as u64 {
            log::warn!(target: "vfiomig::dirty", "of more errors a few are logged only");
        }
        // The first few take little, and come from the reserve where there is no memory.
        let full = self.kept.len() >= KEPT
            || !self.kept.is_empty() && alloc::reserve(&mut self.kept, 1, "").is_err();
        match self.kept.last_mut() {
            // The next piece of the same trouble.
            Some(last)
                if last.source == error.source
                    && last.tracker == error.tracker
                    && last.code == error.code
                    && last.last.checked_add(1) == Some(error.first) =>
            {
                last.last = error.last;
            }
            Some(last) if full => {
                last.first = last.first.min(error.first);
                last.last = last.last.max(error.last);
            }
            _ => self.kept.push(error),
        }
    }

    pub fn get(&self, index: usize) -> Option<&DirtyError> {
        self.kept.get(index)
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn clear(&mut self) {
        self.kept.clear();
        self.total = 0;
    }
}

impl DirtyError {
    pub(super) fn new(
        source: Option<u32>,
        tracker: TrackerKind,
        range: &RangeInclusive<u64>,
        error: &crate::Error,
    ) -> DirtyError {
        DirtyError {
            source,
            tracker,
            code: error.code(),
            first: *range.start(),
            last: *range.end(),
            // Without memory, the code has to do.
            message: alloc::text(error.message(), "").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(first: u64, last: u64, code: Code) -> DirtyError {
        let message = String::new();
        DirtyError { source: Some(0), tracker: TrackerKind::Hwpt, code, first, last, message }
    }

    #[test]
    fn neighbours_are_one_and_the_list_is_bounded_without_a_gap() {
        let mut errors = Errors::default();
        errors.add(error(0, 9, Code::Io));
        errors.add(error(10, 19, Code::Io));
        errors.add(error(20, 29, Code::Inval));
        assert_eq!((errors.len(), errors.total), (2, 3));
        assert_eq!(errors.get(0).unwrap().last, 19);
        for i in 0..200 {
            errors.add(error(1000 * (i + 1), 1000 * (i + 1) + 9, Code::Io));
        }
        assert_eq!(errors.len(), KEPT);
        for i in 0..200 {
            let at = 1000 * (i + 1);
            let covered = |e: &DirtyError| e.first <= at && at + 9 <= e.last;
            assert!((0..errors.len()).any(|n| covered(errors.get(n).unwrap())));
        }
        assert_eq!((1..=1 << 20).filter(|total| is_logged(*total)).count(), KEPT + 14);
    }
}
