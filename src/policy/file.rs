// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy file, as this process last saw it.

use super::facts::Facts;
use super::place::{Fault, Look, Place};
use super::rules::Rules;
use crate::error::{Result, err};
use crate::switch::Direction;
use crate::text;

/// What a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Says {
    /// It is not there, and need not be.
    Nothing,
    Rules(Rules),
    /// It cannot be used, and why: everything is denied.
    Unusable(String),
}

/// A policy file, as this process last saw it.
#[derive(Clone)]
pub(super) struct PolicyFile {
    place: Place,
    look: Look,
    /// Whether the next change is certain to show in `look`.
    settled: bool,
    says: Says,
}

impl PolicyFile {
    /// Reads it for the first time.
    pub fn new(place: Place) -> PolicyFile {
        let mut file =
            PolicyFile { place, look: Look::Nothing, settled: false, says: Says::Nothing };
        file.read(true);
        file
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn says(&self) -> &Says {
        &self.says
    }

    /// Looks whether it has changed, and reads it again if so. Returns whether it says something
    /// else now.
    pub fn look_again(&mut self) -> bool {
        if self.settled && self.place.look() == self.look {
            return false;
        }
        self.read(false)
    }

    fn read(&mut self, first: bool) -> bool {
        let (look, bytes) = self.place.read();
        // A process without descriptors or memory to look learns nothing of the file: what was said
        // before goes on, and the next look is a new one.
        if !first && matches!(&bytes, Err(fault) if fault.is_shortage()) {
            self.settled = false;
            return false;
        }
        self.settled = look.is_settled();
        self.look = look;
        let says = match bytes {
            Ok(bytes) => match Rules::parse(&bytes) {
                Ok(rules) => Says::Rules(rules),
                Err(error) => self.unusable(format_args!("{error}")),
            },
            // Nobody can tell a file that was removed from one that a sandbox hides. So what was
            // seen goes on until something else takes its place.
            Err(Fault::Missing) if self.says != Says::Nothing => return false,
            Err(Fault::Missing) if self.place.optional => Says::Nothing,
            Err(fault) => self.unusable(format_args!("{fault}")),
        };
        let changed = says != self.says;
        self.says = says;
        changed
    }

    fn unusable(&self, why: std::fmt::Arguments<'_>) -> Says {
        let text = text::format(format_args!("{}: {why}", self.place.shown()));
        Says::Unusable(text.unwrap_or_default())
    }

    /// Why it denies a device this direction, if it does.
    pub fn denies(&self, direction: Direction, device: &Facts<'_>) -> Option<Why<'_>> {
        match &self.says {
            Says::Nothing => None,
            Says::Rules(rules) => {
                rules.denies(direction, device).map(|line| Why::Line(self.place.shown(), line))
            }
            Says::Unusable(text) => Some(Why::Unusable(text)),
        }
    }
}

/// Why a file denies something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why<'a> {
    /// A line of it says so.
    Line(&'a str, usize),
    /// It cannot be used.
    Unusable(&'a str),
}

/// Reads a file once, for the error that it has.
pub(super) fn check(place: Place) -> Result<Rules> {
    let file = PolicyFile::new(place);
    match file.says {
        Says::Rules(rules) => Ok(rules),
        Says::Unusable(text) => Err(err!(Inval, "{text}")),
        Says::Nothing => Err(err!(NoData, "{}: it does not exist", file.place.shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, remove_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    /// File systems count time in steps: a second change within one may leave no trace.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_file_that_has_just_changed_is_read_again_at_each_look() {
        let directory = std::env::temp_dir().join(format!("vfiomig-new-{}", std::process::id()));
        create_dir(&directory).unwrap();
        set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        let path = directory.join("policy.conf");
        write(&path, "deny\n").unwrap();
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut file = PolicyFile::new(Place::new(None, &path, true, false).unwrap());
        assert!(matches!(file.says, Says::Rules(_)) && !file.settled);
        assert!(!file.look_again() && !file.settled);
        // Nothing is expected of one that is not there.
        let nothing = Place::of_host(c"/nowhere", c"policy.conf", "");
        assert!(PolicyFile::new(nothing).settled);
        remove_dir_all(&directory).unwrap();
    }
}
