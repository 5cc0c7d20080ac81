// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a file without waiting for it, and who this process is.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Errno;
use super::retry::retry;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Open {
    /// To be asked what it is. Nothing happens to it, whatever it is; a symbolic link is one.
    ToAsk,
    /// As the directory that it must be, to open what is in it.
    Directory,
    /// To be read. Does not wait for anything, and follows no symbolic link.
    ToRead,
}

/// openat(2). Without a directory, `path` is absolute.
pub(crate) fn open_at(
    directory: Option<BorrowedFd<'_>>,
    path: &CStr,
    open: Open,
) -> Result<OwnedFd, Errno> {
    let directory = directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    let flags = libc::O_CLOEXEC
        | match open {
            Open::ToAsk => libc::O_PATH | libc::O_NOFOLLOW,
            Open::Directory => libc::O_PATH | libc::O_DIRECTORY,
            Open::ToRead => libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW,
        };
    // SAFETY: `path` ends with a NUL and lives for the call; without O_CREAT there is no third
    // argument.
    let fd = retry(|| unsafe { libc::openat(directory, path.as_ptr(), flags) as isize })?;
    // SAFETY: the kernel has just opened it, for nobody else. It fits: it came as an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The user that the kernel checks this process's rights for.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: touches no memory.
    unsafe { libc::geteuid() }
}

/// Whether whoever started this process has fewer rights than it (set-user-ID and the like), so that
/// its environment is not to be trusted with more than switching something off.
pub(crate) fn has_more_rights_than_its_caller() -> bool {
    // SAFETY: touches no memory of ours.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn nothing_waits_for_the_other_end_and_no_link_is_followed() {
        let directory = std::env::temp_dir().join(format!("vfiomig-file-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("fifo");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a text with a NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        drop(open_at(None, &name, Open::ToRead).unwrap());
        std::os::unix::fs::symlink("fifo", directory.join("link")).unwrap();
        let link = std::ffi::CString::new(directory.join("link").to_str().unwrap()).unwrap();
        assert_eq!(open_at(None, &link, Open::ToRead).unwrap_err(), Errno(libc::ELOOP));
        drop(open_at(None, &link, Open::ToAsk).unwrap());
        assert_eq!(open_at(None, &link, Open::Directory).unwrap_err(), Errno(libc::ENOTDIR));
        let whole = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
        let whole = open_at(None, &whole, Open::Directory).unwrap();
        drop(open_at(Some(whole.as_fd()), c"fifo", Open::ToAsk).unwrap());
        let missing = open_at(Some(whole.as_fd()), c"nothing", Open::ToAsk);
        assert_eq!(missing.unwrap_err(), Errno(libc::ENOENT));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
