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
use super::callbacks::Opaque;
use super::entry::{free, guarded_owner, publish, with, with_shared, with_taken};
use super::handle::Handle;
use super::reserve::admit;
use super::row::Kind;
use super::sized::{SizedOut, read_in, read_options};
use super::table;
use crate::cancel::Cancel;
use crate::dirty::{Tracking, TrackingOptions};
use crate::error::{Errno, Result, err};
use callbacks::MemoryOps;
use structs::synced;

impl Handle for vfiomig_dirty {
    const KIND: &'static Kind = &table::DIRTY;
    type Object = Tracking;
    type Shared = Cancel;

    fn state(run: &Tracking) -> u32 {
        u32::from(run.is_tracking())
    }

    fn end(run: &mut Tracking) -> Result<()> {
        run.stop()
    }
}

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
        // SAFETY: vfiomig.h: NULL, or a structure of its size.
        let (ops, tail) = unsafe { read_in(ops, "ops") }?;
        // SAFETY: vfiomig.h: `release` can be called with `opaque`.
        let opaque = unsafe { Opaque::new(opaque, ops.release) };
        let memory = MemoryOps { ops, opaque };
        tail.check()?;
        admit()?;
        // SAFETY: vfiomig.h: NULL, or a structure of its size.
        let options = unsafe { read_options(options) }?;
        let options =
            options.map_or_else(TrackingOptions::default, vfiomig_dirty_options::to_options);
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        if ops.reserved != 0 {
            return Err(err!(Inval, "ops->reserved is not zero"));
        }
        let run = Tracking::new(memory, options)?;
        let cancel = run.cancel();
        publish(out, run, cancel)
    })
}

/// Frees a run; NULL is none. Stops tracking first, and lets go of its writers' devices and fds.
/// Waits for a call on another thread. A callback cannot free the run that it was called
/// from, nor one with the log of a device that is in use by a call: it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_free(dirty: *mut vfiomig_dirty) {
    free(&table::DIRTY_FREE, dirty);
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
    dirty: *mut vfiomig_dirty,
    writer: *const vfiomig_dirty_writer,
    number: *mut u32,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or a writer.
    let writer = || unsafe { writer::read_writer(writer) };
    with_taken(&table::DIRTY_ADD_WRITER, dirty, writer, |run, writer| {
        // SAFETY: vfiomig.h: NULL, or memory for a number; the writer's pointers and fds are as it says.
        let (number, writer) = unsafe { (Out::new(number, "number")?, writer.into_writer()?) };
        number.write(run.add_writer(writer)?);
        Ok(())
    })
}

/// Takes a writer out, because its device is unplugged for example. What it has written to is read
/// first and delivered with the rest. Its number is not used again.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_remove_writer(dirty: *mut vfiomig_dirty, number: u32) -> c_int {
    with(&table::DIRTY_REMOVE_WRITER, dirty, |run| run.remove_writer(number))
}

/// Adds a mapping, or with VFIOMIG_MAPPING_WINDOW addresses in which mappings will come and go.
/// Call it after the mapping has been made. While tracking is on the mapping is tracked from now
/// on; where a device's log cannot be extended to it, its pages are dirty at every time until the
/// log is started anew: see vfiomig_dirty_rearm().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_map(
    dirty: *mut vfiomig_dirty,
    mapping: *const vfiomig_mapping,
) -> c_int {
    with(&table::DIRTY_MAP, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size.
        let (mapping, tail) = unsafe { read_in(mapping, "the mapping") }?;
        tail.check()?;
        run.map(mapping.to_mapping()?)
    })
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
    dirty: *mut vfiomig_dirty,
    iova: u64,
    size: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
    unmap: vfiomig_unmap_fn,
    unmap_opaque: *mut c_void,
) -> c_int {
    with(&table::DIRTY_UNMAP, dirty, |run| {
        let words = match bitmap.is_null() && page_size == 0 && num_words == 0 {
            true => None,
            // SAFETY: vfiomig.h: NULL, or `num_words` words.
            false => Some((page_size, unsafe { words_of(bitmap, num_words) }?)),
        };
        let unmap = unmap.ok_or_else(|| err!(Fault, "unmap is NULL"))?;
        let unmap = || -> std::result::Result<(), Errno> {
            // SAFETY: vfiomig.h describes what the callback is called with.
            super::callbacks::status(unsafe { unmap(unmap_opaque, iova, size) })
        };
        run.unmap(iova, size, words, unmap).map(synced)
    })
}

/// Starts tracking: takes the mappings by ops->enumerate, chooses a tracker for each writer and
/// starts it. What was written to before is not reported: start before memory is sent for the first
/// time. When it fails nothing is tracked, and the map is as it was.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_start(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_START, dirty, |run| run.start().map(synced))
}

/// Reads all that became dirty since the last time and gives it to ops->set_dirty. When that
/// refuses, or the run is cancelled, what was not delivered is kept for the next time.
///
/// A page that could be dirty is: where a tracker fails its pages count as dirty, which is no error
/// of this function but VFIOMIG_DIRTY_ERRORS in what it returns. The last time, after the devices
/// have stopped, gives all that they have ever written.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_collect(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_COLLECT, dirty, |run| run.collect().map(synced))
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
    dirty: *mut vfiomig_dirty,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
) -> c_int {
    with(&table::DIRTY_SYNC, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or `num_words` words.
        let words = unsafe { words_of(bitmap, num_words) }?;
        run.sync(iova, length, page_size, words).map(synced)
    })
}

/// Starts the devices' logs anew, so that they watch mappings that came after the start. No bit is
/// lost: meanwhile another tracker of the writer watches, if it was given one, or the device stands
/// still; in these cases readings do it by themselves, once per round. Where neither is so,
/// everything counts as dirty once: call it well before the switchover.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_rearm(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_REARM, dirty, |run| run.rearm().map(synced))
}

/// Stops tracking and forgets what was not read: read once more before, with the devices stopped.
/// Every tracker is asked to stop; the first error is returned, and calling again asks those that
/// failed. Where tracking is off nothing happens.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_stop(dirty: *mut vfiomig_dirty) -> c_int {
    with(&table::DIRTY_STOP, dirty, |run| run.stop())
}

/// Makes the reading that is under way, and every later one, return -ECANCELED, until the run is
/// stopped. Does not wait.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_cancel(dirty: *mut vfiomig_dirty) -> c_int {
    with_shared(&table::DIRTY_CANCEL, dirty, |cancel| {
        cancel.cancel();
        Ok(())
    })
}

/// Says that a range was written to by means that no tracker sees: a device that the VMM emulates,
/// for example. Any addresses; the whole range must be mapped. Where tracking is off nothing
/// happens.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_dirty_mark(dirty: *mut vfiomig_dirty, iova: u64, length: u64) -> c_int {
    with(&table::DIRTY_MARK, dirty, |run| run.mark(iova, length))
}

/// Reads guest memory as a device does, by I/O virtual addresses: for a device in software that
/// the VMM serves, such as vfio-user's. The whole range must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_read(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    buf: *mut c_void,
    len: usize,
) -> c_int {
    with(&table::DIRTY_DMA_READ, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or `len` writable bytes.
        run.dma_read(iova, unsafe { bytes_mut(buf, len, "buf") }?)
    })
}

/// Writes guest memory as a device does, and counts it as dirty. The whole range must be mapped,
/// and not read-only; otherwise nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_dma_write(
    dirty: *mut vfiomig_dirty,
    iova: u64,
    buf: *const c_void,
    len: usize,
) -> c_int {
    with(&table::DIRTY_DMA_WRITE, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        run.dma_write(iova, unsafe { bytes(buf, len, "buf") }?)
    })
}

/// What the run has done since it was started; after it was stopped, what it had done by then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_stats(
    dirty: *mut vfiomig_dirty,
    stats: *mut vfiomig_dirty_stats,
) -> c_int {
    with(&table::DIRTY_GET_STATS, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        let (errors, rounds) = (run.num_errors(), run.rounds().len());
        out.fill(&vfiomig_dirty_stats::new(run.stats(), run.num_writers(), errors, rounds));
        Ok(())
    })
}

/// One round over the map, by an index from 0, the oldest that is kept (64 are); num_rounds in
/// struct vfiomig_dirty_stats is how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_round(
    dirty: *mut vfiomig_dirty,
    index: u32,
    round: *mut vfiomig_dirty_round,
) -> c_int {
    with(&table::DIRTY_GET_ROUND, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(round, "round") }?;
        let rounds = run.rounds();
        let found = rounds.get(index as usize);
        out.fill(&found.ok_or_else(|| err!(NoData, "there are {} rounds", rounds.len()))?.into());
        Ok(())
    })
}

/// What tracks a writer, why, and what it has done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_writer_stats(
    dirty: *mut vfiomig_dirty,
    number: u32,
    stats: *mut vfiomig_dirty_writer_stats,
) -> c_int {
    with(&table::DIRTY_GET_WRITER_STATS, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&run.writer(number)?.into());
        Ok(())
    })
}

/// What went wrong since the start, by an index from 0, the oldest first, and which addresses
/// counted as dirty because of it. At most 64 are kept: when there are more, the last one grows
/// until it covers the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_dirty_get_error(
    dirty: *mut vfiomig_dirty,
    index: u32,
    error: *mut vfiomig_dirty_error,
) -> c_int {
    with(&table::DIRTY_GET_ERROR, dirty, |run| {
        // SAFETY: vfiomig.h: NULL, or a structure of its size, to be written to.
        let out = unsafe { SizedOut::new(error, "error") }?;
        let (found, num) = (run.error(index as usize), run.num_errors());
        out.fill(&found.ok_or_else(|| err!(NoData, "there are {num} errors"))?.into());
        Ok(())
    })
}
