// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures: what something took so far, and between which bounds it will be next time.
//!
//! Nothing here can run over: what is too large stays at the largest number.

use std::ops::Add;

/// What is expected, and its bounds: `low <= value <= high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// It will hardly be less.
    pub low: u64,
    /// What is expected.
    pub value: u64,
    /// It will hardly be more. [`u64::MAX`]: nobody knows.
    pub high: u64,
}

impl Range {
    /// No doubt about it.
    pub fn exactly(value: u64) -> Range {
        Range { low: value, value, high: value }
    }

    /// With a margin on each side.
    fn around(value: u64, margin: u64) -> Range {
        let (low, high) = (value.saturating_sub(margin), value.saturating_add(margin));
        Range { low, value, high }
    }

    /// At least this, and nothing more is known.
    pub(super) fn at_least(low: u64) -> Range {
        Range { low, value: low, high: u64::MAX }
    }

    /// Each of the numbers, changed alike. What nobody knows stays so.
    pub(super) fn each(self, of: impl Fn(u64) -> u64) -> Range {
        let high = if self.high == u64::MAX { u64::MAX } else { of(self.high) };
        Range { low: of(self.low), value: of(self.value), high }
    }

    /// The later of two that happen at the same time.
    pub(super) fn max(self, other: Range) -> Range {
        Range {
            low: self.low.max(other.low),
            value: self.value.max(other.value),
            high: self.high.max(other.high),
        }
    }

    /// What of it is left after `other` is over.
    pub(super) fn beyond(self, other: Range) -> Range {
        let value = self.value.saturating_sub(other.value);
        Range {
            low: self.low.saturating_sub(other.high).min(value),
            value,
            high: match self.high {
                u64::MAX => u64::MAX,
                high => high.saturating_sub(other.low).max(value),
            },
        }
    }
}

impl Add for Range {
    type Output = Range;
    fn add(self, other: Range) -> Range {
        Range {
            low: self.low.saturating_add(other.low),
            value: self.value.saturating_add(other.value),
            high: self.high.saturating_add(other.high),
        }
    }
}

/// `value` times `times`, divided by `by`.
pub(super) fn scale(value: u64, times: u64, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    u64::try_from(u128::from(value) * u128::from(times) / by).unwrap_or(u64::MAX)
}

/// How many measures count: older ones have less weight.
const MEMORY: u32 = 8;
/// What a history from an earlier migration counts, so that new measures soon outweigh it.
const HISTORY: u32 = 3;
/// What was measured once may be this part of it more or less.
const DOUBT_OF_ONE: u64 = 2;
/// What was measured often may still be this part of it more or less.
const DOUBT: u64 = 8;

/// Moves a mean towards a value.
fn towards(mean: u64, value: u64, weight: u32) -> u64 {
    let part = mean.abs_diff(value) / u64::from(weight.max(1));
    if value > mean { mean.saturating_add(part) } else { mean.saturating_sub(part) }
}

/// A number that was measured several times, for example how long a change of state takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Measure {
    pub mean: u64,
    /// How far the measures are from the mean, on average.
    pub deviation: u64,
    pub count: u32,
}

impl Measure {
    pub fn add(&mut self, value: u64) {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            *self = Measure { mean: value, deviation: 0, count: 1 };
            return;
        }
        let weight = self.count.min(MEMORY);
        self.deviation = towards(self.deviation, self.mean.abs_diff(value), weight);
        self.mean = towards(self.mean, value, weight);
    }

    pub fn range(&self) -> Option<Range> {
        let doubt = match self.count {
            0 => return None,
            1 => self.mean / DOUBT_OF_ONE,
            _ => self.mean / DOUBT,
        };
        let margin = self.deviation.saturating_mul(2).saturating_add(doubt);
        Some(Range::around(self.mean, margin))
    }

    /// As a history for another migration.
    pub fn aged(mut self) -> Measure {
        self.count = self.count.min(HISTORY);
        self
    }
}

/// From how many bytes on, or after how long, bytes and nanoseconds make a measure of their own:
/// a shorter time says more about the clock than about the rate.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_NS: u64 = 5_000_000;
/// How many measures' worth is remembered; then everything counts half.
const FULL_NS: u64 = 1_000_000_000;

/// Bytes and what they took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Rate {
    pub bytes: u64,
    pub ns: u64,
    /// How far the measures are from the mean, on average, in nanoseconds per MiB.
    pub deviation: u64,
    pub count: u32,
    batch: (u64, u64),
}

const MIB: u64 = 1 << 20;

impl Rate {
    /// As it was remembered.
    pub fn remembered(bytes: u64, ns: u64, deviation: u64, count: u32) -> Rate {
        Rate { bytes, ns, deviation, count: count.min(HISTORY), batch: (0, 0) }
    }

    pub fn add(&mut self, bytes: u64, ns: u64) {
        let (had_bytes, had_ns) = self.batch;
        let (bytes, ns) = (had_bytes.saturating_add(bytes), had_ns.saturating_add(ns));
        self.batch = (bytes, ns);
        if bytes < BATCH_BYTES && ns < BATCH_NS {
            return;
        }
        self.close();
    }

    /// Takes what has come so far as a measure.
    pub fn close(&mut self) {
        let (bytes, ns) = std::mem::take(&mut self.batch);
        if bytes == 0 && ns == 0 {
            return;
        }
        if self.count > 0 && self.bytes > 0 && bytes > 0 {
            let off = self.ns_for(MIB).abs_diff(scale(ns, MIB, bytes));
            self.deviation = towards(self.deviation, off, self.count.min(MEMORY));
        }
        while self.ns.saturating_add(ns) > FULL_NS && self.ns > ns {
            (self.bytes, self.ns) = (self.bytes / 2, self.ns / 2);
        }
        if self.ns > FULL_NS {
            (self.bytes, self.ns) = (0, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.ns = self.ns.saturating_add(ns);
        self.count = self.count.saturating_add(1);
    }

    fn all(&self) -> (u64, u64) {
        (self.bytes.saturating_add(self.batch.0), self.ns.saturating_add(self.batch.1))
    }

    fn ns_for(&self, wanted: u64) -> u64 {
        let (bytes, ns) = self.all();
        if wanted == 0 { 0 } else { scale(wanted, ns, bytes) }
    }

    /// How long that many bytes take.
    pub fn time_of(&self, bytes: Range) -> Option<Range> {
        if self.all().0 == 0 {
            return None;
        }
        let part = if self.count < 2 { DOUBT_OF_ONE } else { DOUBT };
        let margin = |ns: u64, bytes: u64| {
            scale(bytes, self.deviation.saturating_mul(2), MIB).saturating_add(ns / part)
        };
        let (low, value, high) =
            (self.ns_for(bytes.low), self.ns_for(bytes.value), self.ns_for(bytes.high));
        let most = high.saturating_add(margin(high, bytes.high)).max(value);
        Some(Range {
            low: low.saturating_sub(margin(low, bytes.low)).min(value),
            value,
            // Nobody knows how long it takes if nobody knows how much it is.
            high: if bytes.high == u64::MAX { u64::MAX } else { most },
        })
    }

    /// How many bytes come in that time.
    pub fn bytes_in(&self, ns: u64) -> Option<u64> {
        let (bytes, took) = self.all();
        if took == 0 { None } else { Some(scale(bytes, ns, took)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sound(range: Range) -> bool {
        range.low <= range.value && range.value <= range.high
    }

    proptest! {
        #[test]
        fn whatever_is_measured_the_bounds_contain_the_value(
            values in proptest::collection::vec(any::<u64>(), 1..40),
        ) {
            let mut measure = Measure::default();
            for value in &values {
                measure.add(*value);
            }
            prop_assert!(sound(measure.range().unwrap()));
            let (least, most) = (values.iter().min().unwrap(), values.iter().max().unwrap());
            prop_assert!((least..=most).contains(&&measure.mean), "{measure:?}");
        }

        #[test]
        fn more_bytes_never_take_less_time(
            pieces in proptest::collection::vec(any::<(u64, u64)>(), 1..20),
            one in any::<u64>(), other in any::<u64>(),
        ) {
            let mut rate = Rate::default();
            for (bytes, ns) in pieces {
                rate.add(bytes, ns);
            }
            let of = |bytes| rate.time_of(Range::exactly(bytes));
            if let (Some(less), Some(more)) = (of(one.min(other)), of(one.max(other))) {
                prop_assert!(sound(less) && sound(more));
                prop_assert!(less.value <= more.value && less.high <= more.high);
            }
        }

        #[test]
        fn ranges_stay_sound(numbers in any::<[u64; 6]>()) {
            let range = |a: u64, b: u64, c: u64| {
                let mut sorted = [a, b, c];
                sorted.sort_unstable();
                Range { low: sorted[0], value: sorted[1], high: sorted[2] }
            };
            let [a, b, c, d, e, f] = numbers;
            let (one, other) = (range(a, b, c), range(d, e, f));
            prop_assert!(sound(one + other) && sound(one.max(other)) && sound(one.beyond(other)));
        }
    }

    #[test]
    fn a_steady_rate_is_what_comes_out() {
        let mut rate = Rate::default();
        for _ in 0..10_000 {
            rate.add(64 << 10, 1_000_000);
        }
        let time = rate.time_of(Range::exactly(64 << 20)).unwrap();
        assert_eq!(time.value, 1024 * 1_000_000);
        assert!(time.high < time.value * 5 / 4, "{time:?}");
        assert_eq!(rate.bytes_in(1_000_000_000), Some(64_000 << 10));
    }

    #[test]
    fn what_changes_is_followed() {
        let mut rate = Rate::default();
        for _ in 0..1000 {
            rate.add(1 << 20, 10_000_000);
        }
        for _ in 0..1000 {
            rate.add(1 << 20, 20_000_000);
        }
        let time = rate.time_of(Range::exactly(1 << 20)).unwrap();
        assert!((18_000_000..=20_000_000).contains(&time.value), "{time:?}");
    }

    #[test]
    fn one_measure_leaves_more_doubt_than_many() {
        let mut measure = Measure::default();
        assert_eq!(measure.range(), None);
        measure.add(1000);
        let one = measure.range().unwrap();
        (0..10).for_each(|_| measure.add(1000));
        let many = measure.range().unwrap();
        assert!(one.high > many.high && one.low < many.low, "{one:?} {many:?}");
    }
}
