// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regions of a device that speaks the protocol of the RFC, and whether they can be used.

use super::registers::{DEVICE_MEMORY, END, LAYOUT, Registers, SYSTEM_MEMORY};
use crate::protocol::window::Window;
use crate::sys::Errno;
use crate::transport::{Region, RegionFlags, Transport};

/// What was found of them, by their subtypes.
#[derive(Default)]
pub(crate) struct Parts {
    pub control: Option<Region>,
    pub config: Option<Region>,
    pub memory: Option<Region>,
    pub bitmap: Option<Region>,
}

/// The regions that are used.
pub(super) struct Regions {
    pub control: Window,
    pub config: Window,
    /// A window to the device's own memory, if it has some.
    pub memory: Option<Window>,
    /// The pages of the guest's memory that it has written to, if it knows them.
    pub bitmap: Option<Window>,
}

impl Regions {
    /// Checks that the regions are what the control region says. An error says what is wrong.
    pub fn new(io: &mut dyn Transport, parts: Parts) -> Result<Regions, String> {
        let control = usable(parts.control, "control", END)?;
        let unread = |errno: Errno| format!("the control region cannot be read: {errno}");
        let version = Registers(&control).version(io).map_err(unread)?;
        if version != LAYOUT {
            return Err(format!("the control region has version {version}, not {LAYOUT}"));
        }
        let caps = Registers(&control).caps(io).map_err(unread)?;
        if caps & !(DEVICE_MEMORY | SYSTEM_MEMORY) != 0 {
            return Err(format!("the device has capabilities {caps:#x}, some of them unknown"));
        }
        let config = usable(parts.config, "configuration", 1)?;
        let memory = match caps & DEVICE_MEMORY {
            0 => None,
            _ => Some(usable(parts.memory, "device memory", 1)?),
        };
        let bitmap = match caps & SYSTEM_MEMORY {
            0 => None,
            _ => Some(usable(parts.bitmap, "dirty bitmap", 8)?),
        };
        Ok(Regions { control, config, memory, bitmap })
    }

    pub fn registers(&self) -> Registers<'_> {
        Registers(&self.control)
    }

    /// Maps what can be mapped. The control region is for fields.
    pub fn map(&mut self, io: &mut dyn Transport) {
        self.config.map(io);
        if let Some(memory) = &mut self.memory {
            memory.map(io);
        }
    }

    pub fn unmap(&mut self) {
        self.config.unmap();
        if let Some(memory) = &mut self.memory {
            memory.unmap();
        }
    }
}

fn usable(region: Option<Region>, what: &str, least: u64) -> Result<Window, String> {
    let region = region.ok_or_else(|| format!("it has no {what} region"))?;
    if !region.flags.contains(RegionFlags::READ | RegionFlags::WRITE) {
        return Err(format!("the {what} region cannot be read and written"));
    }
    match region.size < least {
        true => Err(format!("the {what} region has {} bytes", region.size)),
        false => Ok(Window::new(region)),
    }
}
