// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that trackers answer into, and in which their answers are added up. It is kept from
//! one reading to the next.

use super::bitmap::{self, PageSize, Span, words_for};
use super::map::Piece;
use crate::error::{Error, Result, err};
use crate::sys::{Bitmap, BitmapBuffer};

/// The largest bitmap of a whole mapping, in bytes: the kernel's limit for containers.
pub(super) const MAX_WHOLE: u64 = 256 << 20;

/// A bitmap as large as the largest that was needed so far.
#[derive(Default)]
pub(super) struct Scratch(Option<BitmapBuffer>);

impl Scratch {
    pub fn new(words: usize) -> Result<Scratch> {
        Ok(Scratch(Some(bitmap::buffer(words)?)))
    }

    /// The bitmap of a span, with whatever the last use left in it.
    pub fn bitmap(&mut self, span: Span) -> Result<Bitmap<'_>> {
        let n = span.words().ok_or_else(|| bitmap::no_room(span))?;
        if self.0.as_ref().is_none_or(|words| words.len() < n) {
            // Free the old one first: there may not be enough memory for both.
            self.0 = None;
            self.0 = Some(bitmap::buffer(n)?);
        }
        let bitmap = self.0.as_mut().and_then(|words| words.bitmap(span).ok());
        bitmap.ok_or_else(|| bitmap::no_room(span))
    }

    /// The memory that this takes, in bytes.
    pub fn footprint(&self) -> usize {
        self.0.as_ref().map_or(0, BitmapBuffer::footprint)
    }
}

/// The sum of the answers for one chunk. Its size is fixed, and small enough to stay in a cache.
/// The first tracker writes straight into it.
pub(super) struct Union {
    words: BitmapBuffer,
    max_bits: u64,
}

impl Union {
    fn new(words: usize) -> Result<Union> {
        Ok(Union { words: bitmap::buffer(words)?, max_bits: words as u64 * 64 })
    }

    /// An empty sum for a chunk, for a tracker to fill in.
    pub fn chunk(&mut self, chunk: Span) -> Result<Bitmap<'_>> {
        let mut bitmap = self.words.bitmap(chunk).map_err(|_| bitmap::no_room(chunk))?;
        bitmap.fill(0);
        Ok(bitmap)
    }

    /// An empty sum of this many bits.
    pub fn begin(&mut self, bits: u64) -> Result<&mut [u64]> {
        let words = self.words.get_mut(..words_for(bits));
        let words =
            words.ok_or_else(|| err!(Inval, "{bits} pages are more than the buffer is for"))?;
        words.fill(0);
        Ok(words)
    }

    /// The most bits that a chunk may have.
    pub fn max_bits(&self) -> u64 {
        self.max_bits
    }
}

/// The sum of the answers for one mapping, from trackers that answer only for whole mappings.
#[derive(Default)]
pub(super) struct Sum {
    /// The mapping, and a buffer of at least as many words as it needs.
    of: Option<(Piece, BitmapBuffer)>,
    spare: Option<BitmapBuffer>,
}

impl Sum {
    /// Begins an empty sum for a mapping; bit 0 is its first page. If that fails, there is no sum.
    pub fn begin(&mut self, whole: &Piece, page: PageSize) -> Result<&mut [u64]> {
        self.end();
        let n = words_for(page.of(whole.last) - page.of(whole.first) + 1);
        if n as u64 * 8 > MAX_WHOLE {
            return Err(too_large(whole, n as u64 * 8, MAX_WHOLE, ""));
        }
        let words = match self.spare.take() {
            Some(spare) if spare.len() >= n => spare,
            _ => bitmap::buffer(n)?,
        };
        let (_, words) = self.of.insert((*whole, words));
        words.get_mut(..n).unwrap_or_default().fill(0);
        Ok(words)
    }

    /// Ends the sum: from now on there is none. Its memory is kept for the next one.
    pub fn end(&mut self) {
        if let Some((_, words)) = self.of.take() {
            self.spare = Some(words);
        }
    }

    /// The mapping, and what is known of it so far. Bits beyond the mapping mean nothing.
    pub fn get(&self) -> Option<(&Piece, &[u64])> {
        self.of.as_ref().map(|(whole, words)| (whole, &words[..]))
    }

    fn footprint(&self) -> usize {
        let words = self.of.iter().map(|(_, words)| words).chain(&self.spare);
        words.map(BitmapBuffer::footprint).sum()
    }
}

/// The buffers that trackers' answers go into before they are added up. Zero between uses. Zero
/// between uses.
pub(super) struct Answers {
    /// For an answer about a chunk.
    pub chunk: Scratch,
    /// For an answer about a whole mapping.
    pub whole: Scratch,
}

/// The buffers that exist while tracking is on.
pub(super) struct Buffers {
    pub answers: Answers,
    pub union: Union,
    pub sum: Sum,
}

impl Buffers {
    /// Buffers for chunks whose bitmaps take this many bytes.
    pub fn new(bytes: usize) -> Result<Buffers> {
        let words = bytes / 8;
        let answers = Answers { chunk: Scratch::new(words)?, whole: Scratch::default() };
        Ok(Buffers { answers, union: Union::new(words)?, sum: Sum::default() })
    }

    /// The memory that these take, in bytes.
    pub fn footprint(&self) -> usize {
        let Buffers { answers: Answers { chunk, whole }, union, sum } = self;
        chunk.footprint() + whole.footprint() + union.words.footprint() + sum.footprint()
    }
}

/// A mapping is too large for a tracker that answers only for whole mappings.
pub(super) fn too_large(whole: &Piece, bytes: u64, most: u64, why: &str) -> Error {
    err!(
        NotSupported,
        "the mapping at {:#x}, {:#x} bytes, is too large to be tracked as one: its bitmap takes \
         {bytes} bytes, and the limit is {most}{why}; map it in pieces",
        whole.first,
        whole.size()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::map::Mapping;
    use crate::error::Code;

    fn page() -> PageSize {
        PageSize::new(4096).unwrap()
    }

    fn whole(pages: u64) -> Piece {
        Piece { first: 0, last: pages * 4096 - 1, mapping: Mapping::default() }
    }

    #[test]
    fn a_scratch_bitmap_grows_to_the_largest_that_was_asked_for() {
        let span = |words: u64| Span { start: 0, length: words * 64 * 4096, page: page() };
        let mut scratch = Scratch::default();
        assert_eq!(scratch.footprint(), 0);
        assert_eq!(scratch.bitmap(span(1 << 14)).unwrap()[..], vec![0; 1 << 14]);
        let large = scratch.footprint();
        scratch.bitmap(span(7)).unwrap().fill(1);
        assert_eq!((scratch.bitmap(span(7)).unwrap().len(), scratch.footprint()), (7, large));
        assert!(scratch.bitmap(span(1 << 15)).unwrap().iter().all(|word| *word == 0));
        assert!(scratch.footprint() > large);
        let absurd = scratch.bitmap(Span { start: 0, length: u64::MAX, page: page() });
        assert_eq!(absurd.err().unwrap().code(), Code::NoMem);
    }

    #[test]
    fn a_chunk_begins_empty_and_is_no_larger_than_the_buffer() {
        let mut union = Union::new(2).unwrap();
        assert_eq!(union.max_bits(), 128);
        union.begin(128).unwrap().fill(u64::MAX);
        assert_eq!(union.begin(65).unwrap(), [0, 0]);
        assert_eq!(union.begin(64).unwrap().len(), 1);
        assert_eq!(union.begin(129).unwrap_err().code(), Code::Inval);
        let span = |pages: u64| Span { start: 0, length: pages * 4096, page: page() };
        union.chunk(span(128)).unwrap().fill(u64::MAX);
        assert_eq!(union.chunk(span(65)).unwrap()[..], [0, 0]);
        assert_eq!(union.chunk(span(129)).err().unwrap().code(), Code::NotRecoverable);
    }

    #[test]
    fn a_sum_is_there_from_its_beginning_to_its_end_only() {
        let mut sum = Sum::default();
        assert!(sum.get().is_none());
        sum.begin(&whole(100), page()).unwrap().fill(u64::MAX);
        assert_eq!(sum.begin(&whole(65), page()).unwrap()[..2], [0, 0]);
        assert_eq!(sum.get().unwrap().0, &whole(65));
        // After a failed begin, the sum before it is gone as well.
        assert_eq!(sum.begin(&whole(1 << 34), page()).unwrap_err().code(), Code::NotSupported);
        assert!(sum.get().is_none());
        sum.begin(&whole(1), page()).unwrap();
        sum.end();
        assert!(sum.get().is_none());
    }
}
