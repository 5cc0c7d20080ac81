// SPDX-License-Identifier: MIT OR Apache-2.0
//! A transport that a Rust VMM provides itself, with a habit that no kernel has: it names its open
//! stream in every answer, even if none is owed. There is one stream, and it is closed once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vfiomig::Device;
use vfiomig::device::DeviceOptions;
use vfiomig::error::Errno;
use vfiomig::session::{Ending, SaveOptions, SaveStatus};
use vfiomig::transport::{DataFd, DeviceInfo, Direction, FeatureRequest, PrecopyInfo, Transport};
use vfiomig::uapi;

const STREAM: i32 = 7;

#[derive(Default)]
struct Seen {
    state: u32,
    left: usize,
    closed: Vec<i32>,
}

struct Echo(Arc<Mutex<Seen>>);

impl Transport for Echo {
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno> {
        let mut seen = self.0.lock().unwrap();
        let (get, set) = (FeatureRequest::get, FeatureRequest::set);
        if request == get(uapi::FEATURE_MIGRATION) {
            payload.copy_from_slice(&7u64.to_ne_bytes());
        } else if request == get(uapi::FEATURE_MIG_DEVICE_STATE) {
            payload[..4].copy_from_slice(&seen.state.to_ne_bytes());
        } else if request == set(uapi::FEATURE_MIG_DEVICE_STATE) {
            seen.state = u32::from_ne_bytes(payload[..4].try_into().unwrap());
            payload[4..].copy_from_slice(&STREAM.to_ne_bytes());
        } else {
            return Err(Errno(libc::ENOTTY));
        }
        Ok(())
    }
    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        Ok(DeviceInfo::default())
    }
    fn reset(&mut self) -> Result<(), Errno> {
        panic!("nothing here needs a reset");
    }
    fn data_read(&mut self, _: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut seen = self.0.lock().unwrap();
        let n = buf.len().min(seen.left);
        seen.left -= n;
        Ok(n)
    }
    fn data_write(&mut self, _: DataFd, _: &[u8]) -> Result<usize, Errno> {
        panic!("a source is not written to");
    }
    fn data_precopy_info(&mut self, _: DataFd) -> Result<PrecopyInfo, Errno> {
        Ok(PrecopyInfo::default())
    }
    fn data_close(&mut self, data: DataFd) {
        self.0.lock().unwrap().closed.push(data.number());
    }
    fn data_poll_fd(&self, _: DataFd) -> Option<i32> {
        None
    }
    fn data_set_nonblocking(&mut self, _: DataFd) -> Result<(), Errno> {
        Ok(())
    }
    fn data_wait(&mut self, _: DataFd, _: Direction, _: Duration) {}
    fn region_read(&mut self, _: u32, _: u64, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno(libc::ENOTTY))
    }
}

#[test]
fn a_stream_that_is_named_again_is_the_same_stream_and_closed_once() {
    for ending in [Ending::Release, Ending::Keep] {
        let seen = Arc::new(Mutex::new(Seen { state: 2, left: 10_000, closed: Vec::new() }));
        let device = Device::new(Echo(Arc::clone(&seen)), DeviceOptions::default()).unwrap();
        let mut save = device.save(SaveOptions::default()).unwrap();
        save.quiesce().unwrap();
        save.stop().unwrap();
        assert!(seen.lock().unwrap().closed.is_empty());
        let mut buf = vec![0; 1 << 16];
        while save.next(&mut buf).unwrap().status != SaveStatus::End {}
        assert_eq!(save.stats().data_bytes, 10_000);
        save.finish(ending).unwrap();
        drop((save, device));
        assert_eq!(seen.lock().unwrap().closed, [STREAM]);
    }
}
