// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handles: what C holds in a `struct vfiomig_device *` and its siblings.
//!
//! A handle looks like a pointer and is none: it is the number of a slot with the slot's
//! generation. So a freed handle, a handle of another kind and any garbage are recognised without
//! touching memory that may not be there, and a handle used by two threads at once gets -EBUSY.
//! The slots live in static chunks that are never given back.
//!
//! A slot remembers its process. In a child after fork() it is never looked into: a lock in it may
//! be held for ever, and what it holds is the parent's. The child's own handles get fresh slots.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{PoisonError, TryLockError};

use crate::alloc;
use crate::device::Device;
use crate::dirty::Run;
use crate::error::{Error, Result, err, of_another_process};
use crate::session::{Load, Packets, Save, Shared};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::{PerProcess, Process};

/// Which object a handle names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Device = 1,
    Save = 2,
    Load = 3,
    Dirty = 4,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Device => "device",
            Kind::Save => "save",
            Kind::Load => "load",
            Kind::Dirty => "dirty",
        }
    }
}

/// What a slot holds.
pub(super) enum Object {
    Device(Device),
    Save(Box<Save>),
    Load(Box<Load>),
    Dirty(Box<Run>),
}

impl Object {
    fn kind(&self) -> Kind {
        match self {
            Object::Device(_) => Kind::Device,
            Object::Save(_) => Kind::Save,
            Object::Load(_) => Kind::Load,
            Object::Dirty(_) => Kind::Dirty,
        }
    }

    /// Does what dropping it would have to wait for, or fails.
    fn end(&mut self) -> Result<()> {
        match self {
            Object::Device(_) => Ok(()),
            Object::Save(save) => save.end(),
            Object::Load(load) => load.end(),
            Object::Dirty(run) => run.stop(),
        }
    }
}

struct Slot {
    /// Rises when the slot is freed: handles of the past do not match any more.
    generation: AtomicU32,
    /// Next free slot, while this one is free.
    next_free: AtomicU32,
    /// Number of the process that used it last.
    owner: AtomicU32,
    object: Mutex<Option<Object>>,
    /// What other threads may use while a call is under way.
    shared: Mutex<Option<Shared>>,
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            generation: AtomicU32::new(0),
            next_free: AtomicU32::new(NONE),
            owner: AtomicU32::new(Process::NONE),
            object: Mutex::new(None),
            shared: Mutex::new(None),
        }
    }
}

/// Slots that cost no allocation: enough for a VM with many devices.
const FIRST: usize = 64;
const CHUNK: usize = 256;
const CHUNKS: usize = 255;

static SLOTS: [Slot; FIRST] = [const { Slot::new() }; FIRST];
/// NULL, or CHUNK slots that are never given back.
static MORE: [AtomicPtr<Slot>; CHUNKS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];

/// The end of the list of free slots.
const NONE: u32 = u32::MAX;

/// Slots that were used and are free again, the one that has been free for longest first: the later
/// a slot is used again, the longer a handle of the past is recognised.
struct Free {
    head: u32,
    tail: u32,
    len: u32,
}

/// A slot is used again when this many are free, or when there is no other.
const RESTING: u32 = 32;

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

/// A child's list begins empty: another thread may have been at its parent's.
static FREE: PerProcess<Mutex<Free>> = PerProcess::new(Mutex::new(Free::EMPTY));

/// Slots that were ever used, here or in the process that this one was forked from: those from here
/// on are fresh.
static USED: AtomicU32 = AtomicU32::new(0);

fn free_slots() -> MutexGuard<'static, Free> {
    let list = FREE.get(|_| Mutex::new(Free::EMPTY));
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot(index: u32) -> Option<&'static Slot> {
    let index = index as usize;
    let Some(beyond) = index.checked_sub(FIRST) else { return SLOTS.get(index) };
    let chunk = MORE.get(beyond / CHUNK)?.load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: `grow_to` has put CHUNK slots there, for good.
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
fn fresh_slot() -> Result<(u32, &'static Slot)> {
    let index = USED.load(Ordering::Relaxed);
    if index as usize > bits::INDEX_MASK {
        return Err(too_many());
    }
    let slot = grow_to(index)?;
    USED.store(index + 1, Ordering::Relaxed);
    Ok((index, slot))
}

/// A slot for a new handle, and its number.
fn take_slot() -> Result<(u32, &'static Slot)> {
    let mut free = free_slots();
    if free.len >= RESTING {
        if let Some(rested) = free.take() {
            return Ok(rested);
        }
    }
    // Rather one that has not rested than none.
    fresh_slot().or_else(|error| free.take().ok_or(error))
}

/// How a handle is put together: from bit 8 the slot, from bit 24 its generation, from bit 4 the
/// kind. On x86-64 the top makes it an address that faults when it is dereferenced.
#[cfg(target_pointer_width = "64")]
mod bits {
    pub(super) const MARK: usize = 0x5a << 56;
    pub(super) const GENERATION_SHIFT: u32 = 24;
    pub(super) const GENERATION_MASK: u32 = u32::MAX;
    pub(super) const INDEX_SHIFT: u32 = 8;
    pub(super) const INDEX_MASK: usize = 0xffff;
}
#[cfg(not(target_pointer_width = "64"))]
mod bits {
    pub(super) const MARK: usize = 0x8;
    pub(super) const GENERATION_SHIFT: u32 = 20;
    pub(super) const GENERATION_MASK: u32 = 0xfff;
    pub(super) const INDEX_SHIFT: u32 = 8;
    pub(super) const INDEX_MASK: usize = 0xfff;
}

fn encode(kind: Kind, index: u32, generation: u32) -> usize {
    bits::MARK
        | ((generation & bits::GENERATION_MASK) as usize) << bits::GENERATION_SHIFT
        | (index as usize) << bits::INDEX_SHIFT
        | (kind as usize) << 4
}

/// Puts an object into a slot; returns its handle.
pub(super) fn insert(object: Object, shared: Option<Shared>) -> Result<usize> {
    let kind = object.kind();
    let (index, slot) = take_slot()?;
    slot.owner.store(Process::this().number(), Ordering::Relaxed);
    *slot.object.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
    *slot.shared.lock().unwrap_or_else(PoisonError::into_inner) = shared;
    Ok(encode(kind, index, slot.generation.load(Ordering::Acquire)))
}

/// Whether a handle of this kind names the slot as it is now.
fn names(handle: usize, kind: Kind, slot: &Slot) -> bool {
    let index = ((handle >> bits::INDEX_SHIFT) & bits::INDEX_MASK) as u32;
    encode(kind, index, slot.generation.load(Ordering::Acquire)) == handle
}

fn find(handle: usize, kind: Kind) -> Result<(u32, &'static Slot)> {
    if handle == 0 {
        return Err(err!(Fault, "the {} handle is NULL", kind.name()));
    }
    let index = ((handle >> bits::INDEX_SHIFT) & bits::INDEX_MASK) as u32;
    match slot(index).filter(|slot| names(handle, kind, slot)) {
        Some(slot) if Process::from_number(slot.owner.load(Ordering::Relaxed)).is_this() => {
            Ok((index, slot))
        }
        Some(_) => Err(of_another_process(format_args!("{} handle", kind.name()))),
        None => Err(err!(
            BadHandle,
            "not a live {} handle: freed, of another kind, or never one",
            kind.name()
        )),
    }
}

fn gone(kind: Kind) -> Error {
    err!(BadHandle, "the {} handle has been freed", kind.name())
}

fn not_freed(kind: Kind) -> Error {
    let error = err!(Busy, "a call is inside this {} handle or its device: not freed", kind.name());
    ::log::error!(target: "vfiomig::capi", "in a callback: {error}");
    error
}

/// A handle's object, in exclusive use.
pub(super) struct Entered(MutexGuard<'static, Option<Object>>);

impl Entered {
    pub(super) fn object(&mut self) -> Option<&mut Object> {
        self.0.as_mut()
    }
}

/// Takes exclusive use of a handle's object, or says why not. With `wait`, waits for another call
/// instead of refusing.
pub(super) fn enter(handle: usize, kind: Kind, wait: bool) -> Result<Entered> {
    let (_, slot) = find(handle, kind)?;
    let locked = match wait {
        true => slot.object.lock().map_err(TryLockError::Poisoned),
        false => slot.object.try_lock(),
    };
    let object = match locked {
        Ok(object) => object,
        Err(TryLockError::WouldBlock) => {
            return Err(err!(Busy, "another call is using this {} handle", kind.name()));
        }
        Err(TryLockError::Poisoned(_)) => {
            return Err(err!(
                NotRecoverable,
                "an earlier internal error has poisoned this {} handle; free it",
                kind.name()
            ));
        }
    };
    // Looked at again: while this one waited, the slot may have been freed and used anew.
    if object.as_ref().is_none_or(|object| object.kind() != kind) || !names(handle, kind, slot) {
        return Err(gone(kind));
    }
    Ok(Entered(object))
}

/// The device behind a handle.
pub(super) fn device(handle: usize) -> Result<Device> {
    match enter(handle, Kind::Device, false)?.object() {
        Some(Object::Device(device)) => Ok(device.clone()),
        _ => Err(gone(Kind::Device)),
    }
}

/// Runs `call`, which is short, with the part of a session that may be used while another call is
/// inside.
pub(super) fn with_shared<R>(
    handle: usize,
    kind: Kind,
    call: impl FnOnce(&Shared) -> Result<R>,
) -> Result<R> {
    let (_, slot) = find(handle, kind)?;
    let shared = slot.shared.lock().unwrap_or_else(PoisonError::into_inner);
    // Looked at again: the slot may have been freed and used anew in between.
    if !names(handle, kind, slot) {
        return Err(gone(kind));
    }
    call(shared.as_ref().ok_or_else(|| gone(kind))?)
}

/// Takes the object out of its slot and frees the slot. Waits for a call that is inside, or refuses.
pub(super) fn remove(handle: usize, kind: Kind, may_wait: bool) -> Result<Object> {
    let (index, slot) = find(handle, kind)?;
    let mut guard = match slot.object.try_lock() {
        Err(TryLockError::WouldBlock) if may_wait => {
            slot.object.lock().unwrap_or_else(PoisonError::into_inner)
        }
        Err(TryLockError::WouldBlock) => return Err(not_freed(kind)),
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
    };
    if guard.as_ref().is_none_or(|object| object.kind() != kind) || !names(handle, kind, slot) {
        return Err(gone(kind));
    }
    // A callback must not wait for calls that work beside the object either: one may be its own.
    let shared = slot.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let in_use = shared.as_ref().and_then(Shared::packets).is_some_and(Packets::in_use);
    drop(shared);
    if in_use && !may_wait {
        return Err(not_freed(kind));
    }
    if let (false, Some(object)) = (may_wait, guard.as_mut()) {
        object.end().map_err(|_| not_freed(kind))?;
    }
    let object = guard.take();
    slot.generation.fetch_add(1, Ordering::Release);
    *slot.shared.lock().unwrap_or_else(PoisonError::into_inner) = None;
    drop(guard);
    slot.object.clear_poison();
    free_slots().put(index, slot);
    object.ok_or_else(|| gone(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::device::DeviceOptions;
    use crate::error::Code;
    use crate::transport::OpsTransport;

    fn code<T>(result: Result<T>) -> Code {
        result.err().unwrap().code()
    }

    fn device() -> Object {
        // SAFETY: a table without callbacks; all zeros is a valid one.
        let transport = unsafe { OpsTransport::new(std::mem::zeroed(), std::ptr::null_mut()) };
        Object::Device(Device::new(transport, DeviceOptions::default()).unwrap())
    }

    fn numbers() -> Shared {
        Shared::Dirty(Cancel::default())
    }

    /// Runs `call` on a thread, and `change` when that thread sleeps: it waits for a lock then.
    fn while_it_waits<R: Send + 'static>(
        call: impl FnOnce() -> R + Send + 'static,
        change: impl FnOnce(),
    ) -> R {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: touches no memory.
            send.send(unsafe { libc::gettid() }).unwrap();
            call()
        });
        let status = format!("/proc/self/task/{}/stat", receive.recv().unwrap());
        let sleeps = || std::fs::read_to_string(&status).is_ok_and(|stat| stat.contains(") S "));
        let mut seen = 0;
        while seen < 5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            seen = if sleeps() { seen + 1 } else { 0 };
        }
        change();
        thread.join().unwrap()
    }

    /// What freeing a slot and using it anew for an object of the same kind does to it.
    fn use_anew(slot: &Slot, object: &mut Option<Object>) {
        *object = Some(device());
        slot.generation.fetch_add(1, Ordering::Release);
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_slot_that_was_used_anew_while_a_call_waited_is_not_the_calls() {
        let handle = insert(device(), None).unwrap();
        let (index, slot) = find(handle, Kind::Device).unwrap();
        let mut object = slot.object.lock().unwrap();
        let enters = move || code(enter(handle, Kind::Device, true).map(drop));
        let entered = while_it_waits(enters, || {
            use_anew(slot, &mut object);
            drop(object);
        });
        assert_eq!(entered, Code::BadHandle);
        let anew = encode(Kind::Device, index, slot.generation.load(Ordering::Acquire));
        assert!(enter(anew, Kind::Device, true).is_ok());
        let mut object = slot.object.lock().unwrap();
        let removed = while_it_waits(
            move || code(remove(anew, Kind::Device, true).map(drop)),
            || {
                use_anew(slot, &mut object);
                drop(object);
            },
        );
        assert_eq!(removed, Code::BadHandle);
        let last = encode(Kind::Device, index, slot.generation.load(Ordering::Acquire));
        assert!(remove(last, Kind::Device, true).is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn the_shared_part_of_a_slot_that_was_used_anew_meanwhile_is_not_the_calls() {
        let handle = insert(device(), Some(numbers())).unwrap();
        let (index, slot) = find(handle, Kind::Device).unwrap();
        let mut shared = slot.shared.lock().unwrap();
        let reads = move || code(with_shared(handle, Kind::Device, |_| Ok(())));
        let read = while_it_waits(reads, || {
            *shared = Some(numbers());
            slot.generation.fetch_add(1, Ordering::Release);
            drop(shared);
        });
        assert_eq!(read, Code::BadHandle);
        let anew = encode(Kind::Device, index, slot.generation.load(Ordering::Acquire));
        assert!(with_shared(anew, Kind::Device, |_| Ok(())).is_ok());
        assert!(remove(anew, Kind::Device, true).is_ok());
    }

    #[test]
    fn a_slot_is_used_again_after_many_others() {
        let first = insert(device(), None).unwrap();
        let (index, _) = find(first, Kind::Device).unwrap();
        assert!(remove(first, Kind::Device, true).is_ok());
        // Other tests take slots meanwhile: half of them are theirs.
        for _ in 0..RESTING / 2 {
            let handle = insert(device(), None).unwrap();
            assert_ne!(find(handle, Kind::Device).unwrap().0, index);
            assert!(remove(handle, Kind::Device, true).is_ok());
        }
    }

    #[test]
    fn null_garbage_and_misaligned_numbers_are_no_handles() {
        assert_eq!(code(enter(0, Kind::Device, false)), Code::Fault);
        for garbage in [1, 8, 4096, usize::MAX, 0x5a << 56, (0x5a << 56) | 0xffff_ff10, 0x7fff_1234]
        {
            assert_eq!(code(enter(garbage, Kind::Device, false)), Code::BadHandle, "{garbage:#x}");
            assert_eq!(code(remove(garbage, Kind::Save, true)), Code::BadHandle);
            assert_eq!(code(with_shared(garbage, Kind::Load, |_| Ok(()))), Code::BadHandle);
        }
    }
}
