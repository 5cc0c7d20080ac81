// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_process_*` and `vfiomig_policy_*`: switching migration off for all devices at once.

use std::ffi::{c_char, c_int};
use std::os::fd::AsFd;

use super::args::{self, BorrowedRawFd};
use super::entry::guarded;
use super::numbers::same_flags;
use super::table;
use crate::error::err;
use crate::policy::{self, Directions, Named};

/// Saves may begin, and go on.
pub const VFIOMIG_ALLOW_SAVE: u32 = 1 << 0;
/// Loads may begin, and go on.
pub const VFIOMIG_ALLOW_LOAD: u32 = 1 << 1;

/// The file may be missing: it forbids nothing until it is there.
pub const VFIOMIG_POLICY_OPTIONAL: u32 = 1 << 0;

same_flags!(Directions:
    VFIOMIG_ALLOW_SAVE = SAVE,
    VFIOMIG_ALLOW_LOAD = LOAD,
);

/// Allows saves and loads in this process (bitwise OR of VFIOMIG_ALLOW_*), and forbids what is not
/// named: 0 is the kill switch. Everything is allowed at first. The environment (VFIOMIG_DISABLE)
/// and the host's policy may forbid more: vfiomig-policy(5). May be called from any thread at any time.
///
/// What is no longer allowed does not begin (-EPERM), and what has begun is cut off: a call on
/// another thread, and every later one, returns -EPERM, and the device is as after any error. A
/// save is then finished with VFIOMIG_ENDING_KEEP, and its guest goes on; a load has been reset.
/// To end a call that blocks in the driver, also send its thread a signal. What is complete is not
/// cut off: a save that has returned VFIOMIG_NEXT_END can still be released, and a load that was
/// committed is run as usual. Allowing something again lets new sessions begin, and does not bring
/// back those that were cut off.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_process_set_allowed(directions: u32) -> c_int {
    guarded(&table::PROCESS_SET_ALLOWED, || {
        let directions = Directions::from_bits(directions)
            .ok_or_else(|| err!(Inval, "{directions:#x} has unknown directions"))?;
        policy::set_allowed(directions);
        Ok(())
    })
}

/// Has this process keep to a policy file (vfiomig-policy(5)) besides the host's. It can only forbid
/// more than that one. The file belongs to root or to the process's user, and nobody else can write
/// to it. If it cannot be used, the call fails and changes nothing; if that happens later, the file
/// forbids everything. There can be 16 files; one that is named again counts once.
///
/// The path is absolute, and dir_fd is AT_FDCWD; or it is relative to the directory dir_fd, of which
/// the library keeps a duplicate. A directory that was opened before the VMM locks itself in can be
/// looked into later: with /etc/vfiomig, path "policy.conf" and VFIOMIG_POLICY_OPTIONAL, a VMM keeps
/// seeing the host's policy.
///
/// Sessions look at the files again when they begin, and on their calls every 100 ms, and are cut off
/// as by vfiomig_process_set_allowed().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_policy_add_file(
    dir_fd: c_int,
    path: *const c_char,
    flags: u32,
) -> c_int {
    guarded(&table::POLICY_ADD_FILE, || {
        // SAFETY: promise 1: NULL or a NUL-terminated string.
        let path = unsafe { args::path(path) }?;
        let path = path.ok_or_else(|| err!(Fault, "path is NULL"))?;
        if flags & !VFIOMIG_POLICY_OPTIONAL != 0 {
            return Err(err!(Inval, "unknown flags {flags:#x}"));
        }
        if dir_fd < 0 && dir_fd != libc::AT_FDCWD {
            return Err(err!(Inval, "dir_fd is {dir_fd}"));
        }
        // SAFETY: promise 4; it is not used after the call.
        let directory = (dir_fd >= 0).then(|| unsafe { BorrowedRawFd::new(dir_fd) });
        policy::add_file(Named {
            directory: directory.as_ref().map(AsFd::as_fd),
            path: &path,
            optional: flags & VFIOMIG_POLICY_OPTIONAL != 0,
        })
    })
}
