// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::error::Code;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn sound(range: Range) -> bool {
    range.low <= range.value && range.value <= range.high
}

fn remaining(precopy: u64, all: u64) -> Observation {
    Observation::Remaining(Remaining {
        precopy: Some((0, precopy)),
        stop_copy: Some(all),
        initial_sent: true,
        generation: 1,
    })
}

/// What the other side would send: its device takes these steps and bytes.
fn other_side(commit_ns: u64, write_ns_per_mib: u64) -> [u8; BLOB_LEN] {
    let mut there = Estimate::new();
    there.add_device().unwrap();
    for (step, ns) in [(Step::Commit, commit_ns), (Step::Approach, MS), (Step::Run, MS)] {
        there.observe(0, 0, Observation::Took(step, ns)).unwrap();
    }
    there.observe(0, 0, Observation::Written { bytes: 8 * MIB, ns: 8 * write_ns_per_mib }).unwrap();
    there.export(0).unwrap()
}

/// `devices` of which everything was measured: 1 MiB/ms is read, 2 ms of steps each, 4 ms to commit,
/// 0.5 MiB/ms are written; the channel takes 1 MiB/ms.
fn measured(devices: u32) -> Estimate {
    let mut estimate = Estimate::new();
    for device in 0..devices {
        estimate.add_device().unwrap();
        for _ in 0..20 {
            let read = Observation::Read { bytes: MIB, ns: MS };
            estimate.observe(device, 0, read).unwrap();
        }
        estimate.import(device, Side::There, &other_side(4 * MS, 2 * MS)).unwrap();
        for step in [Step::Quiesce, Step::Stop, Step::Release] {
            let mut history = estimate.tracks[device as usize].here;
            history.took(step, 2 * MS);
            estimate.tracks[device as usize].here = history;
        }
        estimate.observe(device, MS, remaining(0, 16 * MIB)).unwrap();
        estimate.observe(device, MS, Observation::InitialLoaded(1)).unwrap();
    }
    for _ in 0..20 {
        estimate.observe(0, 0, Observation::Sent { bytes: MIB, ns: MS }).unwrap();
    }
    estimate
}

#[test]
fn a_prediction_adds_up() {
    let prediction = measured(1).predict(None, 0).unwrap();
    let of = |phase| prediction.phase(phase).value / MS;
    assert_eq!((of(Phase::Quiesce), of(Phase::Stop), of(Phase::Read)), (2, 2, 16));
    // One thread reads and sends; the target takes as long to write.
    assert_eq!((of(Phase::Send), of(Phase::Load)), (16, 2));
    assert_eq!((of(Phase::Commit), of(Phase::Resume)), (4, 2));
    let sum: u64 = prediction.phases.iter().map(|range| range.value).sum();
    assert_eq!(prediction.total.value, sum);
    assert!(prediction.is_known() && sound(prediction.total));
    assert_eq!(prediction.stop_copy_bytes.value, 16 * MIB);
}

#[test]
fn several_threads_take_less_time_and_one_device_alone_does_not() {
    let mut estimate = measured(4);
    let alone = estimate.predict(Some(2), 0).unwrap().total.value;
    let in_turn = estimate.predict(None, 0).unwrap().total.value;
    assert!(in_turn > 3 * alone, "{in_turn} {alone}");
    let all = [
        Observation::SourceThreads(4),
        Observation::TargetThreads(4),
        Observation::SourceHelpers(4),
        Observation::TargetHelpers(4),
    ];
    for side in all {
        estimate.observe(0, 0, side).unwrap();
    }
    // Sending takes as much of each thread as before.
    assert_eq!(estimate.predict(None, 0).unwrap().total.value, alone);
}

#[test]
fn channels_send_while_others_read() {
    let mut estimate = measured(1);
    let send =
        |estimate: &Estimate| estimate.predict(None, 0).unwrap().phase(Phase::Send).value / MS;
    assert_eq!(send(&estimate), 16);
    for (channels, takes) in [(1, 0), (2, 0), (0, 16)] {
        estimate.observe(0, 0, Observation::Channels(channels)).unwrap();
        assert_eq!(send(&estimate), takes, "{channels} channels");
    }
}

#[test]
fn round_trips_count_where_they_are_waited_for() {
    let mut estimate = measured(1);
    let before = estimate.predict(None, 0).unwrap();
    estimate.observe(0, 0, Observation::RoundTrip(10 * MS)).unwrap();
    let after = estimate.predict(None, 0).unwrap();
    assert_eq!(after.total.value - before.total.value, 20 * MS);
    assert_eq!(after.phase(Phase::Resume).value - before.phase(Phase::Resume).value, 5 * MS);
}

#[test]
fn what_was_never_measured_is_unknown_and_the_rest_is_said_anyway() {
    let mut estimate = Estimate::new();
    estimate.add_device().unwrap();
    assert!(!estimate.predict(None, 0).unwrap().is_known());
    estimate.observe(0, 0, remaining(0, 8 * MIB)).unwrap();
    estimate.observe(0, 0, Observation::Read { bytes: 4 * MIB, ns: 4 * MS }).unwrap();
    let prediction = estimate.predict(None, 0).unwrap();
    assert_eq!(prediction.phase(Phase::Read).value, 8 * MS);
    assert_ne!(prediction.phase(Phase::Read).high, u64::MAX);
    for phase in [Phase::Quiesce, Phase::Stop, Phase::Send, Phase::Load, Phase::Commit] {
        assert_eq!(prediction.phase(phase).high, u64::MAX, "{phase:?}");
    }
    let decision = estimate.decide(0, 100 * MS, false);
    assert_eq!((decision.verdict, decision.because), (Verdict::SwitchOver, Because::AsFarAsKnown));
}

/// Of a device that announces `says` and then sends `sends`; what is said of one that announces
/// 10 MiB.
fn corrected(says: u64, sends: u64) -> Range {
    let mut estimate = measured(1);
    for _ in 0..4 {
        estimate.tracks[0].here.sent(sends, Some(says));
    }
    estimate.observe(0, 0, remaining(0, 10 * MIB)).unwrap();
    estimate.predict(None, 0).unwrap().stop_copy_bytes
}

#[test]
fn drivers_whose_sizes_lie_are_corrected() {
    let (half, thrice) = (corrected(MIB, 2 * MIB), corrected(3 * MIB, MIB));
    assert_eq!(half.value, 20 * MIB);
    assert!(half.low > 15 * MIB && half.high < 25 * MIB, "{half:?}");
    assert!(thrice.value.abs_diff(10 * MIB / 3) < MIB, "{thrice:?}");
}

#[test]
fn the_correction_is_learned_and_travels_in_the_blob() {
    let mut first = Estimate::new();
    first.add_device().unwrap();
    first.observe(0, MS, remaining(0, MIB)).unwrap();
    first.observe(0, 2 * MS, Observation::Took(Step::Stop, MS)).unwrap();
    first.observe(0, 0, Observation::Read { bytes: 2 * MIB, ns: 2 * MS }).unwrap();
    first.observe(0, 0, Observation::Ended).unwrap();
    let blob = first.export(0).unwrap();

    let mut second = Estimate::new();
    second.add_device().unwrap();
    second.import(0, Side::Here, &blob).unwrap();
    second.observe(0, 0, remaining(0, 3 * MIB)).unwrap();
    let prediction = second.predict(None, 0).unwrap();
    assert_eq!(prediction.stop_copy_bytes.value, 6 * MIB);
    assert_eq!(prediction.phase(Phase::Stop).value, MS);
    assert_eq!(prediction.phase(Phase::Read).value, 6 * MS);

    // A driver that announces nothing sends what it sent last time.
    let silent = Remaining { stop_copy: None, generation: 1, ..Remaining::default() };
    second.observe(0, 0, Observation::Remaining(silent)).unwrap();
    assert_eq!(second.predict(None, 0).unwrap().stop_copy_bytes.value, 2 * MIB);
}

#[test]
fn what_becomes_dirty_until_the_device_is_stopped_counts() {
    let mut estimate = measured(1);
    for look in 1..20 {
        // 100 KiB in each millisecond, all of which has been read when the driver is asked.
        estimate.observe(0, 0, Observation::Read { bytes: 100 << 10, ns: 100_000 }).unwrap();
        estimate.observe(0, (1 + look) * MS, remaining(0, 16 * MIB)).unwrap();
    }
    let now = estimate.predict(None, 20 * MS).unwrap();
    let later = estimate.predict(None, 40 * MS).unwrap();
    assert_eq!(now.precopy_bytes, 0);
    assert!(later.precopy_bytes.abs_diff(2000 << 10) < 100 << 10, "{}", later.precopy_bytes);
    assert_eq!(later.stop_copy_bytes.value - now.stop_copy_bytes.value, later.precopy_bytes);
}

#[test]
fn initial_data_is_waited_for_and_counts_again_when_it_starts_again() {
    let mut estimate = measured(2);
    let because = |estimate: &Estimate, wait| {
        let decision = estimate.decide(0, 1000 * MS, wait);
        (decision.verdict, decision.because, decision.device)
    };
    assert_eq!(because(&estimate, true).1, Because::Fits);
    let mut say = |sent, generation| {
        let remaining = Remaining {
            precopy: Some((0, 0)),
            stop_copy: Some(MIB),
            initial_sent: sent,
            generation,
        };
        estimate.observe(1, 0, Observation::Remaining(remaining)).unwrap();
        (because(&estimate, true), because(&estimate, false).1)
    };
    // A late start: the target's word was of the generation before.
    assert_eq!(say(false, 2), ((Verdict::GoOn, Because::InitialAgain, Some(1)), Because::Fits));
    assert_eq!(say(true, 2).0, (Verdict::GoOn, Because::InitialAgain, Some(1)));
    estimate.observe(1, 0, Observation::InitialLoaded(2)).unwrap();
    assert_eq!(because(&estimate, true).1, Because::Fits);
    // An old word that arrives late changes nothing.
    estimate.observe(1, 0, Observation::InitialLoaded(1)).unwrap();
    assert_eq!(because(&estimate, true).1, Because::Fits);
    for generation in 3..40 {
        let remaining = Remaining { generation, ..Remaining::default() };
        estimate.observe(1, 0, Observation::Remaining(remaining)).unwrap();
    }
    let (verdict, because, device) = because(&estimate, true);
    assert_eq!((verdict, because), (Verdict::WillNotConverge, Because::InitialRepeats));
    assert_eq!(device, Some(1));
}

#[test]
fn an_outstanding_acknowledgement_is_named() {
    let mut estimate = Estimate::new();
    estimate.add_device().unwrap();
    assert_eq!(estimate.decide(0, MS, true).because, Because::NothingKnown);
    let mut remaining = Remaining { precopy: Some((9, 0)), generation: 1, ..Remaining::default() };
    estimate.observe(0, 0, Observation::Remaining(remaining)).unwrap();
    assert_eq!(estimate.decide(0, MS, true).because, Because::InitialNotSent);
    remaining.initial_sent = true;
    estimate.observe(0, 0, Observation::Remaining(remaining)).unwrap();
    assert_eq!(estimate.decide(0, MS, true).because, Because::InitialNotLoaded);
}

#[test]
fn a_limit_that_nothing_can_keep_to_is_recognised() {
    let estimate = measured(1);
    let at = |limit| {
        let decision = estimate.decide(0, limit * MS, true);
        (decision.verdict, decision.because)
    };
    assert_eq!(at(2), (Verdict::WillNotConverge, Because::Steps));
    assert_eq!(at(14), (Verdict::WillNotConverge, Because::StopCopySize));
    assert_eq!(at(45), (Verdict::SwitchOver, Because::Likely));
    assert_eq!(at(1000), (Verdict::SwitchOver, Because::Fits));
}

/// A device that becomes dirty with that many KiB in each millisecond, of 16 MiB.
fn dirtied(kib: u64) -> (Verdict, Because) {
    let mut estimate = measured(1);
    (0..4).for_each(|_| estimate.tracks[0].here.sent(MIB, Some(MIB)));
    for look in 1..20 {
        let left = ((look * kib) << 10).min(15 * MIB);
        let read = Observation::Read { bytes: kib << 9, ns: MS };
        estimate.observe(0, 0, read).unwrap();
        estimate.observe(0, (1 + look) * MS, remaining(left, 16 * MIB)).unwrap();
    }
    let decision = estimate.decide(0, 30 * MS, true);
    (decision.verdict, decision.because)
}

#[test]
fn a_device_that_is_dirtied_too_fast_is_recognised() {
    assert_eq!(dirtied(2000), (Verdict::WillNotConverge, Because::DirtyRate));
    assert_eq!(dirtied(200), (Verdict::GoOn, Because::DataLeft));
}

#[test]
fn what_was_measured_stands_beside_it() {
    let mut estimate = measured(2);
    for device in 0..2 {
        estimate.observe(device, 0, Observation::Took(Step::Stop, 3 * MS)).unwrap();
        estimate.observe(device, 0, Observation::Read { bytes: 5, ns: MS }).unwrap();
        estimate.observe(device, 0, Observation::Read { bytes: 5, ns: MS }).unwrap();
    }
    assert_eq!(estimate.expected(), None);
    let expected = estimate.predict(None, 0).unwrap();
    estimate.observe(0, 0, Observation::SwitchOver).unwrap();
    estimate.observe(0, 0, Observation::Measured(Phase::Stop, 4 * MS)).unwrap();
    estimate.observe(0, 0, remaining(0, MIB)).unwrap();
    assert_eq!(estimate.expected(), Some(expected));
    let (all, one) = (estimate.measured(None).unwrap(), estimate.measured(Some(1)).unwrap());
    assert_eq!(all[Phase::Stop as usize], Some(4 * MS));
    assert_eq!(
        (one[Phase::Stop as usize], one[Phase::Read as usize]),
        (Some(3 * MS), Some(2 * MS))
    );
    assert_eq!(one[Phase::Commit as usize], None);

    // Two reads of 1 ms from each device, in turn.
    estimate.observe(0, 0, Observation::Moved(10 * MS)).unwrap();
    estimate.observe(0, 0, Observation::HandedOver(7 * MS)).unwrap();
    let parts = |estimate: &Estimate| {
        let measured = estimate.measured(None).unwrap();
        [Phase::Read, Phase::Send, Phase::Load].map(|phase| measured[phase as usize].unwrap() / MS)
    };
    assert_eq!(parts(&estimate), [4, 6, 7]);
    estimate.observe(0, 0, Observation::Measured(Phase::Commit, 5 * MS)).unwrap();
    assert_eq!(parts(&estimate), [4, 6, 2]);
}

#[test]
fn devices_that_there_are_not_are_refused() {
    let mut estimate = measured(1);
    let before = estimate.clone();
    let refused = estimate.observe(1, 5, Observation::Ended).unwrap_err();
    assert_eq!(refused.code(), Code::Inval);
    assert!(estimate.predict(Some(1), 0).is_err() && estimate.measured(Some(7)).is_err());
    assert!(estimate.export(1).is_err());
    assert!(estimate.import(1, Side::Here, &other_side(1, 1)).is_err());
    assert!(estimate.import(0, Side::Here, b"VMES").is_err());
    assert_eq!(estimate, before);
    for number in 1..MAX_DEVICES {
        assert_eq!(estimate.add_device().unwrap(), number);
    }
    assert_eq!(estimate.add_device().unwrap_err().code(), Code::Inval);
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let step = (0..6usize).prop_map(|at| Step::ALL[at]);
    let phase = (0..7usize).prop_map(|at| Phase::ALL[at]);
    let number = || prop_oneof![any::<u64>(), 0..1000u64, Just(u64::MAX), 0..=100 * MIB];
    let remaining =
        (any::<bool>(), number(), number(), number(), any::<bool>(), any::<bool>(), 0..9u32);
    prop_oneof![
        (number(), number()).prop_map(|(bytes, ns)| Observation::Read { bytes, ns }),
        (number(), number()).prop_map(|(bytes, ns)| Observation::Sent { bytes, ns }),
        (number(), number()).prop_map(|(bytes, ns)| Observation::Written { bytes, ns }),
        (step, number()).prop_map(|(step, ns)| Observation::Took(step, ns)),
        Just(Observation::Ended),
        remaining.prop_map(|(known, initial, dirty, all, sized, initial_sent, generation)| {
            Observation::Remaining(Remaining {
                precopy: known.then_some((initial, dirty)),
                stop_copy: sized.then_some(all),
                initial_sent,
                generation,
            })
        }),
        (0..9u32).prop_map(Observation::InitialLoaded),
        number().prop_map(Observation::RoundTrip),
        any::<u32>().prop_map(Observation::SourceThreads),
        any::<u32>().prop_map(Observation::TargetThreads),
        any::<u32>().prop_map(Observation::SourceHelpers),
        any::<u32>().prop_map(Observation::Channels),
        any::<u32>().prop_map(Observation::TargetHelpers),
        Just(Observation::SwitchOver),
        number().prop_map(Observation::Moved),
        number().prop_map(Observation::HandedOver),
        (phase, number()).prop_map(|(phase, ns)| Observation::Measured(phase, ns)),
    ]
}

fn check(estimate: &Estimate, at: u64, limit: u64) -> std::result::Result<(), TestCaseError> {
    for device in [None, Some(0), Some(1)] {
        let prediction = estimate.predict(device, at).unwrap();
        prop_assert!(prediction.phases.iter().all(|range| sound(*range)), "{:?}", prediction);
        prop_assert!(sound(prediction.total) && sound(prediction.stop_copy_bytes));
    }
    for wait in [false, true] {
        let decision = estimate.decide(at, limit, wait);
        let fits = decision.prediction.total.value <= limit;
        prop_assert!(fits || decision.verdict != Verdict::SwitchOver);
    }
    for device in 0..2 {
        let mut other = Estimate::new();
        other.add_device().unwrap();
        other.import(0, Side::Here, &estimate.export(device).unwrap()).unwrap();
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_it_is_told_nothing_runs_over_and_the_bounds_contain_the_value(
        steps in proptest::collection::vec((0..2u32, any::<u64>(), any_observation()), 0..60),
        at in any::<u64>(), limit in any::<u64>(),
    ) {
        let mut estimate = Estimate::new();
        estimate.add_device().unwrap();
        estimate.add_device().unwrap();
        for (device, time, what) in steps {
            estimate.observe(device, time, what).unwrap();
        }
        check(&estimate, at, limit)?;
    }

    #[test]
    fn slower_and_more_is_never_sooner(
        one in 1..100_000u64, other in 1..100_000u64, which in 0..5usize,
    ) {
        let total = |size: u64| {
            let mut estimate = measured(2);
            match which {
                0 => estimate.observe(1, 0, remaining(0, size * 1000)),
                1 => estimate.observe(1, 0, Observation::Read { bytes: MIB, ns: size * 1000 }),
                2 => estimate.observe(0, 0, Observation::Sent { bytes: MIB, ns: size * 1000 }),
                3 => estimate.observe(0, 0, Observation::RoundTrip(size)),
                _ => estimate.import(0, Side::There, &other_side(size, size)),
            }.unwrap();
            estimate.predict(None, 0).unwrap().total
        };
        let (less, more) = (total(one.min(other)), total(one.max(other)));
        prop_assert!(less.value <= more.value && less.high <= more.high, "{:?} {:?}", less, more);
    }

    #[test]
    fn a_longer_limit_never_makes_it_wait(limits in any::<(u32, u32)>(), devices in 1..4u32) {
        let estimate = measured(devices);
        let (short, long) = (limits.0.min(limits.1), limits.0.max(limits.1));
        let of = |limit| estimate.decide(0, u64::from(limit), true).verdict;
        prop_assert!(of(short) != Verdict::SwitchOver || of(long) == Verdict::SwitchOver);
    }
}
