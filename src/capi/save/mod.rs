// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_save_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{CallersFd, Out, bytes_if_any, bytes_mut};
use super::auth::read_auth;
use super::device::vfiomig_device;
use super::entry::{free, publish, with, with_shared, with_taken};
use super::error::vfiomig_failure;
use super::handle::Handle;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, save_states as states};
use super::transfer::{read_transfer, vfiomig_transfer};
use crate::error::{Error, Result};
use crate::session::{Save, SaveOptions, SavePhase, SharedSave};

impl Handle for vfiomig_save {
    const KIND: &'static Kind = &table::SAVE;
    type Object = Save;
    type Shared = SharedSave;

    fn state(save: &Save) -> u32 {
        match save.phase() {
            SavePhase::PreCopy => states::PRE_COPY,
            SavePhase::Quiesced => states::QUIESCED,
            SavePhase::StopCopy => states::STOP_COPY,
            SavePhase::Ended => states::ENDED,
            SavePhase::Failed => states::FAILED,
            SavePhase::Finished => states::FINISHED,
        }
    }

    fn ended_by(save: &Save) -> Option<Error> {
        save.cancelled()
    }

    fn end(save: &mut Save) -> Result<()> {
        save.end()
    }
}

/// Reads the options. The library owns callbacks in them from here on, even if it refuses the
/// options.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
pub(super) unsafe fn read_options(options: *const vfiomig_save_options) -> Result<SaveOptions> {
    if options.is_null() {
        return Ok(SaveOptions::default());
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: promises 1 to 3, about what is in it.
    let auth = unsafe { read_auth(options.auth) }?;
    tail.check()?;
    // SAFETY: promise 1, about the limits.
    Ok(SaveOptions { auth, ..unsafe { options.to_options() }? })
}

/// Begins to save the device: RUNNING to PRE_COPY, if the device has it. A device in STOP is saved
/// without pre-copy. The session owns the device's data fd and keeps the device alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_save_options,
    out: *mut *mut vfiomig_save,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options.
    let options = || unsafe { read_options(options) };
    with_taken(&table::SAVE_BEGIN, device, options, |device, options| {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let save = device.save(options)?;
        let shared = save.shared();
        publish(out, save, shared)
    })
}

/// Returns the next piece of the stream: at most cap bytes in buf, and their number in *len. Send
/// them to the target, in this order. The driver's data goes directly into buf. Bytes between *len
/// and cap may be overwritten; nothing beyond cap is. cap must be at least VFIOMIG_MIN_BUFFER, and
/// at least 40 bytes more than the longest blob, or 72 in an authenticated stream.
///
/// VFIOMIG_NEXT_MORE: send the bytes and call again. VFIOMIG_NEXT_DRAINED: send the bytes; the
/// running device has nothing more for now. Come back on a timer or when vfiomig_save_get_poll_fd()
/// is readable, or go on to vfiomig_save_stop(). VFIOMIG_NEXT_END: send the bytes; the stream is
/// complete.
///
/// In QEMU's format, a call returns the contents of one of QEMU's sections, and the VMM writes the
/// section around it. The first call returns save_setup, and each further call an iteration. After
/// vfiomig_save_stop() the calls return the pieces of save_complete, the last with
/// VFIOMIG_NEXT_DRAINED. Once the VMM has added its configuration with vfiomig_save_add_blob(), the
/// next call returns save_state, with VFIOMIG_NEXT_END. With VFIOMIG_SAVE_PACKETS, each call after
/// vfiomig_save_stop() returns one packet, which must be neither split nor joined.
/// VFIOMIG_NEXT_DRAINED comes with the last data or with nothing, and VFIOMIG_NEXT_END with the
/// configuration. See docs/qemu-format.md.
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

/// Writes the stream to a descriptor of the VMM's, instead of vfiomig_save_next(): to a stream
/// socket, a pipe, a file or what else can be written to but a terminal, in blocking mode or not. Never
/// blocks where vfiomig_save_cancel() could not end it, except in a disk or a driver. No SIGPIPE or
/// SIGXFSZ is raised, and the mode of the fd is not changed.
///
/// VFIOMIG_NEXT_DRAINED: the running device has nothing more for now, and all it had was written.
/// VFIOMIG_NEXT_END: the whole stream was written. VFIOMIG_NEXT_MORE: max_bytes were written; call
/// again. What could not be written when a call fails is kept, and goes first in the next call, which
/// may have another fd. Devices, and pipes in blocking mode, take 4 KiB at a time; non-blocking pipes
/// are faster. Not for QEMU's format, which needs the VMM's own sections in between.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_write_fd(
    save: *mut vfiomig_save,
    fd: c_int,
    how: *const vfiomig_transfer,
) -> c_int {
    with(&table::SAVE_WRITE_FD, save, |save| {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let how = unsafe { read_transfer(how) }?;
        // SAFETY: vfiomig.h: the VMM keeps the fd open during the call.
        let fd = unsafe { CallersFd::new(fd) }?;
        Ok(save.write_fd(fd.get(), how)? as c_int)
    })
}

/// Adds opaque data of the VMM's own, for example the PCI configuration space. It travels after
/// everything returned so far, and the target's blob callback gets it with the same kind. The data
/// is copied. If a save starts again because its device was reset, earlier blobs are void: add them
/// again (see VFIOMIG_EVENT_SAVE_RESTARTED, or restarts in vfiomig_save_get_stats()). A blob needs a
/// buffer of its length plus 40 bytes in vfiomig_save_next(), or 72 in an authenticated stream.
///
/// In QEMU's format there is exactly one blob, of kind 0: the configuration of the stopped device,
/// as QEMU's vmstate writes it. It is empty if there is none. The library adds the tags around it.
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

/// Asks the driver how much is left. All numbers are estimates, and drivers err in both directions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_pending(
    save: *mut vfiomig_save,
    pending: *mut vfiomig_pending,
) -> c_int {
    with(&table::SAVE_GET_PENDING, save, |save| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(pending, "pending") }?;
        out.fill(&(&save.pending()?).into());
        Ok(())
    })
}

/// Returns a file descriptor to poll for reading while vfiomig_save_next() returns -EAGAIN or
/// VFIOMIG_NEXT_DRAINED. The fd belongs to the library, and changes when the save stops the device
/// or starts again. Most drivers are always ready, so come back on a timer as well.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_get_poll_fd(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_GET_POLL_FD, save, |save| save.poll_fd())
}

/// Stops the device's peer-to-peer DMA. Stop the guest's vCPUs first. With several devices, quiesce
/// all of them before you stop any. Devices without peer-to-peer states stay as they are. Like
/// vfiomig_save_stop(), this may refuse with -EAGAIN: the device is then still in pre-copy, so you
/// may start the vCPUs and go on, if no other device has been quiesced. A save that is quiesced does
/// not go back to pre-copy: stop the device, or keep it. Do not run the vCPUs in between. If it
/// fails, see vfiomig_save_stop(). A device that has no peer-to-peer states and no data stream yet
/// stays in RUNNING, where a reset before vfiomig_save_stop() cannot be seen: call that at once.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_quiesce(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_QUIESCE, save, |save| save.quiesce())
}

/// Stops the device: to STOP_COPY, quiescing it first if that has not been done. Stop the guest's
/// vCPUs first. Then call vfiomig_save_next() until VFIOMIG_NEXT_END.
///
/// Before the device is stopped, it is asked once more whether it has started its initial data
/// again since it was complete (because of VFIO_PRECOPY_INFO_REINIT, or a reset). If so, an
/// acknowledgement by the target no longer counts, and all of that data would add to the downtime.
/// The call then returns -EAGAIN, the device is where it was, and vfiomig_save_get_pending() returns
/// a new generation. If the device is quiesced, repeat the call at once, which then stops it anyway,
/// or keep the guest. If it is still in pre-copy, you may also start the vCPUs and go on with
/// vfiomig_save_next(). Devices that cannot tell are not asked.
///
/// After any other error the save is over; finish it with one of the KEEP endings before the vCPUs
/// run. Until then the device waits in RUNNING_P2P, if it has that state, because other devices of
/// the VM may have been stopped. state_after in vfiomig_save_get_failure() says where it is: it may
/// also be where it was, or in RUNNING, if it refuses to be quiesced.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_stop(save: *mut vfiomig_save) -> c_int {
    with(&table::SAVE_STOP, save, |save| save.stop())
}

/// Ends the save. VFIOMIG_ENDING_RELEASE: the target has committed, and the device stays in STOP;
/// this needs the complete stream, and returns 0 even if the device has to be reset on the way (see
/// VFIOMIG_EVENT_RESET and vfiomig_device_get_failure()). VFIOMIG_ENDING_KEEP: the guest goes on here, and the device goes
/// back to where it was, from any state. After VFIOMIG_NEXT_END, this makes the stream a
/// checkpoint. VFIOMIG_ENDING_KEEP_QUIESCED: the same for one of several devices, which goes to
/// RUNNING_P2P if it has that state. VFIOMIG_ENDING_KEEP_STOPPED: the same for a guest that is
/// stopped; the device goes to STOP.
///
/// If VFIOMIG_ENDING_KEEP fails, the outcome in vfiomig_save_get_failure() says whether the guest
/// may go on; vfiomig_device_get_failure() has the same until something else fails. After outcome
/// KEPT or RECOVERED nothing is lost; try again once with vfiomig_device_run() (with several devices,
/// with vfiomig_device_set_state(VFIOMIG_STATE_RUNNING_P2P) first). After outcome RESET the device was
/// reset, by the library or behind its back, and its guest's state is gone: see vfiomig_device_run().
/// It is then where the ending was to take it, or in RUNNING if it refuses that. If the driver
/// refuses the way back, the outcome is normally RESET.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_finish(save: *mut vfiomig_save, ending: u32) -> c_int {
    with(&table::SAVE_FINISH, save, |save| save.finish(structs::ending(ending)?))
}

/// Cancels the save. The call in progress returns -ECANCELED as soon as the driver lets it, and so
/// does every later call except those that ask what happened. To end a read that blocks in the
/// driver, also send its thread a signal. Then finish with VFIOMIG_ENDING_KEEP, or free the save.
/// With several devices, cancel the save of each; once one of them is quiesced or stopped, finish
/// all with VFIOMIG_ENDING_KEEP_QUIESCED, and free none before. A stream that was complete before can
/// still be finished with VFIOMIG_ENDING_RELEASE. May be called from any thread at any time while
/// the handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_cancel(save: *mut vfiomig_save) -> c_int {
    with_shared(&table::SAVE_CANCEL, save, |shared| {
        shared.cancel();
        Ok(())
    })
}

/// Returns what the save has done so far. May be called from any thread at any time while the
/// handle lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_stats(
    save: *mut vfiomig_save,
    stats: *mut vfiomig_save_stats,
) -> c_int {
    with_shared(&table::SAVE_GET_STATS, save, |shared| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&shared.stats().into());
        Ok(())
    })
}

/// Returns what was going on when this save last failed; code is 0 if it has not. It describes your
/// last call if code is what that call returned: see vfiomig_device_get_failure().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_save_get_failure(
    save: *mut vfiomig_save,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::SAVE_GET_FAILURE, save, |save| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&save.failure().into());
        Ok(())
    })
}

/// Frees a save. NULL is ignored. An unfinished save ends as with VFIOMIG_ENDING_KEEP. Waits for a
/// call on another thread. Freeing a handle from a callback while a call is using it or its device
/// has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_save_free(save: *mut vfiomig_save) {
    free(&table::SAVE_FREE, save);
}
