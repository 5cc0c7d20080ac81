// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a checkpoint, and loading devices from it.
//!
//! The file is read with pread() and never mapped: a mapped file that somebody makes shorter ends
//! the process with SIGBUS, and pages of the page cache are shared by all readers either way. All
//! methods take `&self`, so that several threads load several devices from one file.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::errors::file_error;
use super::shared_auth::SharedAuth;
use super::spool::{Spool, Spooled};
use super::stats::{Watcher, add};
use super::writer::c_path;
use crate::alloc;
use crate::device::Device;
use crate::error::{Result, err};
use crate::private::Private;
use crate::session::LoadOptions;
use crate::stream::checkpoint::{Authenticity, Entry, Manifest, Verifier, read_manifest};
use crate::stream::{Auth, DecodeLimits, Format};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::{fd, named};

/// What is read at once, in bytes.
const BUFFER: usize = 1 << 20;

/// How a checkpoint is read.
#[derive(Debug, Default)]
pub struct OpenOptions {
    /// Verifies who has made it. Without this, an authenticated one is refused.
    pub auth: Option<Auth>,
    /// What its streams may ask for.
    pub limits: DecodeLimits,
    /// A stream of at most so many bytes is copied to memory while it is verified, and loaded from
    /// there: then neither a disk nor another process can spoil it after the device has lost what
    /// it held. 0: none.
    pub staged: u64,
}

/// A checkpoint that is being read.
pub struct File {
    file: OwnedFd,
    /// What it was when it was opened.
    node: named::Node,
    manifest: Manifest,
    /// What is known of each stream.
    known: Vec<Known>,
    auth: Option<SharedAuth>,
    limits: DecodeLimits,
    staged: u64,
    watcher: Watcher,
}

/// What is known of a stream.
#[derive(Default)]
struct Known {
    /// That it is whole, and keeps the limits of the checkpoint.
    verified: AtomicBool,
    /// That there are blobs in it.
    blobs: AtomicBool,
}

/// Opens a checkpoint, and reads its manifest.
pub fn open(path: &Path, options: OpenOptions) -> Result<File> {
    File::open_at(None, &c_path(path)?, options)
}

impl File {
    /// Opens the checkpoint `path`; a relative one begins in a directory, or where the process is.
    pub fn open_at(
        directory: Option<BorrowedFd<'_>>,
        path: &CStr,
        options: OpenOptions,
    ) -> Result<File> {
        let file = named::open_existing(directory, path, false)
            .map_err(|errno| file_error(errno, "opening the checkpoint"))?;
        File::from_fd(file, options)
    }

    /// Reads the manifest of a checkpoint that is open.
    pub fn from_fd(file: OwnedFd, options: OpenOptions) -> Result<File> {
        let node = named::look_into(file.as_fd())
            .map_err(|errno| file_error(errno, "looking at the checkpoint"))?;
        if !node.regular {
            return Err(err!(Inval, "a checkpoint is a regular file, and this is none"));
        }
        let auth = options.auth.map(SharedAuth::new);
        let mut read = |at: u64, buf: &mut [u8]| read_exactly(file.as_fd(), buf, at);
        let manifest = match &auth {
            Some(auth) => {
                let mut lent = auth.lend();
                read_manifest(node.len, &mut read, Authenticity::Verify(&mut lent))
            }
            None => read_manifest(node.len, &mut read, Authenticity::NoKey),
        }?;
        let none = (0..manifest.devices.len()).map(|_| Known::default());
        let known = alloc::collect(none, "no memory for a checkpoint's devices")?;
        Ok(File {
            file,
            node,
            manifest,
            known,
            auth,
            limits: options.limits,
            staged: options.staged,
            watcher: Watcher::default(),
        })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Verifies the stream of a device, whole.
    pub fn verify(&self, name: &str) -> Result<()> {
        let (at, entry) = self.find(name)?;
        self.verify_entry(at, entry, self.limits, None).map(drop)
    }

    /// Verifies all streams.
    pub fn verify_all(&self) -> Result<()> {
        let mut all = self.manifest.devices.iter().enumerate();
        all.try_for_each(|(at, entry)| self.verify_entry(at, entry, self.limits, None).map(drop))
    }

    /// Loads a device from the stream that is called `name`: judges what it is of, verifies all of
    /// it by the stricter of both limits, and only then takes the device to RESUMING, which loses
    /// what it held. Afterwards the device is in STOP: the VMM makes the fix-ups, and calls
    /// [`Device::run`].
    ///
    /// The format, what authenticates the stream and which source it is of are the checkpoint's:
    /// `options` leaves these open.
    pub fn restore(&self, name: &str, device: &Device, options: LoadOptions) -> Result<()> {
        let (at, entry) = self.find(name)?;
        let mut options = options;
        if options.format != Format::Native || options.auth.is_some() || options.source.is_some() {
            return Err(err!(
                Inval,
                "the format of a stream, what authenticates it and what it is of are the \
                 checkpoint's"
            ));
        }
        options.source = Some(entry.identity.clone());
        options.judge_before(device, entry.migration_id, entry.device)?;
        let mut spool = match entry.stream_len() {
            len if len <= self.staged => Some(Spool::new(self.staged)?),
            _ => None,
        };
        let limits = self.limits.and(options.limits);
        let staged = self.verify_entry(at, entry, limits, spool.as_mut())?;
        self.check_loadable(at, entry, &options)?;
        self.check_unchanged()?;
        let _turn = self.turn()?;
        options.auth = self.auth.as_ref().map(SharedAuth::lend);
        let mut load = device.load(options)?;
        let fed = match &spool {
            Some(spool) => staged.iter().try_for_each(|part| {
                self.watcher.check()?;
                load.push(spool.get(*part)).map(drop)
            }),
            None => self.each_part(entry, |bytes| load.push(bytes).map(drop)),
        };
        fed.or_else(|error| load.fail_with(error))?;
        load.commit()
    }

    /// Refuses what a load would refuse only when the device has lost what it held.
    fn check_loadable(&self, at: usize, entry: &Entry, options: &LoadOptions) -> Result<()> {
        let blobs = self.known.get(at).is_some_and(|known| known.blobs.load(Ordering::Acquire));
        if blobs && options.blobs.is_none() {
            return Err(err!(
                NotSupported,
                "the stream of {} carries blobs, and nobody takes them: set a blob callback",
                entry.name
            ));
        }
        match entry.end.data_bytes {
            0 => Err(err!(NoData, "the stream of {} carries no state of the device", entry.name)),
            _ => Ok(()),
        }
    }

    /// Reads from the stream of a device, whatever it holds: as much as there is, up to the length
    /// of `buf`.
    pub fn read_at(&self, entry: &Entry, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (mut skip, mut done) = (offset, 0);
        for piece in &entry.pieces {
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            let there = usize::try_from(piece.len - skip).unwrap_or(usize::MAX);
            let part = buf.get_mut(done..).unwrap_or_default();
            let len = part.len().min(there);
            let part = part.get_mut(..len).unwrap_or_default();
            read_exactly(self.file.as_fd(), part, piece.offset + skip)?;
            done += len;
            skip = 0;
        }
        Ok(done)
    }

    /// The part that any thread may use.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    fn find(&self, name: &str) -> Result<(usize, &Entry)> {
        let mut all = self.manifest.devices.iter().enumerate();
        all.find(|(_, entry)| entry.name == name)
            .ok_or_else(|| err!(NoData, "the checkpoint has no device of this name"))
    }

    fn turn(&self) -> Result<Option<crate::sync::MutexGuard<'_, ()>>> {
        self.auth.as_ref().map_or(Ok(None), SharedAuth::turn)
    }

    /// Reads a stream to its end, unless that has been done with limits that were no wider. With a
    /// spool, it is there afterwards.
    fn verify_entry(
        &self,
        at: usize,
        entry: &Entry,
        limits: DecodeLimits,
        spool: Option<&mut Spool>,
    ) -> Result<Vec<Spooled>> {
        self.watcher.check()?;
        let known = self.known.get(at);
        let mut staged = Vec::new();
        let done = known.is_some_and(|known| known.verified.load(Ordering::Acquire));
        if done && spool.is_none() && limits == self.limits {
            return Ok(staged);
        }
        let _turn = self.turn()?;
        let auth = self.auth.as_ref().map(SharedAuth::lend);
        let mut verifier = Verifier::new(entry, limits, auth)?;
        let mut spool = spool;
        if let Some(spool) = &mut spool {
            spool.prepare(entry.stream_len())?;
        }
        self.each_part(entry, |bytes| {
            if let Some(spool) = &mut spool {
                let room = spool.room(bytes.len()).and_then(|room| room.get_mut(..bytes.len()));
                let Some(room) = room else {
                    return alloc::refuse("no memory to stage a stream");
                };
                room.copy_from_slice(bytes);
                // What is loaded is what is verified: the copy, which nobody else reaches.
                verifier.push(room)?;
                if let Some(part) = spool.filled(bytes.len()) {
                    alloc::push(&mut staged, part, "no memory to stage a stream")?;
                }
                return Ok(());
            }
            verifier.push(bytes)
        })?;
        let blobs = verifier.has_blobs();
        verifier.finish()?;
        if let Some(known) = known {
            known.blobs.store(blobs, Ordering::Release);
            known.verified.store(true, Ordering::Release);
        }
        Ok(staged)
    }

    /// Whether the file is still what was verified. Whoever replaces a checkpoint does not touch
    /// the old file; whoever writes into it does.
    fn check_unchanged(&self) -> Result<()> {
        let now = named::look_into(self.file.as_fd())
            .map_err(|errno| file_error(errno, "looking at the checkpoint"))?;
        match (now.len, now.changed) == (self.node.len, self.node.changed) {
            true => Ok(()),
            false => Err(err!(BadMsg, "the checkpoint's file was changed after it was opened")),
        }
    }

    /// Hands on a stream in parts.
    fn each_part(&self, entry: &Entry, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buf = Private::new();
        let longest = entry.pieces.iter().map(|piece| piece.len).max().unwrap_or(0);
        buf.lengthen(usize::try_from(longest).unwrap_or(BUFFER).min(BUFFER), "no memory to read")?;
        for piece in &entry.pieces {
            let (mut at, mut left) = (piece.offset, piece.len);
            while left > 0 {
                self.watcher.check()?;
                let len = usize::try_from(left).unwrap_or(BUFFER).min(buf.len());
                let part = buf.get_mut(..len).unwrap_or_default();
                read_exactly(self.file.as_fd(), part, at)?;
                each(part)?;
                at += len as u64;
                left -= len as u64;
                add(&self.watcher.0.stream_bytes, len as u64);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.manifest.fmt(f)
    }
}

/// Reads all of a buffer.
fn read_exactly(file: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<()> {
    let (mut rest, mut at) = (buf, at);
    while !rest.is_empty() {
        let n = fd::pread(file, rest, at)
            .map_err(|errno| file_error(errno, "reading the checkpoint"))?;
        if n == 0 {
            return Err(err!(NoData, "the checkpoint's file became shorter"));
        }
        rest = rest.get_mut(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}
