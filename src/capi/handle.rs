// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handles: what C holds in a `struct vfiomig_device *` and its siblings.
//!
//! A handle looks like a pointer but is not one: it is the number of a slot together with the
//! slot's generation. So the library recognises a freed handle, a handle of another kind and any
//! garbage without touching memory that may not be there, and returns -EBUSY for a handle that two
//! threads use at once.
//!
//! This file does not know which kinds exist: each implements [`Handle`] in a folder of its own.
//!
//! A slot of another process is never looked into. After fork(), a lock in it may be held for ever
//! in the child, and what it holds belongs to the parent.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};

use super::row::Kind;
use super::slots::{self, Boxed, Held, MAX_INDEX, Shared, Slot};
use crate::error::{Error, Result, err, of_another_process};
use crate::sync::MutexGuard;
use crate::sys::Process;

/// A type that C holds pointers to, and what is behind them.
pub(super) trait Handle: 'static {
    /// Its row in the table.
    const KIND: &'static Kind;
    /// What a handle stands for.
    type Object: Send + 'static;
    /// The part of it that any thread may use during another call.
    type Shared: Send + 'static;

    /// The bit number of the current state.
    fn state(object: &Self::Object) -> u32;

    /// What ended the object's work, if a call in a wrong state should report that.
    fn ended_by(_object: &Self::Object) -> Option<Error> {
        None
    }

    /// Does what dropping it would have to wait for, or fails.
    fn end(_object: &mut Self::Object) -> Result<()> {
        Ok(())
    }

    /// Whether a call is using the shared part now.
    fn in_use(_shared: &Self::Shared) -> bool {
        false
    }
}

/// The object of a handle in its slot.
struct ObjectOf<H: Handle>(H::Object);

impl<H: Handle> Held for ObjectOf<H> {
    fn end(&mut self) -> Result<()> {
        H::end(&mut self.0)
    }
}

/// The shared part of a handle's object in its slot.
struct SharedOf<H: Handle>(H::Shared);

impl<H: Handle> Shared for SharedOf<H> {
    fn in_use(&self) -> bool {
        H::in_use(&self.0)
    }
}

/// What a handle consists of: the kind from bit 4 on, the slot from bit 8 on, and the slot's
/// generation from bit 24 on. On x86-64 the top bits make it an address that faults when it is
/// dereferenced.
#[cfg(target_pointer_width = "64")]
mod bits {
    pub(super) const MARK: usize = 0x5a << 56;
    pub(super) const GENERATION_SHIFT: u32 = 24;
    pub(super) const GENERATION_MASK: u32 = u32::MAX;
}
#[cfg(not(target_pointer_width = "64"))]
mod bits {
    pub(super) const MARK: usize = 0x8;
    pub(super) const GENERATION_SHIFT: u32 = 20;
    pub(super) const GENERATION_MASK: u32 = 0xfff;
}
const INDEX_SHIFT: u32 = 8;
const KIND_SHIFT: u32 = 4;
const _: () = assert!(MAX_INDEX < 1 << (bits::GENERATION_SHIFT - INDEX_SHIFT));

fn encode(kind: &Kind, index: u32, generation: u32) -> usize {
    bits::MARK
        | ((generation & bits::GENERATION_MASK) as usize) << bits::GENERATION_SHIFT
        | (index as usize) << INDEX_SHIFT
        | (kind.number as usize) << KIND_SHIFT
}

fn index_in(handle: usize) -> u32 {
    ((handle >> INDEX_SHIFT) & MAX_INDEX) as u32
}

/// Puts an object into a slot; returns its handle.
pub(super) fn insert<H: Handle>(object: H::Object, shared: H::Shared) -> Result<*mut H> {
    let object = Boxed::<dyn Held>::new(ObjectOf::<H>(object));
    let shared = Boxed::<dyn Shared>::new(SharedOf::<H>(shared));
    let (index, slot) = slots::take()?;
    slot.owner.store(Process::this().number(), Ordering::Relaxed);
    *slot.object.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
    *slot.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared);
    let handle = encode(H::KIND, index, slot.generation.load(Ordering::Acquire));
    Ok(std::ptr::without_provenance_mut(handle))
}

/// Whether a handle of this kind names the slot as it is now.
fn names(handle: usize, kind: &Kind, slot: &Slot) -> bool {
    encode(kind, index_in(handle), slot.generation.load(Ordering::Acquire)) == handle
}

/// Why a handle cannot be used. Every call passes a result with it on, so it is small; the text is
/// made only where a call fails.
#[derive(Clone, Copy)]
enum Refused {
    Null,
    NotLive,
    AnotherProcess,
    InUse,
    Poisoned,
    Freed,
}

impl Refused {
    #[cold]
    fn error(self, kind: &Kind) -> Error {
        let name = kind.name;
        match self {
            Refused::Null => err!(Fault, "the {name} handle is NULL"),
            Refused::NotLive => {
                err!(BadHandle, "not a live {name} handle: freed, of another kind, or never one")
            }
            Refused::AnotherProcess => of_another_process(format_args!("{name} handle")),
            Refused::InUse => err!(Busy, "another call is using this {name} handle"),
            Refused::Poisoned => err!(
                NotRecoverable,
                "an earlier internal error has poisoned this {name} handle; free it"
            ),
            Refused::Freed => err!(BadHandle, "the {name} handle has been freed"),
        }
    }
}

#[inline]
fn find(handle: usize, kind: &Kind) -> Result<(u32, &'static Slot), Refused> {
    let index = index_in(handle);
    match slots::slot(index).filter(|slot| names(handle, kind, slot)) {
        Some(slot) if Process::from_number(slot.owner.load(Ordering::Relaxed)).is_this() => {
            Ok((index, slot))
        }
        Some(_) => Err(Refused::AnotherProcess),
        None if handle == 0 => Err(Refused::Null),
        None => Err(Refused::NotLive),
    }
}

fn not_freed(kind: &Kind) -> Error {
    let error = err!(Busy, "a call is using this {} handle or its device: not freed", kind.name);
    ::log::error!(target: "vfiomig::capi", "in a callback: {error}");
    error
}

type Locked = MutexGuard<'static, Option<Boxed<dyn Held>>>;

fn object_in<H: Handle>(locked: &mut Locked) -> Option<&mut H::Object> {
    Some(&mut locked.as_mut()?.get::<ObjectOf<H>>()?.0)
}

/// A handle's object, in exclusive use.
pub(super) struct Entered<H>(Locked, PhantomData<fn() -> H>);

impl<H: Handle> Entered<H> {
    #[inline]
    pub(super) fn object(&mut self) -> Result<&mut H::Object> {
        object_in::<H>(&mut self.0).ok_or_else(|| Refused::Freed.error(H::KIND))
    }
}

/// Takes exclusive use of a handle's object, or says why that is not possible. With `wait`, waits
/// for another call instead of refusing.
#[inline]
pub(super) fn enter<H: Handle>(handle: *mut H, wait: bool) -> Result<Entered<H>> {
    match lock(handle.addr(), H::KIND, wait) {
        Ok(locked) => Ok(Entered(locked, PhantomData)),
        Err(refused) => Err(refused.error(H::KIND)),
    }
}

#[inline]
fn lock(handle: usize, kind: &Kind, wait: bool) -> Result<Locked, Refused> {
    let (_, slot) = find(handle, kind)?;
    if slot.is_leaving() {
        return Err(Refused::Freed);
    }
    let locked = match wait {
        true => slot.object.lock().map_err(TryLockError::Poisoned),
        false => slot.object.try_lock(),
    };
    let object = locked.map_err(|error| match error {
        TryLockError::WouldBlock => Refused::InUse,
        TryLockError::Poisoned(_) => Refused::Poisoned,
    })?;
    // Check again: while this call waited, the slot may have been freed and reused.
    if names(handle, kind, slot) { Ok(object) } else { Err(Refused::Freed) }
}

/// A copy of what a handle stands for.
pub(super) fn copy<H: Handle<Object: Clone>>(handle: *mut H) -> Result<H::Object> {
    enter(handle, false)?.object().cloned()
}

/// Runs `call`, which is short, with the part of an object that may be used during another call.
pub(super) fn with_shared<H: Handle, R>(
    handle: *mut H,
    call: impl FnOnce(&H::Shared) -> Result<R>,
) -> Result<R> {
    let (handle, kind) = (handle.addr(), H::KIND);
    let (_, slot) = find(handle, kind).map_err(|refused| refused.error(kind))?;
    let shared = slot.shared.lock().unwrap_or_else(PoisonError::into_inner);
    // Check again: the slot may have been freed and reused in between.
    let live = shared.as_ref().filter(|_| names(handle, kind, slot));
    match live.and_then(|shared| shared.get::<SharedOf<H>>()) {
        Some(shared) => call(&shared.0),
        None => Err(Refused::Freed.error(kind)),
    }
}

/// Frees the slot and drops its object. Waits for a call that is using it, or refuses.
pub(super) fn remove<H: Handle>(handle: *mut H, may_wait: bool) -> Result<()> {
    let (handle, kind) = (handle.addr(), H::KIND);
    let (index, slot) = find(handle, kind).map_err(|refused| refused.error(kind))?;
    let generation = slot.generation.load(Ordering::Acquire);
    if encode(kind, index, generation) != handle {
        return Err(Refused::Freed.error(kind));
    }
    let mut guard = match slot.object.try_lock() {
        Err(TryLockError::WouldBlock) if may_wait => {
            slot.leave(generation);
            slot.object.lock().unwrap_or_else(PoisonError::into_inner)
        }
        Err(TryLockError::WouldBlock) => return Err(not_freed(kind)),
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
    };
    if object_in::<H>(&mut guard).is_none() || !names(handle, kind, slot) {
        return Err(Refused::Freed.error(kind));
    }
    // A callback must not wait for calls on the object's shared part either: one may be its own.
    let shared = slot.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let in_use = shared.as_ref().is_some_and(Boxed::<dyn Shared>::in_use);
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
    slots::put(index, slot);
    // Last, and without any lock of the slot: it may take a long time, and it calls back.
    drop(object);
    Ok(())
}

#[cfg(test)]
mod tests;
