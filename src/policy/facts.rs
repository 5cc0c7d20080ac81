// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a device, for rules to be held against.

use crate::identity::Identity;

/// What is known of a device.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name in sysfs: a PCI address, or the UUID of a mediated device.
    pub name: Option<&'a str>,
    /// What it is.
    pub identity: &'a Identity,
}

/// One thing about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known<T> {
    Is(T),
    /// The device has no such thing.
    HasNone,
    Unknown,
}

/// Whether a condition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    Yes,
    No,
    /// What it asks for is not known.
    Perhaps,
}

impl<T: Copy> Known<T> {
    pub fn holds(self, condition: impl FnOnce(T) -> bool) -> Holds {
        match self {
            Known::Is(value) if condition(value) => Holds::Yes,
            Known::Is(_) | Known::HasNone => Holds::No,
            Known::Unknown => Holds::Perhaps,
        }
    }
}

impl<'a> Facts<'a> {
    pub(super) fn name(&self) -> Known<&'a str> {
        self.name.map_or(Known::Unknown, Known::Is)
    }

    pub(super) fn driver(&self) -> Known<&'a str> {
        match self.identity.driver.as_str() {
            "" => Known::Unknown,
            driver => Known::Is(driver),
        }
    }

    pub(super) fn mdev_type(&self) -> Known<&'a str> {
        self.kind(&self.identity.mdev_type)
    }

    pub(super) fn vendor_type(&self) -> Known<&'a str> {
        self.kind(&self.identity.vendor_type)
    }

    /// Whoever knows the driver has found the place where the types are.
    fn kind(&self, kind: &'a str) -> Known<&'a str> {
        match (kind, self.driver()) {
            ("", Known::Unknown) => Known::Unknown,
            ("", _) => Known::HasNone,
            _ => Known::Is(kind),
        }
    }

    /// PCI vendor and device.
    pub(super) fn pci(&self) -> Known<(u16, u16)> {
        let [vendor, device, ..] = self.identity.pci;
        match (vendor, self.identity.bus.as_str()) {
            (0, "" | "pci") => Known::Unknown,
            (0, _) => Known::HasNone,
            _ => Known::Is((vendor, device)),
        }
    }
}
