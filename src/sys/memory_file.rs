// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory in a file that has no name, for what is confidential and may be large.
//!
//! All of it is allocated before anybody writes to it, so that a shortage is an error and not a
//! signal, and the file cannot become shorter. A child of fork() has no part in the mappings.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use super::quiet::Quiet;
use super::retry::retry;
use super::{Errno, Process, page_size};

const MFD_NOEXEC_SEAL: libc::c_uint = 8;
/// What is allocated by one call, in bytes.
const ALLOCATED: i64 = 8 << 20;

/// A file in memory.
pub(crate) struct MemoryFile {
    file: OwnedFd,
    len: u64,
}

impl MemoryFile {
    pub fn new() -> Result<MemoryFile, Errno> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // Linux 6.3 and newer; it says nothing about what is in the file.
        let file = create(flags | MFD_NOEXEC_SEAL).or_else(|_| create(flags))?;
        let seals = libc::F_SEAL_SHRINK;
        // SAFETY: F_ADD_SEALS takes a number.
        retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) as isize })?;
        Ok(MemoryFile { file, len: 0 })
    }

    /// Makes the file longer by `len` bytes, rounded up to whole pages, and maps them.
    pub fn grow(&mut self, len: usize) -> Result<Mapping, Errno> {
        let page = usize::try_from(page_size()).unwrap_or(usize::MAX);
        let len = len.max(1).checked_next_multiple_of(page).ok_or(Errno(libc::ENOMEM))?;
        let (at, more) = (self.len as i64, len as i64);
        if at.checked_add(more).is_none() || len > isize::MAX as usize {
            return Err(Errno(libc::ENOMEM));
        }
        self.allocate(at, more)?;
        self.len += len as u64;
        Mapping::new(self.file.as_fd(), at, len)
    }

    /// All of it, or nothing. In steps, because a signal interrupts one call, and undoes what that
    /// one did.
    fn allocate(&self, from: i64, len: i64) -> Result<(), Errno> {
        // RLIMIT_FSIZE goes for files in memory, too.
        let _quiet = Quiet::file();
        let fallocate = |mode, at, len| {
            // SAFETY: touches no memory.
            retry(|| unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, at, len) as isize })
        };
        let mut done = 0;
        while done < len {
            let step = ALLOCATED.min(len - done);
            if let Err(errno) = fallocate(0, from + done, step) {
                if done > 0 {
                    // Nobody could be told if that failed.
                    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    let _ = fallocate(mode, from, done);
                }
                return Err(errno);
            }
            done += step;
        }
        Ok(())
    }

    /// From now on nobody makes it longer, or changes its seals. Mappings that are there can still
    /// be written to.
    pub fn seal(&self) {
        let seals = libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;
        // SAFETY: F_ADD_SEALS takes a number. It protects against mistakes, so it need not succeed.
        let _ = retry(|| unsafe {
            libc::fcntl(self.file.as_raw_fd(), libc::F_ADD_SEALS, seals) as isize
        });
    }
}

fn create(flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: the name ends with a NUL.
    let fd = retry(|| unsafe { libc::memfd_create(c"vfiomig".as_ptr(), flags) as isize })?;
    // SAFETY: the kernel has just opened it, for nobody else. It fits: it came as an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A part of the file, mapped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// In a child, that address is unmapped, or holds something else.
    owner: Process,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, at: i64, len: usize) -> Result<Mapping, Errno> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping; nothing that exists is touched.
        let start =
            unsafe { libc::mmap64(std::ptr::null_mut(), len, access, flags, file.as_raw_fd(), at) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno(libc::ENOMEM))?;
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the mapping is ours. Neither call changes what is in it.
            unsafe { libc::madvise(start.as_ptr().cast(), len, advice) };
        }
        Ok(Mapping { start, len, owner: Process::this() })
    }

    fn here(&self) -> (*mut u8, usize) {
        match self.owner.is_this() {
            true => (self.start.as_ptr(), self.len),
            false => (NonNull::dangling().as_ptr(), 0),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, len) = self.here();
        // SAFETY: `len` bytes are mapped, and the file cannot become shorter. They are borrowed with
        // `self`; there are none in another process.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.here();
        // SAFETY: as above, and exclusively: the file has no name and this is its only mapping here.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.owner.is_this() {
            // SAFETY: mapped by `new` with this length; nothing borrows it now. The kernel clears
            // the pages before anybody else gets them.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stays_and_the_file_can_neither_shrink_nor_grow_once_it_is_sealed() {
        let mut file = MemoryFile::new().unwrap();
        let (mut one, mut two) = (file.grow(1).unwrap(), file.grow(100_000).unwrap());
        assert!(one.len() >= 4096 && two.len() >= 100_000);
        one.fill(1);
        two.fill(2);
        file.seal();
        one[0] = 3;
        assert!(file.grow(1).is_err());
        let fd = file.file.as_raw_fd();
        // SAFETY: touches no memory.
        assert_eq!(unsafe { libc::ftruncate(fd, 0) }, -1);
        drop(file);
        assert!(one[1..].iter().all(|byte| *byte == 1) && two.iter().all(|byte| *byte == 2));
    }
}
