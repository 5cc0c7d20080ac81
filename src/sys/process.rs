// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which process this is: what was made before a fork belongs to the parent.
//!
//! A child inherits copies of everything and can use none of it. Locks that another thread of the
//! parent held stay locked forever, bitmaps are not there at all, and the device belongs to the
//! parent. So whatever the library makes remembers its process. Asking must cost nothing, and a
//! `pthread_atfork()` handler would miss a bare `clone()`. So there is a page that the kernel gives
//! to a child as zeros (`MADV_WIPEONFORK`, Linux 4.14).

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// A process that uses the library: a number that no other process of its family has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process(u32);

/// Contains a whole page on every machine with pages of up to this size. If pages are larger, the
/// kernel refuses, and the process id is used instead.
const PAGE: usize =
    if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 4 << 10 } else { 64 << 10 };
const WORDS: usize = 2 * PAGE / 8;

/// The word at the first whole page in here says which process this is; 0: one that has not used
/// the library yet. The lower half is the number of the [`Process`]. The upper half is zero, or the
/// process id if the kernel does not wipe the page.
static MARK: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// The last number given to this process or to one of its ancestors.
static LAST: AtomicU32 = AtomicU32::new(0);

fn mark() -> &'static AtomicU64 {
    let start = MARK.as_ptr();
    let page = start.map_addr(|at| at.next_multiple_of(PAGE));
    // SAFETY: MARK is twice as long as a page of that size, so a whole page lies in it.
    unsafe { &*page }
}

/// Whether a child finds zeros here.
fn wiped_in_children(mark: &AtomicU64) -> bool {
    let page = std::ptr::from_ref(mark).cast_mut().cast();
    // SAFETY: the page belongs to MARK. For this process nothing about it changes.
    !cfg!(miri) && unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } == 0
}

/// The number of this process; 0: none yet.
fn current() -> u32 {
    let mark = mark().load(Ordering::Relaxed);
    if mark >> 32 != 0 { unless_forked(mark) } else { mark as u32 }
}

#[cold]
fn unless_forked(mark: u64) -> u32 {
    if mark >> 32 == u64::from(std::process::id()) { mark as u32 } else { 0 }
}

#[cold]
fn begin() -> Process {
    let mark = mark();
    let pid = if wiped_in_children(mark) { 0 } else { u64::from(std::process::id()) << 32 };
    let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    let before = mark.load(Ordering::Relaxed);
    // Another thread may have been faster.
    if current() == 0 {
        let new = pid | u64::from(number);
        let _ = mark.compare_exchange(before, new, Ordering::Relaxed, Ordering::Relaxed);
    }
    Process(current())
}

impl Process {
    /// This process.
    pub(crate) fn this() -> Process {
        match current() {
            0 => begin(),
            number => Process(number),
        }
    }

    /// The number of no process: nobody owns the value yet.
    pub(crate) const NONE: u32 = 0;

    /// Whether it is this process.
    pub(crate) fn is_this(self) -> bool {
        current() == self.0
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn from_number(number: u32) -> Process {
        Process(number)
    }
}

/// A value that each process has one of. A child cannot use its parent's locks: threads that it
/// does not have may hold them.
pub(crate) struct PerProcess<T: 'static> {
    /// For whichever process comes first: in most programs there is no other.
    first: T,
    owner: AtomicU32,
    /// A number for a child.
    later: AtomicPtr<Later<T>>,
}

struct Later<T> {
    owner: Process,
    value: T,
    /// The value of the process before, which is never freed; kept so that leak checkers find it.
    _before: *mut Later<T>,
}

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new(first: T) -> PerProcess<T> {
        PerProcess { first, owner: AtomicU32::new(0), later: AtomicPtr::new(null_mut()) }
    }

    /// This process's value. A child's is made from the one that it inherited, which it must not
    /// wait for.
    pub(crate) fn get(&self, inherit: impl Fn(&T) -> T) -> &T {
        let this = Process::this();
        let mut owner = self.owner.load(Ordering::Relaxed);
        if owner == Process::NONE {
            let took = self.owner.compare_exchange(0, this.0, Ordering::Relaxed, Ordering::Relaxed);
            owner = took.map_or_else(|other| other, |_| this.0);
        }
        if owner == this.0 { &self.first } else { self.of_child(this, inherit) }
    }

    #[cold]
    fn of_child(&self, this: Process, inherit: impl Fn(&T) -> T) -> &T {
        loop {
            let found = self.later.load(Ordering::Acquire);
            // SAFETY: NULL, or allocated below and never freed.
            let later = unsafe { found.as_ref() };
            if let Some(later) = later.filter(|later| later.owner == this) {
                return &later.value;
            }
            let value = inherit(later.map_or(&self.first, |later| &later.value));
            let new = Box::into_raw(Box::new(Later { owner: this, value, _before: found }));
            let put = self.later.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire);
            if put.is_err() {
                // SAFETY: allocated above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_process_knows_itself_and_all_of_its_threads_agree() {
        let mine = Process::this();
        assert!(mine.is_this());
        assert_ne!(mine.number(), Process::NONE);
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(Process::this)).collect();
        assert!(others.into_iter().all(|other| other.join().unwrap() == mine));
        assert!(!Process::from_number(mine.number() + 1).is_this());
    }

    #[test]
    fn a_value_is_one_for_a_process_and_another_for_the_next() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new(Mutex::new(1));
        let new = |old: &Mutex<u32>| Mutex::new(*old.lock().unwrap() + 10);
        *VALUE.get(new).lock().unwrap() += 1;
        assert_eq!(*VALUE.get(new).lock().unwrap(), 2);
        // As in a child: what exists belongs to someone else.
        VALUE.owner.store(Process::this().number() + 7, Ordering::Relaxed);
        assert_eq!(*VALUE.get(new).lock().unwrap(), 12);
        *VALUE.get(new).lock().unwrap() += 1;
        assert_eq!(*VALUE.get(new).lock().unwrap(), 13);
    }
}
