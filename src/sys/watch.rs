// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for many descriptors at once, in a way that another thread can end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::Errno;
use super::bell::Bell;
use super::retry::once;

/// How many descriptors one wait may find ready; the next one finds the rest.
const AT_ONCE: usize = 16;
/// Stands for the bell, in place of a descriptor's number.
const BELL: u64 = u64::MAX;

/// A descriptor that something has become possible on since the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ready {
    pub number: u32,
    pub readable: bool,
    pub writable: bool,
}

/// What is watched. It is readable itself while there is something to be told.
pub(crate) struct Watch {
    epoll: OwnedFd,
    bell: Bell,
}

impl Watch {
    pub fn new() -> Result<Watch, Errno> {
        // SAFETY: it takes a number.
        let ret = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        once(ret as isize)?;
        // SAFETY: the kernel has just made it for this process, and nobody else knows it.
        let epoll = unsafe { OwnedFd::from_raw_fd(ret) };
        let watch = Watch { epoll, bell: Bell::new()? };
        watch.control(watch.bell.as_fd(), libc::EPOLLIN, BELL)?;
        Ok(watch)
    }

    fn control(&self, fd: BorrowedFd<'_>, events: i32, number: u64) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: events as u32, u64: number };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the structure is there for the call.
        let ret = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        once(ret as isize).map(drop)
    }

    /// Watches one more. What has become possible on it is told once, until it was tried in vain.
    pub fn add(&self, fd: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.control(fd, events, u64::from(number))
    }

    /// Waits until something has become possible, somebody rings, or the time is up. May return
    /// early.
    pub fn wait(&self, timeout: Duration, mut tell: impl FnMut(Ready)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
        // Rounded up, so that a short rest is waited for.
        let ms = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let (epoll, most) = (self.epoll.as_raw_fd(), AT_ONCE as i32);
        // SAFETY: the pointer and the number describe `events`.
        let ret = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), most, ms) };
        for event in events.iter().take(usize::try_from(ret).unwrap_or(0)) {
            let (bits, number) = (event.events as i32, event.u64);
            let Ok(number) = u32::try_from(number) else {
                self.bell.hush();
                continue;
            };
            let over = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            let readable = over || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0;
            let writable = over || bits & libc::EPOLLOUT != 0;
            tell(Ready { number, readable, writable });
        }
    }

    /// Ends a wait, or the next one.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// What can be polled in place of waiting here.
    pub fn number(&self) -> i32 {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    fn told(watch: &Watch, timeout: Duration) -> Vec<Ready> {
        let mut all = vec![];
        watch.wait(timeout, |ready| all.push(ready));
        all
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn what_becomes_possible_is_told_once() {
        let watch = Watch::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        watch.add(near.as_fd(), 7).unwrap();
        let ready = |readable| [Ready { number: 7, readable, writable: true }];
        assert_eq!(told(&watch, Duration::ZERO), ready(false));
        assert_eq!(told(&watch, Duration::ZERO), []);
        far.write_all(b"x").unwrap();
        assert_eq!(told(&watch, Duration::from_secs(10)), ready(true));
        assert_eq!(told(&watch, Duration::ZERO), []);
        near.read_exact(&mut [0]).unwrap();
        drop(far);
        assert_eq!(told(&watch, Duration::from_secs(10)), ready(true));
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_bell_ends_a_wait() {
        let watch = Watch::new().unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                watch.ring();
                watch.ring();
            });
            assert_eq!(told(&watch, Duration::from_secs(60)), []);
        });
        assert!(begun.elapsed() < Duration::from_secs(50));
        watch.wait(Duration::ZERO, drop);
        let begun = Instant::now();
        watch.wait(Duration::from_millis(30), drop);
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn files_are_not_watched() {
        let watch = Watch::new().unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(watch.add(file.as_fd(), 0), Err(Errno(libc::EPERM)));
    }
}
