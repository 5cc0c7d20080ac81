// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a policy file is, and whether what is there may be relied on.
//!
//! Nothing here waits, whatever is found in the file's place, and nothing is opened for reading
//! that is not a regular file.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::rules::MAX_FILE;
use crate::alloc;
use crate::error::{Errno, Error, Result, err};
use crate::sys::fd::read;
use crate::sys::file::{Open, effective_user, open_at};
use crate::text;

/// How often a file is read again that changes meanwhile.
const ATTEMPTS: u32 = 3;

/// How old a change must be, in seconds, for the next one to have another time: file systems count
/// in steps.
const SETTLED: i64 = 2;

/// Why a file cannot be used. Says nothing of what it contains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Missing,
    CannotBeAsked(Errno),
    CannotBeRead(Errno),
    NotAFile,
    /// `true`: the directory that it is in.
    Foreign(bool, u32),
    /// The same, with the permissions.
    Writable(bool, u32),
    TooLong,
    Changing,
    NoMemory,
}

impl Fault {
    /// Whether it says nothing of the file, but that there was nothing to look at it with.
    pub fn is_shortage(&self) -> bool {
        match self {
            Fault::CannotBeAsked(Errno(errno)) | Fault::CannotBeRead(Errno(errno)) => {
                [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(errno)
            }
            Fault::NoMemory => true,
            _ => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose =
            |directory: &bool| if *directory { "the directory that it is in" } else { "it" };
        match self {
            Fault::Missing => f.write_str("it does not exist"),
            Fault::CannotBeAsked(errno) => write!(f, "it cannot be looked at: {errno}"),
            Fault::CannotBeRead(errno) => write!(f, "it cannot be read: {errno}"),
            Fault::NotAFile => f.write_str("it is not a regular file"),
            Fault::Foreign(directory, user) => {
                let whose = whose(directory);
                write!(
                    f,
                    "{whose} belongs to user {user}, who is not to be trusted with it: chown root"
                )
            }
            Fault::Writable(directory, mode) => {
                let whose = whose(directory);
                write!(f, "others may write to {whose} (mode {mode:04o}): chmod go-w")
            }
            Fault::TooLong => f.write_str("it is longer than 64 KiB"),
            Fault::Changing => f.write_str("it keeps changing while it is read"),
            Fault::NoMemory => f.write_str("there is no memory to read it"),
        }
    }
}

/// Where a policy file is.
#[derive(Clone)]
pub(super) struct Place {
    /// What `folder` is relative to, if it is not absolute.
    directory: Option<Arc<OwnedFd>>,
    folder: Cow<'static, CStr>,
    name: Cow<'static, CStr>,
    /// The path, for people.
    shown: Cow<'static, str>,
    /// Whether the process's own user is trusted with it, beside root.
    own_user: bool,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What tells a file from what was in its place before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    regular: bool,
    device: u64,
    inode: u64,
    mode: u32,
    user: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The same for a directory, in which other files may come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Folder {
    device: u64,
    inode: u64,
    mode: u32,
    user: u32,
}

/// What is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    Nothing,
    Hidden(Errno),
    Found(Folder, Stamp),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            regular: found.is_file(),
            device: found.dev(),
            inode: found.ino(),
            mode: found.mode() & 0o7777,
            user: found.uid(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a change from now on is certain to show.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        now.abs_diff(self.changed.0) > SETTLED.unsigned_abs()
    }
}

impl Look {
    pub fn is_settled(&self) -> bool {
        match self {
            Look::Nothing | Look::Hidden(_) => true,
            Look::Found(_, file) => file.is_settled(),
        }
    }
}

fn metadata(file: &File) -> std::result::Result<Metadata, Errno> {
    file.metadata().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
}

impl Place {
    /// The place of an absolute path, or of one in `directory`. Text is refused that cannot be a
    /// file's path.
    pub fn new(
        directory: Option<BorrowedFd<'_>>,
        path: &Path,
        own_user: bool,
        optional: bool,
    ) -> Result<Place> {
        let bytes = path.as_os_str().as_bytes();
        if directory.is_none() && !bytes.starts_with(b"/") {
            return Err(err!(Inval, "the path of a policy file is absolute, or in a directory"));
        }
        let cut = bytes.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = match cut {
            None => (&b"."[..], bytes),
            Some(0) => (&b"/"[..], bytes.get(1..).unwrap_or_default()),
            Some(at) => {
                let (folder, name) = bytes.split_at(at);
                (folder, name.get(1..).unwrap_or_default())
            }
        };
        if name.is_empty() || name == b"." || name == b".." {
            return Err(err!(Inval, "the path of a policy file ends with the file's name"));
        }
        let mut shown = shown(bytes);
        if let Some(fd) = directory {
            // For people: where the directory is now, if that can be known.
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if let Ok(whole) = std::fs::read_link(link).map(|folder| folder.join(path)) {
                shown = self::shown(whole.as_os_str().as_bytes());
            }
        }
        let directory = directory.map(|fd| fd.try_clone_to_owned());
        let directory = directory
            .transpose()
            .map_err(|error| err!(Inval, "the directory of a policy file is not open: {error}"))?;
        Ok(Place {
            directory: directory.map(Arc::new),
            folder: c_text(folder)?.into(),
            name: c_text(name)?.into(),
            shown: shown.into(),
            own_user,
            optional,
        })
    }

    /// The place of the host's file, which need not be there. Takes no memory: a library that finds
    /// nothing there leaves none behind when it is unloaded.
    pub const fn of_host(folder: &'static CStr, name: &'static CStr, shown: &'static str) -> Place {
        Place {
            directory: None,
            folder: Cow::Borrowed(folder),
            name: Cow::Borrowed(name),
            shown: Cow::Borrowed(shown),
            // The administrator's: whoever may change it may switch migration off and on for all.
            own_user: false,
            optional: true,
        }
    }

    /// Whether it is certainly the same as another one.
    pub fn is(&self, other: &Place) -> bool {
        let both = [self, other];
        both.iter().all(|place| place.directory.is_none())
            && (&self.folder, &self.name) == (&other.folder, &other.name)
            && (self.own_user, self.optional) == (other.own_user, other.optional)
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Looks at what is there, without reading it.
    pub fn look(&self) -> Look {
        match self.find() {
            Ok((_, folder, file)) => Look::Found(folder, file),
            Err(Errno(libc::ENOENT)) => Look::Nothing,
            Err(errno) => Look::Hidden(errno),
        }
    }

    fn find(&self) -> std::result::Result<(OwnedFd, Folder, Stamp), Errno> {
        let directory = self.directory.as_ref().map(|fd| fd.as_fd());
        let fd = open_at(directory, &self.folder, Open::Directory)?;
        let file = File::from(open_at(Some(fd.as_fd()), &self.name, Open::ToAsk)?);
        let file = Stamp::of(&metadata(&file)?);
        let keep = File::from(fd);
        let found = metadata(&keep)?;
        let folder = Folder {
            device: found.dev(),
            inode: found.ino(),
            mode: found.mode() & 0o7777,
            user: found.uid(),
        };
        Ok((keep.into(), folder, file))
    }

    /// Reads the file, if it may be relied on. What it returns was in the file at one time.
    pub fn read(&self) -> (Look, std::result::Result<Vec<u8>, Fault>) {
        let mut look = Look::Nothing;
        for _ in 0..ATTEMPTS {
            let (folder, is, before) = match self.find() {
                Ok(found) => found,
                Err(Errno(libc::ENOENT)) => return (Look::Nothing, Err(Fault::Missing)),
                Err(errno) => return (Look::Hidden(errno), Err(Fault::CannotBeAsked(errno))),
            };
            look = Look::Found(is, before);
            if let Err(fault) = self.judge(&is, &before) {
                return (look, Err(fault));
            }
            match self.read_once(&folder, &before) {
                Err(Fault::Changing) => {}
                result => return (look, result),
            }
        }
        (look, Err(Fault::Changing))
    }

    fn trusts(&self, user: u32) -> bool {
        user == 0 || (self.own_user && user == effective_user())
    }

    fn judge(&self, folder: &Folder, file: &Stamp) -> std::result::Result<(), Fault> {
        const OTHERS: u32 = 0o022;
        if !file.regular {
            return Err(Fault::NotAFile);
        }
        for (directory, user, mode) in
            [(false, file.user, file.mode), (true, folder.user, folder.mode)]
        {
            if !self.trusts(user) {
                return Err(Fault::Foreign(directory, user));
            }
            if mode & OTHERS != 0 {
                return Err(Fault::Writable(directory, mode));
            }
        }
        if file.size > MAX_FILE as u64 {
            return Err(Fault::TooLong);
        }
        Ok(())
    }

    /// Reads the file that `before` was said of.
    fn read_once(&self, folder: &OwnedFd, before: &Stamp) -> std::result::Result<Vec<u8>, Fault> {
        let fd = match open_at(Some(folder.as_fd()), &self.name, Open::ToRead) {
            Ok(fd) => fd,
            Err(Errno(libc::ENOENT | libc::ELOOP)) => return Err(Fault::Changing),
            Err(errno) => return Err(Fault::CannotBeRead(errno)),
        };
        let file = File::from(fd);
        let stamp = || match metadata(&file) {
            Ok(found) => Ok(Stamp::of(&found)),
            Err(errno) => Err(Fault::CannotBeRead(errno)),
        };
        if stamp()? != *before {
            return Err(Fault::Changing);
        }
        let room = (before.size as usize).min(MAX_FILE) + 1;
        let mut bytes = alloc::filled(0u8, room, "").map_err(|_| Fault::NoMemory)?;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match read(file.as_fd(), rest) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(Fault::CannotBeRead(errno)),
            }
        }
        if filled as u64 != before.size || stamp()? != *before {
            return Err(Fault::Changing);
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

fn c_text(bytes: &[u8]) -> Result<CString> {
    let copy = alloc::copy_with_room(bytes, 1)
        .ok_or_else(|| Error::new(crate::error::Code::NoMem, "no memory for a path"))?;
    CString::new(copy).map_err(|_| err!(Inval, "the path of a policy file contains a NUL"))
}

/// A path as it is shown: on one line, and not too long for the text around it.
fn shown(path: &[u8]) -> String {
    const LONGEST: usize = 200;
    let tail = path.get(path.len().saturating_sub(LONGEST)..).unwrap_or_default();
    let dots = if tail.len() < path.len() { "…" } else { "" };
    text::format(format_args!("{dots}{}", tail.escape_ascii())).unwrap_or_default()
}
