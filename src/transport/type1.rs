// SPDX-License-Identifier: MIT OR Apache-2.0
//! A type1 container, reached through its fd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::dirty::{PageSizes, Type1, Type1Info};
use crate::alloc;
use crate::error::Errno;
use crate::sys::{Bitmap, type1, uapi};

/// A container's fd, lent by the VMM.
pub struct KernelType1 {
    fd: Arc<dyn AsFd + Send + Sync>,
}

impl KernelType1 {
    /// Wraps a container that has been set to `VFIO_TYPE1v2_IOMMU`.
    pub fn new(fd: impl AsFd + Send + Sync + 'static) -> KernelType1 {
        KernelType1 { fd: Arc::new(fd) }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn read_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Finds the migration capability in what `VFIO_IOMMU_GET_INFO` returned. The offsets come from the
/// kernel: one that points outside, or backwards, ends the search.
fn parse_type1_info(info: &[u8]) -> Type1Info {
    let find = || {
        let flags = u32::from_ne_bytes(read_at(info, 4)?);
        if flags & uapi::TYPE1_INFO_CAPS == 0 {
            return None;
        }
        let mut at = u32::from_ne_bytes(read_at(info, 16)?) as usize;
        let mut before = 0;
        while at > before {
            let id = u16::from_ne_bytes(read_at(info, at)?);
            if id == uapi::TYPE1_INFO_CAP_MIGRATION {
                return Some(Type1Info {
                    page_sizes: PageSizes::from_bits(u64::from_ne_bytes(read_at(
                        info,
                        at.checked_add(16)?,
                    )?)),
                    max_bitmap: u64::from_ne_bytes(read_at(info, at.checked_add(24)?)?),
                });
            }
            before = at;
            at = u32::from_ne_bytes(read_at(info, at.checked_add(4)?)?) as usize;
        }
        None
    };
    find().unwrap_or_default()
}

impl Type1 for KernelType1 {
    fn key(&self) -> u64 {
        self.fd().as_raw_fd() as u64
    }

    fn info(&mut self) -> Result<Type1Info, Errno> {
        // Room for far more capabilities than exist, because a list of reserved ranges may be long.
        let no_room = |_| Errno(libc::ENOMEM);
        let mut info = alloc::filled(0u64, 8192, "").map_err(no_room)?;
        let mut bytes = Vec::new();
        alloc::reserve(&mut bytes, info.len() * 8, "").map_err(no_room)?;
        type1::info(self.fd(), &mut info)?;
        bytes.extend(info.iter().flat_map(|word| word.to_ne_bytes()));
        Ok(parse_type1_info(&bytes))
    }

    fn start(&mut self) -> Result<(), Errno> {
        type1::start(self.fd())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        type1::stop(self.fd())
    }

    fn bitmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        type1::get_bitmap(self.fd(), bitmap)
    }

    fn unmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<u64, Errno> {
        type1::unmap(self.fd(), bitmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(caps: &[(usize, u16, u32, u64, u64)], first: u32) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[4..8].copy_from_slice(&uapi::TYPE1_INFO_CAPS.to_ne_bytes());
        bytes[16..20].copy_from_slice(&first.to_ne_bytes());
        for (at, id, next, sizes, max) in caps {
            bytes[*at..at + 2].copy_from_slice(&id.to_ne_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&next.to_ne_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&sizes.to_ne_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&max.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn the_migration_capability_is_found_behind_others() {
        let both = info(&[(24, 1, 64, 9, 9), (64, 2, 0, 4096, 1 << 28)], 24);
        let found = parse_type1_info(&both);
        assert_eq!(
            found,
            Type1Info { page_sizes: PageSizes::from_bits(4096), max_bitmap: 1 << 28 }
        );
    }

    #[test]
    fn chains_that_lead_outside_or_round_end_the_search() {
        let none = Type1Info::default();
        for bytes in [
            info(&[], u32::MAX),
            info(&[], 126),
            info(&[(24, 1, 24, 0, 0)], 24),
            info(&[(24, 1, 64, 0, 0), (64, 1, 24, 0, 0)], 24),
            info(&[(24, 1, u32::MAX, 0, 0)], 24),
            info(&[(96, 2, 0, 1, 1)], 96)[..120].to_vec(),
            vec![],
        ] {
            assert_eq!(parse_type1_info(&bytes), none);
        }
        let mut flagless = info(&[(24, 2, 0, 4096, 1)], 24);
        flagless[4..8].fill(0);
        assert_eq!(parse_type1_info(&flagless), none);
    }
}
