// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callbacks of the ops table, through which the library reaches the device: Rust users go
//! through them as well.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vfiomig::transport::{
    OpsTransport, vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info,
};

use crate::device::UserMemory;
use crate::shared::Shared;

pub(crate) fn status(result: Result<(), i32>) -> c_int {
    result.map_or_else(|errno| -errno, |()| 0)
}

fn count(result: Result<usize, i32>) -> i64 {
    result.map_or_else(|errno| i64::from(-errno), |n| n as i64)
}

/// Runs a callback or function on the simulator behind a pointer; a panic becomes EIO.
///
/// # Safety
/// `opaque` is NULL, or a live simulator.
pub(crate) unsafe fn with<T>(
    opaque: *const c_void,
    call: impl FnOnce(&Shared) -> Result<T, i32>,
) -> Result<T, i32> {
    // SAFETY: the caller promised a live simulator; NULL is caught.
    let shared = unsafe { opaque.cast::<Shared>().as_ref() }.ok_or(libc::EFAULT)?;
    catch_unwind(AssertUnwindSafe(|| call(shared))).unwrap_or(Err(libc::EIO))
}

fn put_text(field: &mut [c_char], text: &str) {
    let room = field.len().saturating_sub(1);
    for (slot, byte) in field.iter_mut().zip(text.bytes().take(room).chain([0])) {
        *slot = byte as c_char;
    }
}

/// The memory of whoever calls the table: its pointers point there.
struct User;

impl UserMemory for User {
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<(), i32> {
        let from = pointer(address)?;
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: the feature callback stands for the ioctl, so whoever calls it sees to it that
            // what a payload points to is there, as long as the payload says.
            *word = unsafe { from.add(i).read_unaligned() };
        }
        Ok(())
    }

    fn or(&mut self, address: u64, words: &[u64]) -> Result<(), i32> {
        let to = pointer(address)?;
        for (i, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            // SAFETY: as above.
            unsafe { to.add(i).write_unaligned(to.add(i).read_unaligned() | word) };
        }
        Ok(())
    }
}

fn pointer(address: u64) -> Result<*mut u64, i32> {
    let address = usize::try_from(address).ok().filter(|address| *address != 0);
    Ok(std::ptr::with_exposed_provenance_mut(address.ok_or(libc::EFAULT)?))
}

unsafe extern "C" fn feature(
    opaque: *mut c_void,
    flags: u32,
    data: *mut c_void,
    len: usize,
) -> c_int {
    let payload = match len {
        0 => &mut [],
        // SAFETY: vfiomig.h, of the table: `data` is valid for reads and writes of `len` bytes.
        _ => unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), len) },
    };
    // SAFETY: the table's opaque is the simulator.
    status(unsafe {
        with(opaque, |sim| sim.callback(|sim| sim.feature(flags, payload, &mut User)))
    })
}

unsafe extern "C" fn reset(opaque: *mut c_void) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    status(unsafe { with(opaque, |sim| sim.callback(Shared::reset)) })
}

unsafe extern "C" fn data_read(
    opaque: *mut c_void,
    data_fd: c_int,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    let buf = match len {
        0 => &mut [],
        // SAFETY: vfiomig.h, of the table: `buf` is valid for writes of `len` bytes; the simulator
        // only writes to it.
        _ => unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) },
    };
    // SAFETY: the table's opaque is the simulator.
    count(unsafe { with(opaque, |sim| sim.callback(|sim| sim.read(data_fd, buf))) })
}

unsafe extern "C" fn data_write(
    opaque: *mut c_void,
    data_fd: c_int,
    buf: *const c_void,
    len: usize,
) -> i64 {
    let buf = match len {
        0 => &[],
        // SAFETY: vfiomig.h, of the table: `buf` is valid for reads of `len` bytes.
        _ => unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), len) },
    };
    // SAFETY: the table's opaque is the simulator.
    count(unsafe { with(opaque, |sim| sim.callback(|sim| sim.write(data_fd, buf))) })
}

unsafe extern "C" fn data_precopy_info(
    opaque: *mut c_void,
    data_fd: c_int,
    info: *mut vfiomig_precopy_info,
) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    let result = unsafe {
        with(opaque, |sim| {
            sim.callback(|sim| {
                // SAFETY: vfiomig.h, of the table: `info` is valid for reads and writes.
                let info = info.as_mut().ok_or(libc::EFAULT)?;
                if (info.argsz as usize) < size_of::<vfiomig_precopy_info>() {
                    return Err(libc::EINVAL);
                }
                let estimates = sim.lock().precopy_info(data_fd)?;
                info.flags = estimates.flags;
                info.initial_bytes = estimates.initial_bytes;
                info.dirty_bytes = estimates.dirty_bytes;
                Ok(())
            })
        })
    };
    status(result)
}

unsafe extern "C" fn data_close(opaque: *mut c_void, data_fd: c_int) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    status(unsafe { with(opaque, |sim| sim.callback(|sim| sim.lock().close(data_fd))) })
}

unsafe extern "C" fn data_poll_fd(opaque: *mut c_void, data_fd: c_int) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    unsafe { with(opaque, |sim| sim.callback(|sim| sim.poll_fd(data_fd))) }
        .unwrap_or_else(|errno| -errno)
}

unsafe extern "C" fn data_set_nonblocking(opaque: *mut c_void, data_fd: c_int) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    status(unsafe { with(opaque, |sim| sim.callback(|sim| sim.lock().set_nonblocking(data_fd))) })
}

unsafe extern "C" fn device_info(
    opaque: *mut c_void,
    flags: *mut u32,
    num_regions: *mut u32,
) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    status(unsafe {
        with(opaque, |sim| {
            // SAFETY: vfiomig.h, of the table: both are valid for writes.
            let (flags, count) =
                (flags.as_mut().ok_or(libc::EFAULT)?, num_regions.as_mut().ok_or(libc::EFAULT)?);
            (*flags, *count) = (0, sim.region(|region, _| region.count()));
            Ok(())
        })
    })
}

unsafe extern "C" fn region_info(
    opaque: *mut c_void,
    region: u32,
    info: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: vfiomig.h, of the table: `info` is valid for reads and writes of `len` bytes.
    let info = unsafe { std::slice::from_raw_parts_mut(info.cast::<u8>(), len) };
    // SAFETY: the table's opaque is the simulator.
    status(unsafe {
        with(opaque, |sim| sim.callback(|sim| sim.region(|r, _| r.info(region, info))))
    })
}

unsafe extern "C" fn region_read(
    opaque: *mut c_void,
    region: u32,
    offset: u64,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    // SAFETY: vfiomig.h, of the table: `buf` is valid for writes of `len` bytes, and not NULL.
    let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
    let read = |sim: &Shared| sim.region(|r, core| r.read(core, region, offset, buf));
    // SAFETY: the table's opaque is the simulator.
    count(unsafe { with(opaque, |sim| sim.callback(read)) })
}

unsafe extern "C" fn region_write(
    opaque: *mut c_void,
    region: u32,
    offset: u64,
    buf: *const c_void,
    len: usize,
) -> i64 {
    // SAFETY: vfiomig.h, of the table: `buf` is valid for reads of `len` bytes, and not NULL.
    let buf = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), len) };
    let write = |sim: &Shared| sim.region(|r, core| r.write(core, region, offset, buf));
    // SAFETY: the table's opaque is the simulator.
    count(unsafe { with(opaque, |sim| sim.callback(write)) })
}

unsafe extern "C" fn identity(opaque: *mut c_void, out: *mut vfiomig_identity) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    let result = unsafe {
        with(opaque, |sim| {
            // SAFETY: vfiomig.h, of the table: `out` is valid for reads and writes.
            let out = out.as_mut().ok_or(libc::EFAULT)?;
            if (out.struct_size as usize) < size_of::<vfiomig_identity>() {
                return Err(libc::EINVAL);
            }
            let core = sim.lock();
            let options = &core.options;
            let [vendor, device, subsystem_vendor, subsystem_device] = options.pci;
            (out.pci_vendor, out.pci_device) = (vendor, device);
            out.pci_subsystem_vendor = subsystem_vendor;
            out.pci_subsystem_device = subsystem_device;
            put_text(&mut out.bus, if vendor == 0 { "" } else { "pci" });
            put_text(&mut out.mdev_type, &options.mdev_type);
            put_text(&mut out.driver, &options.driver);
            Ok(())
        })
    };
    status(result)
}

unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: the table's opaque is the simulator.
    let _ = unsafe {
        with(opaque, |sim| {
            sim.released();
            Ok(())
        })
    };
}

/// Like [`release`], for a transport that holds a reference of its own.
unsafe extern "C" fn release_own(opaque: *mut c_void) {
    // SAFETY: `transport` made this pointer with `Arc::into_raw`, and vfiomig.h says that this is
    // called once.
    let shared = unsafe { Arc::from_raw(opaque.cast::<Shared>().cast_const()) };
    shared.released();
}

const fn table(release: unsafe extern "C" fn(*mut c_void)) -> vfiomig_device_ops {
    vfiomig_device_ops {
        struct_size: size_of::<vfiomig_device_ops>() as u32,
        reserved: 0,
        feature: Some(feature),
        reset: Some(reset),
        data_read: Some(data_read),
        data_write: Some(data_write),
        data_precopy_info: Some(data_precopy_info),
        data_close: Some(data_close),
        data_poll_fd: Some(data_poll_fd),
        data_set_nonblocking: Some(data_set_nonblocking),
        region_read: Some(region_read),
        identity: Some(identity),
        release: Some(release),
        device_info: Some(device_info),
        region_info: Some(region_info),
        region_write: Some(region_write),
    }
}

pub(crate) static OPS: vfiomig_device_ops = table(release);

pub(crate) fn transport(shared: Arc<Shared>) -> OpsTransport {
    let opaque = Arc::into_raw(shared).cast_mut().cast::<c_void>();
    // SAFETY: the callbacks take any thread, and the simulator lives until `release_own`.
    unsafe { OpsTransport::new(table(release_own), opaque) }
}
