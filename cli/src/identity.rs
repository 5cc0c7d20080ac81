// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is, as JSON and as text: of a device, a stream, or an exported identity.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vfiomig::compat::Field;
use vfiomig::device::Identity;

use crate::text::{hex, line};

/// All that is known, with the bytes that say the same.
pub fn identity_json(identity: &Identity) -> Value {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let [vendor, device, subsystem_vendor, subsystem_device] = identity.pci;
    let pci = (vendor != 0).then(|| {
        json!({
            "vendor": format!("{vendor:04x}"),
            "device": format!("{device:04x}"),
            "subsystem_vendor": format!("{subsystem_vendor:04x}"),
            "subsystem_device": format!("{subsystem_device:04x}"),
            "revision": format!("{:02x}", identity.pci_revision),
        })
    });
    json!({
        "bus": known(&identity.bus),
        "driver": known(&identity.driver),
        "driver_version": known(&identity.driver_version),
        "driver_srcversion": known(&identity.driver_srcversion),
        "firmware": known(&identity.firmware),
        "mdev_type": known(&identity.mdev_type),
        "vendor_type": known(&identity.vendor_type),
        "pci": pci,
        "protocol": (identity.protocol != 0).then_some(identity.protocol),
        "kernel_release": known(&identity.kernel_release),
        "exported": identity.to_bytes().ok().map(|bytes| hex(&bytes)),
    })
}

/// All that is known, in lines.
pub fn identity_text(out: &mut String, identity: &Identity) {
    let mut text = String::new();
    for &field in Field::ALL {
        if let Ok(Some(value)) = field.value(identity) {
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}{} {value}", field.name());
        }
    }
    line(out, "saved from", if text.is_empty() { "unknown" } else { &text });
}
