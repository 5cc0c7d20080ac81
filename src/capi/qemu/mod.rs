// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's stream format in C: those parts of saves and loads that exist only for it.

use std::ffi::{c_int, c_void};

use super::args::bytes;
use super::entry::with_shared_copy;
use super::load::vfiomig_load;
use super::table;
use crate::error::{Result, err};
use crate::session::{Packets, SharedLoad};

/// Takes one packet of a load with VFIOMIG_LOAD_PACKETS: what QEMU's multifd channels carry for
/// this device, starting at its version field. Packets may come in any order and from any number of
/// threads. The packet is copied. While too many bytes are queued (max_queued), the call waits for
/// as long as vfiomig_load_write_packets() makes progress; the packet that is next in order never
/// waits. In a callback no packet waits: the call returns -EAGAIN, and the load goes on. After any
/// other error the device has been reset, and every other call of this load returns the same error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_load_push_packet(
    load: *mut vfiomig_load,
    packet: *const c_void,
    len: usize,
) -> c_int {
    with_shared_copy(&table::LOAD_PUSH_PACKET, load, |shared| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        let bytes = unsafe { bytes(packet, len, "packet") }?;
        packets_of(&shared)?.submit(bytes)
    })
}

/// Writes the packets of a load with VFIOMIG_LOAD_PACKETS to the driver, in order. Blocks until the
/// configuration has come after all of them and the blob callback has taken it, on this thread and
/// with kind 0, or until something ends the load: an error on any thread, vfiomig_load_cancel(), or
/// vfiomig_load_free(). Call it once, on a thread of its own, when the main channel has brought all
/// the data that it will bring (QEMU's switchover_start) and is between two sections; from then on,
/// data on it is refused. After 0 the stream is complete: commit. After an error the device has
/// been reset.
///
/// The blob callback runs without any of the library's locks, so it may use the device's other
/// handles.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_load_write_packets(load: *mut vfiomig_load) -> c_int {
    with_shared_copy(&table::LOAD_WRITE_PACKETS, load, |shared| packets_of(&shared)?.run())
}

fn packets_of(shared: &SharedLoad) -> Result<&Packets> {
    shared
        .packets()
        .ok_or_else(|| err!(Inval, "this load takes no packets: it lacks VFIOMIG_LOAD_PACKETS"))
}
