// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts packets in order, which come over several channels in any order.
//!
//! What a packet may cost is checked before anything is allocated for it: how far ahead it may be,
//! how much may wait, how much may come in all. Nothing here waits; that is up to the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::packet::Packet;
use super::quota::Quota;
use crate::alloc;
use crate::error::{Result, err};
use crate::private::Private;

/// What a waiting packet is taken to cost besides its data, in bytes, so that many small ones are
/// not free.
const OVERHEAD: u64 = 128;

/// Buffers that are kept for the next packets. New memory of this size comes from the kernel page
/// by page.
const SPARES: usize = 8;

/// What the packets of one load may ask for.
#[derive(Clone, Copy, Debug)]
pub struct PacketLimits {
    /// Data of one packet, in bytes.
    pub max_data: u32,
    /// The configuration, in bytes.
    pub max_config: u32,
    /// How far a packet may be ahead of the next one in order.
    pub max_ahead: u32,
    /// Bytes that wait for their turn; anything beyond waits outside.
    pub max_queued: u64,
}

impl PacketLimits {
    /// The longest packet for which `memory` bytes are enough.
    pub(crate) fn longest(memory: u64) -> u32 {
        u32::try_from(memory / 4).unwrap_or(u32::MAX)
    }

    /// The same, lowered to what `memory` bytes allow: what waits, one packet that is being written,
    /// and the next in order, which never waits for room.
    pub(crate) fn within(self, memory: u64) -> PacketLimits {
        let longest = PacketLimits::longest(memory);
        let (max_data, max_config) = (self.max_data.min(longest), self.max_config.min(longest));
        let beside = 2 * (u64::from(max_data.max(max_config)) + OVERHEAD);
        let max_queued = self.max_queued.min(memory.saturating_sub(beside));
        PacketLimits { max_data, max_config, max_queued, ..self }
    }
}

impl Default for PacketLimits {
    fn default() -> Self {
        PacketLimits {
            max_data: 4 << 20,
            max_config: 1 << 20,
            max_ahead: 1 << 20,
            max_queued: 1 << 30,
        }
    }
}

/// A packet whose turn it is.
#[derive(Debug)]
pub struct Held {
    /// Its place.
    pub idx: u32,
    /// Whether it is the configuration, and the last.
    pub config: bool,
    /// Its contents.
    pub bytes: Private,
}

/// A place taken for a packet, and memory for it. Bring it back with [`Window::fill`].
#[derive(Debug)]
pub struct Reserved {
    idx: u32,
    config: bool,
    buffer: Private,
}

impl Reserved {
    /// Copies the packet; may take its time, outside the window's lock.
    pub fn copy(mut self, packet: &Packet<'_>) -> Result<Held> {
        self.buffer.refill(packet.bytes, "no memory for a packet")?;
        Ok(Held { idx: self.idx, config: self.config, bytes: self.buffer })
    }
}

/// Puts packets in order.
pub struct Window {
    limits: PacketLimits,
    quota: Arc<Quota>,
    /// The next index in order.
    next: u32,
    /// The configuration's index, once it has come.
    last: Option<u32>,
    /// The highest index that was taken.
    highest: Option<u32>,
    /// Those that wait; `None` while their contents are being copied.
    waiting: BTreeMap<u32, Option<Held>>,
    /// What waits or is being written, including overheads, in bytes.
    queued: u64,
    spare: Vec<Private>,
}

impl Window {
    /// An empty window.
    pub fn new(limits: PacketLimits, quota: Arc<Quota>) -> Window {
        Window {
            limits,
            quota,
            next: 0,
            last: None,
            highest: None,
            waiting: BTreeMap::new(),
            queued: 0,
            spare: Vec::new(),
        }
    }

    /// Takes a place for a packet. `None`: there is no room now; try again after [`Window::done`]
    /// was called. Allocates nothing but the place.
    pub fn reserve(&mut self, packet: &Packet<'_>) -> Result<Option<Reserved>> {
        let Packet { idx, config, bytes } = *packet;
        let len = bytes.len() as u64;
        if idx < self.next || self.waiting.contains_key(&idx) {
            return Err(err!(Proto, "packet {idx} came twice"));
        }
        if let Some(last) = self.last {
            return Err(match (config, idx > last) {
                (true, _) => err!(Proto, "a second configuration came, in packet {idx}"),
                (_, true) => err!(Proto, "packet {idx} came after the last one, {last}"),
                _ => return self.admit(packet, len),
            });
        }
        if let Some(highest) = self.highest.filter(|highest| config && *highest > idx) {
            return Err(err!(
                Proto,
                "the configuration came in packet {idx}, which is not the last: {highest} has come"
            ));
        }
        self.admit(packet, len)
    }

    fn admit(&mut self, packet: &Packet<'_>, len: u64) -> Result<Option<Reserved>> {
        let Packet { idx, config, bytes } = *packet;
        // No index comes after the last one.
        if idx == u32::MAX || idx - self.next.min(idx) > self.limits.max_ahead {
            return Err(err!(
                MsgSize,
                "packet {idx} is more than {} ahead of {}, the next in order",
                self.limits.max_ahead,
                self.next
            ));
        }
        let most = if config { self.limits.max_config } else { self.limits.max_data };
        if len > u64::from(most) {
            return Err(err!(MsgSize, "packet {idx} has {len} bytes, more than {most}"));
        }
        let cost = len.saturating_add(OVERHEAD);
        if self.taken().saturating_add(cost) > self.limits.max_queued {
            self.spare.clear();
        }
        // The next in order always has room; otherwise nothing would ever move.
        if idx != self.next && self.queued.saturating_add(cost) > self.limits.max_queued {
            return Ok(None);
        }
        if !config {
            self.quota.claim(len)?;
        }
        self.queued = self.queued.saturating_add(cost);
        self.waiting.insert(idx, None);
        self.highest = self.highest.max(Some(idx));
        self.last = if config { Some(idx) } else { self.last };
        Ok(Some(Reserved { idx, config, buffer: self.spare_for(bytes.len()) }))
    }

    /// Memory that is taken, spare memory included, in bytes.
    fn taken(&self) -> u64 {
        let spare = self.spare.iter().map(|spare| spare.capacity() as u64);
        self.queued.saturating_add(spare.sum())
    }

    /// Spare memory, if it is no larger than what the packet is taken to cost: a waiting small
    /// packet must not occupy a large packet's memory.
    fn spare_for(&mut self, len: usize) -> Private {
        let fits = |spare: &Private| {
            spare.capacity().checked_sub(len).is_some_and(|more| more as u64 <= OVERHEAD)
        };
        self.spare.pop().filter(fits).unwrap_or_default()
    }

    /// Puts a packet into the place that was reserved for it.
    pub fn fill(&mut self, held: Held) {
        if let Some(slot) = self.waiting.get_mut(&held.idx) {
            *slot = Some(held);
        }
    }

    /// The next packet in order, if it has come.
    pub fn take(&mut self) -> Option<Held> {
        let first = self.waiting.first_entry().filter(|first| *first.key() == self.next)?;
        first.get().as_ref()?;
        let held = first.remove()?;
        self.next += 1;
        Some(held)
    }

    /// Says that a packet is no longer needed: there is room again.
    pub fn done(&mut self, held: Held) {
        self.queued = self.queued.saturating_sub(held.bytes.len() as u64 + OVERHEAD);
        let fits = self.taken() + held.bytes.capacity() as u64 <= self.limits.max_queued;
        if self.spare.len() < SPARES && !held.config && fits {
            // If there is no room to keep it, it is freed.
            let _ = alloc::push(&mut self.spare, held.bytes, "");
        }
    }

    /// Gives all memory back.
    pub fn clear(&mut self) {
        self.waiting = BTreeMap::new();
        self.spare = Vec::new();
        self.queued = 0;
    }

    /// Bytes that wait or are being written, including what each packet is taken to cost.
    pub fn queued(&self) -> u64 {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn window(limits: PacketLimits) -> Window {
        Window::new(limits, Arc::new(Quota::new(1 << 40)))
    }

    fn data(idx: u32, bytes: &[u8]) -> Packet<'_> {
        Packet { idx, config: false, bytes }
    }

    fn put(window: &mut Window, packet: &Packet<'_>) -> Result<bool> {
        let Some(reserved) = window.reserve(packet)? else { return Ok(false) };
        window.fill(reserved.copy(packet)?);
        Ok(true)
    }

    #[test]
    fn a_place_that_is_reserved_and_not_filled_yet_holds_up_what_is_behind_it() {
        let mut window = window(PacketLimits::default());
        let first = window.reserve(&data(0, b"a")).unwrap().unwrap();
        assert!(put(&mut window, &data(1, b"b")).unwrap());
        assert!(window.take().is_none());
        assert_eq!(window.reserve(&data(0, b"a")).unwrap_err().code(), Code::Proto);
        window.fill(first.copy(&data(0, b"a")).unwrap());
        assert_eq!(window.take().unwrap().bytes[..], *b"a");
        assert_eq!(window.take().unwrap().bytes[..], *b"b");
        assert!(window.take().is_none());
        assert_eq!(window.reserve(&data(1, b"b")).unwrap_err().code(), Code::Proto);
    }

    #[test]
    fn what_is_refused_takes_nothing_of_the_quotas() {
        let quota = Arc::new(Quota::new(10));
        let limits = PacketLimits { max_data: 6, max_ahead: 3, ..PacketLimits::default() };
        let mut window = Window::new(limits, Arc::clone(&quota));
        for (idx, len) in [(4, 1), (u32::MAX, 1), (u32::MAX - 1, 1), (0, 7)] {
            assert_eq!(
                window.reserve(&data(idx, &[0; 9][..len])).unwrap_err().code(),
                Code::MsgSize
            );
        }
        assert_eq!((window.queued(), window.waiting.len()), (0, 0));
        // Nothing could follow the last number, whatever the limit is.
        let anywhere = PacketLimits { max_ahead: u32::MAX, ..limits };
        let mut boundless = Window::new(anywhere, Arc::clone(&quota));
        assert!(boundless.reserve(&data(u32::MAX, b"x")).is_err());
        assert!(put(&mut window, &data(3, &[0; 6])).unwrap());
        assert_eq!(window.reserve(&data(2, &[0; 5])).unwrap_err().code(), Code::MsgSize);
        quota.claim(4).unwrap();
        assert!(quota.claim(1).is_err());
    }

    #[test]
    fn room_comes_back_with_what_is_done_and_not_before() {
        let mut window = window(PacketLimits { max_queued: 300, ..PacketLimits::default() });
        for idx in 0..2 {
            assert!(put(&mut window, &data(idx, b"x")).unwrap());
        }
        assert!(!put(&mut window, &data(2, b"x")).unwrap());
        let held = window.take().unwrap();
        assert!(!put(&mut window, &data(2, b"x")).unwrap());
        window.done(held);
        assert!(put(&mut window, &data(2, b"x")).unwrap());
        assert!(!put(&mut window, &data(3, b"x")).unwrap());
    }

    /// What is held for packets that wait, in bytes.
    fn held(window: &Window) -> u64 {
        window.waiting.values().flatten().map(|held| held.bytes.capacity() as u64).sum()
    }

    #[test]
    fn small_packets_do_not_hold_the_memory_of_large_ones() {
        let mut window = window(PacketLimits::default());
        let large = vec![7; 100_000];
        for idx in 0..50 {
            assert!(put(&mut window, &data(idx, &large)).unwrap());
            let first = window.take().unwrap();
            window.done(first);
            assert!(put(&mut window, &data(1000 + idx, b"x")).unwrap());
            assert!(held(&window) <= window.queued(), "{} {}", held(&window), window.queued());
        }
        // Packets of one size reuse the same memory.
        assert!(put(&mut window, &data(50, &large)).unwrap());
        let first = window.take().unwrap();
        window.done(first);
        let reserved = window.reserve(&data(51, &large)).unwrap().unwrap();
        assert_eq!(reserved.buffer.capacity(), large.len());
    }

    proptest! {
        /// Whatever comes: in order, once each, within the limits; the configuration last.
        #[test]
        fn any_packets_are_put_in_order_or_refused(
            sent in proptest::collection::vec((0u32..40, 0usize..50, any::<bool>(), 0u8..20), 0..120),
        ) {
            let limits = PacketLimits { max_data: 40, max_config: 40, max_ahead: 20, max_queued: 1500 };
            let mut window = window(limits);
            let (mut came, mut last) = (vec![], None);
            for (idx, len, take, kind) in sent {
                let bytes = vec![idx as u8; len];
                let packet = Packet { idx, config: kind == 0, bytes: &bytes };
                let known = came.contains(&idx) || window.waiting.contains_key(&idx);
                let behind = last.is_some_and(|last| idx > last);
                match put(&mut window, &packet) {
                    Ok(true) => {
                        prop_assert!(!known && !behind && len <= 40);
                        if packet.config {
                            prop_assert!(last.replace(idx).is_none());
                            prop_assert!(window.waiting.keys().all(|other| *other <= idx));
                        }
                    }
                    Ok(false) => prop_assert!(idx != window.next && window.queued() > 1300),
                    Err(error) => prop_assert!(
                        matches!(error.code(), Code::Proto | Code::MsgSize),
                        "{}", error
                    ),
                }
                prop_assert!(window.queued() <= 1500 + 40 + OVERHEAD);
                if take {
                    if let Some(held) = window.take() {
                        prop_assert_eq!(held.idx as usize, came.len());
                        prop_assert!(held.bytes.iter().all(|byte| u32::from(*byte) == held.idx));
                        came.push(held.idx);
                        window.done(held);
                    }
                }
            }
        }
    }
}
