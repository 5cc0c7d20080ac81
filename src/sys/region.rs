// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of a device's region, mapped: memory that a driver and the library both write to.
//!
//! It is only copied from and to, never borrowed. What is there may change at any time.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::{Errno, Process, page_size};

/// A mapped part of a region. Unmapped when dropped.
pub struct RegionMapping {
    start: NonNull<u8>,
    len: usize,
    /// In a child, that address is unmapped, or holds something else.
    owner: Process,
}

// SAFETY: an address, of a mapping that this value alone unmaps; any thread may copy there.
unsafe impl Send for RegionMapping {}

impl RegionMapping {
    /// Maps `len` bytes at `at` of a device's fd, both multiples of a page.
    pub(crate) fn new(fd: BorrowedFd<'_>, at: u64, len: u64) -> Result<RegionMapping, Errno> {
        let page = page_size();
        let at = i64::try_from(at).map_err(|_| Errno(libc::EINVAL))?;
        let len = usize::try_from(len).ok().filter(|len| isize::try_from(*len).is_ok());
        let len = len.filter(|len| *len > 0).ok_or(Errno(libc::EINVAL))?;
        if at as u64 % page != 0 || len as u64 % page != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, none) = (libc::MAP_SHARED, std::ptr::null_mut());
        // SAFETY: a new mapping; nothing that exists is touched.
        let start = unsafe { libc::mmap64(none, len, access, flags, fd.as_raw_fd(), at) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno(libc::ENOMEM))?;
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the mapping is ours. Neither call changes what is in it; both may fail.
            unsafe { libc::madvise(start.as_ptr().cast(), len, advice) };
        }
        Ok(RegionMapping { start, len, owner: Process::this() })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether it has no bytes, which it never has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of `len` bytes at `at`, if they are in the mapping.
    fn place(&self, at: u64, len: usize) -> Result<*mut u8, Errno> {
        let at = usize::try_from(at).map_err(|_| Errno(libc::EINVAL))?;
        let end = at.checked_add(len).ok_or(Errno(libc::EINVAL))?;
        if end > self.len || !self.owner.is_this() {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: `at` is within the mapping, or at its end.
        Ok(unsafe { self.start.as_ptr().add(at) })
    }

    /// Copies what is there at `at`.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let from = self.place(at, buf.len())?;
        // SAFETY: as many bytes are mapped, and `buf` is other memory. What the driver writes there
        // meanwhile makes the copy's bytes uncertain, and nothing else: they are checked like all that
        // comes from a device.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    /// Copies `bytes` there, to `at`.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let to = self.place(at, bytes.len())?;
        // SAFETY: as above; nothing here borrows the mapped memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}

impl Drop for RegionMapping {
    fn drop(&mut self) {
        if self.owner.is_this() {
            // SAFETY: mapped by `new` with this length, and nothing uses it now.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    #[test]
    fn a_mapping_is_copied_from_and_to_within_its_bounds_only() {
        // SAFETY: the name ends with a NUL; the fd that comes back is nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"region".as_ptr(), 0)) };
        let page = page_size();
        // SAFETY: touches no memory.
        assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), 3 * page as i64) }, 0);
        let mapping = RegionMapping::new(file.as_fd(), page, 2 * page).unwrap();
        assert_eq!((mapping.len(), mapping.is_empty()), (2 * page, false));
        mapping.write(2 * page - 3, b"abc").unwrap();
        let mut buf = [0; 3];
        crate::sys::fd::pread(file.as_fd(), &mut buf, 3 * page - 3).unwrap();
        assert_eq!(&buf, b"abc");
        assert_eq!(crate::sys::fd::pwrite(file.as_fd(), b"xyz", page).unwrap(), 3);
        mapping.read(0, &mut buf).unwrap();
        assert_eq!(&buf, b"xyz");
        let outside = Err(Errno(libc::EINVAL));
        for at in [2 * page - 2, 2 * page, u64::MAX, u64::MAX - 2] {
            assert_eq!(mapping.read(at, &mut buf), outside, "{at}");
            assert_eq!(mapping.write(at, b"abc"), outside, "{at}");
        }
        for (at, len) in [(1, page), (0, page + 1), (0, 0), (u64::MAX, page), (0, u64::MAX)] {
            assert!(RegionMapping::new(file.as_fd(), at, len).is_err(), "{at} {len}");
        }
    }
}
