// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that must not be found by others: wiped, and not in core dumps.

use super::system::page_size;

/// Overwrites all that a vector has room for, and empties it. The compiler does not leave it out,
/// though nobody reads the memory again.
pub(crate) fn wipe(memory: &mut Vec<u8>) {
    memory.clear();
    let room = memory.spare_capacity_mut();
    if cfg!(miri) {
        room.fill(std::mem::MaybeUninit::new(0));
        return;
    }
    // SAFETY: the pointer and the length describe `room`, which is valid for writes.
    unsafe { libc::explicit_bzero(room.as_mut_ptr().cast(), room.len()) };
}

/// Keeps the pages that a vector has for itself alone out of core dumps, until [`dump`]. What
/// shares a page with others is dumped. If the kernel does not want to, so is all of it.
pub(crate) fn leave_out_of_dumps(memory: &mut Vec<u8>) {
    advise(memory, libc::MADV_DONTDUMP);
}

/// Before memory is freed: what is there next may be dumped.
pub(crate) fn dump(memory: &mut Vec<u8>) {
    advise(memory, libc::MADV_DODUMP);
}

fn advise(memory: &mut Vec<u8>, advice: libc::c_int) {
    let page = usize::try_from(page_size()).unwrap_or(usize::MAX);
    let (start, room) = (memory.as_mut_ptr(), memory.capacity());
    let before = start.align_offset(page);
    let Some(pages) = room.checked_sub(before).map(|rest| rest - rest % page) else { return };
    if cfg!(miri) || pages == 0 {
        return;
    }
    // SAFETY: these pages lie within what the vector has allocated, and neither advice changes what
    // is in them.
    unsafe { libc::madvise(start.wrapping_add(before).cast(), pages, advice) };
}
