// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a device may be saved or loaded here: asked when a device is opened, when a session
//! begins, and again while it goes on.

use std::borrow::Cow;
use std::time::Instant;

use super::environment::{self, Disabled};
use super::facts::Facts;
use super::file::Why;
use super::host::{self, Host, LOOK_AGAIN};
use crate::error::{Error, Result, err};
use crate::switch::{Direction, Directions, Permission};
use crate::text;

/// Who switched migration off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// The process's environment.
    Environment,
    /// A call in this process.
    Process,
    /// A policy file.
    Policy,
}

/// Why something is denied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Denial {
    pub level: Level,
    pub directions: Directions,
    /// Who switched it off, and how it is switched on.
    pub text: Cow<'static, str>,
}

/// What is said of a device.
pub(crate) struct Verdict {
    pub denials: Vec<Denial>,
    permissions: [Option<Permission>; 2],
    version: u64,
}

/// A session's permission.
pub(crate) struct Permit {
    direction: Direction,
    version: u64,
    looked: Instant,
}

impl Denial {
    fn new(level: Level, directions: Directions, text: std::fmt::Arguments<'_>) -> Denial {
        let without_memory = "migration is switched off, and there is no memory to say by whom";
        let text = text::format(text).map_or(Cow::Borrowed(without_memory), Cow::Owned);
        Denial { level, directions, text }
    }

    fn of_policy(directions: Directions, why: Why<'_>) -> Denial {
        let what = doing(directions);
        match why {
            Why::Line(file, line) => Denial::new(
                Level::Policy,
                directions,
                format_args!(
                    "{what} is switched off by {file}, line {line}: whoever administers this host can \
                     change that line"
                ),
            ),
            Why::Unusable(why) => Denial::new(
                Level::Policy,
                directions,
                format_args!(
                    "{what} is switched off because the host's policy cannot be used: {why} (\"vfiomig \
                     policy check\" tells when it is right)"
                ),
            ),
        }
    }
}

/// What is done in these directions.
fn doing(directions: Directions) -> &'static str {
    match Direction::BOTH.iter().find(|direction| direction.alone() == directions) {
        Some(direction) => direction.doing(),
        None => "migration",
    }
}

/// Asks who switched migration of a device off.
pub(crate) fn judge(device: &Facts<'_>) -> Verdict {
    let mut denials = Vec::new();
    // First of all: whatever is turned off from here on, the session will see.
    let permissions = Direction::BOTH.map(Permission::of);
    let Disabled { directions, misspelt } = environment::disabled();
    if !directions.is_empty() {
        let what = doing(directions);
        let (because, instead) = match misspelt {
            false => ("by VFIOMIG_DISABLE in this process's environment", "start it without"),
            true => (
                "because VFIOMIG_DISABLE in this process's environment has an unknown word",
                "start it with save, load, all, or nothing there",
            ),
        };
        denials.push(Denial::new(
            Level::Environment,
            directions,
            format_args!("{what} is switched off {because}: {instead}"),
        ));
    }
    let off = Direction::BOTH
        .into_iter()
        .zip(&permissions)
        .filter(|(_, permission)| permission.is_none())
        .fold(Directions::empty(), |off, (direction, _)| off | direction.alone());
    if !off.is_empty() {
        let what = doing(off);
        denials.push(Denial::new(
            Level::Process,
            off,
            format_args!(
                "{what} is switched off in this process: the VMM did that, and can switch it on \
                 again (vfiomig_process_set_allowed())"
            ),
        ));
    }
    let version = host::ask(|host| {
        add_policy(&mut denials, host, device);
        host.version()
    });
    Verdict { denials, permissions, version }
}

fn add_policy(denials: &mut Vec<Denial>, host: &Host, device: &Facts<'_>) {
    let [save, load] = Direction::BOTH.map(|direction| host.denies(direction, device));
    match (save, load) {
        (Some(save), Some(load)) if save == load => {
            denials.push(Denial::of_policy(Directions::all(), save));
        }
        _ => {
            for (direction, why) in Direction::BOTH.into_iter().zip([save, load]) {
                denials.extend(why.map(|why| Denial::of_policy(direction.alone(), why)));
            }
        }
    }
}

impl Verdict {
    /// The permission for a session, or who denies it.
    pub fn permit(&self, direction: Direction) -> Result<(Permit, Permission)> {
        let wanted = direction.alone();
        if let Some(denial) = self.denials.iter().find(|denial| denial.directions.contains(wanted))
        {
            log::warn!(target: "vfiomig::policy", "{}", denial.text);
            return Err(err!(Perm, "{}", denial.text));
        }
        let [save, load] = self.permissions;
        let permission = match direction {
            Direction::Save => save,
            Direction::Load => load,
        };
        let permission = permission.ok_or_else(|| cut_off_by_process(direction))?;
        Ok((Permit { direction, version: self.version, looked: Instant::now() }, permission))
    }
}

impl Permit {
    /// Whether the session may still go on. Looks at the policy's files from time to time.
    pub fn check(&mut self, device: &Facts<'_>) -> Result<()> {
        if self.looked.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        let denial = host::ask_again(|host| {
            let denial = match host.version() == self.version {
                true => None,
                false => host.denies(self.direction, device),
            };
            self.version = host.version();
            denial.map(|why| Denial::of_policy(self.direction.alone(), why))
        });
        self.looked = Instant::now();
        match denial.flatten() {
            None => Ok(()),
            Some(denial) => {
                let session = self.direction.session();
                let error = err!(Perm, "the {session} was cut off: {}", denial.text);
                log::warn!(target: "vfiomig::policy", "{error}");
                Err(error)
            }
        }
    }
}

/// What a session's calls return after the process's switch was turned off.
pub(crate) fn cut_off_by_process(direction: Direction) -> Error {
    let (session, doing) = (direction.session(), direction.doing());
    err!(
        Perm,
        "the {session} was cut off: the VMM switched {doing} off in this process \
         (vfiomig_process_set_allowed())"
    )
}
