// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client that knows nothing but bytes: each message is put together by hand.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vfiomig_sim::vfio_user::{Server, ServerOptions};
use vfiomig_sim::{Sim, SimOptions};

pub const GET: u32 = 1 << 16;
pub const SET: u32 = 1 << 17;
pub const PROBE: u32 = 1 << 18;

pub const STOP: u32 = 1;
pub const RUNNING: u32 = 2;
pub const STOP_COPY: u32 = 3;
pub const RESUMING: u32 = 4;
pub const PRE_COPY: u32 = 6;

/// Longer than anything takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

pub fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

pub fn longs(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Two of 16 bits.
pub fn halves(numbers: [u16; 2]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

pub fn event() -> OwnedFd {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often an event came.
pub fn taken(fd: &OwnedFd) -> Option<u64> {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).ok().map(|_| u64::from_ne_bytes(count))
}

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub error: u32,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

pub fn message(id: u16, command: u16, flags: u32, error: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = [id.to_ne_bytes(), command.to_ne_bytes()].concat();
    out.extend(words(&[16 + payload.len() as u32, flags, error]));
    out.extend(payload);
    out
}

pub fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> usize {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap()
}

/// The next message, or `None` where the connection ends.
pub fn receive(socket: &UnixStream) -> Option<Message> {
    let (mut head, mut fds) = ([0; 16], vec![]);
    let mut done = 0;
    while done < head.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut rest = [IoSliceMut::new(&mut head[done..])];
        let got = recvmsg(socket, &mut rest, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        match got {
            Ok(got) if got.bytes > 0 => done += got.bytes,
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => return None,
            Err(errno) => panic!("the server is silent: {errno}"),
        }
    }
    let mut payload = vec![0; u32_at(&head, 4) as usize - 16];
    let mut socket = socket;
    socket.read_exact(&mut payload).unwrap();
    Some(Message {
        id: u16::from_ne_bytes([head[0], head[1]]),
        command: u16::from_ne_bytes([head[2], head[3]]),
        flags: u32_at(&head, 8),
        error: u32_at(&head, 12),
        payload,
        fds,
    })
}

pub struct Client {
    pub socket: UnixStream,
    /// On which the server's own commands come.
    pub twin: Option<UnixStream>,
    pub id: u16,
}

impl Client {
    /// A client that has not introduced itself.
    pub fn mute(socket: UnixStream) -> Client {
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client { socket, twin: None, id: 100 }
    }

    /// One that has, and has a twin socket.
    pub fn new(socket: UnixStream) -> Client {
        let mut client = Client::mute(socket);
        let caps = r#"{"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true}}}"#;
        let mut reply = client.introduce(1, caps);
        if reply.fds.len() == 1 {
            let twin = UnixStream::from(reply.fds.remove(0));
            twin.set_read_timeout(Some(TIMEOUT)).unwrap();
            client.twin = Some(twin);
        }
        client
    }

    pub fn introduce(&mut self, minor: u16, caps: &str) -> Message {
        let mut payload = halves([0, minor]);
        payload.extend(caps.bytes().chain([0]));
        self.exchange(1, &payload, &[])
    }

    pub fn send(&mut self, command: u16, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        self.id += 1;
        let bytes = message(self.id, command, flags, 0, payload);
        assert_eq!(send(&self.socket, &bytes, fds), bytes.len());
    }

    /// The reply to the last command, which has its id.
    pub fn receive(&mut self, command: u16) -> Message {
        let reply = receive(&self.socket).expect("the connection ended");
        assert_eq!((reply.id, reply.command, reply.flags & 0xf), (self.id, command, 1));
        assert_eq!(reply.flags & 0x20 != 0, reply.error != 0);
        reply
    }

    pub fn exchange(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Message {
        self.send(command, 0, payload, fds);
        self.receive(command)
    }

    /// The payload of the reply; an error is a bare header.
    pub fn call(&mut self, command: u16, payload: &[u8]) -> Result<Vec<u8>, u32> {
        self.call_with(command, payload, &[])
    }

    pub fn call_with(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[&OwnedFd],
    ) -> Result<Vec<u8>, u32> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let reply = self.exchange(command, payload, &fds);
        match reply.error {
            0 => Ok(reply.payload),
            errno => {
                assert!(reply.payload.is_empty());
                Err(errno)
            }
        }
    }

    /// A feature with room for `room` bytes of data in the reply; what comes after flags.
    pub fn feature(&mut self, flags: u32, data: &[u8], room: usize) -> Result<Vec<u8>, u32> {
        let mut payload = words(&[(8 + room.max(data.len())) as u32, flags]);
        payload.extend(data);
        let reply = self.call(16, &payload)?;
        assert_eq!(u32_at(&reply, 4), flags);
        Ok(reply[8..].to_vec())
    }

    pub fn state(&mut self) -> u32 {
        u32_at(&self.feature(GET | 2, &[], 8).unwrap(), 0)
    }

    pub fn set_state(&mut self, state: u32) -> Result<(), u32> {
        let data = words(&[state, u32::MAX]);
        assert_eq!(self.feature(SET | 2, &data, 8)?, data);
        Ok(())
    }

    pub fn read(&mut self, size: u32) -> Result<Vec<u8>, u32> {
        let reply = self.call(17, &words(&[8 + size, size]))?;
        let got = u32_at(&reply, 4) as usize;
        assert_eq!((u32_at(&reply, 0) as usize, reply.len()), (8 + got, 8 + got));
        Ok(reply[8..].to_vec())
    }

    pub fn write(&mut self, data: &[u8]) -> Result<(), u32> {
        let mut payload = words(&[8 + data.len() as u32, data.len() as u32]);
        payload.extend(data);
        self.call(18, &payload).map(|reply| assert!(reply.is_empty()))
    }

    /// What there is now.
    pub fn drain(&mut self, size: u32) -> Vec<u8> {
        let mut all = vec![];
        loop {
            match self.read(size).unwrap() {
                data if data.is_empty() => return all,
                data => all.extend(data),
            }
        }
    }
}

pub fn small() -> SimOptions {
    SimOptions { state_size: 8192, initial_size: 2048, seed: 3, ..SimOptions::default() }
}

/// Stops a server when an assertion fails, so that the test ends.
pub struct Stopper<'a>(pub &'a Server);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// Runs a test against a server, whose other end the test is given.
pub fn raw<T>(
    options: SimOptions,
    server: ServerOptions,
    test: impl FnOnce(UnixStream, &Sim, &Server) -> T,
) -> T {
    let sim = Sim::new(options).unwrap();
    let server = Server::new(&sim, server).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let _stopper = Stopper(&server);
        let serving = scope.spawn(|| server.serve(theirs.into()));
        let result = test(ours, &sim, &server);
        serving.join().unwrap().unwrap();
        result
    })
}

/// The same with a client that has introduced itself.
pub fn served<T>(
    options: SimOptions,
    server: ServerOptions,
    test: impl FnOnce(&mut Client, &Sim, &Server) -> T,
) -> T {
    raw(options, server, |socket, sim, server| test(&mut Client::new(socket), sim, server))
}
