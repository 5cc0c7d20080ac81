// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulator's table of callbacks, called as C would: with whatever fd, payload and address a test
//! wants. The library's own transport passes on only what the device has named.

#![allow(unsafe_code, dead_code)]

use std::ffi::{c_int, c_void};

use vfiomig::transport::{vfiomig_device_ops, vfiomig_precopy_info};
use vfiomig_sim::{Sim, SimOptions};

pub struct Table {
    ops: vfiomig_device_ops,
    opaque: *mut c_void,
    /// Whose table it is: it lives as long as this.
    _sim: Sim,
}

/// A device to be tested, and its table.
pub struct Dut {
    pub sim: Sim,
    pub table: Table,
}

pub fn dut(options: SimOptions) -> Dut {
    let sim = Sim::new(options).unwrap();
    let table = Table::of(&sim);
    Dut { sim, table }
}

fn status(ret: c_int) -> Result<c_int, i32> {
    if ret < 0 { Err(-ret) } else { Ok(ret) }
}

fn count(ret: i64) -> Result<usize, i32> {
    usize::try_from(ret).map_err(|_| -ret as i32)
}

impl Table {
    pub fn of(sim: &Sim) -> Table {
        let (ops, opaque) = sim.table();
        Table { ops: *ops, opaque, _sim: sim.clone() }
    }

    /// Addresses in a payload are those of the test's own memory, or 0.
    pub fn feature(&self, flags: u32, payload: &mut [u8]) -> Result<(), i32> {
        let (data, len) = (payload.as_mut_ptr().cast(), payload.len());
        // SAFETY: the simulator lives; `data` and `len` are those of `payload`.
        status(unsafe { self.ops.feature.unwrap()(self.opaque, flags, data, len) }).map(drop)
    }

    pub fn reset(&self) -> Result<(), i32> {
        // SAFETY: the simulator lives.
        status(unsafe { self.ops.reset.unwrap()(self.opaque) }).map(drop)
    }

    pub fn read(&self, fd: i32, buf: &mut [u8]) -> Result<usize, i32> {
        let (to, len) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: the simulator lives; `to` and `len` are those of `buf`.
        count(unsafe { self.ops.data_read.unwrap()(self.opaque, fd, to, len) })
    }

    pub fn write(&self, fd: i32, bytes: &[u8]) -> Result<usize, i32> {
        let (from, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: the simulator lives; `from` and `len` are those of `bytes`.
        count(unsafe { self.ops.data_write.unwrap()(self.opaque, fd, from, len) })
    }

    /// Flags, initial and dirty bytes.
    pub fn precopy_info(&self, fd: i32) -> Result<(u32, u64, u64), i32> {
        let argsz = size_of::<vfiomig_precopy_info>() as u32;
        let mut info = vfiomig_precopy_info { argsz, flags: 0, initial_bytes: 0, dirty_bytes: 0 };
        let to = &raw mut info;
        // SAFETY: the simulator lives; `info` is the structure that it fills in.
        status(unsafe { self.ops.data_precopy_info.unwrap()(self.opaque, fd, to) })?;
        Ok((info.flags, info.initial_bytes, info.dirty_bytes))
    }

    pub fn close(&self, fd: i32) -> Result<(), i32> {
        // SAFETY: the simulator lives.
        status(unsafe { self.ops.data_close.unwrap()(self.opaque, fd) }).map(drop)
    }

    pub fn poll_fd(&self, fd: i32) -> Result<i32, i32> {
        // SAFETY: the simulator lives.
        status(unsafe { self.ops.data_poll_fd.unwrap()(self.opaque, fd) })
    }

    pub fn set_nonblocking(&self, fd: i32) -> Result<(), i32> {
        // SAFETY: the simulator lives.
        status(unsafe { self.ops.data_set_nonblocking.unwrap()(self.opaque, fd) }).map(drop)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the simulator lives, and nothing is called after this.
        unsafe { self.ops.release.unwrap()(self.opaque) };
    }
}
