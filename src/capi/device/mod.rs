// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_device_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};
use std::sync::Arc;

pub use constants::*;
pub use structs::*;

use super::args::{BorrowedRawFd, Out, bytes_mut};
use super::entry::{free, guarded_owner, publish, with, with_shared_copy};
use super::error::vfiomig_failure;
use super::handle::Handle;
use super::reserve::admit;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, device_states as states};
use crate::device::{Device, DeviceOptions, State};
use crate::error::{Result, err};
use crate::history::Recorder;
use crate::transport::{KernelTransport, OpsTransport};

impl Handle for vfiomig_device {
    const KIND: &'static Kind = &table::DEVICE;
    type Object = Device;
    type Shared = Arc<Recorder>;

    fn state(_: &Device) -> u32 {
        states::LIVE
    }
}

fn publish_device(out: Out<'_, *mut vfiomig_device>, device: Device) -> Result<()> {
    let recorder = Arc::clone(device.recorder());
    publish(out, device, recorder)
}

/// Reads the options. The library owns callbacks in them from here on, even if it refuses the
/// options.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
unsafe fn read_options(options: *const vfiomig_device_options) -> Result<DeviceOptions> {
    if options.is_null() {
        return Ok(DeviceOptions::default());
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: promises 2 and 3, about the callback in it.
    let events = unsafe { options.events() };
    tail.check()?;
    // SAFETY: promise 1, about the pointers in it.
    unsafe { options.to_options(events) }
}

/// Probes the VFIO device behind fd, which comes from a group, or from a cdev that is bound to an
/// iommufd. The fd is borrowed: the library never closes it, and it must stay open until the device
/// handle and all sessions on it have been freed. A device that cannot migrate is not an error:
/// vfiomig_device_get_reason() says why it cannot. The call issues ioctls, but does not change the
/// device's state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_new_fd(
    fd: c_int,
    options: *const vfiomig_device_options,
    out: *mut *mut vfiomig_device,
) -> c_int {
    guarded_owner(&table::DEVICE_NEW_FD, || {
        // SAFETY: vfiomig.h: NULL, or options.
        let options = unsafe { read_options(options) }?;
        admit()?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        if fd < 0 {
            return Err(err!(Inval, "the fd is {fd}"));
        }
        // SAFETY: promise 4: the fd stays open until the device and all sessions on it are freed.
        let fd = unsafe { BorrowedRawFd::new(fd) };
        publish_device(out, Device::new(KernelTransport::new(fd), options)?)
    })
}

/// Probes a device behind a table of callbacks: a vfio-user device, a mock, or anything else that
/// the VMM provides. The table is copied. ops->release is called exactly once with opaque, even if
/// this call fails (unless ops itself cannot be read, because it is NULL or its struct_size is
/// invalid).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_new_ops(
    ops: *const vfiomig_device_ops,
    opaque: *mut c_void,
    options: *const vfiomig_device_options,
    out: *mut *mut vfiomig_device,
) -> c_int {
    guarded_owner(&table::DEVICE_NEW_OPS, || {
        // SAFETY: vfiomig.h: NULL, or a table and options. Both are read before either is judged,
        // so that whatever they own is released.
        let (ops, options) = unsafe { (read_in(ops, "ops"), read_options(options)) };
        let (ops, tail) = ops?;
        // SAFETY: the promises of `OpsTransport::new` are 2 and 3 of C, and what vfiomig.h says of
        // data_fd beside the table's members.
        let transport = unsafe { OpsTransport::new(ops, opaque) };
        let options = options?;
        tail.check()?;
        admit()?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        if ops.feature.is_none() {
            return Err(err!(Inval, "ops->feature is required"));
        }
        if ops.reserved != 0 {
            return Err(err!(Inval, "ops->reserved is not zero"));
        }
        publish_device(out, Device::new(transport, options)?)
    })
}

/// Frees a device handle. NULL is ignored. Sessions that are still open keep the device until they
/// are freed too. Waits for a call on another thread. Freeing a handle from a callback while a call
/// is using it has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_free(device: *mut vfiomig_device) {
    free(&table::DEVICE_FREE, device);
}

/// Returns what the device can do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_caps(
    device: *mut vfiomig_device,
    caps: *mut vfiomig_caps,
) -> c_int {
    with(&table::DEVICE_GET_CAPS, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(caps, "caps") }?;
        let reasons = device.with_details(|reasons, _| Ok(reasons.len()))?;
        out.fill(&vfiomig_caps::new(&device.caps()?, reasons));
        Ok(())
    })
}

/// Returns one reason why the device cannot migrate, or not well, by an index that starts at 0; the
/// worst comes first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_reason(
    device: *mut vfiomig_device,
    index: u32,
    reason: *mut vfiomig_reason,
) -> c_int {
    with(&table::DEVICE_GET_REASON, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(reason, "reason") }?;
        device.with_details(|reasons, _| {
            let found = reasons.get(index as usize);
            let found = found.ok_or_else(|| err!(NoData, "there are {} reasons", reasons.len()))?;
            out.fill(&found.into());
            Ok(())
        })
    })
}

/// Returns what the device is, as far as that is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_identity(
    device: *mut vfiomig_device,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::DEVICE_GET_IDENTITY, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        device.with_details(|_, identity| {
            out.fill(&identity.into());
            Ok(())
        })
    })
}

/// Reads the device's state (VFIOMIG_STATE_*; states that only a newer kernel has come as their
/// numbers).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_state(
    device: *mut vfiomig_device,
    state: *mut u32,
) -> c_int {
    with(&table::DEVICE_GET_STATE, device, |device| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        let out = unsafe { Out::new(state, "state") }?;
        out.write(device.state()?.raw());
        Ok(())
    })
}

/// Takes the device to VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING or VFIOMIG_STATE_RUNNING_P2P,
/// through whatever states lie between. Only vfiomig_save_begin() and vfiomig_load_begin() enter
/// the states that have a data stream. A device that an earlier owner left in one of those is reset
/// first. A device that has lost its guest's state goes only to STOP: see vfiomig_device_run().
/// This may take as long as the device needs, so call it off the main loop.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_set_state(device: *mut vfiomig_device, state: u32) -> c_int {
    with(&table::DEVICE_SET_STATE, device, |device| device.set_state(State::from_raw(state)))
}

/// Takes the device to RUNNING: the last step on the target, after vfiomig_load_commit() and the
/// fix-ups, or the way back on a source that was kept stopped. Clears the fix-ups. After an error
/// whose outcome is KEPT or RECOVERED nothing is lost, and you may try again. A device has lost
/// what its guest relies on if it was reset while its guest was stopped (quiesced, in STOP or
/// STOP_COPY, after the end of its stream, after RELEASE), or between a commit and its first run.
/// It does not matter who reset it, or how that was noticed. Such a device is neither run nor
/// saved: -EIO with outcome RESET, every time, until the VMM loads it again, or says with
/// vfiomig_device_reset() or vfiomig_device_accept_reset() that it wants the device in its power-on
/// state.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_run(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_RUN, device, |device| device.run())
}

/// Resets the device with VFIO_DEVICE_RESET. It ends in RUNNING (even one that was quiesced), in its power-on state, and the
/// library takes it that the VMM wants this. A save in progress starts again by itself and sends
/// the state of the reset device; a load fails. While something else holds the device's lock (the
/// kernel answers EAGAIN), the reset is retried for up to a second. If it fails, the device is
/// lost, and the reset is tried once more when the last handle of the device is freed.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_RESET, device, |device| device.reset())
}

/// Tells the library that something else reset the device: its guest (a function-level reset), the
/// VMM (a bus reset), or error recovery on the host. If the guest runs, a save starts again by
/// itself, and a load fails. If the guest was stopped, or had not run since the load, its state in
/// the device is lost: the save fails with -EIO, and the device is no longer run (see
/// vfiomig_device_run()). A VMM that made the reset itself, on purpose, calls
/// vfiomig_device_accept_reset() next. The call also brings back a lost device that a harder reset
/// has revived.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_notify_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_NOTIFY_RESET, device, |device| device.was_reset())
}

/// Tells the library that the VMM wants a device as it is now, in its power-on state, although a
/// reset took what it held: for a VMM that has reset the device itself by means other than
/// vfiomig_device_reset(), for example with its machine, and has called
/// vfiomig_device_notify_reset(). The device may be run and saved again. Has no effect on a device
/// that has lost nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_accept_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_ACCEPT_RESET, device, |device| device.accept_reset())
}

/// Returns what the VMM must redo before the device runs, after a reset or a load: a bitwise OR of
/// VFIOMIG_FIXUP_*. Does not wait for a session on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_fixups(
    device: *mut vfiomig_device,
    fixups: *mut u32,
) -> c_int {
    with(&table::DEVICE_GET_FIXUPS, device, |device| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        unsafe { Out::new(fixups, "fixups") }?.write(device.fixups().bits());
        Ok(())
    })
}

/// Returns what was going on when something last failed on this device, including its sessions; code
/// is 0 if nothing has. It is kept through later successes, and through errors in which no device
/// and no stream had a part (a call that is not allowed, -EBUSY, -EAGAIN). So it
/// describes your last call only if code is what that call returned. After RELEASE, which returns
/// 0, outcome RESET means that the device's contents are lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_failure(
    device: *mut vfiomig_device,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::DEVICE_GET_FAILURE, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&device.failure()?.into());
        Ok(())
    })
}

/// Returns a file descriptor that can be polled for reading: it is readable while
/// vfiomig_device_next_event() has something to return. Events are queued from the first call on, in memory
/// that is there from then on. vfiomig_group_get_event_fd() does the same for all devices of a group. The
/// descriptor is the device's: do not close it, or read from it, and poll it no more once the device's
/// handles and sessions are freed. Does not wait for a call on the device.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_get_event_fd(device: *mut vfiomig_device) -> c_int {
    with_shared_copy(&table::DEVICE_GET_EVENT_FD, device, |recorder: Arc<Recorder>| {
        recorder.event_fd()
    })
}

/// Returns the oldest event of a device that was not returned yet: see vfiomig_group_next_event(). The queue
/// holds 96. Does not wait for a call on the device, and needs no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_next_event(
    device: *mut vfiomig_device,
    event: *mut vfiomig_event,
) -> c_int {
    with_shared_copy(&table::DEVICE_NEXT_EVENT, device, |recorder: Arc<Recorder>| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(event, "event") }?;
        out.fill(&(&recorder.next_event()?).into());
        Ok(())
    })
}

/// Writes what happened to a device last into buf: a line that says whose history it is, and a line for
/// each event, the oldest first, as text (VFIOMIG_HISTORY_TEXT) or as JSON objects (VFIOMIG_HISTORY_JSON).
/// A NUL ends it; *len is its length without that. Of the last 64 events, as many of the newest are
/// written as fit into cap bytes; the first line says how many are left out. VFIOMIG_HISTORY_BYTES are
/// always enough, and VFIOMIG_HISTORY_LEAST for the first line.
///
/// For logs and bug reports: all of it is printable ASCII, whatever a driver is called, but names and error
/// texts in it come from outside. docs/events.md says what is recorded, and docs/schema/history.json
/// what JSON looks like. Does not wait for a call on the device, and needs no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_history(
    device: *mut vfiomig_device,
    format: u32,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with_shared_copy(&table::DEVICE_GET_HISTORY, device, |recorder: Arc<Recorder>| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes; NULL, or memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        len.write(recorder.write(to_format(format)?, buf)?);
        Ok(())
    })
}
