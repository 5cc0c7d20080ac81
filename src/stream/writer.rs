// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writing side of a format: it is told what a save has to say, and returns bytes.
//!
//! A writer lays out a stream in the caller's buffer. The device's data does not go through it: the
//! writer makes [`Room`] for it, and puts around it what its format requires. When there is data,
//! and what else there is to say, is up to the session.

use crate::error::{Error, Result, err};
use crate::identity::Identity;
use crate::private::Private;

/// What a call for the next piece of a stream says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaveStatus {
    /// Send what there is and call again.
    More,
    /// The device runs and has nothing to send now. In QEMU's format also: the stopped device's
    /// data is complete, and the configuration comes next.
    Drained,
    /// The stream is complete.
    End,
}

/// Something other than data that waits for its turn.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Everything that was sent is void, except the identity; the numbers increase.
    Restart(u32),
    /// Data of the VMM's own: its number, and its contents.
    Blob(u32, Private),
}

/// What may be said before data.
pub(crate) struct Before<'a> {
    /// What the device is.
    pub identity: &'a Identity,
    /// The first thing that waits.
    pub first: Option<&'a Waiting>,
    /// The number of the mark that all initial data has been sent, if it is due.
    pub mark: Option<u32>,
}

/// How data was read.
pub(crate) struct Round {
    /// From a device that has stopped.
    pub stopped: bool,
    /// A stopped device has nothing more.
    pub ended: bool,
    /// As in [`Before`].
    pub mark: Option<u32>,
}

/// A piece of the stream that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Its length in bytes.
    pub len: usize,
    pub status: SaveStatus,
    /// Which of the things to be said it says.
    pub took: Took,
}

/// What a piece says besides data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Took {
    Nothing,
    /// What waited first.
    First,
    /// The mark.
    Mark,
}

impl Piece {
    /// A piece after which there is more.
    pub fn more(len: usize) -> Piece {
        Piece { len, status: SaveStatus::More, took: Took::Nothing }
    }
}

/// A writer of one stream, whatever its format.
pub(crate) trait Write: Send {
    /// Whether one call may return several pieces, and those that came before an error.
    fn gives_several(&self) -> bool {
        false
    }

    /// Whether this blob may come now, after `others` others.
    fn check_blob(&self, kind: u32, stopped: bool, others: u32) -> Result<()>;

    /// Writes what comes before data, if anything does. If it fails, nothing has happened.
    fn before_data(&mut self, before: &Before<'_>, buf: &mut [u8]) -> Result<Option<Piece>>;

    /// The device delivers no data until it is stopped. `mark` is the number of a mark that has not
    /// been sent and that the target may be waiting for.
    fn without_data(&mut self, _mark: Option<u32>, _buf: &mut [u8]) -> Result<Piece> {
        Ok(Piece { len: 0, status: SaveStatus::Drained, took: Took::Nothing })
    }

    /// Less room than this is not worth another piece after the first, in bytes.
    fn least_room(&self) -> usize {
        0
    }

    /// Where data is to be read to.
    fn room<'b>(&'b mut self, buf: &'b mut [u8], stopped: bool) -> Result<Room<'b>>;

    /// Writes what surrounds the `len` bytes of data that have come into the room that was made in
    /// `buf`.
    fn seal(&mut self, buf: &mut [u8], len: usize, round: &Round) -> Result<Piece>;

    /// Whether anything was sent that a restart makes void.
    fn begun(&self) -> bool;

    /// Frames so far, or whatever the format has in their place.
    fn frames(&self) -> u64;
}

/// Sees data as it comes, while it is still in the cache.
pub(crate) trait Watch: Send {
    fn came(&mut self, bytes: &[u8]);
}

/// Memory in the caller's buffer that is prepared for data.
pub(crate) struct Room<'b> {
    buf: &'b mut [u8],
    /// Where data begins, how much of it there is, and how far it may go.
    start: usize,
    at: usize,
    end: usize,
    /// What vouches for what has come, if the format has that.
    watch: Option<&'b mut dyn Watch>,
}

impl<'b> Room<'b> {
    /// Room for at most `most` bytes, after `head` bytes and before `tail` bytes of the writer's
    /// own.
    pub fn new(buf: &'b mut [u8], head: usize, tail: usize, most: usize) -> Room<'b> {
        let end = head + buf.len().saturating_sub(head + tail).min(most);
        Room { buf, start: head, at: head, end, watch: None }
    }

    /// The same, watched.
    pub fn watched(self, watch: &'b mut dyn Watch) -> Room<'b> {
        Room { watch: Some(watch), ..self }
    }

    /// Where the next bytes go; empty if there is no more room.
    pub fn rest(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.at..self.end).unwrap_or_default()
    }

    /// Says that `len` bytes have come. They are still in the cache now.
    pub fn came(&mut self, len: usize) {
        let end = (self.at + len).min(self.end);
        if let (Some(watch), Some(bytes)) = (&mut self.watch, self.buf.get(self.at..end)) {
            watch.came(bytes);
        }
        self.at = end;
    }

    /// Bytes that have come.
    pub fn len(&self) -> usize {
        self.at - self.start
    }
}

pub(super) fn too_small(needed: usize) -> Error {
    err!(NoSpace, "the buffer is too small: the next piece of the stream needs {needed} bytes")
}
