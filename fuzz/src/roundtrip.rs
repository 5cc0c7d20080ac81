// SPDX-License-Identifier: MIT OR Apache-2.0
//! Save, change the stream, load: in every format, with drivers' quirks, and with operations that
//! fail on either side.
//!
//! A load that says it is committed has the state that the source had when it was stopped, and
//! nothing else. If anything went wrong, the target is empty and running, or reported as lost. The
//! source that is kept still has what it had, or it is reported that it does not.

use std::time::Duration;

use crate::input::Input;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::error::{Code, Errno, Error, Outcome};
use vfiomig::session::{Ending, Load, LoadOptions, Save, SaveOptions, SaveStatus};
use vfiomig::stream::Format;
use vfiomig::{Device, Result};
use vfiomig_sim::{Effect, Kind, Op, Sim, SimOptions, quirk};

const ERRNOS: [i32; 8] = [
    libc::EIO,
    libc::EINVAL,
    libc::ENODEV,
    libc::EAGAIN,
    libc::ENOTCONN,
    libc::EFAULT,
    libc::EBUSY,
    libc::EINTR,
];

/// How long a driver may take nothing, or answer EINTR. Short, because nothing here is slow by itself.
const PATIENCE: Duration = Duration::from_millis(2);

struct Side {
    sim: Sim,
    device: Device,
    quirks: u64,
    faults: Vec<(Op, Effect)>,
}

impl Side {
    fn new(input: &mut Input<'_>, options: SimOptions) -> Side {
        let quirks = if input.rarely(4) { u64::from(input.u32()) & ((1 << 25) - 1) } else { 0 };
        let quirks = quirks | options.quirks;
        let sim = Sim::new(SimOptions { quirks, ..options }).expect("a device");
        let transport = sim.transport().with_patience(PATIENCE);
        let device = Device::new(transport, DeviceOptions::default()).expect("a handle");
        // Most work: where everything fails at once, nothing is noticed.
        let faults = (0..input.pick(&[0, 0, 0, 0, 0, 1, 1, 3])).map(|_| {
            let (op, effect) = (input.pick(&Op::ALL), input.pick(&Effect::ALL));
            sim.inject(op, input.within(1..25), input.pick(&ERRNOS), effect);
            (op, effect)
        });
        let faults = faults.collect();
        Side { sim, device, quirks, faults }
    }

    fn has(&self, quirk: u64) -> bool {
        self.quirks & quirk != 0
    }

    /// Whether it is possible that no reset of the library succeeds, or is noticed.
    fn beyond_help(&self) -> bool {
        self.has(quirk::NO_RESET | quirk::STATE_UNREADABLE)
            || self.faults.iter().any(|(op, effect)| {
                *effect == Effect::Die
                    || matches!(op, Op::Any | Op::Reset | Op::GetState | Op::SetState)
            })
    }

    /// Whether the guest may reset the device in the one moment that nobody can see: between the
    /// last check and a change of state.
    fn reset_unseen(&self) -> bool {
        self.faults.iter().any(|(_, effect)| *effect == Effect::Reset)
    }

    fn check_clean(&self) {
        assert_eq!(self.sim.violations(), (0, None));
        assert_eq!(self.sim.open_streams(), 0);
    }
}

/// A stream in its pieces.
struct Saved {
    pieces: Vec<Vec<u8>>,
    /// The first of them that is a packet.
    packets_from: usize,
    /// What the device held while it was stopped.
    stopped: Vec<u64>,
}

fn check_code(error: &Error) {
    assert_ne!(error.code(), Code::NotRecoverable, "{error}");
    assert!(!error.message().is_empty());
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let format = input.pick(&[Format::Native, Format::Qemu, Format::QemuPackets]);
    migrate(&mut input, format, SimOptions::default());
}

/// Between devices that speak v1.
pub fn run_v1(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let window = input.pick(&[64 << 10, 9, 40, 200, 1000]);
    let quirks = input.pick(&[0, 0, quirk::STRICT_WIDTHS, quirk::ALTERNATING_OFFSET]);
    let options = SimOptions { kind: Kind::V1, window, quirks, ..SimOptions::default() };
    migrate(&mut input, Format::Native, options);
}

/// Between devices that speak the protocol of the RFC.
pub fn run_rfc(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let window = input.pick(&[64 << 10, 9, 40, 200, 1000]);
    let quirks = input.pick(&[0, 0, quirk::STRICT_WIDTHS, quirk::NO_DEVICE_MEMORY]);
    let options = SimOptions { kind: Kind::Rfc, window, quirks, ..SimOptions::default() };
    migrate(&mut input, Format::Native, options);
}

fn migrate(input: &mut Input<'_>, format: Format, options: SimOptions) {
    let sizes = SimOptions {
        migration_flags: input.pick(&[7, 3, 5, 1]),
        state_size: input.pick(&[1, 60, 300, 700, 3000]),
        ..options
    };
    let shape = |input: &mut Input<'_>| SimOptions {
        seed: u64::from(input.u8()),
        initial_size: input.within(0..3000),
        max_read: input.u16().into(),
        max_write: input.u16().into(),
        eintr_every: input.pick(&[0, 0, 2, 7]),
        ..sizes.clone()
    };
    let options = shape(input);
    let source = Side::new(input, options);
    let options = shape(input);
    let target = Side::new(input, options);

    let mut save = None;
    let saved = save_all(input, &source, format, &mut save);
    match saved {
        Ok(saved) => load_changed(input, &target, format, saved),
        Err(error) => check_code(&error),
    }
    finish(input, &source, save);
    target.check_clean();
}

fn save_all(
    input: &mut Input<'_>,
    source: &Side,
    format: Format,
    kept: &mut Option<Save>,
) -> Result<Saved> {
    let options = SaveOptions {
        format,
        switchover_ack: format != Format::Native && input.flag(),
        max_frame: 1 + u32::from(input.u16()),
        no_pre_copy: input.rarely(4),
        nonblocking: input.rarely(4),
        max_restarts: 4,
        read_timeout: PATIENCE,
        ..SaveOptions::default()
    };
    let save = kept.insert(source.device.save(options)?);
    let mut out = Saved { pieces: Vec::new(), packets_from: usize::MAX, stopped: Vec::new() };
    let mut buf = vec![0; 4096 + usize::from(input.u8()) * 16];
    let mut stopped = false;
    // A driver that never has enough, or never says that it has, is given up.
    for _ in 0..3000 {
        let next = match save.next(&mut buf) {
            Ok(next) => next,
            Err(error) if error.code() == Code::Again => continue,
            Err(error) => return Err(error),
        };
        if next.len > 0 {
            out.pieces.push(buf[..next.len].to_vec());
        }
        match next.status {
            SaveStatus::More if stopped || input.u8() % 8 != 7 => continue,
            SaveStatus::End => {
                out.stopped.push(source.sim.digest());
                return Ok(out);
            }
            SaveStatus::Drained if stopped => save.blob(0, b"the VMM's own")?,
            SaveStatus::More | SaveStatus::Drained => {
                meddle(input, source, save, format)?;
                if input.flag() {
                    continue;
                }
                if input.flag() {
                    save.quiesce()?;
                }
                save.stop()?;
                stopped = true;
                out.stopped.push(source.sim.digest());
                if format == Format::QemuPackets {
                    // A save without pre-copy has not said anything yet: its setup comes first.
                    out.packets_from = out.pieces.len().max(1);
                }
            }
        }
    }
    Err(Error::new(Code::Again, "given up"))
}

/// What a guest, and its VMM, may do while a device is saved.
fn meddle(input: &mut Input<'_>, source: &Side, save: &mut Save, format: Format) -> Result<()> {
    match input.u8() % 8 {
        0 => drop(source.sim.guest_write(0, 1 + input.within(0..600), input.u64())),
        1 => source.sim.reinit(),
        2 => {
            save.pending()?;
        }
        3 if format == Format::Native => save.blob(input.u8().into(), input.bytes())?,
        4 => {
            source.sim.guest_reset();
            if input.flag() {
                source.device.was_reset()?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether anything was changed.
fn change(input: &mut Input<'_>, saved: &mut Saved) -> bool {
    let before = saved.pieces.clone();
    for _ in 0..input.u8() % 4 {
        let n = saved.pieces.len();
        if n == 0 {
            break;
        }
        let (at, with) = (usize::from(input.u16()) % n, usize::from(input.u16()) % n);
        let len = saved.pieces[at].len();
        match input.u8() % 8 {
            // What says what the rest is comes first.
            6 | 7 if len > 0 => saved.pieces[at][usize::from(input.u8()) % len] ^= input.u8(),
            0 if len > 0 => saved.pieces[at][usize::from(input.u16()) % len] ^= input.u8(),
            1 => saved.pieces[at].truncate(usize::from(input.u16()) % (len + 1)),
            2 => saved.pieces.swap(at, with),
            3 => drop(saved.pieces.remove(at)),
            4 => {
                let again = saved.pieces[at].clone();
                saved.pieces.insert(with, again);
            }
            _ => saved.pieces[at].extend_from_slice(input.bytes()),
        }
    }
    saved.pieces.retain(|piece| !piece.is_empty());
    saved.pieces != before
}

fn load_changed(input: &mut Input<'_>, target: &Side, format: Format, mut saved: Saved) {
    let whole = saved.pieces.concat();
    let changed = change(input, &mut saved);
    let untouched =
        if format == Format::QemuPackets { !changed } else { saved.pieces.concat() == whole };
    let mut load = None;
    let done = load_all(input, target, format, &saved, &mut load);
    drop(load);
    let state = target.sim.state();
    match &done {
        Ok(()) => {
            // In QEMU's formats only the driver could notice a change.
            let blind = target.has(quirk::STOP_ACCEPTS_ALL | quirk::CONSUMES_ON_ERROR);
            let verified = format == Format::Native || untouched || !blind;
            if verified && !target.reset_unseen() {
                let digest = target.sim.digest();
                assert!(saved.stopped.contains(&digest), "committed, and not what was saved");
            }
            assert!(format != Format::Native || untouched, "a changed stream was accepted");
            if !target.reset_unseen() && !target.beyond_help() {
                assert_eq!(state, vfiomig_sim::State::STOP);
            }
        }
        Err(error) => {
            check_code(error);
            let lost = error.failure().is_some_and(|failure| failure.outcome == Outcome::Lost);
            if !lost && !target.beyond_help() {
                assert_eq!(state, vfiomig_sim::State::RUNNING, "{error}");
            }
        }
    }
    if !target.beyond_help() && !target.reset_unseen() {
        let wanted = if done.is_ok() { State::Stop } else { State::Running };
        assert_eq!(target.device.state().ok(), Some(wanted));
    }
}

fn load_all(
    input: &mut Input<'_>,
    target: &Side,
    format: Format,
    saved: &Saved,
    kept: &mut Option<Load>,
) -> Result<()> {
    let refuse = input.rarely(8);
    let options = LoadOptions {
        format,
        blobs: Some(Box::new(move |_, _| if refuse { Err(Errno(libc::EIO)) } else { Ok(()) })),
        write_timeout: PATIENCE,
        ..LoadOptions::default()
    };
    let load = kept.insert(target.device.load(options)?);
    let step = if input.flag() { usize::MAX } else { 1 + usize::from(input.u16()) };
    let main = saved.pieces.len().min(saved.packets_from);
    let (main, packets) = saved.pieces.split_at(main);
    push_all(load, &main.concat(), step)?;
    if let Some(incoming) = load.packets() {
        // The order does not matter, but all must be there, or nothing would ever move.
        packets.iter().rev().try_for_each(|packet| incoming.submit(packet))?;
        let canceller = load.shared();
        std::thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                if wait.recv_timeout(Duration::from_millis(50)).is_err() {
                    canceller.cancel();
                }
            });
            let result = incoming.run();
            let _ = done.send(());
            result
        })?;
    }
    load.commit()
}

/// Into the library's own memory, or piece by piece; the VMM reads the configuration.
fn push_all(load: &mut Load, bytes: &[u8], step: usize) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = load.space()?;
        let len = room.len().min(step).min(rest.len());
        room[..len].copy_from_slice(&rest[..len]);
        rest = &rest[len..];
        if load.received(len)?.config {
            rest = rest.get(b"the VMM's own".len()..).unwrap_or_default();
        }
    }
    Ok(())
}

/// The source is kept: with what it has, or with a report that this is gone.
fn finish(input: &mut Input<'_>, source: &Side, save: Option<Save>) {
    let endings = [Ending::Keep, Ending::KeepQuiesced, Ending::KeepStopped, Ending::Release];
    let ending = input.pick(&endings);
    if let Some(mut save) = save {
        let done = save.finish(ending);
        if let Err(error) = &done {
            check_code(error);
        }
        let state = source.sim.state();
        if done.is_ok() && !source.beyond_help() && !source.reset_unseen() {
            let wanted = match ending {
                Ending::Keep => vec![vfiomig_sim::State::RUNNING],
                Ending::KeepQuiesced => {
                    vec![vfiomig_sim::State::RUNNING, vfiomig_sim::State::RUNNING_P2P]
                }
                Ending::KeepStopped | Ending::Release => vec![vfiomig_sim::State::STOP],
            };
            assert!(wanted.contains(&state), "{state:?} after {ending:?}");
        }
    }
    if !source.beyond_help() {
        let state = source.sim.state();
        assert!(!state.is_saving(), "left in {state:?}");
    }
    source.check_clean();
}
