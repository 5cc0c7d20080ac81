// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device is saved, and how one is loaded.

use std::time::Duration;

use super::loading::callback_refused;
use super::progress::Pace;
use crate::compat::{Policy, check_announced};
use crate::device::Device;
use crate::error::{Errno, Result, err};
use crate::guard::Guard;
use crate::identity::{Identity, protocol};
use crate::stream::qemu::{self, Marks, PacketLimits};
use crate::stream::{
    Auth, DecodeLimits, Decoder, Format, HEADER_LEN, LEAST_MEMORY, MAX_PAYLOAD, NONCE_LEN,
    NativeWriter, Write,
};
use crate::sys::random_bytes;

/// The smallest buffer that a save can use, in bytes: room for a frame header, the identity and a
/// little data.
pub const MIN_BUFFER: usize = 4096;

/// The payload size of data frames, in bytes, if the options do not set it: 128 KiB with the
/// header. Larger frames do not stay in the caches between the steps that each byte goes through,
/// and sockets take them in several pieces: `make bench`.
pub const DEFAULT_FRAME: u32 = (128 << 10) - HEADER_LEN as u32;

/// Why QEMU's format is not authenticated.
const NO_TAGS: &str =
    "QEMU's format has no place for tags: only the native format is authenticated";

/// How a device is saved.
#[derive(Debug)]
pub struct SaveOptions {
    /// How the stream is laid out.
    pub format: Format,
    /// QEMU's format: the stream says when all initial data has been sent; for a VMM that has
    /// negotiated switchover-ack.
    pub switchover_ack: bool,
    /// QEMU's format: the stream says so at most once, even if the device starts its initial data
    /// again; for targets that fail if it comes twice.
    pub ack_once: bool,
    /// The device's number within its VM; every frame carries it.
    pub device_index: u32,
    /// The largest payload of a data frame, or of its counterpart in QEMU's format, in bytes.
    pub max_frame: u32,
    /// Reads return [`crate::Code::Again`] instead of blocking, if the driver supports that.
    pub nonblocking: bool,
    /// Leaves out pre-copy even if the device has it.
    pub no_pre_copy: bool,
    /// All of a device's memory is read before its changes are logged: for drivers of the RFC's
    /// protocol that go by its letter. What changes in between is lost, unless the driver counts that
    /// as changed.
    pub full_before_logging: bool,
    /// The stream's name; all zeros: a random one.
    pub migration_id: [u8; 16],
    /// How often the save may start again because the device was reset.
    pub max_restarts: u32,
    /// What the other side takes of blobs and of data in all: more is refused here, where the guest
    /// still runs. `max_memory` limits the blobs that wait to be sent.
    pub limits: DecodeLimits,
    /// How long a driver may deliver neither data nor an end before the save fails.
    pub read_timeout: Duration,
    /// Authenticates the stream.
    pub auth: Option<Auth>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        SaveOptions {
            format: Format::Native,
            switchover_ack: false,
            ack_once: false,
            device_index: 0,
            max_frame: DEFAULT_FRAME,
            nonblocking: false,
            no_pre_copy: false,
            full_before_logging: false,
            migration_id: [0; 16],
            max_restarts: 16,
            limits: DecodeLimits::default(),
            read_timeout: Duration::from_secs(60),
            auth: None,
        }
    }
}

impl SaveOptions {
    /// The writer of the stream that is asked for. Decides what was left open, and refuses what is
    /// impossible.
    pub(super) fn writer(&mut self) -> Result<Box<dyn Write>> {
        if self.max_frame == 0 || self.max_frame > MAX_PAYLOAD {
            return Err(err!(Inval, "max_frame must be from 1 to {MAX_PAYLOAD} bytes"));
        }
        check_memory(&self.limits)?;
        // What the target would make of the same limits.
        let longest = match self.format {
            Format::Native | Format::Qemu => self.limits.longest_frame(),
            Format::QemuPackets => longest_packet(&self.limits),
        };
        self.max_frame = self.max_frame.min(longest);
        self.limits.max_blob = self.limits.max_blob.min(longest);
        match self.format {
            Format::Native => self.native_writer(),
            Format::Qemu => self.qemu_writer(false),
            Format::QemuPackets => self.qemu_writer(true),
        }
    }

    fn native_writer(&mut self) -> Result<Box<dyn Write>> {
        if self.migration_id == [0; 16] {
            random_bytes(&mut self.migration_id)
                .map_err(|e| err!(Io, "no random bytes for the stream's name: {e}"))?;
        }
        let (id, device, max_frame) = (self.migration_id, self.device_index, self.max_frame);
        let Some(auth) = self.auth.take() else {
            return Ok(Box::new(NativeWriter::new(id, device, max_frame)));
        };
        if auth.allow_unauthenticated {
            return Err(err!(Inval, "a save authenticates its stream, or it does not"));
        }
        let mut nonce = [0; NONCE_LEN];
        random_bytes(&mut nonce)
            .map_err(|e| err!(Io, "no random bytes for the stream's own key: {e}"))?;
        Ok(Box::new(NativeWriter::authenticated(id, device, max_frame, auth, nonce)?))
    }

    fn qemu_writer(&mut self, packets: bool) -> Result<Box<dyn Write>> {
        if self.device_index != 0 || self.migration_id != [0; 16] {
            return Err(err!(
                Inval,
                "QEMU's format carries neither a device index nor a migration id"
            ));
        }
        if self.auth.is_some() {
            return Err(err!(Inval, "{NO_TAGS}"));
        }
        // The format has no way to say that what was sent is void.
        self.max_restarts = 0;
        let marks = match (self.switchover_ack, self.ack_once) {
            (false, _) => Marks::None,
            (true, false) => Marks::Each,
            (true, true) => Marks::One,
        };
        Ok(Box::new(qemu::Writer::new(packets, marks, self.max_frame)))
    }
}

/// What a load with these limits takes of one packet.
fn longest_packet(limits: &DecodeLimits) -> u32 {
    PacketLimits::longest(limits.max_memory.saturating_sub(qemu::RECEIVE_ROOM))
}

fn check_memory(limits: &DecodeLimits) -> Result<()> {
    match limits.max_memory < LEAST_MEMORY {
        true => Err(err!(Inval, "max_memory must be {LEAST_MEMORY} bytes at least")),
        false => Ok(()),
    }
}

/// Takes the VMM's own data: its number and contents. An errno refuses the stream.
pub type BlobSink = Box<dyn FnMut(u32, &[u8]) -> std::result::Result<(), Errno> + Send>;

/// How a device is loaded.
pub struct LoadOptions {
    /// How the stream is laid out.
    pub format: Format,
    /// What the stream may ask for. In QEMU's formats `max_frame` limits the data of one packet,
    /// and there are no restarts.
    pub limits: DecodeLimits,
    /// How far a packet may be ahead of the next one in order.
    pub max_ahead: u32,
    /// Bytes of packets that may wait for their turn.
    pub max_queued: u64,
    /// The device that the stream is to be of, if the VMM knows it: it is judged before anything is
    /// done to the target's device.
    pub source: Option<Box<Identity>>,
    /// What must match between source and target.
    pub policy: Policy,
    /// Where blobs go; without it, a stream with blobs is refused.
    pub blobs: Option<BlobSink>,
    /// How long a driver may refuse data before the load fails.
    pub write_timeout: Duration,
    /// Refuses a stream of a device with another number within its VM.
    pub device_index: Option<u32>,
    /// Refuses a stream with another name.
    pub migration_id: Option<[u8; 16]>,
    /// Verifies who has made the stream.
    pub auth: Option<Auth>,
    /// How long a source may take for [`LoadOptions::progress_bytes`] before the load fails. `None`:
    /// as long as it likes, because a device has nothing to say while memory is being sent.
    pub progress_timeout: Option<Duration>,
    /// How much of the stream is progress, in bytes.
    pub progress_bytes: u64,
    /// Judges the device's data before the driver gets it, after the library's own guard.
    pub guard: Option<Box<dyn Guard>>,
    /// Leaves out the guard that the library has for the target's driver.
    pub no_built_in_guard: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let packets = PacketLimits::default();
        LoadOptions {
            format: Format::Native,
            limits: DecodeLimits::default(),
            max_ahead: packets.max_ahead,
            max_queued: packets.max_queued,
            source: None,
            policy: Policy::default(),
            blobs: None,
            write_timeout: Duration::from_secs(60),
            device_index: None,
            migration_id: None,
            auth: None,
            progress_timeout: None,
            progress_bytes: 64 << 10,
            guard: None,
            no_built_in_guard: false,
        }
    }
}

impl LoadOptions {
    /// How fast the stream has to come.
    pub(super) fn pace(&self) -> Option<Pace> {
        self.progress_timeout.map(|time| Pace { time, bytes: self.progress_bytes.max(1) })
    }

    /// Refuses what is impossible.
    pub(super) fn check(&self) -> Result<()> {
        if self.limits.max_frame == 0 || self.limits.max_frame > MAX_PAYLOAD {
            return Err(err!(Inval, "max_frame must be from 1 to {MAX_PAYLOAD} bytes"));
        }
        if self.limits.max_blob > MAX_PAYLOAD - 8 {
            return Err(err!(Inval, "max_blob must be at most {} bytes", MAX_PAYLOAD - 8));
        }
        if let Some(auth) = &self.auth {
            auth.check()?;
        }
        check_memory(&self.limits)?;
        let judges = self.policy.is_strict() && self.source.is_none();
        let checks = judges || self.device_index.is_some() || self.migration_id.is_some();
        match self.format {
            Format::Qemu | Format::QemuPackets if self.auth.is_some() => {
                Err(err!(Inval, "{NO_TAGS}"))
            }
            Format::Qemu | Format::QemuPackets if checks => Err(err!(
                Inval,
                "QEMU's format does not say what it was saved from: it allows neither a policy, \
                 unless the source is announced, nor a check of its device index or migration id"
            )),
            Format::Native | Format::Qemu | Format::QemuPackets => Ok(()),
        }
    }

    /// What reads a native stream.
    pub(super) fn decoder(&mut self) -> Result<Decoder> {
        match self.auth.take() {
            None => Ok(Decoder::new(self.limits)),
            Some(auth) => Decoder::authenticated(self.limits, auth),
        }
    }

    /// Limits for packets.
    pub(super) fn packet_limits(&self) -> PacketLimits {
        let limits = PacketLimits {
            max_data: self.limits.max_frame,
            max_config: self.limits.max_blob,
            max_ahead: self.max_ahead,
            max_queued: self.max_queued,
        };
        limits.within(self.limits.max_memory.saturating_sub(qemu::RECEIVE_ROOM))
    }

    /// Judges the source that was announced before anything else is done, even before its stream is
    /// read, and whether it is of the device and the migration that the caller expects.
    pub(crate) fn judge_before(
        &mut self,
        device: &Device,
        migration_id: [u8; 16],
        index: u32,
    ) -> Result<()> {
        self.check()?;
        self.expect(Some(migration_id), Some(index))?;
        device.with_details(|_, target| self.judge_announced(target))
    }

    /// Judges the source that was announced, if one was.
    pub(super) fn judge_announced(&mut self, target: &Identity) -> Result<()> {
        match &self.source {
            None => Ok(()),
            Some(source) => judge(&mut self.policy, source, target),
        }
    }

    /// Judges what the stream says it was saved from.
    pub(super) fn judge_stream(&mut self, stream: &Identity, target: &Identity) -> Result<()> {
        if let Some(announced) = &self.source {
            check_announced(announced, stream)?;
        }
        judge(&mut self.policy, stream, target)
    }

    /// Refuses a stream of another device of the VM, or of another migration.
    pub(super) fn expect(&self, migration_id: Option<[u8; 16]>, device: Option<u32>) -> Result<()> {
        if let (Some(wanted), Some(found)) = (self.device_index, device) {
            if wanted != found {
                return Err(err!(
                    OtherDevice,
                    "the stream is of device {found} of its VM, not {wanted}"
                ));
            }
        }
        match self.migration_id {
            Some(wanted) if Some(wanted) != migration_id => {
                Err(err!(OtherDevice, "the stream belongs to another migration"))
            }
            _ => Ok(()),
        }
    }
}

/// What a protocol is called.
fn name_of(generation: u32) -> &'static str {
    match generation {
        protocol::V1 => "v1",
        protocol::V2 => "v2",
        protocol::RFC => "RFC",
        _ => "of an unknown number",
    }
}

/// QEMU's format has nothing of the edges that other protocols' data must keep.
pub(super) fn check_format(format: Format, device: &Identity) -> Result<()> {
    match format {
        Format::Qemu | Format::QemuPackets if device.generation() != protocol::V2 => Err(err!(
            NotSupported,
            "the device speaks an older migration protocol, whose data QEMU's format cannot carry: use \
             the native format"
        )),
        Format::Native | Format::Qemu | Format::QemuPackets => Ok(()),
    }
}

fn judge(policy: &mut Policy, source: &Identity, target: &Identity) -> Result<()> {
    let (from, to) = (source.generation(), target.generation());
    // No policy makes one protocol's data out of another's.
    if from != to {
        return Err(err!(
            OtherDevice,
            "the state is of migration protocol {}, and the device speaks {}",
            name_of(from),
            name_of(to)
        ));
    }
    let verdict = policy.judge(source, target)?;
    match verdict.refused_by_callback {
        Some(errno) => Err(callback_refused("the VMM's policy refuses this source", errno)),
        None => verdict.check(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_makes_nothing_that_a_load_with_its_limits_would_refuse() {
        for (max_memory, longest) in [(LEAST_MEMORY, 1 << 20), (u64::MAX, 3 << 20)] {
            let limits = DecodeLimits { max_memory, max_blob: 3 << 20, ..DecodeLimits::default() };
            let (max_frame, migration_id) = (3 << 20, [1; 16]);
            let mut save =
                SaveOptions { limits, max_frame, migration_id, ..SaveOptions::default() };
            assert!(save.writer().is_ok());
            assert_eq!((save.max_frame, save.limits.max_blob), (longest, longest));
        }
    }

    #[test]
    fn a_packet_of_a_save_is_one_that_a_load_with_its_limits_takes() {
        for max_memory in [LEAST_MEMORY, 64 << 20, u64::MAX] {
            let wide = DecodeLimits { max_memory, max_blob: 3 << 20, ..DecodeLimits::default() };
            let limits = DecodeLimits { max_frame: 3 << 20, ..wide };
            let format = Format::QemuPackets;
            let mut save =
                SaveOptions { format, limits, max_frame: 3 << 20, ..SaveOptions::default() };
            assert!(save.writer().is_ok());
            let load = LoadOptions { format, limits, ..LoadOptions::default() }.packet_limits();
            assert_eq!((save.max_frame, save.limits.max_blob), (load.max_data, load.max_config));
        }
    }
}
