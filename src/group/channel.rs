// SPDX-License-Identifier: MIT OR Apache-2.0
//! One channel: a connection that a group's frames go over, in both directions.
//!
//! It sends and takes whole frames, as far as they go without waiting. Which frames, and which thread
//! does so, is not its business.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{HEADER_LEN, Header};
use super::measuring::Moment;
use super::options::MAX_DEVICES;
use crate::alloc;
use crate::error::{Code, Errno, Error, Failure, Operation, Result, err};
use crate::private::Private;
use crate::sys::{OwnedChannel, TERMINAL, Watch};
use crate::waiting::HoldsMember;

/// The most channels of one group.
pub const MAX_CHANNELS: u32 = 64;

/// Carries bytes in place of a channel's descriptor, for example through TLS. It is called by one
/// thread at a time, and waits for nothing.
pub trait Carrier: Send {
    /// Takes some of the bytes: how many. `EAGAIN`: none now.
    fn send(&mut self, bytes: &[u8]) -> std::result::Result<usize, Errno>;

    /// Fills in what has come: how many bytes. 0: the other side has closed it. `EAGAIN`: nothing now.
    fn receive(&mut self, buf: &mut [u8]) -> std::result::Result<usize, Errno>;
}

/// How a channel is set up.
pub struct ChannelOptions {
    /// Carries the bytes. `None`: the descriptor does.
    pub carrier: Option<Box<dyn Carrier>>,
    /// How long a frame that was begun may make no progress. `None`: as long as it likes.
    pub timeout: Option<Duration>,
}

impl Default for ChannelOptions {
    fn default() -> ChannelOptions {
        ChannelOptions { carrier: None, timeout: Some(Duration::from_secs(60)) }
    }
}

impl std::fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let carried = self.carrier.is_some();
        write!(f, "ChannelOptions {{ timeout: {:?}, carrier: {carried} }}", self.timeout)
    }
}

/// What a channel has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelStats {
    /// Bytes sent, those of headers and credits included.
    pub sent_bytes: u64,
    /// Frames and credits sent.
    pub sent_frames: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames and credits received.
    pub received_frames: u64,
    /// How often it took nothing more, so that a frame had to wait.
    pub blocked: u64,
    /// Whether the other side has closed it.
    pub closed: bool,
}

/// A frame that is to be sent.
pub(super) struct Filled {
    pub memory: Private,
    pub len: usize,
}

/// A channel, for the thread that serves it.
pub(super) struct Wire {
    carrier: Option<Box<dyn Carrier>>,
    fd: OwnedChannel,
    out: Option<Filled>,
    sent: usize,
    /// When that was begun.
    began: Moment,
    head: [u8; HEADER_LEN],
    /// How much of the header, or of the piece after it, has come.
    got: usize,
    coming: Option<(Header, Private)>,
}

/// What has come.
pub(super) enum Came {
    /// Nothing whole.
    Nothing,
    /// A whole frame.
    Frame(Header, Private),
    /// The other side has closed it.
    End,
}

/// How far a call came.
#[derive(Clone, Copy, Default)]
pub(super) struct Moved {
    pub bytes: u64,
    /// Nothing more is possible now.
    pub blocked: bool,
}

#[cold]
fn failed(errno: Errno) -> Error {
    let code = match errno.0 {
        libc::ENOMEM | libc::ENOBUFS => Code::NoMem,
        libc::ETIMEDOUT => Code::TimedOut,
        _ => Code::Io,
    };
    let failure = Failure { operation: Operation::File, errno: errno.0, ..Failure::default() };
    Error::from_args(code, format_args!("{errno}")).with_failure(failure)
}

/// What a call has come to; `None`: try again, now or when it is no longer blocked.
fn note(moved: &mut Moved, done: std::result::Result<usize, Errno>) -> Result<Option<usize>> {
    match done {
        Ok(n) => {
            moved.bytes += n as u64;
            Ok(Some(n))
        }
        Err(Errno(libc::EAGAIN)) => {
            moved.blocked = true;
            Ok(None)
        }
        Err(Errno(libc::EINTR)) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

impl Wire {
    fn send_some(&mut self, moved: &mut Moved, bytes: &[u8]) -> Result<Option<usize>> {
        // What it calls in a callback of the VMM's must not wait for this.
        let _holds = HoldsMember::new();
        let done = match &mut self.carrier {
            Some(carrier) => carrier.send(bytes),
            None => self.fd.as_channel().write(bytes),
        };
        match note(moved, done)? {
            Some(n) if n == 0 || n > bytes.len() => {
                Err(err!(Io, "it took {n} of {} bytes", bytes.len()))
            }
            other => Ok(other),
        }
    }

    fn receive_some(&mut self, moved: &mut Moved, room: &mut [u8]) -> Result<Option<usize>> {
        let _holds = HoldsMember::new();
        let done = match &mut self.carrier {
            Some(carrier) => carrier.receive(room),
            None => self.fd.as_channel().read(room),
        };
        match note(moved, done)? {
            Some(n) if n > room.len() => {
                Err(err!(Io, "it brought {n} bytes where {} were asked for", room.len()))
            }
            Some(0) if self.is_coming() => Err(err!(Io, "it was closed in the middle of a frame")),
            other => Ok(other),
        }
    }

    /// Gives it a frame to send. It has none.
    pub fn load(&mut self, frame: Filled) {
        (self.out, self.sent, self.began) = (Some(frame), 0, Moment::now());
    }

    /// How much of the last frame has gone out.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// When that was begun.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// Whether it has something to send.
    pub fn is_sending(&self) -> bool {
        self.out.is_some()
    }

    /// Whether a part of a frame has come.
    pub fn is_coming(&self) -> bool {
        self.got > 0 || self.coming.is_some()
    }

    /// Sends what goes now; returns the memory of a frame that has gone out.
    pub fn send(&mut self, moved: &mut Moved) -> Result<Option<Private>> {
        let Some(frame) = self.out.take() else { return Ok(None) };
        while let Some(rest) = frame.memory.get(self.sent..frame.len).filter(|r| !r.is_empty()) {
            match self.send_some(moved, rest)? {
                Some(n) => self.sent += n,
                None if moved.blocked => {
                    self.out = Some(frame);
                    return Ok(None);
                }
                None => {}
            }
        }
        Ok(Some(frame.memory))
    }

    /// Takes what has come, up to the end of a frame. `accept` sees its header, and brings memory of
    /// the length that is in it.
    pub fn receive(
        &mut self,
        moved: &mut Moved,
        accept: impl Fn(&Header) -> Result<Private>,
    ) -> Result<Came> {
        loop {
            if let Some((header, mut piece)) = self.coming.take() {
                let rest = piece.get_mut(self.got..).unwrap_or_default();
                if rest.is_empty() {
                    self.got = 0;
                    return Ok(Came::Frame(header, piece));
                }
                let came = self.receive_rest(moved, rest);
                self.coming = Some((header, piece));
                match came? {
                    None if moved.blocked => return Ok(Came::Nothing),
                    n => self.got += n.unwrap_or(0),
                }
                continue;
            }
            let mut head = self.head;
            let rest = head.get_mut(self.got..).unwrap_or_default();
            let came = self.receive_some(moved, rest)?;
            self.head = head;
            match came {
                None if moved.blocked => return Ok(Came::Nothing),
                Some(0) => return Ok(Came::End),
                n => self.got += n.unwrap_or(0),
            }
            if self.got == HEADER_LEN {
                let header = Header::decode(&self.head)?;
                self.coming = Some((header, accept(&header)?));
                self.got = 0;
            }
        }
    }

    fn receive_rest(&mut self, moved: &mut Moved, rest: &mut [u8]) -> Result<Option<usize>> {
        match self.receive_some(moved, rest)? {
            Some(0) => Err(err!(Io, "it was closed in the middle of a frame")),
            other => Ok(other),
        }
    }
}

/// A channel's place in the group.
pub(super) struct Slot {
    /// Away while a thread serves it.
    pub wire: Option<Box<Wire>>,
    /// Something may have come.
    pub readable: bool,
    /// It may take something.
    pub writable: bool,
    /// How often either was told.
    pub told: u32,
    /// A frame is on its way out, or in.
    pub sending: bool,
    pub coming: bool,
    /// What it has said of each device's credit, and how much of the news that is.
    pub credits: Vec<u64>,
    pub news: u64,
    /// The other side takes nothing more from it.
    pub mute: bool,
    /// When it last made progress.
    pub moved: Instant,
    pub timeout: Option<Duration>,
    pub stats: ChannelStats,
}

impl Slot {
    /// Whether it was left in the middle of a frame for too long.
    pub fn is_stuck(&self) -> bool {
        // It was tried since, and in vain: that nobody came to try it is not its fault.
        let waits = self.sending && !self.writable || self.coming && !self.readable;
        self.wire.is_some() && waits && self.is_late()
    }

    /// Whether it has made no progress for too long.
    pub fn is_late(&self) -> bool {
        self.timeout.is_some_and(|timeout| self.moved.elapsed() > timeout)
    }
}

/// All channels of a group, and what is between them and the devices.
#[derive(Default)]
pub(super) struct Lines {
    pub slots: Vec<Slot>,
    /// Frames that were read, and that no channel has taken.
    pub outgoing: VecDeque<Filled>,
    /// Frames that are being read.
    pub in_hand: usize,
    /// Memory that can be used again.
    pub spare: Vec<Private>,
    /// Reading the last frame took longer than sending it does.
    pub slow: bool,
    /// A thread waits for channels.
    pub watching: bool,
    /// It was told to look at something else.
    pub rung: bool,
    /// When it looks at something else by itself.
    pub look_at: Option<Instant>,
    /// All devices have had nothing more, since that was last asked for.
    pub passed: bool,
    /// The caller polls the group.
    pub polled: bool,
    /// Where the search for a channel that has something to do begins.
    pub turn: usize,
    /// Rises when there is something new to say of a device's credit.
    pub news: u64,
    /// Made for the first channel.
    pub watch: Option<Arc<Watch>>,
}

/// Memory of a usual frame is kept to be used again, but not that of a long one.
const KEPT: usize = 256 << 10;
/// Shorter ones are made as fast as they are found.
const WORTH: usize = 4096;
/// How many of them: more than are lost and made again while one side is ahead of the other.
const SPARE: usize = 16;

impl Lines {
    /// Adds a channel; returns its number.
    pub fn add(&mut self, fd: OwnedFd, options: ChannelOptions) -> Result<u32> {
        let number = u32::try_from(self.slots.len()).unwrap_or(MAX_CHANNELS);
        if number >= MAX_CHANNELS {
            return Err(err!(Inval, "a group has {MAX_CHANNELS} channels at most"));
        }
        let bad = |errno: Errno| err!(Inval, "the channel's descriptor: {errno}");
        let fd = OwnedChannel::new(fd).map_err(|errno| match errno {
            TERMINAL => err!(Inval, "the channel is a terminal, which changes what goes through"),
            _ => bad(errno),
        })?;
        let credits = alloc::filled(0, MAX_DEVICES as usize, "no memory for a channel")?;
        alloc::reserve(&mut self.slots, 1, "no memory for a channel")?;
        self.watch()?.add(fd.as_fd(), number).map_err(bad)?;
        let (out, sent, got, coming) = (None, 0, 0, None);
        let carrier = options.carrier;
        let wire = Wire {
            carrier,
            fd,
            out,
            sent,
            began: Moment::now(),
            head: [0; HEADER_LEN],
            got,
            coming,
        };
        self.slots.push(Slot {
            wire: Some(Box::new(wire)),
            readable: true,
            writable: true,
            told: 0,
            sending: false,
            coming: false,
            credits,
            news: 0,
            mute: false,
            moved: Instant::now(),
            timeout: options.timeout,
            stats: ChannelStats::default(),
        });
        Ok(number)
    }

    /// What is to be rung, so that a thread that waits for channels looks at something else.
    pub fn bell(&mut self) -> Option<Arc<Watch>> {
        let waits = (self.watching || self.polled) && !self.rung;
        let watch = self.watch.as_ref().filter(|_| waits)?;
        self.rung = true;
        Some(Arc::clone(watch))
    }

    /// What channels are watched with.
    pub fn watch(&mut self) -> Result<Arc<Watch>> {
        if let Some(watch) = &self.watch {
            return Ok(Arc::clone(watch));
        }
        let made = Watch::new().map_err(|errno| match errno.0 {
            libc::EMFILE | libc::ENFILE | libc::ENOMEM => err!(NoMem, "watching channels: {errno}"),
            _ => err!(Io, "watching channels: {errno}"),
        })?;
        Ok(Arc::clone(self.watch.insert(Arc::new(made))))
    }

    /// Nothing that was read waits to be sent.
    pub fn all_sent(&self) -> bool {
        self.in_hand == 0 && self.outgoing.is_empty() && !self.slots.iter().any(|s| s.sending)
    }

    /// Whether the channels have enough to send for now.
    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= 2 * self.slots.len()
    }

    /// Memory of this length, with what was in it before, or none. Not more than that: what the
    /// window counts is the frame's length.
    pub fn take_spare(&mut self, len: usize) -> Private {
        match self.spare.iter().rposition(|memory| memory.capacity() == len) {
            Some(at) => self.spare.swap_remove(at),
            None => Private::new(),
        }
    }

    /// Keeps memory to be used again, if that is worth it.
    pub fn give_back(&mut self, memory: Private) {
        if (WORTH..=KEPT).contains(&memory.capacity()) && !memory.is_empty() {
            if self.spare.len() >= SPARE {
                // Frames may be of another length by now than those that it was for.
                self.spare.swap_remove(0);
            }
            // Nothing is lost but memory that is made again.
            let _ = alloc::push(&mut self.spare, memory, "");
        }
    }

    /// What was read, or has come, goes nowhere.
    pub fn drop_frames(&mut self) {
        self.outgoing.clear();
        self.spare.clear();
    }
}

/// A descriptor of the group's own for a connection of the caller's.
pub(super) fn dup(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => err!(NoMem, "no descriptor for a channel: {error}"),
        _ => err!(Inval, "the channel's descriptor: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(len: usize) -> Private {
        let mut memory = Private::new();
        memory.set_len(len, "").unwrap();
        memory
    }

    #[test]
    fn a_short_frame_never_has_a_long_ones_memory() {
        let mut lines = Lines::default();
        lines.give_back(memory(100_000));
        assert_eq!(lines.take_spare(300).capacity(), 0);
        assert_eq!(lines.take_spare(99_999).capacity(), 0);
        assert_eq!(lines.take_spare(100_000).capacity(), 100_000);
        assert_eq!(lines.take_spare(100_000).capacity(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_is_of_the_last_frames() {
        let mut lines = Lines::default();
        for len in (0..100).map(|n| 5000 + n) {
            lines.give_back(memory(len));
        }
        lines.give_back(memory(HEADER_LEN));
        lines.give_back(memory(KEPT + 1));
        assert_eq!(lines.spare.len(), SPARE);
        assert_eq!(lines.take_spare(5099).capacity(), 5099);
    }
}
