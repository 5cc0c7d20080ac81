// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cap on memory: an allocation that takes more than the library's documents allow ends the
//! process, as a crash would, with a line that says how much it was.
//!
//! What `malloc` hands to Rust is counted. Maps of pages (dirty bitmaps) are not, and neither is what
//! libFuzzer itself needs.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Capped;

/// Bytes that are allocated.
static NOW: AtomicUsize = AtomicUsize::new(0);
/// The most of them since the last [`within`] began.
static MOST: AtomicUsize = AtomicUsize::new(0);
/// How many there may be.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Capped = Capped;

// SAFETY: the system's allocator does all the work. The counting touches no memory but its numbers.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at once while it is copied.
        take(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn take(size: usize) {
    let now = NOW.fetch_add(size, Relaxed).wrapping_add(size);
    MOST.fetch_max(now, Relaxed);
    // A panic has found something already, and its backtrace needs more than most targets.
    if now > LIMIT.load(Relaxed) && !std::thread::panicking() {
        over(size, now);
    }
}

/// Ends the process: with the backtrace in its core, or in libFuzzer's report, at the allocation.
#[cold]
fn over(size: usize, now: usize) -> ! {
    let limit = LIMIT.swap(usize::MAX, Relaxed);
    let over = now.saturating_sub(limit);
    eprintln!("memory: {size} more bytes are {over} beyond what may be held; see max_memory");
    std::process::abort();
}

/// Lets `call` hold at most this many bytes more than are there now, or fewer where it is called
/// within another one. Returns what it returns, and the most that it held.
pub fn within<T>(bytes: usize, call: impl FnOnce() -> T) -> (T, usize) {
    struct Restore(usize, usize);
    impl Drop for Restore {
        // A target that panics must not keep the next one from its own limit.
        fn drop(&mut self) {
            LIMIT.store(self.0, Relaxed);
            MOST.fetch_max(self.1, Relaxed);
        }
    }
    let before = NOW.load(Relaxed);
    let outer = LIMIT.load(Relaxed);
    let _restore = Restore(outer, MOST.swap(before, Relaxed));
    LIMIT.store(before.saturating_add(bytes).min(outer), Relaxed);
    let result = call();
    let held = MOST.load(Relaxed).saturating_sub(before);
    (result, held)
}
