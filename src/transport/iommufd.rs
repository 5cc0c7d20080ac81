// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page table of an iommufd, reached through the iommufd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use once_cell::race::OnceBool;

use super::dirty::Hwpt;
use crate::error::Errno;
use crate::sys::{Bitmap, iommufd, kernel_release};

/// A page table of an iommufd whose fd the VMM lends.
pub struct KernelHwpt {
    fd: Arc<dyn AsFd + Send + Sync>,
    hwpt: u32,
    ioas: Option<u32>,
    max_bitmap: u64,
}

/// The largest bitmap, in bytes, in kernels that lose what is recorded beyond the part of the
/// bitmap that they have mapped: Linux 6.7.0 to 6.7.6, which map 512 pages of it. With pages of 4
/// KiB, such a bitmap covers 64 GiB.
const MAPPED_BITMAP: u64 = 512 * 4096;

fn max_bitmap_of(release: &str) -> u64 {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(6)), Some(Ok(7)), Some(Ok(7..))) => u64::MAX,
        (Some(Ok(6)), Some(Ok(7)), _) => MAPPED_BITMAP,
        _ => u64::MAX,
    }
}

impl KernelHwpt {
    /// Wraps the page table `hwpt`. With `ioas`, the address space that it belongs to, it can find
    /// out whether a range is mapped.
    pub fn new(fd: impl AsFd + Send + Sync + 'static, hwpt: u32, ioas: Option<u32>) -> KernelHwpt {
        // Asked once per process. Nobody waits for the thread that asks, so a fork at that time
        // does no harm.
        static LIMITED: OnceBool = OnceBool::new();
        let limited = LIMITED.get_or_init(|| max_bitmap_of(&kernel_release()) == MAPPED_BITMAP);
        let max_bitmap = if limited { MAPPED_BITMAP } else { u64::MAX };
        KernelHwpt { fd: Arc::new(fd), hwpt, ioas, max_bitmap }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Copies the range into an address space that is made for this and then destroyed. Nothing is
    /// pinned, because no device is attached to it, and the copy fails if a part is not mapped.
    fn try_copy(&self, ioas: u32, iova: u64, length: u64) -> Result<bool, Errno> {
        let copy_ioas = iommufd::alloc_ioas(self.fd())?;
        let copied = iommufd::copy(self.fd(), ioas, copy_ioas, iova, length);
        if let Err(errno) = iommufd::destroy(self.fd(), copy_ioas) {
            log::warn!(target: "vfiomig::dirty", "an address space is left over: {errno}");
        }
        match copied {
            Ok(()) => Ok(true),
            Err(Errno(libc::ENOENT)) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl Hwpt for KernelHwpt {
    fn key(&self) -> u64 {
        (self.fd().as_raw_fd() as u64) << 32 | u64::from(self.hwpt)
    }

    fn set_tracking(&mut self, enable: bool) -> Result<(), Errno> {
        iommufd::set_tracking(self.fd(), self.hwpt, enable)
    }

    fn bitmap(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        iommufd::get_bitmap(self.fd(), self.hwpt, keep, bitmap)
    }

    fn ioas(&self) -> Option<u32> {
        self.ioas
    }

    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<Result<bool, Errno>> {
        Some(self.try_copy(self.ioas?, iova, length))
    }

    fn max_bitmap(&self) -> u64 {
        self.max_bitmap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_lose_bits_of_large_mappings_are_known() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(kernel_release(), release.trim_end());
        for (release, limited) in [
            ("6.7.0", true),
            ("6.7.0-rc3", true),
            ("6.7-custom", true),
            ("6.7.6-arch1-1", true),
            ("6.7.7", false),
            ("6.7.12-1-amd64", false),
            ("6.6.15", false),
            ("6.8.0-41-generic", false),
            ("6.12.1", false),
            ("16.7.1", false),
            ("7.3.0", false),
            ("", false),
        ] {
            let most = if limited { 2 << 20 } else { u64::MAX };
            assert_eq!(max_bitmap_of(release), most, "{release}");
        }
    }
}
