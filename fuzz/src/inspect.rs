// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes, inspected: it must come to an end and say the same however they are split, cover all of
//! them, and call whole what a load's reader takes, and nothing else. mtty's decoder sees what is in
//! them.

use crate::decode::repair;
use crate::input::Input;
use vfiomig::inspect::{Decoding, Entry, InspectOptions, Inspector, Verdict};
use vfiomig::stream::{Auth, DecodeLimits, Decoder, Read};
use vfiomig::{Code, identity::Identity};

/// Two streams begin alike: with a key, or without.
fn auth(with_key: bool) -> Option<Auth> {
    let key = |_, out: &mut [u8; 32]| {
        out.fill(0x4b);
        Ok(())
    };
    with_key.then(|| Auth::with_keys(1, key))
}

fn limits() -> DecodeLimits {
    DecodeLimits { max_frame: 64 << 10, ..DecodeLimits::default() }
}

/// What is said, a line each, and the verdict with its code.
fn inspect<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    with_key: bool,
) -> (Vec<String>, Verdict, Option<Code>) {
    let options = InspectOptions { limits: limits(), auth: auth(with_key) };
    let mut inspector = Inspector::new(options).unwrap();
    let mut decoding = Decoding::new();
    decoding.begin(&Identity { driver: "mtty".into(), ..Identity::default() });
    let (mut lines, mut place, mut len) = (Vec::new(), 0, 0);
    let mut take = |entry: Entry<'_>| {
        assert!(entry.offset >= place, "{entry:?} after {place}");
        place = entry.offset;
        lines.push(format!("{entry:?}"));
        let mut fields = Vec::new();
        let said = decoding.entry(&entry, &mut |field| {
            fields.push(format!("{field:?}"));
            Ok(())
        });
        lines.push(format!("{:?}", said.map_err(|error| error.code())));
        lines.append(&mut fields);
    };
    for mut piece in pieces {
        len += piece.len() as u64;
        while let Some(entry) = inspector.next(&mut piece).unwrap() {
            take(entry);
        }
    }
    while let Some(entry) = inspector.finish().unwrap() {
        take(entry);
    }
    let report = inspector.report();
    assert_eq!(report.bytes, len);
    (lines, report.verdict, report.code)
}

/// What a load's reader says; `None`: it takes the stream.
fn load(bytes: &[u8], with_key: bool) -> Option<Code> {
    let mut decoder = match auth(with_key) {
        Some(auth) => Decoder::authenticated(limits(), auth).unwrap(),
        None => Decoder::new(limits()),
    };
    let mut rest = bytes;
    loop {
        match decoder.next(&mut rest).map(|item| item.is_some()) {
            Ok(true) => {}
            Ok(false) => return (!decoder.ended()).then_some(Code::NoData),
            Err(error) => return Some(error.code()),
        }
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mend, with_key) = (input.flag(), input.flag());
    let (step, damage) = (usize::from(input.u8()) + 1, input.u16());
    let mut bytes = input.all().to_vec();
    if mend {
        repair(&mut bytes);
        // Most of what is found then lies behind damage.
        let len = bytes.len();
        if let Some(byte) = bytes.get_mut(usize::from(damage) % (2 * len).max(1)) {
            *byte ^= 0x11;
        }
    }
    let (lines, verdict, code) = inspect(std::iter::once(&bytes[..]), with_key);
    let said = load(&bytes, with_key);
    assert_eq!(verdict == Verdict::Whole, said.is_none(), "{lines:#?}");
    if verdict != Verdict::Foreign {
        assert_eq!(code, said, "{lines:#?}");
    }
    let split = inspect(bytes.chunks(step), with_key);
    assert_eq!((lines, verdict, code), split);
}
