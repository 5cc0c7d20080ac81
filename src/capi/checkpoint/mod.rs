// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_checkpoint_*`.

mod structs;

use std::ffi::{c_char, c_int};

pub use structs::*;

use super::args::{DirectoryFd, Out, c_text};
use super::auth::read_auth;
use super::device::vfiomig_device;
use super::entry::{admit, free, guarded_owner, publish, with, with_shared, with_taken};
use super::handle::{self, Handle};
use super::row::Kind;
use super::save::{read_options as read_save_options, vfiomig_save_options};
use super::sized::{SizedOut, read_in};
use super::table::{self, checkpoint_states as states};
use crate::checkpoint::{Phase, Watcher, Writer, WriterOptions};
use crate::error::{Result, err};

impl Handle for vfiomig_checkpoint {
    const KIND: &'static Kind = &table::CHECKPOINT;
    type Object = Writer;
    type Shared = Watcher;

    fn state(writer: &Writer) -> u32 {
        match writer.phase() {
            Phase::Running => states::RUNNING,
            Phase::Stopped => states::STOPPED,
            Phase::Complete => states::COMPLETE,
            Phase::Resumed => states::RESUMED,
            Phase::Committed => states::COMMITTED,
        }
    }

    fn end(writer: &mut Writer) -> Result<()> {
        writer.end()
    }
}

/// Reads the options. The library owns callbacks in them from here on, even if it refuses the
/// options.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
unsafe fn read_options(options: *const vfiomig_checkpoint_options) -> Result<WriterOptions> {
    if options.is_null() {
        return Ok(WriterOptions::default());
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: promises 1 to 3, about what is in it.
    let auth = unsafe { read_auth(options.auth) }?;
    tail.check()?;
    // SAFETY: promise 1, about the note.
    Ok(WriterOptions { auth, ..unsafe { options.to_options() }? })
}

/// Begins to take a checkpoint, which will be the file path. A relative path begins at the directory
/// dir_fd, or where the process is (AT_FDCWD). Nothing has this name before
/// vfiomig_checkpoint_commit(), and what has it now stays as it is until then. Meanwhile the file has
/// a temporary name in the same directory: the final one with a dot before it and ".vfiomig-tmp"
/// behind it. A process that dies leaves it there, and the next checkpoint of that name removes it.
///
/// Then add the devices with vfiomig_checkpoint_add() and call vfiomig_checkpoint_read() while the
/// guest runs; stop the vCPUs; vfiomig_checkpoint_stop(); fix what the guest's memory is;
/// vfiomig_checkpoint_read(); vfiomig_checkpoint_resume(); start the vCPUs;
/// vfiomig_checkpoint_commit(). docs/checkpointing.md has the reasons.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_checkpoint_begin(
    dir_fd: c_int,
    path: *const c_char,
    options: *const vfiomig_checkpoint_options,
    out: *mut *mut vfiomig_checkpoint,
) -> c_int {
    guarded_owner(&table::CHECKPOINT_BEGIN, || {
        // First, so that its callbacks are released whatever happens.
        // SAFETY: vfiomig.h: NULL, or options.
        let options = unsafe { read_options(options) };
        admit(&table::CHECKPOINT_BEGIN)?;
        // SAFETY: vfiomig.h: NULL, or a text; the VMM keeps the fd open during the call.
        let (path, directory) = unsafe { (c_text(path, "path")?, DirectoryFd::new(dir_fd)?) };
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let writer = Writer::create_at(directory.get(), path, options?)?;
        let watcher = writer.watcher();
        publish(out, writer, watcher)
    })
}

/// Adds a device under a name of the VMM's, of 1 to 63 bytes, and begins to save it: to PRE_COPY, if
/// it has that. The options are those of vfiomig_save_begin(): the format is the native one, and auth
/// is NULL, because the checkpoint's options have that. With several devices, each has a
/// device_index of its own: two that have the same one and the same migration_id, other than zeros,
/// are refused. A device that is in STOP stays there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_checkpoint_add(
    checkpoint: *mut vfiomig_checkpoint,
    device: *mut vfiomig_device,
    name: *const c_char,
    options: *const vfiomig_save_options,
) -> c_int {
    // SAFETY: vfiomig.h: NULL, or options.
    let options = || unsafe { read_save_options(options) };
    with_taken(&table::CHECKPOINT_ADD, checkpoint, options, |writer, options| {
        // SAFETY: vfiomig.h: NULL, or a text.
        let name = unsafe { c_text(name, "name") }?;
        let name = name.to_str().map_err(|_| err!(Inval, "name is not UTF-8"))?;
        let device = handle::copy(device)?;
        writer.add(name, &device, options)
    })
}

/// While the guest runs: reads what the devices have for now and writes it to the file, and finds
/// room for what they will say when they are stopped. It may be called again, but once is enough.
/// After vfiomig_checkpoint_stop(): reads all that is left, which is most of the pause. With
/// spool_bytes it goes to memory, otherwise to the file.
///
/// If it fails, there will be no file, and an earlier one stays: call vfiomig_checkpoint_resume()
/// if the devices are stopped, and free the checkpoint.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_read(checkpoint: *mut vfiomig_checkpoint) -> c_int {
    with(&table::CHECKPOINT_READ, checkpoint, |writer| writer.read())
}

/// Stops the devices: all are quiesced, then all are stopped. Stop the guest's vCPUs first. After an
/// error as well, call vfiomig_checkpoint_resume() before the vCPUs run.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_stop(checkpoint: *mut vfiomig_checkpoint) -> c_int {
    with(&table::CHECKPOINT_STOP, checkpoint, |writer| writer.stop())
}

/// Gives the devices back, whatever has happened so far. VFIOMIG_CHECKPOINT_RESUME: the guest goes
/// on, and the devices go to where they were; several wait for each other in RUNNING_P2P, if they
/// have that state. VFIOMIG_CHECKPOINT_RESUME_STOPPED: they go to STOP. No reset is needed, so there
/// are no fix-ups. An error of this call is one of a device: what vfiomig_save_finish() says of
/// VFIOMIG_ENDING_KEEP holds, and vfiomig_device_get_failure() says which device it was and what
/// became of it. An error of the checkpoint's file is returned by vfiomig_checkpoint_commit().
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_resume(
    checkpoint: *mut vfiomig_checkpoint,
    how: u32,
) -> c_int {
    with(&table::CHECKPOINT_RESUME, checkpoint, |writer| writer.resume(guest(how)?))
}

/// Completes the file and gives it its name: writes what is in memory, and the manifest, has the
/// disk write all of it, renames it, and has the disk write the directory. An earlier file of that
/// name is replaced at once and as a whole. After an error it is still there, unless the message
/// says that the new one is in its place and may not survive a loss of power. Then free the
/// checkpoint.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_commit(checkpoint: *mut vfiomig_checkpoint) -> c_int {
    with(&table::CHECKPOINT_COMMIT, checkpoint, |writer| writer.commit())
}

/// Cancels the checkpoint. The call in progress returns -ECANCELED as soon as the driver or the disk
/// lets it, and so do later ones. Only vfiomig_checkpoint_resume() works as before: it brings the
/// devices back.
/// May be called from any thread at any time while the handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_cancel(checkpoint: *mut vfiomig_checkpoint) -> c_int {
    with_shared(&table::CHECKPOINT_CANCEL, checkpoint, |watcher| {
        watcher.cancel();
        Ok(())
    })
}

/// Returns what has been done so far. May be called from any thread at any time while the handle
/// lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_checkpoint_get_stats(
    checkpoint: *mut vfiomig_checkpoint,
    stats: *mut vfiomig_checkpoint_stats,
) -> c_int {
    with_shared(&table::CHECKPOINT_GET_STATS, checkpoint, |watcher| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&watcher.stats().into());
        Ok(())
    })
}

/// Frees a checkpoint. NULL is ignored. One that was not committed is given up: its devices go back
/// to where they were, and nothing of it is left. Waits for a call on another thread. Freeing a
/// handle from a callback while a call is using it or its device has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_checkpoint_free(checkpoint: *mut vfiomig_checkpoint) {
    free(&table::CHECKPOINT_FREE, checkpoint);
}
