// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_save_*`.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use super::constants::*;
use super::entry::{free, with, with_shared};
use super::handle::{self, Kind, Object};
use super::structs::*;
use super::table;
use crate::device::Device;
use crate::error::{Result, err};
use crate::session::{Ending, Save, SaveOptions, SaveStatus};
use crate::stream::{Format, qemu};

unsafe fn read_options(options: *const vfiomig_save_options) -> Result<SaveOptions> {
    let mut out = SaveOptions::default();
    if options.is_null() {
        return Ok(out);
    }
    // SAFETY: the caller's contract.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    tail.check()?;
    let of_qemu = VFIOMIG_SAVE_SWITCHOVER_ACK | VFIOMIG_SAVE_PACKETS | VFIOMIG_SAVE_ACK_ONCE;
    let known = VFIOMIG_SAVE_NONBLOCK | VFIOMIG_SAVE_NO_PRE_COPY;
    out.format = format(options.format, options.flags & VFIOMIG_SAVE_PACKETS != 0)?;
    let known = if out.format == Format::Native { known } else { known | of_qemu };
    if options.flags & !known != 0 {
        return Err(err!(Inval, "flags in the save options that are unknown in this format"));
    }
    out.switchover_ack = options.flags & VFIOMIG_SAVE_SWITCHOVER_ACK != 0;
    out.ack_once = options.flags & VFIOMIG_SAVE_ACK_ONCE != 0;
    out.max_frame = if out.format == Format::Native { out.max_frame } else { qemu::PIECE };
    out.device_index = options.device_index;
    if options.max_frame != 0 {
        out.max_frame = options.max_frame;
    }
    if options.reserved != 0 {
        return Err(err!(Inval, "reserved is not zero in the save options"));
    }
    if options.read_timeout_ms != 0 {
        out.read_timeout = Duration::from_millis(u64::from(options.read_timeout_ms));
    }
    if options.max_restarts != 0 {
        out.max_restarts = options.max_restarts;
    }
    out.nonblocking = options.flags & VFIOMIG_SAVE_NONBLOCK != 0;
    out.no_pre_copy = options.flags & VFIOMIG_SAVE_NO_PRE_COPY != 0;
    out.migration_id = options.migration_id;
    Ok(out)
}

/// Begins to save the device: RUNNING to PRE_COPY where the device has it. A device in STOP is
/// saved without pre-copy. The session owns the device's data fd and keeps the device alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_save_options,
    out: *mut *mut vfiomig_save,
) -> c_int {
    with(&table::SAVE_BEGIN, device.addr(), |device: &mut Device| {
        // SAFETY: the caller's contract.
        let options = unsafe { read_options(options) }?;
        if out.is_null() {
            return Err(err!(Fault, "out is NULL"));
        }
        let save = Box::new(device.save(options)?);
        let shared = save.shared();
        let handle = handle::insert(Object::Save(save), Some(shared))?;
        // SAFETY: checked not to be NULL; otherwise the caller's contract.
        unsafe { out.write(std::ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Takes the next piece of the stream: at most cap bytes into buf, their number into *len. Send
/// them, in this order, to the target. The driver's data lands in buf directly; buf is written to
/// only up to cap, also beyond *len.
///
/// VFIOMIG_NEXT_MORE: send and call again. VFIOMIG_NEXT_DRAINED: send; the device runs and has nothing more
/// now; come back on a timer or when vfiomig_save_get_poll_fd() is readable, or go on to
/// vfiomig_save_stop(). VFIOMIG_NEXT_END: send; the stream is complete.
///
/// In QEMU's format a call gives what one of QEMU's sections has in it, and the VMM writes the
/// section around it: the first call that of save_setup; each further one that of an iteration;
/// after vfiomig_save_stop() pieces of save_complete, the last with VFIOMIG_NEXT_DRAINED; then, when the
/// VMM has added its configuration with vfiomig_save_add_blob(), that of save_state, with VFIOMIG_NEXT_END.
/// With VFIOMIG_SAVE_PACKETS each call after vfiomig_save_stop() gives one packet, which must not be
/// cut or joined; VFIOMIG_NEXT_DRAINED comes with the last of data or with nothing, VFIOMIG_NEXT_END with the
/// configuration. docs/qemu-format.md.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_next(
    save: *mut vfiomig_save,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with(&table::SAVE_NEXT, save.addr(), |save: &mut Save| {
        if buf.is_null() || len.is_null() {
            return Err(err!(Fault, "buf or len is NULL"));
        }
        if cap > isize::MAX as usize {
            return Err(err!(Inval, "cap is {cap}"));
        }
        // SAFETY: the caller's contract: `cap` writable bytes that nobody else uses meanwhile.
        let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), cap) };
        let next = save.next(buf)?;
        // SAFETY: checked not to be NULL; otherwise the caller's contract.
        unsafe { len.write(next.len) };
        Ok(match next.status {
            SaveStatus::More => VFIOMIG_NEXT_MORE,
            SaveStatus::Drained => VFIOMIG_NEXT_DRAINED,
            SaveStatus::End => VFIOMIG_NEXT_END,
        })
    })
}

/// Adds an opaque piece of the VMM's, for example the PCI configuration space: it travels behind
/// everything returned so far and comes out of the target's blob callback with the same kind. The
/// data is copied. A save that starts again because its device was reset voids the blobs before it:
/// add them again (VFIOMIG_EVENT_SAVE_RESTARTED, or restarts in vfiomig_save_get_stats()). Blobs of
/// more than 4056 bytes need a larger buffer in vfiomig_save_next().
///
/// In QEMU's format there is one blob, of kind 0: the configuration of the stopped device, as QEMU's
/// vmstate writes it; empty where there is none. The library puts the tags around it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_add_blob(
    save: *mut vfiomig_save,
    kind: u32,
    data: *const c_void,
    len: usize,
) -> c_int {
    with(&table::SAVE_ADD_BLOB, save.addr(), |save: &mut Save| {
        if data.is_null() && len != 0 {
            return Err(err!(Fault, "data is NULL"));
        }
        if len > isize::MAX as usize {
            return Err(err!(Inval, "len is {len}"));
        }
        let bytes = match len {
            0 => &[][..],
            // SAFETY: the caller's contract: `len` readable bytes.
            _ => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) },
        };
        save.blob(kind, bytes)
    })
}

/// Asks the driver how much is left. All numbers are estimates, and drivers err in both
/// directions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_pending(
    save: *mut vfiomig_save,
    pending: *mut vfiomig_pending,
) -> c_int {
    with(&table::SAVE_GET_PENDING, save.addr(), |save: &mut Save| {
        // SAFETY: the caller's contract.
        unsafe { check_out(pending, "pending") }?;
        let out = vfiomig_pending::from(&save.pending()?);
        // SAFETY: the caller's contract.
        unsafe { write_out(pending, &out, "pending") }
    })
}

/// A file descriptor to poll for reading while vfiomig_save_next() says -EAGAIN or
/// VFIOMIG_NEXT_DRAINED. It belongs to the library, and changes when the save stops the device or starts
/// again. Most drivers are always ready: also come back on a timer.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_get_poll_fd(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_GET_POLL_FD, save.addr(), |save: &mut Save| save.poll_fd())
}

/// Stops peer-to-peer DMA of the device. The guest's vCPUs must have been stopped before. With several
/// devices: all are quiesced before any is stopped. Devices without these states stay as they are. May refuse with -EAGAIN, as
/// vfiomig_save_stop() may.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_quiesce(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_QUIESCE, save.addr(), |save: &mut Save| save.quiesce())
}

/// Stops the device, to STOP_COPY, quiescing it first where that has not been done. The guest's
/// vCPUs must have been stopped before. Then call vfiomig_save_next() until VFIOMIG_NEXT_END.
///
/// Before that the device is asked once more whether it has begun its initial data again since it was
/// said to be complete (VFIO_PRECOPY_INFO_REINIT, or a reset). If so, an acknowledgement of the target
/// does not count any more, and all of it would go into the downtime: -EAGAIN, the device was not
/// stopped, vfiomig_save_get_pending() has a new generation. Either start the vCPUs and go on with
/// vfiomig_save_next(), or call again at once: then the device is stopped all the same. Devices that
/// cannot say so are not asked.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_stop(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_STOP, save.addr(), |save: &mut Save| save.stop())
}

/// Ends the save. VFIOMIG_ENDING_RELEASE: the target has committed; the device stays in STOP; needs the
/// complete stream. VFIOMIG_ENDING_KEEP: the guest goes on here; the device goes back to where it was,
/// from any state; also after VFIOMIG_NEXT_END, which makes the stream a checkpoint.
/// VFIOMIG_ENDING_KEEP_QUIESCED: the same for one of several devices: to RUNNING_P2P, where it has that.
/// VFIOMIG_ENDING_KEEP_STOPPED: the same for a guest that stands: to STOP.
///
/// After an error of VFIOMIG_ENDING_KEEP the failure structure says whether the guest may go on: outcome
/// KEPT or RECOVERED: nothing is lost, vfiomig_device_run() tries again; RESET: the device was reset,
/// by the library or behind it, and what it held of its guest is gone, see vfiomig_device_run().
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_finish(save: *mut vfiomig_save, ending: u32) -> c_int {
    with(&table::SAVE_FINISH, save.addr(), |save: &mut Save| match ending {
        VFIOMIG_ENDING_RELEASE => save.finish(Ending::Release),
        VFIOMIG_ENDING_KEEP => save.finish(Ending::Keep),
        VFIOMIG_ENDING_KEEP_QUIESCED => save.finish(Ending::KeepQuiesced),
        VFIOMIG_ENDING_KEEP_STOPPED => save.finish(Ending::KeepStopped),
        other => Err(err!(Inval, "there is no ending {other}")),
    })
}

/// Cancels the save: the call that is under way returns -ECANCELED as soon as the driver lets it, and
/// so does every later one, but those that ask what happened. Then finish with VFIOMIG_ENDING_KEEP, or free.
/// A stream that was complete before can still be finished with VFIOMIG_ENDING_RELEASE. May be called from
/// any thread at any time while the handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_cancel(save: *mut vfiomig_save) -> c_int {
    with_shared::<Save, _>(&table::SAVE_CANCEL, save.addr(), |shared| {
        shared.cancel();
        Ok(())
    })
}

/// What the save has done so far. May be called from any thread at any time while the handle
/// lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_stats(
    save: *mut vfiomig_save,
    stats: *mut vfiomig_save_stats,
) -> c_int {
    with_shared::<Save, _>(&table::SAVE_GET_STATS, save.addr(), |shared| {
        // SAFETY: the caller's contract.
        unsafe { check_out(stats, "stats") }?;
        let found = shared.save_stats().unwrap_or_default();
        // SAFETY: the caller's contract.
        unsafe { write_out(stats, &vfiomig_save_stats::from(found), "stats") }
    })
}

/// What was going on when this save last failed; zeros if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_failure(
    save: *mut vfiomig_save,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::SAVE_GET_FAILURE, save.addr(), |save: &mut Save| {
        // SAFETY: the caller's contract.
        unsafe { check_out(failure, "failure") }?;
        // SAFETY: the caller's contract.
        unsafe { write_out(failure, &vfiomig_failure::from(save.failure()), "failure") }
    })
}

/// Frees a save; NULL is none. One that was not finished is ended as with VFIOMIG_ENDING_KEEP. Waits for
/// a call on another thread.
/// A callback cannot free a handle that a call is inside of, nor one whose device is in use by a call:
/// it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_free(save: *mut vfiomig_save) {
    free(&table::SAVE_FREE, save.addr(), Kind::Save);
}
