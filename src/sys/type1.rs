// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requests of a type1 container that dirty tracking makes. As in `device`, they are safe on any
//! fd.

use std::os::fd::BorrowedFd;

use super::Errno;
use super::bitmap::Bitmap;
use super::ioctl::{ioctl, pair};
use super::span::Span;
use super::uapi;

/// `struct vfio_bitmap`.
#[repr(C)]
struct Place {
    page_size: u64,
    bytes: u64,
    address: u64,
}

impl Place {
    /// A container's bitmap is a multiple of 8 bytes and exactly as long as the range needs: the
    /// kernel has a limit, and compares.
    fn of(bitmap: &mut Bitmap<'_>) -> Result<Place, Errno> {
        let (page_size, bytes) = (bitmap.span().page.bytes(), size_of_val(&**bitmap) as u64);
        Ok(Place { page_size, bytes, address: bitmap.address()? })
    }
}

/// `struct vfio_iommu_type1_dirty_bitmap`.
#[repr(C)]
struct DirtyPages {
    argsz: u32,
    flags: u32,
}

/// The same, with `struct vfio_iommu_type1_dirty_bitmap_get`.
#[repr(C)]
struct GetBitmap {
    head: DirtyPages,
    iova: u64,
    length: u64,
    bitmap: Place,
}

/// `struct vfio_iommu_type1_dma_unmap`.
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    length: u64,
    bitmap: Place,
}

const _: () = assert!(size_of::<GetBitmap>() == 48 && size_of::<Unmap>() == 48);

/// `VFIO_IOMMU_GET_INFO`: fills `info` with `struct vfio_iommu_type1_info` and its capabilities, as
/// far as there is room.
pub(crate) fn info(fd: BorrowedFd<'_>, info: &mut [u64]) -> Result<(), Errno> {
    let size = u32::try_from(size_of_val(info)).map_err(|_| Errno(libc::EINVAL))?;
    // argsz and flags.
    *info.first_mut().ok_or(Errno(libc::EINVAL))? = pair(size, 0);
    // SAFETY: the kernel writes numbers, and no more of them than argsz says, which is what `info`
    // has.
    unsafe { ioctl(fd, uapi::VFIO_IOMMU_GET_INFO, info) }
}

/// Starts dirty tracking.
pub(crate) fn start(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch(fd, uapi::DIRTY_PAGES_START)
}

/// Stops it.
pub(crate) fn stop(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch(fd, uapi::DIRTY_PAGES_STOP)
}

fn switch(fd: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let mut arg = DirtyPages { argsz: size_of::<DirtyPages>() as u32, flags };
    // SAFETY: starting and stopping have no more to them than this structure.
    unsafe { ioctl(fd, uapi::VFIO_IOMMU_DIRTY_PAGES, &mut arg) }
}

/// Writes the bits of a range.
pub(crate) fn get_bitmap(fd: BorrowedFd<'_>, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
    let head =
        DirtyPages { argsz: size_of::<GetBitmap>() as u32, flags: uapi::DIRTY_PAGES_GET_BITMAP };
    let Span { start: iova, length, .. } = bitmap.span();
    let mut arg = GetBitmap { head, iova, length, bitmap: Place::of(bitmap)? };
    // SAFETY: the request's own structure; the kernel writes to the bitmap, within its size, which
    // a `Bitmap` has, exclusively, for as long as the call lasts.
    unsafe { ioctl(fd, uapi::VFIO_IOMMU_DIRTY_PAGES, &mut arg) }
}

/// Unmaps a range and writes its bits; returns how many bytes were mapped.
pub(crate) fn unmap(fd: BorrowedFd<'_>, bitmap: &mut Bitmap<'_>) -> Result<u64, Errno> {
    let (argsz, flags) = (size_of::<Unmap>() as u32, uapi::UNMAP_GET_DIRTY_BITMAP);
    let Span { start: iova, length, .. } = bitmap.span();
    let mut arg = Unmap { argsz, flags, iova, length, bitmap: Place::of(bitmap)? };
    // SAFETY: as for `get_bitmap`. What is unmapped is memory of devices, not of this process.
    unsafe { ioctl(fd, uapi::VFIO_IOMMU_UNMAP_DMA, &mut arg) }?;
    Ok(arg.length)
}
