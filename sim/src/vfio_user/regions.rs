// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a served device has besides its migration: regions and interrupts, numbered as those of a PCI
//! device.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::registers::{Command, Registers};
use super::wire::{errno, long_words, u32_at, u64_at, words};
use crate::shared::Shared;

/// `VFIO_PCI_NUM_REGIONS`, `VFIO_PCI_NUM_IRQS`.
const REGIONS: u32 = 9;
/// How many interrupts there are with each index.
const IRQS: [u32; 5] = [1, 1, 0, 0, 0];

const DEVICE_RESET: u32 = 1;
const DEVICE_PCI: u32 = 2;

const REGION_READ_WRITE: u32 = 3;
const REGION_MMAP: u32 = 4;
const REGION_CAPS: u32 = 8;
const REGION_INFO: u32 = 32;

/// Registers.
const BAR0: u32 = 0;
/// Memory that can be mapped.
const BAR2: u32 = 2;
const CONFIG: u32 = 7;

const BAR0_SIZE: u64 = 4096;
const BAR2_SIZE: u64 = 64 << 10;
const CONFIG_SIZE: u64 = 256;
/// The first page of BAR2 cannot be mapped.
const TRAPPED: u64 = 4096;

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`, version 1.
const SPARSE_MMAP: u32 = 0x1_0001;

const IRQ_EVENTFD: u32 = 1;
const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 4;
const ACTION_TRIGGER: u32 = 0x20;

pub(crate) struct Regions {
    memory: File,
    pub registers: Registers,
    irqs: BTreeMap<(u32, u32), OwnedFd>,
}

impl Regions {
    pub fn new() -> Result<Regions, i32> {
        let made = memfd_create("vfiomig-sim", MemfdFlags::CLOEXEC)
            .and_then(|memory| ftruncate(&memory, BAR2_SIZE).map(|()| memory));
        let memory = made.map_err(|errno| errno.raw_os_error())?;
        let registers = Registers::default();
        Ok(Regions { memory: File::from(memory), registers, irqs: BTreeMap::new() })
    }

    /// The client that had the device has gone.
    pub fn forget_client(&mut self) {
        self.irqs.clear();
        self.registers = Registers::default();
    }

    /// `VFIO_USER_DEVICE_GET_INFO`.
    pub fn device_info(payload: &[u8]) -> Result<Vec<u8>, i32> {
        if payload.len() < 16 || u32_at(payload, 0)? < 16 {
            return Err(libc::EINVAL);
        }
        Ok(words(&[16, DEVICE_RESET | DEVICE_PCI, REGIONS, IRQS.len() as u32]))
    }

    fn size(region: u32) -> Result<u64, i32> {
        match region {
            BAR0 => Ok(BAR0_SIZE),
            BAR2 => Ok(BAR2_SIZE),
            CONFIG => Ok(CONFIG_SIZE),
            _ if region < REGIONS => Ok(0),
            _ => Err(libc::EINVAL),
        }
    }

    /// `VFIO_USER_DEVICE_GET_REGION_INFO`, with the descriptor to be mapped if the client takes any.
    pub fn region_info(&self, payload: &[u8], fds: bool) -> Result<(Vec<u8>, Vec<OwnedFd>), i32> {
        let (argsz, region) = (u32_at(payload, 0)?, u32_at(payload, 8)?);
        if payload.len() < REGION_INFO as usize || argsz < REGION_INFO {
            return Err(libc::EINVAL);
        }
        let size = Self::size(region)?;
        let flags = if size == 0 { 0 } else { REGION_READ_WRITE };
        if region != BAR2 || !fds {
            let mut out = words(&[REGION_INFO, flags, region, 0]);
            out.extend(long_words(&[size, 0]));
            return Ok((out, Vec::new()));
        }
        let mut sparse = words(&[SPARSE_MMAP, 0, 1, 0]);
        sparse.extend(long_words(&[TRAPPED, BAR2_SIZE - TRAPPED]));
        let whole = REGION_INFO + sparse.len() as u32;
        let fits = argsz >= whole;
        let first = if fits { REGION_INFO } else { 0 };
        let mut out = words(&[whole, flags | REGION_MMAP | REGION_CAPS, region, first]);
        out.extend(long_words(&[size, 0]));
        if fits {
            out.extend(sparse);
        }
        let fd = self.memory.as_fd().try_clone_to_owned();
        Ok((out, vec![fd.map_err(errno)?]))
    }

    /// `VFIO_USER_DEVICE_GET_IRQ_INFO`.
    pub fn irq_info(payload: &[u8]) -> Result<Vec<u8>, i32> {
        let (argsz, index) = (u32_at(payload, 0)?, u32_at(payload, 8)?);
        let count = IRQS.get(index as usize).ok_or(libc::EINVAL)?;
        if payload.len() < 16 || argsz < 16 {
            return Err(libc::EINVAL);
        }
        Ok(words(&[16, if *count == 0 { 0 } else { IRQ_EVENTFD }, index, *count]))
    }

    /// `VFIO_USER_DEVICE_SET_IRQS`.
    pub fn set_irqs(&mut self, payload: &[u8], fds: Vec<OwnedFd>) -> Result<(), i32> {
        let at = |index: usize| u32_at(payload, 4 * index);
        let (argsz, flags, index, start, count) = (at(0)?, at(1)?, at(2)?, at(3)?, at(4)?);
        let there = *IRQS.get(index as usize).ok_or(libc::EINVAL)?;
        let end = start.checked_add(count).filter(|end| *end <= there);
        if argsz < 20 || end.is_none() || flags & ACTION_TRIGGER == 0 {
            return Err(libc::EINVAL);
        }
        match flags & !ACTION_TRIGGER {
            DATA_NONE if count == 0 => self.irqs.retain(|(of, _), _| *of != index),
            DATA_NONE => (start..start + count).for_each(|n| self.interrupt(index, n)),
            DATA_EVENTFD if fds.len() == count as usize && fds.iter().all(is_eventfd) => {
                self.irqs.extend(fds.into_iter().zip(start..).map(|(fd, n)| ((index, n), fd)));
            }
            _ => return Err(libc::EINVAL),
        }
        Ok(())
    }

    pub fn interrupt(&self, index: u32, n: u32) {
        if let Some(fd) = self.irqs.get(&(index, n)) {
            // An eventfd that nobody reads is full at some time, and would be waited for.
            let mut polled = [PollFd::new(fd, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut polled, Some(&now)) == Ok(1) {
                let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
            }
        }
    }

    /// Which part of which region a message is about: offset, region, length.
    fn place(payload: &[u8]) -> Result<(u64, u32, usize), i32> {
        let (at, region, len) = (u64_at(payload, 0)?, u32_at(payload, 8)?, u32_at(payload, 12)?);
        let end = at.checked_add(u64::from(len)).ok_or(libc::EINVAL)?;
        if len == 0 || end > Self::size(region)? {
            return Err(libc::EINVAL);
        }
        Ok((at, region, len as usize))
    }

    /// `VFIO_USER_REGION_READ`: as much as `most` bytes at once.
    pub fn read(&self, sim: &Shared, payload: &[u8], most: usize) -> Result<Vec<u8>, i32> {
        let (at, region, len) = Self::place(payload)?;
        if len > most {
            return Err(libc::EINVAL);
        }
        let mut out = payload.get(..16).unwrap_or_default().to_vec();
        let image = match region {
            BAR2 => {
                let mut bytes = vec![0; len];
                let read = self.memory.read_exact_at(&mut bytes, at);
                read.map_err(errno)?;
                out.extend(bytes);
                return Ok(out);
            }
            BAR0 => {
                let core = sim.lock();
                let (state, violations) = (core.state().0, core.violations.0);
                self.registers.image(state.into(), core.digest(), violations)
            }
            _ => Self::config(sim),
        };
        out.extend(image.into_iter().chain(std::iter::repeat(0)).skip(at as usize).take(len));
        Ok(out)
    }

    /// `VFIO_USER_REGION_WRITE`: the reply, and what the device is to do now. What is written to the
    /// configuration space has no effect.
    pub fn write(&mut self, payload: &[u8]) -> Result<(Vec<u8>, Option<Command>), i32> {
        let (at, region, len) = Self::place(payload)?;
        let (head, bytes) = payload.split_at_checked(16).ok_or(libc::EINVAL)?;
        if bytes.len() != len {
            return Err(libc::EINVAL);
        }
        let command = match region {
            BAR0 => self.registers.write(at as usize, bytes),
            BAR2 => {
                let written = self.memory.write_all_at(bytes, at);
                written.map_err(errno)?;
                None
            }
            _ => None,
        };
        Ok((head.to_vec(), command))
    }

    fn config(sim: &Shared) -> Vec<u8> {
        let [vendor, device, subsystem_vendor, subsystem_device] = sim.lock().options.pci;
        let mut space = vec![0u8; 48];
        for (at, id) in [(0, vendor), (2, device), (44, subsystem_vendor), (46, subsystem_device)] {
            let slot = space.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
            if let Some(slot) = slot {
                *slot = id.to_le_bytes();
            }
        }
        space
    }
}

/// Others could block whoever writes to them, or end it by a signal.
fn is_eventfd(fd: &OwnedFd) -> bool {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
    link.is_ok_and(|link| link.as_bytes() == b"anon_inode:[eventfd]")
}
