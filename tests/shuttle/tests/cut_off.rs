// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process's switch is turned off at any moment of a load with packets, and on again at any
//! later one. It is the whole process's, so this is a program of its own with one test.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod rig;

use rig::*;
use shuttle::thread;
use vfiomig_shuttle::device::State;
use vfiomig_shuttle::error::Code;
use vfiomig_shuttle::policy::{Directions, set_allowed};

#[test]
fn a_load_that_is_cut_off_ends_for_all_or_was_complete() {
    orders(|| {
        set_allowed(Directions::all());
        let mut rig = rig(1 << 20);
        let (even, odd) = all();
        let threads = [bring(&rig.packets, even), bring(&rig.packets, odd)];
        let runner = run(&rig.packets);
        let switch = thread::spawn(|| {
            set_allowed(Directions::SAVE);
            thread::yield_now();
            set_allowed(Directions::all());
        });
        let ran = runner.join().unwrap();
        for thread in threads {
            let codes = thread.join().unwrap();
            assert!(codes.iter().all(|code| matches!(code, Ok(()) | Err(Code::Perm))), "{codes:?}");
        }
        let committed = rig.load.commit().map_err(|error| error.code());
        match (ran, committed) {
            (Ok(()), Ok(())) => {
                assert_eq!(rig.driver.get(|driver| driver.taken.clone()), whole());
                assert_eq!(rig.device.state().unwrap(), State::Stop);
            }
            (Ok(()) | Err(Code::Perm), Err(Code::Perm)) => {
                let now = rig.driver.get(|driver| (driver.state, driver.resets));
                assert_eq!(now, (State::Running.raw(), 1));
            }
            other => panic!("{other:?}"),
        }
        switch.join().unwrap();
        assert!(!rig.packets.in_use());
        // Whoever comes later is not concerned.
        drop(rig.load);
        drop(rig.device.load(Default::default()).unwrap());
    });
}
