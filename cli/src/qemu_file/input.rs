// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that is read once, from front to back, with a look ahead.

use std::io::{self, Read, Seek, SeekFrom};

/// The farthest look ahead, in bytes.
pub const AHEAD: usize = 256 << 10;

/// How far the end of something is looked for, in bytes: a hole in a file can be longer than anybody waits
/// for, and no device's state is as long.
pub const FARTHEST: u64 = if cfg!(debug_assertions) { 8 << 20 } else { 1 << 30 };

pub struct Input<R> {
    file: R,
    len: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where `start` is in the file.
    offset: u64,
}

impl<R: Read + Seek> Input<R> {
    pub fn new(mut file: R) -> io::Result<Input<R>> {
        let len = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        Ok(Input { file, len, buffer: vec![0; 2 * AHEAD], start: 0, end: 0, offset: 0 })
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn left(&self) -> u64 {
        self.len.saturating_sub(self.offset)
    }

    /// The last bytes of the file, at most so many. Reading goes on where it was.
    pub fn tail(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let here = self.file.stream_position()?;
        self.file.seek(SeekFrom::Start(self.len.saturating_sub(most)))?;
        let mut tail = Vec::new();
        (&mut self.file).take(most.min(self.len)).read_to_end(&mut tail)?;
        self.file.seek(SeekFrom::Start(here))?;
        Ok(tail)
    }

    /// The next bytes, at most so many and at most [`AHEAD`], without taking them.
    pub fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        let len = len.min(AHEAD);
        if self.end - self.start < len && self.start > AHEAD {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < len {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.file.read(room) {
                Ok(0) => break,
                Ok(more) => self.end += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let end = self.end.min(self.start + len);
        Ok(self.buffer.get(self.start..end).unwrap_or_default())
    }

    /// Leaves bytes behind that were looked at.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.offset += len as u64;
    }

    /// Leaves bytes behind; the file must have them.
    pub fn skip(&mut self, len: u64) -> io::Result<bool> {
        if len > self.left() {
            return Ok(false);
        }
        let here = (self.end - self.start) as u64;
        if len <= here {
            self.consume(len as usize);
            return Ok(true);
        }
        self.offset += len;
        self.file.seek(SeekFrom::Start(self.offset))?;
        (self.start, self.end) = (0, 0);
        Ok(true)
    }

    /// How long the file is.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Goes back to a place. What is still there of it is not read again: whoever made the file decides
    /// how often.
    pub fn back_to(&mut self, offset: u64) -> io::Result<()> {
        let back = self.offset.checked_sub(offset).and_then(|back| usize::try_from(back).ok());
        if let Some(start) = back.and_then(|back| self.start.checked_sub(back)) {
            (self.start, self.offset) = (start, offset);
            return Ok(());
        }
        self.offset = offset;
        (self.start, self.end) = (0, 0);
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    fn number<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let bytes = self.peek(N)?.first_chunk().copied();
        if bytes.is_some() {
            self.consume(N);
        }
        Ok(bytes)
    }

    pub fn u8(&mut self) -> io::Result<Option<u8>> {
        Ok(self.number()?.map(u8::from_be_bytes))
    }

    pub fn u16(&mut self) -> io::Result<Option<u16>> {
        Ok(self.number()?.map(u16::from_be_bytes))
    }

    pub fn u32(&mut self) -> io::Result<Option<u32>> {
        Ok(self.number()?.map(u32::from_be_bytes))
    }

    pub fn u64(&mut self) -> io::Result<Option<u64>> {
        Ok(self.number()?.map(u64::from_be_bytes))
    }

    /// A text with its length in one byte before it.
    pub fn text(&mut self) -> io::Result<Option<String>> {
        let Some(len) = self.u8()? else { return Ok(None) };
        let bytes = self.peek(len.into())?;
        if bytes.len() < usize::from(len) {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).ok().filter(|text| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        });
        let text = text.map(str::to_owned);
        if text.is_some() {
            self.consume(len.into());
        }
        Ok(text)
    }
}
