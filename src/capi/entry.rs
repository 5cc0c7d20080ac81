// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way in: every C function that works on a handle passes through here.
//!
//! The guard checks the handle, takes exclusive use of it, checks the state against the function's
//! row of `api.toml`, catches panics and turns errors into return values with a text.

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::errors::fail;
use super::handle::{self, Kind, Object};
use super::reserve;
use crate::device::Device;
use crate::dirty::Run;
use crate::error::{Code, Error, Result, err};
use crate::session::{Load, Save, Shared};
use crate::waiting::Nested;

/// A function's row, as the guards need it.
pub(super) struct Entry {
    /// Name in C.
    pub name: &'static str,
    /// States in which it is allowed: bits by the order of the object's states in `api.toml`.
    pub states: u32,
    /// What it returns in other states.
    pub wrong_state: Code,
    /// Whether it may return that there is no memory.
    pub needs_memory: bool,
}

/// An object that C has handles of.
pub(super) trait CObject: Sized {
    const KIND: Kind;
    /// Names of the states, in the order of their bits.
    const STATES: &'static [&'static str];
    fn of(object: &mut Object) -> Option<&mut Self>;
    /// The present state's bit number.
    fn state(&self) -> u32;
    /// What ended the object's work, where that is what a call in a wrong state is to hear.
    fn ended_by(&self) -> Option<Error> {
        None
    }
}

/// What a function returns when it succeeds.
pub(super) trait CReturn {
    fn to_ret(self) -> c_int;
}

impl CReturn for () {
    fn to_ret(self) -> c_int {
        0
    }
}

impl CReturn for c_int {
    fn to_ret(self) -> c_int {
        self
    }
}

/// What this thread is doing in the library.
#[derive(Clone, Copy)]
struct Calls {
    /// How many calls it is inside: more than one only in callbacks.
    depth: u32,
    /// How many of them have exclusive use of an object, which others may wait for.
    holding: u32,
}

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls { depth: 0, holding: 0 }) };
}

/// Counts a call for as long as it lasts.
struct Inside {
    /// One that was made in a callback does not wait for devices either, if the callback's own call
    /// holds something. The configuration's callback of packets alone does not.
    _nested: Option<Nested>,
}

impl Inside {
    fn new() -> Inside {
        let calls = CALLS.get();
        CALLS.set(Calls { depth: calls.depth.wrapping_add(1), ..calls });
        Inside { _nested: (calls.holding > 0).then(Nested::new) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let calls = CALLS.get();
        CALLS.set(Calls { depth: calls.depth.wrapping_sub(1), ..calls });
    }
}

/// Counts the exclusive use of an object.
struct Holding;

impl Holding {
    fn new() -> Holding {
        let calls = CALLS.get();
        CALLS.set(Calls { holding: calls.holding.wrapping_add(1), ..calls });
        Holding
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let calls = CALLS.get();
        CALLS.set(Calls { holding: calls.holding.wrapping_sub(1), ..calls });
    }
}

/// The caller's errno, put back in the end: what the library's system calls and the VMM's callbacks
/// make of it meanwhile is nobody's business.
pub(super) struct KeepErrno {
    at: *mut c_int,
    value: c_int,
}

impl KeepErrno {
    pub(super) fn new() -> KeepErrno {
        // SAFETY: touches nothing.
        let at = unsafe { libc::__errno_location() };
        // SAFETY: a variable of this thread, which lives as long as the thread.
        KeepErrno { at, value: unsafe { *at } }
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as above; a raw pointer keeps this value on its thread.
        unsafe { *self.at = self.value };
    }
}

/// Runs `call` behind the panic boundary, if there is memory for what it may need.
pub(super) fn guarded<R: CReturn>(entry: &Entry, call: impl FnOnce() -> Result<R>) -> c_int {
    guarded_owner(entry, || {
        if entry.needs_memory {
            reserve::admit()?;
        }
        call()
    })
}

/// The same for a call that owns something of the caller's from its first moment: it asks for
/// admission itself when it has that in its hands.
pub(super) fn guarded_owner<R: CReturn>(entry: &Entry, call: impl FnOnce() -> Result<R>) -> c_int {
    let _errno = KeepErrno::new();
    let _inside = Inside::new();
    // What a panic leaves half done is poisoned by the locks that it unwinds through.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => value.to_ret(),
        Ok(Err(error)) => fail(entry.name, &error),
        Err(_) => fail(entry.name, &err!(NotRecoverable, "internal error: the call panicked")),
    }
}

/// Runs `call` with exclusive use of the handle's object.
pub(super) fn with<T: CObject, R: CReturn>(
    entry: &Entry,
    handle: usize,
    call: impl FnOnce(&mut T) -> Result<R>,
) -> c_int {
    enter(entry, handle, false, call)
}

/// The same for objects that several threads use: waits for another call. Not in callbacks: two of
/// them could wait for each other, or one for itself.
pub(super) fn with_waiting<T: CObject, R: CReturn>(
    entry: &Entry,
    handle: usize,
    call: impl FnOnce(&mut T) -> Result<R>,
) -> c_int {
    enter(entry, handle, CALLS.get().depth == 0, call)
}

fn enter<T: CObject, R: CReturn>(
    entry: &Entry,
    handle: usize,
    wait: bool,
    call: impl FnOnce(&mut T) -> Result<R>,
) -> c_int {
    guarded(entry, || {
        let mut entered = handle::enter(handle, T::KIND, wait)?;
        let _holding = Holding::new();
        let object = entered.object().and_then(T::of);
        let object = object.ok_or_else(|| err!(BadHandle, "not a handle of this kind"))?;
        let state = object.state();
        if entry.states & 1u32.checked_shl(state).unwrap_or(0) == 0 {
            return Err(object.ended_by().unwrap_or_else(|| wrong_state::<T>(entry, state)));
        }
        call(object)
    })
}

/// The names of these states.
struct Names<T>(u32, PhantomData<T>);

impl<T: CObject> fmt::Display for Names<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = T::STATES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        for (i, (_, name)) in named.enumerate() {
            write!(f, "{}{name}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cold]
fn wrong_state<T: CObject>(entry: &Entry, state: u32) -> Error {
    let name = |bit: usize| T::STATES.get(bit).copied().unwrap_or("unknown");
    let allowed = Names::<T>(entry.states, PhantomData);
    Error::from_args(
        entry.wrong_state,
        format_args!("not allowed in state {}; allowed in {allowed}", name(state as usize)),
    )
}

/// Runs `call` with the part of the handle's object that may be used at any time by any thread.
pub(super) fn with_shared<T: CObject, R: CReturn>(
    entry: &Entry,
    handle: usize,
    call: impl FnOnce(&Shared) -> Result<R>,
) -> c_int {
    guarded(entry, || handle::with_shared(handle, T::KIND, call))
}

/// The same for a call that may take long or call back: the handle can be freed meanwhile.
pub(super) fn with_shared_unlocked<T: CObject, R: CReturn>(
    entry: &Entry,
    handle: usize,
    call: impl FnOnce(&Shared) -> Result<R>,
) -> c_int {
    guarded(entry, || {
        let shared = handle::with_shared(handle, T::KIND, |shared| Ok(shared.clone()))?;
        call(&shared)
    })
}

/// Frees a handle; NULL is none. Waits for a call that is inside the handle or its device, except in a
/// callback: two of them could wait for each other, or one for itself.
pub(super) fn free(entry: &Entry, handle: usize, kind: Kind) {
    if handle == 0 {
        return;
    }
    let may_wait = CALLS.get().depth == 0;
    guarded(entry, || handle::remove(handle, kind, may_wait).map(drop));
}

impl CObject for Device {
    const KIND: Kind = Kind::Device;
    const STATES: &'static [&'static str] = super::table::DEVICE_STATES;

    fn of(object: &mut Object) -> Option<&mut Device> {
        match object {
            Object::Device(device) => Some(device),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        0
    }
}

impl CObject for Save {
    const KIND: Kind = Kind::Save;
    const STATES: &'static [&'static str] = super::table::SAVE_STATES;

    fn ended_by(&self) -> Option<Error> {
        self.cancelled()
    }

    fn of(object: &mut Object) -> Option<&mut Save> {
        match object {
            Object::Save(save) => Some(save),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        self.phase() as u32
    }
}

impl CObject for Load {
    const KIND: Kind = Kind::Load;
    const STATES: &'static [&'static str] = super::table::LOAD_STATES;

    fn ended_by(&self) -> Option<Error> {
        Load::ended_by(self)
    }

    fn of(object: &mut Object) -> Option<&mut Load> {
        match object {
            Object::Load(load) => Some(load),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        self.phase() as u32
    }
}

impl CObject for Run {
    const KIND: Kind = Kind::Dirty;
    const STATES: &'static [&'static str] = super::table::DIRTY_STATES;

    fn of(object: &mut Object) -> Option<&mut Run> {
        match object {
            Object::Dirty(run) => Some(run),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        u32::from(self.is_tracking())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceOptions;
    use crate::transport::OpsTransport;

    const ENTRY: Entry =
        Entry { name: "test", states: 1, wrong_state: Code::Inval, needs_memory: true };

    fn device() -> usize {
        // SAFETY: a table without callbacks; all zeros is a valid one.
        let transport = unsafe { OpsTransport::new(std::mem::zeroed(), std::ptr::null_mut()) };
        let device = Device::new(transport, DeviceOptions::default()).unwrap();
        handle::insert(Object::Device(device), None).unwrap()
    }

    #[test]
    fn a_panic_stops_at_the_boundary_and_poisons_its_handle_only() {
        let (bad, good) = (device(), device());
        let panics = |_: &mut Device| -> Result<()> { panic!("as a bug would") };
        assert_eq!(with(&ENTRY, bad, panics), Code::NotRecoverable.to_ret());
        let fine = |_: &mut Device| Ok(());
        assert_eq!(with(&ENTRY, bad, fine), Code::NotRecoverable.to_ret());
        assert_eq!(with(&ENTRY, good, fine), 0);
        // Freeing is possible, and the slot can be used again.
        free(&ENTRY, bad, Kind::Device);
        assert_eq!(with(&ENTRY, bad, fine), Code::BadHandle.to_ret());
        let next = device();
        assert_eq!(with(&ENTRY, next, fine), 0);
        free(&ENTRY, good, Kind::Device);
        free(&ENTRY, next, Kind::Device);
    }

    #[test]
    fn a_handle_that_a_call_is_inside_of_is_busy_and_is_not_freed_by_a_callback() {
        let handle = device();
        let inside = |_: &mut Device| {
            assert_eq!(with(&ENTRY, handle, |_: &mut Device| Ok(())), Code::Busy.to_ret());
            free(&ENTRY, handle, Kind::Device);
            Ok(())
        };
        assert_eq!(with(&ENTRY, handle, inside), 0);
        assert_eq!(with(&ENTRY, handle, |_: &mut Device| Ok(())), 0);
        free(&ENTRY, handle, Kind::Device);
        assert_eq!(with(&ENTRY, handle, |_: &mut Device| Ok(())), Code::BadHandle.to_ret());
    }
}
