// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of this machine (AF_UNIX): connecting with a time limit, and messages with descriptors.
//!
//! Nothing here blocks, whatever mode a socket is in, and nothing changes that mode, which others may
//! rely on.

use std::ffi::c_int;
use std::io::{IoSlice, IoSliceMut};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Errno;
use super::retry::once;

/// The most descriptors that one message carries here, in either direction.
pub(crate) const MAX_FDS: usize = 8;

/// How long to wait before connecting again to a server whose queue is full.
const FULL: Duration = Duration::from_millis(10);

/// Room for the header and the numbers of [`MAX_FDS`] descriptors, aligned as it has to be.
#[repr(C, align(8))]
struct Control([u8; 64]);

const _: () = assert!(16 + MAX_FDS * size_of::<RawFd>() <= 64);

/// Connects to a socket by its path. `ETIMEDOUT` if the server's queue stays full for so long.
pub(crate) fn connect(path: &Path, timeout: Duration) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let number = once(unsafe { libc::socket(libc::AF_UNIX, flags, 0) } as isize)?;
    // SAFETY: the kernel has just made it for this process, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // A NUL must fit behind it, and none may be in it.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let begun = Instant::now();
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    loop {
        // SAFETY: the address is there for the call, and as long as `size` says.
        let ret = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
        match once(ret as isize) {
            Ok(_) => return Ok(socket),
            Err(Errno(libc::EAGAIN | libc::EINTR)) if begun.elapsed() < timeout => {
                std::thread::sleep(FULL.min(timeout));
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => return Err(Errno(libc::ETIMEDOUT)),
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends as much as goes now, with the descriptors on the first byte. `EAGAIN` if nothing does.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a value of this structure.
    let mut message: libc::msghdr = unsafe { zeroed() };
    // An `IoSlice` is laid out as an `iovec`; the kernel only reads through these.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if !fds.is_empty() {
        if fds.len() > MAX_FDS {
            return Err(Errno(libc::E2BIG));
        }
        let bytes = size_of_val(fds) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: both compute with a number alone.
        let (space, len) = unsafe { (libc::CMSG_SPACE(bytes), libc::CMSG_LEN(bytes)) };
        message.msg_controllen = space as _;
        // SAFETY: `control` is aligned, zeroed, and has room for the header and the numbers: the
        // assertion above.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = len as _;
            let to = libc::CMSG_DATA(header);
            let from = fds.as_ptr().cast::<u8>();
            std::ptr::copy_nonoverlapping(from, to, bytes as usize);
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message's parts are slices that live for the call, and so does `control`.
    once(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Receives what is there. 0 at the end; `EAGAIN` if there is nothing now. Descriptors that come with
/// it are given to `take`; without that, the kernel closes them.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    parts: &mut [IoSliceMut<'_>],
    take: Option<&mut dyn FnMut(OwnedFd)>,
) -> Result<usize, Errno> {
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a value of this structure.
    let mut message: libc::msghdr = unsafe { zeroed() };
    // An `IoSliceMut` is laid out as an `iovec`.
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len() as _;
    if take.is_some() {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message's parts are slices that are borrowed exclusively for the call, and so is
    // `control`.
    let got = once(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    let Some(take) = take else { return Ok(got) };
    // SAFETY: the kernel has filled in `control` and its length; the macros stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let (level, kind) = ((*header).cmsg_level, (*header).cmsg_type);
            if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
                let bytes =
                    ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    // The kernel has just opened it for this process, and nobody else knows it.
                    take(OwnedFd::from_raw_fd(numbers.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(got)
}

/// Whether this is a stream socket of this machine, and not any other descriptor.
pub(crate) fn is_unix_stream(fd: BorrowedFd<'_>) -> bool {
    let option = |name| -> Option<c_int> {
        let (mut value, mut len): (c_int, _) = (-1, size_of::<c_int>() as libc::socklen_t);
        let to = (&raw mut value).cast();
        // SAFETY: there is room for `len` bytes at `to`, and both live for the call.
        let ret =
            unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, to, &raw mut len) };
        (ret == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && option(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// Ends a connection, for everybody who has it.
pub(crate) fn shut_down(socket: BorrowedFd<'_>) {
    // SAFETY: takes numbers. If it fails, there is no connection.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Waits until one of these events is on the first, the second can be read, or the time is up. May
/// return early.
pub(crate) fn wait_for_either(
    first: BorrowedFd<'_>,
    [read, write]: [bool; 2],
    second: Option<BorrowedFd<'_>>,
    timeout: Duration,
) {
    let mut events = if read { libc::POLLIN } else { 0 };
    events |= if write { libc::POLLOUT } else { 0 };
    // The kernel passes over a negative number.
    let second = second.map_or(-1, |fd| fd.as_raw_fd());
    let mut entries = [
        libc::pollfd { fd: first.as_raw_fd(), events, revents: 0 },
        libc::pollfd { fd: second, events: libc::POLLIN, revents: 0 },
    ];
    let ms = c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX);
    // SAFETY: the pointer and the number describe `entries`. The result does not matter: the caller
    // tries again either way.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, ms) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    #[cfg_attr(miri, ignore)]
    fn descriptors_arrive_with_their_bytes_and_are_closed_where_nobody_asks() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut pipe, other) = UnixStream::pair().unwrap();
        let both = [IoSlice::new(b"ab"), IoSlice::new(b"c")];
        assert_eq!(send(near.as_fd(), &both, &[other.as_fd()]), Ok(3));
        let (mut bytes, mut fds) = ([0; 8], vec![]);
        let mut take = |fd| fds.push(fd);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        assert_eq!(receive(far.as_fd(), parts, Some(&mut take)), Ok(3));
        assert_eq!((&bytes[..3], fds.len()), (&b"abc"[..], 1));
        drop(other);
        UnixStream::from(fds.pop().unwrap()).write_all(b"x").unwrap();
        let mut rest = vec![];
        assert_eq!(pipe.read_to_end(&mut rest).unwrap(), 1);

        let (mut pipe, other) = UnixStream::pair().unwrap();
        assert_eq!(send(near.as_fd(), &[IoSlice::new(b"d")], &[other.as_fd()]), Ok(1));
        drop(other);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        assert_eq!(receive(far.as_fd(), parts, None), Ok(1));
        assert_eq!(pipe.read_to_end(&mut rest).unwrap(), 0);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        assert_eq!(receive(far.as_fd(), parts, None), Err(Errno(libc::EAGAIN)));
        drop(near);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        assert_eq!(receive(far.as_fd(), parts, None), Ok(0));
        let many = [pipe.as_fd(); MAX_FDS + 1];
        assert_eq!(send(far.as_fd(), &[IoSlice::new(b"d")], &many), Err(Errno(libc::E2BIG)));
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn only_a_stream_socket_of_this_machine_is_one() {
        let (near, _far) = UnixStream::pair().unwrap();
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(is_unix_stream(near.as_fd()));
        for other in [datagrams.as_fd(), network.as_fd(), file.as_fd()] {
            assert!(!is_unix_stream(other));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_server_whose_queue_is_full_is_not_waited_for_for_ever() {
        let dir = std::env::temp_dir().join(format!("vfiomig-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let soon = Duration::from_millis(30);
        assert_eq!(connect(&path, soon).unwrap_err(), Errno(libc::ENOENT));
        assert_eq!(connect(Path::new(""), soon).unwrap_err(), Errno(libc::ENAMETOOLONG));
        let long = "x".repeat(200);
        assert_eq!(connect(Path::new(&long), soon).unwrap_err(), Errno(libc::ENAMETOOLONG));
        let listener = UnixListener::bind(&path).unwrap();
        let mut kept = vec![connect(&path, soon).unwrap()];
        listener.accept().unwrap();
        let full = loop {
            match connect(&path, soon) {
                Ok(fd) => kept.push(fd),
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno(libc::ETIMEDOUT));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
