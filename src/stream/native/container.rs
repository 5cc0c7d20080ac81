// SPDX-License-Identifier: MIT OR Apache-2.0
//! An identity as bytes of its own, outside of a stream: what one host tells another, or a
//! scheduler, before anything is given up. docs/stream-format.md has the layout.

use super::frame::FORMAT_MAJOR;
use super::identity::{MAX_IDENTITY, decode_identity, encode_identity};
use crate::alloc;
use crate::crc::crc32;
use crate::error::{Result, err};
use crate::identity::Identity;
use crate::stream::bytes::{Get, Put};

/// How exported identities begin: 0x89, then `VFIOMID`.
const MAGIC: [u8; 8] = *b"\x89VFIOMID";

/// What stands before the fields, in bytes.
const HEAD: usize = 20;

/// Where the check stands, in bytes.
const CHECK: usize = 16;

/// The version of the container within its major one, which is the stream's.
const MINOR: u16 = 0;

/// No exported identity is longer, in bytes.
pub const MAX_EXPORTED: usize = HEAD + MAX_IDENTITY as usize;

const NO_MEMORY: &str = "no memory to export an identity";

/// CRC-32 of everything but the check itself.
fn check_of(bytes: &[u8]) -> u32 {
    let head = bytes.get(..CHECK).unwrap_or_default();
    crc32(&[head, bytes.get(HEAD..).unwrap_or_default()])
}

impl Identity {
    /// The identity as bytes that [`Identity::from_bytes`] reads, also in other versions of the
    /// library. What is not known takes no room.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let fields = encode_identity(self);
        let mut out = alloc::filled(0, HEAD + fields.len(), NO_MEMORY)?;
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&MAGIC);
        put.bytes(&FORMAT_MAJOR.to_le_bytes());
        put.bytes(&MINOR.to_le_bytes());
        put.bytes(&(fields.len() as u32).to_le_bytes());
        put.at = HEAD;
        put.bytes(&fields);
        let check = check_of(&out);
        Put { out: &mut out, at: CHECK }.bytes(&check.to_le_bytes());
        Ok(out)
    }

    /// Reads what [`Identity::to_bytes`] wrote: all of `bytes`, and nothing else. Fields that this
    /// version does not know are skipped.
    pub fn from_bytes(bytes: &[u8]) -> Result<Identity> {
        let Some((head, fields)) = bytes.split_at_checked(HEAD) else {
            return Err(err!(Proto, "{} bytes are no exported identity", bytes.len()));
        };
        let mut get = Get { bytes: head, at: 0 };
        if get.array() != MAGIC {
            return Err(err!(Proto, "these bytes are no exported identity"));
        }
        let (major, _minor, len, check) = (get.u16(), get.u16(), get.u32(), get.u32());
        if len > MAX_IDENTITY {
            return Err(err!(MsgSize, "an identity of {len} bytes; the most is {MAX_IDENTITY}"));
        }
        if fields.len() != len as usize {
            return Err(err!(
                Proto,
                "the exported identity has {} bytes of fields, and not {len}",
                fields.len()
            ));
        }
        // Before the version: a flipped bit is damage, and not a newer format.
        if check != check_of(bytes) {
            return Err(err!(BadMsg, "the exported identity is damaged: its checksum is wrong"));
        }
        if major != FORMAT_MAJOR {
            return Err(err!(
                Proto,
                "the exported identity has format {major}; this library reads {FORMAT_MAJOR}"
            ));
        }
        decode_identity(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::fsm::MigrationFlags;
    use crate::identity::{MAX_VENDOR_DATA, max_text};
    use proptest::prelude::*;

    /// Any text that an identity may have.
    fn text(longest: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 0..20).prop_map(move |chars| {
            let mut out = String::new();
            for c in chars.into_iter().filter(|c| !c.is_control()) {
                if out.len() + c.len_utf8() <= longest {
                    out.push(c);
                }
            }
            out
        })
    }

    fn any_identity() -> impl Strategy<Value = Identity> {
        let texts = (
            text(max_text::BUS),
            text(max_text::DRIVER),
            text(max_text::MDEV_TYPE),
            text(max_text::KERNEL_RELEASE),
            text(max_text::VENDOR_TYPE),
            text(max_text::DRIVER_VERSION),
            text(max_text::DRIVER_SRCVERSION),
            text(max_text::FIRMWARE),
        );
        let vendor_data = proptest::collection::vec(any::<u8>(), 0..=MAX_VENDOR_DATA);
        let numbers = (any::<[u16; 4]>(), any::<u8>(), any::<u64>(), any::<u64>(), any::<u32>());
        (texts, vendor_data, numbers).prop_map(|(texts, vendor_data, numbers)| {
            let (bus, driver, mdev_type, kernel_release) = (texts.0, texts.1, texts.2, texts.3);
            let (pci, revision, flags, state_size, protocol) = numbers;
            Identity {
                bus,
                driver,
                pci,
                // Without IDs, no revision either.
                pci_revision: if pci == [0; 4] { 0 } else { revision },
                mdev_type,
                kernel_release,
                migration_flags: MigrationFlags::from_bits_retain(flags),
                state_size,
                vendor_data,
                vendor_type: texts.4,
                driver_version: texts.5,
                driver_srcversion: texts.6,
                firmware: texts.7,
                protocol,
            }
        })
    }

    proptest! {
        #[test]
        fn every_identity_comes_back_as_it_was(identity in any_identity()) {
            let bytes = identity.to_bytes().unwrap();
            prop_assert!(bytes.len() <= MAX_EXPORTED);
            prop_assert_eq!(Identity::from_bytes(&bytes).unwrap(), identity);
        }

        #[test]
        fn no_flipped_bit_and_no_other_length_goes_unnoticed(
            identity in any_identity(),
            at in any::<proptest::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes = identity.to_bytes().unwrap();
            let at = at.index(bytes.len());
            prop_assert_eq!(Identity::from_bytes(&bytes[..at]).unwrap_err().code(), Code::Proto);
            bytes[at] ^= 1 << bit;
            prop_assert!(Identity::from_bytes(&bytes).is_err());
            bytes[at] ^= 1 << bit;
            bytes.push(0);
            prop_assert_eq!(Identity::from_bytes(&bytes).unwrap_err().code(), Code::Proto);
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_can_be_written(
            fields in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = Identity::default().to_bytes().unwrap();
            bytes.truncate(HEAD);
            bytes[12..16].copy_from_slice(&(fields.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&fields);
            let check = check_of(&bytes);
            bytes[CHECK..HEAD].copy_from_slice(&check.to_le_bytes());
            match Identity::from_bytes(&bytes) {
                Err(error) => prop_assert_eq!(error.code(), Code::Proto),
                Ok(read) => {
                    let again = Identity::from_bytes(&read.to_bytes().unwrap()).unwrap();
                    prop_assert_eq!(again, read);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_cannot_be_written() {
        let wrong = Identity { driver: "a\u{7f}".into(), ..Identity::default() };
        assert_eq!(wrong.to_bytes().unwrap_err().code(), Code::Inval);
    }
}
