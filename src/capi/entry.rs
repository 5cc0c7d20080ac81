// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way in: every C function that works on a handle passes through here.
//!
//! The guard checks the handle, takes exclusive use of it, checks the state against the function's
//! row of `api.toml`, catches panics, and turns errors into return values with a text.

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::args::Out;
use super::error::fail;
use super::handle::{self, Handle};
use super::reserve;
use super::row::{Kind, Row};
use crate::error::{Error, Result, err};
use crate::waiting::Nested;

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
    /// How many of those calls have exclusive use of an object that others may be waiting for.
    holding: u32,
}

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls { depth: 0, holding: 0 }) };
}

/// Counts a call while it lasts.
struct Inside {
    /// A call that was made in a callback waits for no device if the call that called back holds
    /// something. Only the callback for the configuration in a packet holds nothing.
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

/// Keeps the caller's errno, and restores it at the end. What the library's system calls and the
/// VMM's callbacks do to it meanwhile is not for the caller to see.
struct KeepErrno {
    at: *mut c_int,
    value: c_int,
}

impl KeepErrno {
    fn new() -> KeepErrno {
        // SAFETY: touches no memory.
        let at = unsafe { libc::__errno_location() };
        // SAFETY: a thread-local variable, which lives as long as the thread.
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
pub(super) fn guarded<R: CReturn>(row: &Row, call: impl FnOnce() -> Result<R>) -> c_int {
    guarded_owner(row, || {
        admit(row)?;
        call()
    })
}

/// The same for a call that owns something of the caller's from the start: it asks for admission
/// itself once it has taken that.
pub(super) fn guarded_owner<R: CReturn>(row: &Row, call: impl FnOnce() -> Result<R>) -> c_int {
    let _errno = KeepErrno::new();
    let _inside = Inside::new();
    // The locks that a panic unwinds through poison what it leaves half done.
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return value.to_ret(),
        Ok(Err(error)) => error,
        Err(_) => err!(NotRecoverable, "internal error: the call panicked"),
    };
    // Out here, where nothing catches it: tests run with this check, and it ends them.
    debug_assert!(
        row.lists(error.code()),
        "{} returned {}, which its row in api.toml does not list: {error}",
        row.name,
        error.code().name(),
    );
    fail(row.name, &error)
}

/// Asks whether there is memory for what a call may need, if its row says that it needs any.
pub(super) fn admit(row: &Row) -> Result<()> {
    if row.needs_memory { reserve::admit() } else { Ok(()) }
}

/// Runs `call` with exclusive use of the handle's object. Waits for another call on it if the kind
/// of handle says so, but not in callbacks: two of them could wait for each other, or one for
/// itself.
pub(super) fn with<H: Handle, R: CReturn>(
    row: &Row,
    handle: *mut H,
    call: impl FnOnce(&mut H::Object) -> Result<R>,
) -> c_int {
    let wait = may_wait::<H>();
    guarded(row, || enter(row, handle, wait, call))
}

/// The same for a call that is given something to own. `take` comes first, so that what it takes is
/// released whatever happens to the call.
pub(super) fn with_taken<H: Handle, T, R: CReturn>(
    row: &Row,
    handle: *mut H,
    take: impl FnOnce() -> Result<T>,
    call: impl FnOnce(&mut H::Object, T) -> Result<R>,
) -> c_int {
    let wait = may_wait::<H>();
    guarded_owner(row, || {
        let taken = take();
        admit(row)?;
        enter(row, handle, wait, |object| call(object, taken?))
    })
}

fn may_wait<H: Handle>() -> bool {
    H::KIND.waits && CALLS.get().depth == 0
}

#[inline]
fn enter<H: Handle, R>(
    row: &Row,
    handle: *mut H,
    wait: bool,
    call: impl FnOnce(&mut H::Object) -> Result<R>,
) -> Result<R> {
    let mut entered = handle::enter(handle, wait)?;
    let _holding = Holding::new();
    let object = entered.object()?;
    let state = H::state(object);
    if !is_allowed(row, state) {
        return Err(H::ended_by(object).unwrap_or_else(|| wrong_state(H::KIND, row, state)));
    }
    call(object)
}

fn is_allowed(row: &Row, state: u32) -> bool {
    row.states & 1u32.checked_shl(state).unwrap_or(0) != 0
}

/// The same check for a call that does not have exclusive use of the object: its state may change
/// meanwhile, so the core makes its own as well.
pub(super) fn check_state<H: Handle>(row: &Row, state: u32) -> Result<()> {
    if is_allowed(row, state) { Ok(()) } else { Err(wrong_state(H::KIND, row, state)) }
}

/// The names of these states.
struct Names(u32, &'static Kind);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.1.states.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        for (i, (_, name)) in named.enumerate() {
            write!(f, "{}{name}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cold]
fn wrong_state(kind: &'static Kind, row: &Row, state: u32) -> Error {
    let present = kind.states.get(state as usize).copied().unwrap_or("unknown");
    let allowed = Names(row.states, kind);
    Error::from_args(
        row.wrong_state,
        format_args!("not allowed in state {present}; allowed in {allowed}"),
    )
}

/// Runs `call` with the part of the handle's object that any thread may use at any time.
pub(super) fn with_shared<H: Handle, R: CReturn>(
    row: &Row,
    handle: *mut H,
    call: impl FnOnce(&H::Shared) -> Result<R>,
) -> c_int {
    guarded(row, || handle::with_shared(handle, call))
}

/// The same for a call that may take a long time or call back: the handle can be freed during it.
pub(super) fn with_shared_copy<H: Handle<Shared: Clone>, R: CReturn>(
    row: &Row,
    handle: *mut H,
    call: impl FnOnce(H::Shared) -> Result<R>,
) -> c_int {
    guarded(row, || {
        let shared = handle::with_shared(handle, |shared| Ok(shared.clone()))?;
        call(shared)
    })
}

/// Makes a handle for an object, and returns it to the caller.
pub(super) fn publish<H: Handle>(
    out: Out<'_, *mut H>,
    object: H::Object,
    shared: H::Shared,
) -> Result<()> {
    out.write(handle::insert(object, shared)?);
    Ok(())
}

/// Frees a handle; NULL is ignored. Waits for a call that is using the handle or its device, except
/// in a callback: two of them could wait for each other, or one for itself.
pub(super) fn free<H: Handle>(row: &Row, handle: *mut H) {
    if handle.is_null() {
        return;
    }
    let may_wait = CALLS.get().depth == 0;
    guarded(row, || handle::remove(handle, may_wait));
}

#[cfg(test)]
mod tests;
