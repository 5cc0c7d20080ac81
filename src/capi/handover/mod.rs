// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_handover_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes, bytes_if_any, bytes_mut};
use super::entry::{free, guarded, publish, with};
use super::handle::Handle;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, handover_states as states};
use crate::error::err;
use crate::handover::{HEADER_LEN, Handover, Outcome, message_len};
use structs::{to_event, to_fence};

impl Handle for vfiomig_handover {
    const KIND: &'static Kind = &table::HANDOVER;
    type Object = Handover;
    type Shared = ();

    fn state(handover: &Handover) -> u32 {
        match handover.report().outcome {
            Outcome::Pending | Outcome::Undecided => states::OPEN,
            Outcome::OnTarget | Outcome::OnSource | Outcome::Lost => states::OVER,
        }
    }
}

/// Makes one side of a handover, for one attempt at a migration. It does nothing by itself: tell it
/// what has happened, and ask vfiomig_handover_next() what to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_new(
    options: *const vfiomig_handover_options,
    out: *mut *mut vfiomig_handover,
) -> c_int {
    guarded(&table::HANDOVER_NEW, || {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let (options, tail) = unsafe { read_in(options, "options") }?;
        tail.check()?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        publish(out, Handover::new(options.to_options()?)?, ())
    })
}

/// Source: describes a device, by its number from 0. The target is sent the description and compares
/// it with its own device. The library does not look into it. Possible until the first message was
/// taken from vfiomig_handover_next(). All descriptions together must fit into a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_set_identity(
    handover: *mut vfiomig_handover,
    device: u32,
    identity: *const c_void,
    len: usize,
) -> c_int {
    with(&table::HANDOVER_SET_IDENTITY, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        handover.set_identity(device, unsafe { bytes_if_any(identity, len, "identity") }?)
    })
}

/// Copies what the source has said that a device is; on the source, what it says. *len is 0 if
/// nothing was said. This is a claim, not a proof. A buffer of VFIOMIG_HANDOVER_MAX_IDENTITY is
/// always large enough.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_get_identity(
    handover: *mut vfiomig_handover,
    device: u32,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with(&table::HANDOVER_GET_IDENTITY, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes; NULL, or memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let identity = handover.identity(device)?;
        let too_small = || err!(NoSpace, "the description has {} bytes", identity.len());
        buf.get_mut(..identity.len()).ok_or_else(too_small)?.copy_from_slice(identity);
        len.write(identity.len());
        Ok(())
    })
}

/// Returns which generation of a device's initial data the target has loaded; 0 if none. On the
/// source, this is what the target has said last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_get_initial_loaded(
    handover: *mut vfiomig_handover,
    device: u32,
    generation: *mut u64,
) -> c_int {
    with(&table::HANDOVER_GET_INITIAL_LOADED, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or memory for a number.
        let generation = unsafe { Out::new(generation, "generation") }?;
        generation.write(handover.initial_loaded(device)?);
        Ok(())
    })
}

/// Tells what has happened: VFIOMIG_HANDOVER_EVENT_*. device and value are used by the events that
/// say so; otherwise they are ignored. Then ask vfiomig_handover_next() until there is nothing to do.
/// An event that is refused changes nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_handover_notify(
    handover: *mut vfiomig_handover,
    event: u32,
    device: u32,
    value: i64,
) -> c_int {
    with(&table::HANDOVER_NOTIFY, handover, |handover| {
        handover.notify(to_event(event, device, value)?)
    })
}

/// Takes one whole message that the other side has sent. Messages may be lost, repeated, and come in
/// any order; those of another attempt have no effect. One that is refused changes nothing: drop it,
/// or cut the connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_receive(
    handover: *mut vfiomig_handover,
    message: *const c_void,
    len: usize,
) -> c_int {
    with(&table::HANDOVER_RECEIVE, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        handover.receive(unsafe { bytes(message, len, "message") }?)
    })
}

/// Tells how long the message is that begins with these bytes, of which there must be
/// VFIOMIG_HANDOVER_HEADER: for messages that are carried over a stream of bytes. The length is at
/// most VFIOMIG_HANDOVER_MAX_MESSAGE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_get_message_len(
    header: *const c_void,
    header_len: usize,
    len: *mut usize,
) -> c_int {
    guarded(&table::HANDOVER_GET_MESSAGE_LEN, || {
        // SAFETY: vfiomig.h: NULL, or `header_len` readable bytes; NULL, or memory for a number.
        let (header, len) =
            unsafe { (bytes(header, header_len, "header")?, Out::new(len, "len")?) };
        let header = header.first_chunk::<HEADER_LEN>();
        let header = header.ok_or_else(|| err!(Inval, "a header has {HEADER_LEN} bytes"))?;
        len.write(message_len(header)?);
        Ok(())
    })
}

/// Returns what to do next. Carry it out and ask again, until it is VFIOMIG_HANDOVER_ACTION_NOTHING.
/// An action that has a result is not followed by another such action before the result was reported
/// with vfiomig_handover_notify(); messages and waits may still follow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_next(
    handover: *mut vfiomig_handover,
    action: *mut vfiomig_handover_action,
) -> c_int {
    with(&table::HANDOVER_NEXT, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(action, "action") }?;
        out.fill(&handover.next_action()?.into());
        Ok(())
    })
}

/// Tells that the other side does not run the guest and never will, because it was switched off, or
/// cut off from the guest's disks and memory. fence is what the fencer knows of the time since the
/// guest was stopped on the source: VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN or
/// VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN. If the link does not return after "go" may have left, this is
/// the only way out. If what is said here is not so, the guest may run twice.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_handover_peer_fenced(
    handover: *mut vfiomig_handover,
    fence: u32,
) -> c_int {
    with(&table::HANDOVER_PEER_FENCED, handover, |handover| handover.peer_fenced(to_fence(fence)?))
}

/// Gives the migration up. The source can do so until "go" may have left, the target until it has
/// been told to run the guest.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_handover_cancel(handover: *mut vfiomig_handover) -> c_int {
    with(&table::HANDOVER_CANCEL, handover, Handover::cancel)
}

/// Returns where the guest is. VFIOMIG_HANDOVER_OUTCOME_PENDING and _UNDECIDED are not final.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_handover_get_outcome(
    handover: *mut vfiomig_handover,
    outcome: *mut vfiomig_handover_outcome,
) -> c_int {
    with(&table::HANDOVER_GET_OUTCOME, handover, |handover| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(outcome, "outcome") }?;
        out.fill(&handover.report().into());
        Ok(())
    })
}

/// Frees one side of a handover. NULL is ignored. It touches no device and sends nothing: free it
/// when the outcome has VFIOMIG_HANDOVER_SETTLED, or the other side learns of it in another way.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_handover_free(handover: *mut vfiomig_handover) {
    free(&table::HANDOVER_FREE, handover);
}
