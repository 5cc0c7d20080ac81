// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device behind a table of C callbacks: vfio-user, a mock, or anything else that a VMM provides.
//!
//! The only file of this room with `unsafe` in it: it calls C's callbacks, and relies on what C
//! promises of them.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::streams::Streams;
use super::table::{vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info};
use super::{
    DataFd, DeviceFlags, DeviceInfo, Direction, DmaLog, FeatureRequest, IovaRange, PageSize,
    PrecopyInfo, Transport,
};
use crate::error::Errno;
use crate::identity::Identity;
use crate::sys::{Bitmap, INTERRUPTED, Process, device, fd, uapi, uninterrupted};

/// A device behind a [`vfiomig_device_ops`] table.
pub struct OpsTransport {
    ops: vfiomig_device_ops,
    opaque: *mut c_void,
    owner: Process,
    streams: Streams,
    /// For how long a callback that returns EINTR is called again.
    patience: Duration,
}

// SAFETY: promise 1 of `OpsTransport::new`: any thread may call the table, one at a time.
unsafe impl Send for OpsTransport {}

impl OpsTransport {
    /// Wraps a table. `release` is called when the transport is dropped.
    ///
    /// # Safety
    /// Whoever brings the table promises, until `release` has been called:
    /// 1. Its callbacks may be called with `opaque`, on any thread, one at a time.
    /// 2. Each keeps to the memory that it is given: to `len` bytes, to the structure, with the
    ///    feature that starts DMA logging to the ranges at the payload's address, and with the one
    ///    that reports to the bitmap there and to the rest of its last page. What is there for reading
    ///    is not written to.
    /// 3. Where `data_close` is NULL, the data_fd that `feature` returns is a file descriptor, and the
    ///    library's from then on. Where another callback of a stream is NULL it is one too, and open
    ///    until `data_close` is called. What `data_poll_fd` returns is open as long as the stream.
    pub unsafe fn new(ops: vfiomig_device_ops, opaque: *mut c_void) -> OpsTransport {
        let (owner, streams) = (Process::this(), Streams::new());
        OpsTransport { ops, opaque, owner, streams, patience: INTERRUPTED }
    }

    /// For how long a callback that returns EINTR is called again; 2 seconds unless set. Reads and
    /// writes of device state have their session's time limits instead.
    pub fn with_patience(mut self, patience: Duration) -> OpsTransport {
        self.patience = patience;
        self
    }
}

impl Drop for OpsTransport {
    fn drop(&mut self) {
        // What a child releases may not be its own alone: for example, a connection that both
        // processes have.
        if let Some(release) = self.ops.release.filter(|_| self.owner.is_this()) {
            // SAFETY: promise 1; nothing is called after it, as the transport is gone.
            unsafe { release(self.opaque) };
        }
    }
}

fn status(ret: c_int) -> Result<(), Errno> {
    if ret < 0 { Err(Errno(ret.saturating_neg())) } else { Ok(()) }
}

/// A callback's count, which must not exceed what was asked for.
fn count(ret: i64, len: usize) -> Result<usize, Errno> {
    match usize::try_from(ret) {
        Ok(n) if n <= len => Ok(n),
        Ok(_) => Err(Errno(libc::EIO)),
        Err(_) => Err(Errno(i32::try_from(ret.saturating_neg()).unwrap_or(libc::EIO))),
    }
}

impl OpsTransport {
    /// `VFIO_DEVICE_FEATURE` with any payload.
    ///
    /// # Safety
    /// What addresses in `payload` lead to must be valid for what the feature does there, and fds in
    /// it must be the caller's.
    pub unsafe fn feature_unchecked(
        &mut self,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> Result<(), Errno> {
        let len = payload.len();
        device::with_aligned(payload, |words| {
            // SAFETY: `words` has at least `len` bytes, and what they lead to is the promise of the
            // caller.
            unsafe { self.call_feature(request, words.as_mut_ptr().cast(), len) }
        })
    }

    /// The callback.
    ///
    /// # Safety
    /// `data` must be valid for reads and writes of `len` bytes and aligned to 8, and hold what the
    /// feature's payload is; what addresses in it lead to must be valid for what the feature does
    /// there.
    unsafe fn call_feature(
        &self,
        request: FeatureRequest,
        data: *mut c_void,
        len: usize,
    ) -> Result<(), Errno> {
        let feature = self.ops.feature.ok_or(Errno(libc::ENOTTY))?;
        let flags = request.flags();
        // SAFETY: promises 1 and 2, and that of the caller about `data`.
        uninterrupted(self.patience, || status(unsafe { feature(self.opaque, flags, data, len) }))
    }

    /// Notes a stream that the device has named.
    fn note_stream(&mut self, number: i32) {
        if number < 0 || self.streams.has(DataFd(number)) {
            return;
        }
        match self.ops.data_close {
            Some(_) => self.streams.add_number(number),
            // SAFETY: promise 3. It is not in the list, and so this is its only owner.
            None => self.streams.add_fd(unsafe { OwnedFd::from_raw_fd(number) }),
        }
    }

    /// The number of a stream that the device has named, for its callbacks.
    fn number(&self, data: DataFd) -> Result<c_int, Errno> {
        if self.streams.has(data) { Ok(data.0) } else { Err(Errno(libc::EBADF)) }
    }

    /// The same as a file descriptor, for a system call in place of a callback.
    fn fd(&self, data: DataFd) -> Result<BorrowedFd<'_>, Errno> {
        self.streams.fd(data).or_else(|_| {
            // SAFETY: promise 3: the stream is in the list, and so it is open.
            self.number(data).map(|number| unsafe { BorrowedFd::borrow_raw(number) })
        })
    }
}

impl DmaLog for OpsTransport {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        let mut control = device::logging_control(page, ranges)?;
        let request = FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_START);
        // SAFETY: the feature's own structure; `ranges` are as many as it says, and live for the call.
        unsafe {
            self.call_feature(request, (&raw mut control).cast(), size_of_val(&control))?;
        }
        Ok(control.page_size)
    }

    fn stop(&mut self) -> Result<(), Errno> {
        self.feature(FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_STOP), &mut [])
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        let mut report = device::logging_report(bitmap)?;
        let request = FeatureRequest::get(uapi::FEATURE_DMA_LOGGING_REPORT);
        // SAFETY: the feature's own structure; a `Bitmap` has the pages that the bitmap of the range
        // is in, exclusively, and lives for the call.
        unsafe { self.call_feature(request, (&raw mut report).cast(), size_of_val(&report)) }
    }
}

impl Transport for OpsTransport {
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno> {
        device::check_plain(request, payload.len())?;
        let sets_state = device::sets_state(request);
        if sets_state {
            // The fd that comes back must be the device's own, so none goes in.
            let fields = payload.first_chunk_mut().ok_or(Errno(libc::EINVAL))?;
            *fields = device::join_state(device::split_state(*fields).0, -1);
        }
        // SAFETY: the payload of these features is numbers alone.
        unsafe { self.feature_unchecked(request, payload) }?;
        if let Some(fields) = payload.first_chunk().filter(|_| sets_state) {
            self.note_stream(device::split_state(*fields).1);
        }
        Ok(())
    }

    fn dma_log_in_turn(&mut self) -> Option<&mut dyn DmaLog> {
        Some(self)
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        let Some(info) = self.ops.device_info else { return Ok(DeviceInfo::default()) };
        let (mut flags, mut num_regions) = (0, 0);
        uninterrupted(self.patience, || {
            // SAFETY: promises 1 and 2; both numbers are the callback's.
            status(unsafe { info(self.opaque, &raw mut flags, &raw mut num_regions) })
        })?;
        // Without these there is nothing to be learned of a region.
        let regions = self.ops.region_info.is_some() && self.ops.region_write.is_some();
        let num_regions = if regions { num_regions } else { 0 };
        Ok(DeviceInfo { flags: DeviceFlags::from_bits_retain(flags), num_regions })
    }

    fn region_info(&mut self, region: u32, reply: &mut [u64]) -> Result<(), Errno> {
        let info = self.ops.region_info.ok_or(Errno(libc::ENOTTY))?;
        let len = size_of_val(reply);
        device::region_question(region, reply)?;
        uninterrupted(self.patience, || {
            // SAFETY: promises 1 and 2; `reply` has `len` bytes.
            status(unsafe { info(self.opaque, region, reply.as_mut_ptr().cast(), len) })
        })
    }

    fn region_write(&mut self, region: u32, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let write = self.ops.region_write.ok_or(Errno(libc::ENOTTY))?;
        let len = bytes.len();
        uninterrupted(self.patience, || {
            // SAFETY: promises 1 and 2; `bytes` is valid for reads of `len` bytes.
            count(unsafe { write(self.opaque, region, offset, bytes.as_ptr().cast(), len) }, len)
        })
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let reset = self.ops.reset.ok_or(Errno(libc::ENOTTY))?;
        // SAFETY: promise 1.
        uninterrupted(self.patience, || status(unsafe { reset(self.opaque) }))
    }

    fn keeps_state_over_reset(&self) -> bool {
        true
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        let Some(read) = self.ops.data_read else { return fd::read(self.fd(data)?, buf) };
        let (number, len) = (self.number(data)?, buf.len());
        // SAFETY: promises 1 and 2; `buf` is valid for writes of `len` bytes.
        count(unsafe { read(self.opaque, number, buf.as_mut_ptr().cast(), len) }, len)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        let Some(write) = self.ops.data_write else { return fd::write(self.fd(data)?, buf) };
        let (number, len) = (self.number(data)?, buf.len());
        // SAFETY: promises 1 and 2; `buf` is valid for reads of `len` bytes.
        count(unsafe { write(self.opaque, number, buf.as_ptr().cast(), len) }, len)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno> {
        let Some(precopy_info) = self.ops.data_precopy_info else {
            return Streams::precopy_info(self.fd(data)?);
        };
        let number = self.number(data)?;
        let mut info = vfiomig_precopy_info {
            argsz: size_of::<vfiomig_precopy_info>() as u32,
            flags: 0,
            initial_bytes: 0,
            dirty_bytes: 0,
        };
        uninterrupted(self.patience, || {
            // SAFETY: promises 1 and 2; `info` is the callback's structure.
            status(unsafe { precopy_info(self.opaque, number, &raw mut info) })
        })?;
        Ok(PrecopyInfo {
            reinit: info.flags & uapi::PRECOPY_INFO_REINIT != 0,
            initial_bytes: info.initial_bytes,
            dirty_bytes: info.dirty_bytes,
        })
    }

    fn data_close(&mut self, data: DataFd) {
        if !self.streams.close(data) {
            return;
        }
        if let Some(close) = self.ops.data_close {
            // SAFETY: promise 1; nothing uses the stream after this, as it has left the list.
            unsafe { close(self.opaque, data.0) };
        }
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        let number = self.number(data).ok()?;
        match (self.ops.data_poll_fd, self.ops.data_read) {
            // SAFETY: promise 1.
            (Some(poll_fd), _) => Some(unsafe { poll_fd(self.opaque, number) }),
            (None, None) => Some(number),
            (None, Some(_)) => None,
        }
        .filter(|fd| *fd >= 0)
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno> {
        match (self.ops.data_set_nonblocking, self.ops.data_read) {
            // SAFETY: promise 1.
            (Some(set), _) => status(unsafe { set(self.opaque, self.number(data)?) }),
            (None, None) => fd::set_nonblocking(self.fd(data)?),
            (None, Some(_)) => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration) {
        match self.data_poll_fd(data) {
            Some(fd) => {
                // SAFETY: promise 3: the stream is in the list, and so what is polled for it is open.
                fd::wait(unsafe { BorrowedFd::borrow_raw(fd) }, direction, timeout);
            }
            None => std::thread::sleep(Duration::from_millis(1).min(timeout)),
        }
    }

    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let read = self.ops.region_read.ok_or(Errno(libc::ENOTTY))?;
        let len = buf.len();
        uninterrupted(self.patience, || {
            // SAFETY: promises 1 and 2; `buf` is valid for writes of `len` bytes.
            count(unsafe { read(self.opaque, region, offset, buf.as_mut_ptr().cast(), len) }, len)
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        let identity = self.ops.identity?;
        let mut out = Box::new(vfiomig_identity::default());
        // SAFETY: promises 1 and 2; `out` is the callback's structure, and any bits are a value of it.
        let ret = unsafe { identity(self.opaque, &raw mut *out) };
        (ret >= 0).then(|| Identity::from(&*out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::ptr::with_exposed_provenance_mut;

    use crate::sys::{BitmapBuffer, PageSize, Span};

    /// A device that notes what it is asked, and names the stream that it is told to.
    #[derive(Default)]
    struct Device {
        asked: Vec<u32>,
        names: Option<i32>,
        closed: Vec<i32>,
    }

    unsafe extern "C" fn feature(
        opaque: *mut c_void,
        flags: u32,
        data: *mut c_void,
        len: usize,
    ) -> c_int {
        // SAFETY: `transport` passes a device that outlives it, and nobody else uses it meanwhile.
        let device = unsafe { &mut *opaque.cast::<Device>() };
        device.asked.push(flags);
        if let Some(names) = device.names.filter(|_| flags == SET_STATE.flags() && len == 8) {
            // SAFETY: a payload of two aligned words of 32 bits.
            unsafe { data.cast::<i32>().add(1).write(names) };
        }
        if flags & uapi::FEATURE_MASK == uapi::FEATURE_DMA_LOGGING_REPORT && len == 32 {
            // SAFETY: the payload of a report: the fourth word is the address of a bitmap, whose
            // page is written to, as far as it goes.
            unsafe {
                let address = data.cast::<u64>().add(3).read() as usize;
                let bitmap = with_exposed_provenance_mut::<u64>(address);
                (0..4096 / 8).for_each(|word| bitmap.add(word).write(u64::MAX));
            }
        }
        0
    }

    unsafe extern "C" fn close(opaque: *mut c_void, data_fd: c_int) -> c_int {
        // SAFETY: as above.
        unsafe { &mut *opaque.cast::<Device>() }.closed.push(data_fd);
        0
    }

    unsafe extern "C" fn claims_too_much(
        _: *mut c_void,
        _: c_int,
        _: *mut c_void,
        len: usize,
    ) -> i64 {
        len as i64 + 1
    }

    /// For a table of more callbacks than `feature`, see `with`.
    fn transport(device: &mut Device, with: impl FnOnce(&mut vfiomig_device_ops)) -> OpsTransport {
        let mut ops = vfiomig_device_ops {
            struct_size: size_of::<vfiomig_device_ops>() as u32,
            reserved: 0,
            feature: Some(feature),
            reset: None,
            data_read: None,
            data_write: None,
            data_precopy_info: None,
            data_close: None,
            data_poll_fd: None,
            data_set_nonblocking: None,
            region_read: None,
            identity: None,
            release: None,
            device_info: None,
            region_info: None,
            region_write: None,
        };
        with(&mut ops);
        // SAFETY: the tests keep the device as long as the transport, and look at it between calls.
        unsafe { OpsTransport::new(ops, std::ptr::from_mut(device).cast()) }
    }

    /// A span of this many pages.
    fn span(pages: u64) -> Span {
        let page = PageSize::new(4096).unwrap();
        Span { start: 0, length: pages * page.bytes(), page }
    }

    const SET_STATE: FeatureRequest = FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE);

    #[test]
    fn features_that_carry_addresses_reach_the_callback_by_their_own_methods_only() {
        let device = &mut Device::default();
        let start = FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_START);
        let report = FeatureRequest::get(uapi::FEATURE_DMA_LOGGING_REPORT);
        let mut transport = transport(device, |_| ());
        let others = [FeatureRequest::set(4), FeatureRequest::get(99)];
        for request in [start, report, report.probe()].into_iter().chain(others) {
            let refused = transport.feature(request, &mut [0xff; 32]);
            assert_eq!(refused, Err(Errno(libc::EINVAL)), "{request:?}");
        }
        let mut buffer = BitmapBuffer::new(1).unwrap();
        let mut bitmap = buffer.bitmap(span(1)).unwrap();
        let log = transport.dma_log_in_turn().unwrap();
        assert_eq!(log.report(&mut bitmap), Ok(()));
        assert_eq!(bitmap[..], [u64::MAX]);
        assert_eq!(log.start(span(1).page, &[IovaRange { iova: 0, length: 4096 }]), Ok(4096));
        drop(transport);
        assert_eq!(device.asked, [report.flags(), start.flags()]);
    }

    #[test]
    fn only_streams_that_the_device_has_named_are_used_and_closed_once() {
        let device = &mut Device { names: Some(7), ..Device::default() };
        let mut transport = transport(device, |ops| ops.data_close = Some(close));
        let foreign = DataFd(3);
        assert_eq!(transport.data_read(foreign, &mut [0]), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_write(foreign, &[0]), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_precopy_info(foreign), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_set_nonblocking(foreign), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_poll_fd(foreign), None);
        transport.data_close(foreign);
        for _ in 0..2 {
            assert_eq!(transport.set_state(6), Ok(Some(DataFd(7))));
        }
        transport.data_close(DataFd(7));
        transport.data_close(DataFd(7));
        drop(transport);
        assert_eq!(device.closed, [7]);
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn an_fd_that_the_device_has_named_is_closed_and_no_other_is() {
        let (theirs, file) = (File::open("/dev/zero").unwrap(), File::open("/dev/zero").unwrap());
        let (number, foreign) = (theirs.into_raw_fd(), DataFd(file.as_raw_fd()));
        let device = &mut Device::default();
        let at = std::ptr::from_mut(device);
        let mut transport = transport(device, |_| ());
        // An fd that goes in is not one that the device has named.
        let mut payload = device::join_state(6, foreign.0);
        assert_eq!(transport.feature(SET_STATE, &mut payload), Ok(()));
        assert_eq!(device::split_state(payload), (6, -1));
        assert_eq!(transport.data_read(foreign, &mut [0]), Err(Errno(libc::EBADF)));
        transport.data_close(foreign);
        assert!(file.metadata().is_ok());
        // SAFETY: no call is under way.
        unsafe { (*at).names = Some(number) };
        let data = transport.set_state(6).unwrap().unwrap();
        assert_eq!(transport.data_read(data, &mut [1; 4]), Ok(4));
        transport.data_close(data);
        assert_eq!(transport.data_read(data, &mut [1; 4]), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_wait(data, Direction::Read, Duration::ZERO), ());
    }

    #[test]
    fn a_callback_that_claims_to_have_read_more_than_there_is_room_for_has_failed() {
        let device = &mut Device { names: Some(7), ..Device::default() };
        let mut transport = transport(device, |ops| {
            ops.data_read = Some(claims_too_much);
            ops.data_close = Some(close);
        });
        let data = transport.set_state(3).unwrap().unwrap();
        assert_eq!(transport.data_read(data, &mut [0; 9]), Err(Errno(libc::EIO)));
    }

    #[test]
    fn a_table_without_callbacks_has_no_features() {
        let device = &mut Device::default();
        let mut transport = transport(device, |ops| ops.feature = None);
        assert_eq!(
            transport.feature(FeatureRequest::get(1), &mut [0; 8]),
            Err(Errno(libc::ENOTTY))
        );
    }
}
