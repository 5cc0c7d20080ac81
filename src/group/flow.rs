// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flow control of one device's frames: how much may be on the way, and what has come out of order.
//!
//! Both sides count what a frame costs: its bytes, and a fixed part for what the target keeps beside
//! them. The target says how much it has room for in all, from the beginning, and the source never
//! sends beyond that. So the target has room for whatever comes, in whatever order: it takes every
//! frame off its channel without waiting for anything, and no device can hold up another one's, however
//! devices are mapped to channels. What comes beyond that is refused. This knows nothing of threads.

use std::collections::BTreeMap;

use crate::error::{Result, err};

/// What a frame costs besides its bytes: more than the target keeps beside them.
pub const FRAME_COST: u64 = 128;

/// What a frame of that many bytes costs.
fn cost(len: usize) -> u64 {
    FRAME_COST + len as u64
}

/// The source's part.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Credit {
    /// What the target has room for, from the beginning.
    limit: u64,
    /// What was sent, from the beginning.
    sent: u64,
}

impl Credit {
    /// The longest frame that may be sent now, in bytes; 0: none.
    pub fn room(&self) -> usize {
        let left = self.limit.saturating_sub(self.sent).saturating_sub(FRAME_COST);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// A frame was sent.
    pub fn sent(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(cost(len));
    }

    /// The target has said how much it has room for. What it says late, or twice, has no effect.
    pub fn raise(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }
}

/// The target's part; `P` is what it keeps of a frame.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window<P> {
    /// What it has room for at a time.
    size: u64,
    /// Where the next piece in order begins, in the stream.
    next: u64,
    /// What the frames that were written have cost, from the beginning.
    done: u64,
    /// What the frames that are here cost, those being written included.
    held: u64,
    /// How much room the source has been told of, from the beginning.
    told: u64,
    /// By where they belong. Without what is kept of it: one that is on its way.
    pieces: BTreeMap<u64, (usize, Option<P>)>,
}

impl<P> Window<P> {
    /// Room for that much.
    pub fn new(size: u64) -> Window<P> {
        Window { size, next: 0, done: 0, held: 0, told: 0, pieces: BTreeMap::new() }
    }

    /// Takes a piece of that length, which belongs there; `make` makes what is kept of it. A piece
    /// that is refused changes nothing.
    pub fn put(&mut self, offset: u64, len: usize, make: impl FnOnce() -> Result<P>) -> Result<()> {
        self.check(offset, len)?;
        self.pieces.insert(offset, (len, Some(make()?)));
        self.held += cost(len);
        Ok(())
    }

    /// A piece of that length, which belongs there, is on its way: it has its room from now on.
    pub fn expect(&mut self, offset: u64, len: usize) -> Result<()> {
        self.check(offset, len)?;
        self.pieces.insert(offset, (len, None));
        self.held += cost(len);
        Ok(())
    }

    /// The piece that was expected there has come.
    pub fn fill(&mut self, offset: u64, piece: P) {
        if let Some((_, place)) = self.pieces.get_mut(&offset) {
            *place = Some(piece);
        }
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.saturating_add(len as u64);
        if offset < self.next {
            return Err(err!(Proto, "a piece at byte {offset} came twice: {} is next", self.next));
        }
        if self.held.saturating_add(cost(len)) > self.size || end - self.next > self.size {
            return Err(err!(
                Proto,
                "a piece of {len} bytes at byte {offset} is more than there was room for: {} of {} \
                 are taken, and byte {} is next",
                self.held,
                self.size,
                self.next
            ));
        }
        let before = self.pieces.range(..=offset).next_back();
        let behind = self.pieces.range(offset..).next();
        let meets = before.is_some_and(|(at, (len, _))| at.saturating_add(*len as u64) > offset)
            || behind.is_some_and(|(at, _)| *at < end);
        if meets {
            return Err(err!(Proto, "a piece at byte {offset} overlaps another one"));
        }
        Ok(())
    }

    /// Whether the next piece in order is here.
    pub fn is_ready(&self) -> bool {
        let first = self.pieces.first_key_value();
        first.is_some_and(|(at, (_, piece))| *at == self.next && piece.is_some())
    }

    /// Takes the next piece in order out, to be written: its length, and what was kept of it.
    pub fn take(&mut self) -> Option<(usize, P)> {
        if !self.is_ready() {
            return None;
        }
        let (offset, (len, piece)) = self.pieces.pop_first()?;
        self.next = offset.saturating_add(len as u64);
        Some((len, piece?))
    }

    /// What was taken out has been written, and is gone.
    pub fn written(&mut self, len: usize) {
        self.held = self.held.saturating_sub(cost(len));
        self.done = self.done.saturating_add(cost(len));
    }

    /// Whether the source is to be told how much room there is: when a quarter of it has become free,
    /// or all of it, which a long frame may be waiting for.
    pub fn is_due(&self) -> bool {
        let more = self.done.saturating_add(self.size).saturating_sub(self.told);
        more > 0 && (self.held == 0 || more >= self.size / 4)
    }

    /// What to tell the source.
    pub fn tell(&mut self) -> u64 {
        self.told = self.done.saturating_add(self.size);
        self.told
    }

    /// What the source was told last.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// What is kept at the moment, in bytes, with what belongs to each frame.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Where the next piece in order begins.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Drops what is here.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn put(window: &mut Window<u8>, offset: u64, len: usize) -> Result<(), Code> {
        window.put(offset, len, || Ok(0)).map_err(|error| error.code())
    }

    #[test]
    fn pieces_come_out_in_order_whatever_order_they_came_in() {
        let mut window = Window::new(10_000);
        assert!(window.is_due());
        assert_eq!(window.tell(), 10_000);
        for (offset, len) in [(300, 50), (0, 100), (200, 100)] {
            put(&mut window, offset, len).unwrap();
        }
        assert_eq!(window.take(), Some((100, 0)));
        assert_eq!(window.take(), None);
        put(&mut window, 100, 100).unwrap();
        for len in [100, 100, 50] {
            assert_eq!(window.take(), Some((len, 0)));
        }
        assert_eq!((window.next(), window.held()), (350, 350 + 4 * FRAME_COST));
        for len in [100, 100, 100, 50] {
            window.written(len);
        }
        assert_eq!((window.held(), window.is_due()), (0, true));
        window.tell();
        assert!(!window.is_due());
    }

    #[test]
    fn what_came_before_overlaps_or_is_too_much_is_refused() {
        let mut window = Window::new(1000);
        put(&mut window, 100, 100).unwrap();
        for (offset, len) in [(100, 100), (199, 1), (50, 51), (0, 1000), (150, 500)] {
            assert_eq!(put(&mut window, offset, len), Err(Code::Proto), "{offset} {len}");
        }
        assert_eq!(put(&mut window, 990, 11), Err(Code::Proto));
        assert_eq!(put(&mut window, u64::MAX - 5, 5), Err(Code::Proto));
        assert_eq!(window.held(), 100 + FRAME_COST);
        put(&mut window, 0, 100).unwrap();
        assert!(window.take().is_some() && window.take().is_some());
        assert_eq!(put(&mut window, 199, 1), Err(Code::Proto));
        put(&mut window, 200, 1).unwrap();
    }

    #[test]
    fn the_highest_first_for_ever_stays_within_the_window() {
        let (size, mut taken) = (100_000, 0);
        let mut window = Window::new(size);
        for offset in (1..200_000).rev() {
            taken += u64::from(put(&mut window, offset, 1).is_ok());
            assert!(window.held() <= size);
        }
        assert_eq!(taken, size / (1 + FRAME_COST));
        assert!(window.take().is_none());
    }

    #[test]
    fn credits_count_once_and_in_any_order() {
        let mut credit = Credit::default();
        assert_eq!(credit.room(), 0);
        credit.raise(1000);
        assert_eq!(credit.room(), 872);
        credit.sent(800);
        assert_eq!(credit.room(), 0);
        credit.raise(1400);
        credit.raise(1200);
        credit.raise(1400);
        assert_eq!(credit.room(), 344);
    }

    /// A piece that is missing only because no memory was there can be brought again.
    #[test]
    fn a_piece_that_there_is_no_memory_for_changes_nothing() {
        let mut window: Window<u8> = Window::new(1000);
        let before = window.clone();
        assert!(window.put(0, 10, || Err(err!(NoMem, "none"))).is_err());
        assert_eq!(window, before);
    }

    proptest! {
        /// A source that keeps to its credit, over several channels that each keep their own order, with
        /// frames that come twice: everything arrives, in order, within the window, and it never stops.
        #[test]
        fn a_source_that_keeps_to_its_credit_is_never_refused(
            lens in prop::collection::vec(1_usize..400, 1..60),
            size in 600_u64..4000,
            choices in prop::collection::vec((0_usize..4, 0_usize..4), 4000..4001),
        ) {
            let (mut credit, mut window) = (Credit::default(), Window::new(size));
            let mut channels: [std::collections::VecDeque<(u64, usize)>; 4] = Default::default();
            let mut back = vec![];
            let (mut offset, mut at, mut out, mut steps) = (0, 0, 0, choices.into_iter().cycle());
            for _ in 0..20_000 {
                if out == lens.len() {
                    break;
                }
                let (what, which) = steps.next().unwrap();
                let moved = match what {
                    0 if at < lens.len() && lens[at] <= credit.room() => {
                        channels[which].push_back((offset, lens[at]));
                        credit.sent(lens[at]);
                        offset += lens[at] as u64;
                        at += 1;
                        true
                    }
                    1 => match channels[which].pop_front() {
                        Some((offset, len)) => {
                            window.put(offset, len, || Ok(offset)).unwrap();
                            prop_assert!(window.put(offset, len, || Ok(0)).is_err());
                            prop_assert!(window.held() <= size);
                            true
                        }
                        None => false,
                    },
                    2 => match window.take() {
                        Some((len, _)) => {
                            prop_assert_eq!(len, lens[out]);
                            out += 1;
                            window.written(len);
                            true
                        }
                        None => false,
                    },
                    _ if window.is_due() => { back.push(window.tell()); true }
                    _ => back.pop().is_some_and(|limit| { credit.raise(limit); true }),
                };
                let stuck = !moved
                    && channels.iter().all(|channel| channel.is_empty())
                    && !window.is_ready() && !window.is_due() && back.is_empty()
                    && (at == lens.len() || lens[at] > credit.room());
                prop_assert!(!stuck || out == lens.len(), "stuck at {out} of {}", lens.len());
            }
            prop_assert_eq!(out, lens.len());
        }
    }
}
