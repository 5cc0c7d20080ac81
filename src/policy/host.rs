// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy files of this process: the host's, and those that were named besides.
//!
//! They are looked at again when a session begins, and while one goes on after [`LOOK_AGAIN`] at
//! the earliest, by whichever session calls. Whatever they say is one for the process.

use std::ffi::CStr;
use std::path::Path;
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::file::{PolicyFile, Why};
use super::place::Place;
use crate::alloc;
use crate::error::{Result, err};
use crate::switch::Direction;
use crate::sync::global::{Mutex, MutexGuard};
use crate::sys::PerProcess;
use crate::sys::file::has_more_rights_than_its_caller;

/// How long a session goes on by what was seen of the policy, at most, while calls are made.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where the host's configuration is; packagers set it when the library is built.
const SYSCONFDIR: &str = match option_env!("VFIOMIG_SYSCONFDIR") {
    Some(directory) => directory,
    None => "/etc",
};
const _: () = assert!(
    matches!(SYSCONFDIR.as_bytes(), [b'/', ..]),
    "VFIOMIG_SYSCONFDIR is not an absolute path"
);

/// Two texts, one after the other.
const fn joined<const N: usize>(head: &str, tail: &str) -> [u8; N] {
    let mut out = [0; N];
    let mut to: &mut [u8] = &mut out;
    let (mut from, mut after) = (head.as_bytes(), tail.as_bytes());
    while let Some((slot, rest)) = to.split_first_mut() {
        if from.is_empty() {
            (from, after) = (after, &[]);
        }
        if let [byte, more @ ..] = from {
            *slot = *byte;
            from = more;
        }
        to = rest;
    }
    out
}

/// The host's directory, with a NUL, and its file.
static FOLDER: [u8; SYSCONFDIR.len() + "/vfiomig\0".len()] = joined(SYSCONFDIR, "/vfiomig\0");
static PATH: [u8; SYSCONFDIR.len() + "/vfiomig/policy.conf".len()] =
    joined(SYSCONFDIR, "/vfiomig/policy.conf");

/// The path of the host's policy file.
pub(super) fn host_file() -> &'static str {
    std::str::from_utf8(&PATH).unwrap_or_default()
}

/// Where the host's policy file is.
pub(super) fn host_place() -> Place {
    let folder = CStr::from_bytes_with_nul(&FOLDER).unwrap_or_default();
    Place::of_host(folder, c"policy.conf", host_file())
}

/// The most files.
const MAX_FILES: usize = 16;

/// The policy files of a process.
#[derive(Clone)]
pub(super) struct Host {
    host: PolicyFile,
    /// Those that were named besides.
    named: Vec<PolicyFile>,
    /// Why nothing is known: everything is denied.
    unknown: Option<String>,
    looked: Instant,
    /// Increases when something else is said.
    version: u64,
}

impl Host {
    fn new() -> Host {
        let host = PolicyFile::new(host_place());
        let mut host =
            Host { host, named: Vec::new(), unknown: None, looked: Instant::now(), version: 1 };
        let named = std::env::var_os("VFIOMIG_POLICY").filter(|path| !path.is_empty());
        // Whoever started a process with more rights than his own is not to choose what it opens.
        if let Some(path) = named.filter(|_| !has_more_rights_than_its_caller()) {
            match Place::new(None, Path::new(&path), true, false) {
                Ok(place) => host.named.push(PolicyFile::new(place)),
                Err(error) => host.unknown = Some(format!("VFIOMIG_POLICY: {}", error.message())),
            }
        }
        host
    }

    /// Looks at the files again.
    fn look_again(&mut self) {
        let mut changed = false;
        for file in std::iter::once(&mut self.host).chain(&mut self.named) {
            changed |= file.look_again();
        }
        self.version += u64::from(changed);
        self.looked = Instant::now();
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Why a device is denied this direction, if it is.
    pub fn denies(&self, direction: Direction, device: &Facts<'_>) -> Option<Why<'_>> {
        if let Some(why) = &self.unknown {
            return Some(Why::Unusable(why));
        }
        let mut files = std::iter::once(&self.host).chain(&self.named);
        files.find_map(|file| file.denies(direction, device))
    }

    /// What a child starts with. Another thread of its parent may have been in here.
    fn inherited(parents: &Mutex<Option<Host>>) -> Option<Host> {
        let Ok(parents) = parents.try_lock() else {
            let why = "this process was forked while another thread read the policy";
            return Some(Host { unknown: Some(why.to_owned()), ..Host::new() });
        };
        parents.clone()
    }
}

/// Nobody calls back or waits for anything else while it is held.
static HOST: PerProcess<Mutex<Option<Host>>> = PerProcess::new(Mutex::new(None));

fn place() -> &'static Mutex<Option<Host>> {
    HOST.get(|parents| Mutex::new(Host::inherited(parents)))
}

fn lock() -> MutexGuard<'static, Option<Host>> {
    place().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks this process's policy, after a look at the files.
pub(super) fn ask<R>(question: impl FnOnce(&Host) -> R) -> R {
    let mut place = lock();
    let host = match &mut *place {
        Some(host) => {
            host.look_again();
            host
        }
        empty @ None => empty.insert(Host::new()),
    };
    question(host)
}

/// The same for a session that goes on, without a look if that was done within [`LOOK_AGAIN`]. None:
/// another thread is looking, perhaps at a file system that does not answer. Nobody waits for that
/// in the middle of a migration.
pub(super) fn ask_again<R>(question: impl FnOnce(&Host) -> R) -> Option<R> {
    let mut place = match place().try_lock() {
        Ok(place) => place,
        Err(TryLockError::Poisoned(place)) => place.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let host = place.get_or_insert_with(Host::new);
    if host.looked.elapsed() >= LOOK_AGAIN {
        host.look_again();
    }
    Some(question(host))
}

/// Adds a file, if it can be used.
pub(super) fn add(place: Place) -> Result<()> {
    let file = PolicyFile::new(place);
    if let super::file::Says::Unusable(why) = file.says() {
        return Err(err!(Inval, "{why}"));
    }
    let mut locked = lock();
    let host = locked.get_or_insert_with(Host::new);
    if host.named.iter().any(|named| named.place().is(file.place())) {
        return Ok(());
    }
    if host.named.len() >= MAX_FILES {
        return Err(err!(Inval, "there are {MAX_FILES} policy files already"));
    }
    alloc::push(&mut host.named, file, "no memory for a policy file")?;
    host.version += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    /// What its parent was reading when it forked cannot be known; nor is that forgotten.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_child_of_a_parent_in_the_middle_of_reading_denies() {
        let identity = Identity::default();
        let device = Facts { name: None, identity: &identity };
        let nothing = Place::of_host(c"/nowhere", c"policy.conf", "");
        let host = PolicyFile::new(nothing);
        let empty =
            Host { host, named: Vec::new(), unknown: None, looked: Instant::now(), version: 7 };
        let parents = Mutex::new(Some(empty));
        let calm = Host::inherited(&parents).unwrap();
        assert_eq!((calm.version(), calm.denies(Direction::Save, &device)), (7, None));
        assert!(Host::inherited(&Mutex::new(None)).is_none());
        let reading = parents.lock().unwrap();
        let child = Mutex::new(Host::inherited(&parents));
        drop(reading);
        for host in [Host::inherited(&child).unwrap(), child.into_inner().unwrap().unwrap()] {
            assert!(matches!(host.denies(Direction::Load, &device), Some(Why::Unusable(_))));
        }
    }
}
