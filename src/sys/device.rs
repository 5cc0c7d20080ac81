// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requests that a VFIO device's fd takes, and its data fds.
//!
//! They are safe on any fd: only VFIO and iommufd use these request numbers, and every address in a
//! structure is filled in here.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use vfio_bindings::bindings::vfio;

use super::Errno;
use super::bitmap::Bitmap;
use super::ioctl::{ioctl, ioctl_without_argument, pair};
use super::span::{PageSize, Span};
use super::uapi;

/// A range of I/O virtual addresses. `length` is not zero, and the range does not wrap.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct IovaRange {
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub length: u64,
}

const _: () = assert!(
    size_of::<IovaRange>() == size_of::<vfio::vfio_device_feature_dma_logging_range>()
        && std::mem::offset_of!(IovaRange, length) == 8
);

/// What `VFIO_DEVICE_FEATURE` is asked: which feature is meant, and what is to be done with it.
///
/// It always reads or writes, and never both. A type1 container takes the same request number for
/// `VFIO_IOMMU_DIRTY_PAGES`, and refuses these two bits: what is meant for a device starts and stops
/// nothing there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FeatureRequest(u32);

impl FeatureRequest {
    /// To read a feature, by its number: those of [`uapi`].
    pub const fn get(feature: u32) -> FeatureRequest {
        FeatureRequest(uapi::FEATURE_GET | feature & uapi::FEATURE_MASK)
    }

    /// To write it.
    pub const fn set(feature: u32) -> FeatureRequest {
        FeatureRequest(uapi::FEATURE_SET | feature & uapi::FEATURE_MASK)
    }

    /// Only to ask whether there is such a request. It has no payload.
    pub const fn probe(self) -> FeatureRequest {
        FeatureRequest(self.0 | uapi::FEATURE_PROBE)
    }

    /// The kernel's number for it.
    pub const fn flags(self) -> u32 {
        self.0
    }
}

/// `struct vfio_device_feature` with its payload.
#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    data: T,
}

const HEADER: usize = 8;
const _: () = assert!(std::mem::offset_of!(Feature<u64>, data) == HEADER);

/// `VFIO_DEVICE_FEATURE` with `size` bytes of payload. Returns the payload as the kernel left it.
///
/// # Safety
/// `flags` must name a feature whose payload is laid out as `T`, any bits must be a value of `T`, and
/// what addresses in it lead to must be valid for what the kernel does there.
unsafe fn call<T>(fd: BorrowedFd<'_>, flags: u32, size: usize, data: T) -> Result<T, Errno> {
    let argsz = HEADER.saturating_add(size.min(size_of::<T>())) as u32;
    let mut arg = Feature { argsz, flags, data };
    // SAFETY: the kernel keeps to argsz, which is no more than `arg` has. That it may use what
    // addresses in `data` lead to, and that any bits are a value of `T`, is the promise of the caller.
    unsafe { ioctl(fd, uapi::VFIO_DEVICE_FEATURE, &mut arg) }?;
    Ok(arg.data)
}

/// Words of the largest payload of a feature that is passed on as bytes.
const WORDS: usize = 8;

/// Runs `call` on a copy of a feature's payload, aligned as its structures require. Copies the
/// result back, unless `call` fails.
pub(crate) fn with_aligned(
    payload: &mut [u8],
    call: impl FnOnce(&mut [u64; WORDS]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    if payload.len() > WORDS * 8 {
        return Err(Errno(libc::EINVAL));
    }
    let mut words = [0u64; WORDS];
    for (word, chunk) in words.iter_mut().zip(payload.chunks(8)) {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        *word = u64::from_ne_bytes(bytes);
    }
    call(&mut words)?;
    for (word, chunk) in words.iter().zip(payload.chunks_mut(8)) {
        for (to, from) in chunk.iter_mut().zip(word.to_ne_bytes()) {
            *to = from;
        }
    }
    Ok(())
}

/// Refuses features whose payload of `len` bytes is known to hold more than numbers, or may do so:
/// addresses in this process, or file descriptors that the kernel looks up.
pub(crate) fn check_plain(request: FeatureRequest, len: usize) -> Result<(), Errno> {
    let flags = request.flags();
    // Any feature may be asked about. The kernel does not look at the payload of such a question,
    // but a callback might: so there must be none.
    if flags & uapi::FEATURE_PROBE != 0 {
        return if len == 0 { Ok(()) } else { Err(Errno(libc::EINVAL)) };
    }
    let plain = matches!(
        flags & uapi::FEATURE_MASK,
        uapi::FEATURE_MIGRATION
            | uapi::FEATURE_MIG_DEVICE_STATE
            | uapi::FEATURE_DMA_LOGGING_STOP
            | uapi::FEATURE_MIG_DATA_SIZE
            | uapi::FEATURE_MIG_PRECOPY_INFO_V2
    );
    if plain { Ok(()) } else { Err(Errno(libc::EINVAL)) }
}

/// Whether this sets a state, and so may return a data fd.
pub(crate) fn sets_state(request: FeatureRequest) -> bool {
    request == FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE)
}

/// `VFIO_DEVICE_FEATURE` with a payload of numbers.
pub(crate) fn feature(
    fd: BorrowedFd<'_>,
    request: FeatureRequest,
    payload: &mut [u8],
) -> Result<(), Errno> {
    let len = payload.len();
    check_plain(request, len)?;
    with_aligned(payload, |words| {
        // SAFETY: the payload is numbers alone.
        *words = unsafe { call(fd, request.flags(), len, *words) }?;
        Ok(())
    })
}

/// `struct vfio_device_feature_mig_state`, taken apart: the state and the data fd.
pub(crate) fn split_state(payload: [u8; 8]) -> (u32, i32) {
    let [a, b, c, d, e, f, g, h] = payload;
    (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]))
}

/// The inverse of [`split_state`].
pub(crate) fn join_state(state: u32, data_fd: i32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (state.to_ne_bytes(), data_fd.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Sets the migration state. Returns the state that the kernel names, and the data fd that it has
/// opened, if it did.
pub(crate) fn set_state(
    fd: BorrowedFd<'_>,
    device_state: u32,
) -> Result<(u32, Option<OwnedFd>), Errno> {
    let wanted = vfio::vfio_device_feature_mig_state { device_state, data_fd: -1 };
    let flags = uapi::FEATURE_SET | uapi::FEATURE_MIG_DEVICE_STATE;
    // SAFETY: the feature's own structure, of numbers.
    let now = unsafe { call(fd, flags, size_of_val(&wanted), wanted) }?;
    // SAFETY: -1 went in: the kernel has opened whatever came back for this caller, and told nobody
    // else.
    let data = (now.data_fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(now.data_fd) });
    Ok((now.device_state, data))
}

/// The payload that starts DMA logging.
pub(crate) fn logging_control(
    page: PageSize,
    ranges: &[IovaRange],
) -> Result<vfio::vfio_device_feature_dma_logging_control, Errno> {
    Ok(vfio::vfio_device_feature_dma_logging_control {
        page_size: page.bytes(),
        num_ranges: u32::try_from(ranges.len()).map_err(|_| Errno(libc::E2BIG))?,
        __reserved: 0,
        ranges: ranges.as_ptr().expose_provenance() as u64,
    })
}

/// The payload that asks for what was logged.
pub(crate) fn logging_report(
    bitmap: &mut Bitmap<'_>,
) -> Result<vfio::vfio_device_feature_dma_logging_report, Errno> {
    let Span { start: iova, length, page } = bitmap.span();
    let (page_size, bitmap) = (page.bytes(), bitmap.address()?);
    Ok(vfio::vfio_device_feature_dma_logging_report { iova, length, page_size, bitmap })
}

/// Starts DMA logging; returns the size of the device's pages.
pub(crate) fn log_start(
    fd: BorrowedFd<'_>,
    page: PageSize,
    ranges: &[IovaRange],
) -> Result<u64, Errno> {
    let control = logging_control(page, ranges)?;
    let flags = uapi::FEATURE_SET | uapi::FEATURE_DMA_LOGGING_START;
    // SAFETY: the feature's own structure; the kernel reads as many ranges as it says, and `ranges`
    // has them for as long as the call lasts.
    Ok(unsafe { call(fd, flags, size_of_val(&control), control) }?.page_size)
}

/// Ends DMA logging.
pub(crate) fn log_stop(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this feature has no payload.
    unsafe { call(fd, uapi::FEATURE_SET | uapi::FEATURE_DMA_LOGGING_STOP, 0, ()) }
}

/// Sets the bits of pages that were written to.
pub(crate) fn log_report(fd: BorrowedFd<'_>, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
    let report = logging_report(bitmap)?;
    let flags = uapi::FEATURE_GET | uapi::FEATURE_DMA_LOGGING_REPORT;
    // SAFETY: the feature's own structure; the kernel sets bits in the pages that the bitmap of the
    // range is in, which a `Bitmap` has, exclusively, for as long as the call lasts.
    unsafe { call(fd, flags, size_of_val(&report), report) }.map(drop)
}

/// `VFIO_DEVICE_GET_INFO`: flags and number of regions.
pub(crate) fn info(fd: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    // The first version of the structure: argsz, flags, num_regions, num_irqs.
    let mut info = [16u32, 0, 0, 0];
    // SAFETY: numbers, as many as the size says.
    unsafe { ioctl(fd, uapi::VFIO_DEVICE_GET_INFO, &mut info) }?;
    let [_, flags, num_regions, _] = info;
    Ok((flags, num_regions))
}

/// `VFIO_DEVICE_RESET`.
pub(crate) fn reset(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this request has no argument.
    unsafe { ioctl_without_argument(fd, uapi::VFIO_DEVICE_RESET) }
}

/// What goes in with `VFIO_DEVICE_GET_REGION_INFO`: the size of the answer, and which region is meant.
pub(crate) fn region_question(index: u32, reply: &mut [u64]) -> Result<(), Errno> {
    let argsz = u32::try_from(size_of_val(reply)).map_err(|_| Errno(libc::E2BIG))?;
    reply.fill(0);
    let [argsz_flags, index_offset, _, _, ..] = reply else { return Err(Errno(libc::EINVAL)) };
    (*argsz_flags, *index_offset) = (pair(argsz, 0), pair(index, 0));
    Ok(())
}

/// `VFIO_DEVICE_GET_REGION_INFO` of a region: fills `reply`, which has the structure's size at least,
/// with it and the capabilities that there is room for.
pub(crate) fn region_info(fd: BorrowedFd<'_>, index: u32, reply: &mut [u64]) -> Result<(), Errno> {
    region_question(index, reply)?;
    // SAFETY: the request's own structure, of numbers, with its size and no more than `reply` has.
    unsafe { ioctl(fd, uapi::VFIO_DEVICE_GET_REGION_INFO, reply) }
}

/// `VFIO_MIG_GET_PRECOPY_INFO`, on a data fd.
pub(crate) fn precopy_info(fd: BorrowedFd<'_>) -> Result<vfio::vfio_precopy_info, Errno> {
    let argsz = size_of::<vfio::vfio_precopy_info>() as u32;
    // Pass 0 as the flags: kernels before version 2 echo them back (docs/kernel-interface.md).
    let mut info = vfio::vfio_precopy_info { argsz, flags: 0, initial_bytes: 0, dirty_bytes: 0 };
    // SAFETY: the request's own structure, of numbers, with its size.
    unsafe { ioctl(fd, uapi::VFIO_MIG_GET_PRECOPY_INFO, &mut info) }?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_carry_addresses_or_fds_are_not_passed_on() {
        let (get, set) = (FeatureRequest::get, FeatureRequest::set);
        for plain in [
            get(uapi::FEATURE_MIGRATION),
            get(uapi::FEATURE_MIG_DEVICE_STATE),
            set(uapi::FEATURE_MIG_DEVICE_STATE),
            get(uapi::FEATURE_MIG_DATA_SIZE),
            set(uapi::FEATURE_MIG_PRECOPY_INFO_V2),
            set(uapi::FEATURE_DMA_LOGGING_STOP),
        ] {
            assert_eq!(check_plain(plain, 8), Ok(()), "{plain:x?}");
        }
        for feature in [uapi::FEATURE_DMA_LOGGING_START, uapi::FEATURE_DMA_LOGGING_REPORT, 99] {
            assert_eq!(check_plain(set(feature).probe(), 0), Ok(()), "{feature}");
            assert_eq!(check_plain(set(feature).probe(), 32), Err(Errno(libc::EINVAL)));
        }
        let low_power_with_eventfd = 4;
        for other in [
            set(uapi::FEATURE_DMA_LOGGING_START),
            get(uapi::FEATURE_DMA_LOGGING_START),
            get(uapi::FEATURE_DMA_LOGGING_REPORT),
            set(low_power_with_eventfd),
            get(99),
        ] {
            assert_eq!(check_plain(other, 32), Err(Errno(libc::EINVAL)), "{other:x?}");
        }
    }

    #[test]
    fn a_request_reads_or_writes_and_has_no_other_bits() {
        let (get, set, probe) = (1 << 16, 1 << 17, 1 << 18);
        for feature in [0, 1, 3, 0xffff, get | 7, set | 7, probe | 7, 1 << 19, u32::MAX] {
            let number = feature & 0xffff;
            let (gets, sets) = (FeatureRequest::get(feature), FeatureRequest::set(feature));
            assert_eq!((gets.flags(), sets.flags()), (get | number, set | number), "{feature:#x}");
            let probes = [gets.probe(), sets.probe().probe()].map(FeatureRequest::flags);
            assert_eq!(probes, [probe | get | number, probe | set | number], "{feature:#x}");
        }
    }

    #[test]
    fn a_payload_comes_back_as_long_as_it_went_and_unchanged_after_an_error() {
        for len in [0, 1, 4, 8, 12, 64] {
            let mut payload: Vec<u8> = (1..=len).collect();
            let before = payload.clone();
            let failed = with_aligned(&mut payload, |words| {
                words.fill(0);
                Err(Errno(libc::EIO))
            });
            assert_eq!((failed, &payload), (Err(Errno(libc::EIO)), &before));
            let flip = |words: &mut [u64; WORDS]| {
                words.iter_mut().for_each(|word| *word = !*word);
                Ok(())
            };
            assert_eq!(with_aligned(&mut payload, flip), Ok(()));
            assert!(payload.iter().zip(&before).all(|(now, before)| *now == !*before));
        }
        let too_long = with_aligned(&mut [0; 65], |_| Ok(()));
        assert_eq!(too_long, Err(Errno(libc::EINVAL)));
    }
}
