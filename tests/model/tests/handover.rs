// SPDX-License-Identifier: MIT OR Apache-2.0
//! What takes no longer than a test may. `make check-handover` goes further.

use vfiomig_model::{Bounds, Fault, explore, find};

#[test]
fn one_attempt_without_cuts_keeps_all_rules_and_reaches_all_endings() {
    let found =
        explore(Bounds { attempts: 1, cuts: 0, failures: 0, resumes: 0, deaths: 2, devices: 1 });
    println!("{found}");
    assert!(found.is_right(), "{found}");
}

#[test]
fn mistakes_are_found() {
    for fault in [Fault::ReleasesBeforeCommit, Fault::GuessingFencer, Fault::RunsAtCommit] {
        let found = find(fault);
        println!("{found}");
        assert!(found.is_right(), "{found}");
    }
}
