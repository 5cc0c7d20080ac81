// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet with the stopped device's state, as it comes over one of several channels.

use super::layout::{CONFIG_STATE, END_OF_STATE, PACKET_CONFIG, PACKET_HEAD, PACKET_VERSION};
use crate::error::{Result, err};

/// A packet, as far as it can be judged by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Its index: 0, 1, 2…
    pub idx: u32,
    /// Whether it is the last one, with the configuration instead of data.
    pub config: bool,
    /// Device data, or the configuration without its tags.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Parses a packet.
    pub fn parse(packet: &'a [u8]) -> Result<Packet<'a>> {
        let Some((head, bytes)) = packet.split_first_chunk::<PACKET_HEAD>() else {
            return Err(err!(
                Proto,
                "a packet of {} bytes is too short for its header",
                packet.len()
            ));
        };
        let [v0, v1, v2, v3, i0, i1, i2, i3, f0, f1, f2, f3] = *head;
        let (version, idx) =
            (u32::from_be_bytes([v0, v1, v2, v3]), u32::from_be_bytes([i0, i1, i2, i3]));
        let flags = u32::from_be_bytes([f0, f1, f2, f3]);
        if version != PACKET_VERSION {
            return Err(err!(Proto, "a packet is of version {version}"));
        }
        if flags & !PACKET_CONFIG != 0 {
            return Err(err!(Proto, "packet {idx} has unknown flags {flags:#x}"));
        }
        if bytes.is_empty() {
            return Err(err!(Proto, "packet {idx} is empty"));
        }
        if flags == 0 {
            return Ok(Packet { idx, config: false, bytes });
        }
        let inner = bytes
            .strip_prefix(&CONFIG_STATE.to_be_bytes())
            .and_then(|rest| rest.strip_suffix(&END_OF_STATE.to_be_bytes()));
        let inner = inner.ok_or_else(|| {
            err!(Proto, "the configuration in packet {idx} does not lie between its tags")
        })?;
        Ok(Packet { idx, config: true, bytes: inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert_eq!(&bytes[..4], [0; 4]);
                prop_assert_eq!(packet.idx, u32::from_be_bytes(bytes[4..8].try_into().unwrap()));
                prop_assert!(packet.config || packet.bytes == &bytes[12..]);
            }
        }
    }
}
