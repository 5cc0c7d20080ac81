// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stock QEMU's framing of VFIO device state: the code for docs/qemu-format.md.
//!
//! [`Reader`] reads the main channel and `Writer` writes it; [`Packet`] and [`Window`] read what
//! comes over multifd channels in any order. None of them knows devices, QEMU's own sections or
//! threads. The format has no checks: what is refused here is what cannot be right, and what would
//! cost too much.

mod layout;
mod packet;
mod quota;
mod reader;
mod window;
mod writer;

pub use layout::{
    CONFIG_LOAD_READY, CONFIG_OVERHEAD, CONFIG_STATE, DATA_HEAD, DATA_STATE, END_OF_STATE,
    INIT_DATA_SENT, PACKET_CONFIG, PACKET_HEAD, PACKET_VERSION, PIECE, SETUP_STATE, TAG_LEN,
};
pub use packet::Packet;
pub use quota::Quota;
pub(crate) use reader::RECEIVE_ROOM;
pub use reader::Reader;
pub use window::{Held, PacketLimits, Reserved, Window};
pub(crate) use writer::{Marks, Writer};
pub use writer::{data_head, packet_head};
