// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong while tracking was on, and which addresses count as dirty because of it.

use std::ops::RangeInclusive;

use super::tracker::TrackerKind;
use crate::alloc;
use crate::error::Code;

/// Something that made addresses count as dirty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyError {
    /// Number of the writer, if one is to blame.
    pub writer: Option<u32>,
    /// The writer's tracker at the time.
    pub tracker: TrackerKind,
    /// The error code: what a caller can act on.
    pub code: Code,
    /// First address that counts as dirty.
    pub first: u64,
    /// Last address that counts as dirty.
    pub last: u64,
    /// A text for people.
    pub message: String,
}

/// How many errors are kept.
const KEPT: usize = 64;

/// A guest can cause as many errors as it likes. Beyond those that are kept, only the 128th, the
/// 256th and so on are logged.
fn is_logged(total: u64) -> bool {
    total <= KEPT as u64 || total.is_power_of_two()
}

/// The errors since the start, in the order in which they last happened. Errors with the same cause
/// at the same or neighbouring addresses are one. When there are too many, an error with the same
/// cause is widened to include the new addresses, or the newest error comes to stand for several
/// causes. So whatever counted as dirty is always within an error that is kept.
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
            log::warn!(
                target: "vfiomig::dirty",
                "too many errors: from now on, only a few of them are logged"
            );
        }
        // The first few are small; if memory is short, they come from the allocator's reserve.
        let full = self.kept.len() >= KEPT
            || !self.kept.is_empty() && alloc::reserve(&mut self.kept, 1, "").is_err();
        let touches = |kept: &DirtyError| kept.has_cause_of(&error) && kept.touches(&error);
        let mut place = self.kept.iter().rposition(touches);
        if place.is_none() && full {
            let same = self.kept.iter().rposition(|kept| kept.has_cause_of(&error));
            place = same.or(self.kept.len().checked_sub(1));
        }
        let Some(place) = place else {
            self.kept.push(error);
            return;
        };
        let mut kept = self.kept.remove(place);
        kept.widen(error);
        self.kept.push(kept);
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
        writer: Option<u32>,
        tracker: TrackerKind,
        range: &RangeInclusive<u64>,
        error: &crate::Error,
    ) -> DirtyError {
        DirtyError {
            writer,
            tracker,
            code: error.code(),
            first: *range.start(),
            last: *range.end(),
            // Without memory for the text, the code alone must do.
            message: alloc::text(error.message(), "").unwrap_or_default(),
        }
    }

    fn has_cause_of(&self, other: &DirtyError) -> bool {
        (self.writer, self.tracker, self.code) == (other.writer, other.tracker, other.code)
            && without_numbers(&self.message).eq(without_numbers(&other.message))
    }

    fn touches(&self, other: &DirtyError) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    /// Widens this error to cover another one as well.
    fn widen(&mut self, other: DirtyError) {
        let (first, last) = (self.first.min(other.first), self.last.max(other.last));
        if !self.has_cause_of(&other) {
            if self.writer != other.writer {
                self.writer = None;
            }
            if self.tracker != other.tracker {
                self.tracker = TrackerKind::None;
            }
            if self.code != other.code {
                self.code = Code::Io;
            }
            // Without memory, keep only the newest text.
            let text = alloc::format(format_args!("{SEVERAL}{}", other.message));
            self.message = text.unwrap_or(other.message);
        }
        (self.first, self.last) = (first, last);
    }
}

/// How the text of an error begins if it stands for several causes.
const SEVERAL: &str = "several causes, the last of them: ";

/// The words of a text without addresses and sizes, which differ from error to error even if the
/// cause is the same.
fn without_numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(first: u64, last: u64, code: Code) -> DirtyError {
        let message = format!("the bits of {first:#x}, {} bytes, are unreadable", last - first);
        DirtyError { writer: Some(0), tracker: TrackerKind::Hwpt, code, first, last, message }
    }

    /// Whether all of an error is within one that is kept.
    fn covers(errors: &Errors, first: u64, last: u64) -> bool {
        errors.kept.iter().any(|e| e.first <= first && last <= e.last)
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
            assert!(covers(&errors, at, at + 9));
        }
        assert_eq!((1..=1 << 20).filter(|total| is_logged(*total)).count(), KEPT + 14);
    }

    #[test]
    fn causes_of_the_same_code_stay_apart() {
        let mut errors = Errors::default();
        let with = |first, last, message: &str| DirtyError {
            message: message.into(),
            ..error(first, last, Code::Io)
        };
        errors.add(with(0, 9, "the log of 0x0, 0x10 bytes, is unreadable: EIO"));
        errors.add(with(10, 19, "the device was reset"));
        errors.add(with(10, 19, "the log of 0xa, 0x10 bytes, is unreadable: EIO"));
        errors.add(with(20, 29, "the log of 0x14, 0x10 bytes, is unreadable: ETIMEDOUT"));
        let found: Vec<_> = errors.kept.iter().map(|e| (e.first, e.last)).collect();
        assert_eq!(found, [(10, 19), (0, 19), (20, 29)]);
        // Another writer, or another tracker, is another cause, even for the same text.
        errors.add(DirtyError { writer: Some(1), ..with(20, 29, "the device was reset") });
        errors.add(DirtyError { tracker: TrackerKind::Type1, ..error(30, 39, Code::Io) });
        assert_eq!((errors.len(), errors.total), (5, 6));
    }

    #[test]
    fn the_same_error_again_is_kept_once_and_is_the_newest() {
        let mut errors = Errors::default();
        for _ in 0..100 {
            errors.add(error(0, 9, Code::Io));
            errors.add(error(20, 29, Code::Inval));
        }
        errors.add(error(0, 9, Code::Io));
        assert_eq!((errors.len(), errors.total), (2, 201));
        assert_eq!(errors.get(1).unwrap().code, Code::Io);
    }

    #[test]
    fn too_many_causes_end_in_one_that_says_so() {
        let mut errors = Errors::default();
        for i in 0..100 {
            errors.add(DirtyError { writer: Some(i), ..error(0, u64::from(i), Code::Io) });
        }
        assert_eq!(errors.len(), KEPT);
        let last = errors.get(KEPT - 1).unwrap();
        assert!(last.message.starts_with(SEVERAL), "{}", last.message);
        assert_eq!(last.message.matches("several").count(), 1);
        assert_eq!((last.writer, last.last), (None, 99));
        // An error that belongs to one that is kept still joins it.
        errors.add(DirtyError { writer: Some(3), ..error(1 << 20, 1 << 21, Code::Io) });
        assert_eq!(errors.get(KEPT - 1).unwrap().writer, Some(3));
        assert!(covers(&errors, 1 << 20, 1 << 21));
    }
}
