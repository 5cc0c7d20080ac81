// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stock QEMU's framing of VFIO device state: docs/qemu-format.md in code.
//!
//! [`Reader`] reads the main channel, [`Packet`] and [`Window`] what comes over multifd channels in
//! any order. Neither knows a device, QEMU's own sections or threads. The format has no checks: what
//! is refused here is what cannot be, and what would cost too much.

mod packet;
mod reader;
mod write;

pub use packet::{Held, Packet, PacketLimits, Reserved, Window};
pub use reader::Reader;
pub use write::{CONFIG_OVERHEAD, DATA_HEAD, PACKET_HEAD, TAG_LEN, data_head, packet_head};
pub(crate) use write::{config, tags};

use crate::error::{Result, err};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The end of most sections.
pub const END_OF_STATE: u64 = 0xffff_ffff_ef10_0001;
/// The VMM's own part follows: QEMU's vmstate of the PCI configuration.
pub const CONFIG_STATE: u64 = 0xffff_ffff_ef10_0002;
/// The first section of a stream.
pub const SETUP_STATE: u64 = 0xffff_ffff_ef10_0003;
/// A length and as many bytes of device state follow.
pub const DATA_STATE: u64 = 0xffff_ffff_ef10_0004;
/// The end of a section after which all initial data has been sent.
pub const INIT_DATA_SENT: u64 = 0xffff_ffff_ef10_0005;
/// The whole last section of a main channel whose configuration travels in a packet and is to be
/// loaded late.
pub const CONFIG_LOAD_READY: u64 = 0xffff_ffff_ef10_0006;

/// The only version of packets.
pub const PACKET_VERSION: u32 = 0;
/// Flag of the last packet, which has the configuration in it.
pub const PACKET_CONFIG: u32 = 1;

/// The longest piece of data that stock QEMU makes, in bytes.
pub const PIECE: u32 = 1 << 20;

/// How much device data a stream may bring in all, over all its channels.
#[derive(Debug)]
pub struct Quota {
    most: u64,
    used: AtomicU64,
}

impl Quota {
    /// A fresh quota, in bytes.
    pub fn new(most: u64) -> Quota {
        Quota { most, used: AtomicU64::new(0) }
    }

    /// Takes from it before anything is allocated or awaited.
    pub fn claim(&self, len: u64) -> Result<()> {
        let claimed = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(len).filter(|sum| *sum <= self.most)
        });
        match claimed {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(err!(MsgSize, "the stream has more than {} bytes of device data", self.most))
            }
        }
    }
}
