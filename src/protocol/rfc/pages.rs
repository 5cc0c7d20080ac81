// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pages of the guest's memory that a device of the RFC has written to: its bitmap, as a log.
//!
//! It has them only while LOGGING is set, and forgets them when that is dropped. So a log that runs has
//! LOGGING set in all states but where a device is being loaded, and has to be told when it is not.

use super::registers::Registers;
use crate::alloc;
use crate::protocol::window::Window;
use crate::sys::Errno;
use crate::transport::{Bitmap, Transport};

/// The pages of the protocol, in bytes, whatever those of the host are.
const PAGE: u64 = 4096;

/// The most words of a bitmap that are asked for at once: they stand for a GiB. A region may have more.
const MOST: u64 = 4096;

/// What reports of dirty pages rely on.
#[derive(Default)]
pub(super) struct Log {
    state: Running,
    words: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Running {
    #[default]
    Off,
    /// The device has all that it has written to since the log was started.
    Whole,
    /// It may have written while LOGGING was not set.
    Broken,
}

impl Log {
    pub fn is_on(&self) -> bool {
        self.state != Running::Off
    }

    pub fn start(&mut self) {
        self.state = Running::Whole;
    }

    pub fn stop(&mut self) {
        *self = Log::default();
    }

    /// LOGGING is not set, or was not for a while.
    pub fn is_interrupted(&mut self) {
        if self.is_on() {
            self.state = Running::Broken;
        }
    }

    /// Adds what was written to since the last report. After an error, a part of it may be lost.
    pub fn report(
        &mut self,
        io: &mut dyn Transport,
        registers: Registers<'_>,
        pages: &mut Window,
        bitmap: &mut Bitmap<'_>,
    ) -> Result<(), Errno> {
        let span = bitmap.span();
        let known = self.state == Running::Whole;
        if !known || span.page.bytes() < PAGE || !span.page.divides(span.start | span.length) {
            return Err(Errno(libc::EIO));
        }
        // The region has 8 bytes at least.
        let most = (pages.size() / 8).clamp(1, MOST);
        let larger = span.page.bytes() / PAGE;
        let (total, mut done) = (span.length / PAGE, 0);
        while done < total {
            let now = (total - done).min(most * 64);
            let words = self.words(now.div_ceil(64))?;
            registers.query(io, span.start + done * PAGE, now)?;
            pages.read(io, 0, words)?;
            for (place, word) in (done..).step_by(64).zip(words.chunks_exact(8)) {
                let word = word.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
                // Whatever a driver has set behind the last page.
                let rest = (done + now - place).min(64);
                add(bitmap, place, word & (u64::MAX >> (64 - rest)), larger);
            }
            done += now;
        }
        Ok(())
    }

    fn words(&mut self, words: u64) -> Result<&mut [u8], Errno> {
        let len = words as usize * 8;
        if self.words.len() < len {
            self.words = alloc::filled(0, len, "").map_err(|_| Errno(libc::ENOMEM))?;
        }
        self.words.get_mut(..len).ok_or(Errno(libc::EIO))
    }
}

/// Adds a word, whose first page is number `place`, to a bitmap whose pages are so many times larger.
fn add(bitmap: &mut [u64], place: u64, word: u64, larger: u64) {
    if larger == 1 && place % 64 == 0 {
        if let Some(to) = bitmap.get_mut((place / 64) as usize) {
            *to |= word;
        }
        return;
    }
    let mut rest = word;
    while rest != 0 {
        let bit = (place + u64::from(rest.trailing_zeros())) / larger;
        if let Some(to) = bitmap.get_mut((bit / 64) as usize) {
            *to |= 1 << (bit % 64);
        }
        rest &= rest - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_added_page_by_page_whatever_the_size_of_the_pages() {
        let mut bitmap = [1u64 << 63, 0];
        add(&mut bitmap, 64, 0b101, 1);
        assert_eq!(bitmap, [1 << 63, 0b101]);
        // Pages of 16 KiB.
        let mut bitmap = [0u64; 1];
        add(&mut bitmap, 64, (1 << 63) | 0b1_1000, 4);
        assert_eq!(bitmap, [(1 << 16) | (1 << 17) | (1 << 31)]);
        // What lies behind the bitmap goes nowhere.
        add(&mut bitmap, 64 * 64, u64::MAX, 1);
        add(&mut bitmap, 64 * 4, u64::MAX, 4);
        assert_eq!(bitmap, [(1 << 16) | (1 << 17) | (1 << 31)]);
    }
}
