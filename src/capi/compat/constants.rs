// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_compat_*` and `vfiomig_identity_*`.

use crate::capi::device::{
    VFIOMIG_SEVERITY_BLOCKS, VFIOMIG_SEVERITY_INFO, VFIOMIG_SEVERITY_LIMITS,
};
use crate::capi::numbers::same_numbers;
use crate::compat::{Effect, Field, Why};
use crate::identity::protocol;
use crate::stream::MAX_EXPORTED;

/// A buffer of this size has room for any exported identity, in bytes.
pub const VFIOMIG_IDENTITY_BYTES: u32 = 4116;

/// The migration region of Linux 5.8 to 5.17.
pub const VFIOMIG_PROTOCOL_V1: u32 = 1;
/// The protocol of Linux 5.18 and newer.
pub const VFIOMIG_PROTOCOL_V2: u32 = 2;
/// The device state regions that were proposed in 2019.
pub const VFIOMIG_PROTOCOL_RFC: u32 = 3;

/// The bus.
pub const VFIOMIG_FIELD_BUS: u32 = 1;
/// The kernel driver.
pub const VFIOMIG_FIELD_DRIVER: u32 = 2;
/// PCI vendor and device, for example "15b3:101e".
pub const VFIOMIG_FIELD_PCI_DEVICE: u32 = 3;
/// PCI subsystem vendor and device, for example "15b3:0023".
pub const VFIOMIG_FIELD_PCI_SUBSYSTEM: u32 = 4;
/// PCI revision, for example "0x01". It is known wherever vendor and device are.
pub const VFIOMIG_FIELD_PCI_REVISION: u32 = 5;
/// The mdev type.
pub const VFIOMIG_FIELD_MDEV_TYPE: u32 = 6;
/// The vendor's type of a virtual function.
pub const VFIOMIG_FIELD_VENDOR_TYPE: u32 = 7;
/// The version of the driver's module.
pub const VFIOMIG_FIELD_DRIVER_VERSION: u32 = 8;
/// The hash of the source of the driver's module.
pub const VFIOMIG_FIELD_DRIVER_SRCVERSION: u32 = 9;
/// The version of the firmware.
pub const VFIOMIG_FIELD_FIRMWARE: u32 = 10;
/// The VMM's string; bytes that cannot be printed as \n, \x00 and so on.
pub const VFIOMIG_FIELD_VENDOR_DATA: u32 = 11;
/// The migration protocol: VFIOMIG_PROTOCOL_* in decimal.
pub const VFIOMIG_FIELD_PROTOCOL: u32 = 12;
/// The kernel's release.
pub const VFIOMIG_FIELD_KERNEL_RELEASE: u32 = 13;
/// The estimated size of the state, in bytes, in decimal.
pub const VFIOMIG_FIELD_STATE_SIZE: u32 = 14;
/// VFIO_MIGRATION_* flags, in hexadecimal: "0x7".
pub const VFIOMIG_FIELD_MIGRATION_FLAGS: u32 = 15;

/// What is best for the field: see vfiomig_compat_judge().
pub const VFIOMIG_RULE_DEFAULT: u32 = 0;
/// The field is passed over.
pub const VFIOMIG_RULE_IGNORE: u32 = 1;
/// If both sides know it, it must be the same.
pub const VFIOMIG_RULE_IF_KNOWN: u32 = 2;
/// If the target knows it, the source must say the same.
pub const VFIOMIG_RULE_AS_TARGET: u32 = 3;
/// It must be the same, or neither side knows it.
pub const VFIOMIG_RULE_EXACT: u32 = 4;
/// Both sides must know it, and it must be the same.
pub const VFIOMIG_RULE_REQUIRE: u32 = 5;
/// The source's value must be one of values, whatever the target's is.
pub const VFIOMIG_RULE_ONE_OF: u32 = 6;
/// Both sides must know it, and it must be the same, or the source's value and the target's must
/// follow each other in values at an even place.
pub const VFIOMIG_RULE_PAIRS: u32 = 7;
/// Both sides must know it, and both values must be versions from min to max. Only for
/// VFIOMIG_FIELD_DRIVER_VERSION and VFIOMIG_FIELD_FIRMWARE.
pub const VFIOMIG_RULE_RANGE: u32 = 8;

/// Both sides know the field, and it differs.
pub const VFIOMIG_COMPAT_DIFFERS: u32 = 1;
/// Only the target knows it.
pub const VFIOMIG_COMPAT_SOURCE_UNKNOWN: u32 = 2;
/// Only the source knows it.
pub const VFIOMIG_COMPAT_TARGET_UNKNOWN: u32 = 3;
/// Neither side knows it.
pub const VFIOMIG_COMPAT_BOTH_UNKNOWN: u32 = 4;
/// It differs or a side does not know it, and it was passed over.
pub const VFIOMIG_COMPAT_IGNORED: u32 = 5;
/// It differs, and a list or a range allows that.
pub const VFIOMIG_COMPAT_ALLOWED: u32 = 6;
/// It is not in the list.
pub const VFIOMIG_COMPAT_NOT_LISTED: u32 = 7;
/// It is out of the range.
pub const VFIOMIG_COMPAT_OUT_OF_RANGE: u32 = 8;
/// It cannot be compared with a range: it is not numbers between dots.
pub const VFIOMIG_COMPAT_NOT_A_VERSION: u32 = 9;
/// The policy's callback refuses; of no field.
pub const VFIOMIG_COMPAT_CALLBACK: u32 = 10;

same_numbers!(
    VFIOMIG_IDENTITY_BYTES = MAX_EXPORTED,
    VFIOMIG_PROTOCOL_V1 = protocol::V1,
    VFIOMIG_PROTOCOL_V2 = protocol::V2,
    VFIOMIG_PROTOCOL_RFC = protocol::RFC,
);
same_numbers!(Field:
    VFIOMIG_FIELD_BUS = Bus,
    VFIOMIG_FIELD_DRIVER = Driver,
    VFIOMIG_FIELD_PCI_DEVICE = PciDevice,
    VFIOMIG_FIELD_PCI_SUBSYSTEM = PciSubsystem,
    VFIOMIG_FIELD_PCI_REVISION = PciRevision,
    VFIOMIG_FIELD_MDEV_TYPE = MdevType,
    VFIOMIG_FIELD_VENDOR_TYPE = VendorType,
    VFIOMIG_FIELD_DRIVER_VERSION = DriverVersion,
    VFIOMIG_FIELD_DRIVER_SRCVERSION = DriverSrcversion,
    VFIOMIG_FIELD_FIRMWARE = Firmware,
    VFIOMIG_FIELD_VENDOR_DATA = VendorData,
    VFIOMIG_FIELD_PROTOCOL = Protocol,
    VFIOMIG_FIELD_KERNEL_RELEASE = KernelRelease,
    VFIOMIG_FIELD_STATE_SIZE = StateSize,
    VFIOMIG_FIELD_MIGRATION_FLAGS = MigrationFlags,
);
same_numbers!(Why:
    VFIOMIG_COMPAT_DIFFERS = Differs,
    VFIOMIG_COMPAT_SOURCE_UNKNOWN = SourceUnknown,
    VFIOMIG_COMPAT_TARGET_UNKNOWN = TargetUnknown,
    VFIOMIG_COMPAT_BOTH_UNKNOWN = BothUnknown,
    VFIOMIG_COMPAT_IGNORED = Ignored,
    VFIOMIG_COMPAT_ALLOWED = Allowed,
    VFIOMIG_COMPAT_NOT_LISTED = NotListed,
    VFIOMIG_COMPAT_OUT_OF_RANGE = OutOfRange,
    VFIOMIG_COMPAT_NOT_A_VERSION = NotAVersion,
    VFIOMIG_COMPAT_CALLBACK = Callback,
);
same_numbers!(Effect:
    VFIOMIG_SEVERITY_BLOCKS = Refuses,
    VFIOMIG_SEVERITY_LIMITS = Unchecked,
    VFIOMIG_SEVERITY_INFO = Passes,
);
