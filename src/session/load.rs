// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading a device by push.
//!
//! [`Load::push`] takes the stream split in any way. No byte reaches the driver before its frame
//! has been verified. If anything goes wrong, the device is reset at once: there is no other way to
//! abandon a driver that has seen half a state. [`Load::commit`] makes the driver accept the state
//! (RESUMING to STOP) while the source can still go on.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::guarding::Guards;
use super::loading::{Loading, Phase, callback_refused};
use super::options::{BlobSink, LoadOptions, check_format};
use super::packets::Packets;
use super::shared::SharedLoad;
use super::stats::{LoadNumbers, LoadStats, add, set};
use super::transfer::{Transfer, Waiter};
use crate::device::{Device, Inner, Locked, wrong_state};
use crate::error::{Error, Failure, Result, err};
use crate::history::What;
use crate::identity::Identity;
use crate::stream::qemu::{self, Quota};
use crate::stream::{Format, Item, Read};

/// What [`Load::push`] returns; if nothing is set, go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadStatus {
    /// The source started again: what was loaded before is void, and so is an acknowledgement of
    /// initial data.
    pub restarted: bool,
    /// The driver has taken all initial data, after the last restart if there was one: tell the
    /// source.
    pub initial_loaded: bool,
    /// The stream is complete and, if its format has totals, they are right: commit.
    pub ended: bool,
    /// A section of QEMU's has ended: what comes next in the VMM's stream may belong to others.
    pub section_ended: bool,
    /// The VMM's own part comes next in its stream: read it, then go on.
    pub config: bool,
    /// The configuration that came in a packet may be loaded now.
    pub config_ready: bool,
}

/// One device being loaded.
pub struct Load {
    loading: Arc<Loading>,
    options: LoadOptions,
    reader: Box<dyn Read>,
    packets: Option<Packets>,
    source: Option<Box<Identity>>,
}

impl Load {
    pub(crate) fn begin(device: Device, options: LoadOptions) -> Result<Load> {
        let mut options = options;
        options.check()?;
        let (timeout, pace) = (options.write_timeout, options.pace());
        let loading = Loading::begin(device, timeout, pace, |target| {
            check_format(options.format, target)?;
            options.judge_announced(target)?;
            Guards::begin(!options.no_built_in_guard, options.guard.take(), target)
        })?;
        let loading = Arc::new(loading);
        let quota = Arc::new(Quota::new(options.limits.max_total));
        let (reader, packets): (Box<dyn Read>, _) = match options.format {
            Format::Native => (Box::new(options.decoder()?), None),
            Format::Qemu => (Box::new(qemu::Reader::new(false, quota)), None),
            Format::QemuPackets => {
                let limits = options.packet_limits();
                let (sink, main) = (options.blobs.take(), Arc::clone(&quota));
                let packets = Packets::new(Arc::clone(&loading), limits, quota, sink);
                (Box::new(qemu::Reader::new(true, main)), Some(packets))
            }
        };
        Ok(Load { loading, options, reader, packets, source: None })
    }

    /// Takes the next bytes of the stream, all of them. After an error the device has been reset
    /// and the load is over.
    pub fn push(&mut self, bytes: &[u8]) -> Result<LoadStatus> {
        self.must_take("loading more of the stream")?;
        self.take(|_| Ok(()), bytes)
    }

    /// Memory to receive the next bytes of the stream into, at least one. Then tell
    /// [`Load::received`] how many came. Saves the copy that [`Load::push`] makes of frames that
    /// cross the boundaries of its input.
    pub fn space(&mut self) -> Result<&mut [u8]> {
        self.must_take("receiving more of the stream")?;
        if self.phase() != Phase::Committed {
            let loading = Arc::clone(&self.loading);
            if let Err(error) = loading.check_cancelled().and_then(|()| loading.progress.check()) {
                let mut inner = loading.device.lock()?;
                self.settle(&mut inner, Err(error))?;
            }
        }
        if self.phase() == Phase::Complete && self.packets.is_none() {
            return Err(err!(
                Inval,
                "the stream has ended, and nothing more of it will come: commit"
            ));
        }
        self.reader.space()
    }

    /// Takes the bytes that were received into [`Load::space`]; otherwise like [`Load::push`].
    pub fn received(&mut self, len: usize) -> Result<LoadStatus> {
        self.must_take("receiving more of the stream")?;
        self.take(|reader| reader.received(len), &[])
    }

    /// Reads the stream from a descriptor, until there is something to say, or as much as `how`
    /// allows has been read. Nothing of what follows the stream's end is read.
    ///
    /// An error of the descriptor changes nothing about the load: the call can be repeated. Its end
    /// before that of the stream is [`crate::Code::NoData`].
    pub fn read_fd(&mut self, fd: BorrowedFd<'_>, how: Transfer) -> Result<LoadStatus> {
        if self.options.format != Format::Native {
            return Err(err!(Inval, "QEMU's format is read by the VMM, between its own sections"));
        }
        let mut waiter = Waiter::new(fd, how)?;
        loop {
            if waiter.is_enough() {
                return Ok(LoadStatus::default());
            }
            let certain = self.reader.certain();
            let space = self.space()?;
            let len = waiter.part(space.len().min(certain));
            match waiter.read(space.get_mut(..len).unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(0)) => {
                    return Err(err!(NoData, "the descriptor ends before the stream does"));
                }
                Ok(Some(n)) => match self.received(n)? {
                    status if status == LoadStatus::default() => {}
                    status => return Ok(status),
                },
                Err(error) => return Err(self.loading.note(error)),
            }
        }
    }

    fn take(
        &mut self,
        begin: impl FnOnce(&mut dyn Read) -> Result<()>,
        bytes: &[u8],
    ) -> Result<LoadStatus> {
        let loading = Arc::clone(&self.loading);
        let mut inner = loading.device.lock()?;
        // An impossible length is the caller's mistake, and has no effect.
        let before = self.reader.offset();
        begin(self.reader.as_mut())?;
        let result = loading.progress.check().and_then(|()| {
            let _busy = loading.progress.busy();
            self.push_locked(&mut inner, bytes)
        });
        loading.progress.came(self.reader.offset().saturating_sub(before));
        set(&loading.stats.stream_bytes, self.reader.offset());
        set(&loading.stats.frames, self.reader.frames());
        if let Some(packets) = &self.packets {
            packets.main_channel(self.reader.at_rest());
        }
        self.settle(&mut inner, result)
    }

    fn push_locked(&mut self, inner: &mut Inner, bytes: &[u8]) -> Result<LoadStatus> {
        let loading = Arc::clone(&self.loading);
        // After the commit the device no longer belongs to this session, and its resets do not
        // matter.
        if loading.phase() != Phase::Committed {
            loading.check_alive(inner)?;
        }
        let mut status = LoadStatus::default();
        let mut rest = bytes;
        while let Some(item) = self.reader.next(&mut rest)? {
            match item {
                Item::Identity(source) => self.check_source(inner, source)?,
                Item::Data(data) => {
                    if self.packets.as_ref().is_some_and(Packets::has_begun) {
                        return Err(err!(
                            Proto,
                            "data came on the main channel while packets are being loaded"
                        ));
                    }
                    loading.write(inner, data)?;
                }
                Item::InitialComplete(number) => {
                    status.initial_loaded = true;
                    set(&loading.stats.initial_generation, u64::from(number));
                    loading.tell(What::InitialLoaded, Some(u64::from(number)));
                }
                Item::Blob { kind, bytes } => {
                    give_blob(self.options.blobs.as_mut(), kind, bytes)?;
                    add(&loading.stats.blobs, 1);
                }
                Item::Restart(_) => {
                    loading.restart(inner)?;
                    status = LoadStatus { restarted: true, ..LoadStatus::default() };
                }
                Item::End => {
                    loading.complete()?;
                    status.ended = true;
                }
                Item::SectionEnd => status.section_ended = true,
                Item::Config => status.config = true,
                Item::ConfigReady => status.config_ready = true,
            }
        }
        Ok(status)
    }

    /// Whether the stream was saved from what the caller expects, and fits this device.
    fn check_source(&mut self, inner: &mut Inner, source: Box<Identity>) -> Result<()> {
        // Kept first: what is refused here is what a user asks about.
        let source = self.source.insert(source);
        self.options.expect(self.reader.migration_id(), self.reader.device())?;
        self.options.judge_stream(source, inner.identity())?;
        self.loading.enter(inner)
    }

    /// Makes the driver check and accept the state: RESUMING to STOP. Needs the complete stream.
    /// Afterwards the source may be released; the VMM makes the fix-ups and calls [`Device::run`].
    pub fn commit(&mut self) -> Result<()> {
        self.must_be_open("committing")?;
        let loading = Arc::clone(&self.loading);
        let mut inner = loading.device.lock()?;
        let result = self.commit_locked(&mut inner);
        self.settle(&mut inner, result)
    }

    fn commit_locked(&mut self, inner: &mut Inner) -> Result<()> {
        let loading = &self.loading;
        loading.check_alive(inner)?;
        let loaded = loading.stats.load().data_bytes;
        if loading.phase() != Phase::Complete {
            return Err(err!(
                NoData,
                "the stream is not complete: {} bytes came, {loaded} bytes of data are in the \
                 device, and no end came",
                self.reader.offset()
            ));
        }
        if !self.reader.at_rest() {
            return Err(err!(NoData, "the main channel ends within a section"));
        }
        if self.reader.data_bytes() == 0 && (self.packets.is_none() || loaded == 0) {
            // Some drivers would commit nothing, and make a reset device look like a migrated one.
            return Err(err!(NoData, "the stream carries no state of the device"));
        }
        loading.commit(inner)
    }

    /// An error also ends the load for the threads that bring packets.
    fn settle<T>(&self, inner: &mut Locked<'_>, result: Result<T>) -> Result<T> {
        result.map_err(|error| match &self.packets {
            None => self.loading.settle(inner, error),
            Some(packets) => {
                let first = packets.stop(error);
                self.loading.settle(inner, first)
            }
        })
    }

    /// What brings the stream has failed, and there is no more to come: the load fails with that.
    pub(crate) fn fail_with(&self, error: Error) -> Result<()> {
        match self.loading.device.lock() {
            Ok(mut inner) => self.settle(&mut inner, Err(error)),
            // In a callback. Whoever drops the load ends it.
            Err(_) => Err(error),
        }
    }

    /// If packets carry the state, the main channel's last sections, which are empty, may come
    /// after the commit.
    fn must_take(&self, what: &str) -> Result<()> {
        match self.phase() {
            Phase::Committed if self.packets.is_some() => Ok(()),
            _ => self.must_be_open(what),
        }
    }

    fn must_be_open(&self, what: &str) -> Result<()> {
        match self.phase() {
            Phase::Receiving | Phase::Complete => Ok(()),
            Phase::Committed | Phase::Failed => Err(self.not_now(what)),
        }
    }

    /// What every call returns after a cancellation or, if there are packets, after any error,
    /// except calls that end the load or ask what happened.
    pub(crate) fn ended_by(&self) -> Option<Error> {
        match &self.packets {
            _ if self.phase() != Phase::Failed => None,
            Some(packets) => packets.failed(),
            None => self.loading.check_cancelled().err(),
        }
    }

    fn not_now(&self, what: &str) -> Error {
        if let Some(error) = self.ended_by() {
            return error;
        }
        wrong_state(
            what,
            match self.phase() {
                Phase::Receiving => "while the stream is incomplete",
                Phase::Complete => "after the end of the stream",
                Phase::Committed => "after the commit",
                Phase::Failed => "after a failure: the device was reset",
            },
        )
    }

    /// What the stream says it was saved from, once that has come.
    pub fn source_identity(&self) -> Result<&Identity> {
        self.source.as_deref().ok_or_else(|| err!(NoData, "the stream's identity has not come yet"))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.loading.phase()
    }

    /// The entrance for packets, if this is a load in [`Format::QemuPackets`].
    pub fn packets(&self) -> Option<Packets> {
        self.packets.clone()
    }

    /// Numbers so far.
    pub fn stats(&self) -> LoadStats {
        self.loading.stats.load()
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        self.loading.failure()
    }

    /// The part that other threads may use.
    pub fn shared(&self) -> SharedLoad {
        let numbers = LoadNumbers(Arc::clone(&self.loading.stats));
        SharedLoad {
            cancel: self.loading.cancel.clone(),
            numbers,
            packets: self.packets(),
            progress: Arc::clone(&self.loading.progress),
            recorder: Arc::clone(self.loading.device.recorder()),
            session: self.loading.session,
        }
    }

    /// Gives up a load that was not committed: resets the device. Fails only if the device is not
    /// available, in a callback.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.loading.end()
    }
}

/// A blob goes to the VMM, or nowhere.
fn give_blob(sink: Option<&mut BlobSink>, kind: u32, bytes: &[u8]) -> Result<()> {
    let Some(sink) = sink else {
        return Err(err!(
            NotSupported,
            "the stream carries a blob of kind {kind}, and nobody takes it: set a blob callback"
        ));
    };
    sink(kind, bytes)
        .map_err(|errno| callback_refused("the VMM refuses a blob of the stream", errno))
}

impl Drop for Load {
    /// A device is never left in RESUMING.
    fn drop(&mut self) {
        if self.loading.device.is_of_parent() {
            return;
        }
        if let Some(packets) = &self.packets {
            packets.close();
        }
        if let Err(error) = self.end() {
            log::error!(target: "vfiomig::load", "ending a load that was dropped: {error}");
        }
        self.loading.release_guards();
    }
}
