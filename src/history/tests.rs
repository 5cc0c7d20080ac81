// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;

use super::*;
use crate::error::{Code, Operation, Outcome, err};
use crate::fixups::Fixups;
use crate::fsm::State;

fn recorder() -> Recorder {
    Recorder::new("driver", "0000:3b:00.2")
}

fn numbered(count: u64) -> Note {
    Note { count: Some(count), ..Note::of(What::InitialSent) }
}

fn counts(history: &History) -> Vec<u64> {
    history.entries.iter().filter_map(|entry| entry.record.note.count).collect()
}

/// Everything that can be said of an event, and the longest texts.
fn longest(text: &str) -> Note {
    Note {
        what: What::InitialRestarted,
        from: Some(State::Other(u32::MAX)),
        to: Some(State::Other(u32::MAX)),
        cause: Some(Cause::SourceRestarted),
        outcome: Some(Outcome::Recovered),
        code: Some(Code::NotRecoverable),
        operation: Operation::PrecopyInfo,
        errno: i32::MIN,
        duration_ns: Some(u64::MAX),
        bytes: Some(u64::MAX),
        count: Some(u64::MAX),
        fixups: Fixups::all(),
        of_group: OfGroup::Phase(1),
        text: Short::of(text),
    }
}

#[test]
fn the_last_events_are_kept_in_their_order_with_times_that_do_not_go_back() {
    let recorder = recorder();
    for count in 0..200 {
        recorder.record(&numbered(count));
    }
    let history = recorder.history().unwrap();
    assert_eq!(counts(&history), (200 - LAST as u64..200).collect::<Vec<_>>());
    assert_eq!(history.about[0].recorded, 200);
    let records: Vec<_> = history.entries.iter().map(|entry| entry.record).collect();
    assert!(records.iter().all(|record| record.note.count == Some(record.number)));
    assert!(records.windows(2).all(|two| two[0].at_ns <= two[1].at_ns));
    assert!(records[0].at_ns > 0);
}

#[test]
fn rounds_and_errors_in_a_row_take_one_place() {
    let recorder = recorder();
    recorder.record(&Note::of(What::SaveBegan));
    for count in 1..=1000 {
        recorder.record(&Note { count: Some(count), ..Note::of(What::Round) });
    }
    for _ in 0..3 {
        recorder.record(&Note::error(&err!(Io, "the same")));
    }
    recorder.record(&Note::error(&err!(Io, "another")));
    recorder.record_once(&Note::error(&err!(Io, "another")));
    let history = recorder.history().unwrap();
    let seen: Vec<_> = history
        .entries
        .iter()
        .map(|entry| (entry.record.note.what, entry.record.note.count, entry.record.times))
        .collect();
    assert_eq!(
        seen,
        [
            (What::SaveBegan, None, 1),
            (What::Round, Some(1000), 1000),
            (What::Error, None, 3),
            (What::Error, None, 1),
        ]
    );
}

#[test]
fn what_ends_in_an_error_again_and_again_takes_the_place_of_one() {
    for (len, before) in [(2, 0), (2, 62), (2, 200), (8, 56), (8, 3)] {
        let recorder = recorder();
        (0..before).for_each(|count| recorder.record(&numbered(count)));
        let first = Note { text: Short::of("first"), ..Note::of(What::DriverFailed) };
        recorder.record(&first);
        for turn in 0..100 {
            for step in 0..len - 1 {
                let duration_ns = Some(turn);
                let note = Note { duration_ns, count: Some(step), ..Note::of(What::DriverFailed) };
                recorder.record(&note);
            }
            recorder.record(&Note::error(&err!(NoDev, "it is dead")));
        }
        let history = recorder.history().unwrap();
        let records: Vec<_> = history.entries.iter().map(|entry| entry.record).collect();
        let (rest, turns) = records.split_at(records.len() - len as usize);
        assert_eq!(rest.last().unwrap().note, first);
        assert!(rest.len() as u64 >= (before + 1).min(LAST as u64 - 2 * len));
        assert!(turns.iter().all(|record| record.times == 100), "{turns:?}");
        assert_eq!(turns[0].note.duration_ns, Some(99));
        assert!(records.windows(2).all(|two| two[0].number + 1 == two[1].number));
        assert!(records.windows(2).all(|two| two[0].at_ns <= two[1].at_ns));
        assert_eq!(history.about[0].recorded, before + 1 + len);
        recorder.record(&numbered(7));
        assert_eq!(recorder.history().unwrap().entries.last().unwrap().record.note, numbered(7));
    }
    // What changes is told each time, and so is what goes well.
    let recorder = recorder();
    for errno in 0..10 {
        recorder.record(&Note { errno, ..Note::of(What::DriverFailed) });
        recorder.record(&Note::error(&err!(NoDev, "it is dead")));
    }
    for _ in 0..10 {
        recorder.record(&Note::of(What::StateAsked));
        recorder.record(&Note::of(What::StateChanged));
    }
    assert_eq!(recorder.history().unwrap().entries.len(), 40);
}

#[test]
fn a_cancellation_is_told_once_while_its_session_is_open() {
    let recorder = recorder();
    let cancelled = |session| {
        recorder.cancelled(session);
        let entries = recorder.history().unwrap().entries;
        entries.iter().filter(|entry| entry.record.note.what == What::Cancelled).count()
    };
    assert_eq!(cancelled(0), 0);
    let mut sessions = Vec::new();
    for (begin, end) in [
        (What::SaveBegan, What::SaveEnded),
        (What::LoadBegan, What::Committed),
        (What::LoadBegan, What::LoadAbandoned),
        (What::LoadBegan, What::LoadFailed),
    ] {
        sessions.push(recorder.begin(&Note::of(begin)));
        let (session, before) = (sessions[sessions.len() - 1], sessions.len() - 1);
        // Those that are over.
        assert!(sessions[..before].iter().all(|session| cancelled(*session) == before));
        assert_eq!((cancelled(session), cancelled(session)), (before + 1, before + 1));
        recorder.record(&Note::of(end));
        assert_eq!(cancelled(session), before + 1);
    }
    let open = recorder.begin(&Note::of(What::SaveBegan));
    recorder.record(&Note::of(What::SaveEnded));
    assert_eq!(cancelled(open), 4);
}

#[test]
fn a_cancellation_does_not_wait_and_is_not_lost() {
    let recorder = recorder();
    let session = recorder.begin(&Note::of(What::SaveBegan));
    {
        let _somebody_else = recorder.hold();
        recorder.cancelled(session);
        // A session that is over does not hide it.
        recorder.cancelled(session - 1);
    }
    recorder.record(&Note::of(What::SaveEnded));
    let history = recorder.history().unwrap();
    let seen: Vec<_> = history.entries.iter().map(|entry| entry.record.note.what).collect();
    assert_eq!(seen, [What::SaveBegan, What::Cancelled, What::SaveEnded]);
}

#[test]
fn what_is_documented_to_be_enough_is_enough_for_the_worst() {
    let control = "\u{1}".repeat(500);
    let recorder = Recorder::new(&control, &control);
    for _ in 0..LAST {
        recorder.record(&longest(&control));
    }
    let mut out = vec![0xff; MAX_BYTES];
    for format in [Format::Text, Format::Json] {
        let len = recorder.write(format, &mut out).unwrap();
        assert_eq!(out[len], 0);
        assert_eq!(out[..len].iter().filter(|byte| **byte == b'\n').count(), LAST + 1);
        let len = recorder.write(format, &mut out[..LEAST_BYTES]).unwrap();
        assert!(len < LEAST_BYTES && out[len] == 0);
    }
}

#[test]
fn the_newest_events_go_into_what_room_there_is() {
    let recorder = recorder();
    for count in 0..70 {
        recorder.record(&numbered(count));
    }
    let history = recorder.history().unwrap();
    let whole = history.json().to_string();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), LAST + 1);
    assert!(lines[0].contains("\"recorded\":70,\"left_out\":6}"), "{}", lines[0]);
    let mut out = vec![0; whole.len() + 2];
    // A NUL, and the longest number of what is left out. With one byte less, the oldest is.
    for (room, shown) in [(whole.len() + 2, LAST), (whole.len() + 1, LAST - 1)] {
        let len = recorder.write(Format::Json, &mut out[..room]).unwrap();
        let text = std::str::from_utf8(&out[..len]).unwrap();
        assert_eq!(text.lines().count(), shown + 1);
        let left_out = format!("\"left_out\":{}}}\n", 70 - shown);
        assert!(text.contains(&left_out), "{text}");
        assert!(text.ends_with(&format!("{}\n", lines[LAST])));
        assert_eq!(history.write(Format::Json, &mut out[..room]).unwrap(), len);
    }
    for room in [0, 1, 20, lines[0].len()] {
        assert_eq!(
            recorder.write(Format::Json, &mut out[..room]).unwrap_err().code(),
            Code::NoSpace
        );
    }
}

#[test]
fn histories_of_several_are_merged_by_time() {
    let (one, two) = (recorder(), recorder());
    for count in 0..10 {
        let recorder = if count % 3 == 0 { &one } else { &two };
        recorder.record(&numbered(count));
    }
    let history = merge([(None, &one), (Some(0), &two)]).unwrap();
    let at: Vec<_> = history.entries.iter().map(|entry| entry.record.at_ns).collect();
    assert!(at.is_sorted(), "{at:?}");
    let text = history.text().to_string();
    assert_eq!(text.lines().filter(|line| line.contains("device 0: ")).count(), 6 + 1);
    assert!(text.starts_with("history library="), "{text}");
}

#[test]
fn each_kind_of_event_has_a_name_and_a_text_for_people() {
    let recorder = recorder();
    for what in What::ALL {
        let from = Some(State::Running);
        recorder.record(&Note { from, to: Some(State::Stop), ..Note::of(*what) });
    }
    let (text, json) = {
        let history = recorder.history().unwrap();
        (history.text().to_string(), history.json().to_string())
    };
    for what in What::ALL {
        assert!(text.contains(&format!(" {} from=RUNNING to=STOP\n", what.name())), "{what:?}");
        assert!(json.contains(&format!("{{\"event\":\"{}\",\"device\":null,", what.name())));
    }
}

/// Reads a JSON text back.
fn unescape(text: &str) -> String {
    let mut units = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => match rest.next().unwrap() {
                'u' => {
                    let hex: String = rest.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&hex, 16).unwrap());
                }
                c @ ('"' | '\\') => units.push(c as u16),
                c => panic!("\\{c}"),
            },
            (c, _) => {
                assert!((' '..='~').contains(&c) && c != '"', "{c:?}");
                units.push(c as u16);
            }
        }
    }
    String::from_utf16(&units).unwrap()
}

proptest! {
    #[test]
    fn no_text_breaks_a_line_or_is_lost(text in any::<String>(), name in "\\PC*") {
        let recorder = Recorder::new(&name, &text);
        recorder.record(&longest(&text));
        let history = recorder.history().unwrap();
        for out in [history.text().to_string(), history.json().to_string()] {
            prop_assert_eq!(out.lines().count(), 2);
            prop_assert!(out.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
        }
        let json = history.json().to_string();
        let kept = history.entries[0].record.note.text;
        prop_assert!(text.starts_with(kept.as_str()));
        prop_assert_eq!(kept.is_cut(), kept.as_str() != text);
        if !text.is_empty() {
            let line = json.lines().nth(1).unwrap();
            let (_, told) = line.split_once("\"text\":\"").unwrap();
            let told = unescape(told.strip_suffix("\"}").unwrap());
            let dots = if kept.is_cut() { "..." } else { "" };
            prop_assert_eq!(told, format!("{}{dots}", kept.as_str()));
        }
    }
}

// --- queues --------------------------------------------------------------------------------------

use std::sync::Arc;

fn readable(recorder: &Recorder) -> bool {
    recorder.queue().unwrap().rings()
}

fn fetched(recorder: &Recorder) -> Vec<Event> {
    std::iter::from_fn(|| recorder.next_event().ok()).collect()
}

#[test]
#[cfg_attr(miri, ignore)]
fn events_wait_from_when_they_were_asked_for_and_the_descriptor_says_so() {
    let recorder = recorder();
    recorder.record(&numbered(1));
    assert_eq!(recorder.next_event().unwrap_err().code(), Code::NoData);
    let fd = recorder.event_fd().unwrap();
    assert_eq!(recorder.event_fd().unwrap(), fd);
    assert!(!readable(&recorder));
    assert_eq!(recorder.next_event().unwrap_err().code(), Code::Again);
    recorder.record(&numbered(2));
    recorder.record(&numbered(3));
    for count in [2, 3] {
        assert!(readable(&recorder));
        let event = recorder.next_event().unwrap();
        assert_eq!((event.entry.record.note, event.lost), (numbered(count), 0));
        assert_eq!(event.entry.device, None);
    }
    assert!(!readable(&recorder));
    recorder.record(&numbered(4));
    assert!(readable(&recorder));
}

#[test]
#[cfg_attr(miri, ignore)]
fn if_nobody_comes_the_oldest_are_dropped_and_counted_without_more_memory() {
    const MOST: u64 = 96;
    let recorder = recorder();
    recorder.event_fd().unwrap();
    for count in 0..1000 {
        recorder.record(&numbered(count));
    }
    let events = fetched(&recorder);
    let counts: Vec<_> = events.iter().map(|event| event.entry.record.note.count).collect();
    assert_eq!(counts, (1000 - MOST..1000).map(Some).collect::<Vec<_>>());
    let lost: Vec<_> = events.iter().map(|event| event.lost).collect();
    assert_eq!(lost[0], 1000 - MOST);
    assert!(lost[1..].iter().all(|lost| *lost == 0));
    assert!(!readable(&recorder));
    // What was lost is told once.
    recorder.record(&numbered(7));
    assert_eq!(recorder.next_event().unwrap().lost, 0);
}

#[test]
#[cfg_attr(miri, ignore)]
fn what_repeats_waits_once_for_each_device() {
    let group = Recorder::new("", "");
    let queue = group.make_queue(2).unwrap();
    let devices = [recorder(), recorder()];
    for (number, device) in (0..).zip(&devices) {
        device.join(number, Arc::clone(&queue)).unwrap();
    }
    let round = |count| Note { count: Some(count), ..Note::of(What::Round) };
    for count in 1..=500 {
        devices.iter().for_each(|device| device.record(&round(count)));
        group.record(&Note { count: Some(count), ..Note::of(What::Verdict) });
    }
    let told = |event: &Event| {
        let record = &event.entry.record;
        (event.entry.device, record.note.what, record.note.count, record.times)
    };
    let events = fetched(&group);
    let wanted = [
        (Some(0), What::Round, Some(500), 500),
        (Some(1), What::Round, Some(500), 500),
        (None, What::Verdict, Some(500), 500),
    ];
    assert_eq!(events.iter().map(told).collect::<Vec<_>>(), wanted);
    // What was fetched is over.
    devices[1].record(&round(501));
    assert_eq!(
        fetched(&group).iter().map(told).collect::<Vec<_>>(),
        [(Some(1), What::Round, Some(501), 1)]
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_device_is_heard_by_itself_and_by_all_groups_that_it_is_in() {
    let device = recorder();
    device.event_fd().unwrap();
    let groups = [Recorder::new("", ""), Recorder::new("", "")];
    let queues = groups.each_ref().map(|group| group.make_queue(1).unwrap());
    device.join(3, Arc::clone(&queues[0])).unwrap();
    device.record(&numbered(1));
    device.join(4, Arc::clone(&queues[1])).unwrap();
    device.record(&numbered(2));
    // The second group ends first.
    device.leave(&queues[1]);
    device.record(&numbered(3));
    device.leave(&queues[0]);
    device.record(&numbered(4));
    let heard = |recorder: &Recorder| -> Vec<(Option<u32>, u64)> {
        let events = fetched(recorder);
        let of = |event: &Event| (event.entry.device, event.entry.record.note.count.unwrap());
        events.iter().map(of).collect()
    };
    assert_eq!(heard(&device), [(None, 1), (None, 2), (None, 3), (None, 4)]);
    assert_eq!(heard(&groups[0]), [(Some(3), 1), (Some(3), 2), (Some(3), 3)]);
    assert_eq!(heard(&groups[1]), [(Some(4), 2)]);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_cancellation_waits_for_nobody_who_fetches_events() {
    let recorder = recorder();
    let queue = recorder.make_queue(1).unwrap();
    let session = recorder.begin(&Note::of(What::SaveBegan));
    let fetches = queue.hold();
    recorder.cancelled(session);
    drop(fetches);
    // Whoever records next tells it.
    recorder.record(&numbered(1));
    let whats: Vec<_> = fetched(&recorder).iter().map(|e| e.entry.record.note.what).collect();
    assert_eq!(whats, [What::SaveBegan, What::Cancelled, What::InitialSent]);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_cancellation_is_told_to_all_queues_or_to_none_yet() {
    let device = recorder();
    device.event_fd().unwrap();
    let group = Recorder::new("", "");
    let queue = group.make_queue(1).unwrap();
    device.join(0, Arc::clone(&queue)).unwrap();
    let session = device.begin(&Note::of(What::SaveBegan));
    let whats = |recorder: &Recorder| -> Vec<What> {
        fetched(recorder).iter().map(|event| event.entry.record.note.what).collect()
    };
    let fetches = queue.hold();
    device.cancelled(session);
    assert_eq!(whats_of_own(&device), [What::SaveBegan]);
    drop(fetches);
    device.cancelled(session);
    assert_eq!(whats(&device), [What::Cancelled]);
    assert_eq!(whats(&group), [What::SaveBegan, What::Cancelled]);
}

/// What waits in the device's own queue, without the recorder's lock, which tells of cancellations.
fn whats_of_own(device: &Recorder) -> Vec<What> {
    let queue = device.queue_unseen();
    std::iter::from_fn(|| queue.next()).map(|event| event.entry.record.note.what).collect()
}

#[test]
#[cfg_attr(miri, ignore)]
fn another_verdict_or_another_reason_is_another_event() {
    let group = Recorder::new("", "");
    group.event_fd().unwrap();
    let said = [(1, 1, None), (1, 1, Some(3)), (2, 1, None), (2, 2, None), (1, 1, None)];
    for (verdict, because, device) in said {
        let of_group = OfGroup::Verdict { verdict, because, device };
        group.record(&Note { of_group, ..Note::of(What::Verdict) });
    }
    let events = fetched(&group);
    let told: Vec<_> = events.iter().map(|event| event.entry.record.note.of_group).collect();
    let wanted = [said[1], said[2], said[3], said[4]]
        .map(|(verdict, because, device)| OfGroup::Verdict { verdict, because, device });
    assert_eq!(told, wanted);
    assert_eq!(events[0].entry.record.times, 2);
    // A history says the same.
    assert_eq!(group.history().unwrap().entries.len(), 4);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_device_that_never_stops_talking_does_not_drive_out_what_others_have_to_say() {
    let group = Recorder::new("", "");
    let queue = group.make_queue(1).unwrap();
    let devices = [recorder(), recorder()];
    queue.make_room(2).unwrap();
    for (number, device) in (0..).zip(&devices) {
        device.join(number, Arc::clone(&queue)).unwrap();
    }
    devices[1].record(&Note::of(What::Committed));
    for _ in 0..10_000 {
        devices[0].record(&Note::of(What::StateAsked));
        devices[0].record(&Note::of(What::DriverFailed));
        devices[0].record(&Note::error(&err!(NoDev, "it is dead")));
    }
    group.record(&Note::of(What::Phase));
    let events = fetched(&group);
    assert_eq!(events.len(), SOME_AND_TWO);
    assert_eq!(events[0].entry.record.note.what, What::Committed);
    assert_eq!(events[0].entry.device, Some(1));
    assert_eq!(events[SOME_AND_TWO - 1].entry.record.note.what, What::Phase);
    assert_eq!(events[0].lost, 30_000 + 2 - SOME_AND_TWO as u64);
    // What the device said last is there.
    assert_eq!(events[SOME_AND_TWO - 2].entry.record.note.what, What::Error);
}

const SOME_AND_TWO: usize = 64 + 2 * 32;

#[test]
#[cfg_attr(miri, ignore)]
fn what_repeats_is_looked_for_among_the_last_few_events_only() {
    let group = Recorder::new("", "");
    let queue = group.make_queue(2).unwrap();
    let devices = [recorder(), recorder()];
    for (number, device) in (0..).zip(&devices) {
        device.join(number, Arc::clone(&queue)).unwrap();
    }
    for others in [15, 16] {
        devices[0].record(&Note::of(What::Round));
        (0..others).for_each(|count| devices[1].record(&numbered(count)));
        devices[0].record(&Note::of(What::Round));
        let rounds = fetched(&group);
        let rounds = rounds.iter().filter(|event| event.entry.device == Some(0));
        assert_eq!(rounds.count() as u64, others - 14);
    }
}
