// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking a checkpoint, in the steps between which a VMM has things to do.
//!
//! Whatever fails, the devices go back to their guest: what is wrong with the file is an error of
//! the checkpoint and of nothing else. No file has the final name before all of it is there.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::member::{Came, Member};
use super::place::Place;
use super::shared_auth::SharedAuth;
use super::spool::Spool;
use super::stats::{Watcher, add, set};
use super::store::Store;
use crate::alloc;
use crate::device::Device;
use crate::error::{Code, Error, Result, err};
use crate::nanoseconds::elapsed_ns;
use crate::private::Private;
use crate::session::{Ending, SaveOptions, SaveStatus};
use crate::stream::checkpoint::{
    MAX_DEVICES, MAX_NAME, MAX_NOTE, Manifest, encode_head, encode_manifest,
};
use crate::stream::{Auth, Format};
use crate::sys::random_bytes;

/// What is read from a device at once if it does not go to memory, in bytes.
const BUFFER: usize = 1 << 20;
/// No frame is longer, with what surrounds it, in bytes.
const LONGEST: usize = (1 << 30) + (1 << 12);
/// The least room that a stopped device is given, in bytes.
const LEAST: usize = 64 << 10;
/// What streams take beyond a device's own data, in bytes, for estimates.
const AROUND: u64 = 1 << 20;
/// Estimates beyond this are a driver's mistake, in bytes.
const CREDIBLE: u64 = 1 << 42;

/// How a checkpoint is written.
#[derive(Debug)]
pub struct WriterOptions {
    /// The caller's number for it.
    pub generation: u64,
    /// When it was made, in nanoseconds since 1970; `None`: now.
    pub created_ns: Option<u64>,
    /// Data of the caller's own, at most 4096 bytes.
    pub note: Vec<u8>,
    /// Authenticates the streams, and the manifest that ties them together.
    pub auth: Option<Auth>,
    /// What stopped devices say goes to memory of at most so many bytes first, and to the file once
    /// they have left that state. What does not fit goes to the file at once. 0: all of it.
    pub spool: u64,
    /// Whether the file is to survive a loss of power from the moment at which it has its name.
    pub durable: bool,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            generation: 0,
            created_ns: None,
            note: Vec::new(),
            auth: None,
            spool: 0,
            durable: true,
        }
    }
}

/// How the guest goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guest {
    /// Its devices go back to where they were.
    GoesOn,
    /// It stays here and does not run: its devices go to STOP.
    Stopped,
}

/// How far a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The devices are where they were, or in pre-copy.
    Running,
    /// They are stopped, and not all has been read.
    Stopped,
    /// All has been read.
    Complete,
    /// They are back.
    Resumed,
    /// The file has its name.
    Committed,
}

/// A checkpoint that is being taken.
pub struct Writer {
    place: Option<Place>,
    store: Store,
    spool: Option<Spool>,
    buf: Private,
    members: Vec<Member>,
    auth: Option<SharedAuth>,
    id: [u8; 16],
    options: WriterOptions,
    phase: Phase,
    /// Why there will be no file.
    failed: Option<Error>,
    paused: Option<Instant>,
    watcher: Watcher,
}

impl Writer {
    /// Begins to write what will be the file `path`.
    pub fn create(path: &Path, options: WriterOptions) -> Result<Writer> {
        let path = c_path(path)?;
        Writer::create_at(None, &path, options)
    }

    /// The same for a path that begins in a directory.
    pub fn create_at(
        directory: Option<BorrowedFd<'_>>,
        path: &CStr,
        options: WriterOptions,
    ) -> Result<Writer> {
        let mut options = options;
        if options.note.len() > MAX_NOTE {
            return Err(err!(Inval, "a note has {MAX_NOTE} bytes at most"));
        }
        if let Some(auth) = &options.auth {
            auth.check()?;
            if auth.allow_unauthenticated {
                return Err(err!(Inval, "a checkpoint is authenticated, or it is not"));
            }
        }
        let mut id = [0; 16];
        random_bytes(&mut id).map_err(|e| err!(Io, "no random bytes for a name: {e}"))?;
        let auth = options.auth.take().map(SharedAuth::new);
        let spool = match options.spool {
            0 => None,
            most => Some(Spool::new(most)?),
        };
        let mut buf = Private::new();
        buf.lengthen(BUFFER, "no memory to read devices")?;
        let watcher = Watcher::default();
        let mut store = Store::new(watcher.clone());
        let place = Place::begin(directory, path)?;
        store.head(place.file(), &encode_head(id, auth.is_some()))?;
        Ok(Writer {
            place: Some(place),
            store,
            spool,
            buf,
            members: Vec::new(),
            auth,
            id,
            options,
            phase: Phase::Running,
            failed: None,
            paused: None,
            watcher,
        })
    }

    /// Adds a device, and begins to save it: to PRE_COPY, if it has that. `name` is the caller's,
    /// and no other device of the checkpoint has it.
    pub fn add(&mut self, name: &str, device: &Device, options: SaveOptions) -> Result<()> {
        self.must_be(Phase::Running, "adding a device")?;
        self.check()?;
        if options.format != Format::Native {
            return Err(err!(Inval, "a checkpoint has streams of the native format"));
        }
        if options.auth.is_some() {
            return Err(err!(Inval, "what authenticates a checkpoint is said for all of it"));
        }
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(err!(
                Inval,
                "the name of a device has 1 to {MAX_NAME} bytes and no control characters"
            ));
        }
        if self.members.len() >= MAX_DEVICES {
            return Err(err!(MsgSize, "a checkpoint has {MAX_DEVICES} devices at most"));
        }
        if self.members.iter().any(|member| member.name == name) {
            return Err(err!(Inval, "two devices of a checkpoint have the same name"));
        }
        if self.members.iter().any(|member| member.is_taken(&options)) {
            return Err(err!(
                Inval,
                "two devices of a checkpoint have the same migration id and device index"
            ));
        }
        let what = "no memory for another device of the checkpoint";
        let name = alloc::text(name, what)?;
        alloc::grow(&mut self.members, 1, what)?;
        let auth = self.auth.as_ref().map(SharedAuth::lend);
        let member = Member::new(name, device.clone(), SaveOptions { auth, ..options })?;
        self.watcher.watch(member.save.shared())?;
        self.members.push(member);
        Ok(())
    }

    /// While the guest runs: reads what the devices have, until none has more for now, and makes
    /// room for what they will say when they are stopped. When they are stopped: reads all of it.
    pub fn read(&mut self) -> Result<()> {
        let result = match self.phase {
            Phase::Running => self.read_running().and_then(|()| self.prepare()),
            Phase::Stopped => self.read_stopped(),
            _ => return Err(self.not_now("reading the devices")),
        };
        self.note(result)
    }

    fn read_running(&mut self) -> Result<()> {
        self.check()?;
        let Writer { place, store, members, buf, watcher, .. } = self;
        let Some(place) = place else { return Err(gone()) };
        for member in members {
            // As long as there is more than it makes in the meantime.
            let pending = member.save.pending()?;
            let mut left = pending.initial_bytes.saturating_add(pending.dirty_bytes);
            left = left.min(CREDIBLE).saturating_mul(2).saturating_add(64 << 20);
            while member.may_go_on() {
                watcher.check()?;
                match member.read_to_file(buf, store, place.file())? {
                    Came::TooSmall => widen(buf)?,
                    Came::Bytes(SaveStatus::More, len) if len as u64 <= left => {
                        add(&watcher.0.stream_bytes, len as u64);
                        left -= len as u64;
                    }
                    Came::Bytes(_, len) => {
                        add(&watcher.0.stream_bytes, len as u64);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes room for what the devices are going to say.
    fn prepare(&mut self) -> Result<()> {
        let mut expected = 0u64;
        for member in &mut self.members {
            let bytes = member.save.pending()?.stop_copy_bytes;
            let bytes = if bytes > CREDIBLE { 0 } else { bytes };
            // Headers of frames, and the mistakes of drivers.
            expected = expected.saturating_add(bytes + bytes / 64 + AROUND);
        }
        let so_far = self.watcher.stats().stream_bytes;
        set(&self.watcher.0.expected_bytes, so_far.saturating_add(expected));
        let Some(place) = &self.place else { return Err(gone()) };
        self.store.allocate(place.file(), expected)?;
        if let Some(spool) = &mut self.spool {
            // Without memory, it goes to the file.
            if let Err(error) = spool.prepare(expected) {
                log::warn!(target: "vfiomig::checkpoint", "{error}");
            }
        }
        Ok(())
    }

    /// Stops the devices: all are quiesced before one is stopped. The vCPUs must have been stopped
    /// before. After an error, [`Writer::resume`] brings them back.
    pub fn stop(&mut self) -> Result<()> {
        self.must_be(Phase::Running, "stopping")?;
        if self.members.is_empty() {
            return Err(err!(Inval, "a checkpoint has a device at least"));
        }
        // If it was not done while the guest ran.
        if self.watcher.stats().expected_bytes == 0 {
            let prepared = self.prepare();
            self.note(prepared)?;
        }
        self.check()?;
        self.phase = Phase::Stopped;
        let begun = *self.paused.insert(Instant::now());
        let members = &mut self.members;
        let result = members
            .iter_mut()
            .try_for_each(|member| repeat(|| member.save.quiesce()))
            .and_then(|()| members.iter_mut().try_for_each(|m| repeat(|| m.save.stop())));
        set(&self.watcher.0.stop_ns, elapsed_ns(begun));
        self.note(result)
    }

    fn read_stopped(&mut self) -> Result<()> {
        self.check()?;
        let begun = Instant::now();
        let Writer { place, store, members, buf, watcher, spool, .. } = self;
        let Some(place) = place else { return Err(gone()) };
        for member in members.iter_mut() {
            let mut least = LEAST;
            while !member.ended {
                watcher.check()?;
                let spooled = match spool {
                    Some(spool) => member.read_to_memory(spool, least)?,
                    None => None,
                };
                match spooled {
                    Some(Came::TooSmall) if least < LONGEST => least *= 2,
                    Some(Came::Bytes(_, len)) => {
                        add(&watcher.0.spooled_bytes, len as u64);
                        watcher.came_stopped(len);
                    }
                    _ => match member.read_to_file(buf, store, place.file())? {
                        Came::TooSmall => widen(buf)?,
                        Came::Bytes(_, len) => watcher.came_stopped(len),
                    },
                }
            }
        }
        if let Some(spool) = spool {
            spool.seal();
        }
        set(&watcher.0.read_ns, elapsed_ns(begun));
        self.phase = Phase::Complete;
        Ok(())
    }

    /// Gives the devices back, whatever has happened: from where they wait for each other if there
    /// are several. An error says whether the guest may go on, like that of [`crate::Save::finish`].
    pub fn resume(&mut self, guest: Guest) -> Result<()> {
        if matches!(self.phase, Phase::Resumed | Phase::Committed) {
            return Err(self.not_now("giving the devices back"));
        }
        let ending = match (guest, self.members.len()) {
            (Guest::Stopped, _) => Ending::KeepStopped,
            (Guest::GoesOn, 0 | 1) => Ending::Keep,
            (Guest::GoesOn, _) => Ending::KeepQuiesced,
        };
        let mut result = Ok(());
        for member in &mut self.members {
            result = result.and(member.finish(ending));
        }
        // In a callback, a device that is in use does not go anywhere.
        if !self.members.iter().all(Member::is_finished) {
            return result;
        }
        if ending == Ending::KeepQuiesced {
            for member in &self.members {
                result = result.and(member.run_again());
            }
        }
        if self.phase != Phase::Complete && self.failed.is_none() {
            self.failed = Some(err!(NoData, "the devices went back before all had been read"));
        }
        self.phase = Phase::Resumed;
        if let Some(begun) = self.paused {
            set(&self.watcher.0.pause_ns, elapsed_ns(begun));
        }
        result
    }

    /// Writes what is still in memory, and the manifest, and gives the file its name. Until then an
    /// earlier checkpoint of that name is untouched, and after an error it is still there.
    pub fn commit(&mut self) -> Result<()> {
        self.must_be(Phase::Resumed, "completing the checkpoint")?;
        self.check()?;
        let result = self.write_rest();
        // The memory is needed no more, and neither is the file if it has no name.
        self.spool = None;
        if self.place.take().is_none() {
            return Err(gone());
        }
        if result.is_ok() {
            self.phase = Phase::Committed;
        }
        self.note(result)
    }

    fn write_rest(&mut self) -> Result<()> {
        let Writer { place, store, members, spool, auth, options, id, .. } = self;
        let Some(place) = place else { return Err(gone()) };
        let mut devices = Vec::new();
        for member in members.iter_mut() {
            if let Some(spool) = spool {
                member.unspool(spool, store, place.file())?;
            }
            alloc::push(&mut devices, member.entry()?, "no memory for the manifest")?;
        }
        let manifest = Manifest {
            id: *id,
            created_ns: options.created_ns.unwrap_or_else(now),
            generation: options.generation,
            note: std::mem::take(&mut options.note),
            key_id: None,
            devices,
        };
        let mut auth = auth.as_ref().map(SharedAuth::lend);
        let end = encode_manifest(&manifest, store.end(), auth.as_mut())?;
        store.finish(place.file(), &end)?;
        place.name(options.durable)
    }

    /// The part that any thread may use.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Why there will be no file, if that is so.
    pub fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// What failed stays failed: there will be no file.
    fn note(&mut self, result: Result<()>) -> Result<()> {
        result.inspect_err(|error| {
            if self.failed.is_none() {
                self.failed = Some(error.clone());
            }
        })
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.watcher.check(),
        }
    }

    fn must_be(&self, phase: Phase, what: &str) -> Result<()> {
        match self.phase == phase {
            true => Ok(()),
            false => Err(self.not_now(what)),
        }
    }

    fn not_now(&self, what: &str) -> Error {
        let when = match self.phase {
            Phase::Running => "before the devices are stopped and back",
            Phase::Stopped => "while the devices are stopped",
            Phase::Complete => "after all has been read; give the devices back",
            Phase::Resumed => "after the devices were given back",
            Phase::Committed => "after the checkpoint was completed",
        };
        err!(Inval, "{what} is not allowed {when}")
    }

    /// Gives up a checkpoint that is not complete.
    pub(crate) fn end(&mut self) -> Result<()> {
        let is_over = |phase| matches!(phase, Phase::Resumed | Phase::Committed);
        if !is_over(self.phase) {
            match self.resume(Guest::GoesOn) {
                Err(error) if !is_over(self.phase) => return Err(error),
                Err(error) => {
                    log::error!(target: "vfiomig::checkpoint", "giving up a checkpoint: {error}");
                }
                Ok(()) => {}
            }
        }
        self.place = None;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.members.iter().any(|member| member.device.is_of_parent()) {
            return;
        }
        if let Err(error) = self.end() {
            log::error!(target: "vfiomig::checkpoint", "giving up a checkpoint: {error}");
        }
    }
}

/// Takes a checkpoint of devices whose guest does not run, or that have none: in one call. Whatever
/// happens to the checkpoint, they go back to where they were; an error of that comes before others.
pub fn write(
    path: &Path,
    devices: Vec<(String, Device, SaveOptions)>,
    options: WriterOptions,
) -> Result<()> {
    let mut writer = Writer::create(path, options)?;
    let taken = take(&mut writer, devices);
    let back = writer.resume(Guest::GoesOn);
    back.and(taken)?;
    writer.commit()
}

fn take(writer: &mut Writer, devices: Vec<(String, Device, SaveOptions)>) -> Result<()> {
    for (name, device, options) in devices {
        writer.add(&name, &device, options)?;
    }
    writer.read()?;
    writer.stop()?;
    writer.read()
}

/// A device may refuse once, because it has more initial data: nobody has been told that there was
/// no more.
fn repeat(mut change: impl FnMut() -> Result<()>) -> Result<()> {
    match change() {
        Err(error) if error.code() == Code::Again => change(),
        other => other,
    }
}

fn widen(buf: &mut Private) -> Result<()> {
    match buf.len() < LONGEST {
        true => buf.lengthen(buf.len(), "no memory for a long frame"),
        false => Err(err!(MsgSize, "a frame that is too long")),
    }
}

fn gone() -> Error {
    err!(Inval, "the checkpoint no longer has a file")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// A path as the system takes it.
pub(super) fn c_path(path: &Path) -> Result<CString> {
    let bytes = alloc::copy(path.as_os_str().as_bytes(), "no memory for a path")?;
    CString::new(bytes).map_err(|_| err!(Inval, "a path has no NUL in it"))
}
