// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys and the contents of streams: not in memory that has been freed, not in core dumps, not in
//! logs.
//!
//! An allocator looks at every block that the library frees, for what must not be there. Blobs and
//! QEMU's configuration stand for a device's state: they go the same ways, but no simulated device
//! has copies of them.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{side, small};
use vfiomig::Result;
use vfiomig::error::Errno;
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::stream::{Auth, DecodeLimits, Decoder, Encoder, Format, FrameType, Read, qemu};

/// What must not be found, as it is nowhere in this program: each byte inverted.
const SECRETS: usize = 4;
const LEN: usize = 24;
static NEEDLES: Mutex<[[u8; LEN]; SECRETS]> = Mutex::new([[0; LEN]; SECRETS]);
thread_local! {
    /// Whether this thread is inside the library. Other tests have the same secrets.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// Blocks that this thread has allocated.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}
/// Freed blocks that had a secret in them, by secret, and blocks looked at.
static FOUND: [AtomicUsize; SECRETS] = [const { AtomicUsize::new(0) }; SECRETS];
static SEEN: AtomicUsize = AtomicUsize::new(0);
/// A copy of the inverted needles, for the allocator, which takes no lock.
static mut INVERTED: [[u8; LEN]; SECRETS] = [[0; LEN]; SECRETS];

struct Watching;

/// Looks through a block that is about to go.
///
/// # Safety
/// `block` has `len` bytes.
unsafe fn look(block: *const u8, len: usize) {
    SEEN.fetch_add(1, SeqCst);
    // SAFETY: nobody writes to it while ARMED is set.
    let needles = unsafe { INVERTED };
    for at in 0..len.saturating_sub(LEN - 1) {
        // SAFETY: within the block. Volatile, because some of it may never have been written to.
        let first = unsafe { block.add(at).read_volatile() };
        for (which, needle) in needles.iter().enumerate() {
            if first == !needle[0] && needle[0] != 0 {
                let same = (1..LEN).all(|i| {
                    // SAFETY: within the block: LEN bytes from `at` on.
                    let byte = unsafe { block.add(at + i).read_volatile() };
                    byte == !needle[i]
                });
                if same {
                    FOUND[which].fetch_add(1, SeqCst);
                }
            }
        }
    }
}

// SAFETY: the system's allocator, which also looks at what it is given back.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if ARMED.get() {
            // SAFETY: a block of this layout.
            unsafe { look(ptr, layout.size()) };
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }

    // realloc() is alloc, copy and dealloc by default, so that nothing is freed unseen.
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// One test at a time has secrets.
fn alone() -> MutexGuard<'static, [[u8; LEN]; SECRETS]> {
    NEEDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call` with these secrets; how many freed blocks had each.
fn leaks(secrets: &[&[u8]], call: impl FnOnce()) -> [usize; SECRETS] {
    let mut inverted = alone();
    *inverted = [[0; LEN]; SECRETS];
    for (slot, secret) in inverted.iter_mut().zip(secrets) {
        *slot = std::array::from_fn(|i| !secret[i]);
    }
    // SAFETY: not armed, and one test at a time.
    unsafe { INVERTED = *inverted };
    FOUND.iter().for_each(|found| found.store(0, SeqCst));
    SEEN.store(0, SeqCst);
    ARMED.set(true);
    call();
    ARMED.set(false);
    assert!(SEEN.load(SeqCst) > 0, "nothing was freed");
    std::array::from_fn(|which| FOUND[which].load(SeqCst))
}

/// The caller's key, by which nobody can be surprised.
fn key() -> [u8; 32] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(37) ^ 0x5b)
}

/// Memory that is never freed: whoever allocates it next must not find a secret of this program's own
/// in it.
fn kept(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

/// What a VMM or a device has, of any length; other contents for each `seed`.
fn contents(seed: u64, len: usize) -> &'static [u8] {
    let byte = |i: u64| {
        let mixed = ((seed << 40) + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8 | 1
    };
    kept((0..len as u64).map(byte).collect())
}

fn auth() -> Auth {
    Auth::with_keys(1, |_, to| {
        *to = key();
        Ok(())
    })
}

/// The stream's own key, as docs/stream-format.md derives it, from the stream's beginning.
fn key_of(stream: &[u8]) -> [u8; 32] {
    let context = "libvfiomig 2026-11-30 native stream from source to target";
    let of_direction = blake3::derive_key(context, &key());
    *blake3::keyed_hash(&of_direction, &stream[..40 + 96]).as_bytes()
}

/// A stream with one blob.
fn save(blob: &[u8], auth: Option<Auth>) -> &'static [u8] {
    let source = side(small(1));
    let options = SaveOptions { auth, ..SaveOptions::default() };
    let mut save = source.device.save(options).unwrap();
    save.blob(7, blob).unwrap();
    let buffer: &'static mut [u8] = Box::leak(vec![0; blob.len() + 4096].into_boxed_slice());
    let mut stream = Vec::with_capacity(blob.len() + 400_000);
    loop {
        let next = save.next(buffer).unwrap();
        stream.extend_from_slice(&buffer[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::Drained => save.stop().unwrap(),
            SaveStatus::End => break,
        }
    }
    save.finish(Ending::Keep).unwrap();
    drop(save);
    assert!(stream.capacity() > stream.len());
    stream.leak()
}

fn load(stream: &[u8], auth: Option<Auth>, piece: usize) -> Result<()> {
    let target = side(small(9));
    let blobs: vfiomig::session::BlobSink = Box::new(|_, _| Ok(()));
    let options = LoadOptions { auth, blobs: Some(blobs), ..LoadOptions::default() };
    let mut load = target.device.load(options)?;
    for piece in stream.chunks(piece) {
        load.push(piece)?;
    }
    load.commit()
}

#[test]
fn a_saves_keys_and_blobs_are_wiped_before_their_memory_is_freed() {
    for len in [100, 5000, 700_000] {
        let blob = contents(len as u64, len);
        let found = leaks(&[&key(), &blob[40..]], || {
            save(blob, Some(auth()));
        });
        assert_eq!(found, [0; SECRETS], "blob of {len} bytes");
    }
}

#[test]
fn a_loads_keys_and_buffers_are_wiped_before_their_memory_is_freed() {
    let blob = contents(1, 700_000);
    let stream = save(blob, Some(auth()));
    let own = key_of(stream);
    for piece in [1000, 70_000, usize::MAX] {
        let found = leaks(&[&key(), &own, &blob[400_000..], &blob[64..]], || {
            load(stream, Some(auth()), piece).unwrap();
        });
        assert_eq!(found, [0; SECRETS], "in pieces of {piece}");
        // The same for a load that fails in the middle.
        let found = leaks(&[&key(), &own, &blob[300_000..], &blob[64..]], || {
            load(&stream[..stream.len() / 2], Some(auth()), piece).unwrap_err();
        });
        assert_eq!(found, [0; SECRETS], "cut off, in pieces of {piece}");
    }
}

#[test]
fn a_key_is_wiped_though_its_stream_is_refused() {
    let stream = save(contents(2, 50), Some(auth()));
    let own = key_of(stream);
    let mut bad = stream.to_vec();
    bad[300] ^= 1;
    let found = leaks(&[&key(), &own], || drop(load(&bad, Some(auth()), 1000).unwrap_err()));
    assert_eq!(found, [0; SECRETS]);
}

/// The allocator does look: a program that does not wipe is found out.
#[test]
fn memory_that_is_not_wiped_is_noticed() {
    let secret = contents(3, 1000);
    let found = leaks(&[&secret[200..]], || drop(std::hint::black_box(secret.to_vec())));
    assert_eq!(found[0], 1);
}

fn configuration(idx: u32, bytes: &[u8]) -> &'static [u8] {
    let mut packet = Vec::with_capacity(bytes.len() + 100);
    packet.extend_from_slice(&qemu::packet_head(idx, true));
    packet.extend_from_slice(&qemu::CONFIG_STATE.to_be_bytes());
    packet.extend_from_slice(bytes);
    packet.extend_from_slice(&qemu::END_OF_STATE.to_be_bytes());
    packet.leak()
}

#[test]
fn packets_are_wiped_before_their_memory_is_freed() {
    let secret = contents(4, 600_000);
    let (first, waiting) = (configuration(0, secret), configuration(1, secret));
    let setup = [qemu::SETUP_STATE, qemu::END_OF_STATE].map(u64::to_be_bytes).concat();
    let target = side(small(9));
    let begin = || {
        let options = LoadOptions {
            format: Format::QemuPackets,
            blobs: Some(Box::new(|_, _| Ok(()))),
            ..LoadOptions::default()
        };
        target.device.load(options).unwrap()
    };
    let found = leaks(&[&secret[300_000..], secret], || {
        // One that is written, and one that never gets its turn.
        let mut load = begin();
        load.push(&setup).unwrap();
        load.packets().unwrap().submit(first).unwrap();
        load.packets().unwrap().run().unwrap();
        drop(load);
        let load = begin();
        load.packets().unwrap().submit(waiting).unwrap();
        drop(load);
    });
    assert_eq!(found, [0; SECRETS]);
}

/// Nothing is allocated per frame, on either side, however many there are.
#[test]
fn tags_need_no_memory_of_their_own() {
    let _alone = alone();
    let mut encoder = Encoder::authenticated([1; 16], 0, auth(), [2; 32]).unwrap();
    let mut decoder = Decoder::authenticated(DecodeLimits::default(), auth()).unwrap();
    let mut buf = vec![0; 70_000];
    let mut pass = |encoder: &mut Encoder, kind: Option<FrameType>, payload: &[u8]| {
        let len = match kind {
            None => encoder.preamble(&mut buf).unwrap(),
            Some(kind) => encoder.frame(&mut buf, kind, &[payload]).unwrap(),
        };
        // In two pieces, so that frames are put together here.
        for mut piece in buf[..len].chunks(len / 2 + 1) {
            while decoder.next(&mut piece).unwrap().is_some() {}
        }
    };
    pass(&mut encoder, None, &[]);
    pass(&mut encoder, Some(FrameType::Identity), &[]);
    pass(&mut encoder, Some(FrameType::Data), &[7; 60_000]);
    let before = ALLOCATED.get();
    for number in 0..200 {
        pass(&mut encoder, Some(FrameType::Data), &[number; 60_000]);
    }
    assert_eq!(ALLOCATED.get(), before);
}

/// What the kernel says of the memory at an address: the flags of its mapping.
fn flags_of(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here = false;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let number = |hex: &str| usize::from_str_radix(hex, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) {
            here = (start..end).contains(&address);
        }
        if here && line.starts_with("VmFlags:") {
            return line.to_owned();
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

#[test]
fn what_is_received_is_left_out_of_core_dumps() {
    let _alone = alone();
    // From now on, malloc keeps large blocks that are freed, for the next who asks.
    drop(std::hint::black_box(vec![1u8; 8 << 20]));
    let mut decoder = Decoder::new(DecodeLimits::default());
    let space = decoder.space().unwrap();
    let middle = space.as_ptr() as usize + space.len() / 2;
    assert!(flags_of(middle).contains(" dd"), "{}", flags_of(middle));
    let ours = Box::new(1u8);
    assert!(!flags_of(&raw const *ours as usize).contains(" dd"));
    // Who gets the memory next may be dumped: whatever is mapped there, if anything, says nothing.
    drop(decoder);
    let again: Vec<Vec<u8>> = (0..8).map(|_| vec![1; 900_000]).collect();
    for memory in &again {
        let flags = flags_of(memory.as_ptr() as usize + memory.len() / 2);
        assert!(!flags.contains(" dd"), "{flags}");
    }
}

static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        use std::fmt::Write;
        let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(logged, "{} {} {}", record.level(), record.target(), record.args()).unwrap();
    }

    fn flush(&self) {}
}

/// A secret as it might be printed.
fn printed(secret: &[u8]) -> [String; 4] {
    let hex = |width: &str| -> String {
        let byte = |b: &u8| if width == "02X" { format!("{b:02X}") } else { format!("{b:02x}") };
        secret.iter().map(byte).collect()
    };
    let list = format!("{secret:?}");
    let list = list.trim_matches(['[', ']']).to_owned();
    [hex("02x"), hex("02X"), list, String::from_utf8_lossy(secret).into_owned()]
}

#[test]
fn neither_keys_nor_contents_are_logged_or_told() {
    let _alone = alone();
    // The only test that logs; others may add to it what they like.
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let blob = contents(5, 3000);
    let stream = save(blob, Some(auth()));
    load(stream, Some(auth()), 100).unwrap();
    let mut told = String::new();
    for at in (0..stream.len()).step_by(13) {
        let mut bad = stream.to_vec();
        bad[at] ^= 4;
        let error = load(&bad, Some(auth()), 1000).unwrap_err();
        told += &format!("{error} {error:?}\n");
    }
    let refusing = LoadOptions {
        blobs: Some(Box::new(|_, _| Err(Errno(libc::EIO)))),
        ..LoadOptions::default()
    };
    told += &format!("{:?}", LoadOptions { auth: Some(auth()), ..refusing }.auth);
    told += &LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(told.contains("INFO") || told.contains("DEBUG") || told.contains("WARN"), "{told}");
    let own = key_of(stream);
    for secret in [&key()[..8], &own[..8], &blob[..8], &blob[2000..2008]] {
        for text in printed(secret) {
            assert!(!told.contains(&text), "{text}");
        }
    }
}
