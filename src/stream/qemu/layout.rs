// SPDX-License-Identifier: MIT OR Apache-2.0
//! The format's numbers.

/// The end of most sections.
pub const END_OF_STATE: u64 = 0xffff_ffff_ef10_0001;
/// The VMM's own part follows: QEMU's vmstate of the PCI configuration.
pub const CONFIG_STATE: u64 = 0xffff_ffff_ef10_0002;
/// The first section of a stream.
pub const SETUP_STATE: u64 = 0xffff_ffff_ef10_0003;
/// A length follows, and then as many bytes of device state.
pub const DATA_STATE: u64 = 0xffff_ffff_ef10_0004;
/// The end of a section after which all initial data has been sent.
pub const INIT_DATA_SENT: u64 = 0xffff_ffff_ef10_0005;
/// The whole last section of a main channel, if the configuration travels in a packet and is to be
/// loaded late.
pub const CONFIG_LOAD_READY: u64 = 0xffff_ffff_ef10_0006;

/// The only version of packets.
pub const PACKET_VERSION: u32 = 0;
/// Flag of the last packet, which has the configuration in it.
pub const PACKET_CONFIG: u32 = 1;

/// The longest piece of data that stock QEMU makes, in bytes.
pub const PIECE: u32 = 1 << 20;

/// Length of a tag, in bytes.
pub const TAG_LEN: usize = 8;
/// The size of what comes before a piece of data on the main channel: its tag and its length.
pub const DATA_HEAD: usize = 16;
/// The size of what comes before the data of a packet: version, index, flags.
pub const PACKET_HEAD: usize = 12;
/// The size of what surrounds a configuration: the tags before and after it.
pub const CONFIG_OVERHEAD: usize = 2 * TAG_LEN;
