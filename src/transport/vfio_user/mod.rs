// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device behind a vfio-user server: today's migration protocol, in messages over a socket.
//!
//! Everything that a server sends is checked before it counts, and each wait has an end. What the
//! features mean is up to the layers above, as with the kernel; this room knows how they are asked for
//! there, and where servers differ from the kernel: docs/protocols.md.

mod connection;
mod data;
mod desk;
mod json;
mod lent;
mod log;
mod regions;
mod stream;
mod version;
mod way;
mod wire;

use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use connection::Connection;
use data::Data;
use desk::Desk;
use lent::Lent;
pub use lent::Requests;
use log::{FEATURE, Log};
use regions::{Backing, Region, Regions};
use way::Way;
pub use wire::command;
use wire::{Fields, HEADER, u32_at, u64_at};

use super::dma::{Dma, DmaAccess, DmaRange, GuestMemory};
use super::{
    DataFd, DeviceFlags, DeviceInfo, Direction, DmaLog, FeatureRequest, IovaRange, PageSize,
    PrecopyInfo, Transport,
};
use crate::error::{Errno, Error, Result, err};
use crate::fsm::State;
use crate::identity::Identity;
use crate::sys::{Bitmap, device, uapi};

/// How long a server may take for one command unless set: it may have to quiesce a device.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most data of a message, in bytes, unless set; also the protocol's own limit for a side that
/// names none.
const TRANSFER: usize = 1 << 20;
/// The longest command that is sent, in bytes, unless set. libvfio-user expects a longer one to arrive
/// at once, which a socket does not promise.
const COMMAND: usize = 32 << 10;
/// The longest payload of a feature that is numbers.
const PAYLOAD: usize = 64;
/// What a transfer of a region has before its data.
const REGION: usize = 16;

/// How a server is spoken to.
pub struct VfioUserOptions {
    /// How long the server may take for one command; 30 seconds.
    pub timeout: Duration,
    /// The most data that a message of either side carries, in bytes; 1 MiB. With a connection that is
    /// lent, what its owner has agreed on.
    pub max_transfer: usize,
    /// The longest command that carries data, in bytes with all that it consists of; 32 KiB, which is
    /// what libvfio-user takes reliably.
    pub max_command: usize,
    /// The guest's memory, for servers that reach it by messages.
    pub memory: Option<Box<dyn GuestMemory>>,
}

impl Default for VfioUserOptions {
    fn default() -> VfioUserOptions {
        VfioUserOptions {
            timeout: TIMEOUT,
            max_transfer: TRANSFER,
            max_command: COMMAND,
            memory: None,
        }
    }
}

impl VfioUserOptions {
    /// Refuses limits that leave no room for data.
    fn check(&self) -> Result<()> {
        let (transfer, command) = (self.max_transfer, self.max_command);
        if !(1..=MAX_TRANSFER).contains(&transfer) {
            return Err(err!(Inval, "max_transfer is {transfer}; it is 1 byte to 32 MiB"));
        }
        if !(MIN_COMMAND..=MAX_TRANSFER).contains(&command) {
            return Err(err!(Inval, "max_command is {command}; it is 64 bytes to 32 MiB"));
        }
        if self.timeout.is_zero() {
            return Err(err!(Inval, "the timeout is 0"));
        }
        Ok(())
    }
}

const MAX_TRANSFER: usize = 32 << 20;
const MIN_COMMAND: usize = 64;

/// What both sides have agreed on.
struct Limits {
    /// The most data of a reply, in bytes.
    read: usize,
    /// The most data of a command, in bytes.
    write: usize,
    maps: usize,
    /// The server sends its own commands over a socket that is theirs.
    apart: bool,
}

/// A device behind a vfio-user server.
pub struct VfioUserTransport {
    way: Way,
    limits: Limits,
    data: Data,
    /// The data stream that is open, and whether it is for saving.
    stream: Option<(i32, bool)>,
    streams: i32,
    info: Option<DeviceInfo>,
    buffer: Vec<u8>,
}

impl VfioUserTransport {
    /// Connects to the socket of a server. A server has one client at a time: another one waits, and is
    /// given up after the timeout.
    pub fn connect(path: &Path, options: VfioUserOptions) -> Result<VfioUserTransport> {
        options.check()?;
        let desk = Desk::new(options.memory, options.max_transfer);
        let connection = Connection::connect(path, desk, options.timeout)
            .map_err(|errno| no_server("connecting to the vfio-user server failed", errno))?;
        VfioUserTransport::over(connection, options.max_transfer, options.max_command)
    }

    /// Uses a stream socket that is connected to a server, and on which nothing was said yet. Its mode
    /// stays as it is. An `Arc<OwnedFd>` or `UnixStream` will do.
    pub fn new(
        fd: impl AsFd + Send + Sync + 'static,
        options: VfioUserOptions,
    ) -> Result<VfioUserTransport> {
        options.check()?;
        let desk = Desk::new(options.memory, options.max_transfer);
        let connection = Connection::lent(Arc::new(fd), desk, options.timeout);
        VfioUserTransport::over(connection, options.max_transfer, options.max_command)
    }

    /// Uses a connection that its owner lends, with the limits that it has agreed on. The owner answers
    /// the server's own commands itself, and marks what they write as dirty: `memory` is refused. It
    /// also decides how long it waits: `timeout` is not used.
    pub fn lent(
        requests: impl Requests + 'static,
        options: VfioUserOptions,
    ) -> Result<VfioUserTransport> {
        options.check()?;
        if options.memory.is_some() {
            return Err(err!(
                Inval,
                "with a connection that is lent, its owner answers the server"
            ));
        }
        let way = Way::Lent(Lent::new(Box::new(requests)), Regions::default());
        let (read, write) = (options.max_transfer, options.max_transfer);
        let limits = Limits { read, write, maps: usize::MAX, apart: true };
        Ok(VfioUserTransport::with(way, limits, options.max_command))
    }

    fn over(
        mut connection: Connection,
        max_transfer: usize,
        max_command: usize,
    ) -> Result<VfioUserTransport> {
        let offer = connection
            .negotiate(max_transfer as u64)
            .map_err(|errno| no_server("the vfio-user server does not answer as one", errno))?;
        let most = usize::try_from(offer.max_transfer).unwrap_or(usize::MAX).min(max_transfer);
        let maps = usize::try_from(offer.max_maps).unwrap_or(usize::MAX);
        let limits = Limits { read: most, write: most, maps, apart: connection.has_twin() };
        Ok(VfioUserTransport::with(Way::Own(connection), limits, max_command))
    }

    fn with(way: Way, mut limits: Limits, max_command: usize) -> VfioUserTransport {
        limits.write = limits.write.min(max_command - HEADER - REGION);
        let (data, info, buffer) = (Data::default(), None, Vec::new());
        VfioUserTransport { way, limits, data, stream: None, streams: 0, info, buffer }
    }

    /// Sends a command once nothing else is on its way, and waits for its reply.
    fn call(
        &mut self,
        command: u16,
        payload: [&[u8]; 2],
        parts: &mut [&mut [u8]],
    ) -> std::result::Result<usize, Errno> {
        self.data.settle(&mut self.way);
        self.way.call(command, payload, &[], parts)
    }

    fn check(&self, data: DataFd) -> std::result::Result<(), Errno> {
        match self.stream {
            Some((number, _)) if number == data.0 => Ok(()),
            _ => Err(Errno(libc::EBADF)),
        }
    }

    /// The stream of a state that the device has come to: the one that is open, or another one.
    fn stream_of(&mut self, state: State) -> Option<DataFd> {
        if !state.has_data_stream() {
            return None;
        }
        let saves = state != State::Resuming;
        if self.stream.is_none_or(|(_, saving)| !(saving && saves)) {
            self.data.close(&mut self.way);
            self.streams = self.streams.wrapping_add(1) & i32::MAX;
            self.stream = Some((self.streams, saves));
        }
        self.stream.map(|(number, _)| DataFd(number))
    }

    fn log(&mut self) -> Log<'_> {
        self.data.settle(&mut self.way);
        Log { way: &mut self.way, buffer: &mut self.buffer }
    }
}

/// The error for a server that cannot be spoken to.
fn no_server(what: &str, errno: Errno) -> Error {
    let why = match errno.0 {
        libc::ETIMEDOUT => "; it may be busy with another client",
        libc::ECONNREFUSED => "; nobody listens there",
        libc::EPROTONOSUPPORT => "; it speaks another version of the protocol",
        _ => "",
    };
    Error::from_args(errno.code(), format_args!("{what}: {errno}{why}"))
}

/// What a server says where the kernel has no such feature.
fn absent(errno: Errno) -> Errno {
    if errno.0 == libc::EINVAL { Errno(libc::ENOTTY) } else { errno }
}

impl Transport for VfioUserTransport {
    fn feature(
        &mut self,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> std::result::Result<(), Errno> {
        device::check_plain(request, payload.len())?;
        let flags = request.flags();
        let (probes, feature) = (flags & uapi::FEATURE_PROBE != 0, flags & uapi::FEATURE_MASK);
        // The protocol has no estimates. Servers refuse what they do not know as if it were wrong.
        if !probes
            && [uapi::FEATURE_MIG_DATA_SIZE, uapi::FEATURE_MIG_PRECOPY_INFO_V2].contains(&feature)
        {
            return Err(Errno(libc::ENOTTY));
        }
        let mut copy = [0; PAYLOAD];
        let len = payload.len();
        let sent = copy.get_mut(..len).ok_or(Errno(libc::EINVAL))?;
        sent.copy_from_slice(payload);
        if device::sets_state(request) {
            let fields = sent.first_chunk_mut().ok_or(Errno(libc::EINVAL))?;
            *fields = device::join_state(device::split_state(*fields).0, -1);
        }
        // A question carries nothing but how much room there is for the answer.
        let gets = flags & uapi::FEATURE_GET != 0;
        let sent = if gets { &[][..] } else { &*sent };
        let head = Fields::<FEATURE>::new().u32((FEATURE + len) as u32).u32(flags);
        let mut reply = [0; FEATURE];
        let parts = &mut [&mut reply[..], payload];
        match self.call(command::DEVICE_FEATURE, [head.bytes(), sent], parts) {
            Ok(got) if gets && got != FEATURE + len => Err(Errno(libc::EPROTO)),
            Ok(_) => Ok(()),
            Err(errno) if probes => Err(absent(errno)),
            // ENOTTY would be taken for a kernel without migration.
            Err(Errno(libc::EINVAL)) if feature == uapi::FEATURE_MIGRATION => {
                Err(Errno(libc::EOPNOTSUPP))
            }
            Err(errno) => Err(errno),
        }
    }

    fn set_state(&mut self, state: u32) -> std::result::Result<Option<DataFd>, Errno> {
        let mut payload = device::join_state(state, -1);
        self.feature(FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE), &mut payload)?;
        Ok(self.stream_of(State::from_raw(state)))
    }

    fn device_info(&mut self) -> std::result::Result<DeviceInfo, Errno> {
        if let Some(info) = self.info {
            return Ok(info);
        }
        let asked = Fields::<16>::new().u32(16).u32(0).u32(0).u32(0);
        let mut reply = [0; 16];
        let done = self.call(command::DEVICE_GET_INFO, [asked.bytes(), &[]], &mut [&mut reply]);
        let flags = match done {
            Ok(16) => u32_at(&reply, 4)?,
            Ok(_) => return Err(Errno(libc::EPROTO)),
            // A device that is stopped does not say what it is. It is a device, then.
            Err(Errno(libc::EINVAL)) => return Ok(DeviceInfo::default()),
            Err(errno) => return Err(errno),
        };
        // Regions with a migration protocol of their own, servers do not have.
        let flags = DeviceFlags::from_bits_retain(flags);
        let info = DeviceInfo { flags, num_regions: 0 };
        self.info = Some(info);
        Ok(info)
    }

    fn reset(&mut self) -> std::result::Result<(), Errno> {
        let done = self.call(command::DEVICE_RESET, [&[], &[]], &mut [&mut []]);
        if let (Err(Errno(libc::ETIMEDOUT)), Way::Own(connection)) = (&done, &mut self.way) {
            connection.end("a reset was not answered");
        }
        done.map(drop)
    }

    fn keeps_state_over_reset(&self) -> bool {
        true
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        self.check(data)?;
        self.data.read(&mut self.way, self.limits.read, buf)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> std::result::Result<usize, Errno> {
        self.check(data)?;
        self.data.write(&mut self.way, self.limits.write, buf)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> std::result::Result<PrecopyInfo, Errno> {
        self.check(data)?;
        Err(Errno(libc::ENOTTY))
    }

    fn data_close(&mut self, data: DataFd) {
        if self.check(data).is_ok() {
            self.data.close(&mut self.way);
            self.stream = None;
        }
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        self.check(data).ok()?;
        match &self.way {
            Way::Own(connection) => connection.reply_fd().map(|fd| fd.as_raw_fd()),
            Way::Lent(..) => None,
        }
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> std::result::Result<(), Errno> {
        self.check(data)?;
        match self.way {
            Way::Own(_) => self.data.nonblocking = true,
            Way::Lent(..) => return Err(Errno(libc::EOPNOTSUPP)),
        }
        Ok(())
    }

    fn data_wait(&mut self, _: DataFd, _: Direction, timeout: Duration) {
        let waited = match &mut self.way {
            Way::Own(connection) => connection.idle(timeout).is_ok(),
            Way::Lent(..) => false,
        };
        // If something is wrong, the next call says so.
        if !waited {
            std::thread::sleep(Duration::from_millis(1).min(timeout));
        }
    }

    fn region_read(
        &mut self,
        region: u32,
        offset: u64,
        buf: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        let len = buf.len().min(self.limits.read);
        let asked = Fields::<REGION>::new().u64(offset).u32(region).u32(len as u32);
        let mut head = [0; REGION];
        let data = buf.get_mut(..len).unwrap_or_default();
        let parts = &mut [&mut head[..], data];
        let got = self.call(command::REGION_READ, [asked.bytes(), &[]], parts)?;
        let carried = got.checked_sub(REGION).ok_or(Errno(libc::EPROTO))?;
        match u32_at(&head, 12)? as usize {
            count if count <= carried && u64_at(&head, 0)? == offset => Ok(count),
            _ => Err(Errno(libc::EPROTO)),
        }
    }

    fn dma_log_in_turn(&mut self) -> Option<&mut dyn DmaLog> {
        Some(self)
    }

    fn dma(&mut self) -> Option<&mut dyn Dma> {
        Some(self)
    }

    fn identity(&mut self) -> Option<Identity> {
        Some(Identity { driver: "vfio-user".to_owned(), ..Identity::default() })
    }
}

impl DmaLog for VfioUserTransport {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> std::result::Result<u64, Errno> {
        self.log().start(page, ranges)
    }

    fn stop(&mut self) -> std::result::Result<(), Errno> {
        self.log().stop()
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
        self.log().report(bitmap)
    }
}

impl Dma for VfioUserTransport {
    fn map(&mut self, range: DmaRange<'_>) -> std::result::Result<(), Errno> {
        let DmaRange { iova, size, access, memory, known } = range;
        // A server that sends its commands where replies are expected gets confused by its own.
        if !self.limits.apart {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        if access == DmaAccess::empty() {
            return Err(Errno(libc::EINVAL));
        }
        let maps = self.limits.maps;
        let regions = self.way.regions();
        regions.check_new(iova, size)?;
        if regions.len() >= maps {
            return Err(Errno(libc::ENOSPC));
        }
        regions.reserve()?;
        let backing = match memory {
            Some(_) => Backing::Descriptor,
            None if known => Backing::Unknown,
            None => Backing::Messages,
        };
        let mut done = Ok(0);
        if !known {
            let offset = memory.map_or(0, |(_, offset)| offset);
            let asked = Fields::<32>::new().u32(32).u32(access.bits());
            let asked = asked.u64(offset).u64(iova).u64(size);
            self.data.settle(&mut self.way);
            let fds = memory.map(|(fd, _)| fd);
            let payload = [asked.bytes(), &[]];
            done = self.way.call(command::DMA_MAP, payload, fds.as_slice(), &mut [&mut [0; 32]]);
        }
        match done {
            Err(errno) if !log::is_in_doubt(errno) => return Err(errno),
            _ => self.way.regions().add(iova, size, access, backing),
        }
        // The server may have it, or get it yet: it is there until it is unmapped.
        done.map(drop).inspect_err(|_| {
            let _ = self.way.regions().find(iova, size).map(Region::doubt);
        })
    }

    fn unmap(&mut self, iova: u64, size: u64, known: bool) -> std::result::Result<(), Errno> {
        self.way.regions().find(iova, size)?;
        if known {
            self.way.regions().remove(iova, size, None);
            return Ok(());
        }
        self.log().unmap(iova, size)
    }

    fn serve(&mut self) -> std::result::Result<u64, Errno> {
        match &mut self.way {
            Way::Own(connection) => connection.serve(),
            Way::Lent(..) => Ok(0),
        }
    }

    fn poll_fd(&self) -> Option<i32> {
        match &self.way {
            Way::Own(connection) => connection.poll_fd().map(|fd| fd.as_raw_fd()),
            Way::Lent(..) => None,
        }
    }
}
