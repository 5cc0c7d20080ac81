// SPDX-License-Identifier: MIT OR Apache-2.0
//! Authenticated streams in the hands of somebody who has no key: frames of two of them are changed,
//! moved, repeated, left out, exchanged and made up, and all checksums are computed again. Only what
//! is one of the two in the end may be loaded.

use crate::input::{Input, crc};
use crate::load::{options, stream};
use std::sync::OnceLock;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::session::LoadOptions;
use vfiomig::stream::{
    Auth, DecodeLimits, Decoder, Encoder, FrameType, HEADER_LEN, Item, PREAMBLE_LEN, Read, TAG_LEN,
    encode_identity,
};
use vfiomig::{Device, Load};
use vfiomig_sim::Sim;

const MIGRATION_ID: [u8; 16] = [0x66; 16];
const BLOCK: usize = 96;
const BEGINNING: usize = PREAMBLE_LEN + BLOCK + TAG_LEN;
const HEAD: usize = HEADER_LEN + TAG_LEN;
/// No more than this becomes of a stream, in bytes.
const LONGEST: usize = 32 << 10;

/// The beginning of a stream, then its frames.
type Parts = Vec<Vec<u8>>;

fn auth() -> Auth {
    Auth::with_keys(1, |id, key: &mut [u8; 32]| {
        *key = [0x40 ^ id as u8; 32];
        Ok(())
    })
}

/// The stream of a small device with tags. The random number is always the same, so that inputs mean the same each time.
fn authentic(nonce: u8) -> Parts {
    let mut buf = vec![0; 4096];
    let mut encoder =
        Encoder::authenticated(MIGRATION_ID, 0, auth(), [nonce; 32]).expect("encoder");
    let mut decoder = Decoder::new(DecodeLimits::default());
    let len = encoder.preamble(&mut buf).expect("preamble");
    let (mut parts, mut rest) = (vec![buf[..len].to_vec()], stream());
    while let Some(item) = decoder.next(&mut rest).expect("a good stream") {
        let len = match item {
            Item::Identity(identity) => {
                encoder.frame(&mut buf, FrameType::Identity, &[&encode_identity(&identity)])
            }
            Item::Data(bytes) => encoder.frame(&mut buf, FrameType::Data, &[bytes]),
            Item::InitialComplete(mark) => {
                encoder.frame(&mut buf, FrameType::InitialComplete, &[&mark.to_le_bytes(), &[0; 4]])
            }
            Item::End => encoder.end(&mut buf),
            other => panic!("{other:?} in a stream of a small device"),
        };
        parts.push(buf[..len.expect("room")].to_vec());
    }
    parts
}

fn both() -> &'static [Parts; 2] {
    static BOTH: OnceLock<[Parts; 2]> = OnceLock::new();
    BOTH.get_or_init(|| [authentic(1), authentic(2)])
}

/// One change of what is there.
fn change(parts: &mut Parts, input: &mut Input<'_>) {
    let at = usize::from(input.u8()) % parts.len();
    let other = &both()[usize::from(input.flag())];
    let from = usize::from(input.u8()) % other.len();
    match input.u8() % 8 {
        0 | 1 => {
            let byte = usize::from(input.u16());
            let part = &mut parts[at];
            let byte = byte % part.len().max(1);
            part.iter_mut().skip(byte).take(1).for_each(|byte| *byte ^= input.u8());
        }
        2 => parts[at] = other[from].clone(),
        3 => parts.insert(at, other[from].clone()),
        4 if parts.len() > 1 => drop(parts.remove(at)),
        5 => {
            let to = usize::from(input.u8()) % parts.len();
            parts.swap(at, to);
        }
        6 => {
            let mut frame = vec![0; HEAD];
            frame[4] = input.u8();
            frame[6] = input.u8() & 1;
            frame.extend_from_slice(input.bytes());
            parts.insert(at, frame);
        }
        _ => {
            let len = usize::from(input.u16());
            parts[at].truncate(len);
        }
    }
}

/// What anybody can compute who has no key: marks, lengths, numbers and checksums.
fn mend(parts: &mut Parts, lengths: bool) {
    for (number, part) in parts.iter_mut().enumerate() {
        if number == 0 {
            if part.len() != BEGINNING {
                continue;
            }
            let check = crc(&[&part[..36]]).to_le_bytes();
            part[36..40].copy_from_slice(&check);
            let block = crc(&[&part[20..36], &part[40..132]]).to_le_bytes();
            part[132..136].copy_from_slice(&block);
        } else if part.len() >= HEAD {
            part[..4].copy_from_slice(b"VMFr");
            if lengths {
                let len = (part.len() - HEAD) as u32;
                part[12..16].copy_from_slice(&len.to_le_bytes());
            }
            part[16..24].copy_from_slice(&(number as u64 - 1).to_le_bytes());
            let check = crc(&[&MIGRATION_ID, &part[..28]]).to_le_bytes();
            part[28..32].copy_from_slice(&check);
        }
    }
}

fn load(load: &mut Load, bytes: &[u8], step: usize, in_space: bool) -> vfiomig::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut len = step.min(rest.len());
        if in_space {
            let space = load.space()?;
            len = len.min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            load.received(len)?;
        } else {
            load.push(&rest[..len])?;
        }
        rest = &rest[len..];
    }
    load.commit()
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let step = usize::from(input.u16()) % 2000 + 1;
    let mut parts = both()[0].clone();
    while !input.is_empty() && parts.iter().map(Vec::len).sum::<usize>() < LONGEST {
        change(&mut parts, &mut input);
    }
    if how & 1 != 0 {
        mend(&mut parts, how & 2 != 0);
    }
    let bytes = parts.concat();
    let untouched = both().iter().any(|authentic| authentic.concat() == bytes);
    let sim = Sim::new(options()).expect("sim");
    let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
    let auth = Auth { challenge: (how & 4 != 0).then_some([7; 32]), ..auth() };
    let wanted = untouched && auth.challenge.is_none();
    let options = LoadOptions { auth: Some(auth), ..LoadOptions::default() };
    let mut session = device.load(options).expect("load");
    let done = load(&mut session, &bytes, step, how & 8 != 0);
    drop(session);
    assert_eq!(done.is_ok(), wanted, "{done:?}");
    let state = device.state().expect("state");
    assert_eq!(state, if wanted { State::Stop } else { State::Running });
    assert_eq!(sim.violations(), (0, None));
}
