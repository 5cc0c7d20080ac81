// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handover between the two sides of a migration: what each says and does, by name of the
//! situation. `tests/model` goes through all situations there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;
use vfiomig::handover::{
    Action, Event, Fence, Handover, HandoverOptions, MAX_DEVICES, MAX_IDENTITY, MAX_MESSAGE,
    Outcome, Reason, Report, Role, message_len,
};
use vfiomig::{Code, Error};

const DEVICES: u32 = 2;

fn options(role: Role) -> HandoverOptions {
    HandoverOptions {
        role,
        migration_id: *b"a migration's id",
        attempt: 1,
        num_devices: DEVICES,
        key_id: [7; 16],
        repeat_ms: HandoverOptions::REPEAT_MS,
    }
}

fn code<T>(result: Result<T, Error>) -> Code {
    result.err().expect("this is refused").code()
}

/// What an action is, without the message.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Did {
    Send(Vec<u8>),
    Do(Action<'static>),
}

fn next(side: &mut Handover) -> Did {
    match side.next_action().unwrap() {
        Action::Send(message) => Did::Send(message.to_vec()),
        Action::Nothing => Did::Do(Action::Nothing),
        Action::Wait(ms) => Did::Do(Action::Wait(ms)),
        Action::Judge => Did::Do(Action::Judge),
        Action::Begin => Did::Do(Action::Begin),
        Action::Stop => Did::Do(Action::Stop),
        Action::Commit => Did::Do(Action::Commit),
        Action::Release => Did::Do(Action::Release),
        Action::Keep => Did::Do(Action::Keep),
        Action::Run => Did::Do(Action::Run),
        Action::Reset => Did::Do(Action::Reset),
        Action::Fence => Did::Do(Action::Fence),
        Action::Outcome => Did::Do(Action::Outcome),
    }
}

/// What a side does until it has nothing to do, without waits; and what it says.
fn drain(side: &mut Handover) -> (Vec<Action<'static>>, Vec<Vec<u8>>) {
    let (mut actions, mut messages) = (Vec::new(), Vec::new());
    loop {
        match next(side) {
            Did::Send(message) => messages.push(message),
            Did::Do(Action::Nothing) => return (actions, messages),
            Did::Do(Action::Wait(_)) => {}
            Did::Do(action) => actions.push(action),
        }
    }
}

/// The type of a message, as docs/handover.md numbers them.
fn kind(message: &[u8]) -> u16 {
    u16::from_le_bytes([message[6], message[7]])
}

const GO: u16 = 4;
const KEEP: u16 = 5;
const COMMITTED: u16 = 19;
const REFUSED: u16 = 21;

struct Pair {
    source: Handover,
    target: Handover,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair {
            source: Handover::new(options(Role::Source)).unwrap(),
            target: Handover::new(options(Role::Target)).unwrap(),
        };
        pair.source.set_identity(1, b"the second device").unwrap();
        pair.both(Event::Connected);
        pair
    }

    fn both(&mut self, event: Event) {
        self.source.notify(event).unwrap();
        self.target.notify(event).unwrap();
    }

    /// Carries messages to and fro until there are none: what each side is to do.
    fn talk(&mut self) -> (Vec<Action<'static>>, Vec<Action<'static>>) {
        let mut done = (Vec::new(), Vec::new());
        loop {
            let (actions, from_source) = drain(&mut self.source);
            done.0.extend(actions);
            let (actions, from_target) = drain(&mut self.target);
            done.1.extend(actions);
            if from_source.is_empty() && from_target.is_empty() {
                return done;
            }
            for message in from_source {
                self.target.receive(&message).unwrap();
            }
            for message in from_target {
                self.source.receive(&message).unwrap();
            }
        }
    }

    /// The target has accepted the devices.
    fn met() -> Pair {
        let mut pair = Pair::new();
        assert_eq!(pair.talk(), (vec![], vec![Action::Judge]));
        assert_eq!(pair.target.identity(0).unwrap(), b"");
        assert_eq!(pair.target.identity(1).unwrap(), b"the second device");
        pair.target.notify(Event::Judged(0)).unwrap();
        assert_eq!(pair.talk(), (vec![Action::Begin], vec![Action::Begin]));
        pair
    }

    /// The guest is stopped.
    fn stopped() -> Pair {
        let mut pair = Pair::met();
        pair.source.notify(Event::Switchover).unwrap();
        assert_eq!(pair.talk(), (vec![Action::Stop], vec![]));
        pair
    }

    /// All is sent, and the target is asked to commit.
    fn ended() -> Pair {
        let mut pair = Pair::stopped();
        for device in 0..DEVICES {
            assert_eq!(pair.talk(), (vec![], vec![]));
            pair.both(Event::Ended(device));
        }
        assert_eq!(pair.talk(), (vec![], vec![Action::Commit]));
        pair
    }

    /// The source is asked to release.
    fn committed() -> Pair {
        let mut pair = Pair::ended();
        pair.target.notify(Event::Committed).unwrap();
        assert_eq!(pair.talk(), (vec![Action::Release], vec![]));
        pair
    }

    /// "Go" has left, and is returned.
    fn released() -> (Pair, Vec<u8>) {
        let mut pair = Pair::committed();
        pair.source.notify(Event::Released).unwrap();
        let Did::Send(go) = next(&mut pair.source) else { panic!("no message") };
        assert_eq!(kind(&go), GO);
        (pair, go)
    }

    fn outcomes(&self) -> (Outcome, Outcome) {
        (self.source.report().outcome, self.target.report().outcome)
    }
}

#[test]
fn the_guest_arrives() {
    let mut pair = Pair::committed();
    pair.source.notify(Event::Released).unwrap();
    assert_eq!(pair.talk(), (vec![], vec![Action::Run]));
    assert_eq!(pair.outcomes(), (Outcome::Pending, Outcome::Pending));
    pair.target.notify(Event::Running).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Outcome], vec![Action::Outcome]));
    let arrived = Report { outcome: Outcome::OnTarget, settled: true, ..Report::default() };
    assert_eq!(pair.source.report(), arrived);
    assert_eq!(pair.target.report(), arrived);
    // Nothing is repeated then.
    pair.both(Event::Tick);
    assert_eq!(next(&mut pair.target), Did::Do(Action::Nothing));
    assert_eq!(next(&mut pair.source), Did::Do(Action::Nothing));
}

#[test]
fn a_message_is_repeated_until_it_is_answered() {
    let (mut pair, go) = Pair::released();
    for _ in 0..3 {
        assert_eq!(next(&mut pair.source), Did::Do(Action::Wait(HandoverOptions::REPEAT_MS)));
        assert_eq!(next(&mut pair.source), Did::Do(Action::Nothing));
        pair.source.notify(Event::Tick).unwrap();
        assert_eq!(next(&mut pair.source), Did::Send(go.clone()));
    }
    pair.target.receive(&go).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Run]);
    // A second one does not start the guest twice.
    pair.target.receive(&go).unwrap();
    assert_eq!(drain(&mut pair.target), (vec![], vec![]));
    pair.target.notify(Event::Running).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Outcome]);
    // "Running" was lost: the next "go" fetches another one.
    pair.target.receive(&go).unwrap();
    assert_eq!(pair.talk().0, [Action::Outcome]);
    assert_eq!(pair.outcomes(), (Outcome::OnTarget, Outcome::OnTarget));
}

#[test]
fn the_switchover_waits_for_the_initial_data_that_the_source_names() {
    let mut pair = Pair::met();
    pair.source.notify(Event::InitialSent(1, 2)).unwrap();
    pair.target.notify(Event::InitialLoaded(1, 1)).unwrap();
    assert_eq!(pair.talk(), (vec![], vec![]));
    assert_eq!(pair.source.initial_loaded(1).unwrap(), 1);
    pair.source.notify(Event::Switchover).unwrap();
    assert_eq!(pair.talk(), (vec![], vec![]), "an older generation does not count");
    pair.target.notify(Event::InitialLoaded(1, 2)).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Stop], vec![]));
    assert_eq!(pair.source.initial_loaded(1).unwrap(), 2);
}

#[test]
fn an_answer_to_an_earlier_switchover_does_not_stop_the_guest() {
    let mut pair = Pair::met();
    pair.source.notify(Event::Switchover).unwrap();
    let (_, asked) = drain(&mut pair.source);
    pair.target.receive(&asked[0]).unwrap();
    let (_, agreed) = drain(&mut pair.target);
    // Its device has begun again.
    pair.source.notify(Event::Resumed).unwrap();
    pair.source.notify(Event::InitialSent(0, 5)).unwrap();
    pair.source.receive(&agreed[0]).unwrap();
    assert_eq!(drain(&mut pair.source).0, []);
    pair.source.notify(Event::Switchover).unwrap();
    pair.source.receive(&agreed[0]).unwrap();
    assert_eq!(pair.talk(), (vec![], vec![]));
    pair.target.notify(Event::InitialLoaded(0, 5)).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Stop], vec![]));
    // And from the stopped guest back, once more.
    pair.source.notify(Event::Resumed).unwrap();
    pair.source.notify(Event::Switchover).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Stop], vec![]));
}

#[test]
fn devices_that_do_not_match_stay_at_the_source() {
    let mut pair = Pair::new();
    pair.talk();
    pair.target.notify(Event::Judged(42)).unwrap();
    // Nothing was loaded, so nothing is reset.
    assert_eq!(pair.talk(), (vec![Action::Keep], vec![Action::Outcome]));
    pair.source.notify(Event::Kept).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Outcome], vec![]));
    let here = pair.source.report();
    assert_eq!(here.outcome, Outcome::OnSource);
    assert_eq!((here.reason, here.code, here.by_peer), (Reason::Incompatible, 42, true));
    assert!(here.settled);
    let there = pair.target.report();
    assert_eq!((there.reason, there.code, there.by_peer), (Reason::Incompatible, 42, false));
    assert!(there.settled);
}

#[test]
fn another_key_or_number_of_devices_is_refused() {
    type Change = fn(&mut HandoverOptions);
    let others: [(Change, Reason); 2] = [
        (|options| options.key_id = [8; 16], Reason::OtherKey),
        (|options| options.num_devices = 3, Reason::OtherDevices),
    ];
    for (change, reason) in others {
        let mut pair = Pair::new();
        let mut other = options(Role::Target);
        change(&mut other);
        pair.target = Handover::new(other).unwrap();
        pair.target.notify(Event::Connected).unwrap();
        assert_eq!(pair.talk(), (vec![Action::Keep], vec![Action::Outcome]));
        assert_eq!(pair.target.report().reason, reason);
    }
}

#[test]
fn whatever_fails_before_the_release_keeps_the_guest() {
    for (name, pair) in
        [("pre-copy", Pair::met()), ("stopped", Pair::stopped()), ("ended", Pair::ended())]
    {
        for at_source in [true, false] {
            let mut pair = Pair { source: pair.source.clone(), target: pair.target.clone() };
            let side = if at_source { &mut pair.source } else { &mut pair.target };
            side.notify(Event::Failed(-5)).unwrap();
            let (here, there) = pair.talk();
            assert_eq!(here, [Action::Keep], "{name}");
            if at_source && name == "ended" {
                // The commit that is under way comes first.
                assert_eq!(there, [], "{name}");
                pair.target.notify(Event::Committed).unwrap();
                assert_eq!(pair.talk().1, [Action::Reset], "{name}");
            } else {
                assert_eq!(there, [Action::Reset], "{name}");
            }
            pair.source.notify(Event::Kept).unwrap();
            pair.target.notify(Event::Reset).unwrap();
            pair.talk();
            assert_eq!(pair.outcomes(), (Outcome::OnSource, Outcome::OnSource), "{name}");
            let reports = [pair.source.report(), pair.target.report()];
            for (report, is_source) in reports.into_iter().zip([true, false]) {
                assert_eq!((report.reason, report.code), (Reason::Failed, -5), "{name}");
                assert_eq!(report.by_peer, at_source != is_source, "{name}");
                assert!(report.settled, "{name}");
            }
        }
    }
}

#[test]
fn a_guest_that_does_not_start_goes_back_once_it_is_stopped() {
    let (mut pair, go) = Pair::released();
    pair.target.receive(&go).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Run]);
    pair.target.notify(Event::Failed(-16)).unwrap();
    // It may be running until the reset has succeeded, so the target is silent.
    assert_eq!(drain(&mut pair.target), (vec![Action::Reset], vec![]));
    pair.target.receive(&go).unwrap();
    assert_eq!(drain(&mut pair.target), (vec![], vec![]));
    pair.target.notify(Event::Reset).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Run], vec![Action::Outcome]));
    pair.source.notify(Event::Running).unwrap();
    pair.talk();
    assert_eq!(pair.outcomes(), (Outcome::OnSource, Outcome::OnSource));
    assert_eq!(pair.source.report().reason, Reason::Failed);
    assert_eq!(pair.source.report().code, -16);
}

#[test]
fn a_guest_that_can_be_neither_started_nor_stopped_is_not_given_back() {
    let (mut pair, go) = Pair::released();
    pair.target.receive(&go).unwrap();
    drain(&mut pair.target);
    pair.target.notify(Event::Failed(-16)).unwrap();
    drain(&mut pair.target);
    pair.target.notify(Event::Failed(-5)).unwrap();
    assert_eq!(drain(&mut pair.target), (vec![Action::Outcome], vec![]));
    pair.target.receive(&go).unwrap();
    pair.target.notify(Event::Tick).unwrap();
    assert_eq!(drain(&mut pair.target), (vec![], vec![]));
    assert_eq!(pair.target.report().outcome, Outcome::Lost);
    assert_eq!((pair.target.report().reason, pair.target.report().code), (Reason::Stuck, -5));
    // The source is not told anything. Only a fence ends it.
    pair.source.notify(Event::Cut).unwrap();
    assert_eq!(pair.source.report().outcome, Outcome::Undecided);
    pair.source.peer_fenced(Fence::DidNotRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run]);
}

#[test]
fn a_release_that_fails_goes_on_but_leaves_no_way_back() {
    let mut pair = Pair::committed();
    pair.source.notify(Event::Failed(-5)).unwrap();
    assert_eq!(pair.talk(), (vec![], vec![Action::Run]));
    pair.target.notify(Event::Failed(-1)).unwrap();
    pair.talk();
    pair.target.notify(Event::Reset).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Outcome], vec![Action::Outcome]));
    assert_eq!(pair.source.report().outcome, Outcome::Lost);
    assert_eq!((pair.source.report().reason, pair.source.report().code), (Reason::Stuck, -5));
}

#[test]
fn silence_decides_nothing_and_the_connections_return_does() {
    let (mut pair, _lost) = Pair::released();
    pair.both(Event::Cut);
    for side in [&mut pair.source, &mut pair.target] {
        assert_eq!(drain(side), (vec![Action::Fence], vec![]));
        for _ in 0..10 {
            side.notify(Event::Tick).unwrap();
            assert_eq!(drain(side), (vec![], vec![]));
        }
        let report = side.report();
        assert_eq!((report.outcome, report.reason), (Outcome::Undecided, Reason::Cut));
    }
    pair.both(Event::Connected);
    assert_eq!(pair.talk(), (vec![], vec![Action::Run]));
    pair.target.notify(Event::Running).unwrap();
    pair.talk();
    assert_eq!(pair.outcomes(), (Outcome::OnTarget, Outcome::OnTarget));
}

#[test]
fn a_fence_decides_on_either_side() {
    let (mut pair, _lost) = Pair::released();
    pair.source.notify(Event::Cut).unwrap();
    pair.source.peer_fenced(Fence::DidNotRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run]);
    pair.source.notify(Event::Running).unwrap();
    assert_eq!(pair.source.report().outcome, Outcome::OnSource);
    assert_eq!(pair.source.report().reason, Reason::Fenced);

    pair.target.peer_fenced(Fence::DidNotRun).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Run]);
    pair.target.notify(Event::Running).unwrap();
    assert_eq!(pair.target.report().outcome, Outcome::OnTarget);
}

#[test]
fn a_guest_that_may_have_run_elsewhere_is_lost_and_not_run_from_old_memory() {
    let (mut pair, _go) = Pair::released();
    pair.source.peer_fenced(Fence::MayHaveRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Outcome]);
    assert_eq!(pair.source.report().outcome, Outcome::Lost);
    assert_eq!(pair.source.report().reason, Reason::MayHaveRun);

    pair.target.peer_fenced(Fence::MayHaveRun).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Reset]);
    pair.target.notify(Event::Reset).unwrap();
    assert_eq!(pair.target.report().outcome, Outcome::Lost);
    assert_eq!(pair.target.report().reason, Reason::MayHaveRun);
}

/// Before "go" has left, the target cannot have run, whatever its fencer knows.
#[test]
fn a_target_that_is_fenced_before_go_has_left_gives_the_guest_back() {
    let mut pair = Pair::committed();
    pair.source.notify(Event::Cut).unwrap();
    pair.source.notify(Event::Released).unwrap();
    pair.source.peer_fenced(Fence::MayHaveRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run]);

    let mut pair = Pair::committed();
    pair.source.peer_fenced(Fence::MayHaveRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [], "the release is under way");
    pair.source.notify(Event::Released).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run]);

    let mut pair = Pair::ended();
    pair.source.peer_fenced(Fence::MayHaveRun).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Keep]);
}

#[test]
fn a_target_that_has_everything_commits_and_runs_without_its_source() {
    // The source dies after its last byte: "end" is no longer heard.
    let mut pair = Pair::stopped();
    for device in 0..DEVICES {
        pair.target.notify(Event::Ended(device)).unwrap();
    }
    assert_eq!(drain(&mut pair.target).0, []);
    pair.target.peer_fenced(Fence::DidNotRun).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Commit]);
    pair.target.notify(Event::Committed).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Run]);
    // ... and before it.
    let mut pair = Pair::stopped();
    pair.target.notify(Event::Ended(0)).unwrap();
    pair.target.peer_fenced(Fence::DidNotRun).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Reset]);
    pair.target.notify(Event::Reset).unwrap();
    assert_eq!(pair.target.report().outcome, Outcome::Lost);
    assert_eq!(pair.target.report().reason, Reason::Fenced);
}

#[test]
fn cancelling_is_possible_until_go_may_have_left() {
    let mut pair = Pair::committed();
    pair.source.cancel().unwrap();
    assert_eq!(drain(&mut pair.source).0, [], "the release is under way");
    pair.source.notify(Event::Released).unwrap();
    assert_eq!(pair.talk(), (vec![Action::Run], vec![Action::Reset]));

    let mut pair = Pair::committed();
    pair.source.notify(Event::Cut).unwrap();
    pair.source.notify(Event::Released).unwrap();
    pair.source.cancel().unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run], "\"go\" has not left");

    let (mut pair, go) = Pair::released();
    assert_eq!(code(pair.source.cancel()), Code::Inval);
    // The target may still refuse, and says so.
    pair.target.cancel().unwrap();
    pair.target.receive(&go).unwrap();
    let (actions, messages) = drain(&mut pair.target);
    assert_eq!((actions, kind(&messages[0])), (vec![Action::Reset], REFUSED));
    pair.source.receive(&messages[0]).unwrap();
    assert_eq!(drain(&mut pair.source).0, [Action::Run]);

    let (mut pair, go) = Pair::released();
    pair.target.receive(&go).unwrap();
    assert_eq!(code(pair.target.cancel()), Code::Inval);
}

#[test]
fn a_result_that_comes_after_the_end_is_taken_once() {
    let mut pair = Pair::new();
    pair.talk();
    pair.target.cancel().unwrap();
    assert_eq!(pair.target.report().outcome, Outcome::OnSource);
    pair.target.notify(Event::Failed(-5)).unwrap();
    let before = pair.target.clone();
    assert_eq!(code(pair.target.notify(Event::Failed(-5))), Code::Inval);
    assert_eq!(pair.target, before);
    assert_eq!(pair.target.report().reason, Reason::Cancelled);
}

/// No source says it then. One that is wrong, or hostile, does not make a target run what it has not
/// committed.
#[test]
fn a_go_before_the_commit_is_not_obeyed() {
    let (_, go) = Pair::released();
    for mut pair in [Pair::met(), Pair::stopped(), Pair::ended()] {
        let before = pair.target.clone();
        pair.target.receive(&go).unwrap();
        assert_eq!(pair.target, before);
        assert_eq!(drain(&mut pair.target).0, []);
    }
    let mut pair = Pair::ended();
    pair.target.receive(&go).unwrap();
    pair.target.notify(Event::Committed).unwrap();
    assert_eq!(drain(&mut pair.target).0, [], "it was too early, and does not count later");
}

/// Nor a release before everything was sent, whatever the target says.
#[test]
fn a_commit_before_the_end_is_not_believed() {
    let mut pair = Pair::ended();
    pair.target.notify(Event::Committed).unwrap();
    let (_, committed) = drain(&mut pair.target);
    assert_eq!(kind(&committed[0]), COMMITTED);
    for mut pair in [Pair::met(), Pair::stopped()] {
        let before = pair.source.clone();
        pair.source.receive(&committed[0]).unwrap();
        assert_eq!(pair.source, before);
    }
}

/// The model's first rule: without it, the guest runs on both sides.
#[test]
fn a_go_of_another_migration_or_attempt_is_not_one() {
    let (_, go) = Pair::released();
    let mut later = options(Role::Target);
    later.attempt = 2;
    let mut other = options(Role::Target);
    other.migration_id[0] ^= 1;
    for (theirs, result) in [(later, Ok(())), (other, Err(Code::OtherDevice))] {
        let mut source = theirs.clone();
        source.role = Role::Source;
        let mut pair =
            Pair { source: Handover::new(source).unwrap(), target: Handover::new(theirs).unwrap() };
        pair.both(Event::Connected);
        pair.talk();
        pair.target.notify(Event::Judged(0)).unwrap();
        pair.talk();
        pair.source.notify(Event::Switchover).unwrap();
        pair.talk();
        for device in 0..DEVICES {
            pair.both(Event::Ended(device));
        }
        pair.talk();
        pair.target.notify(Event::Committed).unwrap();
        let before = pair.target.clone();
        assert_eq!(pair.target.receive(&go).map_err(|error| error.code()), result);
        assert_eq!(pair.target, before);
        let (actions, messages) = drain(&mut pair.target);
        assert_eq!((actions, kind(&messages[0])), (vec![], COMMITTED));
    }
}

#[test]
fn a_later_attempt_ends_an_earlier_one_at_the_target() {
    let mut pair = Pair::ended();
    pair.target.notify(Event::Committed).unwrap();
    let mut later = options(Role::Source);
    later.attempt = 2;
    let mut source = Handover::new(later).unwrap();
    source.notify(Event::Connected).unwrap();
    let (_, hello) = drain(&mut source);
    pair.target.receive(&hello[0]).unwrap();
    assert_eq!(drain(&mut pair.target).0, [Action::Reset]);
    pair.target.notify(Event::Reset).unwrap();
    let report = pair.target.report();
    assert_eq!((report.outcome, report.reason), (Outcome::OnSource, Reason::Superseded));
    // An earlier target's message makes the later source say again who it is.
    let (_, committed) = drain(&mut Pair::committed().target);
    assert!(committed.is_empty());
    let mut old = Pair::ended();
    old.target.notify(Event::Committed).unwrap();
    let (_, committed) = drain(&mut old.target);
    source.receive(&committed[0]).unwrap();
    assert_eq!(drain(&mut source).1, hello);
}

#[test]
fn both_sides_learn_that_nothing_is_left_to_say() {
    let mut pair = Pair::ended();
    pair.source.cancel().unwrap();
    let (_, keep) = drain(&mut pair.source);
    assert_eq!(kind(&keep[0]), KEEP);
    assert!(!pair.source.report().settled);
    pair.target.receive(&keep[0]).unwrap();
    let (_, refused) = drain(&mut pair.target);
    // That message is lost; the next "keep" fetches another one, and then there is peace.
    pair.source.notify(Event::Tick).unwrap();
    assert_eq!(drain(&mut pair.source).1, keep);
    pair.target.receive(&keep[0]).unwrap();
    assert_eq!(drain(&mut pair.target).1, refused);
    pair.source.receive(&refused[0]).unwrap();
    assert_eq!(drain(&mut pair.source).1, Vec::<Vec<u8>>::new());
    assert!(pair.source.report().settled && pair.target.report().settled);
    for _ in 0..3 {
        pair.both(Event::Tick);
        assert_eq!(drain(&mut pair.source).1.len() + drain(&mut pair.target).1.len(), 0);
    }
}

#[test]
fn events_that_were_not_asked_for_are_refused_and_change_nothing() {
    let events = [
        Event::Judged(0),
        Event::InitialLoaded(0, 1),
        Event::Switchover,
        Event::Resumed,
        Event::Ended(0),
        Event::Committed,
        Event::Released,
        Event::Kept,
        Event::Running,
        Event::Reset,
        Event::InitialSent(DEVICES, 1),
    ];
    for role in [Role::Source, Role::Target] {
        let mut side = Handover::new(options(role)).unwrap();
        let before = side.clone();
        for event in events {
            assert_eq!(code(side.notify(event)), Code::Inval, "{role:?}: {event:?}");
            assert_eq!(side, before, "{role:?}: {event:?}");
        }
    }
    let mut pair = Pair::stopped();
    pair.source.notify(Event::Ended(1)).unwrap();
    assert_eq!(code(pair.source.notify(Event::Ended(1))), Code::Inval);
    assert_eq!(code(pair.source.notify(Event::Ended(DEVICES))), Code::Inval);
    assert_eq!(code(pair.source.notify(Event::Resumed)), Code::Inval);
    assert_eq!(code(pair.source.set_identity(0, b"")), Code::Inval);
}

#[test]
fn options_that_would_not_do_are_refused() {
    let wrong: [fn(&mut HandoverOptions); 5] = [
        |options| options.migration_id = [0; 16],
        |options| options.attempt = 0,
        |options| options.num_devices = 0,
        |options| options.num_devices = MAX_DEVICES + 1,
        |options| options.repeat_ms = 0,
    ];
    for change in wrong {
        let mut options = options(Role::Source);
        change(&mut options);
        assert_eq!(code(Handover::new(options)), Code::Inval);
    }
}

#[test]
fn descriptions_of_devices_are_bounded() {
    let mut most = options(Role::Source);
    most.num_devices = MAX_DEVICES;
    let mut source = Handover::new(most.clone()).unwrap();
    assert_eq!(code(source.set_identity(0, &[1; MAX_IDENTITY + 1])), Code::MsgSize);
    let mut taken = 0;
    while source.set_identity(taken, &[1; MAX_IDENTITY]).is_ok() {
        taken += 1;
    }
    assert_eq!(code(source.set_identity(taken, &[1; MAX_IDENTITY])), Code::MsgSize);
    source.notify(Event::Connected).unwrap();
    let (_, hello) = drain(&mut source);
    assert!(hello[0].len() <= MAX_MESSAGE && hello[0].len() > MAX_MESSAGE - 2 * MAX_IDENTITY);
    most.role = Role::Target;
    let mut target = Handover::new(most).unwrap();
    target.receive(&hello[0]).unwrap();
    assert_eq!(target.identity(0).unwrap(), [1; MAX_IDENTITY]);
    assert_eq!(target.identity(taken).unwrap(), []);
}

/// One message of each type.
fn all_messages() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut pair = Pair::new();
    let mut collect = |pair: &mut Pair| {
        loop {
            let (_, from_source) = drain(&mut pair.source);
            let (_, from_target) = drain(&mut pair.target);
            if from_source.is_empty() && from_target.is_empty() {
                break;
            }
            from_source.iter().for_each(|message| pair.target.receive(message).unwrap());
            from_target.iter().for_each(|message| pair.source.receive(message).unwrap());
            out.extend(from_source);
            out.extend(from_target);
        }
    };
    collect(&mut pair);
    pair.target.notify(Event::Judged(0)).unwrap();
    collect(&mut pair);
    pair.source.notify(Event::Switchover).unwrap();
    collect(&mut pair);
    (0..DEVICES).for_each(|device| pair.both(Event::Ended(device)));
    collect(&mut pair);
    let mut kept = Pair { source: pair.source.clone(), target: pair.target.clone() };
    kept.source.cancel().unwrap();
    collect(&mut kept);
    pair.target.notify(Event::Committed).unwrap();
    collect(&mut pair);
    pair.source.notify(Event::Released).unwrap();
    collect(&mut pair);
    pair.target.notify(Event::Running).unwrap();
    collect(&mut pair);
    out.sort_by_key(|message| kind(message));
    out.dedup();
    let kinds: Vec<u16> = out.iter().map(|message| kind(message)).collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6, 17, 18, 19, 20, 21]);
    out
}

/// docs/handover.md, byte by byte.
#[test]
fn messages_have_the_documented_bytes() {
    let go = &all_messages()[3];
    let mut wanted =
        b"VMHO\x01\x00\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00a migration's id".to_vec();
    let crc = crc32(&wanted);
    wanted.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(go, &wanted);
    let hello = &all_messages()[0];
    let mut payload = vec![7; 16];
    payload.extend_from_slice(b"\x02\0\0\0\0\0\0\0\x11\0\0\0the second device");
    assert_eq!(hello[8..12], (payload.len() as u32).to_le_bytes());
    assert_eq!(hello[36..], payload);
    assert_eq!(message_len(hello[..36].try_into().unwrap()).unwrap(), hello.len());
}

/// CRC-32 as docs/handover.md describes it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn reseal(message: &mut [u8]) {
    let crc = crc32(&[&message[..32], &message[36..]].concat());
    message[32..36].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    for message in all_messages() {
        let of_source = kind(&message) < 17;
        let role = if of_source { Role::Target } else { Role::Source };
        let mut side = Handover::new(options(role)).unwrap();
        let before = side.clone();
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = code(side.receive(&damaged));
            assert!(matches!(error, Code::Proto | Code::BadMsg | Code::MsgSize), "bit {bit}");
        }
        for len in 0..message.len() {
            assert_eq!(code(side.receive(&message[..len])), Code::Proto, "{len} bytes");
        }
        let longer = [&message[..], &[0]].concat();
        assert_eq!(code(side.receive(&longer)), Code::Proto);
        // Its own side's messages are no answers.
        let other = if of_source { Role::Source } else { Role::Target };
        let mut reflected = Handover::new(options(other)).unwrap();
        assert_eq!(code(reflected.receive(&message)), Code::Proto);
        assert_eq!(side, before);
    }
}

#[test]
fn values_that_no_side_sends_are_refused() {
    let message =
        |number: u16| all_messages().into_iter().find(|message| kind(message) == number).unwrap();
    let wrong: [(u16, usize, u32); 7] = [
        (KEEP, 36, 0), // a reason
        (KEEP, 36, 10),
        (KEEP, 44, 2), // heard
        (1, 52, 0),    // devices
        (1, 52, MAX_DEVICES + 1),
        (1, 56, MAX_IDENTITY as u32 + 1),
        (2, 40, 3), // more generations than there are bytes
    ];
    for (number, at, value) in wrong {
        let mut message = message(number);
        message[at..at + 4].copy_from_slice(&value.to_le_bytes());
        reseal(&mut message);
        let mut target = Handover::new(options(Role::Target)).unwrap();
        assert_eq!(code(target.receive(&message)), Code::Proto, "{value} at {at} of {number}");
    }
    let mut long = message(GO);
    long[8..12].copy_from_slice(&(MAX_MESSAGE as u32).to_le_bytes());
    assert_eq!(code(message_len(long[..36].try_into().unwrap())), Code::MsgSize);
    let mut target = Handover::new(options(Role::Target)).unwrap();
    assert_eq!(code(target.receive(&long)), Code::MsgSize);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With a right checksum, too: whoever sends it can compute that.
    #[test]
    fn no_bytes_break_anything(
        which in 0..11usize,
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        cut in any::<u16>(),
        role in prop_oneof![Just(Role::Source), Just(Role::Target)],
    ) {
        let mut message = all_messages().swap_remove(which);
        for (at, value) in changes {
            let at = usize::from(at) % message.len();
            message[at] = value;
        }
        if cut % 4 == 0 {
            message.truncate(36.max(usize::from(cut) % (message.len() + 1)));
            let payload = message.len() as u32 - 36;
            message[8..12].copy_from_slice(&payload.to_le_bytes());
        }
        reseal(&mut message);
        let mut side = Handover::new(options(role)).unwrap();
        side.notify(Event::Connected).unwrap();
        let _ = side.receive(&message);
        // A target that has committed nothing runs nothing, and no source releases.
        let (actions, _) = drain(&mut side);
        for action in actions {
            prop_assert!(!matches!(action, Action::Run | Action::Release | Action::Commit));
        }
    }
}
