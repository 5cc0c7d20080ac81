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
}
