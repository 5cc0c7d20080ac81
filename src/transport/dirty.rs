// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's three interfaces that report which pages DMA wrote to, as they are: device logging,
//! the type1 container, and the page table of an iommufd. `dirty` decides what their answers are
//! worth.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use once_cell::race::OnceBool;

use super::kernel::ioctl;
use crate::alloc;
use crate::error::Errno;
use crate::sys::kernel_release;
use crate::uapi;

/// A range of I/O virtual addresses. `length` is not zero, and the range does not wrap.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct IovaRange {
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A device that logs its own writes: `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`.
pub trait DmaLog: Send {
    /// Starts; returns the size of the device's pages.
    fn start(&mut self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, Errno>;

    /// Stops.
    fn stop(&mut self) -> Result<(), Errno>;

    /// Sets the bits of pages that were written to since the last report, and forgets them. Bit 0
    /// is the page at `iova`.
    fn report(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<(), Errno>;
}

/// What a type1 container says about its dirty tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Type1Info {
    /// Page sizes that a bitmap may have, one bit for each; 0: no tracking.
    pub page_sizes: u64,
    /// The largest bitmap, in bytes.
    pub max_bitmap: u64,
}

/// A type1 container: `VFIO_IOMMU_DIRTY_PAGES`.
pub trait Type1: Send {
    /// The same number for the same container, so that it is asked once for all of its devices.
    fn key(&self) -> u64;

    /// What it can do.
    fn info(&mut self) -> Result<Type1Info, Errno>;

    /// Starts.
    fn start(&mut self) -> Result<(), Errno>;

    /// Stops.
    fn stop(&mut self) -> Result<(), Errno>;

    /// Writes the bits of pages that are pinned or were written to. Overwrites whole words; leaves
    /// words alone in which no mapping has pages.
    fn bitmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<(), Errno>;

    /// Unmaps, and reports what was dirty there; returns how many bytes were unmapped.
    fn unmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<u64, Errno>;
}

/// A page table of an iommufd with dirty tracking (`IOMMU_HWPT_ALLOC_DIRTY_TRACKING`).
pub trait Hwpt: Send {
    /// The same number for the same page table, so that it is asked once for all of its devices.
    fn key(&self) -> u64;

    /// Starts or stops. Starting forgets what was dirty before.
    fn set_tracking(&mut self, enable: bool) -> Result<(), Errno>;

    /// Sets the bits of pages that were written to and, unless `keep`, forgets them.
    fn bitmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        keep: bool,
        bitmap: &mut [u64],
    ) -> Result<(), Errno>;

    /// The address space that it belongs to, if that is known.
    fn ioas(&self) -> Option<u32> {
        None
    }

    /// Whether all of the range is mapped; `None` if there is no way to find out.
    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<Result<bool, Errno>>;

    /// The size of the largest bitmap that is filled in without loss, in bytes.
    fn max_bitmap(&self) -> u64 {
        u64::MAX
    }
}

fn address<T>(memory: *mut T) -> u64 {
    memory.expose_provenance() as u64
}

fn put(payload: &mut [u8], fields: impl IntoIterator<Item = u64>) {
    for (at, field) in payload.chunks_exact_mut(8).zip(fields) {
        at.copy_from_slice(&field.to_ne_bytes());
    }
}

fn has_room(bitmap: &[u64], length: u64, page_size: u64) -> Result<(), Errno> {
    let bits = length.checked_div(page_size).ok_or(Errno(libc::EINVAL))?;
    let room = (bitmap.len() as u64).saturating_mul(64);
    if length % page_size != 0 || bits > room { Err(Errno(libc::EINVAL)) } else { Ok(()) }
}

/// Device logging through `VFIO_DEVICE_FEATURE`, wherever that leads.
pub(crate) struct FeatureLog<F>(pub F);

impl<F> DmaLog for FeatureLog<F>
where
    F: FnMut(u32, &mut [u8]) -> Result<(), Errno> + Send,
{
    fn start(&mut self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, Errno> {
        let num = u32::try_from(ranges.len()).map_err(|_| Errno(libc::E2BIG))?;
        let mut ranges = alloc::copy(ranges, "").map_err(|_| Errno(libc::ENOMEM))?;
        let mut payload = [0; 24];
        put(&mut payload, [page_size, 0, address(ranges.as_mut_ptr())]);
        if let Some(at) = payload.get_mut(8..12) {
            at.copy_from_slice(&num.to_ne_bytes());
        }
        (self.0)(uapi::FEATURE_SET | uapi::FEATURE_DMA_LOGGING_START, &mut payload)?;
        let mut used = [0; 8];
        used.copy_from_slice(payload.get(..8).ok_or(Errno(libc::EINVAL))?);
        Ok(u64::from_ne_bytes(used))
    }

    fn stop(&mut self) -> Result<(), Errno> {
        (self.0)(uapi::FEATURE_SET | uapi::FEATURE_DMA_LOGGING_STOP, &mut [])
    }

    fn report(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<(), Errno> {
        has_room(bitmap, length, page_size)?;
        let mut payload = [0; 32];
        put(&mut payload, [iova, length, page_size, address(bitmap.as_mut_ptr())]);
        (self.0)(uapi::FEATURE_GET | uapi::FEATURE_DMA_LOGGING_REPORT, &mut payload)
    }
}

/// A container's fd, lent by the VMM.
pub struct KernelType1 {
    fd: Arc<dyn AsFd + Send + Sync>,
}

impl KernelType1 {
    /// Wraps a container that has been set to `VFIO_TYPE1v2_IOMMU`.
    pub fn new(fd: impl AsFd + Send + Sync + 'static) -> KernelType1 {
        KernelType1 { fd: Arc::new(fd) }
    }

    fn raw(&self) -> i32 {
        self.fd.as_fd().as_raw_fd()
    }

    fn dirty_pages(&self, flags: u32, get: [u64; 5]) -> Result<(), Errno> {
        // argsz and flags, then iova, size, and the bitmap's page size, bytes and address.
        let size = if flags == uapi::DIRTY_PAGES_GET_BITMAP { 48 } else { 8 };
        let [iova, length, page_size, bytes, bitmap] = get;
        let mut arg = [head(size, flags), iova, length, page_size, bytes, bitmap];
        ioctl(self.raw(), uapi::VFIO_IOMMU_DIRTY_PAGES, arg.as_mut_ptr().cast())
    }
}

/// Two `u32`s in a `u64`, as they lie in memory.
fn head(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A container's bitmap is a multiple of 8 bytes and exactly as long as the range needs: the kernel
/// has a limit, and compares.
fn bitmap_bytes(length: u64, page_size: u64) -> u64 {
    length.checked_div(page_size).unwrap_or(0).div_ceil(64).saturating_mul(8)
}

fn read_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Finds the migration capability in what `VFIO_IOMMU_GET_INFO` returned. The offsets come from the
/// kernel: one that leads outside, or backwards, ends the search.
fn parse_type1_info(info: &[u8]) -> Type1Info {
    let find = || {
        let flags = u32::from_ne_bytes(read_at(info, 4)?);
        if flags & uapi::TYPE1_INFO_CAPS == 0 {
            return None;
        }
        let mut at = u32::from_ne_bytes(read_at(info, 16)?) as usize;
        let mut before = 0;
        while at > before {
            let id = u16::from_ne_bytes(read_at(info, at)?);
            if id == uapi::TYPE1_INFO_CAP_MIGRATION {
                return Some(Type1Info {
                    page_sizes: u64::from_ne_bytes(read_at(info, at.checked_add(16)?)?),
                    max_bitmap: u64::from_ne_bytes(read_at(info, at.checked_add(24)?)?),
                });
            }
            before = at;
            at = u32::from_ne_bytes(read_at(info, at.checked_add(4)?)?) as usize;
        }
        None
    };
    find().unwrap_or_default()
}

impl Type1 for KernelType1 {
    fn key(&self) -> u64 {
        self.raw() as u64
    }

    fn info(&mut self) -> Result<Type1Info, Errno> {
        // Room for far more capabilities than there are: a list of reserved ranges may be long.
        let no_room = |_| Errno(libc::ENOMEM);
        let mut info = alloc::filled(0u64, 8192, "").map_err(no_room)?;
        let size = info.len() * 8;
        let mut bytes = Vec::new();
        alloc::reserve(&mut bytes, size, "").map_err(no_room)?;
        if let Some(first) = info.first_mut() {
            *first = head(size as u32, 0);
        }
        ioctl(self.raw(), uapi::VFIO_IOMMU_GET_INFO, info.as_mut_ptr().cast())?;
        bytes.extend(info.iter().flat_map(|word| word.to_ne_bytes()));
        Ok(parse_type1_info(&bytes))
    }

    fn start(&mut self) -> Result<(), Errno> {
        self.dirty_pages(uapi::DIRTY_PAGES_START, [0; 5])
    }

    fn stop(&mut self) -> Result<(), Errno> {
        self.dirty_pages(uapi::DIRTY_PAGES_STOP, [0; 5])
    }

    fn bitmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<(), Errno> {
        has_room(bitmap, length, page_size)?;
        let bytes = bitmap_bytes(length, page_size);
        let get = [iova, length, page_size, bytes, address(bitmap.as_mut_ptr())];
        self.dirty_pages(uapi::DIRTY_PAGES_GET_BITMAP, get)
    }

    fn unmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<u64, Errno> {
        has_room(bitmap, length, page_size)?;
        let bytes = bitmap_bytes(length, page_size);
        let first = head(48, uapi::UNMAP_GET_DIRTY_BITMAP);
        let mut arg = [first, iova, length, page_size, bytes, address(bitmap.as_mut_ptr())];
        ioctl(self.raw(), uapi::VFIO_IOMMU_UNMAP_DMA, arg.as_mut_ptr().cast())?;
        let [_, _, unmapped, ..] = arg;
        Ok(unmapped)
    }
}

/// A page table of an iommufd whose fd the VMM lends.
pub struct KernelHwpt {
    fd: Arc<dyn AsFd + Send + Sync>,
    hwpt: u32,
    ioas: Option<u32>,
    max_bitmap: u64,
}

/// The most that a bitmap may have in a kernel that loses what is recorded beyond the part of it
/// that is mapped at the time: Linux 6.7.0 to 6.7.6, which map 512 pages of a bitmap. In pages of 4
/// KiB that is 64 GiB.
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

    fn call<const N: usize>(&self, request: u32, arg: &mut [u64; N]) -> Result<(), Errno> {
        ioctl(self.fd.as_fd().as_raw_fd(), request, arg.as_mut_ptr().cast())
    }

    /// Copies the range into an address space that is made for this and thrown away. Nothing is
    /// pinned, because no device is behind it, and the copy fails if a part is not mapped.
    fn try_copy(&self, ioas: u32, iova: u64, length: u64) -> Result<bool, Errno> {
        let mut alloc = [head(12, 0), 0];
        self.call(uapi::IOMMU_IOAS_ALLOC, &mut alloc)?;
        let copy_ioas = alloc[1].to_ne_bytes();
        let copy_ioas =
            u32::from_ne_bytes([copy_ioas[0], copy_ioas[1], copy_ioas[2], copy_ioas[3]]);
        let flags = uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE;
        let mut copy = [head(40, flags), head(copy_ioas, ioas), length, iova, iova];
        let copied = self.call(uapi::IOMMU_IOAS_COPY, &mut copy);
        let mut destroy = [head(8, copy_ioas)];
        if let Err(errno) = self.call(uapi::IOMMU_DESTROY, &mut destroy) {
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
        (self.fd.as_fd().as_raw_fd() as u64) << 32 | u64::from(self.hwpt)
    }

    fn set_tracking(&mut self, enable: bool) -> Result<(), Errno> {
        let flags = if enable { uapi::IOMMU_HWPT_DIRTY_TRACKING_ENABLE } else { 0 };
        let mut arg = [head(16, flags), head(self.hwpt, 0)];
        self.call(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, &mut arg)
    }

    fn bitmap(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        keep: bool,
        bitmap: &mut [u64],
    ) -> Result<(), Errno> {
        has_room(bitmap, length, page_size)?;
        let flags = if keep { uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR } else { 0 };
        let data = address(bitmap.as_mut_ptr());
        let mut arg = [head(48, self.hwpt), head(flags, 0), iova, length, page_size, data];
        self.call(uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, &mut arg)
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

    fn info(caps: &[(usize, u16, u32, u64, u64)], first: u32) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[4..8].copy_from_slice(&uapi::TYPE1_INFO_CAPS.to_ne_bytes());
        bytes[16..20].copy_from_slice(&first.to_ne_bytes());
        for (at, id, next, sizes, max) in caps {
            bytes[*at..at + 2].copy_from_slice(&id.to_ne_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&next.to_ne_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&sizes.to_ne_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&max.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn the_migration_capability_is_found_behind_others() {
        let both = info(&[(24, 1, 64, 9, 9), (64, 2, 0, 4096, 1 << 28)], 24);
        let found = parse_type1_info(&both);
        assert_eq!(found, Type1Info { page_sizes: 4096, max_bitmap: 1 << 28 });
    }

    #[test]
    fn chains_that_lead_outside_or_round_end_the_search() {
        let none = Type1Info::default();
        for bytes in [
            info(&[], u32::MAX),
            info(&[], 126),
            info(&[(24, 1, 24, 0, 0)], 24),
            info(&[(24, 1, 64, 0, 0), (64, 1, 24, 0, 0)], 24),
            info(&[(24, 1, u32::MAX, 0, 0)], 24),
            info(&[(96, 2, 0, 1, 1)], 96)[..120].to_vec(),
            vec![],
        ] {
            assert_eq!(parse_type1_info(&bytes), none);
        }
        let mut flagless = info(&[(24, 2, 0, 4096, 1)], 24);
        flagless[4..8].fill(0);
        assert_eq!(parse_type1_info(&flagless), none);
    }

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

    #[test]
    fn a_bitmap_that_is_too_small_never_reaches_the_kernel() {
        let mut asked = 0;
        let mut log = FeatureLog(|_: u32, _: &mut [u8]| {
            asked += 1;
            Ok(())
        });
        let mut words = [0; 2];
        assert_eq!(log.report(0, 129 * 4096, 4096, &mut words), Err(Errno(libc::EINVAL)));
        assert_eq!(log.report(0, 4096, 0, &mut words), Err(Errno(libc::EINVAL)));
        assert_eq!(log.report(0, 128 * 4096, 4096, &mut words), Ok(()));
        assert_eq!(asked, 1);
    }
}
