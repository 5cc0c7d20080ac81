// SPDX-License-Identifier: MIT OR Apache-2.0
//! How quirks are listed: each a bit of a number, with a name.

macro_rules! quirks {
    ($($(#[doc = $doc:literal])* $name:ident = $bit:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: u64 = 1 << $bit;)*
        /// All of them, with their names.
        pub const ALL: &[(u64, &str)] = &[$(($name, stringify!($name)),)*];
    };
}

pub(crate) use quirks;
