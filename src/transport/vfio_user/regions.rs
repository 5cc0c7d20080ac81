// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory as the server has it: which ranges it may use, and which pages of them it has
//! written to by messages, of which its own log knows nothing.

use crate::alloc;
use crate::error::Errno;
use crate::sys::{Bitmap, PageSize, Span};
use crate::transport::dma::DmaAccess;

/// The most ranges that are kept after they were unmapped.
const MOST_GONE: usize = 1024;

/// A range that the server may use.
pub(super) struct Region {
    pub iova: u64,
    pub size: u64,
    access: DmaAccess,
    /// The server has a descriptor of its memory, writes there by itself, and logs that.
    pub has_fd: bool,
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
        alloc::grow(&mut self.list, 1, "").map_err(|_| Errno(libc::ENOMEM))
    }

    /// Adds a range that [`Regions::check_new`] has nothing against, with room that was reserved.
    pub fn add(&mut self, iova: u64, size: u64, access: DmaAccess, has_fd: bool) {
        let last = iova + (size - 1);
        // What was written to a range that is gone, and that nobody has asked about, is not lost.
        let hides = self.list.iter().any(|known| known.gone && known.overlaps(iova, last));
        self.list.retain(|known| !(known.gone && known.overlaps(iova, last)));
        let written = if hides { Written::All } else { Written::None };
        self.list.push(Region { iova, size, access, has_fd, gone: false, written });
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
        // Of a range that is not known any longer, everything counts as dirty.
        if self.list.iter().filter(|region| region.gone).count() >= MOST_GONE {
            self.list.retain(|region| !region.gone);
        }
        let Ok(region) = self.find(iova, size) else { return };
        region.gone = true;
        if !region.has_fd {
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
        self.page = page;
        self.list.retain(|region| !region.gone);
        for region in &mut self.list {
            region.written = Written::None;
        }
    }

    /// The size of the pages that are noted.
    pub fn page(&self) -> Option<PageSize> {
        self.page
    }

    /// The regions that make up a span, in order: those that the server logs. `ENOENT` if it has an
    /// address that is in none, `EOPNOTSUPP` if it has a part of one only.
    pub fn cover(&self, span: Span) -> Result<Vec<(u64, u64)>, Errno> {
        let mut logged = Vec::new();
        let (mut at, last) = (span.start, span.last());
        loop {
            let here = self.list.iter().filter(|region| region.overlaps(at, at));
            let region = here.min_by_key(|region| region.gone).ok_or(Errno(libc::ENOENT))?;
            if region.iova != at || region.last() > last {
                return Err(Errno(libc::EOPNOTSUPP));
            }
            if region.has_fd && !region.gone {
                let range = (region.iova, region.size);
                alloc::push(&mut logged, range, "").map_err(|_| Errno(libc::ENOMEM))?;
            }
            if region.last() == last {
                return Ok(logged);
            }
            at = region.last() + 1;
        }
    }

    /// Adds what was noted in a span that [`Regions::cover`] has found covered, and forgets it.
    pub fn give(&mut self, bitmap: &mut Bitmap<'_>) {
        let (start, last) = (bitmap.span().start, bitmap.span().last());
        for region in self.list.iter_mut().filter(|region| region.overlaps(start, last)) {
            region.give(bitmap);
        }
        self.list.retain(|region| !(region.gone && region.overlaps(start, last)));
    }
}
