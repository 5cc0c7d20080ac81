// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library asks the system about files, counted, and made to fail: the functions of the C
//! library that it calls are these, because a program's own come before those of its libraries.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With this errno, and nothing is done.
    Errno(c_int),
    /// Only the first half is written or read.
    Half,
}

thread_local! {
    /// The calls of this thread since [`strike`], if they are counted.
    static CALLS: RefCell<Option<Vec<&'static str>>> = const { RefCell::new(None) };
    /// Which of them fails, from 1.
    static DUE: Cell<(usize, Fault)> = const { Cell::new((0, Fault::Half)) };
}

/// Counts the calls of `run`, of which the `nth` fails, and returns their names.
pub fn strike<T>(nth: usize, fault: Fault, run: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    DUE.set((nth, fault));
    CALLS.set(Some(Vec::with_capacity(1000)));
    let result = run();
    (result, CALLS.take().unwrap_or_default())
}

/// Counts a call, and says how it fails, if it does.
fn count(name: &'static str) -> Option<Fault> {
    let nth = CALLS
        .try_with(|calls| {
            let mut calls = calls.try_borrow_mut().ok()?;
            let calls = calls.as_mut()?;
            calls.push(name);
            Some(calls.len())
        })
        .ok()??;
    let (due, fault) = DUE.get();
    (nth == due).then_some(fault)
}

/// The function that would be called without this one.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: it takes a name and returns an address.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null());
    found
}

fn fails(errno: c_int) -> c_int {
    // SAFETY: it is this thread's.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// A function that fails, or passes everything on; `$len` is halved if that is how it fails.
macro_rules! tapped {
    ($name:ident($($argument:ident: $kind:ty),*) -> $result:ty $(, halves $len:ident)?) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            type Function = unsafe extern "C" fn($($kind),*) -> $result;
            let fault = count(stringify!($name));
            if let Some(Fault::Errno(errno)) = fault {
                return fails(errno) as $result;
            }
            $(let $len = if fault == Some(Fault::Half) { $len / 2 } else { $len };)?
            let name = concat!(stringify!($name), "\0");
            // SAFETY: the C library's function of that name has this type, and gets what we got.
            unsafe {
                let name = CStr::from_ptr(name.as_ptr().cast());
                let function = std::mem::transmute::<*mut c_void, Function>(next(name));
                function($($argument),*)
            }
        }
    };
}

tapped!(openat(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int);
tapped!(flock(fd: c_int, how: c_int) -> c_int);
tapped!(fstat64(fd: c_int, out: *mut libc::stat64) -> c_int);
tapped!(fstatat64(directory: c_int, path: *const c_char, out: *mut libc::stat64, flags: c_int) -> c_int);
tapped!(unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int);
tapped!(renameat(from: c_int, old: *const c_char, to: c_int, new: *const c_char) -> c_int);
tapped!(fsync(fd: c_int) -> c_int);
tapped!(fallocate64(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int);
tapped!(ftruncate64(fd: c_int, len: i64) -> c_int);
tapped!(pwrite64(fd: c_int, from: *const c_void, len: usize, at: i64) -> isize, halves len);
tapped!(pread64(fd: c_int, to: *mut c_void, len: usize, at: i64) -> isize, halves len);
tapped!(memfd_create(name: *const c_char, flags: c_uint) -> c_int);

/// Every function that is tapped.
pub const ALL: [&str; 12] = [
    "openat",
    "flock",
    "fstat64",
    "fstatat64",
    "unlinkat",
    "renameat",
    "fsync",
    "fallocate64",
    "ftruncate64",
    "pwrite64",
    "pread64",
    "memfd_create",
];
