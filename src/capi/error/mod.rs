// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_error_*`: the text of each thread's last error, and what was going on when it happened.

mod failure;

use std::cell::RefCell;
use std::ffi::{c_char, c_int};

pub use failure::*;

use crate::error::{Code, Error};

/// Room for a text, including its NUL.
const TEXT: usize = 1024;

/// A text without a destructor, so that threads may end and the library may be unloaded in any
/// order.
struct Text([u8; TEXT]);

thread_local! {
    static LAST: RefCell<Text> = const { RefCell::new(Text([0; TEXT])) };
}

/// Keeps an error's text for [`vfiomig_error_message`] and returns its code.
pub(super) fn fail(function: &str, error: &Error) -> c_int {
    ::log::debug!(target: "vfiomig::capi", "{function}: {error}");
    LAST.with_borrow_mut(|text| {
        let mut at = 0;
        for part in [function, ": ", error.message()] {
            // One line, and no NUL before the end.
            for byte in part.bytes().map(|b| if b < 0x20 { b' ' } else { b }) {
                if let Some(slot) = text.0.get_mut(..TEXT - 1).and_then(|t| t.get_mut(at)) {
                    *slot = byte;
                    at += 1;
                }
            }
        }
        if let Some(rest) = text.0.get_mut(at..) {
            rest.fill(0);
        }
    });
    error.code().to_ret()
}

/// Returns the text of the last error that a function returned on this thread: one line, beginning
/// with the function's name; empty before the first error. Texts may change in any release; codes
/// do not. Valid until the next error on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_error_message() -> *const c_char {
    LAST.with(|text| text.as_ptr().cast::<c_char>().cast_const())
}

/// Returns one line that says what an error code generally means, for a negative return value of
/// any function; "unknown error" for other numbers. Static.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_error_describe(code: c_int) -> *const c_char {
    let code = Code::from_errno(code.wrapping_neg());
    code.map_or("unknown error\0", Code::what_nul).as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text(pointer: *const c_char) -> String {
        // SAFETY: both functions return NUL-terminated texts.
        unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_description_is_the_codes_own() {
        for code in Code::ALL {
            assert_eq!(text(vfiomig_error_describe(code.to_ret())), code.what());
        }
        assert_eq!(text(vfiomig_error_describe(0)), "unknown error");
        assert_eq!(text(vfiomig_error_describe(i32::MIN)), "unknown error");
    }

    #[test]
    fn a_text_is_one_line_ends_in_nul_and_belongs_to_its_thread() {
        let error = Error::new(Code::Io, format!("a\nb\0c{}", "x".repeat(3000)));
        assert_eq!(fail("f", &error), -libc::EIO);
        let message = text(vfiomig_error_message());
        assert!(message.starts_with("f: a b c"));
        assert_eq!(message.len(), TEXT - 1);
        fail("g", &Error::new(Code::Io, "short"));
        assert_eq!(text(vfiomig_error_message()), "g: short");
        std::thread::spawn(|| assert_eq!(text(vfiomig_error_message()), "")).join().unwrap();
    }
}
