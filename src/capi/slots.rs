// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the objects behind handles are kept: numbered slots, which know nothing about what they
//! hold.
//!
//! They are in static chunks that are never freed, so that any number that C passes can be looked
//! up. A slot remembers its process; a child after fork() gets fresh ones for its own handles.

use std::any::{Any, TypeId};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::alloc;
use crate::error::{Error, Result, err};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::{PerProcess, Process};

/// An object of any kind.
pub(super) trait Held: Any + Send {
    /// Does what dropping it would have to wait for, or fails.
    fn end(&mut self) -> Result<()>;
}

/// The part of an object that other threads may use during a call.
pub(super) trait Shared: Any + Send {
    /// Whether a call is using it now.
    fn in_use(&self) -> bool;
}

/// A box that knows the type of its value without a virtual call: every call on a handle asks.
pub(super) struct Boxed<T: ?Sized> {
    id: TypeId,
    value: Box<T>,
}

impl Boxed<dyn Held> {
    pub(super) fn new<T: Held>(value: T) -> Self {
        Boxed { id: TypeId::of::<T>(), value: Box::new(value) }
    }

    pub(super) fn get<T: Held>(&mut self) -> Option<&mut T> {
        // SAFETY: `new` put the type's own number next to its value, and nothing exchanges either.
        (self.id == TypeId::of::<T>())
            .then(|| unsafe { &mut *std::ptr::from_mut(&mut *self.value).cast::<T>() })
    }

    pub(super) fn end(&mut self) -> Result<()> {
        self.value.end()
    }
}

impl Boxed<dyn Shared> {
    pub(super) fn new<T: Shared>(value: T) -> Self {
        Boxed { id: TypeId::of::<T>(), value: Box::new(value) }
    }

    pub(super) fn get<T: Shared>(&self) -> Option<&T> {
        // SAFETY: as above.
        (self.id == TypeId::of::<T>())
            .then(|| unsafe { &*std::ptr::from_ref(&*self.value).cast::<T>() })
    }

    pub(super) fn in_use(&self) -> bool {
        self.value.in_use()
    }
}

pub(super) struct Slot {
    /// Rises when the slot is freed: older handles no longer match.
    pub generation: AtomicU32,
    /// One more than the generation that a thread is waiting to free; 0: none was.
    leaving: AtomicU64,
    /// Next free slot, while this one is free.
    next_free: AtomicU32,
    /// Number of the process that used it last.
    pub owner: AtomicU32,
    pub object: Mutex<Option<Boxed<dyn Held>>>,
    pub shared: Mutex<Option<Boxed<dyn Shared>>>,
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            generation: AtomicU32::new(0),
            leaving: AtomicU64::new(0),
            next_free: AtomicU32::new(NONE),
            owner: AtomicU32::new(Process::NONE),
            object: Mutex::new(None),
            shared: Mutex::new(None),
        }
    }

    /// From here on, calls with this generation's handle find it freed. Locks are not fair: a thread
    /// that makes one call after the other would keep the one that frees waiting for as long as it
    /// likes.
    pub(super) fn leave(&self, generation: u32) {
        self.leaving.store(u64::from(generation) + 1, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        let generation = self.generation.load(Ordering::Relaxed);
        self.leaving.load(Ordering::Relaxed) == u64::from(generation) + 1
    }
}

/// Slots that need no allocation: enough for a VM with many devices.
const FIRST: usize = 64;
const CHUNK: usize = 256;
const CHUNKS: usize = 255;

static SLOTS: [Slot; FIRST] = [const { Slot::new() }; FIRST];
/// NULL, or CHUNK slots that are never freed.
static MORE: [AtomicPtr<Slot>; CHUNKS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];

/// The highest number that a slot may have: as many as fit in a handle.
pub(super) const MAX_INDEX: usize = if size_of::<usize>() == 8 { 0xffff } else { 0xfff };

/// The end of the list of free slots.
const NONE: u32 = u32::MAX;

/// Slots that were used and are free again, the longest free first: the later a slot is reused, the
/// longer an old handle is recognised.
struct Free {
    head: u32,
    tail: u32,
    len: u32,
}

/// A slot is reused when this many are free, or when there is no other.
pub(super) const RESTING: u32 = 32;

impl Free {
    const EMPTY: Free = Free { head: NONE, tail: NONE, len: 0 };

    fn take(&mut self) -> Option<(u32, &'static Slot)> {
        let index = self.head;
        let slot = slot(index).filter(|_| self.len > 0)?;
        self.head = slot.next_free.load(Ordering::Relaxed);
        self.len -= 1;
        Some((index, slot))
    }

    fn put(&mut self, index: u32, freed: &Slot) {
        freed.next_free.store(NONE, Ordering::Relaxed);
        match slot(self.tail).filter(|_| self.len > 0) {
            Some(last) => last.next_free.store(index, Ordering::Relaxed),
            None => self.head = index,
        }
        self.tail = index;
        self.len += 1;
    }
}

/// A child's list begins empty: another thread of its parent may have been changing the parent's.
static FREE: PerProcess<Mutex<Free>> = PerProcess::new(Mutex::new(Free::EMPTY));

/// Slots that were ever used, here or in the process that forked this one; those from here on are
/// fresh.
static USED: AtomicU32 = AtomicU32::new(0);

fn free_slots() -> MutexGuard<'static, Free> {
    let list = FREE.get(|_| Mutex::new(Free::EMPTY));
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slot with this number, if it exists.
pub(super) fn slot(index: u32) -> Option<&'static Slot> {
    let index = index as usize;
    let Some(beyond) = index.checked_sub(FIRST) else { return SLOTS.get(index) };
    let chunk = MORE.get(beyond / CHUNK)?.load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: `grow_to` leaked each chunk that is not NULL, and it has CHUNK slots.
    Some(unsafe { &*chunk.add(beyond % CHUNK) })
}

/// Makes sure that a fresh slot exists; one thread at a time.
fn grow_to(index: u32) -> Result<&'static Slot> {
    if let (Some(beyond), None) = ((index as usize).checked_sub(FIRST), slot(index)) {
        let place = MORE.get(beyond / CHUNK).ok_or_else(too_many)?;
        let mut chunk = Vec::new();
        alloc::reserve(&mut chunk, CHUNK, "no memory for more handles")?;
        chunk.extend((0..CHUNK).map(|_| Slot::new()));
        place.store(chunk.leak().as_mut_ptr(), Ordering::Release);
    }
    slot(index).ok_or_else(too_many)
}

fn too_many() -> Error {
    err!(NoMem, "too many handles are in use")
}

/// A slot that was never used, and its number; one thread at a time.
fn fresh() -> Result<(u32, &'static Slot)> {
    let index = USED.load(Ordering::Relaxed);
    if index as usize > MAX_INDEX {
        return Err(too_many());
    }
    let slot = grow_to(index)?;
    USED.store(index + 1, Ordering::Relaxed);
    Ok((index, slot))
}

/// A slot for a new handle, and its number.
pub(super) fn take() -> Result<(u32, &'static Slot)> {
    let mut free = free_slots();
    if free.len >= RESTING {
        if let Some(rested) = free.take() {
            return Ok(rested);
        }
    }
    // A slot that has not rested is better than none.
    fresh().or_else(|error| free.take().ok_or(error))
}

/// Returns a slot, whose generation has risen.
pub(super) fn put(index: u32, slot: &Slot) {
    free_slots().put(index, slot);
}
