// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tap on the table of callbacks: counts whatever the library asks of a simulated device, and lets
//! one call fail.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use vfiomig::Device;
use vfiomig::device::DeviceOptions;
use vfiomig::transport::{
    OpsTransport, vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info,
};
use vfiomig_sim::{Effect, Op, Sim};

use super::table::Asked;

/// Which device was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum At {
    Source,
    Target,
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With this errno, and nothing is done.
    Errno(i32),
    /// A change that stops half way, with this errno.
    Half(i32),
    /// The device goes to ERROR by itself.
    Error,
    /// The device is gone: this and whatever follows is ENODEV.
    Dies,
    /// One byte is read, or taken.
    Short,
    /// Nothing is read or taken, and it is no error.
    Nothing,
    /// More is said to have been read or taken than there was.
    TooMuch,
    /// The change is not made, and said to be.
    Ignored,
    /// The process is killed before the call, or after it.
    KilledBefore,
    KilledAfter,
}

/// The calls from `nth` on, counted from 1 over both devices: that one fails, and with `lasts` so do
/// all later ones of the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strike {
    pub nth: usize,
    pub fault: Fault,
    pub lasts: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub at: At,
    pub asked: Asked,
}

#[derive(Default)]
struct Now {
    calls: Vec<Call>,
    strikes: Vec<Strike>,
    struck: Vec<(Call, Fault)>,
    dead: [bool; 2],
    /// A write failed, and no reset was made since.
    poisoned: [bool; 2],
    released: [u32; 2],
    wrong: Option<&'static str>,
}

/// What both devices of a run share.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<Now>>);

/// What a call is to do.
enum Do {
    Pass,
    Short,
    Say(i64),
    TooMuch,
}

impl Tap {
    pub fn new(strikes: &[Strike]) -> Tap {
        let tap = Tap::default();
        tap.lock().strikes = strikes.to_vec();
        tap
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    pub fn struck(&self) -> Vec<(Call, Fault)> {
        self.lock().struck.clone()
    }

    pub fn released(&self) -> [u32; 2] {
        self.lock().released
    }

    /// What the library did that no VMM may do.
    pub fn wrong(&self) -> Option<&'static str> {
        self.lock().wrong
    }

    /// Nothing fails from now on, and what was gone is back.
    pub fn calm(&self) {
        let mut now = self.lock();
        now.strikes.clear();
        now.dead = [false; 2];
    }

    /// The device behind this tap.
    pub fn device(&self, at: At, sim: &Sim) -> Device {
        let behind = Box::new(Behind { tap: self.clone(), at, sim: sim.clone() });
        let opaque = Box::into_raw(behind).cast::<c_void>();
        // SAFETY: the callbacks take any thread and keep to the memory that they are given, and
        // `release` frees what they use.
        let transport = unsafe { OpsTransport::new(OPS, opaque) };
        let transport = transport.with_patience(Duration::from_millis(5));
        Device::new(transport, DeviceOptions::default()).unwrap()
    }
}

struct Behind {
    tap: Tap,
    at: At,
    sim: Sim,
}

/// What the simulator calls the operation, if it counts it.
fn op_of(asked: Asked) -> Option<Op> {
    Some(match asked {
        Asked::GetState => Op::GetState,
        Asked::SetState => Op::SetState,
        Asked::Read => Op::Read,
        Asked::Write => Op::Write,
        Asked::PrecopyInfo => Op::PrecopyInfo,
        Asked::GetSize => Op::DataSize,
        Asked::Reset => Op::Reset,
        _ => return None,
    })
}

impl Behind {
    /// Counts a call, and says what becomes of it.
    fn before(&self, asked: Asked) -> Do {
        let (mut now, at) = (self.tap.lock(), self.at as usize);
        let call = Call { at: self.at, asked };
        now.calls.push(call);
        let nth = now.calls.len();
        if now.poisoned[at] && matches!(asked, Asked::Write | Asked::SetState) {
            now.wrong = Some("a write or a change after a write that failed");
        }
        if now.dead[at] {
            return Do::Say(-i64::from(libc::ENODEV));
        }
        let due = now.strikes.iter().find(|strike| {
            let later = strike.lasts && nth > strike.nth;
            nth == strike.nth || (later && now.struck.first().is_some_and(|(c, _)| *c == call))
        });
        let Some(fault) = due.map(|strike| strike.fault) else {
            return Do::Pass;
        };
        now.struck.push((call, fault));
        self.strike(&mut now, call, fault)
    }

    fn strike(&self, now: &mut Now, call: Call, fault: Fault) -> Do {
        let inject = |errno, effect| {
            self.sim.inject(op_of(call.asked).unwrap(), 1, errno, effect);
            Do::Pass
        };
        match fault {
            Fault::Errno(errno) => {
                let harmless = matches!(errno, libc::EAGAIN | libc::EINTR);
                now.poisoned[self.at as usize] |= call.asked == Asked::Write && !harmless;
                Do::Say(-i64::from(errno))
            }
            Fault::Half(errno) => inject(errno, Effect::Half),
            Fault::Error => inject(libc::EIO, Effect::Error),
            Fault::Ignored => inject(libc::EIO, Effect::Ignored),
            Fault::Dies => {
                now.dead[self.at as usize] = true;
                Do::Say(-i64::from(libc::ENODEV))
            }
            Fault::Short => Do::Short,
            Fault::Nothing => {
                // A driver that takes nothing and gives no error is broken like one that fails.
                now.poisoned[self.at as usize] |= call.asked == Asked::Write;
                Do::Say(0)
            }
            Fault::TooMuch => {
                now.poisoned[self.at as usize] |= call.asked == Asked::Write;
                Do::TooMuch
            }
            Fault::KilledBefore => kill(),
            Fault::KilledAfter => Do::Pass,
        }
    }

    /// The call is over.
    fn after(&self, asked: Asked, result: i64) -> i64 {
        let mut now = self.tap.lock();
        let last = now.struck.last().map(|(_, fault)| *fault);
        if last == Some(Fault::KilledAfter) {
            kill();
        }
        if asked == Asked::Reset && result == 0 {
            now.poisoned[self.at as usize] = false;
        }
        result
    }

    /// A call that returns 0 or an errno.
    fn status(&self, asked: Asked, call: impl FnOnce() -> c_int) -> c_int {
        let result = match self.before(asked) {
            Do::Say(result) => result,
            _ => call().into(),
        };
        self.after(asked, result) as c_int
    }

    /// A call that returns how much of `len` it has dealt with.
    fn count(&self, asked: Asked, len: usize, call: impl FnOnce(usize) -> i64) -> i64 {
        let result = match self.before(asked) {
            Do::Say(result) => result,
            Do::Pass => call(len),
            Do::Short => call(len.min(1)),
            Do::TooMuch => {
                call(len);
                len as i64 + 1
            }
        };
        self.after(asked, result)
    }
}

fn kill() -> ! {
    // SAFETY: takes no pointers.
    unsafe { libc::raise(libc::SIGKILL) };
    std::process::abort();
}

/// What is behind a pointer, with the simulator's own table and pointer.
///
/// # Safety
/// `opaque` is that of `Tap::device`, and `release` has not been called.
unsafe fn behind<'a>(
    opaque: *mut c_void,
) -> (&'a Behind, &'static vfiomig_device_ops, *mut c_void) {
    // SAFETY: the caller's promise.
    let behind = unsafe { &*opaque.cast::<Behind>() };
    let (ops, sim) = behind.sim.table();
    (behind, ops, sim)
}

unsafe extern "C" fn feature(at: *mut c_void, flags: u32, data: *mut c_void, len: usize) -> c_int {
    // SAFETY: of the table, like all that follow; the simulator gets what it was given.
    let (behind, ops, sim) = unsafe { behind(at) };
    let asked = Asked::feature(flags).unwrap_or_else(|| panic!("feature {flags:#x}"));
    // SAFETY: as above.
    behind.status(asked, || unsafe { ops.feature.unwrap()(sim, flags, data, len) })
}

unsafe extern "C" fn reset(at: *mut c_void) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    behind.status(Asked::Reset, || unsafe { ops.reset.unwrap()(sim) })
}

unsafe extern "C" fn data_read(at: *mut c_void, fd: c_int, buf: *mut c_void, len: usize) -> i64 {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above; never more than `len`.
    behind.count(Asked::Read, len, |len| unsafe { ops.data_read.unwrap()(sim, fd, buf, len) })
}

unsafe extern "C" fn data_write(at: *mut c_void, fd: c_int, buf: *const c_void, len: usize) -> i64 {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above; never more than `len`.
    behind.count(Asked::Write, len, |len| unsafe { ops.data_write.unwrap()(sim, fd, buf, len) })
}

unsafe extern "C" fn data_precopy_info(
    at: *mut c_void,
    fd: c_int,
    info: *mut vfiomig_precopy_info,
) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    let call = || unsafe { ops.data_precopy_info.unwrap()(sim, fd, info) };
    behind.status(Asked::PrecopyInfo, call)
}

/// Whatever it says, it is closed: Linux closes an fd even where it returns an error.
unsafe extern "C" fn data_close(at: *mut c_void, fd: c_int) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    let closed = unsafe { ops.data_close.unwrap()(sim, fd) };
    behind.status(Asked::Close, || closed)
}

unsafe extern "C" fn data_poll_fd(at: *mut c_void, fd: c_int) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    behind.status(Asked::PollFd, || unsafe { ops.data_poll_fd.unwrap()(sim, fd) })
}

unsafe extern "C" fn data_set_nonblocking(at: *mut c_void, fd: c_int) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    let call = || unsafe { ops.data_set_nonblocking.unwrap()(sim, fd) };
    behind.status(Asked::Nonblocking, call)
}

unsafe extern "C" fn region_read(
    at: *mut c_void,
    _region: u32,
    _offset: u64,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    // SAFETY: as above.
    let (behind, ..) = unsafe { behind(at) };
    behind.count(Asked::RegionRead, len, |len| {
        // SAFETY: of the table: `len` bytes may be written.
        unsafe { buf.cast::<u8>().write_bytes(0x11, len) };
        len as i64
    })
}

unsafe extern "C" fn identity(at: *mut c_void, out: *mut vfiomig_identity) -> c_int {
    // SAFETY: as above.
    let (behind, ops, sim) = unsafe { behind(at) };
    // SAFETY: as above.
    behind.status(Asked::Identity, || unsafe { ops.identity.unwrap()(sim, out) })
}

unsafe extern "C" fn release(at: *mut c_void) {
    // SAFETY: `Tap::device` made this pointer, and this is called once.
    let behind = unsafe { Box::from_raw(at.cast::<Behind>()) };
    behind.tap.lock().released[behind.at as usize] += 1;
}

static OPS: vfiomig_device_ops = vfiomig_device_ops {
    struct_size: size_of::<vfiomig_device_ops>() as u32,
    reserved: 0,
    feature: Some(feature),
    reset: Some(reset),
    data_read: Some(data_read),
    data_write: Some(data_write),
    data_precopy_info: Some(data_precopy_info),
    data_close: Some(data_close),
    data_poll_fd: Some(data_poll_fd),
    data_set_nonblocking: Some(data_set_nonblocking),
    region_read: Some(region_read),
    identity: Some(identity),
    release: Some(release),
    device_info: None,
    region_info: None,
    region_write: None,
};
