// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C side: the functions of `include/vfiomig-sim.h`, and the callbacks of the ops table,
//! through which Rust users go as well.

#![allow(unsafe_code, non_camel_case_types)]
// The header is where the C functions are described.
#![allow(missing_docs, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vfiomig::transport::{
    OpsTransport, vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info,
};

use crate::device::UserMemory;
use crate::{Effect, Op, Shared, Sim, SimOptions, State};

/// `struct vfiomig_sim_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_sim_options {
    pub struct_size: u32,
    pub migration_flags: u32,
    pub state_size: u64,
    pub initial_size: u64,
    pub seed: u64,
    pub quirks: u64,
    pub dirty_rate: u64,
    pub read_rate: u64,
    pub write_rate: u64,
    pub max_read: u32,
    pub max_write: u32,
    pub transition_us: [u32; 8],
    pub eintr_every: u32,
    pub model: u32,
    pub initial_state: u32,
    pub reserved: u32,
    pub pci_vendor: u16,
    pub pci_device: u16,
    pub pci_subsystem_vendor: u16,
    pub pci_subsystem_device: u16,
    pub mdev_type: [c_char; 64],
    pub driver: [c_char; 64],
    pub log_page_size: u64,
    pub log_max_ranges: u32,
    pub reserved2: u32,
}

const OPTIONS_SIZE: usize = size_of::<vfiomig_sim_options>();

// The layout that the header has.
const _: () = {
    assert!(OPTIONS_SIZE == 272);
    assert!(std::mem::offset_of!(vfiomig_sim_options, transition_us) == 72);
    assert!(std::mem::offset_of!(vfiomig_sim_options, pci_vendor) == 120);
    assert!(std::mem::offset_of!(vfiomig_sim_options, driver) == 192);
    assert!(std::mem::offset_of!(vfiomig_sim_options, log_max_ranges) == 264);
};

/// The largest `struct_size` that can be one: as in libvfiomig.
const MAX_STRUCT_SIZE: usize = 4096;

fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn put_text(field: &mut [c_char], text: &str) {
    let room = field.len().saturating_sub(1);
    for (slot, byte) in field.iter_mut().zip(text.bytes().take(room).chain([0])) {
        *slot = byte as c_char;
    }
}

impl From<&vfiomig_sim_options> for SimOptions {
    fn from(c: &vfiomig_sim_options) -> SimOptions {
        let default = SimOptions::default();
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let driver = text(&c.driver);
        SimOptions {
            migration_flags: or(c.migration_flags, default.migration_flags),
            state_size: if c.state_size == 0 { default.state_size } else { c.state_size },
            initial_size: c.initial_size,
            seed: c.seed,
            quirks: c.quirks,
            dirty_rate: c.dirty_rate,
            read_rate: c.read_rate,
            write_rate: c.write_rate,
            max_read: c.max_read,
            max_write: c.max_write,
            transition_us: c.transition_us,
            eintr_every: c.eintr_every,
            model: or(c.model, default.model),
            initial_state: State(or(c.initial_state, default.initial_state.0)),
            pci: [c.pci_vendor, c.pci_device, c.pci_subsystem_vendor, c.pci_subsystem_device],
            mdev_type: text(&c.mdev_type),
            driver: if driver.is_empty() { default.driver } else { driver },
            log_page_size: c.log_page_size,
            log_max_ranges: c.log_max_ranges,
        }
    }
}

/// Reads options of any size: what is missing is zero, and what is unknown must be.
///
/// # Safety
/// `options` is valid for reads of the size that it begins with.
unsafe fn read_options(options: *const vfiomig_sim_options) -> Result<SimOptions, i32> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut own: vfiomig_sim_options = unsafe { std::mem::zeroed() };
    if !options.is_null() {
        // SAFETY: the caller's promise; the size stands first.
        let size = unsafe { (*options).struct_size } as usize;
        if !(size_of::<u32>()..=MAX_STRUCT_SIZE).contains(&size) {
            return Err(libc::EINVAL);
        }
        // SAFETY: the caller's promise; `own` is at least as long as what is copied into it.
        unsafe {
            let to = (&raw mut own).cast::<u8>();
            std::ptr::copy_nonoverlapping(options.cast::<u8>(), to, size.min(OPTIONS_SIZE));
        }
        for at in OPTIONS_SIZE..size {
            // SAFETY: the caller's promise.
            if unsafe { *options.cast::<u8>().add(at) } != 0 {
                return Err(libc::E2BIG);
            }
        }
    }
    if own.reserved != 0 || own.reserved2 != 0 {
        return Err(libc::EINVAL);
    }
    Ok(SimOptions::from(&own))
}

fn status(result: Result<(), i32>) -> c_int {
    result.map_or_else(|errno| -errno, |()| 0)
}

fn count(result: Result<usize, i32>) -> i64 {
    result.map_or_else(|errno| i64::from(-errno), |n| n as i64)
}

/// Runs a callback or function on the simulator behind a pointer; a panic becomes EIO.
///
/// # Safety
/// `opaque` is a simulator that lives.
unsafe fn with<T>(
    opaque: *const c_void,
    call: impl FnOnce(&Shared) -> Result<T, i32>,
) -> Result<T, i32> {
    // SAFETY: the caller's promise; NULL is caught.
    let shared = unsafe { opaque.cast::<Shared>().as_ref() }.ok_or(libc::EFAULT)?;
    catch_unwind(AssertUnwindSafe(|| call(shared))).unwrap_or(Err(libc::EIO))
}

/// The memory of whoever calls the table: its pointers lead there.
struct User;

impl UserMemory for User {
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<(), i32> {
        let from = pointer(address)?;
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: the contract of the feature callback, which stands for the ioctl: what a
            // payload points to is there, as long as the payload says.
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

// The table.

unsafe extern "C" fn feature(
    opaque: *mut c_void,
    flags: u32,
    data: *mut c_void,
    len: usize,
) -> c_int {
    let payload = match len {
        0 => &mut [],
        // SAFETY: the table's contract: `data` is valid for reads and writes of `len` bytes.
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
        // SAFETY: the table's contract: `buf` is valid for writes of `len` bytes; the simulator
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
        // SAFETY: the table's contract: `buf` is valid for reads of `len` bytes.
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
                // SAFETY: the table's contract: `info` is valid for reads and writes.
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

unsafe extern "C" fn identity(opaque: *mut c_void, out: *mut vfiomig_identity) -> c_int {
    // SAFETY: the table's opaque is the simulator.
    let result = unsafe {
        with(opaque, |sim| {
            // SAFETY: the table's contract: `out` is valid for reads and writes.
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
            let bus = match (vendor, options.mdev_type.as_str()) {
                (_, mdev) if !mdev.is_empty() => "mdev",
                (0, _) => "",
                _ => "pci",
            };
            put_text(&mut out.bus, bus);
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

/// As [`release`], for a transport that holds a reference of its own.
unsafe extern "C" fn release_own(opaque: *mut c_void) {
    // SAFETY: `transport` made this pointer with `Arc::into_raw`, and the table's contract is one
    // call of this.
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
        region_read: None,
        identity: Some(identity),
        release: Some(release),
    }
}

static OPS: vfiomig_device_ops = table(release);

pub(crate) fn transport(shared: Arc<Shared>) -> OpsTransport {
    let opaque = Arc::into_raw(shared).cast_mut().cast::<c_void>();
    // SAFETY: the callbacks take any thread, and the simulator lives until `release_own`.
    unsafe { OpsTransport::new(table(release_own), opaque) }
}

// The functions.

/// What C holds: a reference, as a pointer.
pub type vfiomig_sim = c_void;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_new(
    options: *const vfiomig_sim_options,
    out: *mut *mut vfiomig_sim,
) -> c_int {
    let made = catch_unwind(|| {
        if out.is_null() {
            return Err(libc::EFAULT);
        }
        // SAFETY: the header's contract.
        let sim = Sim::new(unsafe { read_options(options) }?)?;
        // SAFETY: the header's contract: `out` is valid for writes.
        unsafe { *out = Arc::into_raw(sim.shared).cast_mut().cast::<c_void>() };
        Ok(())
    });
    status(made.unwrap_or(Err(libc::EIO)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_free(sim: *mut vfiomig_sim) {
    if !sim.is_null() {
        // SAFETY: the header's contract: made by `vfiomig_sim_new`, and freed once.
        drop(unsafe { Arc::from_raw(sim.cast::<Shared>().cast_const()) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_ops(_sim: *mut vfiomig_sim) -> *const vfiomig_device_ops {
    &raw const OPS
}

/// The enumerator with a number.
fn numbered<T: Copy>(all: &[T], number: u32) -> Result<T, i32> {
    all.get(number as usize).copied().ok_or(libc::EINVAL)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_inject(
    sim: *mut vfiomig_sim,
    op: u32,
    nth: u64,
    errnum: c_int,
    effect: u32,
) -> c_int {
    // SAFETY: the header's contract.
    let result = unsafe {
        with(sim, |sim| {
            let (op, effect) = (numbered(&Op::ALL, op)?, numbered(&Effect::ALL, effect)?);
            if nth == 0 || errnum <= 0 {
                return Err(libc::EINVAL);
            }
            sim.lock().inject(op, nth, errnum, effect);
            Ok(())
        })
    };
    status(result)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_guest_write(
    sim: *mut vfiomig_sim,
    offset: u64,
    len: u64,
    seed: u64,
) -> c_int {
    // SAFETY: the header's contract.
    status(unsafe { with(sim, |sim| sim.lock().guest_write(offset, len, seed)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_dma_write(
    sim: *mut vfiomig_sim,
    iova: u64,
    len: u64,
) -> c_int {
    // SAFETY: the header's contract.
    status(unsafe { with(sim, |sim| sim.lock().dma_write(iova, len)) })
}

macro_rules! commands {
    ($($name:ident = |$sim:ident| $call:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(sim: *mut vfiomig_sim) {
            // SAFETY: the header's contract.
            let _ = unsafe { with(sim, |$sim| { $call; Ok(()) }) };
        }
    )*};
}
commands! {
    vfiomig_sim_clear_faults = |sim| sim.lock().clear_faults();
    vfiomig_sim_guest_reset = |sim| sim.lock().guest_reset();
    vfiomig_sim_reinit = |sim| sim.lock().reinit();
}

macro_rules! numbers {
    ($($name:ident -> $type:ty = |$sim:ident| $call:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(sim: *mut vfiomig_sim) -> $type {
            // SAFETY: the header's contract.
            unsafe { with(sim, |$sim| Ok($call)) }.unwrap_or(0)
        }
    )*};
}
numbers! {
    vfiomig_sim_digest -> u64 = |sim| sim.lock().digest();
    vfiomig_sim_state -> u32 = |sim| sim.lock().state().0;
    vfiomig_sim_bytes_read -> u64 = |sim| sim.lock().bytes_read;
    vfiomig_sim_bytes_written -> u64 = |sim| sim.lock().bytes_written;
    vfiomig_sim_open_streams -> u32 = |sim| sim.lock().open_streams();
    vfiomig_sim_releases -> u32 = |sim| sim.releases();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_count(sim: *mut vfiomig_sim, op: u32) -> u64 {
    // SAFETY: the header's contract.
    unsafe { with(sim, |sim| Ok(sim.lock().count(numbered(&Op::ALL, op)?))) }.unwrap_or(0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_violations(
    sim: *mut vfiomig_sim,
    what: *mut *const c_char,
) -> u64 {
    // SAFETY: the header's contract.
    let found = unsafe { with(sim, |sim| Ok(sim.lock().violations)) };
    let (count, first) = found.unwrap_or((0, None));
    if !what.is_null() {
        let text = first.map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: the header's contract: `what` is valid for writes.
        unsafe { *what = text };
    }
    count
}
