// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_save_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes_if_any, bytes_mut};
use super::device::vfiomig_device;
use super::entry::{free, publish, with, with_shared};
use super::error::vfiomig_failure;
use super::handle::Handle;
use super::row::Kind;
use super::sized::{SizedOut, read_options};
use super::table;
use crate::error::{Error, Result};
use crate::session::{Save, SaveOptions, SharedSave};

impl Handle for vfiomig_save {
    const KIND: &'static Kind = &table::SAVE;
    type Object = Save;
    type Shared = SharedSave;

    fn state(save: &Save) -> u32 {
        save.phase() as u32
    }

    fn ended_by(save: &Save) -> Option<Error> {
        save.cancelled()
    }

    fn end(save: &mut Save) -> Result<()> {
        save.end()
    }
}

/// Begins to save the device: RUNNING to PRE_COPY where the device has it. A device in STOP is
/// saved without pre-copy. The session owns the device's data fd and keeps the device alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_save_options,
    out: *mut *mut vfiomig_save,
) -> c_int {
    with(&table::SAVE_BEGIN, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size.
        let options = unsafe { read_options(options) }?;
        let options = options.map_or_else(|| Ok(SaveOptions::default()), |o| o.to_options())?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let save = device.save(options)?;
        let shared = save.shared();
        publish(out, save, shared)
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
    with(&table::SAVE_NEXT, save, |save| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes, and memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let next = save.next(buf)?;
        len.write(next.len);
        Ok(next.status as c_int)
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
    with(&table::SAVE_ADD_BLOB, save, |save| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        save.blob(kind, unsafe { bytes_if_any(data, len, "data") }?)
    })
}

/// Asks the driver how much is left. All numbers are estimates, and drivers err in both
/// directions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_pending(
    save: *mut vfiomig_save,
    pending: *mut vfiomig_pending,
) -> c_int {
    with(&table::SAVE_GET_PENDING, save, |save| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(pending, "pending") }?;
        out.fill(&(&save.pending()?).into());
        Ok(())
    })
}

/// A file descriptor to poll for reading while vfiomig_save_next() says -EAGAIN or
/// VFIOMIG_NEXT_DRAINED. It belongs to the library, and changes when the save stops the device or starts
/// again. Most drivers are always ready: also come back on a timer.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_get_poll_fd(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_GET_POLL_FD, save, |save| save.poll_fd())
}

/// Stops peer-to-peer DMA of the device. The guest's vCPUs must have been stopped before. With several
/// devices: all are quiesced before any is stopped. Devices without these states stay as they are. May refuse with -EAGAIN, as
/// vfiomig_save_stop() may.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_quiesce(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_QUIESCE, save, |save| save.quiesce())
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
    with(&table::SAVE_STOP, save, |save| save.stop())
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
    with(&table::SAVE_FINISH, save, |save| save.finish(structs::ending(ending)?))
}

/// Cancels the save: the call that is under way returns -ECANCELED as soon as the driver lets it, and
/// so does every later one, but those that ask what happened. Then finish with VFIOMIG_ENDING_KEEP, or free.
/// A stream that was complete before can still be finished with VFIOMIG_ENDING_RELEASE. May be called from
/// any thread at any time while the handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_cancel(save: *mut vfiomig_save) -> c_int {
    with_shared(&table::SAVE_CANCEL, save, |shared| {
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
    with_shared(&table::SAVE_GET_STATS, save, |shared| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&shared.stats().into());
        Ok(())
    })
}

/// What was going on when this save last failed; zeros if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_failure(
    save: *mut vfiomig_save,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::SAVE_GET_FAILURE, save, |save| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&save.failure().into());
        Ok(())
    })
}

/// Frees a save; NULL is none. One that was not finished is ended as with VFIOMIG_ENDING_KEEP. Waits for
/// a call on another thread.
/// A callback cannot free a handle that a call is inside of, nor one whose device is in use by a call:
/// it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_free(save: *mut vfiomig_save) {
    free(&table::SAVE_FREE, save);
}
