// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error numbers as the system returns them.

use std::ffi::CStr;
use std::fmt;

/// An errno as a transport reports it, not yet interpreted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's errno.
    pub(super) fn last() -> Errno {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = [0; 128];
        write!(f, "{} (os error {})", text(self.0, &mut room), self.0)
    }
}

/// The system's text for an errno. Needs no memory.
fn text(errno: i32, room: &mut [u8; 128]) -> &str {
    // SAFETY: the pointer and the length describe `room`, which is valid for writes.
    unsafe { libc::strerror_r(errno, room.as_mut_ptr().cast(), room.len()) };
    let text = CStr::from_bytes_until_nul(room).ok().and_then(|text| text.to_str().ok());
    text.filter(|text| !text.is_empty()).unwrap_or("Unknown error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_the_text_that_the_standard_library_has_for_it() {
        for errno in [1, libc::EIO, libc::ENOMEM, 133, 9999] {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            assert_eq!(Errno(errno).to_string(), text);
        }
    }
}
