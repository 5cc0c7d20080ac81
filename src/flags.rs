// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of flags: a type for each, so that one is not taken for another, over the bits that C and
//! the kernel have for them.
//!
//! The methods have the names that they have in the crate `bitflags`, of which this is the small
//! part that the library needs.

use std::fmt;

/// Makes the type of a set of flags. It holds only flags that are listed. Whoever makes one of
/// somebody else's number either refuses others (`from_bits`), or the set keeps them: the `open`
/// ones, which are the kernel's, and have `from_bits_retain`.
macro_rules! flags {
    (
        $(#[$doc:meta])*
        open $type:ident: $bits:ident { $($flags:tt)+ }
    ) => {
        $crate::flags::flags! { $(#[$doc])* $type: $bits { $($flags)+ } }

        impl $type {
            /// The flags of a number, with those that have no name here.
            pub const fn from_bits_retain(bits: $bits) -> $type {
                $type(bits)
            }
        }
    };
    (
        $(#[$doc:meta])*
        $type:ident: $bits:ident { $($(#[$flag_doc:meta])+ $flag:ident = $bit:expr;)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $type($bits);

        impl $type {
            $($(#[$flag_doc])+ pub const $flag: $type = $type($bit);)+

            const NAMES: &'static [(u64, &'static str)] =
                &[$(($type::$flag.0 as u64, stringify!($flag)),)+];

            /// No flag.
            pub const fn empty() -> $type {
                $type(0)
            }

            /// Every flag that has a name here.
            pub const fn all() -> $type {
                $type($($bit)|+)
            }

            /// The number that stands for them, in C and in the kernel.
            pub const fn bits(self) -> $bits {
                self.0
            }

            /// The flags of a number; none if there is one among them that has no name here.
            pub const fn from_bits(bits: $bits) -> Option<$type> {
                if bits & !$type::all().0 == 0 { Some($type(bits)) } else { None }
            }

            /// Whether no flag is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether all of these are set.
            pub const fn contains(self, flags: $type) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Those of both.
            pub const fn union(self, other: $type) -> $type {
                $type(self.0 | other.0)
            }
        }

        impl std::ops::BitOr for $type {
            type Output = $type;

            fn bitor(self, other: $type) -> $type {
                self.union(other)
            }
        }

        impl std::ops::BitOrAssign for $type {
            fn bitor_assign(&mut self, other: $type) {
                *self = *self | other;
            }
        }

        impl std::ops::Sub for $type {
            type Output = $type;

            fn sub(self, other: $type) -> $type {
                $type(self.0 & !other.0)
            }
        }

        /// Names, and the number of what has none.
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::flags::write_names(f, self.0 as u64, $type::NAMES)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}
pub(crate) use flags;

pub(crate) fn write_names(
    f: &mut fmt::Formatter<'_>,
    bits: u64,
    names: &[(u64, &str)],
) -> fmt::Result {
    let mut rest = bits;
    let mut separator = "";
    for (bit, name) in names {
        if rest & bit != 0 {
            write!(f, "{separator}{name}")?;
            separator = " | ";
            rest &= !bit;
        }
    }
    match (rest, bits) {
        (_, 0) => f.write_str("none"),
        (0, _) => Ok(()),
        (rest, _) => write!(f, "{separator}{rest:#x}"),
    }
}

#[cfg(test)]
mod tests {
    flags! {
        /// A closed set.
        Own: u32 {
            /// One.
            ONE = 1 << 0;
            /// Four.
            FOUR = 1 << 2;
        }
    }

    flags! {
        /// A set that may get more.
        open Foreign: u64 {
            /// The highest.
            HIGH = 1 << 63;
        }
    }

    #[test]
    fn a_set_of_the_librarys_own_has_no_flags_without_a_name() {
        assert_eq!(Own::from_bits(5), Some(Own::ONE | Own::FOUR));
        assert_eq!(Own::from_bits(5), Some(Own::all()));
        assert_eq!(Own::all().bits(), 5);
        assert_eq!(Own::from_bits(0), Some(Own::empty()));
        for bits in [2, 3, 8, 1 << 31] {
            assert_eq!(Own::from_bits(bits), None, "{bits}");
        }
    }

    #[test]
    fn a_set_of_the_kernels_keeps_what_it_does_not_know() {
        let flags = Foreign::from_bits_retain(1 << 63 | 6);
        assert_eq!(flags.bits(), 1 << 63 | 6);
        assert!(flags.contains(Foreign::HIGH));
        assert_eq!((flags - Foreign::HIGH).bits(), 6);
        assert!(!(flags - Foreign::all()).is_empty());
        assert_eq!(Foreign::from_bits(6), None);
    }

    #[test]
    fn a_set_contains_another_one_only_as_a_whole() {
        let mut flags = Own::empty();
        assert!(flags.is_empty() && flags.contains(Own::empty()) && !flags.contains(Own::ONE));
        flags |= Own::ONE;
        assert!(!flags.is_empty() && flags.contains(Own::ONE) && !flags.contains(Own::all()));
        flags |= Own::FOUR;
        assert!(flags.contains(Own::all()));
        assert_eq!(flags - Own::ONE, Own::FOUR);
    }

    #[test]
    fn a_set_is_told_by_the_names_of_its_flags() {
        assert_eq!(Own::empty().to_string(), "none");
        assert_eq!(Own::all().to_string(), "ONE | FOUR");
        assert_eq!(format!("{:?}", Own::FOUR), "Own(FOUR)");
        assert_eq!(Foreign::from_bits_retain(1 << 63 | 6).to_string(), "HIGH | 0x6");
        assert_eq!(Foreign::from_bits_retain(6).to_string(), "0x6");
        assert_eq!(Foreign::empty().to_string(), "none");
    }
}
