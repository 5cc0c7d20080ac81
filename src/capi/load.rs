// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_load_*`.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use super::callbacks::{Opaque, blob_sink, policy};
use super::constants::*;
use super::entry::{KeepErrno, free, with, with_shared, with_shared_unlocked};
use super::handle::{self, Kind, Object};
use super::structs::*;
use super::table;
use crate::device::Device;
use crate::error::{Result, err};
use crate::session::{Load, LoadOptions, LoadStatus, Packets, Shared};
use crate::stream::Format;

/// Reads options; callbacks in them are owned from here on, also where the options are refused.
unsafe fn read_options(options: *const vfiomig_load_options) -> Result<LoadOptions> {
    let mut out = LoadOptions::default();
    if options.is_null() {
        return Ok(out);
    }
    // SAFETY: the caller's contract.
    let (options, tail) = unsafe { read_in(options, "options") }?;
    out.blobs = blob_sink(options.blob, Opaque::new(options.blob_opaque, options.blob_release));
    out.policy = policy(options.policy, Opaque::new(options.policy_opaque, options.policy_release));
    tail.check()?;
    if options.reserved != 0 {
        return Err(err!(Inval, "reserved is not zero in the load options"));
    }
    out.format = format(options.format, options.flags & VFIOMIG_LOAD_PACKETS != 0)?;
    let known = match out.format {
        Format::Native => VFIOMIG_LOAD_CHECK_DEVICE_INDEX | VFIOMIG_LOAD_CHECK_MIGRATION_ID,
        Format::Qemu | Format::QemuPackets => VFIOMIG_LOAD_PACKETS,
    };
    if options.flags & !known != 0 {
        return Err(err!(Inval, "flags in the load options that are unknown in this format"));
    }
    let check = |bit: u32| options.flags & bit != 0;
    out.device_index = check(VFIOMIG_LOAD_CHECK_DEVICE_INDEX).then_some(options.device_index);
    out.migration_id = check(VFIOMIG_LOAD_CHECK_MIGRATION_ID).then_some(options.migration_id);
    out.ignore = options.ignore;
    let limits = &mut out.limits;
    let fields = [
        (&mut limits.max_frame, options.max_frame),
        (&mut limits.max_blob, options.max_blob),
        (&mut limits.max_blobs, options.max_blobs),
        (&mut limits.max_restarts, options.max_restarts),
        (&mut out.max_ahead, options.max_ahead),
    ];
    for (field, value) in fields {
        if value != 0 {
            *field = value;
        }
    }
    if options.max_total != 0 {
        limits.max_total = options.max_total;
    }
    if options.max_queued != 0 {
        out.max_queued = options.max_queued;
    }
    if options.write_timeout_ms != 0 {
        out.write_timeout = Duration::from_millis(u64::from(options.write_timeout_ms));
    }
    Ok(out)
}

/// Begins to load the device: to RESUMING. What the device held is lost. The session owns the
/// device's data fd and keeps the device alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_begin(
    device: *mut vfiomig_device,
    options: *const vfiomig_load_options,
    out: *mut *mut vfiomig_load,
) -> c_int {
    let _errno = KeepErrno::new();
    // Before the guard, so that callbacks are released whatever the guard says.
    // SAFETY: the caller's contract.
    let options = unsafe { read_options(options) };
    with(&table::LOAD_BEGIN, device.addr(), |device: &mut Device| {
        let options = options?;
        if out.is_null() {
            return Err(err!(Fault, "out is NULL"));
        }
        let load = Box::new(device.load(options)?);
        let shared = load.shared();
        let handle = handle::insert(Object::Load(load), Some(shared))?;
        // SAFETY: checked not to be NULL; otherwise the caller's contract.
        unsafe { out.write(std::ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Takes the next len bytes of the stream, in any split. Nothing reaches the driver before the
/// frame that it is part of has been verified. On an error the device has been reset already, and
/// only freeing is left to do. May block as long as the driver does.
///
/// Returns bits. None of them (VFIOMIG_PUSH_MORE): go on. VFIOMIG_PUSH_INITIAL_LOADED: tell the source that its
/// initial data is here, and go on. VFIOMIG_PUSH_RESTARTED: the source's device was reset; blobs and
/// acknowledgements of before are void; an INITIAL_LOADED beside it came later; go on.
/// VFIOMIG_PUSH_END: the stream is complete; commit.
///
/// In QEMU's format nothing can be verified, and data goes to the driver as it comes. Push no more
/// than vfiomig_load_get_space() has room for: what follows may be of others. VFIOMIG_PUSH_SECTION_END: a
/// section is over. VFIOMIG_PUSH_CONFIG: the VMM's configuration follows in its stream; read it there,
/// then push what comes behind it. VFIOMIG_PUSH_CONFIG_READY: load the configuration that came in a
/// packet. VFIOMIG_PUSH_END comes with the end of the configuration's section, and not at all with
/// VFIOMIG_LOAD_PACKETS: there vfiomig_load_write_packets() says that all is complete. The main channel's last
/// sections, which are empty, may come before or after that, and also after the commit; without
/// packets nothing comes after it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_push(
    load: *mut vfiomig_load,
    data: *const c_void,
    len: usize,
) -> c_int {
    with(&table::LOAD_PUSH, load.addr(), |load: &mut Load| {
        if data.is_null() && len != 0 {
            return Err(err!(Fault, "data is NULL"));
        }
        if len > isize::MAX as usize {
            return Err(err!(Inval, "len is {len}"));
        }
        let bytes = match len {
            0 => &[][..],
            // SAFETY: the caller's contract: `len` readable bytes that nobody changes meanwhile.
            _ => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) },
        };
        load.push(bytes).map(bits)
    })
}

fn bits(status: LoadStatus) -> c_int {
    let bit = |set: bool, bit: c_int| if set { bit } else { VFIOMIG_PUSH_MORE };
    bit(status.restarted, VFIOMIG_PUSH_RESTARTED)
        | bit(status.initial_loaded, VFIOMIG_PUSH_INITIAL_LOADED)
        | bit(status.ended, VFIOMIG_PUSH_END)
        | bit(status.section_ended, VFIOMIG_PUSH_SECTION_END)
        | bit(status.config, VFIOMIG_PUSH_CONFIG)
        | bit(status.config_ready, VFIOMIG_PUSH_CONFIG_READY)
}

/// Offers memory to receive the next bytes of the stream into: at *space, *len bytes, at least
/// one (-EINVAL behind the stream's end, and nothing is lost by asking); it belongs to the library and is valid until the next call with this handle. Then say with
/// vfiomig_load_push_received() how many bytes came. Saves the copy that vfiomig_load_push() makes of
/// frames that lie in two of its pieces: the way for a VMM that reads from a socket. There may be
/// more room than the stream is long: bytes that follow its end are an error, so let nothing else
/// follow in the same connection, or limit what is read. In QEMU's format there is room for what is
/// certain to come, and for nothing behind it: a VMM can read from a stream that is not this device's
/// alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_space(
    load: *mut vfiomig_load,
    space: *mut *mut c_void,
    len: *mut usize,
) -> c_int {
    with(&table::LOAD_GET_SPACE, load.addr(), |load: &mut Load| {
        if space.is_null() || len.is_null() {
            return Err(err!(Fault, "space or len is NULL"));
        }
        let room = load.space()?;
        // SAFETY: both checked not to be NULL; otherwise the caller's contract.
        unsafe {
            space.write(room.as_mut_ptr().cast());
            len.write(room.len());
        }
        Ok(())
    })
}

/// Takes len bytes that were received into the memory of vfiomig_load_get_space(). Returns what
/// vfiomig_load_push() returns.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_push_received(load: *mut vfiomig_load, len: usize) -> c_int {
    with(&table::LOAD_PUSH_RECEIVED, load.addr(), |load: &mut Load| load.received(len).map(bits))
}

/// Makes the driver check and take the state: RESUMING to STOP. Needs the complete stream. On
/// success the source may be released; make the fix-ups of vfiomig_device_get_fixups() and call
/// vfiomig_device_run(). On an error, an incomplete stream included, the device has been reset, and
/// the source goes on.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_commit(load: *mut vfiomig_load) -> c_int {
    with(&table::LOAD_COMMIT, load.addr(), |load: &mut Load| load.commit())
}

/// Takes one packet of a load with VFIOMIG_LOAD_PACKETS: what QEMU's multifd channels carry for this
/// device, from its version field on. In any order and from any number of threads. The packet is
/// copied. While too many bytes are queued (max_queued) the call waits, for as long as
/// vfiomig_load_write_packets() makes progress; the packet that is next in order never waits. In a callback none
/// waits: -EAGAIN, and the load goes on. On any other error the device has been reset, and every other
/// call of this load gets the same error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_push_packet(
    load: *mut vfiomig_load,
    packet: *const c_void,
    len: usize,
) -> c_int {
    with_shared_unlocked::<Load, _>(&table::LOAD_PUSH_PACKET, load.addr(), |shared| {
        if packet.is_null() {
            return Err(err!(Fault, "packet is NULL"));
        }
        if len > isize::MAX as usize {
            return Err(err!(Inval, "len is {len}"));
        }
        // SAFETY: the caller's contract: `len` readable bytes that nobody changes meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(packet.cast::<u8>(), len) };
        packets_of(shared)?.submit(bytes)
    })
}

/// Writes the packets of a load with VFIOMIG_LOAD_PACKETS to the driver, in order. Blocks until the
/// configuration has come behind them and the blob callback has taken it, on this thread and with
/// kind 0; or until anything ends the load: an error on any thread, vfiomig_load_cancel(),
/// vfiomig_load_free(). Call it once, on a thread of its own, when the main channel has brought all
/// data that it will (QEMU's switchover_start) and stands between two sections: from then on data
/// there is refused. After 0 the stream is complete: commit. On an error the device has been reset.
///
/// The blob callback runs without any lock of the library: it may use the device's other handles.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_write_packets(load: *mut vfiomig_load) -> c_int {
    with_shared_unlocked::<Load, _>(&table::LOAD_WRITE_PACKETS, load.addr(), |shared| {
        packets_of(shared)?.run()
    })
}

fn packets_of(shared: &Shared) -> Result<&Packets> {
    shared
        .packets()
        .ok_or_else(|| err!(Inval, "this load takes no packets: it lacks VFIOMIG_LOAD_PACKETS"))
}

/// Cancels the load: the call that is under way returns -ECANCELED as soon as the driver lets it,
/// and so does every later one but those that ask what happened; the device is reset by the first of
/// them. A load that has been committed is not affected. May be called from any thread at any time while the
/// handle lives.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_cancel(load: *mut vfiomig_load) -> c_int {
    with_shared::<Load, _>(&table::LOAD_CANCEL, load.addr(), |shared| {
        shared.cancel();
        Ok(())
    })
}

/// What the stream says that it was saved from. A claim, not a proof.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_source_identity(
    load: *mut vfiomig_load,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::LOAD_GET_SOURCE_IDENTITY, load.addr(), |load: &mut Load| {
        // SAFETY: the caller's contract.
        unsafe { check_out(identity, "identity") }?;
        let out = vfiomig_identity::from(load.source_identity()?);
        // SAFETY: the caller's contract.
        unsafe { write_out(identity, &out, "identity") }
    })
}

/// What the load has done so far. May be called from any thread at any time while the handle
/// lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_stats(
    load: *mut vfiomig_load,
    stats: *mut vfiomig_load_stats,
) -> c_int {
    with_shared::<Load, _>(&table::LOAD_GET_STATS, load.addr(), |shared| {
        // SAFETY: the caller's contract.
        unsafe { check_out(stats, "stats") }?;
        let found = shared.load_stats().unwrap_or_default();
        // SAFETY: the caller's contract.
        unsafe { write_out(stats, &vfiomig_load_stats::from(found), "stats") }
    })
}

/// What was going on when this load failed; zeros if it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_get_failure(
    load: *mut vfiomig_load,
    failure: *mut vfiomig_failure,
) -> c_int {
    with(&table::LOAD_GET_FAILURE, load.addr(), |load: &mut Load| {
        // SAFETY: the caller's contract.
        unsafe { check_out(failure, "failure") }?;
        // SAFETY: the caller's contract.
        unsafe { write_out(failure, &vfiomig_failure::from(load.failure()), "failure") }
    })
}

/// Frees a load; NULL is none. One that was not committed is abandoned, and its device reset.
/// Waits for calls on other threads; vfiomig_load_write_packets() and vfiomig_load_push_packet() are made to end.
/// A callback cannot free a handle that a call is inside of, nor one whose device is in use by a call:
/// it stays.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_free(load: *mut vfiomig_load) {
    free(&table::LOAD_FREE, load.addr(), Kind::Load);
}
