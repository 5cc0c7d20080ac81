// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory as a device has it that is not the kernel's: what it may use is sent to it, and
//! what it wants by messages is answered.

use std::os::fd::BorrowedFd;

use crate::error::Errno;
use crate::flags::flags;

flags! {
    /// What a device may do with a range of memory.
    DmaAccess: u32 {
        /// Read it.
        READ = 1;
        /// Write to it.
        WRITE = 2;
    }
}

/// Memory that is given to a device.
#[derive(Clone, Copy, Debug)]
pub struct DmaRange<'a> {
    /// The I/O virtual address.
    pub iova: u64,
    /// Length in bytes.
    pub size: u64,
    /// What the device may do there.
    pub access: DmaAccess,
    /// What its server can map to get at the memory, and the offset there. Without it, the server
    /// sends messages instead.
    pub memory: Option<(BorrowedFd<'a>, u64)>,
    /// The server has it already, by other means: it is told nothing. Without `memory`, the library
    /// takes it that the server may have a descriptor: its log is asked, and where it has none, all
    /// of the range counts as dirty.
    pub known: bool,
}

/// The guest's memory, which a server reads and writes to by messages. Addresses are I/O virtual ones,
/// in ranges that were mapped for the server. Called on the thread that called the library, while the
/// device is locked: wait for nothing that another thread holds while it calls the library, and call
/// nothing of this device, which is busy.
pub trait GuestMemory: Send {
    /// Reads memory.
    fn read(&mut self, iova: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes to memory. The library counts the pages as dirty.
    fn write(&mut self, iova: u64, bytes: &[u8]) -> Result<(), Errno>;
}

/// What the server of a device may use of the guest's memory.
pub trait Dma {
    /// Lets the device use a range.
    fn map(&mut self, range: DmaRange<'_>) -> Result<(), Errno>;

    /// Takes a range away that was mapped as it is. `known`: the server has lost it already.
    fn unmap(&mut self, iova: u64, size: u64, known: bool) -> Result<(), Errno>;

    /// Answers what the device wants of memory, as far as it has come, without waiting. Returns how
    /// many commands that were.
    fn serve(&mut self) -> Result<u64, Errno>;

    /// What is readable when the device wants something.
    fn poll_fd(&self) -> Option<i32>;
}
