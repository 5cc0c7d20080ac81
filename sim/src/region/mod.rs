// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regions of a device that speaks an older protocol, and how they are described.

mod rfc;
mod typed;
mod v1;

use crate::device::Core;
use crate::options::{Kind, SimOptions, quirk};
use typed::{FIRST, Typed};

/// A number that has no region, as with vfio-pci.
const NO_REGION: u32 = 8;

const READ_WRITE: u32 = 3;
const CAPS: u32 = 8;

enum Protocol {
    None,
    V1(v1::V1),
    Rfc(Box<rfc::Rfc>),
}

/// All regions of a device.
pub(crate) struct Regions {
    protocol: Protocol,
    looping: bool,
}

impl Regions {
    pub fn new(options: &SimOptions) -> Result<Regions, i32> {
        let window = if options.window == 0 { 64 << 10 } else { options.window };
        if window > 1 << 30 || (options.kind == Kind::V1 && window <= v1::CHUNK_HEADER as u64) {
            return Err(libc::EINVAL);
        }
        let protocol = match options.kind {
            Kind::V2 => Protocol::None,
            Kind::V1 => Protocol::V1(v1::V1::new(options, window)),
            Kind::Rfc => Protocol::Rfc(Box::new(rfc::Rfc::new(options, window))),
        };
        Ok(Regions { protocol, looping: options.quirks & quirk::LOOPING_CHAIN != 0 })
    }

    fn describe(&self, region: u32) -> Option<Typed> {
        match &self.protocol {
            Protocol::None => None,
            Protocol::V1(v1) => v1.describe(region),
            Protocol::Rfc(rfc) => rfc.describe(region),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        if matches!(self.protocol, Protocol::None) {
            return 0;
        }
        FIRST + (FIRST..).take_while(|region| self.describe(*region).is_some()).count() as u32
    }

    /// `VFIO_DEVICE_GET_REGION_INFO`.
    pub fn info(&self, region: u32, info: &mut [u8]) -> Result<(), i32> {
        if info.len() < 32 || region >= self.count() || region == NO_REGION {
            return Err(libc::EINVAL);
        }
        let typed = self.describe(region);
        let mut words = vec![32u32, 0, region, 0];
        words.extend(halves(typed.as_ref().map_or(0, |typed| typed.size)));
        words.extend(halves(u64::from(region) << 40));
        if let Some(Typed { kind, subtype, .. }) = typed {
            // Something that nobody knows, and the type, which comes last.
            let last = if self.looping { 32 } else { 0 };
            words.extend([header(0x63), 48, 0, 0, header(2), last, kind, subtype]);
            let first = if info.len() < words.len() * 4 { 0 } else { 32 };
            for (word, value) in words.iter_mut().zip([64, READ_WRITE | CAPS, region, first]) {
                *word = value;
            }
        }
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        info.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(())
    }

    pub fn read(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize, i32> {
        match &mut self.protocol {
            Protocol::None => Err(libc::EINVAL),
            Protocol::V1(v1) => v1.read(core, region, at, buf),
            Protocol::Rfc(rfc) => rfc.read(core, region, at, buf),
        }
    }

    pub fn write(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        bytes: &[u8],
    ) -> Result<usize, i32> {
        match &mut self.protocol {
            Protocol::None => Err(libc::EINVAL),
            Protocol::V1(v1) => v1.write(core, region, at, bytes),
            Protocol::Rfc(rfc) => rfc.write(core, region, at, bytes),
        }
    }
}

/// The first word of a capability of version 1: its id and its version, as they lie in memory.
fn header(id: u16) -> u32 {
    let ([a, b], [c, d]) = (id.to_ne_bytes(), 1u16.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// A number of 64 bits as two words, as they lie in memory.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}
