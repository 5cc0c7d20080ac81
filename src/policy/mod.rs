// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may switch migration off, beside a device's own option: this process ([`set_allowed`], or
//! `VFIOMIG_DISABLE` in its environment), and this host, by a policy file.
//!
//! Each only ever forbids. All are asked when a device is opened and when a session begins; a
//! session that goes on is cut off when one of them changes its mind. What that means to a session
//! is up to the session. docs/security.md has the whole of it, vfiomig-policy(5) the file.

mod environment;
mod facts;
mod file;
mod host;
mod permit;
mod place;
mod rules;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

pub use crate::switch::{Direction, Directions};
pub use facts::Facts;
pub(crate) use permit::{Denial, Level, Permit, cut_off_by_process, judge};
pub use rules::{MAX_FILE, MAX_LINES, Rules, SyntaxError};

use crate::error::Result;
use crate::switch;
use place::Place;

/// Allows these directions in this process and no others. Sessions in the others are cut off: their
/// calls fail with [`Code::Perm`], and what they leave behind is as after any error. Allowing a
/// direction again lets new sessions begin. May be called from any thread at any time.
///
/// [`Code::Perm`]: crate::error::Code::Perm
pub fn set_allowed(allowed: Directions) {
    switch::set_allowed(allowed);
}

/// What [`set_allowed`] allows now. The environment and the host's policy may forbid more.
pub fn allowed() -> Directions {
    switch::allowed()
}

/// How a policy file is named.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The directory that `path` is relative to; the library keeps a duplicate.
    pub directory: Option<BorrowedFd<'a>>,
    /// Absolute, if there is no directory.
    pub path: &'a Path,
    /// Whether it may be missing. It then forbids nothing, until it is there.
    pub optional: bool,
}

/// Has this process also keep to another policy file, which can only forbid more than the host's.
/// It belongs to root or to the process's user. Refuses one that cannot be used; if that happens
/// later, it forbids everything.
pub fn add_file(named: Named<'_>) -> Result<()> {
    host::add(Place::new(named.directory, named.path, true, named.optional)?)
}

/// Where the host's policy file is, or would be.
pub fn host_file() -> PathBuf {
    host::host_file().into()
}

/// Reads the host's policy file as sessions do. [`Code::NoData`]: there is none.
///
/// [`Code::NoData`]: crate::error::Code::NoData
pub fn check_host_file() -> Result<Rules> {
    file::check(host::host_place())
}

#[cfg(test)]
mod tests;
