// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C API called in any order, as bytes say: with stale and invalid handles, structures of
//! impossible sizes, impossible lengths, and from within its own callbacks.
//!
//! Whatever is called: the result is in the closed set and never the one that stands for a panic,
//! nothing crashes or hangs, the driver is not asked for what no VMM may ask, callbacks are
//! released exactly once, and what is left open is closed when its handles are freed.
//!
//! The only promise that is kept here is that of `vfiomig.h`: a pointer is NULL or points to as
//! much memory as is said. Sizes beyond those of any structure are refused unread.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vfiomig::Code;
use vfiomig::capi::{device::*, dirty::*, error::*, fsm::*, load::*, qemu::*, save::*, version::*};
use vfiomig_sim::capi as sim;

use crate::input::Input;

/// Handles of one kind, including those that were freed.
#[derive(Default)]
struct Handles(Vec<usize>);

/// What a device's callbacks are called with.
struct Tag {
    sim: *mut c_void,
    releases: AtomicU32,
    /// How often it must have been released in the end.
    due: u32,
}

#[derive(Default)]
struct World {
    rest: Vec<u8>,
    handles: [Handles; 4],
    /// Freed, and so no longer anything.
    freed: Vec<(usize, usize)>,
    tags: Vec<*mut Tag>,
    /// Callbacks until one calls the library itself; 0: none does.
    reenter: u32,
    depth: u32,
    /// What the last saves gave.
    wire: Vec<u8>,
    wire_at: usize,
    /// Faults, quirks or odd states: what becomes of devices is not judged.
    disturbed: bool,
}

const DEVICE: usize = 0;
const SAVE: usize = 1;
const LOAD: usize = 2;
const DIRTY: usize = 3;

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Decides by the next bytes. Not across a call of the library: its callbacks decide too.
fn decide<T>(choose: impl FnOnce(&mut Input<'_>) -> T) -> T {
    WORLD.with_borrow_mut(|world| {
        let mut input = Input::new(&world.rest);
        let chosen = choose(&mut input);
        let left = input.all().len();
        let used = world.rest.len() - left;
        world.rest.drain(..used);
        chosen
    })
}

fn byte() -> u8 {
    decide(|input| input.u8())
}

/// What a function may return.
fn check(what: &str, ret: c_int) -> c_int {
    let code = Code::from_errno(ret.wrapping_neg());
    assert!(ret >= 0 || code.is_some(), "{what} returns {ret}");
    assert!(code != Some(Code::NotRecoverable), "{what}: a panic, or what it has left behind");
    ret
}

macro_rules! call {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        #[allow(unused_unsafe)]
        let ret = unsafe { $name($($arg),*) };
        check(stringify!($name), ret)
    }};
}

/// A structure in as much memory as any size that is not refused at once.
struct Laid(Vec<u64>);

impl Laid {
    fn new<T: Copy>(value: T) -> Laid {
        let mut memory = vec![0u64; (64 << 10) / 8 + 64];
        unsafe { memory.as_mut_ptr().cast::<T>().write_unaligned(value) };
        let exact = size_of::<T>() as u32;
        let (kind, number) = decide(|input| match input.u8() {
            250.. => (input.u8(), input.u32()),
            _ => (255, 0),
        });
        let size = match kind % 4 {
            _ if kind == 255 => exact,
            0 => number,
            1 => exact + 8 * (number % 100),
            2 => exact.wrapping_sub(1 + number % 8),
            _ => {
                memory[exact.div_ceil(8) as usize] = u64::from(number);
                exact + 16
            }
        };
        unsafe { memory.as_mut_ptr().cast::<u32>().write(size) };
        Laid(memory)
    }

    /// Whether its size is valid: then what it owns is taken over, whatever else is wrong with it.
    fn is_readable<T>(&self) -> bool {
        self.is_readable_from::<T>(size_of::<T>())
    }

    /// The same of a structure that has grown since its first release, when it had this size.
    fn is_readable_from<T>(&self, first: usize) -> bool {
        let size = self.0[0] as u32 as usize;
        (first..=64 << 10).contains(&size) && size % align_of::<T>() == 0
    }

    fn at<T>(&mut self) -> *mut T {
        self.0.as_mut_ptr().cast()
    }
}

/// Out structures and optional ones: now and then NULL.
fn out_of<T: Copy>() -> Option<Laid> {
    // Zeros are a value of all of them.
    (byte() < 250).then(|| Laid::new(unsafe { std::mem::zeroed::<T>() }))
}

fn pointer<T>(laid: &mut Option<Laid>) -> *mut T {
    laid.as_mut().map_or(null_mut(), Laid::at)
}

fn handle(kind: usize) -> usize {
    let (choice, which) = decide(|input| (input.u8(), input.u8()));
    WORLD.with_borrow(|world| {
        let of = |kind: usize, which: usize| {
            let handles = &world.handles[kind].0;
            if handles.is_empty() { 0 } else { handles[which % handles.len()] }
        };
        // Mostly the newest: calls on what was freed lead nowhere.
        match choice {
            0..200 => world.handles[kind].0.last().copied().unwrap_or(0),
            200..240 => of(kind, which.into()),
            240..248 => of(usize::from(choice) % 4, which.into()),
            248..252 => of(kind, which.into()) ^ 1 << (which % 64),
            _ => usize::from(which),
        }
    })
}

fn device() -> *mut vfiomig_device {
    std::ptr::without_provenance_mut(handle(DEVICE))
}

fn save() -> *mut vfiomig_save {
    std::ptr::without_provenance_mut(handle(SAVE))
}

fn load() -> *mut vfiomig_load {
    std::ptr::without_provenance_mut(handle(LOAD))
}

fn dirty_handle() -> *mut vfiomig_dirty {
    std::ptr::without_provenance_mut(handle(DIRTY))
}

/// Frees a handle. Outside of callbacks nobody can be using it: it is gone for good.
fn free(kind: usize, handle: usize) {
    match kind {
        DEVICE => vfiomig_device_free(std::ptr::without_provenance_mut(handle)),
        SAVE => vfiomig_save_free(std::ptr::without_provenance_mut(handle)),
        LOAD => vfiomig_load_free(std::ptr::without_provenance_mut(handle)),
        _ => vfiomig_dirty_free(std::ptr::without_provenance_mut(handle)),
    }
    WORLD.with_borrow_mut(|world| {
        if world.depth == 1 && world.handles[kind].0.contains(&handle) {
            world.freed.push((kind, handle));
        }
    });
}

/// An old handle leads nowhere, whatever its slot is used for now.
fn check_freed() {
    let freed = WORLD.with_borrow(|world| world.freed.clone());
    for (kind, handle) in freed {
        let mut word = 0u32;
        let ret = match kind {
            DEVICE => {
                let device = std::ptr::without_provenance_mut(handle);
                call!(vfiomig_device_get_fixups(device, &raw mut word))
            }
            SAVE => call!(vfiomig_save_cancel(std::ptr::without_provenance_mut(handle))),
            LOAD => call!(vfiomig_load_cancel(std::ptr::without_provenance_mut(handle))),
            _ => call!(vfiomig_dirty_cancel(std::ptr::without_provenance_mut(handle))),
        };
        assert_eq!(ret, -libc::EBADF, "a handle that was freed is one still");
    }
}

fn keep(kind: usize, ret: c_int, handle: usize) {
    assert_eq!(ret == 0, handle != 0, "a handle comes with success, and with nothing else");
    if ret == 0 {
        WORLD.with_borrow_mut(|world| world.handles[kind].0.push(handle));
    }
}

/// Any number; mostly one that makes sense.
fn number() -> u64 {
    decide(|input| match input.u8() {
        0..200 => u64::from(input.u8()),
        200..240 => u64::from(input.u16()) << 12,
        240..250 => input.u64(),
        250..253 => u64::MAX - u64::from(input.u8()),
        _ => 1 << 63,
    })
}

// Callbacks: now and then they call the library.

fn called_back() {
    let now = WORLD.with_borrow_mut(|world| {
        let now = world.reenter == 1 && world.depth < 3;
        world.reenter = world.reenter.saturating_sub(1);
        now
    });
    if now {
        step();
    }
}

fn tag<'a>(opaque: *mut c_void) -> &'a Tag {
    unsafe { &*opaque.cast::<Tag>() }
}

fn ops(tag: &Tag) -> &'static vfiomig_device_ops {
    unsafe { &*sim::vfiomig_sim_ops(tag.sim) }
}

unsafe extern "C" fn feature(at: *mut c_void, flags: u32, data: *mut c_void, len: usize) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).feature.unwrap()(tag.sim, flags, data, len) }
}

unsafe extern "C" fn reset(at: *mut c_void) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).reset.unwrap()(tag.sim) }
}

unsafe extern "C" fn data_read(at: *mut c_void, fd: c_int, buf: *mut c_void, len: usize) -> i64 {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_read.unwrap()(tag.sim, fd, buf, len) }
}

unsafe extern "C" fn data_write(at: *mut c_void, fd: c_int, buf: *const c_void, len: usize) -> i64 {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_write.unwrap()(tag.sim, fd, buf, len) }
}

unsafe extern "C" fn precopy_info(
    at: *mut c_void,
    fd: c_int,
    info: *mut vfiomig_precopy_info,
) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_precopy_info.unwrap()(tag.sim, fd, info) }
}

unsafe extern "C" fn data_close(at: *mut c_void, fd: c_int) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_close.unwrap()(tag.sim, fd) }
}

unsafe extern "C" fn poll_fd(at: *mut c_void, fd: c_int) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_poll_fd.unwrap()(tag.sim, fd) }
}

unsafe extern "C" fn nonblocking(at: *mut c_void, fd: c_int) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).data_set_nonblocking.unwrap()(tag.sim, fd) }
}

unsafe extern "C" fn identity(at: *mut c_void, out: *mut vfiomig_identity) -> c_int {
    called_back();
    let tag = tag(at);
    unsafe { ops(tag).identity.unwrap()(tag.sim, out) }
}

unsafe extern "C" fn released(at: *mut c_void) {
    called_back();
    tag(at).releases.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn event(_: *mut c_void, _: *const vfiomig_event) {
    called_back();
}

unsafe extern "C" fn blob(_: *mut c_void, _: u32, data: *const c_void, len: usize) -> c_int {
    assert!(!data.is_null() || len == 0);
    called_back();
    answer()
}

unsafe extern "C" fn policy(
    _: *mut c_void,
    _: *const vfiomig_identity,
    _: *const vfiomig_identity,
) -> c_int {
    called_back();
    answer()
}

unsafe extern "C" fn set_dirty(
    _: *mut c_void,
    _: u64,
    _: u64,
    page_size: u64,
    bitmap: *const u64,
    num_bits: u64,
) -> c_int {
    assert!(page_size.is_power_of_two() && num_bits > 0 && !bitmap.is_null());
    // All of it must be there.
    let words = unsafe { std::slice::from_raw_parts(bitmap, num_bits.div_ceil(64) as usize) };
    assert!(words.iter().any(|word| *word != 0), "nothing is dirty, and it is said");
    called_back();
    answer()
}

unsafe extern "C" fn translate(
    _: *mut c_void,
    iova: u64,
    size: u64,
    place: *mut vfiomig_place,
) -> c_int {
    called_back();
    let (cookie, size) = decide(|input| match input.u8() {
        0..240 => (u64::from(input.u8()), size.min(PAGE << (input.u8() % 4))),
        _ => (input.u64(), input.u64()),
    });
    unsafe {
        (*place).cookie = cookie;
        (*place).offset = iova & !(PAGE - 1);
        (*place).size = size;
    }
    answer()
}

unsafe extern "C" fn mem_read(
    _: *mut c_void,
    _: u64,
    _: u64,
    buf: *mut c_void,
    len: usize,
) -> c_int {
    unsafe { buf.cast::<u8>().write_bytes(7, len) };
    called_back();
    answer()
}

unsafe extern "C" fn mem_write(
    _: *mut c_void,
    _: u64,
    _: u64,
    buf: *const c_void,
    len: usize,
) -> c_int {
    let bytes = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), len) };
    assert!(bytes.iter().all(|byte| *byte == 9));
    called_back();
    answer()
}

unsafe extern "C" fn enumerate(
    _: *mut c_void,
    add: vfiomig_mapping_fn,
    context: *mut c_void,
) -> c_int {
    called_back();
    for _ in 0..byte() % 4 {
        let mut mapping = mapping();
        let ret = unsafe { add.unwrap()(context, mapping.at()) };
        if ret < 0 {
            return check("add", ret);
        }
    }
    answer()
}

unsafe extern "C" fn unmap(_: *mut c_void, _: u64, _: u64) -> c_int {
    called_back();
    answer()
}

unsafe extern "C" fn tracker_start(_: *mut c_void) -> c_int {
    called_back();
    answer()
}

unsafe extern "C" fn tracker_sync(
    _: *mut c_void,
    _: u64,
    length: u64,
    page_size: u64,
    bitmap: *mut u64,
    num_words: usize,
) -> c_int {
    assert!(length.div_ceil(page_size).div_ceil(64) <= num_words as u64);
    called_back();
    // Also bits that mean nothing.
    unsafe { *bitmap |= decide(|input| input.u64()) };
    answer()
}

/// 0, or an errno, or a number that is not one.
fn answer() -> c_int {
    match byte() {
        0..248 => 0,
        odd => [-libc::EIO, -libc::EINTR, -libc::EBUSY, 1, c_int::MIN, -libc::ENOMEM, -4096, -7]
            [usize::from(odd - 248)],
    }
}

// What is called.

const PAGE: u64 = 4096;
/// Memory of the guest's.
const RAM: usize = 64 << 10;

fn new_tag(sim: *mut c_void) -> *mut Tag {
    let tag = Box::into_raw(Box::new(Tag { sim, releases: AtomicU32::new(0), due: 0 }));
    WORLD.with_borrow_mut(|world| world.tags.push(tag));
    tag
}

fn owes_release(tag: *mut Tag, owes: bool) {
    unsafe { (*tag).due += u32::from(owes) };
}

fn new_device() {
    let mut options: sim::vfiomig_sim_options = unsafe { std::mem::zeroed() };
    options.struct_size = size_of::<sim::vfiomig_sim_options>() as u32;
    let disturbed = decide(|input| {
        options.migration_flags = input.pick(&[7, 7, 3, 1, 5, vfiomig_sim::NO_MIGRATION]);
        options.state_size = input.within(1..3000);
        options.seed = input.u8().into();
        if input.rarely(4) {
            options.quirks = u64::from(input.u32()) & ((1 << 25) - 1);
        }
        if input.rarely(8) {
            options.initial_state = u32::from(input.u8()) % 8;
        }
        options.quirks != 0 || options.initial_state != 0
    });
    let mut made = null_mut();
    if unsafe { sim::vfiomig_sim_new(&raw const options, &raw mut made) } < 0 {
        return;
    }
    WORLD.with_borrow_mut(|world| world.disturbed |= disturbed);
    let tag = new_tag(made);
    let mut table = Laid::new(vfiomig_device_ops {
        struct_size: 0,
        reserved: 0,
        feature: Some(feature),
        reset: Some(reset),
        data_read: Some(data_read),
        data_write: Some(data_write),
        data_precopy_info: Some(precopy_info),
        data_close: Some(data_close),
        data_poll_fd: Some(poll_fd),
        data_set_nonblocking: Some(nonblocking),
        region_read: None,
        identity: Some(identity),
        release: Some(released),
        device_info: None,
        region_info: None,
        region_write: None,
    });
    let mut options = out_of::<vfiomig_device_options>();
    let owner = new_tag(made);
    if let Some(options) = &mut options {
        let to = options.at::<vfiomig_device_options>();
        unsafe {
            (*to).event = Some(event);
            (*to).event_opaque = owner.cast();
            (*to).event_release = Some(released);
        }
    }
    // If a size is invalid, nothing of the structure is taken over.
    let first = std::mem::offset_of!(vfiomig_device_ops, device_info);
    owes_release(tag, table.is_readable_from::<vfiomig_device_ops>(first));
    owes_release(owner, options.as_ref().is_some_and(Laid::is_readable::<vfiomig_device_options>));
    let mut out = null_mut();
    let options = pointer(&mut options);
    let ret = call!(vfiomig_device_new_ops(table.at(), tag.cast(), options, &raw mut out));
    keep(DEVICE, ret, out.addr());
}

fn device_call() {
    let device = device();
    let mut word = 0u32;
    match byte() % 12 {
        0 => drop(call!(vfiomig_device_get_caps(device, pointer(&mut out_of::<vfiomig_caps>())))),
        1 => {
            let mut out = out_of::<vfiomig_reason>();
            call!(vfiomig_device_get_reason(device, byte().into(), pointer(&mut out)));
        }
        2 => {
            let mut out = out_of::<vfiomig_identity>();
            call!(vfiomig_device_get_identity(device, pointer(&mut out)));
        }
        3 => drop(call!(vfiomig_device_get_state(device, &raw mut word))),
        4 | 5 => drop(call!(vfiomig_device_set_state(device, u32::from(byte()) % 9))),
        6 => drop(call!(vfiomig_device_run(device))),
        7 => drop(call!(vfiomig_device_reset(device))),
        8 => drop(call!(vfiomig_device_notify_reset(device))),
        9 => drop(call!(vfiomig_device_get_fixups(device, &raw mut word))),
        10 => {
            let mut out = out_of::<vfiomig_failure>();
            call!(vfiomig_device_get_failure(device, pointer(&mut out)));
        }
        _ => free(DEVICE, device.addr()),
    }
}

fn save_begin() {
    let device = device();
    let mut options = out_of::<vfiomig_save_options>();
    if let Some(options) = &mut options {
        let to = options.at::<vfiomig_save_options>();
        decide(|input| unsafe {
            (*to).flags = u32::from(input.pick(&[0u8, 0, 1, 2, 4, 8, 255]));
            (*to).format = u32::from(input.u8() % 8 == 7) + u32::from(input.flag());
            (*to).max_frame = if input.flag() { input.u16().into() } else { 0 };
        });
    }
    let mut out = null_mut();
    let ret = call!(vfiomig_save_begin(device, pointer(&mut options), &raw mut out));
    keep(SAVE, ret, out.addr());
}

fn save_next() {
    let save = save();
    let mut buf = vec![0u8; 8192];
    let mut len = usize::MAX;
    for _ in 0..=byte() % 16 {
        let (cap, to) = decide(|input| match input.u8() {
            0..240 => (8192, buf.as_mut_ptr()),
            240..246 => (usize::from(input.u16()) % 8192, buf.as_mut_ptr()),
            246..252 => (usize::MAX - usize::from(input.u8()), buf.as_mut_ptr()),
            _ => (8192, null_mut()),
        });
        let ret = call!(vfiomig_save_next(save, to.cast(), cap, &raw mut len));
        if ret < 0 {
            return;
        }
        assert!(len <= cap);
        WORLD.with_borrow_mut(|world| world.wire.extend_from_slice(&buf[..len]));
        if ret != VFIOMIG_NEXT_MORE {
            return;
        }
    }
}

fn save_call() {
    let save = save();
    match byte() % 12 {
        0 | 1 => save_next(),
        2 => {
            let bytes = decide(|input| input.bytes().to_vec());
            let len = if byte() < 250 { bytes.len() } else { usize::MAX };
            call!(vfiomig_save_add_blob(save, u32::from(byte()) % 4, bytes.as_ptr().cast(), len));
        }
        3 => {
            let mut out = out_of::<vfiomig_pending>();
            call!(vfiomig_save_get_pending(save, pointer(&mut out)));
        }
        4 => drop(call!(vfiomig_save_get_poll_fd(save))),
        5 => drop(call!(vfiomig_save_quiesce(save))),
        6 => drop(call!(vfiomig_save_stop(save))),
        7 => drop(call!(vfiomig_save_finish(save, u32::from(byte()) % 6))),
        8 => drop(call!(vfiomig_save_cancel(save))),
        9 => {
            let mut out = out_of::<vfiomig_save_stats>();
            call!(vfiomig_save_get_stats(save, pointer(&mut out)));
        }
        10 => {
            let mut out = out_of::<vfiomig_failure>();
            call!(vfiomig_save_get_failure(save, pointer(&mut out)));
        }
        _ => free(SAVE, save.addr()),
    }
}

fn load_begin() {
    let device = device();
    let mut options = out_of::<vfiomig_load_options>();
    let owners = [new_tag(null_mut()), new_tag(null_mut())];
    if let Some(options) = &mut options {
        let to = options.at::<vfiomig_load_options>();
        decide(|input| unsafe {
            (*to).format = u32::from(input.u8() % 8 == 7) + u32::from(input.flag());
            (*to).flags = u32::from(input.pick(&[0u8, 0, 4, 4, 1, 2, 255]));
            (*to).write_timeout_ms = 2;
            (*to).max_queued = if input.flag() { input.u16().into() } else { 0 };
            (*to).ignore = u32::from(input.u8()) % 64;
            if input.u8() < 200 {
                (*to).blob = Some(blob);
            }
            (*to).blob_opaque = owners[0].cast();
            (*to).blob_release = Some(released);
            if input.rarely(4) {
                (*to).policy = Some(policy);
            }
            (*to).policy_opaque = owners[1].cast();
            (*to).policy_release = Some(released);
        });
        let owes = options.is_readable_from::<vfiomig_load_options>(std::mem::offset_of!(
            vfiomig_load_options,
            source
        ));
        owners.iter().for_each(|owner| owes_release(*owner, owes));
    }
    let mut out = null_mut();
    let ret = call!(vfiomig_load_begin(device, pointer(&mut options), &raw mut out));
    keep(LOAD, ret, out.addr());
}

/// Some of what a save returned, or noise.
fn some_bytes() -> Vec<u8> {
    let (choice, len) = decide(|input| (input.u8(), usize::from(input.u16())));
    if choice >= 220 {
        return decide(|input| input.bytes().to_vec());
    }
    WORLD.with_borrow_mut(|world| {
        if choice >= 200 {
            world.wire_at = 0;
        }
        let len = if choice < 128 { usize::MAX } else { len };
        let rest = world.wire.get(world.wire_at..).unwrap_or_default();
        let piece = rest[..len.min(rest.len())].to_vec();
        world.wire_at += piece.len();
        piece
    })
}

fn load_space(load: *mut vfiomig_load) {
    let (mut space, mut len) = (null_mut(), 0);
    if call!(vfiomig_load_get_space(load, &raw mut space, &raw mut len)) < 0 {
        return;
    }
    let bytes = some_bytes();
    let n = bytes.len().min(len);
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), space.cast(), n) };
    let said = if byte() < 250 { n } else { decide(|input| input.u64()) as usize };
    // Bytes that were not written are the caller's own fault, but they are bytes.
    call!(vfiomig_load_push_received(load, said.min(len.max(n)) | (said & !0xffff)));
}

/// Waits for packets that nobody brings: someone else ends it.
fn load_run(load: *mut vfiomig_load) {
    let address = load.addr();
    std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while wait.recv_timeout(Duration::from_millis(2)).is_err() {
                let load: *mut vfiomig_load = std::ptr::without_provenance_mut(address);
                call!(vfiomig_load_cancel(load));
            }
        });
        call!(vfiomig_load_write_packets(load));
        let _ = done.send(());
    });
}

fn load_call() {
    let load = load();
    match byte() % 12 {
        0..4 => {
            let bytes = some_bytes();
            let (len, from) = match byte() {
                0..250 => (bytes.len(), bytes.as_ptr()),
                250..253 => (usize::MAX, bytes.as_ptr()),
                _ => (bytes.len(), null()),
            };
            call!(vfiomig_load_push(load, from.cast(), len));
        }
        4 => load_space(load),
        5 => drop(call!(vfiomig_load_commit(load))),
        6 => {
            let bytes = some_bytes();
            call!(vfiomig_load_push_packet(load, bytes.as_ptr().cast(), bytes.len()));
        }
        7 => load_run(load),
        8 => drop(call!(vfiomig_load_cancel(load))),
        9 => {
            let mut out = out_of::<vfiomig_identity>();
            call!(vfiomig_load_get_source_identity(load, pointer(&mut out)));
            let mut out = out_of::<vfiomig_load_stats>();
            call!(vfiomig_load_get_stats(load, pointer(&mut out)));
        }
        10 => {
            let mut out = out_of::<vfiomig_failure>();
            call!(vfiomig_load_get_failure(load, pointer(&mut out)));
        }
        _ => free(LOAD, load.addr()),
    }
}

fn dirty_new() {
    let owner = new_tag(null_mut());
    let has = decide(|input| input.u8());
    let mut ops: vfiomig_memory_ops = unsafe { std::mem::zeroed() };
    if has & 1 != 0 {
        ops.enumerate = Some(enumerate);
    }
    if has & 14 != 0 {
        ops.set_dirty = Some(set_dirty);
        ops.translate = Some(translate);
    }
    if has & 112 != 0 {
        ops.read = Some(mem_read);
        ops.write = Some(mem_write);
    }
    ops.release = Some(released);
    let mut ops = Laid::new(ops);
    owes_release(owner, ops.is_readable::<vfiomig_memory_ops>());
    let mut options = out_of::<vfiomig_dirty_options>();
    if let Some(options) = &mut options {
        let to = options.at::<vfiomig_dirty_options>();
        unsafe { (*to).buffer_bytes = if byte() < 200 { 4096 } else { number() as u32 & 0xffff } };
        unsafe { (*to).page_size = if byte() < 240 { PAGE } else { number() } };
    }
    let mut out = null_mut();
    let ret = call!(vfiomig_dirty_new(ops.at(), owner.cast(), pointer(&mut options), &raw mut out));
    keep(DIRTY, ret, out.addr());
}

/// Places that overlap now and then, up to the end of the addresses.
fn place() -> (u64, u64) {
    decide(|input| {
        let page = u64::from(input.u8()) * PAGE;
        let from = input.pick(&[0, 0, 1 << 39, 0u64.wrapping_sub(256 * PAGE), 123]);
        (page.wrapping_add(from), (1 + u64::from(input.u8()) % 32) * PAGE)
    })
}

fn mapping() -> Laid {
    let (iova, size) = place();
    let mut mapping: vfiomig_mapping = unsafe { std::mem::zeroed() };
    mapping.iova = iova;
    // Impossible sizes, or sizes with which a reading ends in this century.
    mapping.size = if byte() < 245 { size } else { u64::MAX << 50 | number() };
    mapping.flags = u32::from(decide(|input| input.pick(&[0u8, 0, 0, 1, 2, 4, 3, 255])));
    mapping.cookie = byte().into();
    mapping.offset = u64::from(byte()) * PAGE;
    if size <= RAM as u64 && mapping.size == size && byte() < 128 {
        mapping.host = ram();
    }
    Laid::new(mapping)
}

/// Memory of the guest's, all of it 9.
fn ram() -> *mut c_void {
    thread_local!(static RAM_: RefCell<Vec<u64>> =
        RefCell::new(vec![0x0909_0909_0909_0909; RAM / 8]));
    RAM_.with_borrow_mut(|ram| ram.as_mut_ptr().cast())
}

fn add_writer() {
    let dirty = dirty_handle();
    let owner = new_tag(null_mut());
    let mut tracker: vfiomig_tracker_ops = unsafe { std::mem::zeroed() };
    tracker.page_size = decide(|input| input.pick(&[PAGE, PAGE, 512, 65536, 0, 3, 1 << 40]));
    tracker.sync = (byte() < 250).then_some(tracker_sync);
    tracker.start = (byte() < 128).then_some(tracker_start);
    tracker.stop = tracker.start;
    tracker.release = Some(released);
    let mut tracker = Laid::new(tracker);
    let mut writer: vfiomig_dirty_writer = unsafe { std::mem::zeroed() };
    writer.flags = u32::from(byte() & 0x3f);
    writer.device = device();
    writer.tracker = tracker.at();
    writer.tracker_opaque = owner.cast();
    // Not a file descriptor of this process.
    writer.iommufd = -1 - c_int::from(byte() % 2);
    writer.container_fd = 1 << 29;
    writer.hwpt_id = byte().into();
    let mut writer = Laid::new(writer);
    let taken = writer.is_readable::<vfiomig_dirty_writer>()
        && tracker.is_readable::<vfiomig_tracker_ops>()
        && unsafe { (*writer.at::<vfiomig_dirty_writer>()).flags } & VFIOMIG_WRITER_CUSTOM != 0;
    owes_release(owner, taken);
    let mut out = 0;
    call!(vfiomig_dirty_add_writer(dirty, writer.at(), &raw mut out));
}

fn dirty_unmap(dirty: *mut vfiomig_dirty) {
    let (iova, size) = if byte() < 250 { place() } else { (number(), number()) };
    let mut words = [0u64; 64];
    let callback = (byte() < 250).then_some(unmap as unsafe extern "C" fn(_, _, _) -> _);
    if byte() < 128 {
        call!(vfiomig_dirty_unmap(dirty, iova, size, 0, null_mut(), 0, callback, null_mut()));
    } else {
        let page = decide(|input| input.pick(&[PAGE, 512, 65536, 3]));
        let at = words.as_mut_ptr();
        call!(vfiomig_dirty_unmap(dirty, iova, size, page, at, 64, callback, null_mut()));
    }
}

fn dirty_sync(dirty: *mut vfiomig_dirty) {
    let (iova, length) = if byte() < 250 { place() } else { (number(), number()) };
    let page = decide(|input| input.pick(&[PAGE, PAGE, 512, 65536, 1 << 21, 3]));
    let mut words = [0u64; 64];
    let num = if byte() < 250 { 64 } else { usize::from(byte()) % 64 };
    call!(vfiomig_dirty_sync(dirty, iova, length, page, words.as_mut_ptr(), num));
    assert!(words[num..].iter().all(|word| *word == 0));
}

fn dirty_call() {
    let dirty = dirty_handle();
    match byte() % 18 {
        0 => add_writer(),
        1 => drop(call!(vfiomig_dirty_remove_writer(dirty, u32::from(byte()) % 8))),
        2..5 => drop(call!(vfiomig_dirty_map(dirty, mapping().at()))),
        5 => dirty_unmap(dirty),
        6 => drop(call!(vfiomig_dirty_start(dirty))),
        7 => drop(call!(vfiomig_dirty_stop(dirty))),
        8 => drop(call!(vfiomig_dirty_collect(dirty))),
        9 => dirty_sync(dirty),
        10 => drop(call!(vfiomig_dirty_rearm(dirty))),
        11 => drop(call!(vfiomig_dirty_cancel(dirty))),
        12 => {
            let (iova, length) = if byte() < 200 { place() } else { (number(), number()) };
            call!(vfiomig_dirty_mark(dirty, iova.wrapping_add(byte().into()), length));
        }
        13 => {
            let mut buf = [9u8; 4096];
            let len = usize::from(decide(|input| input.u16())) % 4096;
            let iova = place().0.wrapping_add(byte().into());
            call!(vfiomig_dirty_dma_write(dirty, iova, buf.as_ptr().cast(), len));
            call!(vfiomig_dirty_dma_read(dirty, iova, buf.as_mut_ptr().cast(), len));
        }
        14 => {
            let mut out = out_of::<vfiomig_dirty_stats>();
            call!(vfiomig_dirty_get_stats(dirty, pointer(&mut out)));
            let mut out = out_of::<vfiomig_dirty_round>();
            call!(vfiomig_dirty_get_round(dirty, byte().into(), pointer(&mut out)));
        }
        15 => {
            let mut out = out_of::<vfiomig_dirty_writer_stats>();
            call!(vfiomig_dirty_get_writer_stats(dirty, byte().into(), pointer(&mut out)));
        }
        16 => {
            let mut out = out_of::<vfiomig_dirty_error>();
            call!(vfiomig_dirty_get_error(dirty, byte().into(), pointer(&mut out)));
        }
        _ => free(DIRTY, dirty.addr()),
    }
}

/// What the device and its guest do by themselves.
fn disturb() {
    let (which, what) = decide(|input| (usize::from(input.u8()), input.u8()));
    let found = WORLD.with_borrow_mut(|world| {
        let sims: Vec<*mut c_void> = world
            .tags
            .iter()
            .map(|tag| unsafe { (**tag).sim })
            .filter(|sim| !sim.is_null())
            .collect();
        world.disturbed |= what % 6 == 0;
        (!sims.is_empty()).then(|| sims[which % sims.len()])
    });
    let Some(at) = found else { return };
    match what % 6 {
        0 => {
            let (op, nth, errno, effect) =
                decide(|input| (input.u8() % 12, 1 + input.u8() % 16, input.u8(), input.u8() % 6));
            let errno = c_int::from(errno % 130 + 1);
            unsafe { sim::vfiomig_sim_inject(at, op.into(), nth.into(), errno, effect.into()) };
        }
        1 => unsafe { sim::vfiomig_sim_guest_reset(at) },
        2 => drop(unsafe { sim::vfiomig_sim_guest_write(at, 0, 1, number()) }),
        3 => unsafe { sim::vfiomig_sim_reinit(at) },
        4 => drop(unsafe { sim::vfiomig_sim_dma_write(at, place().0, 1) }),
        _ => unsafe { sim::vfiomig_sim_clear_faults(at) },
    }
}

fn small_things() {
    let _ = (vfiomig_version(), vfiomig_version_string(), vfiomig_state_name(byte().into()));
    assert!(!vfiomig_error_message().is_null());
    assert!(!vfiomig_error_describe(decide(|input| input.u32()) as c_int).is_null());
    let (flags, from, to) = decide(|input| (input.u8(), input.u8(), input.u8()));
    let mut path = out_of::<vfiomig_path>();
    call!(vfiomig_fsm_path(flags.into(), from.into(), to.into(), pointer(&mut path)));
    let mut options = out_of::<vfiomig_device_options>();
    let mut out = null_mut();
    let fd = if byte() & 1 == 0 { -1 } else { 1 << 29 };
    let ret = call!(vfiomig_device_new_fd(fd, pointer(&mut options), &raw mut out));
    keep(DEVICE, ret, out.addr());
}

fn step() {
    WORLD.with_borrow_mut(|world| world.depth += 1);
    match byte() % 32 {
        0 | 1 => new_device(),
        2 | 3 => device_call(),
        4 | 5 => save_begin(),
        6..11 => save_call(),
        11..13 => load_begin(),
        13..18 => load_call(),
        18 => dirty_new(),
        19..28 => dirty_call(),
        28 => disturb(),
        29 | 30 => {
            let after = u32::from(byte()) % 24;
            WORLD.with_borrow_mut(|world| world.reenter = after);
        }
        _ => small_things(),
    }
    WORLD.with_borrow_mut(|world| world.depth -= 1);
}

pub fn run(bytes: &[u8]) {
    WORLD.set(World { rest: bytes.to_vec(), ..World::default() });
    while WORLD.with_borrow(|world| !world.rest.is_empty()) {
        step();
    }
    WORLD.with_borrow_mut(|world| world.reenter = 0);
    check_freed();
    let handles = WORLD.with_borrow_mut(|world| std::mem::take(&mut world.handles));
    let [devices, saves, loads, trackings] = handles.map(|handles| handles.0);
    // In an order other than that in which they were made, and each a second time.
    for _ in 0..2 {
        devices.iter().for_each(|at| vfiomig_device_free(std::ptr::without_provenance_mut(*at)));
        saves.iter().for_each(|at| vfiomig_save_free(std::ptr::without_provenance_mut(*at)));
        trackings.iter().for_each(|at| vfiomig_dirty_free(std::ptr::without_provenance_mut(*at)));
        loads.iter().for_each(|at| vfiomig_load_free(std::ptr::without_provenance_mut(*at)));
    }
    let world = WORLD.take();
    let mut sims: Vec<*mut c_void> = Vec::new();
    for tag in world.tags {
        let Tag { sim, releases, due } = *unsafe { Box::from_raw(tag) };
        assert_eq!(releases.into_inner(), due, "callbacks are released exactly once");
        if !sim.is_null() && !sims.contains(&sim) {
            sims.push(sim);
        }
    }
    sims.into_iter().for_each(|at| check_device(at, world.disturbed));
}

fn check_device(at: *mut c_void, disturbed: bool) {
    let mut what = null();
    let violations = unsafe { sim::vfiomig_sim_violations(at, &raw mut what) };
    if violations > 0 {
        panic!("{:?}", unsafe { std::ffi::CStr::from_ptr(what) });
    }
    assert_eq!(unsafe { sim::vfiomig_sim_open_streams(at) }, 0, "a stream is left open");
    let state = unsafe { sim::vfiomig_sim_state(at) };
    let at_rest = [VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING_P2P];
    assert!(disturbed || at_rest.contains(&state), "a device is left in {state}");
    unsafe { sim::vfiomig_sim_free(at) };
}
