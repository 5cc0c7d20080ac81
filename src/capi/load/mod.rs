// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_load_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes_if_any};
use super::device::{vfiomig_device, vfiomig_identity};
use super::entry::{free, publish, with, with_shared, with_taken};
use super::error::vfiomig_failure;
use super::handle::Handle;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table;
use crate::error::{Error, Result};
use crate::session::{Load, LoadOptions, Packets, SharedLoad};

impl Handle for vfiomig_load {
    const KIND: &'static Kind = &table::LOAD;
    type Object = Load;
    type Shared = SharedLoad;

    fn state(load: &Load) -> u32 {
        load.phase() as u32
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

/// Reads options; callbacks in them are owned from here on, also where the options are refused.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
unsafe fn read_options(options: *const vfiomig_load_options) -> Result<LoadOptions> {
    if options.is_null() {
        return Ok(LoadOptions::default());
    }
    // SAFETY: the caller's promise: a structure as long as it says.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: the caller's promise, about the callbacks in it.
    let (blobs, policy) = unsafe { options.callbacks() };
    tail.check()?;
    Ok(LoadOptions { blobs, policy, ..options.to_options()? })
}

/// Begins to load the device: to RESUMING. What the device held is lost. The session owns the
/// device's data fd and keeps the device alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_load_options,
    out: *mut *mut vfiomig_load,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options.
    let options = || unsafe { read_options(options) };
    with_taken(&table::LOAD_BEGIN, device, options, |device, options| {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let load = device.load(options)?;
        let shared = load.shared();
        publish(out, load, shared)
    })
}

/// Takes the next len bytes of the stream, in any split. Nothing reaches the driver before the
/// frame that it is part of has been verified. On an error the device has been reset already, and
/// only freeing is left to do. May block as long as the driver does.
///
/// Returns bits. None of them (VFIOMIG_PUSH_MORE): go on. VFIOMIG_PUSH_INITIAL_LOADED: tell the source that its
/// initial data is here, and go on. VFIOMIG_PUSH_RESTARTED: the source's device was reset; blobs and
/// acknowledgements of before are void; an INITIAL_LOADED beside it came later; go on.
/// VFIOMIG_PUSH_END: the stream is complete; commit.
///
/// In QEMU's format nothing can be verified, and data goes to the driver as it comes. Push no more
/// than vfiomig_load_get_space() has room for: what follows may be of others. VFIOMIG_PUSH_SECTION_END: a
/// section is over. VFIOMIG_PUSH_CONFIG: the VMM's configuration follows in its stream; read it there,
/// then push what comes behind it. VFIOMIG_PUSH_CONFIG_READY: load the configuration that came in a
/// packet. VFIOMIG_PUSH_END comes with the end of the configuration's section, and not at all with
/// VFIOMIG_LOAD_PACKETS: there vfiomig_load_write_packets() says that all is complete. The main channel's last
/// sections, which are empty, may come before or after that, and also after the commit; without
/// packets nothing comes after it.
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

/// Offers memory to receive the next bytes of the stream into: at *space, *len bytes, at least
/// one (-EINVAL behind the stream's end, and nothing is lost by asking); it belongs to the library and is valid until the next call with this handle. Then say with
/// vfiomig_load_push_received() how many bytes came. Saves the copy that vfiomig_load_push() makes of
/// frames that lie in two of its pieces: the way for a VMM that reads from a socket. There may be
/// more room than the stream is long: bytes that follow its end are an error, so let nothing else
/// follow in the same connection, or limit what is read. In QEMU's format there is room for what is
/// certain to come, and for nothing behind it: a VMM can read from a stream that is not this device's
/// alone.
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

/// Takes len bytes that were received into the memory of vfiomig_load_get_space(). Returns what
/// vfiomig_load_push() returns.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_push_received(load: *mut vfiomig_load, len: usize) -> c_int {
    with(&table::LOAD_PUSH_RECEIVED, load, |load| load.received(len).map(bits))
}

/// Makes the driver check and take the state: RESUMING to STOP. Needs the complete stream. On
/// success the source may be released; make the fix-ups of vfiomig_device_get_fixups() and call
/// vfiomig_device_run(). On an error, an incomplete stream included, the device has been reset, and
/// the source goes on.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_commit(load: *mut vfiomig_load) -> c_int {
    with(&table::LOAD_COMMIT, load, |load| load.commit())
}

/// Cancels the load: the call that is under way returns -ECANCELED as soon as the driver lets it,
/// and so does every later one but those that ask what happened; the device is reset by the first of
/// them. A load that has been committed is not affected. May be called from any thread at any time while the
/// handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_cancel(load: *mut vfiomig_load) -> c_int {
    with_shared(&table::LOAD_CANCEL, load, |shared| {
        shared.cancel();
        Ok(())
    })
}

/// What the stream says that it was saved from. A claim, not a proof.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_source_identity(
    load: *mut vfiomig_load,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::LOAD_GET_SOURCE_IDENTITY, load, |load| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        out.fill(&load.source_identity()?.into());
        Ok(())
    })
}

/// What the load has done so far. May be called from any thread at any time while the handle
/// lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_stats(
    load: *mut vfiomig_load,
    stats: *mut vfiomig_load_stats,
) -> c_int {
    with_shared(&table::LOAD_GET_STATS, load, |shared| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&shared.stats().into());
        Ok(())
    })
}

/// What was going on when this load failed; zeros if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_failure(
    load: *mut vfiomig_load,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::LOAD_GET_FAILURE, load, |load| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&load.failure().into());
        Ok(())
    })
}

/// Frees a load; NULL is none. One that was not committed is abandoned, and its device reset.
/// Waits for calls on other threads; vfiomig_load_write_packets() and vfiomig_load_push_packet() are made to end.
/// A callback cannot free a handle that a call is inside of, nor one whose device is in use by a call:
/// it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_free(load: *mut vfiomig_load) {
    free(&table::LOAD_FREE, load);
}
