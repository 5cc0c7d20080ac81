// SPDX-License-Identifier: MIT OR Apache-2.0
//! Impossible numbers: a VMM's own transport, or the driver behind it, says that more was read or
//! written than there was, or that more is left than there can be. They lead to nothing but an
//! error, or an estimate that is marked as not known.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Side, Twist, check_clean, side, small, stream_of, twisted_side};
use vfiomig::error::{Code, Errno, Outcome};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::transport::{DataFd, FeatureRequest, OpsTransport, PrecopyInfo, Transport};
use vfiomig::uapi;
use vfiomig_sim::State;

const GET_SIZE: FeatureRequest = FeatureRequest::get(uapi::FEATURE_MIG_DATA_SIZE);

/// What is added to the number that the device says, and what it says instead.
#[derive(Default)]
struct Says {
    read: usize,
    written: usize,
    size: Option<u64>,
    initial: Option<u64>,
    dirty: Option<u64>,
}

impl Twist for Says {
    fn feature(
        &mut self,
        device: &mut OpsTransport,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> Result<(), Errno> {
        device.feature(request, payload)?;
        if let (GET_SIZE, Some(size)) = (request, self.size) {
            payload.copy_from_slice(&size.to_ne_bytes());
        }
        Ok(())
    }

    fn data_read(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        Ok(device.data_read(data, buf)? + self.read)
    }

    fn data_write(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &[u8],
    ) -> Result<usize, Errno> {
        Ok(device.data_write(data, buf)? + self.written)
    }

    fn data_precopy_info(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
    ) -> Result<PrecopyInfo, Errno> {
        let mut info = device.data_precopy_info(data)?;
        info.initial_bytes = self.initial.unwrap_or(info.initial_bytes);
        info.dirty_bytes = self.dirty.unwrap_or(info.dirty_bytes);
        Ok(info)
    }
}

#[test]
fn a_read_of_more_than_there_was_room_for_fails() {
    // One byte too many, and so many that nothing can be added to it.
    for read in [4097, usize::MAX >> 1] {
        let source = twisted_side(small(1), Says { read, ..Says::default() });
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        let mut buf = vec![0; 4096];
        // What comes before the data may fill a buffer of its own.
        let error = (0..3).find_map(|_| save.next(&mut buf).err()).unwrap();
        assert_eq!(error.code(), Code::Io, "{error}");
        assert_eq!(save.stats().data_bytes, 0);
        drop(save);
        assert_eq!(source.sim.state(), State::RUNNING);
        check_clean(&source);
    }
}

#[test]
fn a_write_of_more_than_there_was_fails() {
    let stream = stream_of(&side(small(1)).device, SaveOptions::default()).unwrap();
    for written in [1, usize::MAX >> 1] {
        let target = twisted_side(small(2), Says { written, ..Says::default() });
        let empty = target.sim.digest();
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        let error = load.push(&stream).unwrap_err();
        assert_eq!(error.code(), Code::Io, "{error}");
        assert!(error.message().contains("more than it got"), "{error}");
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
        assert_eq!(load.stats().data_bytes, 0);
        assert_eq!(target.sim.digest(), empty);
        drop(load);
        check_clean(&target);
    }
}

#[test]
fn a_size_that_cannot_be_is_not_known() {
    for (size, known) in [((1 << 62) - 1, true), (1 << 62, false), (u64::MAX, false)] {
        let source = twisted_side(small(1), Says { size: Some(size), ..Says::default() });
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        let pending = save.pending().unwrap();
        assert_eq!(pending.stop_copy_known, known, "{size:#x}");
        assert_eq!(pending.stop_copy_bytes, if known { size } else { 0 });
    }
}

#[test]
fn estimates_that_cannot_be_are_the_largest_that_can() {
    const MOST: u64 = i64::MAX as u64;
    for (said, believed) in [(7, 7), (MOST, MOST), (MOST + 1, MOST), (u64::MAX, MOST)] {
        let says = Says { initial: Some(said), dirty: Some(said), ..Says::default() };
        let Side { sim, device } = twisted_side(small(1), says);
        let mut save = device.save(SaveOptions::default()).unwrap();
        let pending = save.pending().unwrap();
        assert!(pending.precopy_known);
        assert_eq!((pending.initial_bytes, pending.dirty_bytes), (believed, believed));
        drop(save);
        check_clean(&Side { sim, device });
    }
}
