// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of the C ABI. Each constant stands for one of the core's; the compiler checks that they
//! agree.

/// Whether a flag is set.
pub(super) fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

/// Each variant of an enumeration has the number of a constant, and no variant lacks one.
macro_rules! same_numbers {
    ($type:ident: $($constant:ident = $variant:ident),+ $(,)?) => {
        const _: () = {
            $(assert!($type::$variant as i64 == $constant as i64, stringify!($constant));)+
            // Does not compile if a variant is missing above.
            const fn _all(value: $type) {
                match value {
                    $($type::$variant => (),)+
                }
            }
        };
    };
    // Constants of the core that are not variants.
    ($($constant:ident = $value:expr),+ $(,)?) => {
        const _: () = { $(assert!($constant as i64 == $value as i64, stringify!($constant));)+ };
    };
}
pub(super) use same_numbers;

/// Each flag of a set has the number of a constant, and no flag lacks one.
macro_rules! same_flags {
    ($type:ident: $($constant:ident = $flag:ident),+ $(,)?) => {
        const _: () = {
            $(assert!($type::$flag.bits() == $constant, stringify!($constant));)+
            assert!($type::all().bits() == $($constant)|+, "a flag has no constant");
        };
    };
}
pub(super) use same_flags;
