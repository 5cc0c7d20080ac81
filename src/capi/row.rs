// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `api.toml` says about kinds of handles and about functions, as the guards need it: the
//! types that `table.rs` uses.

use crate::error::Code;

/// A kind of handle.
pub(super) struct Kind {
    /// What distinguishes its handles from those of other kinds: 1 to 15.
    pub number: u8,
    /// Its name in C, without the prefix.
    pub name: &'static str,
    /// Names of its objects' states, in the order of their bits.
    pub states: &'static [&'static str],
    /// Whether a call waits for one on another thread, instead of returning -EBUSY.
    pub waits: bool,
}

/// A function.
pub(super) struct Row {
    /// Name in C.
    pub name: &'static str,
    /// States in which it is allowed, as bits.
    pub states: u32,
    /// What it returns in other states.
    pub wrong_state: Code,
    /// Whether it may return that there is no memory.
    pub needs_memory: bool,
    /// Codes that it may return, as bits in the order of [`Code::ALL`]. For one that returns
    /// nothing, those that it may leave in `vfiomig_error_message()`.
    pub errors: u32,
}

impl Row {
    /// Whether `api.toml`, and so the manual, lists this code.
    pub(super) fn lists(&self, code: Code) -> bool {
        let mut listed = (0..).zip(Code::ALL).filter(|(bit, _)| self.errors & (1 << bit) != 0);
        listed.any(|(_, listed)| *listed == code)
    }
}

const _: () = assert!(Code::ALL.len() <= u32::BITS as usize);
