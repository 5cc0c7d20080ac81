// SPDX-License-Identifier: MIT OR Apache-2.0
//! Authenticated streams: what an attacker between the hosts can try, and what becomes of it.
//!
//! The attacker has seen everything that was ever sent and changes what is on its way. It can compute
//! every checksum again, and does; what it does not have is a key.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Drive, Side, migrate, side, small, stream_of};
use proptest::prelude::*;
use vfiomig::error::{Code, Errno, Error};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::stream::{Auth, Format, HEADER_LEN, Mac, PREAMBLE_LEN, TAG_LEN};

const MIGRATION_ID: [u8; 16] = [0x4d; 16];
const CHALLENGE: [u8; 32] = [0xc4; 32];
/// From preamble to the first frame.
const BEGINNING: usize = PREAMBLE_LEN + BLOCK + TAG_LEN;
const BLOCK: usize = 96;
const HEAD: usize = HEADER_LEN + TAG_LEN;

/// The keys that both sides have: 1 and 2.
fn keys(id: u32, key: &mut [u8; 32]) -> Result<(), Errno> {
    match id {
        1 | 2 => *key = [0x60 + id as u8; 32],
        _ => return Err(Errno(libc::ENOKEY)),
    }
    Ok(())
}

fn auth() -> Auth {
    Auth::with_keys(1, keys)
}

fn saving() -> SaveOptions {
    SaveOptions {
        migration_id: MIGRATION_ID,
        max_frame: 1000,
        auth: Some(auth()),
        ..SaveOptions::default()
    }
}

fn loading() -> LoadOptions {
    LoadOptions { auth: Some(auth()), ..LoadOptions::default() }
}

/// The stream of a device that is the same each time; its random number is not.
fn stream(options: SaveOptions) -> Vec<u8> {
    stream_of(&side(small(1)).device, options).unwrap()
}

/// What became of a stream.
struct Fate {
    result: Result<(), Error>,
    /// What the driver was given, in bytes.
    given: u64,
}

fn load(stream: &[u8], options: LoadOptions, pieces: &[usize]) -> Fate {
    let target = side(small(9));
    let mut load = target.device.load(options).unwrap();
    let mut result = Ok(());
    let (mut rest, mut sizes) = (stream, pieces.iter().cycle());
    while result.is_ok() && !rest.is_empty() {
        let (now, later) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
        result = load.push(now).map(drop);
        rest = later;
    }
    let result = result.and_then(|()| load.commit());
    let given = load.stats().data_bytes;
    drop(load);
    if result.is_err() {
        assert_eq!(target.sim.state(), vfiomig_sim::State::RUNNING, "the device was not reset");
    }
    common::check_clean(&target);
    Fate { result, given }
}

const WHOLE: &[usize] = &[usize::MAX];

/// A stream taken apart.
#[derive(Clone)]
struct Parts {
    beginning: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

const DATA: u16 = 2;
const RESTART: u16 = 5;
const UNKNOWN: u16 = 77;

impl Parts {
    fn of(stream: &[u8]) -> Parts {
        let (beginning, mut rest) = stream.split_at(BEGINNING);
        let mut frames = vec![];
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[12..16].try_into().unwrap()) as usize;
            let (frame, later) = rest.split_at(HEAD + len);
            frames.push(frame.to_vec());
            rest = later;
        }
        Parts { beginning: beginning.to_vec(), frames }
    }

    fn authentic() -> Parts {
        Parts::of(&stream(saving()))
    }

    fn bytes(&self) -> Vec<u8> {
        [self.beginning.clone(), self.frames.concat()].concat()
    }

    /// Changes the beginning, and makes its checksums right again.
    fn begin(mut self, change: impl Fn(&mut [u8])) -> Parts {
        change(&mut self.beginning);
        let check = crc32fast::hash(&self.beginning[..36]);
        self.beginning[36..40].copy_from_slice(&check.to_le_bytes());
        let block = [&self.beginning[20..36], &self.beginning[40..132]].concat();
        self.beginning[132..136].copy_from_slice(&crc32fast::hash(&block).to_le_bytes());
        self
    }

    /// Changes one frame, and makes its header's checksum right again.
    fn frame(mut self, at: usize, change: impl Fn(&mut Vec<u8>)) -> Parts {
        change(&mut self.frames[at]);
        self.reseal(at);
        self
    }

    fn reseal(&mut self, at: usize) {
        let header = [&self.beginning[20..36], &self.frames[at][..28]].concat();
        let check = crc32fast::hash(&header).to_le_bytes();
        self.frames[at][28..32].copy_from_slice(&check);
    }

    /// Changes which frames there are, and gives them new numbers.
    fn frames(mut self, change: impl Fn(&mut Vec<Vec<u8>>)) -> Parts {
        change(&mut self.frames);
        for at in 0..self.frames.len() {
            self.frames[at][16..24].copy_from_slice(&(at as u64).to_le_bytes());
            self.reseal(at);
        }
        self
    }

    /// Changes which frames there are, and leaves their numbers as they are.
    fn old_numbers(mut self, change: impl Fn(&mut Vec<Vec<u8>>)) -> Parts {
        change(&mut self.frames);
        self
    }

    /// The same without authentication: what an attacker makes of it to whom checksums are enough.
    fn stripped(self) -> Vec<u8> {
        let mut out = self.beginning[..PREAMBLE_LEN].to_vec();
        out[12] &= !1;
        let check = crc32fast::hash(&out[..36]).to_le_bytes();
        out[36..40].copy_from_slice(&check);
        let mut digest = crc32fast::Hasher::new();
        for mut frame in self.frames {
            let mut payload = frame.split_off(HEAD);
            if frame[4] == 6 {
                payload[20..24].copy_from_slice(&digest.clone().finalize().to_le_bytes());
            }
            frame.truncate(HEADER_LEN);
            frame[24..28].copy_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            let check = crc32fast::hash(&[&MIGRATION_ID[..], &frame[..28]].concat());
            frame[28..32].copy_from_slice(&check.to_le_bytes());
            digest.update(&frame[..28]);
            out.extend_from_slice(&frame);
            out.extend_from_slice(&payload);
        }
        out
    }
}

/// A frame that the attacker has made up, with a tag of zeros.
fn made_up(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEAD];
    frame[..4].copy_from_slice(b"VMFr");
    frame[4..6].copy_from_slice(&kind.to_le_bytes());
    frame[6..8].copy_from_slice(&flags.to_le_bytes());
    frame[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// One attack.
struct Attack {
    name: &'static str,
    stream: Vec<u8>,
    load: LoadOptions,
    code: Code,
}

fn attack(name: &'static str, parts: Parts, code: Code) -> Attack {
    Attack { name, stream: parts.bytes(), load: loading(), code }
}

fn on_frames() -> Vec<Attack> {
    let made = Parts::authentic;
    let one = made();
    let last = one.frames.len() - 1;
    let other = made();
    assert!(last >= 4 && other.frames.len() == one.frames.len());
    let mut rows = vec![
        attack("a frame is left out", made().frames(|f| drop(f.remove(2))), Code::BadMsg),
        attack(
            "the same, with the old numbers",
            made().old_numbers(|f| drop(f.remove(2))),
            Code::Proto,
        ),
        attack("a frame is repeated", made().frames(|f| f.insert(2, f[1].clone())), Code::BadMsg),
        attack(
            "the same, with the old numbers",
            made().old_numbers(|f| f.insert(2, f[1].clone())),
            Code::Proto,
        ),
        attack("two frames change places", made().frames(|f| f.swap(1, 2)), Code::BadMsg),
        attack("the same, with the old numbers", made().old_numbers(|f| f.swap(1, 2)), Code::Proto),
        attack("payload is changed", made().frame(1, |f| f[HEAD] ^= 1), Code::BadMsg),
        attack(
            "payload is changed, with a checksum",
            made().frame(1, |f| {
                f[HEAD] ^= 1;
                let sum = crc32fast::hash(&f[HEAD..]).to_le_bytes();
                f[24..28].copy_from_slice(&sum);
            }),
            Code::BadMsg,
        ),
        attack("a tag is changed", made().frame(1, |f| f[HEADER_LEN + 31] ^= 1), Code::BadMsg),
        attack("a tag is zeros", made().frame(1, |f| f[HEADER_LEN..HEAD].fill(0)), Code::BadMsg),
        attack(
            "two tags change places",
            {
                let (a, b) = (
                    one.frames[1][HEADER_LEN..HEAD].to_vec(),
                    one.frames[2][HEADER_LEN..HEAD].to_vec(),
                );
                one.clone()
                    .frame(1, |f| f[HEADER_LEN..HEAD].copy_from_slice(&b))
                    .frame(2, |f| f[HEADER_LEN..HEAD].copy_from_slice(&a))
            },
            Code::BadMsg,
        ),
        attack(
            "a frame takes in the next one",
            made().frame(1, |f| {
                let len = (f.len() - HEAD) as u32 + 100;
                f[12..16].copy_from_slice(&len.to_le_bytes());
            }),
            Code::BadMsg,
        ),
        attack(
            "a frame ends early",
            made().frame(1, |f| {
                f.pop();
                let len = (f.len() - HEAD) as u32;
                f[12..16].copy_from_slice(&len.to_le_bytes());
            }),
            Code::BadMsg,
        ),
        attack("data is made optional", made().frame(1, |f| f[6] = 1), Code::Proto),
        attack(
            "data is made a frame that is skipped",
            made().frame(1, |f| {
                f[4..6].copy_from_slice(&UNKNOWN.to_le_bytes());
                f[6] = 1;
            }),
            Code::BadMsg,
        ),
        attack(
            "a frame to be skipped comes in between",
            made().frames(|f| f.insert(1, made_up(UNKNOWN, 1, b"?"))),
            Code::BadMsg,
        ),
        attack(
            "data comes in between",
            made().frames(|f| f.insert(1, made_up(DATA, 0, b"bad"))),
            Code::BadMsg,
        ),
        attack(
            "a restart comes in between",
            made().frames(|f| f.insert(2, made_up(RESTART, 0, &[1, 0, 0, 0, 0, 0, 0, 0]))),
            Code::BadMsg,
        ),
        attack("another device's number", made().frame(1, |f| f[8] = 1), Code::Proto),
        attack(
            "another device's number everywhere",
            {
                let mut parts = made().begin(|b| b[PREAMBLE_LEN + 12] = 1);
                for at in 0..=last {
                    parts = parts.frame(at, |f| f[8] = 1);
                }
                parts
            },
            Code::BadMsg,
        ),
        attack("the end states other totals", made().frame(last, |f| f[HEAD] ^= 1), Code::BadMsg),
        attack(
            "the end comes early",
            made().frames(|f| drop(f.drain(2..f.len() - 1))),
            Code::BadMsg,
        ),
        attack("something follows the end", made().old_numbers(|f| f.push(vec![0])), Code::Proto),
        attack("the end is cut off", made().old_numbers(|f| drop(f.pop())), Code::NoData),
        attack("only the beginning comes", made().old_numbers(Vec::clear), Code::NoData),
    ];
    for (at, name) in [
        (0, "the other stream's identity"),
        (1, "the other stream's data"),
        (last, "the other stream's end"),
    ] {
        let frame = other.frames[at].clone();
        rows.push(attack(name, made().old_numbers(|f| f[at] = frame.clone()), Code::BadMsg));
    }
    rows
}

fn on_the_beginning() -> Vec<Attack> {
    let made = Parts::authentic;
    let at = |offset: usize| PREAMBLE_LEN + offset;
    let with = |auth: Auth| LoadOptions { auth: Some(auth), ..LoadOptions::default() };
    let challenged = |auth: Auth| Auth { challenge: Some(CHALLENGE), ..auth };
    let for_challenge =
        || Parts::of(&stream(SaveOptions { auth: Some(challenged(auth())), ..saving() }));
    let other_challenge = Auth { challenge: Some([1; 32]), ..auth() };
    let or_not = Auth { allow_unauthenticated: true, ..auth() };
    let attack_on =
        |name, parts: Parts, load, code| Attack { name, stream: parts.bytes(), load, code };
    let wrong = Auth::with_keys(1, |_, key| {
        *key = [0x77; 32];
        Ok(())
    });
    vec![
        attack("the feature's bit is cleared", made().begin(|b| b[12] &= !1), Code::Perm),
        attack_on(
            "the same, where it need not be set",
            made().begin(|b| b[12] &= !1),
            with(or_not),
            Code::Proto,
        ),
        Attack {
            name: "all of authentication is taken away",
            stream: made().stripped(),
            load: loading(),
            code: Code::Perm,
        },
        attack("another minor version", made().begin(|b| b[10] ^= 1), Code::BadMsg),
        attack("an optional feature", made().begin(|b| b[16] ^= 1), Code::BadMsg),
        attack("a required feature that nobody knows", made().begin(|b| b[12] ^= 2), Code::Proto),
        attack(
            "another migration's name",
            {
                let mut parts = made().begin(|b| b[20] ^= 1);
                for at in 0..parts.frames.len() {
                    parts.reseal(at);
                }
                parts
            },
            Code::BadMsg,
        ),
        attack("another algorithm", made().begin(|b| b[at(4)] = 2), Code::Perm),
        attack("an algorithm that nobody knows", made().begin(|b| b[at(4)] = 9), Code::Proto),
        attack("a flag that nobody knows", made().begin(|b| b[at(6)] |= 2), Code::Proto),
        attack("the id of another key", made().begin(|b| b[at(8)] = 2), Code::BadMsg),
        attack("the id of no key", made().begin(|b| b[at(8)] = 3), Code::Perm),
        attack("another random number", made().begin(|b| b[at(16)] ^= 1), Code::BadMsg),
        attack("a reserved byte", made().begin(|b| b[at(80)] = 1), Code::Proto),
        attack("another tag", made().begin(|b| b[at(BLOCK)] ^= 1), Code::BadMsg),
        attack("no mark", made().begin(|b| b[at(0)] ^= 1), Code::Proto),
        attack(
            "another stream's beginning",
            {
                let frames = made().frames;
                made().old_numbers(move |f| *f = frames.clone())
            },
            Code::BadMsg,
        ),
        attack_on("the key is another one", made(), with(wrong), Code::BadMsg),
        attack_on("nobody has a key", made(), LoadOptions::default(), Code::Perm),
        attack_on(
            "replayed to a load of another migration",
            made(),
            LoadOptions { migration_id: Some([2; 16]), ..loading() },
            Code::OtherDevice,
        ),
        attack_on(
            "replayed to a load of another device",
            made(),
            LoadOptions { device_index: Some(1), ..loading() },
            Code::OtherDevice,
        ),
        attack_on(
            "replayed to a load with a challenge",
            made(),
            with(challenged(auth())),
            Code::OtherDevice,
        ),
        attack_on(
            "replayed to a load with another challenge",
            for_challenge(),
            with(other_challenge),
            Code::OtherDevice,
        ),
        attack_on(
            "reflected: to its own source, which now loads",
            for_challenge(),
            with(Auth { challenge: Some([3; 32]), ..auth() }),
            Code::OtherDevice,
        ),
        attack_on(
            "the challenge is written into it",
            made().begin(|b| {
                b[at(6)] = 1;
                b[at(48)..at(80)].fill(0xc4);
            }),
            with(challenged(auth())),
            Code::BadMsg,
        ),
        attack("a challenge that no flag announces", made().begin(|b| b[at(48)] = 1), Code::Proto),
    ]
}

/// Bytes of data in whole frames of the authentic stream that `stream` begins with.
fn authentic_data(stream: &[u8]) -> u64 {
    let Some(mut rest) = stream.get(BEGINNING..) else { return 0 };
    let mut sum = 0;
    while rest.len() >= HEAD {
        let len = u32::from_le_bytes(rest[12..16].try_into().unwrap()) as usize;
        if rest.len() < HEAD + len {
            break;
        }
        sum += if rest[4] == 2 { len as u64 } else { 0 };
        rest = &rest[HEAD + len..];
    }
    sum
}

#[test]
fn every_attack_is_refused_with_its_own_code() {
    let mut count = 0;
    for Attack { name, stream, load: options, code } in
        on_frames().into_iter().chain(on_the_beginning())
    {
        let fate = load(&stream, options, WHOLE);
        let error = fate.result.expect_err(name);
        assert_eq!(error.code(), code, "{name}: {error}");
        count += 1;
    }
    println!("attacks on authenticated streams: {count}, all refused");
}

#[test]
fn what_is_received_into_the_librarys_memory_is_verified_like_what_is_pushed() {
    let good = stream(SaveOptions { max_frame: 100_000, ..saving() });
    for (bad, step) in [(None, 1), (None, 333), (None, 50_000), (Some(2000), 333), (Some(500), 7)] {
        let target = side(small(9));
        let mut load = target.device.load(loading()).unwrap();
        let mut bytes = good.clone();
        bad.into_iter().for_each(|at: usize| bytes[at] ^= 1);
        let mut rest = bytes.as_slice();
        let mut receive = || -> vfiomig::Result<()> {
            while !rest.is_empty() {
                let space = load.space()?;
                let len = step.min(space.len()).min(rest.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                load.received(len)?;
            }
            load.commit()
        };
        let result = receive();
        assert_eq!(result.err().map(|e| e.code()), bad.map(|_| Code::BadMsg), "{bad:?} {step}");
    }
}

#[test]
fn an_authentic_stream_is_loaded() {
    let (source, target) = (side(small(1)), side(small(9)));
    let drive = Drive { save: saving(), load: loading(), ..Drive::default() };
    migrate(&source, &target, drive);
    let challenged = || Some(Auth { challenge: Some(CHALLENGE), ..auth() });
    let (source, target) = (side(small(1)), side(small(9)));
    let drive = Drive {
        save: SaveOptions { auth: challenged(), ..saving() },
        load: LoadOptions { auth: challenged(), ..LoadOptions::default() },
        ..Drive::default()
    };
    migrate(&source, &target, drive);
    // One that was made for a challenge is authentic without it, too.
    let made = stream(SaveOptions { auth: challenged(), ..saving() });
    load(&made, loading(), WHOLE).result.unwrap();
}

#[test]
fn a_stream_without_authentication_is_loaded_where_the_caller_says_so() {
    let plain = stream(SaveOptions { auth: None, ..saving() });
    assert_eq!(load(&plain, loading(), WHOLE).result.unwrap_err().code(), Code::Perm);
    let stripped = Parts::authentic().stripped();
    let either = || {
        let auth = Auth { allow_unauthenticated: true, ..auth() };
        LoadOptions { auth: Some(auth), ..LoadOptions::default() }
    };
    for stream in [plain, stripped, stream(saving())] {
        load(&stream, either(), WHOLE).result.unwrap();
    }
}

#[test]
fn every_changed_byte_is_refused_before_the_driver_sees_its_frame() {
    let good = stream(saving());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        for pieces in [WHOLE, &[61]] {
            let fate = load(&bad, loading(), pieces);
            assert!(fate.result.is_err(), "byte {at} may change");
            // A length that was changed reaches for more; what came before it is whole.
            assert!(fate.given <= authentic_data(&good[..at]), "byte {at}: {}", fate.given);
        }
    }
}

#[test]
fn no_truncated_stream_is_committed() {
    let good = stream(saving());
    for len in 0..good.len() {
        let fate = load(&good[..len], loading(), WHOLE);
        assert_eq!(fate.result.unwrap_err().code(), Code::NoData, "cut at {len}");
        assert_eq!(fate.given, authentic_data(&good[..len]));
    }
}

/// A MAC of the VMM's own, of 16 bytes.
struct Own {
    hasher: blake3::Hasher,
    tag_len: usize,
    fails: Option<(&'static str, Errno)>,
}

impl Own {
    fn new() -> Own {
        Own { hasher: blake3::Hasher::new(), tag_len: 16, fails: None }
    }

    fn step(&self, what: &str) -> Result<(), Errno> {
        match self.fails {
            Some((step, errno)) if step == what => Err(errno),
            _ => Ok(()),
        }
    }
}

impl Mac for Own {
    fn tag_len(&self) -> usize {
        self.tag_len
    }

    fn begin(&mut self, key_id: u32) -> Result<(), Errno> {
        self.hasher = blake3::Hasher::new_keyed(&[key_id as u8; 32]);
        self.step("begin")
    }

    fn update(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.hasher.update(bytes);
        self.step("update")
    }

    fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> Result<(), Errno> {
        // What is behind the tag's length does not count.
        *tag = *self.hasher.finalize().as_bytes();
        self.step("finish")
    }
}

fn own(fails: Option<(&'static str, Errno)>) -> Option<Auth> {
    Some(Auth::with_mac(5, Own { fails, ..Own::new() }))
}

#[test]
fn a_mac_of_the_vmms_own_does_the_same() {
    let saving = || SaveOptions { auth: own(None), ..saving() };
    let loading = || LoadOptions { auth: own(None), ..LoadOptions::default() };
    let good = stream(saving());
    load(&good, loading(), WHOLE).result.unwrap();
    load(&good, loading(), &[7]).result.unwrap();
    // Zeros stand behind its 16 bytes, whatever it wrote there.
    let head = &Parts::of(&good).frames[1][HEADER_LEN..HEAD];
    assert!(head[..16] != [0; 16] && head[16..] == [0; 16], "{head:?}");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let fate = load(&bad, loading(), WHOLE);
        assert!(fate.result.is_err(), "byte {at} may change");
        assert!(fate.given <= authentic_data(&good[..at]));
    }
    // Another stream's frames, though both have the same key: each tag begins with the beginning.
    let (mut a, b) = (Parts::of(&good), Parts::of(&stream(saving())));
    a.frames[1] = b.frames[1].clone();
    assert_eq!(load(&a.bytes(), loading(), WHOLE).result.unwrap_err().code(), Code::BadMsg);
    // Keys and MACs are not taken for one another.
    for (stream, auth) in [(good, auth()), (stream(self::saving()), own(None).unwrap())] {
        let options = LoadOptions { auth: Some(auth), ..LoadOptions::default() };
        assert_eq!(load(&stream, options, WHOLE).result.unwrap_err().code(), Code::Perm);
    }
}

#[test]
fn a_mac_of_the_vmms_own_may_fail_at_each_step() {
    let good = stream(SaveOptions { auth: own(None), ..saving() });
    for step in ["begin", "update", "finish"] {
        for (errno, code) in [(libc::EPERM, Code::Perm), (libc::EAGAIN, Code::Io)] {
            let auth = || own(Some((step, Errno(errno))));
            let source = side(small(1));
            let options = SaveOptions { auth: auth(), ..saving() };
            let error = stream_of(&source.device, options).unwrap_err();
            assert_eq!(error.code(), code, "{step}: {error}");
            assert_eq!(source.sim.state(), vfiomig_sim::State::RUNNING);
            let options = LoadOptions { auth: auth(), ..LoadOptions::default() };
            let fate = load(&good, options, WHOLE);
            let error = fate.result.unwrap_err();
            assert_eq!((error.code(), fate.given), (code, 0), "{step}: {error}");
            assert_eq!(error.failure().unwrap().errno, errno);
        }
    }
}

/// A MAC whose tags come from elsewhere.
struct Finishing<F>(Own, F);

impl<F: FnMut(&mut Own, &mut [u8; TAG_LEN]) -> Result<(), Errno> + Send> Mac for Finishing<F> {
    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }
    fn begin(&mut self, key_id: u32) -> Result<(), Errno> {
        self.0.begin(key_id)
    }
    fn update(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.0.update(bytes)
    }
    fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> Result<(), Errno> {
        (self.1)(&mut self.0, tag)
    }
}

/// Fails after the beginning, where a save has to end in an error and not in a stream.
#[test]
fn a_mac_that_fails_in_the_middle_ends_the_save() {
    for after in 1..5usize {
        let source = side(small(1));
        let mut left = after;
        let tires = move |mac: &mut Own, tag: &mut [u8; TAG_LEN]| {
            left = left.checked_sub(1).ok_or(Errno(libc::EIO))?;
            mac.finish(tag)
        };
        let auth = Some(Auth::with_mac(5, Finishing(Own::new(), tires)));
        let error = stream_of(&source.device, SaveOptions { auth, ..saving() }).unwrap_err();
        assert_eq!(error.code(), Code::Io, "after {after}");
        assert_eq!(source.sim.state(), vfiomig_sim::State::RUNNING);
    }
}

/// A callback that forgets to write would make the same tag on both sides, of whatever comes.
#[test]
fn a_mac_that_writes_no_tag_ends_the_stream() {
    let forgets = |_: &mut Own, _: &mut [u8; TAG_LEN]| Ok(());
    let source = side(small(1));
    let auth = Some(Auth::with_mac(5, Finishing(Own::new(), forgets)));
    let error = stream_of(&source.device, SaveOptions { auth, ..saving() }).unwrap_err();
    assert_eq!(error.code(), Code::Perm);
    assert!(error.message().contains("zeros"), "{}", error.message());
}

#[test]
fn what_is_impossible_is_refused_at_once() {
    let device = &side(small(1)).device;
    let save = |options| device.save(options).err().unwrap();
    let load = |options| device.load(options).err().unwrap();
    for tag_len in [0, 15, 33] {
        let auth = || Some(Auth::with_mac(1, Own { tag_len, ..Own::new() }));
        assert_eq!(save(SaveOptions { auth: auth(), ..saving() }).code(), Code::Inval);
        let options = LoadOptions { auth: auth(), ..LoadOptions::default() };
        assert_eq!(load(options).code(), Code::Inval);
    }
    for format in [Format::Qemu, Format::QemuPackets] {
        let options = SaveOptions { format, auth: Some(auth()), ..SaveOptions::default() };
        let errors = [save(options), load(LoadOptions { format, ..loading() })];
        for error in errors {
            assert_eq!(error.code(), Code::Inval);
            assert!(error.message().contains("place for tags"), "{error}");
        }
    }
    let either = Auth { allow_unauthenticated: true, ..auth() };
    assert_eq!(save(SaveOptions { auth: Some(either), ..saving() }).code(), Code::Inval);
    // Nothing of it has touched the device.
    assert_eq!(side(small(1)).sim.state(), vfiomig_sim::State::RUNNING);
}

#[test]
fn a_key_that_is_not_there_is_refused_and_so_is_one_that_was_not_filled_in() {
    let source = side(small(1));
    let with = |key: fn(u32, &mut [u8; 32]) -> Result<(), Errno>| {
        let auth = Some(Auth::with_keys(7, key));
        source.device.save(SaveOptions { auth, ..saving() }).err().unwrap()
    };
    assert_eq!(with(|_, _| Ok(())).code(), Code::Perm);
    for (errno, code) in [
        (libc::ENOKEY, Code::Perm),
        (libc::ENOENT, Code::Perm),
        (libc::EKEYEXPIRED, Code::Perm),
        (libc::EPERM, Code::Perm),
    ] {
        let error = match errno {
            libc::ENOKEY => with(|_, _| Err(Errno(libc::ENOKEY))),
            libc::ENOENT => with(|_, _| Err(Errno(libc::ENOENT))),
            libc::EKEYEXPIRED => with(|_, _| Err(Errno(libc::EKEYEXPIRED))),
            _ => with(|_, _| Err(Errno(libc::EPERM))),
        };
        assert_eq!((error.code(), error.failure().unwrap().errno), (code, errno));
    }
    assert_eq!(with(|_, _| Err(Errno(libc::EBUSY))).code(), Code::Io);
    assert_eq!(source.sim.state(), vfiomig_sim::State::RUNNING);
}

#[test]
fn the_key_is_asked_for_once_per_stream_and_by_its_id() {
    let (send, asked) = std::sync::mpsc::channel();
    let source = move |id, key: &mut [u8; 32]| {
        send.send(id).unwrap();
        keys(id, key)
    };
    let made = stream(SaveOptions { auth: Some(Auth::with_keys(2, source.clone())), ..saving() });
    let options = LoadOptions { auth: Some(Auth::with_keys(1, source)), ..LoadOptions::default() };
    load(&made, options, &[50]).result.unwrap();
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn nothing_secret_is_printed() {
    let options = saving();
    let text = format!("{options:?} {:?}", Auth { challenge: Some(CHALLENGE), ..auth() });
    assert!(text.contains("key_id: 1") && text.contains("Keys(..)"), "{text}");
    assert!(!text.contains("97") && !text.contains("196"), "{text}");
}

fn with_state(seed: u64, state_size: u64) -> Side {
    side(vfiomig_sim::SimOptions { seed, state_size, ..small(seed) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_authentic_stream_survives_any_frames_and_any_split(
        state in 1u64..200_000,
        max_frame in 1000u32..140_000,
        buffers in proptest::collection::vec(4096usize..160_000, 1..4),
        pieces in proptest::collection::vec(1usize..90_000, 1..5),
        own_mac in any::<bool>(),
    ) {
        let auth = || if own_mac { own(None) } else { Some(auth()) };
        let drive = Drive {
            save: SaveOptions { max_frame, auth: auth(), ..saving() },
            load: LoadOptions { auth: auth(), ..LoadOptions::default() },
            buffers,
            pieces,
            ..Drive::default()
        };
        migrate(&with_state(1, state), &with_state(9, state), drive);
    }
}
