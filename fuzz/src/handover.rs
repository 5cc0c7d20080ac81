// SPDX-License-Identifier: MIT OR Apache-2.0
//! A side of a handover, told anything by a peer that keeps to no protocol and by a VMM that reports
//! anything: whatever comes, no guest is released that was not sent, none is run that was not
//! committed, and an outcome comes once. The checksums are corrected first, because no fuzzer guesses
//! them.

use vfiomig::handover::{
    Action, Event, Fence, HEADER_LEN, Handover, HandoverOptions, MAX_MESSAGE, Outcome, Report,
    Role, message_len,
};

use crate::input::{Input, crc};

const ID: [u8; 16] = *b"a migration's id";
const DEVICES: u32 = 2;

/// Types of messages: of the source, of the target, and one that there is not.
const KINDS: [u16; 12] = [1, 2, 3, 4, 5, 6, 17, 18, 19, 20, 21, 99];

fn message(input: &mut Input) -> Vec<u8> {
    let kind = input.pick(&KINDS);
    let attempt = u32::from(input.u8() % 4);
    let payload = input.bytes();
    let mut message = b"VMHO\x01\x00".to_vec();
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    message.extend_from_slice(&attempt.to_le_bytes());
    message.extend_from_slice(&ID);
    let check = crc(&[&message, payload]);
    message.extend_from_slice(&check.to_le_bytes());
    message.extend_from_slice(payload);
    message
}

fn event(input: &mut Input) -> Event {
    let device = u32::from(input.u8() % 3);
    match input.u8() % 15 {
        0 => Event::Connected,
        1 => Event::Cut,
        2 => Event::Tick,
        3 => Event::Judged(i32::from(input.u8() % 2)),
        4 => Event::InitialSent(device, u64::from(input.u8() % 3)),
        5 => Event::InitialLoaded(device, u64::from(input.u8() % 3)),
        6 => Event::Switchover,
        7 => Event::Resumed,
        8 => Event::Ended(device),
        9 => Event::Committed,
        10 => Event::Released,
        11 => Event::Kept,
        12 => Event::Running,
        13 => Event::Reset,
        _ => Event::Failed(-5),
    }
}

/// What was taken for true.
#[derive(Default)]
struct Known {
    ended: u32,
    committed: bool,
    outcomes: u32,
    over: Option<Report>,
}

impl Known {
    fn took(&mut self, event: Event) {
        match event {
            Event::Ended(_) => self.ended += 1,
            Event::Committed => self.committed = true,
            _ => {}
        }
    }

    fn judge(&mut self, action: Action<'_>, role: Role) {
        match action {
            Action::Send(message) => {
                assert!(message.len() <= MAX_MESSAGE);
                let header = message.first_chunk::<HEADER_LEN>().expect("a header");
                assert_eq!(message_len(header).expect("its own message"), message.len());
            }
            Action::Stop | Action::Keep => assert_eq!(role, Role::Source),
            Action::Release => assert!(role == Role::Source && self.ended == DEVICES),
            Action::Judge | Action::Reset => assert_eq!(role, Role::Target),
            Action::Commit => assert!(role == Role::Target && self.ended == DEVICES),
            Action::Run => {
                assert!(if role == Role::Target { self.committed } else { self.ended == DEVICES })
            }
            Action::Outcome => self.outcomes += 1,
            Action::Nothing | Action::Wait(_) | Action::Begin | Action::Fence => {}
        }
        assert!(self.outcomes <= 1);
    }

    /// What is final stays.
    fn look(&mut self, report: Report) {
        if let Some(before) = self.over {
            assert_eq!((before.outcome, before.reason), (report.outcome, report.reason));
        } else if !matches!(report.outcome, Outcome::Pending | Outcome::Undecided) {
            self.over = Some(report);
        }
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let role = input.pick(&[Role::Source, Role::Target]);
    let options = HandoverOptions {
        role,
        migration_id: ID,
        attempt: 2,
        num_devices: DEVICES,
        key_id: [0; 16],
        repeat_ms: 1,
    };
    let mut side = Handover::new(options).expect("right options");
    let mut known = Known::default();
    while !input.is_empty() {
        let before = side.clone();
        match input.u8() % 8 {
            0..=2 => known.judge(side.next_action().expect("memory"), role),
            3 | 4 => {
                let taken = side.receive(&message(&mut input)).is_ok();
                assert!(taken || side == before, "a message that was refused");
            }
            5 | 6 => {
                let event = event(&mut input);
                match side.notify(event) {
                    Ok(()) => known.took(event),
                    Err(_) => assert_eq!(side, before, "{event:?} was refused"),
                }
            }
            _ if input.rarely(8) => {
                let fence = input.pick(&[Fence::DidNotRun, Fence::MayHaveRun]);
                side.peer_fenced(fence).expect("it is taken at any time");
            }
            _ if input.rarely(8) => drop(side.cancel()),
            _ => {}
        }
        known.look(side.report());
    }
}
