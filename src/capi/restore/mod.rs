// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_restore_*`.

mod structs;

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

pub use structs::*;

use super::args::{DirectoryFd, Out, bytes_mut, c_text};
use super::auth::read_auth;
use super::checkpoint::vfiomig_checkpoint_stats;
use super::device::{vfiomig_device, vfiomig_identity};
use super::entry::{admit, free, guarded_owner, publish, with_shared_copy};
use super::handle::{self, Handle};
use super::limits::vfiomig_limits;
use super::load::{read_options as read_load_options, vfiomig_load_options};
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, restore_states as states};
use crate::checkpoint::{Entry, File, OpenOptions};
use crate::error::{Result, err};
use crate::stream::DecodeLimits;

impl Handle for vfiomig_restore {
    const KIND: &'static Kind = &table::RESTORE;
    type Object = ();
    /// Everything: several threads load several devices from one file.
    type Shared = Arc<File>;

    fn state((): &()) -> u32 {
        states::OPEN
    }
}

/// Reads the options. The library owns callbacks in them from here on, even if it refuses the
/// options.
///
/// # Safety
/// NULL, or options as vfiomig.h describes them.
unsafe fn read_options(options: *const vfiomig_restore_options) -> Result<OpenOptions> {
    if options.is_null() {
        return Ok(OpenOptions::default());
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    // SAFETY: promises 1 to 3, about what is in it.
    let auth = unsafe { read_auth(options.auth) }?;
    tail.check()?;
    if options.reserved != 0 {
        return Err(err!(Inval, "reserved is not zero in the options"));
    }
    // SAFETY: promise 1, about the limits.
    let limits =
        unsafe { vfiomig_limits::read(options.limits) }?.of_reader(DecodeLimits::default());
    Ok(OpenOptions { auth, limits, staged: options.staged_bytes })
}

/// Opens the checkpoint path and verifies its manifest. A relative path begins at the directory
/// dir_fd, or where the process is (AT_FDCWD). The streams are verified when a device is loaded, or
/// by vfiomig_restore_verify(). The file may be replaced meanwhile, which this handle does not
/// notice; it must not be changed.
///
/// All calls with the handle may be made from several threads at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_open(
    dir_fd: c_int,
    path: *const c_char,
    options: *const vfiomig_restore_options,
    out: *mut *mut vfiomig_restore,
) -> c_int {
    guarded_owner(&table::RESTORE_OPEN, || {
        // First, so that its callbacks are released whatever happens.
        // SAFETY: vfiomig.h: NULL, or options.
        let options = unsafe { read_options(options) };
        admit(&table::RESTORE_OPEN)?;
        // SAFETY: vfiomig.h: NULL, or a text; the VMM keeps the fd open during the call.
        let (path, directory) = unsafe { (c_text(path, "path")?, DirectoryFd::new(dir_fd)?) };
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let file = File::open_at(directory.get(), path, options?)?;
        publish(out, (), Arc::new(file))
    })
}

/// Returns what the checkpoint is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_get_info(
    restore: *mut vfiomig_restore,
    info: *mut vfiomig_restore_info,
) -> c_int {
    with_shared_copy(&table::RESTORE_GET_INFO, restore, |file| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(info, "info") }?;
        out.fill(&file.manifest().into());
        Ok(())
    })
}

/// Copies the VMM's note into buf, which has room for cap bytes, and its length into *len: at most
/// 4096 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_get_note(
    restore: *mut vfiomig_restore,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with_shared_copy(&table::RESTORE_GET_NOTE, restore, |file| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes, and memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let note = &file.manifest().note;
        let Some(room) = buf.get_mut(..note.len()) else {
            return Err(err!(NoSpace, "the note has {} bytes, and cap is {cap}", note.len()));
        };
        room.copy_from_slice(note);
        len.write(note.len());
        Ok(())
    })
}

fn entry(file: &File, index: u32) -> Result<&Entry> {
    let found = file.manifest().devices.get(index as usize);
    found.ok_or_else(|| err!(NoData, "the checkpoint has no device {index}"))
}

/// Returns what the checkpoint says of its device number index, from 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_get_device(
    restore: *mut vfiomig_restore,
    index: u32,
    device: *mut vfiomig_restore_device,
) -> c_int {
    with_shared_copy(&table::RESTORE_GET_DEVICE, restore, |file| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(device, "device") }?;
        out.fill(&entry(&file, index)?.into());
        Ok(())
    })
}

/// Returns what the checkpoint's device number index was, from 0: what vfiomig_compat_judge() takes
/// as the source.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_get_identity(
    restore: *mut vfiomig_restore,
    index: u32,
    identity: *mut vfiomig_identity,
) -> c_int {
    with_shared_copy(&table::RESTORE_GET_IDENTITY, restore, |file| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        out.fill(&(&*entry(&file, index)?.identity).into());
        Ok(())
    })
}

/// Verifies the whole stream of device number index, from 0, or those of all devices
/// (VFIOMIG_RESTORE_ALL).
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_restore_verify(restore: *mut vfiomig_restore, index: u32) -> c_int {
    with_shared_copy(&table::RESTORE_VERIFY, restore, |file| match index {
        VFIOMIG_RESTORE_ALL => file.verify_all(),
        index => file.verify(&entry(&file, index)?.name),
    })
}

/// Loads a device with the state that the device of this name had. First it is judged whether it may
/// take that, then the whole stream is verified, if that has not been done, and only then the device
/// is taken to RESUMING, which loses what it held. Where the limits of the options are stricter than
/// those of vfiomig_restore_open(), the stream is verified again with them, and one with blobs is
/// refused before anything happens if no callback takes them. Stop the guest's vCPUs first, if there
/// is a guest.
/// Afterwards the device is in STOP: make the fix-ups of vfiomig_device_get_fixups() and call
/// vfiomig_device_run(). After an error in vfiomig_device_get_failure(), its outcome says whether the
/// device was reset; if code there is 0, nothing has happened to it.
///
/// The options are those of vfiomig_load_begin(). Format, auth and source are left open: they are the
/// checkpoint's. One checkpoint can be loaded into any number of devices, from several threads at
/// once. What the guest must change in a copy of itself is in docs/checkpointing.md.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_load(
    restore: *mut vfiomig_restore,
    name: *const c_char,
    device: *mut vfiomig_device,
    options: *const vfiomig_load_options,
) -> c_int {
    guarded_owner(&table::RESTORE_LOAD, || {
        // First, so that its callbacks are released whatever happens.
        // SAFETY: vfiomig.h: NULL, or options.
        let options = unsafe { read_load_options(options) };
        admit(&table::RESTORE_LOAD)?;
        let file = handle::with_shared(restore, |file: &Arc<File>| Ok(Arc::clone(file)))?;
        // SAFETY: vfiomig.h: NULL, or a text.
        let name = unsafe { c_text(name, "name") }?;
        let device = handle::copy(device)?;
        let (options, source) = options?;
        if !source.is_null() {
            return Err(err!(
                Inval,
                "the source is the checkpoint's: options->source must be NULL"
            ));
        }
        file.restore(name.to_str().unwrap_or_default(), &device, options)
    })
}

/// Cancels all calls with this handle that read the file: they return -ECANCELED, and so do later
/// ones. A device that is being loaded is reset.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_restore_cancel(restore: *mut vfiomig_restore) -> c_int {
    with_shared_copy(&table::RESTORE_CANCEL, restore, |file| {
        file.watcher().cancel();
        Ok(())
    })
}

/// Returns how much of the file has been read so far: stream_bytes; the other members are 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_restore_get_stats(
    restore: *mut vfiomig_restore,
    stats: *mut vfiomig_checkpoint_stats,
) -> c_int {
    with_shared_copy(&table::RESTORE_GET_STATS, restore, |file| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(stats, "stats") }?;
        out.fill(&file.watcher().stats().into());
        Ok(())
    })
}

/// Closes a checkpoint. NULL is ignored. Calls that other threads are inside of go on to their end.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_restore_free(restore: *mut vfiomig_restore) {
    free(&table::RESTORE_FREE, restore);
}
