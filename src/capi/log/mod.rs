// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_log_*`: where the library's messages go.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use ::log::{Level, LevelFilter};

use super::callbacks::{Opaque, vfiomig_release_fn};
use super::entry::guarded;
use super::numbers::same_numbers;
use super::table;
use crate::alloc;
use crate::error::err;
use crate::logging::{self, Sink};

/// No messages.
pub const VFIOMIG_LOG_OFF: u32 = 0;
/// Errors.
pub const VFIOMIG_LOG_ERROR: u32 = 1;
/// And warnings: something went wrong, and the library recovered from it.
pub const VFIOMIG_LOG_WARN: u32 = 2;
/// And what an operator wants to know.
pub const VFIOMIG_LOG_INFO: u32 = 3;
/// And every change of state.
pub const VFIOMIG_LOG_DEBUG: u32 = 4;
/// And everything.
pub const VFIOMIG_LOG_TRACE: u32 = 5;

same_numbers!(LevelFilter:
    VFIOMIG_LOG_OFF = Off,
    VFIOMIG_LOG_ERROR = Error,
    VFIOMIG_LOG_WARN = Warn,
    VFIOMIG_LOG_INFO = Info,
    VFIOMIG_LOG_DEBUG = Debug,
    VFIOMIG_LOG_TRACE = Trace,
);
same_numbers!(Level:
    VFIOMIG_LOG_ERROR = Error,
    VFIOMIG_LOG_WARN = Warn,
    VFIOMIG_LOG_INFO = Info,
    VFIOMIG_LOG_DEBUG = Debug,
    VFIOMIG_LOG_TRACE = Trace,
);

/// Takes a message: its level (VFIOMIG_LOG_*), the part of the library that it comes from, and one
/// line of text. May be called from several threads at once, and must not call the library.
pub type vfiomig_log_fn = Option<
    unsafe extern "C" fn(
        opaque: *mut c_void,
        level: u32,
        target: *const c_char,
        message: *const c_char,
    ),
>;

const NO_MEMORY: &CStr = c"(no memory for this message)";

/// A text for C; `None` if there is no memory for it.
fn c_text(text: &str) -> Option<CString> {
    let mut bytes = alloc::copy_with_room(text.as_bytes(), 1)?;
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    CString::new(bytes).ok()
}

/// Sends the library's messages to log, up to level (VFIOMIG_LOG_*), for the whole process. NULL
/// makes the library silent again, as it is at first. Bytes of device state are never logged. The
/// previous callback's opaque is released once no thread is inside that callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_log_set(
    log: vfiomig_log_fn,
    opaque: *mut c_void,
    release: vfiomig_release_fn,
    level: u32,
) -> c_int {
    // SAFETY: promise 2: `release` can be called with `opaque`.
    let opaque = unsafe { Opaque::new(opaque, release) };
    guarded(&table::LOG_SET, || {
        let filter = match level {
            VFIOMIG_LOG_OFF => LevelFilter::Off,
            VFIOMIG_LOG_ERROR => LevelFilter::Error,
            VFIOMIG_LOG_WARN => LevelFilter::Warn,
            VFIOMIG_LOG_INFO => LevelFilter::Info,
            VFIOMIG_LOG_DEBUG => LevelFilter::Debug,
            VFIOMIG_LOG_TRACE => LevelFilter::Trace,
            _ => return Err(err!(Inval, "there is no log level {level}")),
        };
        let Some(log) = log else {
            return logging::set(None, LevelFilter::Off);
        };
        let sink: Sink = Box::new(move |level, target, message| {
            let (target, message) = (c_text(target), c_text(message));
            let (target, message) = (target.as_deref(), message.as_deref());
            let (target, message) = (target.unwrap_or(NO_MEMORY), message.unwrap_or(NO_MEMORY));
            // SAFETY: promises 2 and 3; both strings have a NUL, and live during the call.
            unsafe { log(opaque.get(), level as u32, target.as_ptr(), message.as_ptr()) };
        });
        logging::set(Some(sink), filter)
    })
}

/// Sends the library's messages to standard error as the environment variable VFIOMIG_LOG says,
/// for example VFIOMIG_LOG=debug. Replaces what vfiomig_log_set() set; may be called again. For
/// programs that have no logging of their own. The syntax is that of Rust's env_logger: a level, or
/// TARGET=LEVEL, several separated by commas. No other thread may change the environment meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_log_init_env() -> c_int {
    guarded(&table::LOG_INIT_ENV, logging::init_env)
}
