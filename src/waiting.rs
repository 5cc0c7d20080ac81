// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may wait for a lock.
//!
//! A callback runs while its thread holds what other threads may wait for: its device's lock, or an
//! object behind a handle. Two callbacks that waited for what the other one holds would wait
//! forever, and so would one that waited for itself. So nothing waits in a callback: whatever is
//! not free is busy.

use std::cell::Cell;

#[derive(Clone, Copy)]
struct Thread {
    /// Device locks that it holds.
    devices: u32,
    /// Calls of the C API made inside other calls' callbacks, and callbacks for keys: they hold
    /// objects.
    nested: u32,
    /// Members of groups that it is working on.
    members: u32,
}

crate::sync::thread_local! {
    static THREAD: Cell<Thread> = const { Cell::new(Thread { devices: 0, nested: 0, members: 0 }) };
}

fn change(change: impl FnOnce(&mut Thread)) {
    THREAD.with(|cell| {
        let mut thread = cell.get();
        change(&mut thread);
        cell.set(thread);
    });
}

/// Whether this thread may wait.
pub(crate) fn may_wait() -> bool {
    let Thread { devices, nested, .. } = THREAD.with(Cell::get);
    devices == 0 && nested == 0
}

/// Whether this thread may wait for a member of a group, or for what other threads do with one: not
/// in a callback, and not while it is working on one itself.
pub(crate) fn may_wait_for_member() -> bool {
    may_wait() && THREAD.with(Cell::get).members == 0
}

/// Whether this thread may wait until another one's callback for keys has returned. That waits for no
/// device, so holding one is no obstacle.
pub(crate) fn may_wait_for_keys() -> bool {
    THREAD.with(Cell::get).nested == 0
}

/// While this lives, the thread holds a device's lock.
pub(crate) struct HoldsDevice;

impl HoldsDevice {
    pub(crate) fn new() -> HoldsDevice {
        change(|thread| thread.devices = thread.devices.wrapping_add(1));
        HoldsDevice
    }
}

impl Drop for HoldsDevice {
    fn drop(&mut self) {
        change(|thread| thread.devices = thread.devices.wrapping_sub(1));
    }
}

/// While this lives, the thread is inside a call that a callback made, or in a callback for keys.
pub(crate) struct Nested;

impl Nested {
    pub(crate) fn new() -> Nested {
        change(|thread| thread.nested = thread.nested.wrapping_add(1));
        Nested
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        change(|thread| thread.nested = thread.nested.wrapping_sub(1));
    }
}

/// While this lives, the thread is working on a member of a group.
pub(crate) struct HoldsMember;

impl HoldsMember {
    pub(crate) fn new() -> HoldsMember {
        change(|thread| thread.members = thread.members.wrapping_add(1));
        HoldsMember
    }
}

impl Drop for HoldsMember {
    fn drop(&mut self) {
        change(|thread| thread.members = thread.members.wrapping_sub(1));
    }
}
