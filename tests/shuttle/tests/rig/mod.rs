// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that takes anything, a load with packets into it, and threads that bring them.

// Each program uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

use shuttle::thread;
use vfiomig_shuttle::device::{Device, DeviceOptions, State};
use vfiomig_shuttle::error::{Code, Errno};
use vfiomig_shuttle::session::{Load, LoadOptions, Packets};
use vfiomig_shuttle::stream::Format;
use vfiomig_shuttle::transport::{
    DataFd, DeviceInfo, Direction, FeatureRequest, PrecopyInfo, Transport,
};
use vfiomig_shuttle::uapi;

const TAGS: [u8; 7] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0];

pub fn tag(n: u8) -> Vec<u8> {
    [&TAGS[..], &[n]].concat()
}

/// A device that takes anything.
#[derive(Default)]
pub struct Driver {
    pub state: u32,
    pub taken: Vec<u8>,
    /// What a save reads, a byte at a time.
    pub gives: Vec<u8>,
    pub resets: u32,
    /// Calls in progress: the library promises one at a time.
    busy: bool,
}

/// Its lock is not the scheduler's: what it protects never waits.
#[derive(Clone, Default)]
pub struct Fake(Arc<StdMutex<Driver>>);

impl Fake {
    pub fn get<T>(&self, get: impl FnOnce(&mut Driver) -> T) -> T {
        get(&mut self.0.lock().unwrap())
    }

    /// Lets others run in the middle of a call, where nobody may call the same device.
    fn take_turns(&self) {
        self.get(|driver| assert!(!std::mem::replace(&mut driver.busy, true)));
        thread::yield_now();
        self.get(|driver| driver.busy = false);
    }
}

impl Transport for Fake {
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno> {
        let (get, set) = (FeatureRequest::get, FeatureRequest::set);
        self.get(|driver| {
            if request == get(uapi::FEATURE_MIGRATION) {
                payload.copy_from_slice(&3u64.to_ne_bytes());
            } else if request == get(uapi::FEATURE_MIG_DEVICE_STATE) {
                payload[..4].copy_from_slice(&driver.state.to_ne_bytes());
            } else if request == set(uapi::FEATURE_MIG_DEVICE_STATE) {
                driver.state = u32::from_ne_bytes(payload[..4].try_into().unwrap());
                let opens = [State::Resuming.raw(), State::StopCopy.raw()];
                let fd = if opens.contains(&driver.state) { 7 } else { -1i32 };
                payload[4..].copy_from_slice(&fd.to_ne_bytes());
            } else {
                return Err(Errno(libc::ENOTTY));
            }
            Ok(())
        })
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        Ok(DeviceInfo::default())
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.take_turns();
        self.get(|driver| {
            driver.state = State::Running.raw();
            driver.taken.clear();
            driver.resets += 1;
        });
        Ok(())
    }

    fn data_read(&mut self, _: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        self.take_turns();
        Ok(self.get(|driver| {
            assert_eq!(driver.state, State::StopCopy.raw(), "read outside of STOP_COPY");
            driver.gives.pop().map_or(0, |byte| {
                buf[0] = byte;
                1
            })
        }))
    }

    fn data_write(&mut self, _: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        self.take_turns();
        self.get(|driver| {
            assert_eq!(driver.state, State::Resuming.raw(), "written to outside of RESUMING");
            driver.taken.extend_from_slice(buf);
        });
        Ok(buf.len())
    }

    fn data_precopy_info(&mut self, _: DataFd) -> Result<PrecopyInfo, Errno> {
        Err(Errno(libc::ENOTTY))
    }

    fn data_close(&mut self, _: DataFd) {}

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

pub fn packet(idx: u32) -> Vec<u8> {
    [&[0u32, idx, 0].map(u32::to_be_bytes).concat()[..], &[idx as u8; 20]].concat()
}

pub fn config(idx: u32) -> Vec<u8> {
    [[0u32, idx, 1].map(u32::to_be_bytes).concat(), tag(2), b"vmstate".to_vec(), tag(1)].concat()
}

pub struct Rig {
    pub driver: Fake,
    pub device: Device,
    pub load: Load,
    pub packets: Packets,
}

/// A load whose main channel has come as far as the switchover.
pub fn rig(max_queued: u64) -> Rig {
    let driver = Fake::default();
    driver.get(|driver| driver.state = State::Running.raw());
    let device = Device::new(driver.clone(), DeviceOptions::default()).unwrap();
    let options = LoadOptions {
        format: Format::QemuPackets,
        max_queued,
        blobs: Some(Box::new(|_, _| Ok(()))),
        ..LoadOptions::default()
    };
    let mut load = device.load(options).unwrap();
    load.push(&[tag(3), tag(1)].concat()).unwrap();
    let packets = load.packets().unwrap();
    Rig { driver, device, load, packets }
}

fn schedules() -> usize {
    std::env::var("VFIOMIG_SHUTTLE_SCHEDULES").map_or(400, |n| n.parse().unwrap())
}

/// Runs it in many orders.
pub fn orders(test: fn()) {
    shuttle::check_random(test, schedules() / 2);
    shuttle::check_pct(test, schedules() / 2, 3);
}

/// The same for threads that may ask in vain: the scheduler with priorities would let them ask for ever
/// for a lock that another thread has.
pub fn random_orders(test: fn()) {
    shuttle::check_random(test, schedules());
}

/// Each thread brings one packet in every N, the last ones first if told to.
pub fn bring(packets: &Packets, of: Vec<Vec<u8>>) -> thread::JoinHandle<Vec<Result<(), Code>>> {
    let packets = packets.clone();
    thread::spawn(move || {
        of.iter().map(|bytes| packets.submit(bytes).map_err(|error| error.code())).collect()
    })
}

pub fn run(packets: &Packets) -> thread::JoinHandle<Result<(), Code>> {
    let packets = packets.clone();
    thread::spawn(move || packets.run().map_err(|error| error.code()))
}

/// 0 to 5, and the configuration.
pub fn all() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let even = [4, 0, 2].map(packet).to_vec();
    let odd = vec![packet(1), config(6), packet(3), packet(5)];
    (even, odd)
}

pub fn whole() -> Vec<u8> {
    (0..6).flat_map(|idx| [idx; 20]).collect()
}
