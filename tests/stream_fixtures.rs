// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native stream against an independent implementation of docs/stream-format.md.
//!
//! `scripts/make-fixtures.py` knows the document and not this library. Its streams are read here,
//! whole and in pieces, and must lead to the items and errors that its manifest states. Those that
//! a writer of this library could have made are made again, byte for byte, and streams that are
//! written here are read by its reader.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vfiomig::device::{Identity, MigrationFlags};
use vfiomig::error::{Code, Errno};
use vfiomig::inspect::{Content, InspectOptions, Inspector, Tags, Verdict, What};
use vfiomig::stream::checkpoint::{
    Authenticity, HEAD_LEN, Manifest, Verifier, encode_head, encode_manifest, read_manifest,
};
use vfiomig::stream::{
    Auth, DecodeLimits, Decoder, Encoder, FrameType, Item, Read, encode_identity,
};

/// As much of JSON as the manifest needs.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Map(BTreeMap<String, Json>),
}

impl Json {
    fn parse(text: &str) -> Json {
        let mut rest = text;
        let value = Json::value(&mut rest);
        assert_eq!(rest.trim(), "");
        value
    }

    fn eat(rest: &mut &str, token: &str) -> bool {
        *rest = rest.trim_start();
        match rest.strip_prefix(token) {
            Some(after) => {
                *rest = after;
                true
            }
            None => false,
        }
    }

    fn string(rest: &mut &str) -> String {
        assert!(Json::eat(rest, "\""));
        let mut out = String::new();
        let mut chars = rest.char_indices();
        loop {
            match chars.next().unwrap() {
                (at, '"') => {
                    *rest = &rest[at + 1..];
                    return out;
                }
                (_, '\\') => match chars.next().unwrap().1 {
                    'u' => {
                        let hex: String = (0..4).map(|_| chars.next().unwrap().1).collect();
                        let code = u32::from_str_radix(&hex, 16).unwrap();
                        out.push(char::from_u32(code).unwrap());
                    }
                    plain @ ('"' | '\\' | '/') => out.push(plain),
                    other => panic!("\\{other} in the manifest"),
                },
                (_, plain) => out.push(plain),
            }
        }
    }

    fn value(rest: &mut &str) -> Json {
        if Json::eat(rest, "{") {
            let mut map = BTreeMap::new();
            while !Json::eat(rest, "}") {
                let key = Json::string(rest);
                assert!(Json::eat(rest, ":"));
                assert!(map.insert(key, Json::value(rest)).is_none());
                let _ = Json::eat(rest, ",");
            }
            return Json::Map(map);
        }
        if Json::eat(rest, "[") {
            let mut list = Vec::new();
            while !Json::eat(rest, "]") {
                list.push(Json::value(rest));
                let _ = Json::eat(rest, ",");
            }
            return Json::List(list);
        }
        if Json::eat(rest, "true") {
            return Json::Bool(true);
        }
        if Json::eat(rest, "false") {
            return Json::Bool(false);
        }
        if rest.starts_with('"') {
            return Json::Text(Json::string(rest));
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        *rest = after;
        Json::Number(digits.parse().unwrap())
    }

    fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Map(map) => map.get(key),
            other => panic!("{other:?} has no {key}"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Json::Text(text) => text,
            other => panic!("{other:?} is not a text"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Json::Number(number) => *number,
            other => panic!("{other:?} is not a number"),
        }
    }

    fn list(&self) -> &[Json] {
        match self {
            Json::List(list) => list,
            other => panic!("{other:?} is not a list"),
        }
    }

    fn hex(&self) -> Vec<u8> {
        let text = self.text();
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }
}

/// An item, owned.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Owned {
    Identity(Box<Identity>),
    Data(Vec<u8>),
    Initial(u32),
    Blob(u32, Vec<u8>),
    Restart,
    End,
}

fn own(item: Item<'_>) -> Owned {
    match item {
        Item::Identity(identity) => Owned::Identity(identity),
        Item::Data(bytes) => Owned::Data(bytes.to_vec()),
        Item::InitialComplete(generation) => Owned::Initial(generation),
        Item::Blob { kind, bytes } => Owned::Blob(kind, bytes.to_vec()),
        Item::Restart(_) => Owned::Restart,
        Item::End => Owned::End,
        other => panic!("{other:?} does not belong to this format"),
    }
}

fn expected_identity(fields: &Json) -> Identity {
    let text = |key: &str| fields.get(key).map_or("", Json::text).to_owned();
    let mut pci = [0u16; 4];
    for (id, value) in pci.iter_mut().zip(fields.get("pci").map_or(&[][..], Json::list)) {
        *id = value.number().try_into().unwrap();
    }
    let number = |key: &str| fields.get(key).map_or(0, Json::number);
    Identity {
        bus: text("bus"),
        driver: text("driver"),
        pci,
        pci_revision: number("pci_revision").try_into().unwrap(),
        mdev_type: text("mdev_type"),
        kernel_release: text("kernel_release"),
        migration_flags: MigrationFlags::from_bits_retain(number("migration_flags")),
        state_size: match fields.get("state_size") {
            Some(hex) => u64::from_str_radix(hex.text(), 16).unwrap(),
            None => 0,
        },
        vendor_data: fields.get("vendor_data").map(Json::hex).unwrap_or_default(),
        vendor_type: text("vendor_type"),
        driver_version: text("driver_version"),
        driver_srcversion: text("driver_srcversion"),
        firmware: text("firmware"),
        protocol: number("protocol").try_into().unwrap(),
    }
}

fn expected_item(json: &Json) -> Owned {
    if let Some(fields) = json.get("identity") {
        return Owned::Identity(Box::new(expected_identity(fields)));
    }
    if let Some(bytes) = json.get("data") {
        return Owned::Data(bytes.hex());
    }
    if let Some(generation) = json.get("initial_complete") {
        return Owned::Initial(generation.number().try_into().unwrap());
    }
    if let Some(bytes) = json.get("blob") {
        let kind = json.get("kind").unwrap().number().try_into().unwrap();
        return Owned::Blob(kind, bytes.hex());
    }
    if json.get("restart").is_some() {
        return Owned::Restart;
    }
    assert!(json.get("end").is_some(), "{json:?}");
    Owned::End
}

struct Fixture {
    name: String,
    bytes: Vec<u8>,
    migration_id: [u8; 16],
    device: u32,
    encode: bool,
    limits: DecodeLimits,
    /// What the reader verifies streams with.
    auth: Option<Json>,
    /// What the writer authenticates its stream with.
    made_with: Option<Json>,
    items: Vec<Owned>,
    result: String,
}

/// Keys by their ids, in hex.
fn with_keys(key_id: u32, keys: BTreeMap<String, Json>, challenge: Option<&Json>) -> Auth {
    let auth = Auth::with_keys(key_id, move |id, to: &mut [u8; 32]| {
        let key = keys.get(&id.to_string()).ok_or(Errno(libc::ENOKEY))?;
        to.copy_from_slice(&key.hex());
        Ok(())
    });
    Auth { challenge: challenge.map(|hex| hex.hex().try_into().unwrap()), ..auth }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn directory() -> PathBuf {
    root().join("tests/fixtures")
}

fn fixtures() -> Vec<Fixture> {
    let manifest = std::fs::read_to_string(directory().join("manifest.json")).unwrap();
    let manifest = Json::parse(&manifest);
    let fixture = |row: &Json| {
        let name = row.get("file").unwrap().text().to_owned();
        let mut limits = DecodeLimits::default();
        let Some(Json::Map(changed)) = row.get("limits") else { panic!("{name}: no limits") };
        for (key, value) in changed {
            match key.as_str() {
                "max_blobs" => limits.max_blobs = value.number().try_into().unwrap(),
                "max_total" => limits.max_total = value.number(),
                other => panic!("{name}: limit {other}"),
            }
        }
        Fixture {
            bytes: std::fs::read(directory().join(&name)).unwrap(),
            migration_id: row.get("migration_id").unwrap().hex().try_into().unwrap(),
            device: row.get("device").unwrap().number().try_into().unwrap(),
            encode: row.get("encode") == Some(&Json::Bool(true)),
            limits,
            auth: row.get("auth").cloned(),
            made_with: row.get("made_with").cloned(),
            items: row.get("items").unwrap().list().iter().map(expected_item).collect(),
            result: row.get("result").unwrap().text().to_owned(),
            name,
        }
    };
    manifest.get("fixtures").unwrap().list().iter().map(fixture).collect()
}

/// Reads a stream that comes in these pieces: what was passed on, and `END`, an error's name, or
/// `ENODATA` if the end never came.
fn read<'a>(decoder: Decoder, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Owned>, String) {
    let mut decoder = decoder;
    let mut items = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(item)) => items.push(own(item)),
                Ok(None) => {
                    assert!(piece.is_empty(), "not all of the input was taken");
                    break;
                }
                Err(error) => {
                    // An error is final.
                    let again = decoder.next(&mut [].as_slice());
                    assert_eq!(again.unwrap_err().code(), error.code());
                    assert!(!decoder.ended());
                    return (items, error.code().name().to_owned());
                }
            }
        }
    }
    let result = if decoder.ended() { "END" } else { "ENODATA" };
    (items, result.to_owned())
}

/// The same, received into the decoder's own memory: at most `step` bytes at once.
fn receive(decoder: Decoder, bytes: &[u8], step: usize) -> (Vec<Owned>, String) {
    let mut decoder = decoder;
    let mut items = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = match decoder.space() {
            Ok(space) => space,
            Err(error) => return (items, error.code().name().to_owned()),
        };
        let n = space.len().min(step).min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        decoder.received(n).unwrap();
        loop {
            match decoder.next(&mut [].as_slice()) {
                Ok(Some(item)) => items.push(own(item)),
                Ok(None) => break,
                Err(error) => return (items, error.code().name().to_owned()),
            }
        }
    }
    (items, if decoder.ended() { "END" } else { "ENODATA" }.to_owned())
}

fn split_at<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut cuts = cuts.iter();
    let mut last = false;
    std::iter::from_fn(move || match cuts.next() {
        Some(cut) => {
            let (front, back) = rest.split_at((*cut).min(rest.len()));
            rest = back;
            Some(front)
        }
        None if last => None,
        None => {
            last = true;
            Some(rest)
        }
    })
}

impl Fixture {
    fn auth(&self) -> Option<Auth> {
        let auth = self.auth.as_ref()?;
        let Some(Json::Map(keys)) = auth.get("keys").cloned() else { panic!("{}", self.name) };
        let allow_unauthenticated = auth.get("allow").is_some();
        let auth = with_keys(0, keys, auth.get("challenge"));
        Some(Auth { allow_unauthenticated, ..auth })
    }

    fn decoder(&self) -> Decoder {
        match self.auth() {
            Some(auth) => Decoder::authenticated(self.limits, auth).unwrap(),
            None => Decoder::new(self.limits),
        }
    }

    fn encoder(&self) -> Encoder {
        let Some(with) = &self.made_with else {
            return Encoder::new(self.migration_id, self.device);
        };
        let key_id = with.get("key_id").unwrap().number();
        let keys = BTreeMap::from([(key_id.to_string(), with.get("key").unwrap().clone())]);
        let auth = with_keys(key_id.try_into().unwrap(), keys, with.get("challenge"));
        let nonce = with.get("nonce").unwrap().hex().try_into().unwrap();
        Encoder::authenticated(self.migration_id, self.device, auth, nonce).unwrap()
    }

    fn check<'a>(&self, how: &str, pieces: impl Iterator<Item = &'a [u8]>) {
        let (items, result) = read(self.decoder(), pieces);
        assert_eq!(result, self.result, "{} {how}: {items:?}", self.name);
        assert!(items == self.items, "{} {how}:\n{items:?}\nand not\n{:?}", self.name, self.items);
    }
}

#[test]
fn an_inspection_calls_whole_what_a_load_takes_and_says_as_much_before_the_first_problem() {
    for fixture in fixtures() {
        let options = InspectOptions { limits: fixture.limits, auth: fixture.auth() };
        let mut inspector = Inspector::new(options).unwrap();
        let (mut rest, mut items, mut right) = (&fixture.bytes[..], Vec::new(), true);
        while let Some(entry) = inspector.next(&mut rest).unwrap() {
            right &= entry.problem.is_none();
            let What::Frame(frame) = entry.what else { continue };
            items.extend(match frame.content {
                _ if !right => None,
                Content::Identity(identity) => Some(Owned::Identity(identity)),
                Content::Data => Some(Owned::Data(frame.payload.to_vec())),
                Content::InitialComplete(generation) => Some(Owned::Initial(generation)),
                Content::Blob { kind, bytes } => Some(Owned::Blob(kind, bytes.to_vec())),
                Content::Restart(_) => Some(Owned::Restart),
                Content::End { .. } => Some(Owned::End),
                _ => None,
            });
        }
        while inspector.finish().unwrap().is_some() {}
        let (name, report) = (&fixture.name, inspector.report());
        assert_eq!(report.verdict == Verdict::Whole, fixture.result == "END", "{name} {report:?}");
        let code = report.code.map_or("END", Code::name);
        if report.verdict != Verdict::Foreign {
            assert_eq!(code, fixture.result, "{name}");
        }
        // Without a key nothing is passed on, and an inspection goes on.
        if report.tags != Tags::NoKey {
            assert_eq!(items, fixture.items, "{name}");
        }
    }
}

#[test]
fn the_manifest_and_the_directory_name_the_same_files() {
    let mut named: Vec<String> = fixtures().into_iter().map(|fixture| fixture.name).collect();
    named.extend(exported().into_iter().map(|row| row.name));
    named.extend(checkpoints().into_iter().map(|row| row.name));
    named.push("manifest.json".to_owned());
    named.sort();
    let mut there: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, named);
    assert!(named.len() > 80, "{} fixtures only", named.len());
}

/// An identity by itself.
struct Exported {
    name: String,
    bytes: Vec<u8>,
    encode: bool,
    result: Result<Identity, String>,
}

fn exported() -> Vec<Exported> {
    let manifest = std::fs::read_to_string(directory().join("manifest.json")).unwrap();
    let row = |row: &Json| {
        let name = row.get("file").unwrap().text().to_owned();
        Exported {
            bytes: std::fs::read(directory().join(&name)).unwrap(),
            encode: row.get("encode") == Some(&Json::Bool(true)),
            result: match row.get("result").unwrap().text() {
                "END" => Ok(expected_identity(row.get("identity").unwrap())),
                error => Err(error.to_owned()),
            },
            name,
        }
    };
    Json::parse(&manifest).get("identities").unwrap().list().iter().map(row).collect()
}

#[test]
fn every_exported_identity_leads_to_what_its_manifest_says() {
    let rows = exported();
    for row in &rows {
        let read = Identity::from_bytes(&row.bytes).map_err(|error| error.code().name().to_owned());
        assert_eq!(read, row.result, "{}", row.name);
        if row.encode {
            assert_eq!(read.unwrap().to_bytes().unwrap(), row.bytes, "{}", row.name);
        }
    }
    assert!(rows.len() >= 18, "{} identities only", rows.len());
}

/// The file of a checkpoint.
struct Checkpoint {
    name: String,
    bytes: Vec<u8>,
    encode: bool,
    auth: Option<Json>,
    /// Its devices, or why it is refused.
    result: Result<Vec<Json>, String>,
}

fn checkpoints() -> Vec<Checkpoint> {
    let manifest = std::fs::read_to_string(directory().join("manifest.json")).unwrap();
    let row = |row: &Json| {
        let name = row.get("file").unwrap().text().to_owned();
        Checkpoint {
            bytes: std::fs::read(directory().join(&name)).unwrap(),
            encode: row.get("encode") == Some(&Json::Bool(true)),
            auth: row.get("auth").cloned(),
            result: match row.get("result").unwrap().text() {
                "END" => Ok(row.get("devices").unwrap().list().to_vec()),
                error => Err(error.to_owned()),
            },
            name,
        }
    };
    Json::parse(&manifest).get("checkpoints").unwrap().list().iter().map(row).collect()
}

impl Checkpoint {
    fn auth(&self) -> Option<Auth> {
        let auth = self.auth.as_ref()?;
        let Some(Json::Map(keys)) = auth.get("keys").cloned() else { panic!("{}", self.name) };
        let allow_unauthenticated = auth.get("allow").is_some();
        Some(Auth { allow_unauthenticated, ..with_keys(1, keys, None) })
    }

    fn open(&self) -> vfiomig::Result<Manifest> {
        let mut read = |at: u64, buf: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
            Ok(())
        };
        let len = self.bytes.len() as u64;
        match self.auth() {
            Some(mut auth) => read_manifest(len, &mut read, Authenticity::Verify(&mut auth)),
            None => read_manifest(len, &mut read, Authenticity::NoKey),
        }
    }

    /// Reads the stream of a device, in parts of this length.
    fn verify(&self, manifest: &Manifest, at: usize, part: usize) -> vfiomig::Result<()> {
        let entry = &manifest.devices[at];
        let mut verifier = Verifier::new(entry, DecodeLimits::default(), self.auth())?;
        for piece in &entry.pieces {
            let (from, len) = (piece.offset as usize, piece.len as usize);
            for bytes in self.bytes[from..from + len].chunks(part) {
                verifier.push(bytes)?;
            }
        }
        assert_eq!(verifier.came(), entry.stream_len());
        verifier.finish()
    }
}

#[test]
fn every_checkpoint_holds_what_its_manifest_says_and_is_made_again() {
    for row in checkpoints() {
        let name = &row.name;
        let opened = row.open();
        let devices = match (&opened, &row.result) {
            (Ok(_), Ok(devices)) => devices,
            (Err(error), Err(wanted)) => {
                assert_eq!(error.code().name(), wanted, "{name}: {error}");
                continue;
            }
            other => panic!("{name}: {other:?}"),
        };
        let manifest = opened.unwrap();
        assert_eq!(manifest.devices.len(), devices.len(), "{name}");
        for (at, (entry, wanted)) in manifest.devices.iter().zip(devices).enumerate() {
            let number = |key| wanted.get(key).unwrap().number();
            assert_eq!(entry.name, wanted.get("name").unwrap().text(), "{name}");
            assert_eq!(u64::from(entry.device), number("device"), "{name}");
            assert_eq!(entry.migration_id[..], wanted.get("migration_id").unwrap().hex(), "{name}");
            assert_eq!(entry.end.data_bytes, number("bytes"), "{name}");
            assert_eq!(entry.pieces.len() as u64, number("pieces"), "{name}");
            for part in [usize::MAX, 1, 31, 32, 33] {
                let verdict = match row.verify(&manifest, at, part) {
                    Ok(()) => "END".to_owned(),
                    Err(error) => error.code().name().to_owned(),
                };
                assert_eq!(verdict, wanted.get("stream").unwrap().text(), "{name} by {part}");
            }
        }
        if row.encode {
            let mut auth = row.auth();
            let head = encode_head(manifest.id, auth.is_some());
            assert_eq!(row.bytes[..HEAD_LEN], head, "{name}");
            let last = manifest.devices.iter().flat_map(|entry| &entry.pieces);
            let offset = last.map(|piece| piece.offset + piece.len).max().unwrap();
            let tail = encode_manifest(&manifest, offset, auth.as_mut()).unwrap();
            assert_eq!(row.bytes[offset as usize..], tail, "{name}");
        }
    }
}

#[test]
fn a_checkpoint_of_which_anything_is_missing_or_changed_is_never_taken() {
    let row = checkpoints().into_iter().find(|row| row.name == "checkpoint-two.bin").unwrap();
    let whole = row.open().unwrap();
    let end = row.bytes.len();
    for cut in 0..end {
        let bytes = row.bytes[..cut].to_vec();
        assert!(Checkpoint { bytes, ..row_of(&row) }.open().is_err());
    }
    let covered = |at: usize| {
        let piece = |p: &vfiomig::stream::checkpoint::Piece| {
            (p.offset..p.offset + p.len).contains(&(at as u64))
        };
        whole.devices.iter().any(|entry| entry.pieces.iter().any(piece))
    };
    let last = whole.devices.iter().flat_map(|entry| &entry.pieces).map(|p| p.offset + p.len).max();
    for at in (0..end).filter(|at| *at < HEAD_LEN || covered(*at) || *at as u64 >= last.unwrap()) {
        let mut bytes = row.bytes.clone();
        bytes[at] ^= 0x10;
        let changed = Checkpoint { bytes, ..row_of(&row) };
        let taken = changed.open().and_then(|manifest| {
            (0..manifest.devices.len()).try_for_each(|at| changed.verify(&manifest, at, 4096))
        });
        assert!(taken.is_err(), "a changed byte at {at}");
    }
}

fn row_of(row: &Checkpoint) -> Checkpoint {
    Checkpoint {
        name: row.name.clone(),
        bytes: Vec::new(),
        encode: row.encode,
        auth: row.auth.clone(),
        result: row.result.clone(),
    }
}

#[test]
fn every_fixture_leads_to_what_its_manifest_says_however_it_is_split() {
    for fixture in fixtures() {
        fixture.check("whole", std::iter::once(fixture.bytes.as_slice()));
        fixture.check("byte by byte", fixture.bytes.chunks(1));
        for size in [3, 28, 32, 40, 41, 333] {
            fixture.check(&format!("in pieces of {size}"), fixture.bytes.chunks(size));
        }
        for step in [usize::MAX, 1, 7, 32, 100] {
            let (items, result) = receive(fixture.decoder(), &fixture.bytes, step);
            assert_eq!(result, fixture.result, "{} received by {step}", fixture.name);
            assert!(items == fixture.items, "{} received by {step}: {items:?}", fixture.name);
        }
        if fixture.bytes.len() < 1000 {
            for cut in 0..=fixture.bytes.len() {
                fixture.check(&format!("cut at {cut}"), split_at(&fixture.bytes, &[cut]));
            }
        }
    }
}

#[test]
fn every_fixture_survives_random_splits() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(40));
    for fixture in fixtures() {
        runner
            .run(&proptest::collection::vec(0usize..120, 0..60), |cuts| {
                fixture.check(&format!("split {cuts:?}"), split_at(&fixture.bytes, &cuts));
                Ok(())
            })
            .unwrap();
    }
}

/// Writes a stream with the library.
fn write(encoder: Encoder, items: &[Owned]) -> Vec<u8> {
    let mut encoder = encoder;
    let mut buf = vec![0u8; 64 << 10];
    let n = encoder.preamble(&mut buf).unwrap();
    let mut out = buf[..n].to_vec();
    let mut restarts = 0u32;
    for item in items {
        let n = match item {
            Owned::Identity(identity) => {
                encoder.frame(&mut buf, FrameType::Identity, &[&encode_identity(identity)])
            }
            Owned::Data(bytes) => encoder.frame(&mut buf, FrameType::Data, &[bytes]),
            Owned::Initial(generation) => {
                let mark = generation.to_le_bytes();
                encoder.frame(&mut buf, FrameType::InitialComplete, &[&mark, &[0; 4]])
            }
            Owned::Blob(kind, bytes) => {
                encoder.frame(&mut buf, FrameType::Blob, &[&kind.to_le_bytes(), &[0; 4], bytes])
            }
            Owned::Restart => {
                restarts += 1;
                encoder.frame(&mut buf, FrameType::Restart, &[&restarts.to_le_bytes(), &[0; 4]])
            }
            Owned::End => encoder.end(&mut buf),
        };
        out.extend_from_slice(&buf[..n.unwrap()]);
    }
    out
}

#[test]
fn the_librarys_writer_makes_the_same_bytes_as_the_document() {
    let mut made = 0;
    for fixture in fixtures().into_iter().filter(|fixture| fixture.encode) {
        let ours = write(fixture.encoder(), &fixture.items);
        let differs = ours.iter().zip(&fixture.bytes).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}: first difference", fixture.name);
        assert_eq!(ours.len(), fixture.bytes.len(), "{}", fixture.name);
        made += 1;
    }
    assert!(made >= 10, "{made} fixtures only");
}

/// Two streams of the same shape whose payloads differ must not be able to lend each other an END
/// frame: the digest depends on what the frames carry, not on their number.
#[test]
fn the_digest_depends_on_every_payload() {
    let items = |last: &[u8]| {
        let identity = Identity { bus: "pci".into(), ..Identity::default() };
        let identity = Owned::Identity(Box::new(identity));
        vec![identity, Owned::Data(b"same".to_vec()), Owned::Data(last.to_vec()), Owned::End]
    };
    let (one, two) = (
        write(Encoder::new([9; 16], 0), &items(b"one")),
        write(Encoder::new([9; 16], 0), &items(b"two")),
    );
    let end = one.len() - 64;
    let spliced = [&one[..end], &two[end..]].concat();
    let (_, result) =
        read(Decoder::new(DecodeLimits::default()), std::iter::once(spliced.as_slice()));
    assert_eq!(result, "EPROTO");
}

#[test]
fn the_number_of_frames_without_data_is_limited() {
    let mut items = vec![Owned::Identity(Box::default())];
    // The identity is one such frame, END another.
    items.extend((1..65_535u32).map(Owned::Initial));
    items.push(Owned::End);
    let stream = write(Encoder::new([1; 16], 0), &items);
    let (_, result) =
        read(Decoder::new(DecodeLimits::default()), std::iter::once(stream.as_slice()));
    assert_eq!(result, "END");
    items.insert(1, Owned::Blob(1, vec![]));
    let stream = write(Encoder::new([1; 16], 0), &items);
    let (found, result) =
        read(Decoder::new(DecodeLimits::default()), std::iter::once(stream.as_slice()));
    assert_eq!((found.len(), result.as_str()), (65_536, "EMSGSIZE"));
}

/// Runs the script, if there is a Python; says so if there is none.
fn script(args: &[&std::ffi::OsStr]) -> Option<Output> {
    let out =
        Command::new("python3").arg(root().join("scripts/make-fixtures.py")).args(args).output();
    match out {
        Ok(out) => Some(out),
        Err(error) => {
            eprintln!("skipped: python3 does not start: {error}");
            None
        }
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("vfiomig-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_fixtures_are_what_the_script_makes() {
    let scratch = Scratch::new("fixtures");
    let Some(out) = script(&[scratch.0.as_os_str()]) else { return };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&scratch.0), names(&directory()));
    for name in names(&scratch.0) {
        let (new, old) = (scratch.0.join(&name), directory().join(&name));
        assert!(std::fs::read(new).unwrap() == std::fs::read(old).unwrap(), "{name:?} differs");
    }
}

#[test]
fn the_scripts_reader_takes_what_the_library_writes_and_refuses_it_when_it_is_damaged() {
    let scratch = Scratch::new("check");
    let file = scratch.0.join("stream.bin");
    let items = [
        Owned::Identity(Box::new(Identity {
            bus: "pci".into(),
            driver: "mtty".into(),
            pci: [0x4348, 0x3253, 1, 2],
            pci_revision: 3,
            mdev_type: "mtty-2".into(),
            kernel_release: "6.12".into(),
            migration_flags: MigrationFlags::all(),
            state_size: 96,
            vendor_data: vec![0, 255],
            vendor_type: "nvidia-1155".into(),
            driver_version: "0.1".into(),
            driver_srcversion: "533BB7E5866E52F63B9ACCB".into(),
            firmware: "1.2".into(),
            protocol: 2,
        })),
        Owned::Data(vec![1; 24]),
        Owned::Initial(1),
        Owned::Blob(5, b"void".to_vec()),
        Owned::Restart,
        Owned::Data((0..5000u32).map(|n| n as u8).collect()),
        Owned::Initial(2),
        Owned::Blob(5, b"config".to_vec()),
        Owned::Data(vec![7]),
        Owned::End,
    ];
    let key = "a7".repeat(32);
    let keys = BTreeMap::from([("1".to_owned(), Json::Text(key.clone()))]);
    let auth = with_keys(1, keys, None);
    let authenticated = Encoder::authenticated([0xa5; 16], 2, auth, [0x3e; 32]).unwrap();
    for (encoder, key) in [(authenticated, Some(&key)), (Encoder::new([0xa5; 16], 2), None)] {
        std::fs::write(&file, write(encoder, &items)).unwrap();
        let mut args = vec!["--check".as_ref(), file.as_os_str()];
        args.extend(key.map(std::ffi::OsStr::new));
        let Some(out) = script(&args) else { return };
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.pop(), Some("END"));
        let found: Vec<Owned> =
            lines.iter().map(|line| expected_item(&Json::parse(line))).collect();
        assert_eq!(found, items);
    }
    let stream = write(Encoder::new([0xa5; 16], 2), &items);
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        script(&["--check".as_ref(), file.as_os_str()])
    };

    for (at, want) in [(0, "EPROTO"), (30, "EBADMSG"), (100, "EBADMSG"), (3000, "EBADMSG")] {
        let mut bad = stream.clone();
        bad[at] ^= 1;
        let out = check(&bad).unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(String::from_utf8(out.stdout).unwrap().lines().last(), Some(want), "at {at}");
    }
    let out = check(&stream[..stream.len() - 1]).unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().lines().last(), Some("ENODATA"));
}

#[test]
fn the_documents_example_is_the_smallest_fixture() {
    let document = std::fs::read_to_string(root().join("docs/stream-format.md")).unwrap();
    let example = document.split("## An example").nth(1).unwrap().split("```").nth(1).unwrap();
    let mut bytes = Vec::new();
    for line in example.lines().filter(|line| !line.is_empty()) {
        let at: usize = line[..5].trim().parse().unwrap();
        assert_eq!(at, bytes.len(), "{line}");
        let hex = line.get(7..30).unwrap_or(&line[7..]);
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    assert!(bytes == std::fs::read(directory().join("minimal.bin")).unwrap());
}
