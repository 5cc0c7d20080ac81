// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_version*`: the versions of the header at compile time and of the library at run time.

use std::ffi::c_char;

/// Major version.
pub const VFIOMIG_VERSION_MAJOR: u32 = 0;
/// Minor version; increases when something is added.
pub const VFIOMIG_VERSION_MINOR: u32 = 1;
/// Patch version.
pub const VFIOMIG_VERSION_PATCH: u32 = 0;

/// Returns the library's version at run time: major << 16 | minor << 8 | patch. Compare it with
/// VFIOMIG_VERSION, which the caller was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_version() -> u32 {
    VFIOMIG_VERSION_MAJOR << 16 | VFIOMIG_VERSION_MINOR << 8 | VFIOMIG_VERSION_PATCH
}

/// Returns the library's version at run time as a text, for example "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_versions_agree() {
        // SAFETY: a static NUL-terminated string.
        let text = unsafe { std::ffi::CStr::from_ptr(vfiomig_version_string()) };
        let numbers = [VFIOMIG_VERSION_MAJOR, VFIOMIG_VERSION_MINOR, VFIOMIG_VERSION_PATCH];
        let joined = numbers.map(|n| n.to_string()).join(".");
        assert_eq!(text.to_str().unwrap(), joined);
        assert_eq!(vfiomig_version().to_be_bytes()[1..], numbers.map(|n| n as u8));
    }
}
