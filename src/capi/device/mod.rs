// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_device_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{BorrowedRawFd, Out};
use super::entry::{free, guarded_owner, publish, with};
use super::error::vfiomig_failure;
use super::handle::Handle;
use super::reserve::admit;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table;
use crate::device::{Device, DeviceOptions, State};
use crate::error::{Result, err};
use crate::transport::{KernelTransport, OpsTransport};

impl Handle for vfiomig_device {
    const KIND: &'static Kind = &table::DEVICE;
    type Object = Device;
    type Shared = ();

    fn state(_: &Device) -> u32 {
        0
    }
}

/// Reads options; callbacks in them are owned from here on, also where the options are refused.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
unsafe fn read_options(options: *const vfiomig_device_options) -> Result<DeviceOptions> {
    if options.is_null() {
        return Ok(DeviceOptions::default());
    }
    // SAFETY: the caller's promise: a structure as long as it says.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: the caller's promise, about the callbacks in it.
    let events = unsafe { options.events() };
    tail.check()?;
    // SAFETY: the caller's promise, about the pointers in it.
    unsafe { options.to_options(events) }
}

/// Probes the VFIO device behind fd, from a group or from a cdev (bound to an iommufd). The fd is
/// borrowed: it is never closed, and must stay open until the device handle and all sessions on it
/// have been freed. A device that cannot migrate is no error: vfiomig_device_get_reason() says
/// why not. Issues ioctls; changes nothing of the device's state.
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
        // SAFETY: vfiomig.h: the fd stays open until the device and all sessions on it are freed.
        let fd = unsafe { BorrowedRawFd::new(fd) };
        publish(out, Device::new(KernelTransport::new(fd), options)?, ())
    })
}

/// Probes a device behind a table of callbacks: vfio-user, a mock, or whatever the VMM brings.
/// The table is copied; ops->release is called exactly once with opaque, also when this fails
/// (unless ops itself cannot be read: NULL, or a struct_size that is none).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_new_ops(
    ops: *const vfiomig_device_ops,
    opaque: *mut c_void,
    options: *const vfiomig_device_options,
    out: *mut *mut vfiomig_device,
) -> c_int {
    guarded_owner(&table::DEVICE_NEW_OPS, || {
        // SAFETY: vfiomig.h: NULL, or a table and options. Both are read before either is judged, so
        // that whatever they own is released.
        let (ops, options) = unsafe { (read_in(ops, "ops"), read_options(options)) };
        let (ops, tail) = ops?;
        // SAFETY: vfiomig.h describes the callbacks of the table as they are needed.
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
        publish(out, Device::new(transport, options)?, ())
    })
}

/// Frees a device handle; NULL is none. Sessions that are still open keep the device until they
/// are freed themselves. Waits for a call on another thread.
/// A callback cannot free a handle that a call is inside of: it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_free(device: *mut vfiomig_device) {
    free(&table::DEVICE_FREE, device);
}

/// What the device can do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_caps(
    device: *mut vfiomig_device,
    caps: *mut vfiomig_caps,
) -> c_int {
    with(&table::DEVICE_GET_CAPS, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(caps, "caps") }?;
        let reasons = device.with_details(|reasons, _| Ok(reasons.len()))?;
        out.fill(&vfiomig_caps::new(&device.caps()?, reasons));
        Ok(())
    })
}

/// Why the device cannot migrate, or not well: one reason per index from 0, worst first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_reason(
    device: *mut vfiomig_device,
    index: u32,
    reason: *mut vfiomig_reason,
) -> c_int {
    with(&table::DEVICE_GET_REASON, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(reason, "reason") }?;
        device.with_details(|reasons, _| {
            let found = reasons.get(index as usize);
            let found = found.ok_or_else(|| err!(NoData, "there are {} reasons", reasons.len()))?;
            out.fill(&found.into());
            Ok(())
        })
    })
}

/// What the device is, as far as it is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_identity(
    device: *mut vfiomig_device,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::DEVICE_GET_IDENTITY, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        device.with_details(|_, identity| {
            out.fill(&identity.into());
            Ok(())
        })
    })
}

/// Asks the device which state it is in (VFIOMIG_STATE_*; a newer kernel's states come as their
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

/// Takes the device to VFIOMIG_STATE_STOP, _RUNNING or _RUNNING_P2P, over whatever states lie
/// between. The states with a data stream are entered by vfiomig_save_begin() and
/// vfiomig_load_begin(). A device that an earlier owner left in one of those is reset first. One
/// that has lost what it held of its guest goes to STOP only: see vfiomig_device_run(). May take as
/// long as the device does: call it off the main loop.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_set_state(device: *mut vfiomig_device, state: u32) -> c_int {
    with(&table::DEVICE_SET_STATE, device, |device| device.set_state(State::from_raw(state)))
}

/// Takes the device to RUNNING: the last step on the target after vfiomig_load_commit(), with the
/// fix-ups made; or on a source that was kept stopped. Clears the fix-ups. After an error whose
/// outcome is KEPT or RECOVERED nothing is lost: try again. A device that was reset while its guest
/// was stopped (quiesced, in STOP or STOP_COPY, after the end of its stream, after RELEASE), or between
/// the commit and its first run, has lost what its guest relies upon, whoever reset it and however that
/// was found out. It is neither run nor saved: -EIO with outcome RESET, each time, until the VMM
/// loads it again, or says by vfiomig_device_reset() or vfiomig_device_accept_reset() that it wants
/// it as after power-on.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_run(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_RUN, device, |device| device.run())
}

/// Resets the device with VFIO_DEVICE_RESET: RUNNING, as after power-on, which is what the VMM wants
/// by this call. A save that is under way starts again by itself, and sends the state of the reset
/// device; a load fails. While somebody else holds the device's lock (-EAGAIN of the kernel) the
/// reset is tried again for up to a second. If it fails the device is lost; it is tried once more
/// when the last handle of the device is freed.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_RESET, device, |device| device.reset())
}

/// Says that the device was reset by other means: a function-level reset by its guest, a bus reset
/// by the VMM, error recovery on the host. A save whose guest runs starts again by itself; a load
/// fails. Where the guest was stopped, or had not run since the load, its state in the device is
/// lost: the save fails with -EIO, and the device is not run any more (see vfiomig_device_run()). A
/// VMM that has made the reset itself, on purpose, calls vfiomig_device_accept_reset() next. Also
/// brings back a device that was lost and that a harder reset has revived.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_notify_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_NOTIFY_RESET, device, |device| device.was_reset())
}

/// Says that a device which has lost what it held in a reset is wanted as it is now, as after
/// power-on: for a VMM that has reset the device itself by other means than vfiomig_device_reset(),
/// with its machine for example, after vfiomig_device_notify_reset(). It may be run and saved again. Does
/// nothing to a device that has lost nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_device_accept_reset(device: *mut vfiomig_device) -> c_int {
    with(&table::DEVICE_ACCEPT_RESET, device, |device| device.accept_reset())
}

/// What the VMM must redo before the device runs, after a reset or a load: VFIOMIG_FIXUP_*. Does
/// not wait for a session on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_fixups(
    device: *mut vfiomig_device,
    fixups: *mut u32,
) -> c_int {
    with(&table::DEVICE_GET_FIXUPS, device, |device| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        unsafe { Out::new(fixups, "fixups") }?.write(device.fixups());
        Ok(())
    })
}

/// What was going on when something last failed on this device, sessions included; zeros if
/// nothing has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_device_get_failure(
    device: *mut vfiomig_device,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::DEVICE_GET_FAILURE, device, |device| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(failure, "failure") }?;
        out.fill(&device.failure()?.into());
        Ok(())
    })
}
