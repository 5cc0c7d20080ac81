// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is: learned from its fd and sysfs (`device/learn.rs`), carried in the stream or as
//! bytes of its own. Which device may take whose state is up to `compat.rs`.
//!
//! The identity guards against accidents (a stream for another kind of device), not against someone
//! who writes a stream by hand: what the stream claims is not proof.

use crate::error::{Result, err};
use crate::fsm::MigrationFlags;

/// What a device is, as far as it is known. Empty texts and zeros mean "not known".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The bus that the device behaves as, even if it is an mdev: `pci`, `platform`, `ccw` or `ap`.
    pub bus: String,
    /// Kernel driver bound to the device.
    pub driver: String,
    /// PCI vendor, device, subsystem vendor and subsystem device ID.
    pub pci: [u16; 4],
    /// PCI revision.
    pub pci_revision: u8,
    /// mdev type, for example `mtty-2`.
    pub mdev_type: String,
    /// Kernel release.
    pub kernel_release: String,
    /// Migration flags.
    pub migration_flags: MigrationFlags,
    /// Estimated size of the state, in bytes.
    pub state_size: u64,
    /// The caller's opaque string.
    pub vendor_data: Vec<u8>,
    /// The type of a virtual function that its vendor's driver has made, if that is not an mdev
    /// type: for example `nvidia-1155`.
    pub vendor_type: String,
    /// The version of the driver's module, if it has one. Most in-tree drivers have none.
    pub driver_version: String,
    /// The hash that the kernel's build makes of the source of the driver's module.
    pub driver_srcversion: String,
    /// The version of the device's firmware.
    pub firmware: String,
    /// Which of VFIO's migration protocols the state is of: a number of [`protocol`].
    pub protocol: u32,
}

impl Identity {
    /// The protocol of its state. Those that do not say are of the newest.
    pub(crate) fn generation(&self) -> u32 {
        if self.protocol == 0 { protocol::V2 } else { self.protocol }
    }
}

/// VFIO's migration protocols. A state is of one of them.
pub mod protocol {
    /// The migration region, Linux 5.8 to 5.17.
    pub const V1: u32 = 1;
    /// Linux 5.18 and newer.
    pub const V2: u32 = 2;
    /// The device state regions proposed in 2019.
    pub const RFC: u32 = 3;
}

/// The longest vendor string, in bytes.
pub const MAX_VENDOR_DATA: usize = 256;

/// The longest texts, in bytes.
pub mod max_text {
    /// For the bus.
    pub const BUS: usize = 15;
    /// For the driver's name.
    pub const DRIVER: usize = 63;
    /// For the mdev type.
    pub const MDEV_TYPE: usize = 63;
    /// For the kernel's release.
    pub const KERNEL_RELEASE: usize = 71;
    /// For the vendor's type.
    pub const VENDOR_TYPE: usize = 63;
    /// For the driver's version.
    pub const DRIVER_VERSION: usize = 63;
    /// For the hash of the driver's source.
    pub const DRIVER_SRCVERSION: usize = 63;
    /// For the firmware's version.
    pub const FIRMWARE: usize = 63;
}

impl Identity {
    /// All texts, each with its name and the most bytes that it may have.
    fn texts(&self) -> [(&'static str, &str, usize); 8] {
        [
            ("bus", &self.bus, max_text::BUS),
            ("driver", &self.driver, max_text::DRIVER),
            ("mdev type", &self.mdev_type, max_text::MDEV_TYPE),
            ("kernel release", &self.kernel_release, max_text::KERNEL_RELEASE),
            ("vendor's type", &self.vendor_type, max_text::VENDOR_TYPE),
            ("driver version", &self.driver_version, max_text::DRIVER_VERSION),
            ("driver srcversion", &self.driver_srcversion, max_text::DRIVER_SRCVERSION),
            ("firmware", &self.firmware, max_text::FIRMWARE),
        ]
    }

    /// Refuses what no reader would take: texts that are too long or hold control characters, and
    /// vendor strings that are too long.
    pub fn check(&self) -> Result<()> {
        for (name, text, longest) in self.texts() {
            if text.len() > longest || text.chars().any(char::is_control) {
                return Err(err!(
                    Inval,
                    "the identity's {name} is longer than {longest} bytes or has control characters"
                ));
            }
        }
        let len = self.vendor_data.len();
        if len > MAX_VENDOR_DATA {
            return Err(err!(
                Inval,
                "the vendor string has {len} bytes; the most is {MAX_VENDOR_DATA}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_no_reader_would_take_is_refused() {
        let mut longest = Identity { bus: "b".repeat(15), ..Identity::default() };
        longest.vendor_data = vec![0; MAX_VENDOR_DATA];
        longest.check().unwrap();
        let wrong = [
            Identity { bus: "b".repeat(16), ..Identity::default() },
            Identity { firmware: "f".repeat(64), ..Identity::default() },
            Identity { driver_srcversion: "a\n".into(), ..Identity::default() },
            Identity { vendor_data: vec![0; MAX_VENDOR_DATA + 1], ..Identity::default() },
        ];
        for identity in wrong {
            assert_eq!(identity.check().unwrap_err().code(), Code::Inval, "{identity:?}");
        }
    }
}
