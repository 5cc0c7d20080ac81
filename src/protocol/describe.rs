// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks for the description of a region, whose length only the first answer tells.

use crate::alloc;
use crate::error::{Error, Result, err};
use crate::sys::Errno;
use crate::transport::{REGION_INFO, Region, Transport};

/// The longest answer that is believed, in bytes: over 4000 areas.
const LONGEST: usize = 64 << 10;

/// Asks for a region. None: there is no such region.
pub(super) fn ask(io: &mut dyn Transport, index: u32) -> Result<Option<Region>> {
    let asked = |errno: Errno| {
        Error::from_args(errno.code(), format_args!("region {index} is not described: {errno}"))
    };
    let mut short = [0; REGION_INFO / 8];
    match io.region_info(index, &mut short) {
        Ok(()) => {}
        // vfio-pci has numbers without regions.
        Err(Errno(libc::EINVAL)) => return Ok(None),
        Err(errno) => return Err(asked(errno)),
    }
    let needed = Region::needed(&short);
    if needed <= REGION_INFO {
        return Region::read(&short, index).map(Some);
    }
    if needed > LONGEST {
        return Err(err!(Io, "the driver's answer for region {index} has {needed} bytes"));
    }
    // With too little room the call succeeds anyway, without capabilities.
    let what = "no memory for the driver's answer";
    let mut reply = alloc::filled(0u64, needed.div_ceil(8), what)?;
    io.region_info(index, &mut reply).map_err(asked)?;
    Region::read(&reply, index).map(Some)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::{DataFd, DeviceInfo, Direction, FeatureRequest, PrecopyInfo};

    /// `struct vfio_region_info` and what comes behind it.
    fn reply(flags: u32, first: u32, size: u64, caps: &[u8]) -> Vec<u8> {
        let argsz = (REGION_INFO + caps.len()) as u32;
        let mut all: Vec<u8> =
            [argsz, flags, 9, first].iter().flat_map(|word| word.to_ne_bytes()).collect();
        all.extend(size.to_ne_bytes());
        all.extend((9u64 << 40).to_ne_bytes());
        all.extend(caps);
        all
    }

    /// A device that gives these answers, as a kernel does: as much as there is room for.
    struct Driver(std::result::Result<Vec<u8>, i32>);

    impl Transport for Driver {
        fn region_info(&mut self, _: u32, reply: &mut [u64]) -> std::result::Result<(), Errno> {
            let mut all = self.0.clone().map_err(Errno)?;
            let room = size_of_val(reply);
            if room < all.len() {
                all[12..16].fill(0);
            }
            all.resize(room.max(all.len()), 0);
            for (word, bytes) in reply.iter_mut().zip(all.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into().unwrap());
            }
            Ok(())
        }
        fn feature(&mut self, _: FeatureRequest, _: &mut [u8]) -> std::result::Result<(), Errno> {
            unreachable!()
        }
        fn device_info(&mut self) -> std::result::Result<DeviceInfo, Errno> {
            unreachable!()
        }
        fn reset(&mut self) -> std::result::Result<(), Errno> {
            unreachable!()
        }
        fn data_read(&mut self, _: DataFd, _: &mut [u8]) -> std::result::Result<usize, Errno> {
            unreachable!()
        }
        fn data_write(&mut self, _: DataFd, _: &[u8]) -> std::result::Result<usize, Errno> {
            unreachable!()
        }
        fn data_precopy_info(&mut self, _: DataFd) -> std::result::Result<PrecopyInfo, Errno> {
            unreachable!()
        }
        fn data_close(&mut self, _: DataFd) {}
        fn data_poll_fd(&self, _: DataFd) -> Option<i32> {
            None
        }
        fn data_set_nonblocking(&mut self, _: DataFd) -> std::result::Result<(), Errno> {
            unreachable!()
        }
        fn data_wait(&mut self, _: DataFd, _: Direction, _: Duration) {}
        fn region_read(
            &mut self,
            _: u32,
            _: u64,
            _: &mut [u8],
        ) -> std::result::Result<usize, Errno> {
            unreachable!()
        }
    }

    #[test]
    fn a_region_is_asked_for_twice_and_a_number_without_one_is_none() {
        // A type, of version 1.
        let mut chain = [2u16, 1].map(u16::to_ne_bytes).concat();
        chain.extend([0u32, 3, 1].map(u32::to_ne_bytes).concat());
        let mut driver = Driver(Ok(reply(1 | 8, 32, 4096, &chain)));
        assert_eq!(ask(&mut driver, 9).unwrap().unwrap().kind, Some((3, 1)));
        let mut plain = Driver(Ok(reply(1, 0, 256, &[])));
        assert_eq!(ask(&mut plain, 7).unwrap().unwrap().size, 256);
        assert_eq!(ask(&mut Driver(Err(libc::EINVAL)), 8).unwrap(), None);
        assert!(ask(&mut Driver(Err(libc::EIO)), 8).is_err());
        let mut huge = reply(8, 32, 4096, &[]);
        huge[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        let text = ask(&mut Driver(Ok(huge)), 9).unwrap_err().to_string();
        assert!(text.contains("4294967295 bytes"), "{text}");
    }
}
