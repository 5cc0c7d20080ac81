// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library's allocator: malloc, and a reserve for when malloc fails.
//!
//! Rust ends the process if an allocation fails that its code cannot do without. Allocations that
//! are large, or whose size somebody else decides, are therefore made in a way that may fail
//! ([`may_fail`]). The rest are small and of fixed size: boxes, counters, nodes of maps, texts.
//! They come from the reserve when malloc fails, and calls that need memory are refused at their
//! entry ([`admits_call`]) while the reserve could not carry all calls that may be in progress.
//!
//! The reserve is zeroed static memory: none of its pages exist before they are used. It is cut
//! into blocks of four sizes, each with a bit that says whether it is in use. There is no lock, so
//! a thread that is stopped, killed or forked away in here keeps nobody waiting. Blocks that stay
//! in use for long make the reserve smaller. So when malloc works again, the reserve borrows
//! further banks from it until it is large enough.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

thread_local! {
    /// Whether this thread can handle an allocation that fails. It has no destructor, because the
    /// allocator reads it.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// Runs `allocate`, whose allocations may fail, without touching the reserve.
pub(crate) fn may_fail<T>(allocate: impl FnOnce() -> T) -> T {
    let before = MAY_FAIL.replace(true);
    let out = allocate();
    MAY_FAIL.set(before);
    out
}

/// Blocks of one size.
struct Class {
    /// Size of a block in bytes, and its alignment.
    block: usize,
    /// Blocks in a bank.
    count: usize,
    /// Where they begin in a bank.
    at: usize,
    /// Their first word of bits in a bank.
    word: usize,
}

/// Smallest first. A request that finds no block of its own size takes one of the next. Half of
/// what the reserve's own banks have is kept for 128 calls at once, with 17 KiB each: 16 blocks of
/// each of the smaller sizes, 4 of 1 KiB and 2 of 4 KiB.
const CLASSES: [Class; 4] = [
    Class { block: 64, count: 1024, at: 1024 << 10, word: 0 },
    Class { block: 256, count: 1024, at: 768 << 10, word: 16 },
    Class { block: 1024, count: 256, at: 512 << 10, word: 32 },
    Class { block: 4096, count: 128, at: 0, word: 36 },
];
const BANK: usize = 1088 << 10;
const WORDS: usize = 38;

/// Banks that always exist: half for what lives long, half for calls in progress.
const OWN: usize = 4;
/// And those that may be borrowed.
const BORROWED: usize = 28;

#[repr(C, align(4096))]
struct Store(UnsafeCell<[u8; OWN * BANK]>);

// SAFETY: only whoever set a block's bit uses the block.
unsafe impl Sync for Store {}

static STORE: Store = Store(UnsafeCell::new([0; OWN * BANK]));

/// Which blocks of a bank are in use. In a bank that does not exist, all are.
struct Bits([AtomicU64; WORDS]);

static OWN_BITS: [Bits; OWN] = [const { Bits([const { AtomicU64::new(0) }; WORDS]) }; OWN];
static BORROWED_BITS: [Bits; BORROWED] =
    [const { Bits([const { AtomicU64::new(!0) }; WORDS]) }; BORROWED];

/// The same for all banks, by number.
fn all_bits() -> impl Iterator<Item = &'static Bits> {
    OWN_BITS.iter().chain(&BORROWED_BITS)
}

/// Where borrowed banks are.
static BASES: [AtomicPtr<u8>; BORROWED] = [const { AtomicPtr::new(null_mut()) }; BORROWED];

/// Blocks in use, by class.
static OUT: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];
/// Banks that are borrowed.
static LOANS: AtomicUsize = AtomicUsize::new(0);
/// Blocks in use and loans together: 0 as long as malloc has never failed. A call looks at nothing
/// else.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
/// The process in which a thread is borrowing or giving back; 0: none. A thread that finds one here
/// goes on without borrowing. A child of fork() does not have that thread, and so does not wait for
/// it.
static LENDING: AtomicU32 = AtomicU32::new(0);

/// Whether this thread may borrow and give back now.
fn begin_lending() -> bool {
    let process = std::process::id();
    let lending = LENDING.load(Ordering::Relaxed);
    lending != process
        && LENDING.compare_exchange(lending, process, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// The start of a bank.
fn base(bank: usize) -> *mut u8 {
    match bank.checked_sub(OWN) {
        // SAFETY: within the store.
        None => unsafe { STORE.0.get().cast::<u8>().add(bank * BANK) },
        Some(loan) => BASES.get(loan).map_or(null_mut(), |at| at.load(Ordering::Acquire)),
    }
}

/// Takes a block from the smallest class that has one that is large enough; null if none has.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    if MAY_FAIL.get() {
        return null_mut();
    }
    let size = layout.size().max(layout.align());
    for (class, out) in CLASSES.iter().zip(&OUT) {
        if class.block < size {
            continue;
        }
        let words = class.word..class.word + class.count.div_ceil(64);
        for (bank, bits) in all_bits().enumerate() {
            for (i, word) in bits.0.get(words.clone()).unwrap_or_default().iter().enumerate() {
                if let Some(bit) = take_bit(word) {
                    out.fetch_add(1, Ordering::Relaxed);
                    IN_USE.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: the block lies in the bank, which exists while the bit of any of its
                    // blocks is set.
                    return unsafe { base(bank).add(class.at + (i * 64 + bit) * class.block) };
                }
            }
        }
    }
    null_mut()
}

fn take_bit(word: &AtomicU64) -> Option<usize> {
    let mut seen = word.load(Ordering::Relaxed);
    while seen != !0 {
        let bit = seen.trailing_ones();
        match word.compare_exchange_weak(
            seen,
            seen | 1 << bit,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => return Some(bit as usize),
            Err(now) => seen = now,
        }
    }
    None
}

/// Which block a pointer is: its bank, and its place there. `None`: it came from malloc.
#[inline]
fn find(ptr: *mut u8) -> Option<(usize, usize)> {
    let at = ptr.addr().wrapping_sub(STORE.0.get().addr());
    if at < OWN * BANK {
        return Some((at / BANK, at % BANK));
    }
    if LOANS.load(Ordering::Relaxed) == 0 { None } else { find_borrowed(ptr) }
}

#[cold]
fn find_borrowed(ptr: *mut u8) -> Option<(usize, usize)> {
    BASES.iter().enumerate().find_map(|(loan, base)| {
        let base = base.load(Ordering::Relaxed).addr();
        let at = ptr.addr().wrapping_sub(base);
        (base != 0 && at < BANK).then_some((OWN + loan, at))
    })
}

/// The class of the block at a place in its bank.
fn class_at(at: usize) -> Option<(&'static Class, &'static AtomicUsize)> {
    let mut all = CLASSES.iter().zip(&OUT);
    all.find(|(class, _)| at >= class.at)
}

#[cold]
fn give_back(bank: usize, at: usize) {
    let Some((class, out)) = class_at(at) else { return };
    let block = (at - class.at) / class.block;
    let word = all_bits().nth(bank).and_then(|bits| bits.0.get(class.word + block / 64));
    let Some(word) = word else { return };
    out.fetch_sub(1, Ordering::Relaxed);
    IN_USE.fetch_sub(1, Ordering::Relaxed);
    word.fetch_and(!(1 << (block % 64)), Ordering::Release);
}

/// Whether the calls that may be in progress could exhaust it, with `loans` banks borrowed.
fn is_low_with(loans: usize) -> bool {
    let banks = OWN + loans;
    CLASSES.iter().zip(&OUT).any(|(class, out)| {
        out.load(Ordering::Relaxed) + class.count * OWN / 2 > class.count * banks
    })
}

/// How much is left for allocations whose number a guest or the VMM decides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Enough.
    Enough,
    /// Not much: what malloc can provide must come from malloc.
    Little,
    /// None: what is left, and what can be borrowed, is for calls.
    None,
}

/// How much is left for them. Costs nothing while malloc works.
#[inline]
pub(crate) fn reserve_room() -> Room {
    if IN_USE.load(Ordering::Relaxed) == 0 { Room::Enough } else { room_in_need() }
}

#[cold]
fn room_in_need() -> Room {
    let loans = LOANS.load(Ordering::Relaxed);
    if !is_low_for_many(loans.min(BORROWED / 2)) {
        Room::Enough
    } else if !is_low_for_many(loans.min(BORROWED * 3 / 4)) {
        Room::Little
    } else {
        Room::None
    }
}

/// Whether more than a quarter of its own blocks, and all of `loans` borrowed banks, are in use.
fn is_low_for_many(loans: usize) -> bool {
    CLASSES.iter().zip(&OUT).any(|(class, out)| {
        out.load(Ordering::Relaxed) + class.count * OWN * 3 / 4 > class.count * (OWN + loans)
    })
}

/// Whether one more bank would help, or would be missed, with `loans` borrowed.
fn needs_bank_with(loans: usize) -> bool {
    is_low_with(loans) || loans < BORROWED * 3 / 4 && is_low_for_many(loans)
}

fn is_low() -> bool {
    is_low_with(LOANS.load(Ordering::Relaxed))
}

/// Borrows a bank from malloc.
fn borrow_bank() -> bool {
    let free = BASES.iter().position(|base| base.load(Ordering::Relaxed).is_null());
    let (Some(loan), Ok(layout)) = (free, Layout::from_size_align(BANK, 4096)) else {
        return false;
    };
    // SAFETY: the size is not zero.
    let at = unsafe { System.alloc(layout) };
    if at.is_null() {
        return false;
    }
    if let (Some(base), Some(bits)) = (BASES.get(loan), BORROWED_BITS.get(loan)) {
        base.store(at, Ordering::Release);
        IN_USE.fetch_add(1, Ordering::Relaxed);
        LOANS.fetch_add(1, Ordering::Relaxed);
        for word in &bits.0 {
            word.store(0, Ordering::Release);
        }
    }
    true
}

/// Gives back borrowed banks of which nothing is in use, as long as enough is left.
fn return_banks() {
    for (loan, base) in BASES.iter().enumerate() {
        let at = base.load(Ordering::Relaxed);
        let Some(bits) = BORROWED_BITS.get(loan).filter(|_| !at.is_null()) else { continue };
        // Word by word: nothing can be taken from words that are closed.
        let is_open = |word: &AtomicU64| {
            word.compare_exchange(0, !0, Ordering::Acquire, Ordering::Relaxed).is_err()
        };
        let open = bits.0.iter().position(is_open);
        let needed = needs_bank_with(LOANS.load(Ordering::Relaxed).saturating_sub(1));
        if open.is_some() || needed {
            for word in bits.0.iter().take(open.unwrap_or(WORDS)) {
                word.store(0, Ordering::Release);
            }
            continue;
        }
        base.store(null_mut(), Ordering::Relaxed);
        LOANS.fetch_sub(1, Ordering::Relaxed);
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        if let Ok(layout) = Layout::from_size_align(BANK, 4096) {
            // SAFETY: `borrow_bank` allocated it with this layout, and nothing of it is in use.
            unsafe { System.dealloc(at, layout) };
        }
    }
}

/// Whether a call that needs memory may begin. Costs nothing while malloc works.
#[inline]
pub(crate) fn admits_call() -> bool {
    IN_USE.load(Ordering::Relaxed) == 0 || admits_in_need()
}

#[cold]
fn admits_in_need() -> bool {
    let needs_bank = || needs_bank_with(LOANS.load(Ordering::Relaxed));
    let low = needs_bank();
    if (low || LOANS.load(Ordering::Relaxed) > 0) && begin_lending() {
        match low {
            true => while needs_bank() && borrow_bank() {},
            false => return_banks(),
        }
        LENDING.store(0, Ordering::Release);
    }
    !is_low()
}

/// malloc, with a reserve for small requests that must not fail.
pub struct Reserve;

// SAFETY: what is allocated comes from the system's allocator, or is a block that nobody else has,
// with the size and alignment that were asked for; what is freed goes back to where its address
// says that it came from. Nothing here panics.
unsafe impl GlobalAlloc for Reserve {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size of `layout` is not zero: GlobalAlloc's caller promises it.
        let ptr = unsafe { System.alloc(layout) };
        if ptr.is_null() { take(layout) } else { ptr }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size of `layout` is not zero: GlobalAlloc's caller promises it.
        let ptr = unsafe { System.alloc_zeroed(layout) };
        if !ptr.is_null() {
            return ptr;
        }
        let ptr = take(layout);
        if !ptr.is_null() {
            // SAFETY: the block is at least that large, and belongs to this thread.
            unsafe { ptr.write_bytes(0, layout.size()) };
        }
        ptr
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match find(ptr) {
            Some((bank, at)) => give_back(bank, at),
            // SAFETY: a live block with that layout, which GlobalAlloc's caller promises, and not one
            // of the reserve: it is the system's.
            None => unsafe { System.dealloc(ptr, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if find(ptr).is_none() {
            // SAFETY: as in `dealloc`, and the new size is not zero, which the caller promises.
            let moved = unsafe { System.realloc(ptr, layout, new_size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: `ptr` is a block of this allocator with that layout, and the new size is not
        // zero: GlobalAlloc's caller promises it.
        unsafe { self.move_to(ptr, layout, new_size) }
    }
}

impl Reserve {
    /// What realloc does when malloc fails: stays in place if there is room, and otherwise moves
    /// the block itself.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::realloc`].
    #[cold]
    unsafe fn move_to(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let room = find(ptr).and_then(|(_, at)| class_at(at)).map_or(layout.size(), |c| c.0.block);
        if new_size <= room {
            return ptr;
        }
        let Ok(larger) = Layout::from_size_align(new_size, layout.align()) else {
            return null_mut();
        };
        // SAFETY: `new_size` is more than the old size, and so not zero.
        let to = unsafe { self.alloc(larger) };
        if !to.is_null() {
            // SAFETY: both are at least that large, and are different blocks.
            unsafe { to.copy_from_nonoverlapping(ptr, layout.size()) };
            // SAFETY: `ptr` is a block of this allocator with that layout: the caller promises it.
            unsafe { self.dealloc(ptr, layout) };
        }
        to
    }
}
