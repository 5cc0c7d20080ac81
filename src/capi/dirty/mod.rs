// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_dirty_*`.

mod callbacks;
mod structs;

use std::ffi::{CStr, c_int, c_void};

pub use structs::*;

use super::callbacks::Opaque;
use super::constants::*;
use super::device::Lent;
use super::entry::{KeepErrno, free, guarded_owner, with_shared, with_waiting};
use super::handle::{self, Kind, Object};
use super::reserve::admit;
use super::structs::{check_out, read_in, write_out};
use super::table;
use crate::alloc;
use crate::dirty::{Run, RunOptions, Writer};
use crate::error::{Errno, Result, err};
use crate::session::Shared;
use crate::transport::{KernelHwpt, KernelType1};
use callbacks::{MemoryOps, TrackerOps};

/// Makes a run over one I/O address space of the VMM's: everything that has the same mappings. Add
/// what writes to it with vfiomig_dirty_add_writer(), then call vfiomig_dirty_start().
///
/// The table is copied; ops->release is called exactly once with opaque, also when this fails
/// (unless ops itself cannot be read: NULL, or a struct_size that is none).
///
/// All functions of a run may be called from any thread; they wait for each other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_new(
    ops: *const vfiomig_memory_ops,
    opaque: *mut c_void,
    options: *const vfiomig_dirty_options,
    out: *mut *mut vfiomig_dirty,
) -> c_int {
    guarded_owner(&table::DIRTY_NEW, || {
        // SAFETY: the caller's contract.
        let (ops, tail) = unsafe { read_in(ops, "ops") }?;
        let memory = MemoryOps { ops, opaque: Opaque::new(opaque, ops.release) };
        tail.check()?;
        admit()?;
        let mut run_options = RunOptions::default();
        if !options.is_null() {
            // SAFETY: the caller's contract.
            let (options, tail) = unsafe { read_in(options, "options") }?;
            tail.check()?;
            run_options.page_size = options.page_size;
            run_options.buffer_bytes = options.buffer_bytes;
        }
        if out.is_null() {
            return Err(err!(Fault, "out is NULL"));
        }
        if ops.reserved != 0 {
            return Err(err!(Inval, "ops->reserved is not zero"));
        }
        let run = Run::new(memory, run_options)?;
        let shared = Shared::Dirty(run.cancel());
        let handle = handle::insert(Object::Dirty(Box::new(run)), Some(shared))?;
        // SAFETY: checked not to be NULL; otherwise the caller's contract.
        unsafe { out.write(std::ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Frees a run; NULL is none. Stops tracking first, and lets go of its writers' devices and fds.
/// Waits for a call on another thread. A callback cannot free the run that it was called
/// from, nor one with the log of a device that is in use by a call: it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_free(run: *mut vfiomig_dirty) {
    free(&table::DIRTY_FREE, run.addr(), Kind::Dirty);
}

/// The longest name of a writer that is kept, in bytes.
const MAX_NAME: usize = 256;

/// What a structure says, and the tracker that it brings, which is owned from here on.
struct RawWriter {
    writer: vfiomig_dirty_writer,
    tracker: Option<TrackerOps>,
}

unsafe fn read_writer(writer: *const vfiomig_dirty_writer) -> Result<RawWriter> {
    // SAFETY: the caller's contract.
    let (writer, tail) = unsafe { read_in(writer, "writer") }?;
    let mut tracker = None;
    if writer.flags & VFIOMIG_WRITER_CUSTOM != 0 {
        // SAFETY: the caller's contract.
        let (ops, tail) = unsafe { read_in(writer.tracker, "writer->tracker") }?;
        tracker = Some(TrackerOps::new(ops, writer.tracker_opaque)?);
        tail.check()?;
    }
    tail.check()?;
    Ok(RawWriter { writer, tracker })
}

/// The writer that a structure describes.
unsafe fn make_writer(raw: RawWriter) -> Result<Writer> {
    let RawWriter { writer, tracker } = raw;
    let mut out = Writer::default();
    if let Some(tracker) = tracker {
        out.custom = Some(Box::new(tracker));
    }
    let known = VFIOMIG_WRITER_DEVICE_LOG
        | VFIOMIG_WRITER_HWPT
        | VFIOMIG_WRITER_CUSTOM
        | VFIOMIG_WRITER_TYPE1
        | VFIOMIG_WRITER_REQUIRED;
    if writer.flags & !known != 0 {
        return Err(err!(Inval, "unknown flags in the writer"));
    }
    let has = |flag: u32| writer.flags & flag != 0;
    out.required = has(VFIOMIG_WRITER_REQUIRED);
    if writer.device.is_null() {
        if has(VFIOMIG_WRITER_DEVICE_LOG) {
            return Err(err!(Fault, "writer->device is NULL: there is no device with a log"));
        }
    } else {
        let device = handle::device(writer.device.addr())?;
        out.name = device.identity()?.driver;
        match has(VFIOMIG_WRITER_DEVICE_LOG) {
            true => out.use_log_of(&device)?,
            false => out.watch(&device),
        }
    }
    if !writer.name.is_null() {
        // SAFETY: the caller's contract: a NUL-terminated string.
        let name = unsafe { CStr::from_ptr(writer.name) }.to_bytes();
        out.name = alloc::text_of_bytes(name, MAX_NAME, "no memory for the writer's name")?;
    }
    if has(VFIOMIG_WRITER_HWPT) {
        if writer.iommufd < 0 || writer.hwpt_id == 0 {
            let (fd, id) = (writer.iommufd, writer.hwpt_id);
            return Err(err!(Inval, "the iommufd is {fd}, the page table's number {id}"));
        }
        let ioas = (writer.ioas_id != 0).then_some(writer.ioas_id);
        let hwpt = KernelHwpt::new(Lent(writer.iommufd), writer.hwpt_id, ioas);
        out.hwpt = Some(Box::new(hwpt));
        out.hwpt_page_size = writer.hwpt_page_size;
    }
    if has(VFIOMIG_WRITER_TYPE1) {
        if writer.container_fd < 0 {
            return Err(err!(Inval, "the container's fd is {}", writer.container_fd));
        }
        out.type1 = Some(Box::new(KernelType1::new(Lent(writer.container_fd))));
    }
    Ok(out)
}

/// Adds something that writes to the guest's memory; *number is what it is called from then on.
/// Which of its trackers is used is decided when the run starts, for each writer by itself;
/// vfiomig_dirty_get_writer_stats() tells. While tracking is on it is tracked at once: memory that it
/// wrote to before must be sent anyway.
///
/// The device, and the fds, must stay open until the writer is removed or the run is freed; the
/// device's handle may be freed. tracker->release is called exactly once, also when this fails
/// (unless the table itself cannot be read: then nothing is taken over).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_add_writer(
    run: *mut vfiomig_dirty,
    writer: *const vfiomig_dirty_writer,
    number: *mut u32,
) -> c_int {
    let _errno = KeepErrno::new();
    // Before the guard, so that the tracker is released whatever the guard says.
    // SAFETY: the caller's contract.
    let writer = unsafe { read_writer(writer) };
    with_waiting(&table::DIRTY_ADD_WRITER, run.addr(), |run: &mut Run| {
        let writer = writer?;
        if number.is_null() {
            return Err(err!(Fault, "number is NULL"));
        }
        // SAFETY: the caller's contract.
        let writer = unsafe { make_writer(writer) }?;
        let added = run.add_writer(writer)?;
        // SAFETY: checked not to be NULL; otherwise the caller's contract.
        unsafe { number.write(added) };
        Ok(())
    })
}

/// Takes a writer out, because its device is unplugged for example. What it has written to is read
/// first and delivered with the rest. Its number is not used again.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_remove_writer(run: *mut vfiomig_dirty, number: u32) -> c_int {
    with_waiting(&table::DIRTY_REMOVE_WRITER, run.addr(), |run: &mut Run| run.remove_writer(number))
}

/// Adds a mapping, or with VFIOMIG_MAPPING_WINDOW addresses in which mappings will come and go.
/// Call it after the mapping has been made. While tracking is on the mapping is tracked from now
/// on; where a device's log cannot be extended to it, its pages are dirty at every time until the
/// log is started anew: see vfiomig_dirty_rearm().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_map(
    run: *mut vfiomig_dirty,
    mapping: *const vfiomig_mapping,
) -> c_int {
    with_waiting(&table::DIRTY_MAP, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        let (mapping, tail) = unsafe { read_in(mapping, "the mapping") }?;
        tail.check()?;
        run.map(mapping.to_mapping()?)
    })
}

/// A caller's bitmap.
///
/// # Safety
/// NULL, or `num_words` words that are valid for reads and writes.
unsafe fn bitmap<'a>(words: *mut u64, num_words: usize) -> Result<&'a mut [u64]> {
    if words.is_null() {
        return Err(err!(Fault, "bitmap is NULL"));
    }
    if !words.is_aligned() || num_words > isize::MAX as usize / 8 {
        return Err(err!(Inval, "the bitmap is not aligned, or {num_words} words are too many"));
    }
    // SAFETY: the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts_mut(words, num_words) })
}

/// Unmaps a range, and loses nothing that was dirty there: the library reads each tracker in the
/// order that it needs, and calls unmap(unmap_opaque, iova, size) in between, which removes the
/// range from all that has it mapped. Containers whose dirty tracking is in use have been unmapped
/// by the library before, in one step with the reading; unmapping them again does nothing.
///
/// What was dirty is added to bitmap (see vfiomig_dirty_sync()); with bitmap NULL, and page_size
/// and num_words 0, set_dirty gets it, now or, where it refuses, later. When 64 MiB of pages wait
/// for that, nothing more is unmapped without a bitmap: the call returns what set_dirty returned.
/// Also while tracking is off mappings go this way.
///
/// When unmap fails the range stays in the map and counts as dirty until it is unmapped. Mappings
/// that lie in the range partly are cut. Where nothing is mapped, unmap is called all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_unmap(
    run: *mut vfiomig_dirty,
    iova: u64,
    size: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
    unmap: vfiomig_unmap_fn,
    unmap_opaque: *mut c_void,
) -> c_int {
    with_waiting(&table::DIRTY_UNMAP, run.addr(), |run: &mut Run| {
        let words = if bitmap.is_null() && page_size == 0 && num_words == 0 {
            None
        } else {
            // SAFETY: the caller's contract.
            Some((page_size, unsafe { self::bitmap(bitmap, num_words) }?))
        };
        let unmap = unmap.ok_or_else(|| err!(Fault, "unmap is NULL"))?;
        let synced = run.unmap(iova, size, words, || {
            // SAFETY: the callback's contract.
            match unsafe { unmap(unmap_opaque, iova, size) } {
                ret if ret < 0 => Err(Errno(ret.saturating_neg())),
                _ => Ok(()),
            }
        });
        synced.map(structs::synced)
    })
}

/// Starts tracking: takes the mappings by ops->enumerate, chooses a tracker for each writer and
/// starts it. What was written to before is not reported: start before memory is sent for the first
/// time. When it fails nothing is tracked, and the map is as it was.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_start(run: *mut vfiomig_dirty) -> c_int {
    with_waiting(&table::DIRTY_START, run.addr(), |run: &mut Run| run.start().map(structs::synced))
}

/// Reads all that became dirty since the last time and gives it to ops->set_dirty. When that
/// refuses, or the run is cancelled, what was not delivered is kept for the next time.
///
/// A page that could be dirty is: where a tracker fails its pages count as dirty, which is no error
/// of this function but VFIOMIG_DIRTY_ERRORS in what it returns. The last time, after the devices
/// have stopped, gives all that they have ever written.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_collect(run: *mut vfiomig_dirty) -> c_int {
    with_waiting(&table::DIRTY_COLLECT, run.addr(), |run: &mut Run| {
        run.collect().map(structs::synced)
    })
}

/// Reads what became dirty in a range since the last time and adds it to bitmap, which has
/// num_words words: bit i, the lowest first, is the page at iova + i * page_size. Bits that are set
/// already stay. page_size is any power of two from 512; iova and length are multiples of it. Bits
/// are never lost where pages are of different sizes, and a dirty page of the run that lies in the
/// range partly is reported here and again beyond it. Pages that nothing is mapped at stay clean.
///
/// Otherwise as vfiomig_dirty_collect(). When it is cancelled, what is in the bitmap so far is
/// right and the rest is kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_sync(
    run: *mut vfiomig_dirty,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
) -> c_int {
    with_waiting(&table::DIRTY_SYNC, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        let words = unsafe { self::bitmap(bitmap, num_words) }?;
        run.sync(iova, length, page_size, words).map(structs::synced)
    })
}

/// Starts the devices' logs anew, so that they watch mappings that came after the start. No bit is
/// lost: meanwhile another tracker of the writer watches, if it was given one, or the device stands
/// still; in these cases readings do it by themselves, once per round. Where neither is so,
/// everything counts as dirty once: call it well before the switchover.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_rearm(run: *mut vfiomig_dirty) -> c_int {
    with_waiting(&table::DIRTY_REARM, run.addr(), |run: &mut Run| run.rearm().map(structs::synced))
}

/// Stops tracking and forgets what was not read: read once more before, with the devices stopped.
/// Every tracker is asked to stop; the first error is returned, and calling again asks those that
/// failed. Where tracking is off nothing happens.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_stop(run: *mut vfiomig_dirty) -> c_int {
    with_waiting(&table::DIRTY_STOP, run.addr(), |run: &mut Run| run.stop())
}

/// Makes the reading that is under way, and every later one, return -ECANCELED, until the run is
/// stopped. Does not wait.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_cancel(run: *mut vfiomig_dirty) -> c_int {
    with_shared::<Run, ()>(&table::DIRTY_CANCEL, run.addr(), |shared| {
        shared.cancel();
        Ok(())
    })
}

/// Says that a range was written to by means that no tracker sees: a device that the VMM emulates,
/// for example. Any addresses; the whole range must be mapped. Where tracking is off nothing
/// happens.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_mark(run: *mut vfiomig_dirty, iova: u64, length: u64) -> c_int {
    with_waiting(&table::DIRTY_MARK, run.addr(), |run: &mut Run| run.mark(iova, length))
}

/// Reads guest memory as a device does, by I/O virtual addresses: for a device in software that
/// the VMM serves, such as vfio-user's. The whole range must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_read(
    run: *mut vfiomig_dirty,
    iova: u64,
    buf: *mut c_void,
    len: usize,
) -> c_int {
    with_waiting(&table::DIRTY_DMA_READ, run.addr(), |run: &mut Run| {
        check_memory(buf, len)?;
        // SAFETY: the caller's contract: `len` bytes are writable. They may not be initialised, and
        // nothing here reads them.
        let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
        run.dma_read(iova, buf)
    })
}

/// Writes guest memory as a device does, and counts it as dirty. The whole range must be mapped,
/// and not read-only; otherwise nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_write(
    run: *mut vfiomig_dirty,
    iova: u64,
    buf: *const c_void,
    len: usize,
) -> c_int {
    with_waiting(&table::DIRTY_DMA_WRITE, run.addr(), |run: &mut Run| {
        check_memory(buf, len)?;
        // SAFETY: the caller's contract: `len` bytes are readable.
        let buf = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), len) };
        run.dma_write(iova, buf)
    })
}

fn check_memory(buf: *const c_void, len: usize) -> Result<()> {
    if buf.is_null() {
        return Err(err!(Fault, "buf is NULL"));
    }
    if len > isize::MAX as usize {
        return Err(err!(Inval, "{len} bytes are more than there can be"));
    }
    Ok(())
}

/// What the run has done since it was started; after it was stopped, what it had done by then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_stats(
    run: *mut vfiomig_dirty,
    stats: *mut vfiomig_dirty_stats,
) -> c_int {
    with_waiting(&table::DIRTY_GET_STATS, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        unsafe { check_out(stats, "stats") }?;
        let (errors, rounds) = (run.num_errors(), run.rounds().len());
        let out = vfiomig_dirty_stats::new(run.stats(), run.num_writers(), errors, rounds);
        // SAFETY: the caller's contract.
        unsafe { write_out(stats, &out, "stats") }
    })
}

/// One round over the map, by an index from 0, the oldest that is kept (64 are); num_rounds in
/// struct vfiomig_dirty_stats is how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_round(
    run: *mut vfiomig_dirty,
    index: u32,
    round: *mut vfiomig_dirty_round,
) -> c_int {
    with_waiting(&table::DIRTY_GET_ROUND, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        unsafe { check_out(round, "round") }?;
        let rounds = run.rounds();
        let found = rounds.get(index as usize);
        let found = found.ok_or_else(|| err!(NoData, "there are {} rounds", rounds.len()))?;
        // SAFETY: the caller's contract.
        unsafe { write_out(round, &vfiomig_dirty_round::from(found), "round") }
    })
}

/// What tracks a writer, why, and what it has done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_writer_stats(
    run: *mut vfiomig_dirty,
    number: u32,
    stats: *mut vfiomig_dirty_writer_stats,
) -> c_int {
    with_waiting(&table::DIRTY_GET_WRITER_STATS, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        unsafe { check_out(stats, "stats") }?;
        let out = vfiomig_dirty_writer_stats::from(run.writer(number)?);
        // SAFETY: the caller's contract.
        unsafe { write_out(stats, &out, "stats") }
    })
}

/// What went wrong since the start, by an index from 0, the oldest first, and which addresses
/// counted as dirty because of it. At most 64 are kept: when there are more, the last one grows
/// until it covers the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_error(
    run: *mut vfiomig_dirty,
    index: u32,
    error: *mut vfiomig_dirty_error,
) -> c_int {
    with_waiting(&table::DIRTY_GET_ERROR, run.addr(), |run: &mut Run| {
        // SAFETY: the caller's contract.
        unsafe { check_out(error, "error") }?;
        let num = run.num_errors();
        let found = run.error(index as usize);
        let found = found.ok_or_else(|| err!(NoData, "there are {num} errors"))?;
        // SAFETY: the caller's contract.
        unsafe { write_out(error, &vfiomig_dirty_error::from(found), "error") }
    })
}
