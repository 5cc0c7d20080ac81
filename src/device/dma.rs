// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory as a device behind a server has it.

use super::Device;
use crate::error::{Code, Errno, Error, Result, err};
use crate::transport::{Dma, DmaRange};

impl Device {
    /// Lets a device behind a vfio-user server use a range of the guest's memory. With
    /// [`DmaRange::known`], the VMM has told the server already, over a connection that it lends.
    /// [`Code::NotSupported`] for a device that is not behind such a server, or whose server has no
    /// socket of its own for its commands. A range whose mapping has timed out may reach the server
    /// yet, so it counts as mapped: unmap it.
    pub fn map_dma(&self, range: DmaRange<'_>) -> Result<()> {
        let (iova, size) = (range.iova, range.size);
        self.with_dma(|dma| dma.map(range))
            .map_err(|errno| refused("mapping", iova, size, errno))?
    }

    /// Takes a range away that was mapped as it is. What the device wrote there is not forgotten: the
    /// dirty tracking reads it next. If it fails because the server did not answer, the range still
    /// counts as mapped: call again.
    pub fn unmap_dma(&self, iova: u64, size: u64, known: bool) -> Result<()> {
        let unmapped = self.with_dma(|dma| dma.unmap(iova, size, known));
        unmapped.map_err(|errno| refused("unmapping", iova, size, errno))?
    }

    /// Answers what the device wants of the guest's memory, as far as it has come, without waiting.
    /// Returns how many commands that were. A call that waits for the device does this by itself.
    pub fn serve_dma(&self) -> Result<u64> {
        let served = self.with_dma(|dma| dma.serve());
        served.map_err(|errno| {
            Error::from_args(errno.code(), format_args!("answering the device failed: {errno}"))
        })?
    }

    /// The descriptor that is readable when the device wants something of the guest's memory, for as
    /// long as the device lives; `None` if it has none.
    pub fn dma_fd(&self) -> Result<Option<i32>> {
        self.with_dma(|dma| Ok(dma.poll_fd())).unwrap_or(Ok(None))
    }

    /// Both kinds of failure: of the handle, and of the device.
    fn with_dma<T>(
        &self,
        call: impl FnOnce(&mut dyn Dma) -> std::result::Result<T, Errno>,
    ) -> std::result::Result<Result<T>, Errno> {
        let mut inner = match self.lock() {
            Ok(inner) => inner,
            Err(error) => return Ok(Err(error)),
        };
        let Some(dma) = inner.link.dma() else {
            return Ok(Err(err!(NotSupported, "the device is not behind a vfio-user server")));
        };
        call(dma).map(Ok)
    }
}

fn refused(what: &str, iova: u64, size: u64, errno: Errno) -> Error {
    let (code, why) = match errno.0 {
        libc::EEXIST => (Code::Inval, "; a part of it is mapped"),
        libc::ENOENT => (Code::Inval, "; it is not mapped, or not as this range"),
        libc::ENOSPC => (Code::NoMem, "; the server takes no more ranges"),
        libc::EOPNOTSUPP => (Code::NotSupported, "; the server has no socket for its commands"),
        _ => (errno.code(), ""),
    };
    Error::from_args(code, format_args!("{what} {iova:#x}, {size:#x} bytes: {errno}{why}"))
}
