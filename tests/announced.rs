// SPDX-License-Identifier: MIT OR Apache-2.0
//! A load whose source is known beforehand: judged before anything is done to the target's device.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Side, check_clean, side, small, stream_of};
use vfiomig::compat::{Decider, Field, Policy, Rule};
use vfiomig::device::Identity;
use vfiomig::error::{Code, Errno, Operation};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig_sim::{Op, SimOptions, State};

fn announced(source: Identity) -> LoadOptions {
    LoadOptions { source: Some(Box::new(source)), ..LoadOptions::default() }
}

/// A target that must not be touched.
struct Untouched {
    side: Side,
    digest: u64,
    calls: u64,
}

impl Untouched {
    fn new() -> Untouched {
        let side =
            side(SimOptions { driver: "mdevs".into(), mdev_type: "mtty-1".into(), ..small(2) });
        let (digest, calls) = (side.sim.digest(), changes(&side));
        Untouched { side, digest, calls }
    }

    fn refuses(&self, options: LoadOptions, code: Code, text: &str) {
        let error = self.side.device.load(options).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(text), "{error}");
        assert_eq!(self.side.sim.state(), State::RUNNING);
        assert_eq!(self.side.sim.digest(), self.digest);
        assert_eq!(changes(&self.side), self.calls);
    }
}

/// How often the device was asked for anything but what it is.
fn changes(side: &Side) -> u64 {
    [Op::SetState, Op::Write, Op::Read, Op::Reset].iter().map(|op| side.sim.count(*op)).sum()
}

#[test]
fn a_source_that_does_not_fit_is_refused_before_the_device_is_touched() {
    let target = Untouched::new();
    let fits = target.side.device.identity().unwrap();
    let other = Identity { mdev_type: "mtty-2".into(), ..fits.clone() };
    target.refuses(announced(other), Code::OtherDevice, "mdev type mtty-2 (target: mtty-1)");
    let unknown = Identity::default();
    target.refuses(announced(unknown), Code::OtherDevice, "driver unknown (target: mdevs)");
    let strict = || Policy::default().with(Field::Firmware, Rule::Require).unwrap();
    let options = LoadOptions { policy: strict(), ..announced(fits.clone()) };
    target.refuses(options, Code::OtherDevice, "firmware unknown (target: unknown): must be known");

    // And it is as good as new.
    let source =
        side(SimOptions { driver: "mdevs".into(), mdev_type: "mtty-1".into(), ..small(1) });
    let stream = stream_of(&source.device, SaveOptions::default()).unwrap();
    let mut load = target.side.device.load(announced(source.device.identity().unwrap())).unwrap();
    assert!(load.push(&stream).unwrap().ended);
    load.commit().unwrap();
    assert_eq!(target.side.sim.digest(), source.sim.digest());
    drop(load);
    check_clean(&target.side);
}

#[test]
fn the_callback_is_asked_when_the_load_begins_and_when_the_stream_says_what_it_is_of() {
    let source = side(small(1));
    let stream = stream_of(&source.device, SaveOptions::default()).unwrap();
    let target = side(small(2));
    let digest = target.sim.digest();
    // Of the two times that it is asked, which one it refuses: the first, the second, none.
    for refused in [1, 2, 3] {
        let asked = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&asked);
        let decide: Decider = Box::new(move |_, _| {
            let mut asked = counter.lock().unwrap();
            *asked += 1;
            if *asked == refused { Err(Errno(libc::EPERM)) } else { Ok(()) }
        });
        let policy = Policy::default().deciding(decide).unwrap();
        let told = announced(source.device.identity().unwrap());
        let load = target.device.load(LoadOptions { policy, ..told });
        if refused == 1 {
            let error = load.err().unwrap();
            assert_eq!(error.code(), Code::Perm);
            assert_eq!(error.failure().unwrap().operation, Operation::Callback);
            assert_eq!(target.sim.state(), State::RUNNING);
            assert_eq!(target.sim.digest(), digest);
            continue;
        }
        let pushed = load.unwrap().push(&stream);
        assert_eq!(
            pushed.map(|_| ()).map_err(|error| error.code()),
            match refused {
                2 => Err(Code::Perm),
                _ => Ok(()),
            }
        );
        assert_eq!(*asked.lock().unwrap(), 2);
        check_clean(&target);
    }
}

#[test]
fn a_stream_of_another_device_than_was_announced_is_refused_before_its_data() {
    let source = side(SimOptions { driver: "xe".into(), ..small(1) });
    let stream = stream_of(&source.device, SaveOptions::default()).unwrap();
    let target = side(SimOptions { driver: "xe".into(), ..small(2) });
    let real = source.device.identity().unwrap();
    // Each alone would pass: what was announced, and what the stream says.
    let told = Identity { kernel_release: "1.0".into(), ..real.clone() };
    let mut load = target.device.load(announced(told)).unwrap();
    let error = load.push(&stream).unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
    assert!(error.message().contains("kernel release"), "{error}");
    assert_eq!(load.source_identity().unwrap(), &real);
    assert_eq!(target.sim.count(Op::Write), 0);
    drop(load);
    check_clean(&target);
    // What only one of them says does not count, nor does an estimate of the moment.
    let told = Identity { kernel_release: String::new(), state_size: 1, ..real };
    let mut load = target.device.load(announced(told)).unwrap();
    assert!(load.push(&stream).unwrap().ended);
    load.commit().unwrap();
    drop(load);
    check_clean(&target);
}
