// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_load_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};
use std::time::Duration;

pub use constants::*;
pub use structs::*;

use super::args::{CallersFd, Out, bytes_if_any};
use super::auth::read_auth;
use super::compat::identity_if_any;
use super::device::{vfiomig_device, vfiomig_identity};
use super::entry::{free, publish, with, with_shared, with_taken};
use super::error::vfiomig_failure;
use super::guard::guard;
use super::handle::Handle;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, load_states as states};
use super::transfer::{read_transfer, vfiomig_transfer};
use crate::error::{Error, Result};
use crate::session::{Load, LoadOptions, LoadPhase, Packets, SharedLoad};

impl Handle for vfiomig_load {
    const KIND: &'static Kind = &table::LOAD;
    type Object = Load;
    type Shared = SharedLoad;

    fn state(load: &Load) -> u32 {
        match load.phase() {
            LoadPhase::Receiving => states::RECEIVING,
            LoadPhase::Complete => states::COMPLETE,
            LoadPhase::Committed => states::COMMITTED,
            LoadPhase::Failed => states::FAILED,
        }
    }

    fn ended_by(load: &Load) -> Option<Error> {
        load.ended_by()
    }

    fn end(load: &mut Load) -> Result<()> {
        load.end()
    }

    fn in_use(shared: &SharedLoad) -> bool {
        shared.packets().is_some_and(Packets::in_use)
    }
}

/// Reads the options, and where the source's identity is. The library owns callbacks in them from
/// here on, even if it refuses the options.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
pub(super) unsafe fn read_options(
    options: *const vfiomig_load_options,
) -> Result<(LoadOptions, *const vfiomig_identity)> {
    if options.is_null() {
        return Ok((LoadOptions::default(), std::ptr::null()));
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: promises 1 to 3, about the callbacks in it and in its policy.
    let (blobs, decide, policy) = unsafe { options.callbacks() };
    // SAFETY: promises 1 to 3, about what is in it.
    let (auth, guard) =
        unsafe { (read_auth(options.auth), guard(options.guard, options.guard_opaque)) };
    tail.check()?;
    let (auth, guard) = (auth?, guard?);
    let policy = options.policy(decide, policy?)?;
    // SAFETY: promise 1, about the limits.
    let rest = unsafe { options.to_options() }?;
    Ok((LoadOptions { blobs, policy, auth, guard, ..rest }, options.source))
}

/// The same with everything in it, for a load that begins later.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
pub(super) unsafe fn read_all_options(options: *const vfiomig_load_options) -> Result<LoadOptions> {
    // SAFETY: the caller made the same promise.
    let (options, source) = unsafe { read_options(options) }?;
    // SAFETY: promise 1: NULL, or an identity of the size that it claims.
    let source = unsafe { identity_if_any(source, "source") }?;
    Ok(LoadOptions { source, ..options })
}

/// Begins to load the device: to RESUMING. What the device held is lost. The session owns the
/// device's data fd and keeps the device alive.
///
/// If the options name the source, it is judged first, and nothing has been done to the device if
/// it does not fit. A device that speaks an older protocol stays where it is until the stream has
/// said what it was saved from.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_load_options,
    out: *mut *mut vfiomig_load,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options.
    let options = || unsafe { read_options(options) };
    with_taken(&table::LOAD_BEGIN, device, options, |device, (options, source)| {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        // SAFETY: promise 1: NULL, or an identity of the size that it claims.
        let source = unsafe { identity_if_any(source, "source") }?;
        let load = device.load(LoadOptions { source, ..options })?;
        let shared = load.shared();
        publish(out, load, shared)
    })
}

/// Takes the next len bytes of the stream, split in any way. Nothing reaches the driver before its
/// frame has been verified. May block for as long as the driver does.
///
/// If the load fails, the device has already been reset, and all you can do is free the load. Calls
/// that are refused as such change nothing: with a bad handle or pointer, with a handle that is in
/// use, in a state that does not allow them, or for lack of memory at their entry. To tell the two
/// apart: after a failure, code in vfiomig_load_get_failure() is not 0.
///
/// Returns a bitwise OR. VFIOMIG_PUSH_MORE (no bit is set): go on. VFIOMIG_PUSH_INITIAL_LOADED:
/// tell the source that its initial data is here, and go on. VFIOMIG_PUSH_RESTARTED: the source's
/// device was reset, and earlier blobs and acknowledgements are void; if INITIAL_LOADED is set as
/// well, it came later; go on. VFIOMIG_PUSH_END: the stream is complete; commit. Any byte that is
/// pushed after that makes the load fail; after the commit a push returns -EINVAL, and changes
/// nothing.
///
/// In QEMU's format nothing can be verified, and data goes to the driver as it arrives. Push no
/// more than vfiomig_load_get_space() has room for, because what follows may belong to others.
/// VFIOMIG_PUSH_SECTION_END: a section has ended. VFIOMIG_PUSH_CONFIG: the VMM's configuration
/// follows in its stream; read it there, then push what comes after it. VFIOMIG_PUSH_CONFIG_READY:
/// load the configuration that came in a packet. VFIOMIG_PUSH_END comes with the end of the
/// configuration's section. It never comes with VFIOMIG_LOAD_PACKETS, where
/// vfiomig_load_write_packets() says that everything is complete. The main channel's last sections,
/// which are empty, may come before or after that, and even after the commit, which no other load
/// takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_push(
    load: *mut vfiomig_load,
    data: *const c_void,
    len: usize,
) -> c_int {
    with(&table::LOAD_PUSH, load, |load| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        load.push(unsafe { bytes_if_any(data, len, "data") }?).map(bits)
    })
}

/// Offers memory to receive the next bytes of the stream into: *len bytes at *space, at least one.
/// After VFIOMIG_PUSH_END it returns -EINVAL, which loses nothing. The memory belongs to the
/// library and is valid until the next call with this handle. Then tell
/// vfiomig_load_push_received() how many bytes came. This is the way for a VMM that reads from a
/// socket: it saves the copy that vfiomig_load_push() makes of frames that cross the boundaries of
/// its input. There may be more room than the stream is long, and bytes after the stream's end are
/// an error. So if anything else follows on the same connection, send the length of each piece of
/// the stream before it, and receive no more than is left of the piece. In QEMU's format there is room only for what is certain to come, so a VMM can read from a stream that
/// carries more than this device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_space(
    load: *mut vfiomig_load,
    space: *mut *mut c_void,
    len: *mut usize,
) -> c_int {
    with(&table::LOAD_GET_SPACE, load, |load| {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer and a number.
        let (space, len) = unsafe { (Out::new(space, "space")?, Out::new(len, "len")?) };
        let room = load.space()?;
        len.write(room.len());
        space.write(room.as_mut_ptr().cast());
        Ok(())
    })
}

/// Takes len bytes that were received into the memory of vfiomig_load_get_space(). Returns the same
/// as vfiomig_load_push(). More bytes than there was room for are refused, which loses nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_push_received(load: *mut vfiomig_load, len: usize) -> c_int {
    with(&table::LOAD_PUSH_RECEIVED, load, |load| load.received(len).map(bits))
}

/// Reads the stream from a descriptor of the VMM's and loads it, instead of vfiomig_load_push(): from a
/// stream socket, a pipe, a file or what else can be read, in blocking mode or not. Reads nothing of what
/// follows the stream's end. Never blocks where vfiomig_load_cancel() could not end it, except in a
/// disk or a driver. Not for QEMU's format, whose sections the VMM reads.
///
/// Returns as soon as there is something to say, like vfiomig_load_push(), or VFIOMIG_PUSH_MORE after
/// max_bytes: call again until VFIOMIG_PUSH_END. What goes wrong with the fd leaves the load as it is;
/// anything else ends it, and the device has been reset.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_read_fd(
    load: *mut vfiomig_load,
    fd: c_int,
    how: *const vfiomig_transfer,
) -> c_int {
    with(&table::LOAD_READ_FD, load, |load| {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let how = unsafe { read_transfer(how) }?;
        // SAFETY: vfiomig.h: the VMM keeps the fd open during the call.
        let fd = unsafe { CallersFd::new(fd) }?;
        load.read_fd(fd.get(), how).map(bits)
    })
}

/// Makes the driver check and accept the state: RESUMING to STOP. Needs the complete stream. After
/// success the source may be released; make the fix-ups of vfiomig_device_get_fixups() and call
/// vfiomig_device_run(). After an error, including an incomplete stream, the device has been reset,
/// and the guest goes on at the source.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_commit(load: *mut vfiomig_load) -> c_int {
    with(&table::LOAD_COMMIT, load, |load| load.commit())
}

/// Cancels the load. The call in progress returns -ECANCELED as soon as the driver lets it, and so
/// does every later call except those that ask what happened. The first of them resets the device.
/// To end a write that blocks in the driver, also send its thread a signal. A load that has been
/// committed is not affected. May be called from any thread at any time while the handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_cancel(load: *mut vfiomig_load) -> c_int {
    with_shared(&table::LOAD_CANCEL, load, |shared| {
        shared.cancel();
        Ok(())
    })
}

/// Returns what the stream says it was saved from, also if the stream was refused because of that.
/// This is a claim, not a proof.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_source_identity(
    load: *mut vfiomig_load,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::LOAD_GET_SOURCE_IDENTITY, load, |load| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        out.fill(&load.source_identity()?.into());
        Ok(())
    })
}

/// Returns what the load has done so far. May be called from any thread at any time while the
/// handle lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_stats(
    load: *mut vfiomig_load,
    stats: *mut vfiomig_load_stats,
) -> c_int {
    with_shared(&table::LOAD_GET_STATS, load, |shared| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&shared.stats().into());
        Ok(())
    })
}

/// Returns how long the VMM may wait for more of the stream, as poll() takes it: *timeout_ms is in
/// milliseconds, 0 if the source has been too slow already, and -1 if there is no deadline
/// (progress_timeout_ms of the limits is 0, or the stream is complete). The library has no clock of its
/// own: when that time has passed and nothing has come, push 0 bytes, which fails with -ETIMEDOUT. May
/// be called from any thread at any time while the handle lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_deadline(
    load: *mut vfiomig_load,
    timeout_ms: *mut c_int,
) -> c_int {
    with_shared(&table::LOAD_GET_DEADLINE, load, |shared| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        let out = unsafe { Out::new(timeout_ms, "timeout_ms") }?;
        out.write(shared.deadline().map_or(-1, milliseconds));
        Ok(())
    })
}

/// Rounded up: a VMM that waits for so long finds the deadline passed.
fn milliseconds(left: Duration) -> c_int {
    c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// Returns what was going on when this load failed; code is 0 if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_failure(
    load: *mut vfiomig_load,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::LOAD_GET_FAILURE, load, |load| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&load.failure().into());
        Ok(())
    })
}

/// Frees a load. NULL is ignored. If it was not committed, it is abandoned and its device is reset.
/// Waits for calls on other threads, and ends vfiomig_load_write_packets() and
/// vfiomig_load_push_packet(). Freeing a handle from a callback while a call is using it or its
/// device has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_free(load: *mut vfiomig_load) {
    free(&table::LOAD_FREE, load);
}
