// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds ranges that a device's log takes when it does not take all of them. Nothing says what its
//! limit is: a number of ranges, a number of bytes, certain addresses. So the only way is to try,
//! and a try may take a long time: some drivers wait for their firmware for up to a minute.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use crate::dirty::ranges::{MAX_RANGES, join};
use crate::error::Errno;

type Set = RangeInclusiveSet<u64>;

/// How often, in all, a log is asked to start when its refusals sound like a limit.
const MAX_TRIES: u32 = 8;

/// How often when it is known what it took before.
const MAX_TRIES_AGAIN: u32 = 4;

/// How often when the refusals do not sound like a limit: the device is in trouble, and other
/// ranges do not help.
const MAX_TRIES_IN_TROUBLE: u32 = 2;

/// A number of ranges that is small enough for any device.
const FEW: usize = 8;

/// The smallest part into which a range is cut, in bytes.
const SMALLEST_PART: u64 = 1 << 30;

/// What a refusal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The device may take fewer ranges, fewer bytes or other addresses.
    Limit,
    /// The device has no log.
    Absent,
    /// The device may take them later.
    Busy,
    /// The device or its firmware fails.
    Trouble,
}

impl Verdict {
    pub fn of(errno: Errno) -> Verdict {
        match errno.0 {
            libc::ENOTTY | libc::ENODEV | libc::ENOSYS => Verdict::Absent,
            libc::EBUSY | libc::EAGAIN | libc::EINTR => Verdict::Busy,
            libc::EIO
            | libc::ETIMEDOUT
            | libc::EREMOTEIO
            | libc::EEXIST
            | libc::ENOTCONN
            | libc::ECONNRESET
            | libc::EPIPE
            | libc::ESHUTDOWN
            | libc::ECANCELED
            | libc::ENOTRECOVERABLE => Verdict::Trouble,
            _ => Verdict::Limit,
        }
    }
}

/// The ranges that a log took. It is running over them.
#[derive(Debug)]
pub(super) struct Fit {
    pub logged: Set,
    pub page_size: u64,
    /// Why it is not everything that was wanted.
    pub refusal: Option<Errno>,
    /// Whether windows are included.
    pub is_wide: bool,
}

/// Starts a log over the mappings (`precise`), or over mappings and windows (`wide`) if it takes
/// that much. If it does not even take all the mappings, it gets as many as a few tries can find.
/// `before` is what it took the last time. `start` stops the log if it is running, and starts it
/// over a set.
pub(super) fn fit(
    precise: &Set,
    wide: &Set,
    before: &Set,
    start: impl FnMut(&Set) -> Result<u64, Errno>,
) -> Result<Fit, Errno> {
    let known = precise.iter().any(|range| before.overlaps(range));
    let most = if known { MAX_TRIES_AGAIN } else { MAX_TRIES };
    let mut asked = Asked { start, tries: 0, most, refused: Vec::new(), errno: None };
    if wide != precise {
        let wide = join(wide, MAX_RANGES);
        if let Some(page_size) = asked.ask(&wide) {
            return Ok(Fit { logged: wide, page_size, refusal: None, is_wide: true });
        }
        if let Some(errno) = asked.errno {
            log::info!(
                target: "vfiomig::dirty",
                "the device does not log windows of later mappings: {errno}"
            );
        }
    }
    let joined = join(precise, MAX_RANGES);
    if let Some(fit) = asked.ask_for_all(&joined) {
        return Ok(fit);
    }
    asked.gather(&joined, before)
}

/// A log that is being asked what it takes.
struct Asked<F> {
    start: F,
    tries: u32,
    most: u32,
    /// Sets that were too much. Any set that contains one of them is too much as well.
    refused: Vec<Set>,
    /// The last refusal.
    errno: Option<Errno>,
}

impl<F: FnMut(&Set) -> Result<u64, Errno>> Asked<F> {
    fn left(&self) -> u32 {
        self.most.saturating_sub(self.tries)
    }

    /// Asks the log to take a set, unless it has been asked too often. Returns the size of its
    /// pages if it does.
    fn ask(&mut self, set: &Set) -> Option<u64> {
        if self.left() == 0 || set.is_empty() {
            return None;
        }
        self.tries += 1;
        let errno = match (self.start)(set) {
            Ok(page_size) => return Some(page_size),
            Err(errno) => errno,
        };
        self.errno = Some(errno);
        match Verdict::of(errno) {
            Verdict::Limit => self.refused.push(set.clone()),
            // Allow one more try: the same set, or what it took before.
            Verdict::Trouble => self.most = self.most.min(self.tries + 1),
            Verdict::Absent | Verdict::Busy => self.most = self.tries,
        }
        None
    }

    fn is_too_much(&self, set: &Set) -> bool {
        let inside = |range: &RangeInclusive<u64>| set.gaps(range).next().is_none();
        self.refused.iter().any(|refused| refused.iter().all(inside))
    }

    /// Tries to get every mapping logged: first as they are, then joined into fewer ranges.
    fn ask_for_all(&mut self, set: &Set) -> Option<Fit> {
        let mut joined = set.clone();
        loop {
            if let Some(page_size) = self.ask(&joined) {
                return Some(Fit { logged: joined, page_size, refusal: None, is_wide: false });
            }
            let errno = self.errno?;
            let len = joined.len();
            let fewer = match Verdict::of(errno) {
                // Ask for the same again: the trouble may be over.
                Verdict::Trouble if self.tries < MAX_TRIES_IN_TROUBLE => len,
                Verdict::Limit if errno.0 == libc::E2BIG || errno.0 == libc::ENOSPC => len / 4,
                Verdict::Limit if len > FEW => FEW,
                _ => return None,
            };
            if self.left() == 0 || fewer < len && len == 1 || set.is_empty() {
                return None;
            }
            joined = join(set, fewer);
        }
    }

    /// Gathers as much of the mappings as it takes: the largest parts first, each added to what it
    /// took already. Parts that it does not take are halved.
    fn gather(&mut self, all: &Set, before: &Set) -> Result<Fit, Errno> {
        let least = (bytes(all) / 16).max(SMALLEST_PART);
        let (mut logged, new) = divide(all, before);
        let mut parts = vec![new];
        // It takes less now than it did before, so begin with nothing.
        if logged.is_empty() || self.is_too_much(&logged) {
            logged.clear();
            parts = split(all, least);
        }
        let mut running = None;
        while let Some(part) = take_largest(&mut parts) {
            // Keep one try, to return to what it took.
            if self.left() <= u32::from(!logged.is_empty()) {
                break;
            }
            let mut more = logged.clone();
            more.extend(part.iter().cloned());
            if self.is_too_much(&more) {
                parts.extend(split(&part, least));
                continue;
            }
            running = self.ask(&more);
            if running.is_some() {
                logged = more;
            } else {
                parts.extend(split(&part, least));
            }
        }
        let refusal = self.errno;
        if running.is_none() {
            running = self.ask(&logged);
        }
        match running {
            Some(page_size) => Ok(Fit { logged, page_size, refusal, is_wide: false }),
            None => Err(self.errno.unwrap_or(Errno(libc::EINVAL))),
        }
    }
}

fn bytes(set: &Set) -> u64 {
    set.iter().fold(0, |sum: u64, range| sum.saturating_add(length(range)))
}

fn length(range: &RangeInclusive<u64>) -> u64 {
    (range.end() - range.start()).saturating_add(1)
}

/// The parts of `all` that the log took before, and those that it did not.
fn divide(all: &Set, before: &Set) -> (Set, Set) {
    let (mut known, mut new) = (Set::new(), Set::new());
    for range in all.iter() {
        new.extend(before.gaps(range));
        for part in before.overlapping(range) {
            known.insert(*part.start().max(range.start())..=*part.end().min(range.end()));
        }
    }
    (known, new)
}

fn take_largest(parts: &mut Vec<Set>) -> Option<Set> {
    parts.retain(|part| !part.is_empty());
    let mut largest: Option<(usize, u64)> = None;
    for (i, part) in parts.iter().enumerate() {
        let bytes = bytes(part);
        if largest.is_none_or(|(_, most)| bytes > most) {
            largest = Some((i, bytes));
        }
    }
    largest.map(|(i, _)| parts.remove(i))
}

/// Cuts a set in two. If a gap is wider than everything before it, what follows is far away, like a
/// BAR above memory, and the cut is there. Otherwise the parts are of the same size. Returns no
/// parts if they would be too small.
fn split(set: &Set, least: u64) -> Vec<Set> {
    let ranges: Vec<RangeInclusive<u64>> = set.iter().cloned().collect();
    let [first, .., _] = ranges.as_slice() else {
        return ranges.first().map_or_else(Vec::new, |range| cut(range, least));
    };
    let begin = *first.start();
    let mut widest = (0, 0);
    let mut half = 0;
    let (mut sum, total) = (0, bytes(set));
    for (i, pair) in ranges.windows(2).enumerate() {
        let [a, b] = pair else { continue };
        let gap = b.start() - a.end() - 1;
        if gap > a.end() - begin && gap > widest.1 {
            widest = (i + 1, gap);
        }
        sum += length(a);
        if half == 0 && sum >= total / 2 {
            half = i + 1;
        }
    }
    let at = match (widest.0, half) {
        (0, 0) => ranges.len() - 1,
        (0, half) => half,
        (far, _) => far,
    };
    let (low, high) = ranges.split_at(at);
    vec![low.iter().cloned().collect(), high.iter().cloned().collect()]
}

/// Cuts a range in half.
fn cut(range: &RangeInclusive<u64>, least: u64) -> Vec<Set> {
    let half = length(range) / 2;
    let middle = (range.start() + half) & !(SMALLEST_PART - 1);
    if half < least || middle <= *range.start() {
        return Vec::new();
    }
    [*range.start()..=middle - 1, middle..=*range.end()].map(|part| Set::from_iter([part])).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    /// A set of ranges, given as first address and length.
    fn set(ranges: &[(u64, u64)]) -> Set {
        ranges.iter().map(|(first, length)| *first..=first + (length - 1)).collect()
    }

    /// What a device that `refuses` some sets takes in the end, and how often it was asked.
    fn taken(precise: &Set, before: &Set, refuses: impl Fn(&Set) -> i32) -> (Option<Fit>, u32) {
        let (mut tries, mut last) = (0, Set::new());
        let fit = fit(precise, precise, before, |set| {
            assert!(set.len() <= MAX_RANGES && !set.is_empty());
            tries += 1;
            last = set.clone();
            match refuses(set) {
                0 => Ok(4096),
                errno => Err(Errno(errno)),
            }
        });
        let fit = fit.ok();
        if let Some(fit) = &fit {
            // The log was last started over what is returned.
            assert_eq!(refuses(&last), 0);
            assert_eq!(fit.logged, last);
        }
        (fit, tries)
    }

    fn at_most(most: u64, errno: i32) -> impl Fn(&Set) -> i32 {
        move |set| if bytes(set) > most { errno } else { 0 }
    }

    fn below(limit: u64) -> impl Fn(&Set) -> i32 {
        move |set| if set.last().is_some_and(|r| *r.end() >= limit) { libc::EINVAL } else { 0 }
    }

    #[test]
    fn ranges_out_of_reach_are_left_out_and_the_rest_is_logged() {
        let ram = [(0, 2 * GIB), (4 * GIB, 14 * GIB)];
        for far in [&[(56 * TIB, 1 << 25)][..], &[(56 * TIB, 1 << 25), (200 * TIB, 1 << 25)][..]] {
            let all = set(&[&ram[..], far].concat());
            let (fit, tries) = taken(&all, &Set::new(), below(16 * TIB));
            let fit = fit.unwrap();
            assert_eq!(fit.logged, set(&ram));
            assert_eq!(fit.refusal, Some(Errno(libc::EINVAL)));
            assert!(tries <= 6, "{tries}");
        }
        // This also works if the bad range is the first one, or one in the middle.
        for bad in [0, 5 * GIB] {
            let all = set(&[(0, GIB), (2 * GIB, GIB), (5 * GIB, GIB), (8 * GIB, 16 * GIB)]);
            let refuses = |set: &Set| if set.contains(&bad) { libc::EPERM } else { 0 };
            let (fit, tries) = taken(&all, &Set::new(), refuses);
            assert_eq!(bytes(&fit.unwrap().logged), 18 * GIB, "{bad:#x}");
            assert!(tries <= MAX_TRIES, "{tries}");
        }
    }

    #[test]
    fn more_than_a_device_can_log_is_filled_up_to_most_of_its_limit() {
        for errno in [libc::EOPNOTSUPP, libc::EINVAL, libc::ENOMEM, libc::E2BIG, libc::ENOSPC] {
            for ranges in [
                &[(0, 6 * TIB), (8 * TIB, 6 * TIB)][..],
                &[(0, 12 * TIB)],
                &[(0, GIB), (4 * GIB, 11 * TIB), (20 * TIB, TIB)],
            ] {
                let (fit, tries) = taken(&set(ranges), &Set::new(), at_most(8 * TIB - 1, errno));
                let logged = bytes(&fit.unwrap().logged);
                assert!(logged >= 5 * TIB, "{ranges:x?}: {logged:#x}");
                assert!(tries <= MAX_TRIES, "{tries}");
            }
        }
    }

    #[test]
    fn fewer_ranges_are_joined_before_any_is_left_out() {
        let islands = |n: u64| set(&(0..n).map(|i| (i * i * GIB, 1 << 20)).collect::<Vec<_>>());
        for errno in [libc::E2BIG, libc::ENOSPC, libc::EINVAL] {
            let refuses = |set: &Set| if set.len() > 9 { errno } else { 0 };
            let (fit, tries) = taken(&islands(200), &Set::new(), refuses);
            let fit = fit.unwrap();
            assert!(islands(200).iter().all(|range| fit.logged.gaps(range).next().is_none()));
            assert_eq!(fit.refusal, None);
            assert!(tries <= 5, "{tries}");
        }
        let refuses = |set: &Set| if set.len() > 1 { libc::E2BIG } else { 0 };
        assert_eq!(taken(&islands(256), &Set::new(), refuses).0.unwrap().logged.len(), 1);
    }

    #[test]
    fn what_was_taken_before_is_kept_and_the_new_is_tried() {
        let before = set(&[(0, 7 * TIB)]);
        let (fit, tries) =
            taken(&set(&[(0, 7 * TIB), (8 * TIB, 4 * TIB)]), &before, at_most(8 * TIB, 95));
        assert!(
            before.iter().all(|range| fit.as_ref().unwrap().logged.gaps(range).next().is_none())
        );
        assert!(tries <= MAX_TRIES_AGAIN, "{tries}");
        assert!(bytes(&fit.unwrap().logged) <= 8 * TIB);
    }

    #[test]
    fn a_device_in_trouble_is_asked_twice_and_one_without_a_log_once() {
        let all = set(&[(0, 6 * TIB), (8 * TIB, 6 * TIB)]);
        for (errno, most) in [
            (libc::ETIMEDOUT, 2),
            (libc::EIO, 2),
            (libc::EBUSY, 1),
            (libc::ENOTTY, 1),
            (libc::ENODEV, 1),
            (libc::EOPNOTSUPP, MAX_TRIES),
        ] {
            let (fit, tries) = taken(&all, &Set::new(), |_| errno);
            assert!(fit.is_none());
            assert!(tries <= most, "{errno}: {tries}");
            // The same with windows.
            let (mut tries, wide) = (0, set(&[(0, 256 * TIB)]));
            let refused = super::fit(&all, &wide, &Set::new(), |_| {
                tries += 1;
                Err(Errno(errno))
            });
            assert_eq!(refused.unwrap_err(), Errno(errno));
            assert!(tries <= most, "{errno}: {tries}");
        }
    }

    #[test]
    fn trouble_on_the_way_brings_back_what_was_taken() {
        let all = set(&[(0, 6 * TIB), (8 * TIB, 6 * TIB)]);
        let mut tries = 0;
        let fit = fit(&all, &all, &Set::new(), |set| {
            tries += 1;
            match tries {
                1 => Err(Errno(libc::EOPNOTSUPP)),
                3 => Err(Errno(libc::ETIMEDOUT)),
                _ if bytes(set) > 8 * TIB => Err(Errno(libc::EOPNOTSUPP)),
                _ => Ok(4096),
            }
        });
        assert_eq!(fit.unwrap().logged, set(&[(0, 6 * TIB)]));
        assert_eq!(tries, 4);
    }

    #[test]
    fn windows_that_are_too_much_leave_the_mappings() {
        let all = set(&(0..200).map(|i| (i * GIB, 64 << 20)).collect::<Vec<_>>());
        let mut tries = 0;
        let fit = fit(&all, &set(&[(0, 1 << 48)]), &Set::new(), |set| {
            tries += 1;
            if bytes(set) >= 8 * TIB { Err(Errno(libc::EOPNOTSUPP)) } else { Ok(4096) }
        });
        let fit = fit.unwrap();
        assert_eq!((fit.logged, fit.is_wide, tries), (all, false, 2));
    }
}
