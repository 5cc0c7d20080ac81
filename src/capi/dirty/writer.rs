// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a `struct vfiomig_dirty_writer` says.

use super::callbacks::TrackerOps;
use super::constants::*;
use super::structs::{page_of_if_any, vfiomig_dirty_writer};
use crate::capi::args::{BorrowedRawFd, text};
use crate::capi::handle;
use crate::capi::sized::read_in;
use crate::dirty::Writer;
use crate::error::{Result, err};
use crate::transport::{KernelHwpt, KernelType1};

/// The longest name of a writer that is kept, in bytes.
const MAX_NAME: usize = 256;

/// What a structure says, and the tracker that it brings, which the library owns from here on.
pub(super) struct RawWriter {
    writer: vfiomig_dirty_writer,
    tracker: Option<TrackerOps>,
}

/// # Safety
/// NULL, or a writer as vfiomig.h describes it.
pub(super) unsafe fn read_writer(writer: *const vfiomig_dirty_writer) -> Result<RawWriter> {
    // SAFETY: promise 1: a structure of the size that it claims.
    let (writer, tail) = unsafe { read_in(writer, "writer") }?;
    let mut tracker = None;
    if writer.flags & VFIOMIG_WRITER_CUSTOM != 0 {
        // SAFETY: promise 1, about the table that it points to.
        let (ops, tail) = unsafe { read_in(writer.tracker, "writer->tracker") }?;
        // SAFETY: the promises of `TrackerOps::new` are 2 and 3 of C.
        tracker = Some(unsafe { TrackerOps::new(ops, writer.tracker_opaque) }?);
        tail.check()?;
    }
    tail.check()?;
    Ok(RawWriter { writer, tracker })
}

impl RawWriter {
    /// The writer that the structure describes.
    ///
    /// # Safety
    /// Promises 1 and 4 of C, for its name and its fds.
    pub(super) unsafe fn into_writer(self) -> Result<Writer> {
        let RawWriter { writer, tracker } = self;
        let mut out = Writer::default();
        if let Some(tracker) = tracker {
            out.custom = Some(Box::new(tracker));
        }
        let known = VFIOMIG_WRITER_DEVICE_LOG
            | VFIOMIG_WRITER_HWPT
            | VFIOMIG_WRITER_CUSTOM
            | VFIOMIG_WRITER_TYPE1
            | VFIOMIG_WRITER_REQUIRED;
        if writer.flags & !known != 0 {
            return Err(err!(Inval, "unknown flags in the writer"));
        }
        let has = |flag: u32| writer.flags & flag != 0;
        out.required = has(VFIOMIG_WRITER_REQUIRED);
        if writer.device.is_null() {
            if has(VFIOMIG_WRITER_DEVICE_LOG) {
                return Err(err!(Fault, "writer->device is NULL: there is no device with a log"));
            }
        } else {
            let device = handle::copy(writer.device)?;
            out.name = device.identity()?.driver;
            match has(VFIOMIG_WRITER_DEVICE_LOG) {
                true => out.use_log_of(&device)?,
                false => out.watch(&device),
            }
        }
        // SAFETY: promise 1: NULL or a NUL-terminated string.
        let name = unsafe { text(writer.name, MAX_NAME, "no memory for the writer's name") }?;
        if let Some(name) = name {
            out.name = name;
        }
        if has(VFIOMIG_WRITER_HWPT) {
            if writer.iommufd < 0 || writer.hwpt_id == 0 {
                let (fd, id) = (writer.iommufd, writer.hwpt_id);
                return Err(err!(Inval, "the iommufd is {fd}, the page table's number {id}"));
            }
            let ioas = (writer.ioas_id != 0).then_some(writer.ioas_id);
            // SAFETY: promise 4: it stays open while the writer lives.
            let iommufd = unsafe { BorrowedRawFd::new(writer.iommufd) };
            out.hwpt = Some(Box::new(KernelHwpt::new(iommufd, writer.hwpt_id, ioas)));
            out.hwpt_page_size = page_of_if_any(writer.hwpt_page_size, "a page table")?;
        }
        if has(VFIOMIG_WRITER_TYPE1) {
            if writer.container_fd < 0 {
                return Err(err!(Inval, "the container's fd is {}", writer.container_fd));
            }
            // SAFETY: promise 4: it stays open while the writer lives.
            let container = unsafe { BorrowedRawFd::new(writer.container_fd) };
            out.type1 = Some(Box::new(KernelType1::new(container)));
        }
        Ok(out)
    }
}
