// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory as the server has it: which ranges it may use, and which pages of them it has
//! written to by messages, of which its own log knows nothing.

use crate::alloc;
use crate::error::Errno;
use crate::sys::{Bitmap, PageSize, Span};
use crate::transport::dma::DmaAccess;

/// The most ranges that are kept after they were unmapped.
const MOST_GONE: usize = 1024;

/// How the server gets at a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    /// By messages, of which its log knows nothing.
    Messages,
    /// It has a descriptor of its memory, writes there by itself, and logs that.
    Descriptor,
    /// Nobody has said. If it has no log, all of the range is dirty.
    Unknown,
}

/// A range that the server may use.
pub(super) struct Region {
    pub iova: u64,
    pub size: u64,
    access: DmaAccess,
    pub backing: Backing,
    /// It is mapped no longer, and is kept until somebody has asked what was written there.
    pub gone: bool,
    written: Written,
}

/// Pages that are known to be dirty, apart from what the server logs.
enum Written {
    None,
    /// A bit for each page.
    Pages(Vec<u64>),
    /// There was no memory for that, or nobody knows.
    All,
}

/// All ranges, and whether somebody wants to know what is written there.
#[derive(Default)]
pub(super) struct Regions {
    list: Vec<Region>,
    page: Option<PageSize>,
    /// The size of the pages of the server's log.
    own: Option<PageSize>,
    /// Something was written to ranges that are gone, and nobody knows any longer where they were: what
    /// is added from now on is dirty.
    forgotten: bool,
}

impl Region {
    fn last(&self) -> u64 {
        self.iova + (self.size - 1)
    }

    fn overlaps(&self, iova: u64, last: u64) -> bool {
        self.iova <= last && iova <= self.last()
    }

    fn is(&self, iova: u64, size: u64) -> bool {
        (self.iova, self.size, self.gone) == (iova, size, false)
    }

    fn pages(&self, page: PageSize) -> u64 {
        self.last() / page.bytes() - self.iova / page.bytes() + 1
    }

    /// Whether the server may have a log of it.
    pub fn has_log(&self) -> bool {
        self.backing != Backing::Messages
    }

    /// Nobody knows what the server has, and what it has written here.
    pub fn doubt(&mut self) {
        self.written = Written::All;
        if self.backing == Backing::Descriptor {
            self.backing = Backing::Unknown;
        }
    }

    /// The part of it from one address to another, both within, with what was written there.
    fn part(&self, iova: u64, last: u64, page: PageSize) -> Region {
        let written = match &self.written {
            Written::None => Written::None,
            Written::All => Written::All,
            Written::Pages(words) => {
                let from = page.of(iova) - page.of(self.iova);
                let pages = page.of(last) - page.of(iova) + 1;
                cut(words, from, pages).map_or(Written::All, Written::Pages)
            }
        };
        Region { iova, size: last - iova + 1, written, ..*self }
    }

    /// Notes a write within the region.
    fn mark(&mut self, iova: u64, last: u64, page: PageSize) {
        if let Written::None = self.written {
            let words = usize::try_from(self.pages(page).div_ceil(64)).unwrap_or(usize::MAX);
            let pages = alloc::filled(0, words, "no memory for a bitmap");
            self.written = pages.map_or(Written::All, Written::Pages);
        }
        let Written::Pages(words) = &mut self.written else { return };
        let first = page.of(self.iova);
        for bit in page.of(iova) - first..=page.of(last) - first {
            if let Some(word) = words.get_mut((bit / 64) as usize) {
                *word |= 1 << (bit % 64);
            }
        }
    }

    /// Adds what was noted to a bitmap that the region lies in, and forgets it.
    fn give(&mut self, bitmap: &mut Bitmap<'_>) {
        let Span { start, page, .. } = bitmap.span();
        let (at, pages) = (page.of(self.iova - start), self.pages(page));
        match std::mem::replace(&mut self.written, Written::None) {
            Written::None => {}
            Written::Pages(words) => add(bitmap, at, &words),
            Written::All => {
                for bit in at..at + pages {
                    set(bitmap, bit);
                }
            }
        }
    }
}

fn set(bitmap: &mut [u64], bit: u64) {
    if let Some(word) = usize::try_from(bit / 64).ok().and_then(|at| bitmap.get_mut(at)) {
        *word |= 1 << (bit % 64);
    }
}

/// As many bits from one on, as a bitmap of their own.
fn cut(words: &[u64], from: u64, bits: u64) -> crate::error::Result<Vec<u64>> {
    let len = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX);
    let mut part = alloc::filled(0, len, "no memory for a bitmap")?;
    for bit in 0..bits {
        let (word, at) = ((from + bit) / 64, (from + bit) % 64);
        let word = usize::try_from(word).ok().and_then(|word| words.get(word));
        if word.is_some_and(|word| word >> at & 1 == 1) {
            set(&mut part, bit);
        }
    }
    Ok(part)
}

/// Adds bits to a bitmap, from bit `at` on.
pub(super) fn add(bitmap: &mut [u64], at: u64, words: &[u64]) {
    for (word, first) in words.iter().zip((at..).step_by(64)) {
        let mut left = *word;
        while left != 0 {
            set(bitmap, first + u64::from(left.trailing_zeros()));
            left &= left - 1;
        }
    }
}

impl Regions {
    /// What `EINVAL` or `EEXIST` has against a new range, if anything.
    pub fn check_new(&self, iova: u64, size: u64) -> Result<(), Errno> {
        let last = size.checked_sub(1).and_then(|more| iova.checked_add(more));
        let last = last.ok_or(Errno(libc::EINVAL))?;
        match self.list.iter().any(|known| !known.gone && known.overlaps(iova, last)) {
            true => Err(Errno(libc::EEXIST)),
            false => Ok(()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.iter().filter(|region| !region.gone).count()
    }

    /// Room for one more.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        self.reserve_for(1)
    }

    /// Adds a range that [`Regions::check_new`] has nothing against, with room that was reserved.
    pub fn add(&mut self, iova: u64, size: u64, access: DmaAccess, backing: Backing) {
        let last = iova + (size - 1);
        // What was written to a range that is gone, and that nobody has asked about, is not lost.
        let hides = self.list.iter().any(|known| known.gone && known.overlaps(iova, last));
        self.drop_gone(iova, last);
        let written = if hides || self.forgotten { Written::All } else { Written::None };
        self.list.push(Region { iova, size, access, backing, gone: false, written });
    }

    /// Forgets what is gone from one address to another, and keeps what is gone beside it.
    fn drop_gone(&mut self, iova: u64, last: u64) {
        let mut at = 0;
        while let Some(known) = self.list.get(at) {
            if !(known.gone && known.overlaps(iova, last)) {
                at += 1;
                continue;
            }
            let known = self.list.swap_remove(at);
            let Some(page) = self.page else { continue };
            let below = (known.iova < iova).then(|| (known.iova, iova - 1));
            let above = (known.last() > last).then(|| (last + 1, known.last()));
            for (first, last) in [below, above].into_iter().flatten() {
                let part = known.part(first, last, page);
                // Room for the new range stays reserved.
                if self.reserve_for(2).is_ok() {
                    self.list.push(part);
                } else {
                    self.forgotten = true;
                }
            }
        }
    }

    fn reserve_for(&mut self, more: usize) -> Result<(), Errno> {
        alloc::grow(&mut self.list, more, "").map_err(|_| Errno(libc::ENOMEM))
    }

    /// The range with these bounds; `ENOENT` if there is none.
    pub fn find(&mut self, iova: u64, size: u64) -> Result<&mut Region, Errno> {
        let found = self.list.iter_mut().find(|region| region.is(iova, size));
        found.ok_or(Errno(libc::ENOENT))
    }

    /// The range is not mapped any longer. `log` is what the server says of it; `None`: nobody knows
    /// what it has written there.
    pub fn remove(&mut self, iova: u64, size: u64, log: Option<&[u64]>) {
        let Some(page) = self.page else {
            self.list.retain(|region| !region.is(iova, size));
            return;
        };
        if self.list.iter().filter(|region| region.gone).count() >= MOST_GONE {
            self.list.retain(|region| !region.gone);
            self.forgotten = true;
        }
        let Ok(region) = self.find(iova, size) else { return };
        region.gone = true;
        if !region.has_log() {
            return;
        }
        let len = usize::try_from(region.pages(page).div_ceil(64)).unwrap_or(usize::MAX);
        let noted = std::mem::replace(&mut region.written, Written::All);
        let Some(log) = log else { return };
        region.written = match noted {
            Written::All => return,
            Written::Pages(words) => Written::Pages(words),
            Written::None => match alloc::filled(0, len, "no memory for a bitmap") {
                Ok(words) => Written::Pages(words),
                Err(_) => return,
            },
        };
        if let Written::Pages(words) = &mut region.written {
            add(words, 0, log);
        }
    }

    /// Whether the server may do this with a range, which lies in one region. `ENOENT` and `EACCES`
    /// say why not.
    pub fn check(&self, iova: u64, len: u64, access: DmaAccess) -> Result<(), Errno> {
        let last = len.checked_sub(1).and_then(|more| iova.checked_add(more));
        let last = last.ok_or(Errno(libc::EINVAL))?;
        let mut regions = self.list.iter().filter(|region| !region.gone);
        let found = regions.find(|region| region.iova <= iova && last <= region.last());
        match found.ok_or(Errno(libc::ENOENT))?.access.contains(access) {
            true => Ok(()),
            false => Err(Errno(libc::EACCES)),
        }
    }

    /// Notes that the server has written to a range by a message.
    pub fn mark(&mut self, iova: u64, len: u64) {
        let (Some(page), Some(last)) = (self.page, iova.checked_add(len.saturating_sub(1))) else {
            return;
        };
        for region in self.list.iter_mut().filter(|region| region.overlaps(iova, last)) {
            region.mark(iova.max(region.iova), last.min(region.last()), page);
        }
    }

    /// From now on, writes are noted, in pages of this size; `None`: they are not.
    pub fn watch(&mut self, page: Option<PageSize>) {
        (self.page, self.own, self.forgotten) = (page, page, false);
        self.list.retain(|region| !region.gone);
        for region in &mut self.list {
            region.written = Written::None;
        }
    }

    /// The server logs in pages of another size than was asked for; `None`: of none that there is.
    pub fn set_own(&mut self, page: Option<PageSize>) {
        self.own = page;
    }

    /// The size of the pages of the server's log.
    pub fn own(&self) -> Option<PageSize> {
        self.own
    }

    /// The size of the pages that are noted.
    pub fn page(&self) -> Option<PageSize> {
        self.page
    }

    /// What a span consists of. `EOPNOTSUPP` if it has a part of a region only.
    pub fn cover(&self, span: Span) -> Result<Cover, Errno> {
        let mut cover = Cover::default();
        let no_memory = |_| Errno(libc::ENOMEM);
        let (mut at, last) = (span.start, span.last());
        loop {
            let here = self.list.iter().filter(|region| region.overlaps(at, at));
            let end = match here.min_by_key(|region| region.gone) {
                Some(region) if region.gone => region.last().min(last),
                Some(region) if region.iova != at || region.last() > last => {
                    return Err(Errno(libc::EOPNOTSUPP));
                }
                Some(region) => {
                    if region.has_log() {
                        let range = (region.iova, region.size, region.backing);
                        alloc::push(&mut cover.logged, range, "").map_err(no_memory)?;
                    }
                    region.last()
                }
                None => {
                    let later = self.list.iter().map(|region| region.iova);
                    let next = later.filter(|iova| *iova > at).min();
                    let end = next.map_or(last, |next| last.min(next - 1));
                    alloc::push(&mut cover.holes, (at, end), "").map_err(no_memory)?;
                    end
                }
            };
            if end == last {
                return Ok(cover);
            }
            at = end + 1;
        }
    }

    /// Adds what was noted in a span that [`Regions::cover`] has found in order, and forgets it.
    pub fn give(&mut self, bitmap: &mut Bitmap<'_>) {
        let (start, last, page) = (bitmap.span().start, bitmap.span().last(), bitmap.span().page);
        for region in self.list.iter_mut().filter(|region| region.overlaps(start, last)) {
            match region.gone {
                false => region.give(bitmap),
                true => {
                    let (first, last) = (region.iova.max(start), region.last().min(last));
                    region.part(first, last, page).give(bitmap);
                }
            }
        }
        self.drop_gone(start, last);
    }
}

/// What a span consists of, apart from what is not logged.
#[derive(Default)]
pub(super) struct Cover {
    /// Regions that the server may have a log of: address and length.
    pub logged: Vec<(u64, u64, Backing)>,
    /// Where there is no region: first address and last.
    pub holes: Vec<(u64, u64)>,
}

/// Sets the bits of all pages from one address to another, both in the bitmap's span.
pub(super) fn set_all(bitmap: &mut Bitmap<'_>, first: u64, last: u64) {
    let Span { start, page, .. } = bitmap.span();
    for bit in page.of(first - start)..=page.of(last - start) {
        set(bitmap, bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::BitmapBuffer;

    const PAGE: u64 = 4096;
    const BOTH: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);

    fn page() -> PageSize {
        PageSize::new(PAGE).unwrap()
    }

    fn add_pages(regions: &mut Regions, first: u64, pages: u64) {
        regions.check_new(first * PAGE, pages * PAGE).unwrap();
        regions.reserve().unwrap();
        regions.add(first * PAGE, pages * PAGE, BOTH, Backing::Descriptor);
    }

    /// What a report says of pages; it forgets them.
    fn dirty(regions: &mut Regions, first: u64, pages: u64) -> Vec<u64> {
        let mut buffer = BitmapBuffer::new(8).unwrap();
        let span = Span { start: first * PAGE, length: pages * PAGE, page: page() };
        let mut bitmap = buffer.bitmap(span).unwrap();
        bitmap.fill(0);
        regions.cover(span).unwrap();
        regions.give(&mut bitmap);
        let is_set = |n: &u64| bitmap[(n / 64) as usize] >> (n % 64) & 1 == 1;
        (0..pages).filter(is_set).map(|n| first + n).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn what_was_written_to_a_range_that_is_gone_outlives_a_range_that_is_mapped_over_a_part_of_it()
    {
        let mut regions = Regions::default();
        regions.watch(Some(page()));
        add_pages(&mut regions, 0, 70);
        regions.mark(65 * PAGE, 1);
        regions.remove(0, 70 * PAGE, Some(&[1 << 5, 0]));
        add_pages(&mut regions, 40, 20);
        // It may have been written before, by whoever had the addresses.
        assert_eq!(dirty(&mut regions, 40, 20), (40..60).collect::<Vec<_>>());
        assert_eq!(dirty(&mut regions, 40, 20), [0; 0]);
        assert_eq!(dirty(&mut regions, 60, 10), [65]);
        add_pages(&mut regions, 0, 40);
        assert!(dirty(&mut regions, 0, 40).contains(&5));
        add_pages(&mut regions, 60, 10);
        assert_eq!(dirty(&mut regions, 60, 10), [0; 0]);
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn what_was_written_to_more_ranges_than_are_kept_is_not_lost() {
        let mut regions = Regions::default();
        regions.watch(Some(page()));
        for n in 0..=MOST_GONE as u64 {
            add_pages(&mut regions, n, 1);
            regions.remove(n * PAGE, PAGE, Some(&[1]));
        }
        add_pages(&mut regions, 0, 1);
        assert_eq!(dirty(&mut regions, 0, 1), [0]);
        regions.watch(Some(page()));
        add_pages(&mut regions, 1, 1);
        assert_eq!(dirty(&mut regions, 1, 1), [0; 0]);
    }
}
