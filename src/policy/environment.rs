// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the process's environment switches off: `VFIOMIG_DISABLE`.
//!
//! It is read once, when it is first needed: what a process was started with does not change, and
//! reading it later might meet a thread that changes the environment.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::switch::Directions;

/// What the environment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Disabled {
    pub directions: Directions,
    /// There was a word that nobody knows, which switches everything off.
    pub misspelt: bool,
}

/// What was read: the directions' bits, and these.
static READ: AtomicU32 = AtomicU32::new(0);
const HAS_BEEN_READ: u32 = 1 << 31;
const MISSPELT: u32 = 1 << 30;

/// What the environment switches off.
pub(super) fn disabled() -> Disabled {
    let mut read = READ.load(Ordering::Relaxed);
    if read == 0 {
        let found = std::env::var_os("VFIOMIG_DISABLE");
        let found = parse(found.as_deref().unwrap_or_default());
        let misspelt = if found.misspelt { MISSPELT } else { 0 };
        read = HAS_BEEN_READ | misspelt | found.directions.bits();
        // Other threads have read the same.
        READ.store(read, Ordering::Relaxed);
    }
    let bits = read & Directions::all().bits();
    let directions = Directions::from_bits(bits).unwrap_or(Directions::all());
    Disabled { directions, misspelt: read & MISSPELT != 0 }
}

/// Words between commas. Nothing, and 0, switch nothing off.
fn parse(value: &OsStr) -> Disabled {
    let everything = Disabled { directions: Directions::all(), misspelt: true };
    let Some(value) = value.to_str() else { return everything };
    let mut directions = Directions::empty();
    if value == "0" {
        return Disabled { directions, misspelt: false };
    }
    for word in value.split(',').filter(|_| !value.is_empty()) {
        directions |= match word.trim_matches([' ', '\t']) {
            "save" => Directions::SAVE,
            "load" => Directions::LOAD,
            "all" | "1" => Directions::all(),
            _ => return everything,
        };
    }
    Disabled { directions, misspelt: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn words_switch_directions_off_and_what_nobody_knows_switches_off_both() {
        let (save, load) = (Directions::SAVE, Directions::LOAD);
        let good: [(&str, Directions); 9] = [
            ("", Directions::empty()),
            ("0", Directions::empty()),
            ("1", Directions::all()),
            ("all", Directions::all()),
            ("save", save),
            ("load", load),
            ("load,save", Directions::all()),
            ("save, save", save),
            (" load ", load),
        ];
        for (value, directions) in good {
            let expected = Disabled { directions, misspelt: false };
            assert_eq!(parse(OsStr::new(value)), expected, "{value:?}");
        }
        let bad =
            ["yes", "no", "Save", "save,", ",", " ", "0,1", "0,save", "true", "2", "save load"];
        let everything = Disabled { directions: Directions::all(), misspelt: true };
        for value in bad {
            assert_eq!(parse(OsStr::new(value)), everything, "{value:?}");
        }
        assert_eq!(parse(OsStr::from_bytes(b"save\xff")), everything);
    }
}
