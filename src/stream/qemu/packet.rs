//! Packets of the stopped device's state, which come over several channels in any order.
//!
//! [`Window`] puts them in order. What a packet may cost is checked before anything is allocated
//! for it: how far it may be ahead, how much may wait, how much may come in all. Nothing here
//! waits; that is the session's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CONFIG_STATE, END_OF_STATE, PACKET_CONFIG, PACKET_HEAD, PACKET_VERSION, Quota};
use crate::error::{Result, err};

/// What a packet that waits is taken to cost besides its data, in bytes: so that many small ones
/// are not free.
const OVERHEAD: u64 = 128;

/// Buffers that are kept for the next packets. Fresh memory of this size comes from the kernel page
/// by page.
const SPARES: usize = 8;

/// What the packets of one load may ask for.
#[derive(Clone, Copy, Debug)]
pub struct PacketLimits {
    /// Data of one packet, in bytes.
    pub max_data: u32,
    /// The configuration, in bytes.
    pub max_config: u32,
    /// How far ahead of the next one in order a packet may come.
    pub max_ahead: u32,
    /// Bytes that wait for their turn; more than that waits outside.
    pub max_queued: u64,
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

/// A packet, as far as it can be judged alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Its place: 0, 1, 2…
    pub idx: u32,
    /// Whether it is the last one, with the configuration instead of data.
    pub config: bool,
    /// Device data, or the configuration without its tags.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes a packet apart.
    pub fn parse(packet: &'a [u8]) -> Result<Packet<'a>> {
        let Some((head, bytes)) = packet.split_first_chunk::<PACKET_HEAD>() else {
            return Err(err!(Proto, "a packet of {} bytes has no head", packet.len()));
        };
        let [v0, v1, v2, v3, i0, i1, i2, i3, f0, f1, f2, f3] = *head;
        let (version, idx) =
            (u32::from_be_bytes([v0, v1, v2, v3]), u32::from_be_bytes([i0, i1, i2, i3]));
        let flags = u32::from_be_bytes([f0, f1, f2, f3]);
        if version != PACKET_VERSION {
            return Err(err!(Proto, "a packet is of version {version}"));
        }
        if flags & !PACKET_CONFIG != 0 {
            return Err(err!(Proto, "packet {idx} has unknown flags {flags:#x}"));
        }
        if bytes.is_empty() {
            return Err(err!(Proto, "packet {idx} is empty"));
        }
        if flags == 0 {
            return Ok(Packet { idx, config: false, bytes });
        }
        let inner = bytes
            .strip_prefix(&CONFIG_STATE.to_be_bytes())
            .and_then(|rest| rest.strip_suffix(&END_OF_STATE.to_be_bytes()));
        let inner = inner.ok_or_else(|| {
            err!(Proto, "the configuration in packet {idx} does not lie between its tags")
        })?;
        Ok(Packet { idx, config: true, bytes: inner })
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
    pub bytes: Vec<u8>,
}

/// A place that was taken for a packet, and memory for it. Bring it back with [`Window::fill`].
#[derive(Debug)]
pub struct Reserved {
    idx: u32,
    config: bool,
    buffer: Vec<u8>,
}

impl Reserved {
    /// Copies the packet; may take its time, away from the window.
    pub fn copy(mut self, packet: &Packet<'_>) -> Result<Held> {
        self.buffer.clear();
        self.buffer
            .try_reserve_exact(packet.bytes.len())
            .map_err(|_| err!(NoMem, "no memory for a packet of {} bytes", packet.bytes.len()))?;
        self.buffer.extend_from_slice(packet.bytes);
        Ok(Held { idx: self.idx, config: self.config, bytes: self.buffer })
    }
}

/// Puts packets in order.
pub struct Window {
    limits: PacketLimits,
    quota: Arc<Quota>,
    /// Next in order.
    next: u32,
    /// Place of the configuration, once it has come.
    last: Option<u32>,
    /// The highest place that was taken.
    highest: Option<u32>,
    /// Those that wait; `None` while their contents are being copied.
    waiting: BTreeMap<u32, Option<Held>>,
    /// What waits or is being written, overheads included, in bytes.
    queued: u64,
    spare: Vec<Vec<u8>>,
    packets: u64,
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
            packets: 0,
        }
    }

    /// Takes a place for a packet. `None`: there is no room now; try again when [`Window::done`]
    /// has been called. Nothing is allocated but the place.
    pub fn reserve(&mut self, packet: &Packet<'_>) -> Result<Option<Reserved>> {
        let Packet { idx, config, bytes } = *packet;
        let len = bytes.len() as u64;
        if idx < self.next || self.waiting.contains_key(&idx) {
            return Err(err!(Proto, "packet {idx} came twice"));
        }
        if let Some(last) = self.last {
            return Err(match (config, idx > last) {
                (true, _) => err!(Proto, "a second configuration came, in packet {idx}"),
                (_, true) => err!(Proto, "packet {idx} came behind the last one, {last}"),
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
        let Packet { idx, config, .. } = *packet;
        // The last number has none behind it.
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
        // The next in order always has room: otherwise nothing would ever go on.
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
        self.packets += 1;
        let buffer = self.spare.pop().unwrap_or_default();
        Ok(Some(Reserved { idx, config, buffer }))
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

    /// Says that a packet is not needed any more: there is room again.
    pub fn done(&mut self, held: Held) {
        self.queued = self.queued.saturating_sub(held.bytes.len() as u64 + OVERHEAD);
        if self.spare.len() < SPARES && !held.config {
            self.spare.push(held.bytes);
        }
    }

    /// Gives all memory back.
    pub fn clear(&mut self) {
        self.waiting = BTreeMap::new();
        self.spare = Vec::new();
    }

    /// Packets that were accepted so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes that wait or are being written, with what each packet is taken to cost besides.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Memory that is held for packets, in bytes.
    pub fn memory(&self) -> u64 {
        let waiting = self.waiting.values().flatten().map(|held| held.bytes.capacity());
        let spare = self.spare.iter().map(Vec::capacity);
        waiting.chain(spare).map(|bytes| bytes as u64).sum()
    }
}
