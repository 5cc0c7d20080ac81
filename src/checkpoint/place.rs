// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a file gets its name: whole, or not at all.
//!
//! It is written under a temporary name in the same directory, which is derived from the final one,
//! and locked meanwhile. A writer that dies leaves that behind, unlocked, and the next one removes
//! it. A file without a name (`O_TMPFILE`) would not do: not every file system has it, and
//! since link() replaces nothing, it would have to pass through a temporary name anyway.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::errors::file_error;
use crate::alloc;
use crate::error::{Errno, Result, err};
use crate::sys::{Process, named};

/// What the name of a file that is being written ends with; a dot and the final name come before.
const SUFFIX: &[u8] = b".vfiomig-tmp";
/// The longest name of a file, in bytes.
const NAME_MAX: usize = 255;
const NO_MEMORY: &str = "no memory for a file's name";

/// A file that is being written.
pub(super) struct Place {
    directory: OwnedFd,
    name: CString,
    temporary: CString,
    file: OwnedFd,
    /// It has its final name.
    named: bool,
    owner: Process,
}

fn text(parts: &[&[u8]]) -> Result<CString> {
    let mut bytes = Vec::new();
    for part in parts {
        alloc::reserve(&mut bytes, part.len() + 1, NO_MEMORY)?;
        bytes.extend_from_slice(part);
    }
    CString::new(bytes).map_err(|_| err!(Inval, "a file's name has no NUL in it"))
}

/// The directory of a path, and the name in it.
fn split(path: &CStr) -> Result<(CString, CString)> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (directory, name) = bytes.split_at(at);
    if matches!(name, b"" | b"." | b"..") || name.len() + SUFFIX.len() + 1 > NAME_MAX {
        return Err(err!(
            Inval,
            "the path must end with the name of a file, of {} bytes at most",
            NAME_MAX - SUFFIX.len() - 1
        ));
    }
    let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
    Ok((text(&[directory])?, text(&[name])?))
}

/// Nothing is replaced that is not a file: neither a device nor what a link leads to.
fn may_replace(directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match named::look_at(directory, name) {
        Ok(node) if !node.regular => Err(err!(
            Inval,
            "what has the checkpoint's name is not a regular file, and is not replaced"
        )),
        Ok(_) | Err(Errno(libc::ENOENT)) => Ok(()),
        Err(errno) => Err(file_error(errno, "looking for an earlier checkpoint")),
    }
}

impl Place {
    /// Begins to write what will be `path`. A relative one begins at `from`, or where the process is.
    pub fn begin(from: Option<BorrowedFd<'_>>, path: &CStr) -> Result<Place> {
        let (directory, name) = split(path)?;
        let directory = named::open_directory(from, &directory)
            .map_err(|errno| file_error(errno, "opening the directory of the checkpoint"))?;
        may_replace(directory.as_fd(), &name)?;
        let temporary = text(&[b".", name.to_bytes(), SUFFIX])?;
        let file = create(directory.as_fd(), &temporary)?;
        Ok(Place { directory, name, temporary, file, named: false, owner: Process::this() })
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives the file its final name. What had it before is gone afterwards; before, nothing has
    /// happened to it. `durable`: not before all of it is on the disk, and so is the name.
    pub fn name(&mut self, durable: bool) -> Result<()> {
        if durable {
            named::make_last(self.file())
                .map_err(|errno| file_error(errno, "writing the checkpoint to the disk"))?;
        }
        // Somebody may have removed it, or have put something else there.
        let (directory, temporary) = (self.directory.as_fd(), &self.temporary);
        if !is_at(directory, temporary, self.file.as_fd())? {
            return Err(err!(Io, "the temporary file of the checkpoint was removed by others"));
        }
        // What has the name may be another one than at the beginning.
        may_replace(directory, &self.name)?;
        named::rename(directory, temporary, &self.name)
            .map_err(|errno| file_error(errno, "giving the checkpoint its name"))?;
        self.named = true;
        if durable {
            match named::make_last(directory) {
                // A file system that has nothing to do there.
                Ok(()) | Err(Errno(libc::EINVAL | libc::ENOTSUP)) => {}
                Err(errno) => {
                    return Err(file_error(
                        errno,
                        "the checkpoint is in its place, but a loss of power may undo that",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        let (directory, temporary) = (self.directory.as_fd(), &self.temporary);
        // Not in a child of fork(), whose parent goes on: it would only remove the parent's file.
        if self.owner.is_this()
            && matches!(is_at(directory, temporary, self.file.as_fd()), Ok(true))
        {
            let _ = named::remove(directory, temporary);
        }
    }
}

/// A new file of this name, locked.
fn create(directory: BorrowedFd<'_>, temporary: &CStr) -> Result<OwnedFd> {
    // Each round, somebody else has just created or removed it.
    for _ in 0..100 {
        match named::create_new(directory, temporary) {
            Ok(file) => match named::lock(file.as_fd()) {
                Ok(()) if is_at(directory, temporary, file.as_fd())? => return Ok(file),
                // Somebody took it for what a dead writer left.
                Ok(()) | Err(Errno(libc::EWOULDBLOCK)) => {}
                Err(errno) => {
                    let _ = named::remove(directory, temporary);
                    return Err(file_error(errno, "locking the temporary file of the checkpoint"));
                }
            },
            Err(Errno(libc::EEXIST)) => remove_left_over(directory, temporary)?,
            Err(errno) => return Err(file_error(errno, "creating the checkpoint's file")),
        }
    }
    Err(err!(Busy, "other writers are in the way of the checkpoint's file"))
}

/// Removes what a writer left that is gone.
fn remove_left_over(directory: BorrowedFd<'_>, temporary: &CStr) -> Result<()> {
    let what = "removing what an earlier writer of the checkpoint left";
    let file = match named::open_existing(Some(directory), temporary, true) {
        Ok(file) => file,
        Err(Errno(libc::ENOENT)) => return Ok(()),
        Err(errno) => return Err(file_error(errno, what)),
    };
    let node = named::look_into(file.as_fd()).map_err(|errno| file_error(errno, what))?;
    if !node.regular {
        return Err(err!(Inval, "the checkpoint's temporary name is taken by what is not a file"));
    }
    match named::lock(file.as_fd()) {
        Ok(()) => {}
        Err(Errno(libc::EWOULDBLOCK)) => {
            return Err(err!(Busy, "a checkpoint of this name is being written"));
        }
        Err(errno) => return Err(file_error(errno, what)),
    }
    // It may have got its final name since it was opened.
    if is_at(directory, temporary, file.as_fd())? {
        named::remove(directory, temporary).map_err(|errno| file_error(errno, what))?;
    }
    Ok(())
}

/// Whether this name stands for this file.
fn is_at(directory: BorrowedFd<'_>, name: &CStr, file: BorrowedFd<'_>) -> Result<bool> {
    let what = "looking at the temporary file of the checkpoint";
    let ours = named::look_into(file).map_err(|errno| file_error(errno, what))?;
    match named::look_at(directory, name) {
        Ok(node) => Ok((node.device, node.inode) == (ours.device, ours.inode)),
        Err(Errno(libc::ENOENT)) => Ok(false),
        Err(errno) => Err(file_error(errno, what)),
    }
}
