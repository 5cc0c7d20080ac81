// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written to the file of a checkpoint, and where.

use std::os::fd::BorrowedFd;

use super::errors::file_error;
use super::stats::{Watcher, add};
use crate::error::{Errno, Result, err};
use crate::stream::checkpoint::{HEAD_LEN, Piece};
use crate::sys::named;

/// Where pieces begin, in bytes: a multiple of this.
const ALIGN: u64 = 4096;

/// How much is written between two looks at whether it was cancelled, in bytes.
const STEP: usize = 8 << 20;

/// The end of what was written.
pub(super) struct Store {
    end: u64,
    watcher: Watcher,
}

impl Store {
    pub fn new(watcher: Watcher) -> Store {
        Store { end: HEAD_LEN as u64, watcher }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Writes what the file begins with.
    pub fn head(&mut self, file: BorrowedFd<'_>, head: &[u8; HEAD_LEN]) -> Result<()> {
        self.write(file, 0, head)
    }

    /// Finds room for `len` bytes more, where the file system can say so. A full disk shows here,
    /// while nothing waits.
    pub fn allocate(&self, file: BorrowedFd<'_>, len: u64) -> Result<()> {
        let until = self.end.saturating_add(len).saturating_add(ALIGN);
        match named::allocate(file, until) {
            Err(errno @ Errno(libc::ENOSPC | libc::EDQUOT)) => {
                Err(file_error(errno, format_args!("no room for {len} bytes of the checkpoint")))
            }
            _ => Ok(()),
        }
    }

    /// Appends to the last piece, if that ends here; otherwise a new one begins.
    pub fn append(
        &mut self,
        file: BorrowedFd<'_>,
        last: Option<&mut Piece>,
        bytes: &[u8],
    ) -> Result<Option<Piece>> {
        let len = bytes.len() as u64;
        match last {
            Some(piece) if piece.offset + piece.len == self.end => {
                self.write(file, self.end, bytes)?;
                self.end += len;
                piece.len += len;
                Ok(None)
            }
            _ => {
                let offset = self.end.next_multiple_of(ALIGN);
                self.write(file, offset, bytes)?;
                self.end = offset + len;
                Ok(Some(Piece { offset, len }))
            }
        }
    }

    /// Appends what is in no piece, and ends the file there.
    pub fn finish(&mut self, file: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
        self.write(file, self.end, bytes)?;
        self.end += bytes.len() as u64;
        named::set_len(file, self.end)
            .map_err(|errno| file_error(errno, "ending the checkpoint's file"))
    }

    fn write(&self, file: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let (mut rest, mut at) = (bytes, at);
        while !rest.is_empty() {
            self.watcher.check()?;
            let part = rest.get(..STEP).unwrap_or(rest);
            let written = named::pwrite(file, part, at)
                .map_err(|errno| file_error(errno, "writing the checkpoint"))?;
            if written == 0 {
                return Err(err!(Io, "the checkpoint's file takes no more"));
            }
            rest = rest.get(written..).unwrap_or_default();
            at += written as u64;
            add(&self.watcher.0.file_bytes, written as u64);
        }
        Ok(())
    }
}
