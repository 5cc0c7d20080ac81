// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_dirty_*`.

mod callbacks;
mod constants;
mod structs;
mod writer;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bitmap as words_of, bytes, bytes_mut};
use super::entry::{free, guarded_owner, publish, with, with_shared, with_taken};
use super::handle::Handle;
use super::reserve::admit;
use super::row::Kind;
use super::sized::{SizedOut, read_in, read_options};
use super::table::{self, dirty_states as states};
use crate::cancel::Cancel;
use crate::dirty::Tracking;
use crate::error::{Errno, Result, err};
use crate::transport::Span;
use callbacks::MemoryOps;
use structs::{page_of, synced};

impl Handle for vfiomig_dirty {
    const KIND: &'static Kind = &table::DIRTY;
    type Object = Tracking;
    type Shared = Cancel;

    fn state(tracking: &Tracking) -> u32 {
        if tracking.is_tracking() { states::TRACKING } else { states::IDLE }
    }

    fn end(tracking: &mut Tracking) -> Result<()> {
        tracking.stop()
    }
}

/// Makes a tracking object for one I/O address space of the VMM's: everything that has the same
/// mappings. Add what writes to it with vfiomig_dirty_add_writer(), then call
/// vfiomig_dirty_start().
///
/// The table is copied. ops->release is called exactly once with opaque, even if this call fails
/// (unless ops itself cannot be read, because it is NULL or its struct_size is invalid).
///
/// Functions of one tracking object may be called from any thread; they wait for each other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_new(
    ops: *const vfiomig_memory_ops,
    opaque: *mut c_void,
    options: *const vfiomig_dirty_options,
    out: *mut *mut vfiomig_dirty,
) -> c_int {
    guarded_owner(&table::DIRTY_NEW, || {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let (ops, tail) = unsafe { read_in(ops, "ops") }?;
        // SAFETY: the promises of `MemoryOps::new` are 2, 3 and 5 of C.
        let memory = unsafe { MemoryOps::new(ops, opaque) };
        tail.check()?;
        admit()?;
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let options = unsafe { read_options(options) }?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        if ops.reserved != 0 {
            return Err(err!(Inval, "ops->reserved is not zero"));
        }
        let options = options.map(vfiomig_dirty_options::to_options).transpose()?;
        let tracking = Tracking::new(memory, options.unwrap_or_default())?;
        let cancel = tracking.cancel();
        publish(out, tracking, cancel)
    })
}

/// Frees a tracking object. NULL is ignored. Stops tracking first, and lets go of its writers'
/// devices and fds. Waits for a call on another thread. In a callback, freeing has no effect on the
/// tracking object that the callback was called from, or on one that uses the log of a device that
/// a call is using.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_free(dirty: *mut vfiomig_dirty) {
    free(&table::DIRTY_FREE, dirty);
}

/// Adds something that writes to the guest's memory. *number identifies it from then on. When
/// tracking starts, the library decides for each writer by itself which of its trackers to use;
/// vfiomig_dirty_get_writer_stats() tells. If tracking is already on, the writer is tracked at
/// once; memory that it wrote to before must be sent anyway.
///
/// The device and the fds must stay open until the writer is removed or the tracking object is
/// freed; the device's handle may be freed. tracker->release is called exactly once, even if this
/// call fails (unless the table itself cannot be read: then the library takes nothing over).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_add_writer(
    dirty: *mut vfiomig_dirty,
    writer: *const vfiomig_dirty_writer,
    number: *mut u32,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or a writer.
    let writer = || unsafe { writer::read_writer(writer) };
    with_taken(&table::DIRTY_ADD_WRITER, dirty, writer, |tracking, writer| {
        // SAFETY: promise 1: NULL, or memory for a number; and 4, about the writer's fds.
        let (number, writer) = unsafe { (Out::new(number, "number")?, writer.into_writer()?) };
        number.write(tracking.add_writer(writer)?);
        Ok(())
    })
}

/// Removes a writer, for example because its device is unplugged. What it has written to is read
/// first and delivered with the rest. Its number is not used again.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_remove_writer(dirty: *mut vfiomig_dirty, number: u32) -> c_int {
    with(&table::DIRTY_REMOVE_WRITER, dirty, |tracking| tracking.remove_writer(number))
}

/// Adds a mapping or, with VFIOMIG_MAPPING_WINDOW, addresses in which mappings will come and go.
/// Call it after you have made the mapping. If tracking is on, the mapping is tracked from now on.
/// If a device's log cannot be extended to it, its pages are always dirty until the log is
/// restarted: see vfiomig_dirty_rearm().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_map(
    dirty: *mut vfiomig_dirty,
    mapping: *const vfiomig_mapping,
) -> c_int {
    with(&table::DIRTY_MAP, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let (mapping, tail) = unsafe { read_in(mapping, "the mapping") }?;
        tail.check()?;
        tracking.map(mapping.to_mapping()?)
    })
}

/// Unmaps a range without losing anything that was dirty there. The library reads each tracker in
/// the order that the tracker needs. In between, it calls unmap(unmap_opaque, iova, size), which
/// removes the range from everything that has it mapped. By then the library has already unmapped
/// it from containers whose dirty tracking is in use, in one step with reading them; unmapping them
/// again does nothing.
///
/// What was dirty is added to bitmap (see vfiomig_dirty_sync()). If bitmap is NULL, and page_size
/// and num_words are 0, it goes to set_dirty: now, or later if set_dirty refuses it. When 64 MiB of
/// pages wait for that, nothing more is unmapped without a bitmap, and the call returns what
/// set_dirty returned. Remove mappings with this call even while tracking is off.
///
/// If unmap fails, the range stays in the map and counts as dirty until it is unmapped. Mappings
/// that lie only partly in the range are cut. If nothing is mapped there, unmap is still called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_unmap(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    size: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
    unmap: vfiomig_unmap_fn,
    unmap_opaque: *mut c_void,
) -> c_int {
    with(&table::DIRTY_UNMAP, dirty, |tracking| {
        let words = match bitmap.is_null() && page_size == 0 && num_words == 0 {
            true => None,
            // SAFETY: vfiomig.h: NULL, or `num_words` words.
            false => Some(unsafe { words_of(bitmap, num_words) }?),
        };
        let unmap = unmap.ok_or_else(|| err!(Fault, "unmap is NULL"))?;
        let words = match words {
            Some(words) => Some((page_of(page_size, "a bitmap")?, words)),
            None => None,
        };
        let unmap = || -> std::result::Result<(), Errno> {
            // SAFETY: promise 2; it is called while the call that brought it lasts.
            super::callbacks::status(unsafe { unmap(unmap_opaque, iova, size) })
        };
        tracking.unmap(iova, size, words, unmap).map(synced)
    })
}

/// Starts tracking: takes the mappings from ops->enumerate, chooses a tracker for each writer, and
/// starts it. Earlier writes are not reported, so start before memory is sent for the first time.
/// If it fails, nothing is tracked, and the map is as it was.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_start(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_START, dirty, |tracking| tracking.start().map(synced))
}

/// Reads everything that became dirty since the last reading and passes it to ops->set_dirty. If
/// that refuses, or the reading is cancelled, what was not delivered is kept for the next time.
///
/// Every page that could be dirty is reported. If a tracker fails, its pages count as dirty; that
/// is not an error of this function, but sets VFIOMIG_DIRTY_ERRORS in the result. The last reading,
/// after the devices have stopped, completes all that they have ever written.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_collect(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_COLLECT, dirty, |tracking| tracking.collect().map(synced))
}

/// Reads what became dirty in a range since the last reading and adds it to bitmap, which has
/// num_words words. Bit i, counted from the lowest, is the page at iova + i * page_size. Bits that
/// are already set stay set. page_size is any power of two from 512 up; iova and length are
/// multiples of it. Pages of different sizes never lose bits: a dirty page of the tracking object
/// that lies only partly in the range is reported here, and again when the rest is read. Pages
/// where nothing is mapped stay clean.
///
/// Otherwise like vfiomig_dirty_collect(). If it is cancelled, what is in the bitmap so far is
/// right, and the rest is kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_sync(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
) -> c_int {
    with(&table::DIRTY_SYNC, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or `num_words` words.
        let words = unsafe { words_of(bitmap, num_words) }?;
        let span = Span { start: iova, length, page: page_of(page_size, "a bitmap")? };
        tracking.sync(span, words).map(synced)
    })
}

/// Restarts the devices' logs, so that they watch mappings that were added after the start. No bit
/// is lost: in the meantime another tracker of the writer watches, if it was given one, or the
/// device is stopped. In these cases, readings restart the log by themselves, once per round.
/// Otherwise everything counts as dirty once, so call this well before the switchover.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_rearm(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_REARM, dirty, |tracking| tracking.rearm().map(synced))
}

/// Stops tracking and forgets what was not read, so read once more first, with the devices stopped.
/// Every tracker is asked to stop. The first error is returned, and calling again asks those that
/// failed. Has no effect if tracking is off.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_stop(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_STOP, dirty, |tracking| tracking.stop())
}

/// Makes the reading in progress, and every later one, return -ECANCELED until tracking is stopped.
/// Does not wait.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_cancel(dirty: *mut vfiomig_dirty) -> c_int {
    with_shared(&table::DIRTY_CANCEL, dirty, |cancel| {
        cancel.cancel();
        Ok(())
    })
}

/// Tells the library that a range was written to in a way that no tracker sees, for example by a
/// device that the VMM emulates. The addresses need no alignment; the whole range must be mapped.
/// Has no effect if tracking is off.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_mark(dirty: *mut vfiomig_dirty, iova: u64, length: u64) -> c_int {
    with(&table::DIRTY_MARK, dirty, |tracking| tracking.mark(iova, length))
}

/// Reads guest memory as a device does, by I/O virtual address: for a device in software that the
/// VMM serves, such as a vfio-user device. The whole range must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_read(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    buf: *mut c_void,
    len: usize,
) -> c_int {
    with(&table::DIRTY_DMA_READ, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or `len` writable bytes.
        tracking.dma_read(iova, unsafe { bytes_mut(buf, len, "buf") }?)
    })
}

/// Writes guest memory as a device does, and counts it as dirty. The whole range must be mapped and
/// must not be read-only; otherwise nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_write(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    buf: *const c_void,
    len: usize,
) -> c_int {
    with(&table::DIRTY_DMA_WRITE, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        tracking.dma_write(iova, unsafe { bytes(buf, len, "buf") }?)
    })
}

/// Returns what has happened since tracking was started; after it was stopped, what had happened by
/// then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_stats(
    dirty: *mut vfiomig_dirty,
    stats: *mut vfiomig_dirty_stats,
) -> c_int {
    with(&table::DIRTY_GET_STATS, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        let (errors, rounds) = (tracking.num_errors(), tracking.rounds().len());
        out.fill(&vfiomig_dirty_stats::new(
            tracking.stats(),
            tracking.num_writers(),
            errors,
            rounds,
        ));
        Ok(())
    })
}

/// Returns one round over the map, by an index from 0, which is the oldest of the up to 64 that are
/// kept. num_rounds in struct vfiomig_dirty_stats says how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_round(
    dirty: *mut vfiomig_dirty,
    index: u32,
    round: *mut vfiomig_dirty_round,
) -> c_int {
    with(&table::DIRTY_GET_ROUND, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(round, "round") }?;
        let rounds = tracking.rounds();
        let found = rounds.get(index as usize);
        out.fill(&found.ok_or_else(|| err!(NoData, "there are {} rounds", rounds.len()))?.into());
        Ok(())
    })
}

/// Returns what tracks a writer, why, and what it has done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_writer_stats(
    dirty: *mut vfiomig_dirty,
    number: u32,
    stats: *mut vfiomig_dirty_writer_stats,
) -> c_int {
    with(&table::DIRTY_GET_WRITER_STATS, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&tracking.writer(number)?.into());
        Ok(())
    })
}

/// Returns what went wrong since the start, by an index from 0, the oldest first, and which
/// addresses counted as dirty because of it. At most 64 errors are kept; if there are more, the
/// last one grows until it covers the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_error(
    dirty: *mut vfiomig_dirty,
    index: u32,
    error: *mut vfiomig_dirty_error,
) -> c_int {
    with(&table::DIRTY_GET_ERROR, dirty, |tracking| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(error, "error") }?;
        let (found, num) = (tracking.error(index as usize), tracking.num_errors());
        out.fill(&found.ok_or_else(|| err!(NoData, "there are {num} errors"))?.into());
        Ok(())
    })
}
