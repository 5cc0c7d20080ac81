// SPDX-License-Identifier: MIT OR Apache-2.0
//! A target's group with a window, which several threads bring frames to and several help, in every order
//! in which a scheduler lets the threads run. Steps of all devices, and a source that is stopped while
//! threads read it, likewise. See `packets.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod rig;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rig::{Fake, orders, random_orders};
use shuttle::thread;
use vfiomig_shuttle::Group;
use vfiomig_shuttle::device::{Device, DeviceOptions, State};
use vfiomig_shuttle::error::Code;
use vfiomig_shuttle::group::{
    ChannelOptions, GroupOptions, HEADER_LEN, MIN_WINDOW, Phase, Role, Until,
};
use vfiomig_shuttle::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig_shuttle::stream::{Encoder, FrameType, encode_identity};

const DEVICES: usize = 2;
/// Of the sources.
const MIGRATION: [u8; 16] = [5; 16];

struct Target {
    drivers: Vec<Fake>,
    group: Arc<Group>,
    /// The frames of each device, in order.
    frames: Vec<Vec<Vec<u8>>>,
}

/// A frame of a group, as docs/group.md has it.
fn frame(device: u32, offset: u64, piece: &[u8]) -> Vec<u8> {
    [header(1, device, offset, piece.len() as u32, 0), piece.to_vec()].concat()
}

/// The target has room for as much as it can have.
fn credit(device: u32) -> Vec<u8> {
    header(2, device, MIN_WINDOW, 0, crc32fast::hash(&MIGRATION))
}

fn header(kind: u8, device: u32, offset: u64, len: u32, tag: u32) -> Vec<u8> {
    let mut out = [&b"VMGR\x01"[..], &[kind, 0, 0]].concat();
    out.extend(device.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(tag.to_le_bytes());
    out.extend(crc32fast::hash(&out).to_le_bytes());
    assert_eq!(out.len(), HEADER_LEN);
    out
}

/// What a device delivers: a number and the device's.
fn data(device: u32, number: u8) -> [u8; 20] {
    [number * 16 + device as u8; 20]
}

fn frames(device: &Device, number: u32) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new([3; 16], number);
    let mut buf = [0; 4096];
    let identity = encode_identity(&device.identity().unwrap());
    let mut pieces = vec![];
    let end = encoder.preamble(&mut buf).unwrap();
    pieces.push(buf[..end].to_vec());
    let end = encoder.frame(&mut buf, FrameType::Identity, &[&identity]).unwrap();
    pieces.push(buf[..end].to_vec());
    for part in 0..2 {
        let end = encoder.frame(&mut buf, FrameType::Data, &[&data(number, part)]).unwrap();
        pieces.push(buf[..end].to_vec());
    }
    let end = encoder.end(&mut buf).unwrap();
    pieces.push(buf[..end].to_vec());
    let mut offset = 0;
    let place = |piece: &Vec<u8>| {
        let made = frame(number, offset, piece);
        offset += piece.len() as u64;
        made
    };
    pieces.iter().map(place).collect()
}

fn target(window: u64) -> Target {
    let group = Group::new(GroupOptions { window, ..GroupOptions::new(Role::Target) }).unwrap();
    let (mut drivers, mut all) = (vec![], vec![]);
    for number in 0..DEVICES {
        let driver = Fake::default();
        driver.get(|driver| driver.state = State::Running.raw());
        let device = Device::new(driver.clone(), DeviceOptions::default()).unwrap();
        group.add_load(&device, LoadOptions::default()).unwrap();
        all.push(frames(&device, number as u32));
        drivers.push(driver);
    }
    group.begin().unwrap();
    Target { drivers, group: Arc::new(group), frames: all }
}

impl Target {
    /// A thread that brings these.
    fn bring(&self, frames: Vec<Vec<u8>>) -> thread::JoinHandle<Vec<Result<(), Code>>> {
        let group = Arc::clone(&self.group);
        thread::spawn(move || {
            frames.iter().map(|frame| group.put(frame).map_err(|error| error.code())).collect()
        })
    }

    fn help(&self, until: Until) -> thread::JoinHandle<Result<(), Code>> {
        let group = Arc::clone(&self.group);
        thread::spawn(move || group.work(until).map_err(|error| error.code()))
    }

    /// The frames of all devices over two channels, each in an order of its own.
    fn channels(&self) -> [Vec<Vec<u8>>; 2] {
        let all: Vec<_> = self.frames.iter().flatten().cloned().collect();
        let half = |odd: usize| all.iter().skip(odd).step_by(2).cloned();
        [half(0).collect(), half(1).rev().collect()]
    }

    fn has_arrived(&self) {
        for (number, driver) in self.drivers.iter().enumerate() {
            let wanted = [data(number as u32, 0), data(number as u32, 1)].concat();
            assert_eq!(driver.get(|driver| driver.taken.clone()), wanted);
        }
    }
}

/// Credits until all streams are complete.
fn send_credits(group: &Group) {
    loop {
        group.work(Until::Frame).unwrap();
        match group.next(&mut [0; HEADER_LEN]).unwrap().status {
            SaveStatus::More | SaveStatus::Drained => {}
            SaveStatus::End => return,
        }
    }
}

#[test]
fn frames_over_several_channels_are_written_once_and_in_order() {
    orders(|| {
        let target = target(MIN_WINDOW);
        let helpers = [target.help(Until::Dismissed), target.help(Until::Dismissed)];
        let channels = target.channels().map(|frames| target.bring(frames));
        send_credits(&target.group);
        for channel in channels {
            assert!(channel.join().unwrap().iter().all(Result::is_ok));
        }
        target.has_arrived();
        target.group.commit().unwrap();
        target.group.run().unwrap();
        target.group.dismiss();
        for helper in helpers {
            helper.join().unwrap().unwrap();
        }
        assert!(target.drivers.iter().all(|d| d.get(|d| d.state) == State::Running.raw()));
        assert_eq!(target.group.status().unwrap().held_bytes, 0);
    });
}

#[test]
fn without_a_window_each_device_has_a_channel() {
    orders(|| {
        let target = target(0);
        let channels: Vec<_> = target.frames.iter().map(|f| target.bring(f.clone())).collect();
        for channel in channels {
            assert!(channel.join().unwrap().iter().all(Result::is_ok));
        }
        target.has_arrived();
        target.group.commit().unwrap();
    });
}

#[test]
fn a_cancellation_ends_every_call() {
    orders(|| {
        let target = target(MIN_WINDOW);
        let mut channels = target.channels();
        // Without it, those who wait for the end would do so forever.
        channels[1].pop();
        let helpers = [target.help(Until::Dismissed), target.help(Until::Frame)];
        let channels = channels.map(|frames| target.bring(frames));
        let group = Arc::clone(&target.group);
        let canceller = thread::spawn(move || group.cancel());
        for channel in channels {
            let codes = channel.join().unwrap();
            assert!(codes.iter().all(|code| matches!(code, Ok(()) | Err(Code::Cancelled))));
        }
        canceller.join().unwrap();
        assert_eq!(target.group.commit().unwrap_err().code(), Code::Cancelled);
        target.group.dismiss();
        for helper in helpers {
            assert!(matches!(helper.join().unwrap(), Ok(()) | Err(Code::Cancelled)));
        }
        assert_eq!(target.group.status().unwrap().phase, Phase::Over);
        assert!(target.drivers.iter().all(|d| d.get(|d| d.state) == State::Running.raw()));
    });
}

/// Connections to the target, with everything that comes over each in it.
fn connect(target: &Target) -> Vec<UnixStream> {
    let connect = |frames: Vec<Vec<u8>>| {
        let (near, mut far) = UnixStream::pair().unwrap();
        target.group.add_channel(near.as_fd(), ChannelOptions::default()).unwrap();
        far.write_all(&frames.concat()).unwrap();
        far
    };
    target.channels().map(connect).into()
}

#[test]
fn channels_are_served_by_whoever_is_there() {
    orders(|| {
        let target = target(MIN_WINDOW);
        let far = connect(&target);
        let helpers = [target.help(Until::Dismissed), target.help(Until::Dismissed)];
        target.group.work(Until::Complete).unwrap();
        target.has_arrived();
        target.group.commit().unwrap();
        target.group.run().unwrap();
        target.group.dismiss();
        for helper in helpers {
            helper.join().unwrap().unwrap();
        }
        assert_eq!(target.group.status().unwrap().held_bytes, 0);
        drop(far);
    });
}

#[test]
fn whoever_serves_channels_is_sent_away_by_a_cancellation() {
    orders(|| {
        let target = target(MIN_WINDOW);
        let mut far = connect(&target);
        // A frame that does not come to its end.
        far[0].write_all(&frame(0, 1 << 20, &[0; 9])[..HEADER_LEN + 5]).unwrap();
        let helpers = [target.help(Until::Dismissed), target.help(Until::Complete)];
        let group = Arc::clone(&target.group);
        let canceller = thread::spawn(move || group.cancel());
        canceller.join().unwrap();
        let committed = target.group.commit().map_err(|error| error.code());
        assert!(matches!(committed, Err(Code::Cancelled)), "{committed:?}");
        target.group.dismiss();
        for helper in helpers {
            assert!(matches!(helper.join().unwrap(), Ok(()) | Err(Code::Cancelled)));
        }
    });
}

#[test]
fn steps_of_all_devices_are_taken_once_by_each() {
    orders(|| {
        let target = target(0);
        let helpers = [target.help(Until::Dismissed), target.help(Until::Dismissed)];
        for frame in target.frames.iter().flatten() {
            target.group.put(frame).unwrap();
        }
        target.group.commit().unwrap();
        target.group.abandon().unwrap();
        target.group.dismiss();
        for helper in helpers {
            helper.join().unwrap().unwrap();
        }
        assert!(target.drivers.iter().all(|driver| driver.get(|driver| driver.resets) == 1));
    });
}

/// A source whose device has little once it has been stopped.
fn source(window: u64) -> Arc<Group> {
    let options = GroupOptions::new(Role::Source);
    let group = Group::new(GroupOptions { window, migration_id: MIGRATION, ..options }).unwrap();
    let driver = Fake::default();
    driver.get(|driver| {
        driver.state = State::Running.raw();
        driver.gives = vec![1];
    });
    let device = Device::new(driver, DeviceOptions::default()).unwrap();
    group.add_save(&device, SaveOptions::default()).unwrap();
    Arc::new(group)
}

/// So many that they can be done before the thread that stops the source goes on.
const READERS: usize = 5;

fn readers(read: impl Fn() + Clone + Send + 'static) -> Vec<thread::JoinHandle<()>> {
    (0..READERS).map(|_| thread::spawn(read.clone())).collect()
}

#[test]
fn a_source_that_is_read_while_it_is_stopped_comes_to_its_end() {
    random_orders(|| {
        let group = source(0);
        group.begin().unwrap();
        let read = Arc::clone(&group);
        let readers = readers(move || {
            // So often at most, else it could be all that is scheduled.
            for _ in 0..12 {
                read.next(&mut [0; 8192]).unwrap();
            }
        });
        group.stop().unwrap();
        while group.next(&mut [0; 8192]).unwrap().status != SaveStatus::End {}
        for reader in readers {
            reader.join().unwrap();
        }
        group.finish(Ending::Release).unwrap();
    });
}

#[test]
fn a_source_with_channels_that_is_stopped_comes_to_its_end() {
    random_orders(|| {
        let group = source(MIN_WINDOW);
        let (near, mut far) = UnixStream::pair().unwrap();
        group.add_channel(near.as_fd(), ChannelOptions::default()).unwrap();
        far.write_all(&credit(0)).unwrap();
        group.begin().unwrap();
        let help = Arc::clone(&group);
        let helpers = readers(move || help.work(Until::Dismissed).unwrap());
        group.stop().unwrap();
        group.work(Until::Complete).unwrap();
        group.dismiss();
        for helper in helpers {
            helper.join().unwrap();
        }
        group.finish(Ending::Release).unwrap();
    });
}
