// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where dirty pages go: the VMM's memory, by its callbacks, and what it has not taken yet of mappings
//! that are gone.

pub(super) mod caller_bitmap;
pub(super) mod give;
pub(super) mod places;

use std::ops::RangeInclusive;

use super::bitmap::{self, PageSize};
use super::buffers::Union;
use super::ledger::Ledger;
use super::map::{Map, Piece};
use super::memory::{Memory, Place};
use super::orphans::{Orphans, Pages};
use super::tracker::TrackerKind;
use crate::error::{Code, Errno, Error, Result, err};
use give::{BATCH, give, give_at, place_of};
use places::Places;

/// See the module.
pub(super) struct Delivery {
    page: PageSize,
    memory: Box<dyn Memory>,
    orphans: Orphans,
}

/// How handing over goes.
struct Handing {
    /// Whether the mapping is gone: what the VMM does not know the place of has to be kept like that.
    gone: bool,
    /// The first that the VMM refused.
    refused: Option<Error>,
}

impl Handing {
    fn new(gone: bool) -> Handing {
        Handing { gone, refused: None }
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }
}

impl Delivery {
    pub fn new(memory: Box<dyn Memory>, page: PageSize) -> Delivery {
        Delivery { page, memory, orphans: Orphans::default() }
    }

    /// Forgets what the VMM has not taken.
    pub fn forget(&mut self) {
        self.orphans.clear();
    }

    /// The memory of what the VMM has not taken, in bytes.
    pub fn footprint(&self) -> u64 {
        self.orphans.footprint()
    }

    /// The map as the VMM enumerates it, if it does.
    pub fn enumerate(&mut self) -> Result<Option<Map>> {
        let (page, mut map) = (self.page, Map::default());
        let enumerated = self.memory.enumerate(&mut |mapping| {
            if mapping.window {
                map.insert_window(mapping.iova, mapping.size, page).map(drop)
            } else {
                map.insert(mapping, page).map(drop)
            }
        });
        Ok(enumerated?.then_some(map))
    }

    /// Whether the VMM takes pages at all.
    pub fn takes_pages(&self) -> bool {
        self.memory.takes_pages()
    }

    /// Gives dirty pages to the VMM. On an error, the bits of pages that it has taken are cleared.
    pub fn give(&mut self, piece: &Piece, first: u64, words: &mut [u64], bits: u64) -> Result<()> {
        give(self.memory.as_mut(), self.page, piece, first, words, bits)
    }

    // --- mappings that go --------------------------------------------------------------------------

    /// Whether the VMM takes pages, and enough of them for more to be unmapped.
    pub fn check_room(&mut self) -> Result<()> {
        if !self.takes_pages() {
            return Err(err!(
                Inval,
                "there is nowhere to put what is dirty: no bitmap, no set_dirty"
            ));
        }
        if !self.orphans.is_full() {
            return Ok(());
        }
        let drained = self.drain();
        if !self.orphans.is_full() {
            return Ok(());
        }
        let error = drained.err().unwrap_or_else(|| err!(Io, "the VMM does not take dirty pages"));
        Err(error.note("; too much that was unmapped before waits for that: nothing is unmapped"))
    }

    /// Makes sure that so many pieces can be kept as a whole.
    pub fn reserve(&mut self, pieces: usize) -> Result<()> {
        self.orphans.reserve(pieces)
    }

    /// Gives the room back that was not needed.
    pub fn give_back(&mut self) {
        self.orphans.give_back();
    }

    /// Finds the places of the pending pages of these pieces. Where they are more than can be kept,
    /// those pages are handed over at once; fails where the VMM does not take them and they cannot be
    /// kept. They are pending then, and nothing must be unmapped.
    pub fn locate(
        &mut self,
        pieces: &[Piece],
        ledger: &mut Ledger,
        union: &mut Union,
        places: &mut Places,
    ) -> Result<()> {
        for piece in pieces {
            places.begin(piece);
            if piece.mapping.translate {
                ledger.each_pending(piece, union, &mut |ledger, first, words, bits| {
                    self.locate_part(piece, first, words, bits, ledger, places)
                })?;
            }
            places.end(piece);
        }
        Ok(())
    }

    fn locate_part(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        ledger: &mut Ledger,
        places: &mut Places,
    ) -> Result<()> {
        let page = self.page;
        let mut next = 0;
        while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
            let mut done = 0;
            while done < n && !places.is_full() {
                let iova = first + ((at + done) << page.shift());
                done += match place_of(self.memory.as_mut(), page, iova, n - done) {
                    Ok(place) => {
                        let pages = page.of(place.size).min(n - done);
                        places.add(piece, iova, pages, place);
                        pages
                    }
                    Err(_) => {
                        places.add_unknown();
                        1
                    }
                };
            }
            next = at + done;
            if places.is_full() {
                break;
            }
        }
        // These come when the range has been unmapped, with what is written to until then.
        let is_full = places.is_full();
        let kept = if is_full { next } else { bits };
        ledger.add_bits(first, words, 0..kept);
        if !is_full {
            return Ok(());
        }
        bitmap::clear(words, 0, kept);
        let mut handing = Handing::new(false);
        let handed = self.hand_over(piece, first, words, bits, &mut handing);
        let handed = handed.map_err(|error| match (&handing.refused, self.orphans.is_full()) {
            (Some(refused), true) => refused.clone(),
            _ => error,
        });
        ledger.add_bits(first, words, 0..bits);
        if let Some(error) = handing.refused {
            ledger.record(None, TrackerKind::None, &piece.range(), &error);
        }
        handed
    }

    /// Hands over what is pending in a range that is gone. Where there is no room to keep what the VMM
    /// refuses of a piece, all of the piece is kept.
    pub fn hand_over_pending(
        &mut self,
        range: &RangeInclusive<u64>,
        pieces: &[Piece],
        ledger: &mut Ledger,
        union: &mut Union,
    ) {
        let mut handing = Handing::new(true);
        for piece in pieces {
            let mut kept = Ok(());
            let taken = ledger.each_pending(piece, union, &mut |_, first, words, bits| {
                if kept.is_ok() {
                    kept = self.hand_over(piece, first, words, bits, &mut handing);
                }
                Ok(())
            });
            if kept.and(taken).is_err() {
                if let Err(error) = self.orphans.add_whole(piece, self.page) {
                    handing.refuse(error);
                }
            }
        }
        self.orphans.give_back();
        if let Some(error) = handing.refused {
            ledger.record(None, TrackerKind::None, range, &error);
        }
    }

    /// Gives dirty pages of a piece that goes to the VMM, which is asked once for the place of each,
    /// and keeps what it refuses. Their bits are cleared. Fails where there is no memory or no room to
    /// keep more: what is left in `words` is kept nowhere.
    fn hand_over(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        handing: &mut Handing,
    ) -> Result<()> {
        let Delivery { page, memory, orphans } = self;
        let (page, memory, mapping) = (*page, memory.as_mut(), piece.mapping);
        if !mapping.translate {
            let Err(error) = give(memory, page, piece, first, words, bits) else {
                words.fill(0);
                return Ok(());
            };
            handing.refuse(error);
        }
        let mut next = 0;
        while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
            let iova = first + (at << page.shift());
            if !mapping.translate {
                let first = page.of(piece.offset_of(iova));
                orphans.add(Pages { cookie: mapping.cookie, first, n })?;
                bitmap::clear(words, at, n);
                next = at + n;
                continue;
            }
            let place = match place_of(memory, page, iova, n) {
                Ok(place) => place,
                Err(error) => {
                    handing.refuse(error);
                    if handing.gone {
                        orphans.add_unknown(page.of(iova)..=page.of(iova))?;
                        bitmap::clear(words, at, 1);
                    }
                    next = at + 1;
                    continue;
                }
            };
            let n = page.of(place.size).min(n).min(BATCH);
            if let Err(error) = give_at(memory, page, iova, place, n) {
                handing.refuse(error);
                orphans.add(Pages { cookie: place.cookie, first: page.of(place.offset), n })?;
            }
            bitmap::clear(words, at, n);
            next = at + n;
        }
        Ok(())
    }

    /// Gives what is left of mappings that are gone to the VMM, which is asked where that is what it
    /// did not know when they were unmapped. What is refused stays.
    pub fn drain(&mut self) -> Result<()> {
        let Delivery { page, memory, orphans } = self;
        let (page, memory) = (*page, memory.as_mut());
        loop {
            let (num, located) = orphans.locate(page, |number, n| {
                let place = place_of(memory, page, number << page.shift(), n)?;
                let first = page.of(place.offset);
                Ok(Pages { cookie: place.cookie, first, n: page.of(place.size) })
            });
            let delivered = orphans.deliver(page, &mut |piece, first, words, bits| {
                give(memory, page, piece, first, words, bits)
            });
            // There may be room for more now.
            let more = located.as_ref().is_err_and(|error| error.code() == Code::NoMem);
            if num == 0 || !more || delivered.is_err() {
                return located.and(delivered);
            }
        }
    }

    // --- memory by I/O addresses -------------------------------------------------------------------

    /// Reads all of a piece.
    pub fn read(&mut self, piece: &Piece, buf: &mut [u8]) -> std::result::Result<(), Errno> {
        self.each_place(piece, |memory, place, from, len| {
            memory.read(place, buf.get_mut(from..from + len).ok_or(Errno(libc::EINVAL))?)
        })
    }

    /// Writes all of a piece.
    pub fn write(&mut self, piece: &Piece, buf: &[u8]) -> std::result::Result<(), Errno> {
        self.each_place(piece, |memory, place, from, len| {
            memory.write(place, buf.get(from..from + len).ok_or(Errno(libc::EINVAL))?)
        })
    }

    /// Calls `access` for each place that a piece lies in, with the offset in the piece and the length.
    fn each_place(
        &mut self,
        piece: &Piece,
        mut access: impl FnMut(&mut dyn Memory, Place, usize, usize) -> std::result::Result<(), Errno>,
    ) -> std::result::Result<(), Errno> {
        let length = piece.size();
        let mut done = 0;
        while done < length {
            let iova = piece.first + done;
            let place = if piece.mapping.translate {
                self.memory.translate(iova, length - done)?
            } else {
                Place {
                    cookie: piece.mapping.cookie,
                    offset: piece.offset_of(iova),
                    size: length - done,
                    host: piece.host_of(iova),
                }
            };
            let n = place.size.min(length - done);
            if n == 0 {
                return Err(Errno(libc::EINVAL));
            }
            access(self.memory.as_mut(), Place { size: n, ..place }, done as usize, n as usize)?;
            done += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::buffers::Buffers;
    use crate::dirty::fake::{PAGE, Vmm, map, page};
    use crate::dirty::map::Mapping;
    use crate::dirty::ranges::EVERYWHERE;

    fn delivery(vmm: &Vmm) -> Delivery {
        Delivery::new(Box::new(vmm.clone()), page())
    }

    fn translated(pages: u64) -> Piece {
        let size = pages * PAGE;
        let mapping = Mapping { size, translate: true, ..Mapping::default() };
        Piece { first: 0, last: size - 1, mapping }
    }

    fn add(ledger: &mut Ledger, pages: &[u64]) {
        pages.iter().for_each(|page| ledger.add(&(page * PAGE..=(page + 1) * PAGE - 1)));
    }

    /// Unmaps pieces without a bitmap, as far as delivery goes. Pages are `late` that are written to
    /// at the last moment.
    fn unmap(
        delivery: &mut Delivery,
        pieces: &[Piece],
        ledger: &mut Ledger,
        late: &[u64],
    ) -> Result<()> {
        let mut union = Buffers::new(1 << 10).unwrap().union;
        let mut places = Places::new(pieces.len(), 100, page()).unwrap();
        delivery.reserve(places.room()).unwrap();
        delivery.locate(pieces, ledger, &mut union, &mut places)?;
        add(ledger, late);
        delivery.hand_over_pending(&EVERYWHERE, places.found(), ledger, &mut union);
        Ok(())
    }

    #[test]
    fn translated_pages_go_where_the_vmm_says_that_they_are() {
        let (vmm, piece) = (Vmm::default(), translated(64));
        let mut delivery = delivery(&vmm);
        vmm.taken().place = Some((100, 2));
        let mut words = [0b0111_0001];
        delivery.give(&piece, 0, &mut words, 64).unwrap();
        assert_eq!((words, vmm.take()), ([0], vec![100, 104, 105, 106]));
        // It does not know the place, or does not take the page: those bits stay.
        vmm.taken().place = None;
        words = [0b11];
        assert!(delivery.give(&piece, 0, &mut words, 64).is_err());
        vmm.taken().place = Some((100, 2));
        vmm.taken().refuses = true;
        assert!(delivery.give(&piece, 0, &mut words, 64).is_err());
        assert_eq!((words, vmm.take()), ([0b11], vec![]));
    }

    #[test]
    fn what_the_vmm_refuses_of_a_mapping_that_goes_is_kept_by_its_place() {
        let (vmm, mut ledger) = (Vmm::default(), Ledger::new(page()));
        let mut delivery = delivery(&vmm);
        vmm.taken().place = Some((100, 1));
        vmm.taken().refuses = true;
        add(&mut ledger, &[3, 4, 40]);
        let plain = map(&[(70, 8)]).pieces(&EVERYWHERE).next().unwrap();
        add(&mut ledger, &[71]);
        unmap(&mut delivery, &[translated(64), plain], &mut ledger, &[41, 42]).unwrap();
        assert_eq!((ledger.num_errors(), vmm.take()), (1, vec![]));
        assert!(delivery.drain().is_err());
        vmm.taken().refuses = false;
        // Where they lay then.
        vmm.taken().place = Some((200, 1));
        delivery.drain().unwrap();
        assert_eq!(vmm.take(), [71, 103, 104, 140, 141, 142]);
        assert_eq!(delivery.footprint(), 0);
    }

    #[test]
    fn the_place_of_a_page_that_was_not_known_is_asked_for_again() {
        let (vmm, mut ledger) = (Vmm::default(), Ledger::new(page()));
        let mut delivery = delivery(&vmm);
        add(&mut ledger, &[3, 40]);
        unmap(&mut delivery, &[translated(64)], &mut ledger, &[]).unwrap();
        assert!(delivery.drain().is_err() && delivery.footprint() > 0);
        vmm.taken().place = Some((100, 1));
        delivery.drain().unwrap();
        assert_eq!((vmm.take(), delivery.footprint()), (vec![103, 140], 0));
    }

    #[test]
    fn guest_memory_is_accessed_place_by_place() {
        #[derive(Clone)]
        struct Bytes(std::sync::Arc<std::sync::Mutex<Vec<(u64, usize)>>>, Vmm);
        impl Memory for Bytes {
            fn set_dirty(
                &mut self,
                _: u64,
                _: u64,
                _: u64,
                _: &[u64],
                _: u64,
            ) -> std::result::Result<(), Errno> {
                Ok(())
            }
            fn translate(&mut self, iova: u64, n: u64) -> std::result::Result<Place, Errno> {
                self.1.translate(iova, n)
            }
            fn read(&mut self, place: Place, buf: &mut [u8]) -> std::result::Result<(), Errno> {
                buf.fill(self.0.lock().unwrap().len() as u8);
                self.0.lock().unwrap().push((place.offset, buf.len()));
                Ok(())
            }
        }
        let (bytes, vmm) = (Bytes(Default::default(), Vmm::default()), Vmm::default());
        let seen = std::sync::Arc::clone(&bytes.0);
        let mut delivery = Delivery::new(Box::new(Bytes(bytes.0, vmm.clone())), page());
        let mut buf = vec![9; 3 * PAGE as usize];
        let piece = translated(3);
        assert_eq!(delivery.read(&piece, &mut buf), Err(Errno(libc::ENOENT)));
        vmm.taken().place = Some((10, 2));
        delivery.read(&piece, &mut buf).unwrap();
        let n = PAGE as usize;
        assert_eq!(*seen.lock().unwrap(), [(10 * PAGE, 2 * n), (12 * PAGE, n)]);
        assert_eq!((buf[2 * n - 1], buf[2 * n]), (0, 1));
        // There is no other way to write.
        assert_eq!(delivery.write(&piece, &buf), Err(Errno(libc::EOPNOTSUPP)));
        vmm.taken().place = Some((10, 0));
        assert_eq!(delivery.read(&piece, &mut buf), Err(Errno(libc::EINVAL)));
    }
}
