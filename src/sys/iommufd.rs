// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requests of an iommufd that dirty tracking makes. As in `device`, they are safe on any fd.

use std::os::fd::BorrowedFd;

use super::Errno;
use super::bitmap::Bitmap;
use super::ioctl::ioctl;
use super::uapi;

/// `struct iommu_hwpt_set_dirty_tracking`.
#[repr(C)]
struct SetDirtyTracking {
    size: u32,
    flags: u32,
    hwpt: u32,
    reserved: u32,
}

/// `struct iommu_hwpt_get_dirty_bitmap`.
#[repr(C)]
struct GetDirtyBitmap {
    size: u32,
    hwpt: u32,
    flags: u32,
    reserved: u32,
    iova: u64,
    length: u64,
    page_size: u64,
    address: u64,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas: u32,
}

/// `struct iommu_ioas_copy`.
#[repr(C)]
struct IoasCopy {
    size: u32,
    flags: u32,
    dst_ioas: u32,
    src_ioas: u32,
    length: u64,
    dst_iova: u64,
    src_iova: u64,
}

/// `struct iommu_destroy`.
#[repr(C)]
struct Destroy {
    size: u32,
    id: u32,
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Starts or stops dirty tracking of a page table.
pub(crate) fn set_tracking(fd: BorrowedFd<'_>, hwpt: u32, enable: bool) -> Result<(), Errno> {
    let flags = if enable { uapi::IOMMU_HWPT_DIRTY_TRACKING_ENABLE } else { 0 };
    let mut arg = SetDirtyTracking { size: size::<SetDirtyTracking>(), flags, hwpt, reserved: 0 };
    // SAFETY: the request's own structure, without addresses.
    unsafe { ioctl(fd, uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, &mut arg) }
}

/// Sets the bits of pages that were written to; unless `keep`, forgets them.
pub(crate) fn get_bitmap(
    fd: BorrowedFd<'_>,
    hwpt: u32,
    keep: bool,
    bitmap: &mut Bitmap<'_>,
) -> Result<(), Errno> {
    let (span, address) = (bitmap.span(), bitmap.address()?);
    let mut arg = GetDirtyBitmap {
        size: size::<GetDirtyBitmap>(),
        hwpt,
        flags: if keep { uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR } else { 0 },
        reserved: 0,
        iova: span.start,
        length: span.length,
        page_size: span.page.bytes(),
        address,
    };
    // SAFETY: the request's own structure; the kernel sets bits in the pages that the bitmap of the
    // range is in, which a `Bitmap` has, exclusively, for as long as the call lasts.
    unsafe { ioctl(fd, uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, &mut arg) }
}

/// Makes an empty address space; returns its id.
pub(crate) fn alloc_ioas(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut arg = IoasAlloc { size: size::<IoasAlloc>(), flags: 0, out_ioas: 0 };
    // SAFETY: the request's own structure, without addresses.
    unsafe { ioctl(fd, uapi::IOMMU_IOAS_ALLOC, &mut arg) }?;
    Ok(arg.out_ioas)
}

/// Maps what `from` maps in a range at the same addresses of `to`, readable.
pub(crate) fn copy(
    fd: BorrowedFd<'_>,
    from: u32,
    to: u32,
    iova: u64,
    length: u64,
) -> Result<(), Errno> {
    let flags = uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE;
    let (dst_iova, src_iova) = (iova, iova);
    let size = size::<IoasCopy>();
    let (dst_ioas, src_ioas) = (to, from);
    let mut arg = IoasCopy { size, flags, dst_ioas, src_ioas, length, dst_iova, src_iova };
    // SAFETY: the request's own structure; its addresses are those of devices.
    unsafe { ioctl(fd, uapi::IOMMU_IOAS_COPY, &mut arg) }
}

/// Destroys an object of the iommufd.
pub(crate) fn destroy(fd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    let mut arg = Destroy { size: size::<Destroy>(), id };
    // SAFETY: the request's own structure, without addresses.
    unsafe { ioctl(fd, uapi::IOMMU_DESTROY, &mut arg) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size::<SetDirtyTracking>(), 16);
        assert_eq!(size::<GetDirtyBitmap>(), 48);
        assert_eq!(size::<IoasAlloc>(), 12);
        assert_eq!(size::<IoasCopy>(), 40);
        assert_eq!(size::<Destroy>(), 8);
    }
}
