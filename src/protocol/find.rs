// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the protocols with regions a device speaks, if any: told by the types of its regions, and
//! never guessed.

use super::describe::ask;
use super::rfc::Parts;
use super::{Protocol, Rfc, V1};
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
    rfc: Parts,
    /// The type that two of them have.
    twice: Option<(u32, u32)>,
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
    Ok(found.judge(io))
}

impl Candidates {
    fn note(&mut self, region: Region, ccw: bool) {
        let Some(kind) = region.kind else { return };
        let place = match kind {
            uapi::REGION_V1 => &mut self.v1,
            // Today these are the types of CCW's own regions.
            (uapi::REGION_TYPE_RFC, _) if ccw => return,
            (uapi::REGION_TYPE_RFC, 1) => &mut self.rfc.control,
            (uapi::REGION_TYPE_RFC, 2) => &mut self.rfc.config,
            (uapi::REGION_TYPE_RFC, 3) => &mut self.rfc.memory,
            (uapi::REGION_TYPE_RFC, 4) => &mut self.rfc.bitmap,
            _ => return,
        };
        if place.replace(region).is_some() {
            self.twice = Some(kind);
        }
    }

    fn judge(self, io: &mut dyn Transport) -> Found {
        match self.twice {
            Some(uapi::REGION_V1) => {
                return Found::Unusable("the device has two migration regions".to_owned());
            }
            Some((_, subtype)) if self.v1.is_none() => {
                let text = format!("the device has two migration regions of subtype {subtype}");
                return Found::Unusable(text);
            }
            _ => {}
        }
        if let Some(region) = self.v1 {
            let index = region.index;
            return match V1::new(region) {
                Ok(v1) => Found::Speaks(Box::new(v1)),
                Err(why) => Found::Unusable(format!("region {index} is for migration, but {why}")),
            };
        }
        match (self.rfc.control.is_some(), self.rfc.config.is_some(), self.failed) {
            (_, _, Some(error)) => Found::Unusable(error.to_string()),
            (true, false, None) => Found::Mid,
            (true, true, None) => match Rfc::new(io, self.rfc) {
                Ok(rfc) => Found::Speaks(Box::new(rfc)),
                Err(why) => Found::Unusable(why),
            },
            _ => Found::Nothing,
        }
    }
}
