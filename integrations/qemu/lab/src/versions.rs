// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which QEMUs take part, by the part that they have, and what machine types two of them share.
//!
//! `QEMU_SERIES` in the environment is the newest; `programs.sh` puts the builds where their parts
//! are called, and leaves out those that there are not.

use std::path::Path;

use crate::vm::Side;

/// The newest QEMU, as it is.
pub const STOCK: Side = Side { build: "stock", props: "" };
/// The newest, with the library.
pub const PATCHED: Side = Side { build: "patched", props: ",x-vfiomig=on" };
/// The same with the library's own format.
pub const NATIVE: Side = Side { build: "patched", props: ",x-vfiomig=on,x-vfiomig-format=native" };
/// The one before the newest, as it is.
pub const PREVIOUS: Side = Side { build: "previous", props: "" };
/// The one of Debian stable, as it is.
pub const STABLE: Side = Side { build: "stable", props: "" };

/// A versioned machine type, which both sides must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The newest QEMU's.
    Newest,
    /// One before 11.1, where the target says once for all devices that it has the initial data.
    Legacy,
    /// That of the QEMU before the newest.
    Previous,
    /// That of Debian stable's.
    Stable,
}

impl Machine {
    /// As QEMU calls it. `None`: the newest QEMU does not have it.
    pub fn name(self) -> Option<&'static str> {
        let both = || (series() == "11.1").then_some(());
        match self {
            Machine::Newest => Some(newest()),
            Machine::Legacy => both().map(|()| "pc-q35-11.0"),
            Machine::Previous => both().map(|()| "pc-q35-10.2"),
            Machine::Stable => Some("pc-q35-10.0"),
        }
    }
}

/// The machine type of the newest QEMU.
pub fn newest() -> &'static str {
    if series() == "10.2" { "pc-q35-10.2" } else { "pc-q35-11.1" }
}

/// Whether this side's build is in the lab.
pub fn exists(dir: &Path, side: Side) -> bool {
    dir.join("qemu").join(side.build).exists()
}

fn series() -> String {
    std::env::var("QEMU_SERIES").unwrap_or_else(|_| "11.1".to_owned())
}
