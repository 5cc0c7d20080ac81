// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the protocols with regions a device speaks, if any: told by the types of its regions, and
//! never guessed.

use super::describe::ask;
use super::{Protocol, V1};
use crate::error::{Code, Error, Result};
use crate::transport::{DeviceFlags, Region, Transport};
use crate::uapi;

/// Regions that are looked at. No device has nearly as many.
const MOST: u32 = 512;

/// What a device's regions say.
pub(crate) enum Found {
    /// None of them is for migration.
    Nothing,
    /// They are those of a protocol.
    Speaks(Box<dyn Protocol>),
    /// They are those of the protocol between the two, which was never part of Linux.
    Mid,
    /// They are for migration, and cannot be used, or could not be looked at.
    Unusable(String),
}

/// The regions that are for migration.
#[derive(Default)]
struct Candidates {
    v1: Option<Region>,
    twice: bool,
    control: bool,
    config: bool,
    /// What could not be looked at.
    failed: Option<Error>,
}

/// Looks at a device's regions. Fails if there is no memory for that.
pub(crate) fn find(io: &mut dyn Transport) -> Result<Found> {
    let Ok(info) = io.device_info() else { return Ok(Found::Nothing) };
    if info.num_regions > MOST {
        return Ok(Found::Unusable(format!("the driver claims {} regions", info.num_regions)));
    }
    let ccw = info.flags.contains(DeviceFlags::CCW);
    let mut found = Candidates::default();
    for index in 0..info.num_regions {
        match ask(io, index) {
            Ok(None) => {}
            Ok(Some(region)) => found.note(region, ccw),
            Err(error) if error.code() == Code::NoMem => return Err(error),
            Err(error) => {
                found.failed.get_or_insert(error);
            }
        }
    }
    Ok(found.judge())
}

impl Candidates {
    fn note(&mut self, region: Region, ccw: bool) {
        match region.kind {
            Some(uapi::REGION_V1) => self.twice |= self.v1.replace(region).is_some(),
            // Today these are the types of CCW's own regions.
            Some((uapi::REGION_TYPE_RFC, 1)) => self.control |= !ccw,
            Some((uapi::REGION_TYPE_RFC, 2)) => self.config |= !ccw,
            _ => {}
        }
    }

    fn judge(self) -> Found {
        if self.twice {
            return Found::Unusable("the device has two migration regions".to_owned());
        }
        if let Some(region) = self.v1 {
            let index = region.index;
            return match V1::new(region) {
                Ok(v1) => Found::Speaks(Box::new(v1)),
                Err(why) => Found::Unusable(format!("region {index} is for migration, but {why}")),
            };
        }
        match (self.control, self.config, self.failed) {
            (true, false, None) => Found::Mid,
            (_, _, Some(error)) => Found::Unusable(error.to_string()),
            _ => Found::Nothing,
        }
    }
}
