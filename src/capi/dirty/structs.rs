// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of dirty tracking that cross the ABI.

use std::ffi::{c_char, c_int, c_void};

use super::constants::*;
use crate::capi::callbacks::vfiomig_release_fn;
use crate::capi::device::vfiomig_device;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::dirty::{
    DirtyError, DirtyRound, DirtyStats, Mapping, PageSize, Place, Synced, TrackingOptions,
    WriterStats,
};
use crate::error::{Result, err};
use crate::transport::put_fixed_text;

/// Dirty tracking of one I/O address space.
pub enum vfiomig_dirty {}

/// A piece of memory that devices can reach, or a window in which such pieces will come and go.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_mapping {
    /// VFIOMIG_MAPPING_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_MAPPING_*, or 0.
    pub flags: u32,
    /// The first I/O virtual address; a multiple of the tracking object's page size.
    pub iova: u64,
    /// The size in bytes; a multiple of the tracking object's page size. The mapping may end at
    /// 2^64.
    pub size: u64,
    /// What the memory is to the VMM, for example the number of a RAM block. Comes back in
    /// set_dirty.
    pub cookie: u64,
    /// Where the mapping begins in it, in bytes; whole pages.
    pub offset: u64,
    /// Where it lies in this process, for reading and writing without callbacks; NULL: nowhere.
    pub host: *mut c_void,
}

/// A place in the VMM's memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_place {
    /// Set by the library.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// As in struct vfiomig_mapping.
    pub cookie: u64,
    /// The offset in what the cookie stands for, in bytes; whole pages.
    pub offset: u64,
    /// How many bytes from there belong together: at least a page.
    pub size: u64,
    /// Where it is in this process; NULL: nowhere.
    pub host: *mut c_void,
}

/// Adds a mapping while `enumerate` runs. Returns 0, or -errno if it is refused; enumerate should
/// then return that.
pub type vfiomig_mapping_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, mapping: *const vfiomig_mapping) -> c_int>;

/// Unmaps a range from everything that has it mapped. Returns 0 or -errno, as the callbacks of
/// struct vfiomig_memory_ops do.
pub type vfiomig_unmap_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, iova: u64, size: u64) -> c_int>;

/// The VMM's memory, as dirty tracking needs it. Callbacks run on the thread that is inside the
/// tracking object, one at a time. In them, every function of that tracking object returns -EBUSY.
/// Each may be NULL. Each returns 0 or -errno: EINVAL, ENODEV, ENOMEM, ENOTTY and EOPNOTSUPP are
/// passed on to whoever called the library; any other becomes EIO.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_memory_ops {
    /// VFIOMIG_MEMORY_OPS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Called by vfiomig_dirty_start(): gives every mapping and window there is to
    /// add(add_opaque, mapping). They replace what was mapped before. NULL: the mappings are those of
    /// vfiomig_dirty_map().
    pub enumerate: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            add: vfiomig_mapping_fn,
            add_opaque: *mut c_void,
        ) -> c_int,
    >,
    /// Takes dirty pages. Bit i of the bitmap, counted from the lowest, is the page at offset + i *
    /// page_size in what cookie stands for. Only num_bits bits count. After -errno they are kept
    /// and delivered again. NULL: only vfiomig_dirty_sync() delivers dirty pages.
    pub set_dirty: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            cookie: u64,
            offset: u64,
            page_size: u64,
            bitmap: *const u64,
            num_bits: u64,
        ) -> c_int,
    >,
    /// Returns what lies at iova now, in a mapping with VFIOMIG_MAPPING_TRANSLATE. size says how
    /// much is being asked about, and place->size may be less. vfiomig_dirty_unmap() asks before
    /// the range is unmapped and, for what a device wrote at the last moment, after it: answer
    /// until it returns.
    pub translate: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            iova: u64,
            size: u64,
            place: *mut vfiomig_place,
        ) -> c_int,
    >,
    /// Reads guest memory. NULL: it is read from the host address.
    pub read: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            cookie: u64,
            offset: u64,
            buf: *mut c_void,
            len: usize,
        ) -> c_int,
    >,
    /// Writes guest memory. NULL: it is written at the host address.
    pub write: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            cookie: u64,
            offset: u64,
            buf: *const c_void,
            len: usize,
        ) -> c_int,
    >,
    /// Called exactly once, when the library will no longer call anything in this table, even if
    /// the tracking object could not be made. NULL: nothing to do.
    pub release: vfiomig_release_fn,
}

/// A dirty tracker of the VMM's own: a vfio-user server's log, or anything else it has. Each
/// callback returns 0 or -errno, as those of struct vfiomig_memory_ops do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_tracker_ops {
    /// VFIOMIG_TRACKER_OPS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The size of its pages in bytes: a power of two from 512 to 1 GiB.
    pub page_size: u64,
    /// Starts it. NULL: it always runs.
    pub start: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Stops it. NULL: it always runs.
    pub stop: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Sets the bits of pages that were written to since the last time, and forgets them. Bit 0 is
    /// the page at iova. The bitmap has num_words words and is zeroed. iova and length are
    /// multiples of page_size and may extend beyond the ends of mappings. After -errno the range
    /// counts as dirty. Required.
    pub sync: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            iova: u64,
            length: u64,
            page_size: u64,
            bitmap: *mut u64,
            num_words: usize,
        ) -> c_int,
    >,
    /// Called exactly once, when the library will no longer call anything in this table.
    pub release: vfiomig_release_fn,
}

/// How dirty tracking is set up; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_options {
    /// VFIOMIG_DIRTY_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// How many bytes are read from a tracker at a time: 4 KiB to 32 MiB, a multiple of 8; 0: the
    /// library chooses. A page takes one bit, so this decides how many system calls a reading
    /// takes.
    pub buffer_bytes: u32,
    /// The tracking object's page size in bytes: a power of two from 4096 to 1 GiB; 0: the host's.
    pub page_size: u64,
}

/// Something that writes to the guest's memory, and what could track it. The library takes the
/// first tracker that works, in the order of the flags.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_writer {
    /// VFIOMIG_DIRTY_WRITER_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_WRITER_*, or 0: no tracker; every page is always dirty.
    pub flags: u32,
    /// A name for messages, for people to read; NULL: the driver's name.
    pub name: *const c_char,
    /// The device. Its resets are noticed, whatever tracks it. NULL: the library does not know the
    /// device.
    pub device: *mut vfiomig_device,
    /// With VFIOMIG_WRITER_CUSTOM: the VMM's own tracker; copied.
    pub tracker: *const vfiomig_tracker_ops,
    /// Passed to its callbacks.
    pub tracker_opaque: *mut c_void,
    /// With VFIOMIG_WRITER_HWPT: the iommufd, borrowed for as long as the writer exists.
    pub iommufd: c_int,
    /// The page table (hwpt) that the device is attached to, made with
    /// IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
    pub hwpt_id: u32,
    /// The address space (ioas) of that page table. With it, the library notices mappings that are
    /// not there, which the kernel reports as clean. 0: not known.
    pub ioas_id: u32,
    /// With VFIOMIG_WRITER_TYPE1: the container, of type1v2, borrowed in the same way. Give the
    /// same fd for all of its writers: a duplicate counts as a different container.
    pub container_fd: c_int,
    /// The smallest page of the page table, in bytes; 0: no larger than the tracking object's.
    pub hwpt_page_size: u64,
}

/// Numbers of a tracking object since tracking was started.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_stats {
    /// VFIOMIG_DIRTY_STATS_INIT sets it.
    pub struct_size: u32,
    /// How many writers have ever been added.
    pub num_writers: u32,
    /// How many errors vfiomig_dirty_get_error() can return.
    pub num_errors: u32,
    /// How many rounds vfiomig_dirty_get_round() can return.
    pub num_rounds: u32,
    /// Complete rounds over the map. A round ends with vfiomig_dirty_collect(), or when
    /// vfiomig_dirty_sync() comes back to an address.
    pub rounds: u64,
    /// Bytes delivered as dirty; a page counts each time it is delivered.
    pub dirty_bytes: u64,
    /// In the last complete round.
    pub last_dirty_bytes: u64,
    /// Bytes that became dirty per second in the last complete round.
    pub rate: u64,
    /// The same, averaged over the rounds; the newest has a weight of one quarter.
    pub average_rate: u64,
    /// Time spent reading and delivering, in nanoseconds.
    pub sync_ns: u64,
    /// In the last complete round.
    pub last_sync_ns: u64,
    /// Bytes in the map.
    pub mapped_bytes: u64,
    /// Memory in use besides the map, in bytes: bitmaps, and dirty pages that wait to be delivered.
    pub memory_bytes: u64,
    /// Errors since the start; see vfiomig_dirty_get_error().
    pub errors: u64,
}

/// Numbers of one round over the map, for deciding about convergence.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_round {
    /// VFIOMIG_DIRTY_ROUND_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// When it ended, in nanoseconds since the start.
    pub at_ns: u64,
    /// Time since the end of the round before, in nanoseconds.
    pub interval_ns: u64,
    /// Bytes delivered as dirty.
    pub dirty_bytes: u64,
    /// Time that the library spent on it, in nanoseconds.
    pub sync_ns: u64,
}

/// Numbers of one writer and of its tracker. Writers that share a page table or a container share
/// its numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_writer_stats {
    /// VFIOMIG_DIRTY_WRITER_STATS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_TRACKER_*: what tracks it now.
    pub tracker: u32,
    /// The size of the tracker's pages, in bytes.
    pub page_size: u64,
    /// Bytes that the tracker has reported as dirty.
    pub dirty_bytes: u64,
    /// In the last complete round.
    pub last_dirty_bytes: u64,
    /// Bytes counted as dirty because the tracker does not watch them, or because of an error.
    pub assumed_bytes: u64,
    /// Bytes reported per second in the last complete round.
    pub rate: u64,
    /// Time spent asking the tracker, in nanoseconds.
    pub sync_ns: u64,
    /// In the last complete round.
    pub last_sync_ns: u64,
    /// System calls or callbacks made.
    pub calls: u64,
    /// Errors.
    pub errors: u64,
    /// How often the tracker was restarted.
    pub restarts: u64,
    /// Why it is this tracker, and none of those before it; empty if there is nothing to say.
    pub note: [c_char; 464],
}

/// Why a range counts, or counted, as dirty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_dirty_error {
    /// VFIOMIG_DIRTY_ERROR_INIT sets it.
    pub struct_size: u32,
    /// The writer's number, or VFIOMIG_NO_WRITER.
    pub writer: u32,
    /// VFIOMIG_TRACKER_*: its tracker at the time.
    pub tracker: u32,
    /// -errno of the library's closed set.
    pub code: i32,
    /// The first address of the range.
    pub first: u64,
    /// The last address of the range, inclusive.
    pub last: u64,
    /// For people to read.
    pub text: [c_char; 464],
}

sized32!(
    vfiomig_mapping,
    vfiomig_place,
    vfiomig_memory_ops,
    vfiomig_tracker_ops,
    vfiomig_dirty_options,
    vfiomig_dirty_writer,
    vfiomig_dirty_stats,
    vfiomig_dirty_round,
    vfiomig_dirty_writer_stats,
    vfiomig_dirty_error,
);

/// The page size that `what` has, in bytes.
pub(super) fn page_of(bytes: u64, what: &str) -> Result<PageSize> {
    let page = PageSize::new(bytes);
    page.ok_or_else(|| err!(Inval, "{what} in pages of {bytes} bytes: not a power of two"))
}

/// The same; 0 stands for none that are named.
pub(super) fn page_of_if_any(bytes: u64, what: &str) -> Result<Option<PageSize>> {
    (bytes != 0).then(|| page_of(bytes, what)).transpose()
}

impl vfiomig_dirty_options {
    pub(super) fn to_options(self) -> Result<TrackingOptions> {
        let vfiomig_dirty_options { page_size, buffer_bytes, .. } = self;
        Ok(TrackingOptions { page_size: page_of_if_any(page_size, "tracking")?, buffer_bytes })
    }
}

impl vfiomig_mapping {
    pub(super) fn to_mapping(self) -> Result<Mapping> {
        let known = VFIOMIG_MAPPING_READ_ONLY | VFIOMIG_MAPPING_TRANSLATE | VFIOMIG_MAPPING_WINDOW;
        if self.flags & !known != 0 {
            return Err(err!(Inval, "unknown flags in the mapping at {:#x}", self.iova));
        }
        Ok(Mapping {
            iova: self.iova,
            size: self.size,
            cookie: self.cookie,
            offset: self.offset,
            host: self.host.expose_provenance(),
            read_only: self.flags & VFIOMIG_MAPPING_READ_ONLY != 0,
            translate: self.flags & VFIOMIG_MAPPING_TRANSLATE != 0,
            window: self.flags & VFIOMIG_MAPPING_WINDOW != 0,
        })
    }
}

impl From<vfiomig_place> for Place {
    fn from(place: vfiomig_place) -> Place {
        let vfiomig_place { cookie, offset, size, host, .. } = place;
        Place { cookie, offset, size, host: host.expose_provenance() }
    }
}

/// What a reading returns in C.
pub(super) fn synced(synced: Synced) -> c_int {
    let errors = flag(synced.errors, VFIOMIG_DIRTY_ERRORS as u32);
    (errors | flag(synced.unwatched, VFIOMIG_DIRTY_UNWATCHED as u32)) as c_int
}

impl vfiomig_dirty_stats {
    pub(super) fn new(stats: DirtyStats, writers: u32, errors: usize, rounds: usize) -> Self {
        let DirtyStats {
            rounds: complete,
            dirty_bytes,
            last_dirty_bytes,
            rate,
            average_rate,
            sync_ns,
            last_sync_ns,
            mapped_bytes,
            memory_bytes,
            errors: all_errors,
        } = stats;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        vfiomig_dirty_stats {
            struct_size: 0,
            num_writers: writers,
            num_errors: count(errors),
            num_rounds: count(rounds),
            rounds: complete,
            dirty_bytes,
            last_dirty_bytes,
            rate,
            average_rate,
            sync_ns,
            last_sync_ns,
            mapped_bytes,
            memory_bytes,
            errors: all_errors,
        }
    }
}

impl From<&DirtyRound> for vfiomig_dirty_round {
    fn from(round: &DirtyRound) -> Self {
        let DirtyRound { at_ns, interval_ns, dirty_bytes, sync_ns } = *round;
        vfiomig_dirty_round {
            struct_size: 0,
            reserved: 0,
            at_ns,
            interval_ns,
            dirty_bytes,
            sync_ns,
        }
    }
}

impl From<WriterStats> for vfiomig_dirty_writer_stats {
    fn from(stats: WriterStats) -> Self {
        let WriterStats {
            tracker,
            page_size,
            dirty_bytes,
            last_dirty_bytes,
            assumed_bytes,
            rate,
            sync_ns,
            last_sync_ns,
            calls,
            errors,
            restarts,
            note,
        } = stats;
        let mut out = vfiomig_dirty_writer_stats {
            struct_size: 0,
            tracker: tracker as u32,
            page_size: page_size.map_or(0, PageSize::bytes),
            dirty_bytes,
            last_dirty_bytes,
            assumed_bytes,
            rate,
            sync_ns,
            last_sync_ns,
            calls,
            errors,
            restarts,
            note: [0; 464],
        };
        put_fixed_text(&mut out.note, &note);
        out
    }
}

impl From<&DirtyError> for vfiomig_dirty_error {
    fn from(error: &DirtyError) -> Self {
        let mut out = vfiomig_dirty_error {
            struct_size: 0,
            writer: error.writer.unwrap_or(VFIOMIG_NO_WRITER),
            tracker: error.tracker as u32,
            code: error.code.to_ret(),
            first: error.first,
            last: error.last,
            text: [0; 464],
        };
        put_fixed_text(&mut out.text, &error.message);
        out
    }
}
