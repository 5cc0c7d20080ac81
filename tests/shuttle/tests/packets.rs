// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that several threads bring, in every order in which a scheduler lets the threads run.
//!
//! VFIOMIG_SHUTTLE_SCHEDULES says how many orders each test tries (default 400; in half of them the
//! scheduler prefers a few changes of turn at odd places). What fails prints its schedule:
//! `shuttle::replay`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod rig;

use rig::*;
use shuttle::thread;
use vfiomig_shuttle::device::State;
use vfiomig_shuttle::error::Code;
use vfiomig_shuttle::session::LoadOptions;

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
