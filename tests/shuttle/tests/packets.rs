// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that several threads bring, in every order in which a scheduler lets the threads run.
//!
//! VFIOMIG_SHUTTLE_SCHEDULES says how many orders each test tries (default 400; in half of them the
//! scheduler prefers a few changes of turn at odd places). What fails prints its schedule:
//! `shuttle::replay`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

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

fn tag(n: u8) -> Vec<u8> {
    [&TAGS[..], &[n]].concat()
}

/// A device that takes anything.
#[derive(Default)]
struct Driver {
    state: u32,
    taken: Vec<u8>,
    resets: u32,
    /// Calls in progress: the library promises one at a time.
    busy: bool,
}

/// Its lock is not the scheduler's: what it protects never waits.
#[derive(Clone, Default)]
struct Fake(Arc<StdMutex<Driver>>);

impl Fake {
    fn get<T>(&self, get: impl FnOnce(&mut Driver) -> T) -> T {
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
                let fd = if driver.state == State::Resuming.raw() { 7 } else { -1i32 };
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

    fn data_read(&mut self, _: DataFd, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno(libc::EINVAL))
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

fn packet(idx: u32) -> Vec<u8> {
    [&[0u32, idx, 0].map(u32::to_be_bytes).concat()[..], &[idx as u8; 20]].concat()
}

fn config(idx: u32) -> Vec<u8> {
    [[0u32, idx, 1].map(u32::to_be_bytes).concat(), tag(2), b"vmstate".to_vec(), tag(1)].concat()
}

struct Rig {
    driver: Fake,
    device: Device,
    load: Load,
    packets: Packets,
}

/// A load whose main channel has come as far as the switchover.
fn rig(max_queued: u64) -> Rig {
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

/// Runs it in many orders.
fn orders(test: fn()) {
    let all = std::env::var("VFIOMIG_SHUTTLE_SCHEDULES").map_or(400, |n| n.parse().unwrap());
    shuttle::check_random(test, all / 2);
    shuttle::check_pct(test, all / 2, 3);
}

/// Each thread brings one packet in every N, the last ones first if told to.
fn bring(packets: &Packets, of: Vec<Vec<u8>>) -> thread::JoinHandle<Vec<Result<(), Code>>> {
    let packets = packets.clone();
    thread::spawn(move || {
        of.iter().map(|bytes| packets.submit(bytes).map_err(|error| error.code())).collect()
    })
}

fn run(packets: &Packets) -> thread::JoinHandle<Result<(), Code>> {
    let packets = packets.clone();
    thread::spawn(move || packets.run().map_err(|error| error.code()))
}

/// 0 to 5, and the configuration.
fn all() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let even = [4, 0, 2].map(packet).to_vec();
    let odd = vec![packet(1), config(6), packet(3), packet(5)];
    (even, odd)
}

fn whole() -> Vec<u8> {
    (0..6).flat_map(|idx| [idx; 20]).collect()
}

#[test]
fn packets_of_several_threads_are_written_once_and_in_order() {
    orders(|| {
        let mut rig = rig(1 << 20);
        let (even, odd) = all();
        let threads = [bring(&rig.packets, even), bring(&rig.packets, odd)];
        run(&rig.packets).join().unwrap().unwrap();
        for thread in threads {
            assert!(thread.join().unwrap().iter().all(Result::is_ok));
        }
        rig.load.commit().unwrap();
        assert_eq!(rig.driver.get(|driver| driver.taken.clone()), whole());
        assert_eq!(rig.device.state().unwrap(), State::Stop);
        assert!(!rig.packets.in_use());
        assert_eq!(rig.load.stats().queued_bytes, 0);
    });
}

#[test]
fn who_waits_for_room_gets_it() {
    orders(|| {
        // Room for one, besides the next in order: everyone else waits.
        let mut rig = rig(150);
        let threads: Vec<_> =
            [vec![packet(0), packet(3)], vec![packet(4), config(6)], vec![packet(1), packet(5)]]
                .into_iter()
                .chain([vec![packet(2)]])
                .map(|of| bring(&rig.packets, of))
                .collect();
        run(&rig.packets).join().unwrap().unwrap();
        for thread in threads {
            assert!(thread.join().unwrap().iter().all(Result::is_ok));
        }
        rig.load.commit().unwrap();
        assert_eq!(rig.driver.get(|driver| driver.taken.clone()), whole());
    });
}

#[test]
fn a_cancellation_ends_every_call_and_resets_the_device() {
    orders(|| {
        let rig = rig(150);
        let (even, odd) = all();
        // One is missing: without the cancellation they would wait forever.
        let threads = [bring(&rig.packets, even), bring(&rig.packets, odd[..2].to_vec())];
        let runner = run(&rig.packets);
        let shared = rig.load.shared();
        let canceller = thread::spawn(move || shared.cancel());
        assert_eq!(runner.join().unwrap(), Err(Code::Cancelled));
        for thread in threads {
            let codes = thread.join().unwrap();
            assert!(codes.iter().all(|code| matches!(code, Ok(()) | Err(Code::Cancelled))));
        }
        canceller.join().unwrap();
        assert!(!rig.packets.in_use());
        assert_eq!(rig.device.state().unwrap(), State::Running);
        assert_eq!(rig.driver.get(|driver| driver.resets), 1);
        drop(rig.load);
        assert_eq!(rig.driver.get(|driver| driver.resets), 1);
    });
}

#[test]
fn a_bad_packet_ends_every_call_with_the_same_code() {
    orders(|| {
        let mut rig = rig(1 << 20);
        let (even, _) = all();
        // An index that has come before; nobody brings number 1.
        let threads = [bring(&rig.packets, even), bring(&rig.packets, vec![packet(3), packet(3)])];
        let runner = run(&rig.packets);
        assert_eq!(runner.join().unwrap(), Err(Code::Proto));
        for thread in threads {
            let codes = thread.join().unwrap();
            assert!(codes.iter().all(|code| matches!(code, Ok(()) | Err(Code::Proto))));
        }
        assert!(rig.load.commit().is_err());
        assert_eq!(rig.device.state().unwrap(), State::Running);
        assert_eq!(rig.driver.get(|driver| driver.resets), 1);
    });
}

#[test]
fn a_load_that_goes_waits_for_its_calls_and_leaves_nothing_behind() {
    orders(|| {
        let Rig { driver, device, load, packets } = rig(150);
        let (even, odd) = all();
        let threads = [bring(&packets, even), bring(&packets, odd[..2].to_vec())];
        let runner = run(&packets);
        drop(load);
        assert!(!packets.in_use());
        assert_eq!(driver.get(|driver| (driver.state, driver.resets)), (State::Running.raw(), 1));
        // Latecomers do not disturb the device's next owner.
        let next = device.load(LoadOptions::default()).unwrap();
        assert!(runner.join().unwrap().is_err());
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        let now = driver.get(|driver| (driver.state, driver.taken.len(), driver.resets));
        assert_eq!(now, (State::Resuming.raw(), 0, 1));
        drop(next);
        assert_eq!(driver.get(|driver| driver.state), State::Running.raw());
    });
}

#[test]
fn the_main_channel_may_end_while_packets_are_written() {
    orders(|| {
        let mut rig = rig(1 << 20);
        let (even, odd) = all();
        let threads = [bring(&rig.packets, even), bring(&rig.packets, odd)];
        let runner = run(&rig.packets);
        // The last section of the main channel, in two pieces: before, within, or after.
        let end = tag(1);
        let first = rig.load.push(&end[..3]);
        let pushed = first.and_then(|_| rig.load.push(&end[3..]));
        let ran = runner.join().unwrap();
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        match ran {
            Ok(()) => {
                pushed.unwrap();
                rig.load.commit().unwrap();
                assert_eq!(rig.driver.get(|driver| driver.taken.clone()), whole());
            }
            // It began within that section.
            Err(code) => {
                assert_eq!(code, Code::Proto);
                assert!(rig.load.commit().is_err());
                assert_eq!(rig.driver.get(|driver| driver.state), State::Running.raw());
            }
        }
    });
}
