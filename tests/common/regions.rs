// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds for devices of both older protocols, whose state goes through regions.

use vfiomig::Result;
use vfiomig::device::{MigrationFlags, ReasonCode};
use vfiomig::session::{Ending, LoadOptions, SaveOptions};
use vfiomig_sim::{SimOptions, State};

use super::{Drive, Side, check_clean, migrate, side, stream_of};

pub fn commit(stream: &[u8], target: &Side) -> Result<()> {
    let mut load = target.device.load(LoadOptions::default())?;
    load.push(stream)?;
    load.commit()
}

/// It speaks this protocol, which has none of what later ones brought.
pub fn say_what_is_lacking(side: &Side, protocol: u32, logs: bool) {
    let (caps, identity) = (side.device.caps().unwrap(), side.device.identity().unwrap());
    let flags = MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY;
    assert_eq!(caps.migration_flags, flags);
    assert_eq!((caps.state_size, caps.dma_logging, caps.precopy_info_v2), (None, logs, false));
    assert_eq!(identity.protocol, protocol);
    let reasons: Vec<_> = side.device.reasons().unwrap().iter().map(|reason| reason.code).collect();
    assert!([ReasonCode::NoP2p, ReasonCode::NoDataSize].iter().all(|code| reasons.contains(code)));
    assert_eq!(reasons.contains(&ReasonCode::NoDmaLogging), !logs, "{reasons:?}");
}

/// There and back, and a save with each ending, before and after the stop.
pub fn go_there_and_back(one: &Side, two: &Side) {
    migrate(one, two, Drive::default());
    migrate(two, one, Drive::default());
    let digest = one.sim.digest();
    for (ending, state) in [
        (Ending::Keep, State::RUNNING),
        (Ending::KeepQuiesced, State::RUNNING),
        (Ending::KeepStopped, State::STOP),
    ] {
        for stops in [false, true] {
            let mut save = one.device.save(SaveOptions::default()).unwrap();
            let _ = save.next(&mut vec![0; 8192]).unwrap();
            if stops {
                save.stop().unwrap();
                let _ = save.next(&mut vec![0; 8192]).unwrap();
            }
            save.finish(ending).unwrap();
            assert_eq!((one.sim.state(), one.sim.digest()), (state, digest), "{ending:?} {stops}");
            one.device.run().unwrap();
        }
    }
}

pub fn refuse_every_cut(options: &SimOptions) {
    let stream = stream_of(&side(options.clone()).device, SaveOptions::default()).unwrap();
    for len in (0..stream.len()).step_by(7) {
        let target = side(SimOptions { seed: 2, ..options.clone() });
        assert!(commit(&stream[..len], &target).is_err());
        assert_eq!(target.sim.state(), State::RUNNING);
        check_clean(&target);
    }
}
