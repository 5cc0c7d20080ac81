// SPDX-License-Identifier: MIT OR Apache-2.0
//! The identity frame's payload: a list of fields, each with a number and a length. A reader skips
//! fields that it does not know.

use crate::alloc;
use crate::error::{Result, err};
use crate::fsm::MigrationFlags;
use crate::identity::{Identity, MAX_VENDOR_DATA, max_text};
use crate::stream::bytes::Get;

/// Field numbers; never reused.
mod field {
    pub const BUS: u16 = 1;
    pub const DRIVER: u16 = 2;
    pub const PCI: u16 = 3;
    pub const MDEV_TYPE: u16 = 4;
    pub const KERNEL_RELEASE: u16 = 5;
    pub const MIGRATION_FLAGS: u16 = 6;
    pub const STATE_SIZE: u16 = 7;
    pub const VENDOR_DATA: u16 = 8;
    pub const VENDOR_TYPE: u16 = 9;
    pub const DRIVER_VERSION: u16 = 10;
    pub const DRIVER_SRCVERSION: u16 = 11;
    pub const FIRMWARE: u16 = 12;
    pub const PROTOCOL: u16 = 13;
}

/// The longest payload that is accepted, in bytes.
pub(in crate::stream) const MAX_IDENTITY: u32 = 4096;

const NO_MEMORY: &str = "no memory for an identity";

/// The payload for an identity. Leaves out fields that are not known.
pub fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |number: u16, bytes: &[u8]| {
        if let Ok(len) = u16::try_from(bytes.len()) {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(bytes);
        }
    };
    let texts = [
        (field::BUS, &identity.bus),
        (field::DRIVER, &identity.driver),
        (field::MDEV_TYPE, &identity.mdev_type),
        (field::KERNEL_RELEASE, &identity.kernel_release),
    ];
    for (number, text) in texts {
        if !text.is_empty() {
            put(number, text.as_bytes());
        }
    }
    if identity.pci != [0; 4] {
        let mut bytes = [0; 9];
        for (slot, id) in bytes.chunks_exact_mut(2).zip(identity.pci) {
            slot.copy_from_slice(&id.to_le_bytes());
        }
        bytes[8] = identity.pci_revision;
        put(field::PCI, &bytes);
    }
    put(field::MIGRATION_FLAGS, &identity.migration_flags.bits().to_le_bytes());
    if identity.state_size != 0 {
        put(field::STATE_SIZE, &identity.state_size.to_le_bytes());
    }
    if !identity.vendor_data.is_empty() {
        put(field::VENDOR_DATA, &identity.vendor_data);
    }
    let texts = [
        (field::VENDOR_TYPE, &identity.vendor_type),
        (field::DRIVER_VERSION, &identity.driver_version),
        (field::DRIVER_SRCVERSION, &identity.driver_srcversion),
        (field::FIRMWARE, &identity.firmware),
    ];
    for (number, text) in texts {
        if !text.is_empty() {
            put(number, text.as_bytes());
        }
    }
    if identity.protocol != 0 {
        put(field::PROTOCOL, &identity.protocol.to_le_bytes());
    }
    out
}

/// Reads a payload.
pub fn decode_identity(payload: &[u8]) -> Result<Identity> {
    let mut identity = Identity::default();
    let mut seen = 0u32;
    let mut rest = payload;
    while !rest.is_empty() {
        let Some((head, after)) = rest.split_at_checked(4) else {
            return Err(err!(Proto, "the identity ends within a field"));
        };
        let mut get = Get { bytes: head, at: 0 };
        let (number, len) = (get.u16(), usize::from(get.u16()));
        let Some((value, after)) = after.split_at_checked(len) else {
            return Err(err!(Proto, "the identity ends within a field"));
        };
        rest = after;
        if number < 32 && seen & (1 << number) != 0 {
            return Err(err!(Proto, "field {number} of the identity occurs twice"));
        }
        seen |= 1u32.checked_shl(u32::from(number)).unwrap_or(0);
        set_field(&mut identity, number, value)?;
    }
    Ok(identity)
}

/// Takes one field. A number that is not known is skipped.
fn set_field(identity: &mut Identity, number: u16, value: &[u8]) -> Result<()> {
    let len = value.len();
    let sized = |want: usize| match len == want {
        true => Ok(Get { bytes: value, at: 0 }),
        false => Err(err!(Proto, "field {number} of the identity has {len} bytes")),
    };
    let (to, longest) = match number {
        field::BUS => (&mut identity.bus, max_text::BUS),
        field::DRIVER => (&mut identity.driver, max_text::DRIVER),
        field::MDEV_TYPE => (&mut identity.mdev_type, max_text::MDEV_TYPE),
        field::KERNEL_RELEASE => (&mut identity.kernel_release, max_text::KERNEL_RELEASE),
        field::VENDOR_TYPE => (&mut identity.vendor_type, max_text::VENDOR_TYPE),
        field::DRIVER_VERSION => (&mut identity.driver_version, max_text::DRIVER_VERSION),
        field::DRIVER_SRCVERSION => (&mut identity.driver_srcversion, max_text::DRIVER_SRCVERSION),
        field::FIRMWARE => (&mut identity.firmware, max_text::FIRMWARE),
        field::PCI => {
            let mut get = sized(9)?;
            identity.pci = [get.u16(), get.u16(), get.u16(), get.u16()];
            // Without IDs it is the revision of nothing, and would be lost when it is written again.
            let known = identity.pci != [0; 4];
            identity.pci_revision = if known { get.array::<1>()[0] } else { 0 };
            return Ok(());
        }
        field::MIGRATION_FLAGS => {
            identity.migration_flags = MigrationFlags::from_bits_retain(sized(8)?.u64());
            return Ok(());
        }
        field::STATE_SIZE => {
            identity.state_size = sized(8)?.u64();
            return Ok(());
        }
        field::PROTOCOL => {
            identity.protocol = sized(4)?.u32();
            return Ok(());
        }
        field::VENDOR_DATA if len <= MAX_VENDOR_DATA => {
            identity.vendor_data = alloc::copy(value, NO_MEMORY)?;
            return Ok(());
        }
        field::VENDOR_DATA => {
            return Err(err!(Proto, "the identity's vendor string has {len} bytes"));
        }
        _ => return Ok(()),
    };
    *to = text(value, longest)?;
    Ok(())
}

/// A text for people and for comparison: short, and without control characters, which could reach a
/// terminal or a log.
fn text(value: &[u8], longest: usize) -> Result<String> {
    let text = std::str::from_utf8(value).ok().filter(|text| {
        text.len() <= longest && !text.is_empty() && !text.chars().any(char::is_control)
    });
    let text = text.ok_or_else(|| err!(Proto, "a text of the identity is malformed"))?;
    alloc::text(text, NO_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn full() -> Identity {
        Identity {
            bus: "pci".into(),
            driver: "mtty".into(),
            pci: [0x4348, 0x3253, 1, 2],
            pci_revision: 0x10,
            mdev_type: "mtty-2".into(),
            kernel_release: "6.12.57".into(),
            migration_flags: MigrationFlags::all(),
            state_size: 96,
            vendor_data: vec![0, 1, 255],
            vendor_type: "nvidia-1155".into(),
            driver_version: "570.133.10".into(),
            driver_srcversion: "533BB7E5866E52F63B9ACCB".into(),
            firmware: "28.39.1002".into(),
            protocol: 2,
        }
    }

    #[test]
    fn a_revision_without_a_device_says_nothing() {
        let mut field = vec![3, 0, 9, 0];
        field.extend([0; 8]);
        field.push(1);
        assert_eq!(decode_identity(&field).unwrap(), Identity::default());
    }

    #[test]
    fn an_identity_survives_and_unknown_fields_are_passed_over() {
        let mut bytes = encode_identity(&full());
        assert_eq!(decode_identity(&bytes).unwrap(), full());
        bytes.extend_from_slice(&[0x34, 0x12, 2, 0, 9, 9]);
        assert_eq!(decode_identity(&bytes).unwrap(), full());
        assert_eq!(decode_identity(&[]).unwrap(), Identity::default());
    }

    #[test]
    fn malformed_identities_are_refused() {
        let cases: [&[u8]; 10] = [
            &[1],
            &[1, 0, 5, 0, b'p'],
            &[1, 0, 0, 0],
            &[1, 0, 1, 0, 7],
            &[1, 0, 1, 0, 0xff],
            &[3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 1, 0, b'p', 1, 0, 1, 0, b'p'],
            &[6, 0, 3, 0, 0, 0, 0],
            &[13, 0, 3, 0, 0, 0, 0],
            &[12, 0, 0, 0],
        ];
        for bytes in cases {
            assert_eq!(decode_identity(bytes).unwrap_err().code(), Code::Proto, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_identity(&bytes);
        }
    }
}
