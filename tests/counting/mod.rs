// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a call takes, counted by the allocator itself, and what is left over: memory of this thread,
//! file descriptors of the whole process.

#![allow(unsafe_code, dead_code)] // Each program uses a part.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Of this thread alone: the harness has others. The library has none.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// The most of them since [`cost`] was called.
    static MOST: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // Without the thread's storage, at its end, nothing is measured.
    let _ = BYTES.try_with(|all| {
        all.set(all.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(all.get())));
    });
}

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// The most memory that `call` had at once, in bytes.
pub fn cost<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = BYTES.get();
    MOST.set(before);
    let result = call();
    (result, (MOST.get() - before) as usize)
}

/// What is allocated and open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    bytes: isize,
    fds: usize,
}

impl Left {
    /// Without memory that is still needed.
    pub fn without(self, bytes: usize) -> Left {
        Left { bytes: self.bytes - bytes as isize, ..self }
    }
}

pub fn left() -> Left {
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    Left { bytes: BYTES.get(), fds }
}
