// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gives dirty pages to the VMM, and asks it where pages are.

use crate::dirty::bitmap::{self, PageSize, words_for};
use crate::dirty::map::Piece;
use crate::dirty::memory::{DirtyPages, Memory, Place};
use crate::error::{Errno, Error, Result, err};

/// The most pages given at a time if the VMM was asked for their place.
pub(super) const BATCH: u64 = 64 * 64;

pub(in crate::dirty) fn callback_failed(what: &str, iova: u64, errno: Errno) -> Error {
    Error::from_args(
        errno.callback_code(),
        format_args!("the VMM does not {what} at {iova:#x}: {errno}"),
    )
}

/// Gives dirty pages to the VMM. On an error, the bits of pages that it has taken are cleared.
pub(super) fn give(
    memory: &mut dyn Memory,
    page: PageSize,
    piece: &Piece,
    first: u64,
    words: &mut [u64],
    bits: u64,
) -> Result<()> {
    let Piece { mapping, .. } = piece;
    if !mapping.translate {
        let (cookie, offset) = (mapping.cookie, piece.offset_of(first));
        return memory
            .set_dirty(DirtyPages { cookie, offset, page, bitmap: words, bits })
            .map_err(|errno| callback_failed("take dirty pages", first, errno));
    }
    let mut result = Ok(());
    let mut next = 0;
    while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
        next = at + n;
        let mut done = 0;
        while done < n {
            let iova = first + ((at + done) << page.shift());
            let given = place_of(memory, page, iova, n - done)
                .and_then(|place| give_at(memory, page, iova, place, n - done));
            done += match given {
                Ok(taken) => {
                    bitmap::clear(words, at + done, taken);
                    taken
                }
                Err(error) => {
                    // This page keeps its bit; go on with the next one.
                    result = result.and(Err(error));
                    1
                }
            };
        }
    }
    result
}

/// Gives up to `most` dirty pages whose place is known. Returns how many were taken.
pub(super) fn give_at(
    memory: &mut dyn Memory,
    page: PageSize,
    iova: u64,
    place: Place,
    most: u64,
) -> Result<u64> {
    let n = page.of(place.size).min(most).min(BATCH);
    let mut ones = [0; (BATCH / 64) as usize];
    bitmap::set(&mut ones, 0, n);
    let bitmap = ones.get(..words_for(n)).unwrap_or_default();
    let Place { cookie, offset, .. } = place;
    memory
        .set_dirty(DirtyPages { cookie, offset, page, bitmap, bits: n })
        .map_err(|errno| callback_failed("take dirty pages", iova, errno))?;
    Ok(n)
}

/// Asks the VMM where a page lies. The place it names must begin at a page and hold at least one.
pub(super) fn place_of(
    memory: &mut dyn Memory,
    page: PageSize,
    iova: u64,
    pages: u64,
) -> Result<Place> {
    let place = memory
        .translate(iova, pages << page.shift())
        .map_err(|errno| callback_failed("know which page was written to", iova, errno))?;
    let Place { offset, size, .. } = place;
    if size < page.bytes() || !page.divides(offset) || offset.checked_add(size - 1).is_none() {
        return Err(err!(
            Inval,
            "the VMM says that {iova:#x} is at {offset:#x}, {size:#x} bytes: those are not whole \
             pages"
        ));
    }
    Ok(place)
}
