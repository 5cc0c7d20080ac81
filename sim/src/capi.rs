// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C side: the functions of `include/vfiomig-sim.h`. Those of vfio-user servers are in `server`.

#![allow(unsafe_code, non_camel_case_types)]
// The header is where the C functions are described.
#![allow(missing_docs, clippy::missing_safety_doc)]

mod server;

use std::ffi::{c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::sync::Arc;

use vfiomig::transport::vfiomig_device_ops;

use crate::Sim;
use crate::fsm::State;
use crate::options::{Effect, Kind, Op, SimOptions};
use crate::shared::Shared;
use crate::table::{OPS, status, with};

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
    pub kind: u32,
    pub window: u64,
}

const OPTIONS_SIZE: usize = size_of::<vfiomig_sim_options>();

// The layout that the header has.
const _: () = {
    assert!(OPTIONS_SIZE == 280);
    assert!(std::mem::offset_of!(vfiomig_sim_options, transition_us) == 72);
    assert!(std::mem::offset_of!(vfiomig_sim_options, pci_vendor) == 120);
    assert!(std::mem::offset_of!(vfiomig_sim_options, driver) == 192);
    assert!(std::mem::offset_of!(vfiomig_sim_options, log_max_ranges) == 264);
    assert!(std::mem::offset_of!(vfiomig_sim_options, window) == 272);
};

/// `kind`: the numbers of `VFIOMIG_PROTOCOL_*`.
const KIND_V1: u32 = 1;
const KIND_V2: u32 = 2;
const KIND_RFC: u32 = 3;

/// The largest `struct_size` that is valid, as in libvfiomig.
const MAX_STRUCT_SIZE: usize = 64 << 10;

fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
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
            kind: match c.kind {
                KIND_V1 => Kind::V1,
                KIND_RFC => Kind::Rfc,
                _ => Kind::V2,
            },
            window: c.window,
        }
    }
}

/// Reads a structure of any size: what is missing is zero, and what is unknown must be zero. NULL is
/// zero throughout.
///
/// # Safety
/// `given` is NULL, or valid for reads of the size that it begins with. `T` is `repr(C)`, begins with its
/// size, and all of it is numbers.
unsafe fn read_struct<T: Copy>(given: *const T) -> Result<T, i32> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut own: T = unsafe { std::mem::zeroed() };
    if given.is_null() {
        return Ok(own);
    }
    // SAFETY: the caller promised a size, which stands first.
    let size = unsafe { given.cast::<u32>().read() } as usize;
    if !(size_of::<u32>()..=MAX_STRUCT_SIZE).contains(&size) {
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller promised `size` bytes; `own` is at least as long as what is copied.
    unsafe {
        let to = (&raw mut own).cast::<u8>();
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), to, size.min(size_of::<T>()));
    }
    for at in size_of::<T>()..size {
        // SAFETY: the caller promised `size` bytes.
        if unsafe { *given.cast::<u8>().add(at) } != 0 {
            return Err(libc::E2BIG);
        }
    }
    Ok(own)
}

/// # Safety
/// As for `read_struct`.
unsafe fn read_options(options: *const vfiomig_sim_options) -> Result<SimOptions, i32> {
    // SAFETY: as the caller promised; the structure begins with its size, and is numbers throughout.
    let own = unsafe { read_struct(options) }?;
    if own.reserved != 0 || !matches!(own.kind, 0 | KIND_V1 | KIND_V2 | KIND_RFC) {
        return Err(libc::EINVAL);
    }
    Ok(SimOptions::from(&own))
}

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
        // SAFETY: vfiomig-sim.h: NULL, or options of the size that they begin with.
        let sim = Sim::new(unsafe { read_options(options) }?)?;
        // SAFETY: vfiomig-sim.h: `out` is valid for writes.
        unsafe { *out = Arc::into_raw(sim.shared).cast_mut().cast::<c_void>() };
        Ok(())
    });
    status(made.unwrap_or(Err(libc::EIO)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_free(sim: *mut vfiomig_sim) {
    if !sim.is_null() {
        // SAFETY: vfiomig-sim.h: made by `vfiomig_sim_new`, and freed once.
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
    // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
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
    // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
    status(unsafe { with(sim, |sim| sim.lock().guest_write(offset, len, seed)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_dma_write(
    sim: *mut vfiomig_sim,
    iova: u64,
    len: u64,
) -> c_int {
    // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
    status(unsafe { with(sim, |sim| sim.lock().dma_write(iova, len)) })
}

macro_rules! commands {
    ($($name:ident = |$sim:ident| $call:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(sim: *mut vfiomig_sim) {
            // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
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
            // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
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
    // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
    unsafe { with(sim, |sim| Ok(sim.lock().count(numbered(&Op::ALL, op)?))) }.unwrap_or(0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_violations(
    sim: *mut vfiomig_sim,
    what: *mut *const c_char,
) -> u64 {
    // SAFETY: vfiomig-sim.h: NULL, or a simulator that was not freed.
    let found = unsafe { with(sim, |sim| Ok(sim.lock().violations)) };
    let (count, first) = found.unwrap_or((0, None));
    if !what.is_null() {
        let text = first.map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: vfiomig-sim.h: `what` is valid for writes.
        unsafe { *what = text };
    }
    count
}
