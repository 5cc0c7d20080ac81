// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory by I/O addresses: a piece is read or written place by place.

use crate::dirty::map::Piece;
use crate::dirty::memory::{Memory, Place};
use crate::error::Errno;

type Answer = std::result::Result<(), Errno>;

/// Reads all of a piece.
pub(super) fn read(memory: &mut dyn Memory, piece: &Piece, buf: &mut [u8]) -> Answer {
    each_place(memory, piece, |memory, place, from, len| {
        memory.read(place, buf.get_mut(from..from + len).ok_or(Errno(libc::EINVAL))?)
    })
}

/// Writes all of a piece.
pub(super) fn write(memory: &mut dyn Memory, piece: &Piece, buf: &[u8]) -> Answer {
    each_place(memory, piece, |memory, place, from, len| {
        memory.write(place, buf.get(from..from + len).ok_or(Errno(libc::EINVAL))?)
    })
}

/// Calls `access` for each place in which part of a piece lies, with the offset in the piece and
/// the length.
fn each_place(
    memory: &mut dyn Memory,
    piece: &Piece,
    mut access: impl FnMut(&mut dyn Memory, Place, usize, usize) -> Answer,
) -> Answer {
    let length = piece.size();
    let mut done = 0;
    while done < length {
        let iova = piece.first + done;
        let place = if piece.mapping.translate {
            memory.translate(iova, length - done)?
        } else {
            Place {
                cookie: piece.mapping.cookie,
                offset: piece.offset_of(iova),
                size: length - done,
                host: piece.host_of(iova),
            }
        };
        let n = place.size.min(length - done);
        if n == 0 {
            return Err(Errno(libc::EINVAL));
        }
        access(memory, Place { size: n, ..place }, done as usize, n as usize)?;
        done += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::dirty::fake::{PAGE, Vmm};
    use crate::dirty::map::Mapping;
    use crate::dirty::memory::DirtyPages;

    /// Answers a read with its number, and keeps what was read.
    struct Bytes(Arc<Mutex<Vec<(u64, usize)>>>, Vmm);

    impl Memory for Bytes {
        fn set_dirty(&mut self, _: DirtyPages<'_>) -> Answer {
            Ok(())
        }

        fn translate(&mut self, iova: u64, n: u64) -> Result<Place, Errno> {
            self.1.translate(iova, n)
        }

        fn read(&mut self, place: Place, buf: &mut [u8]) -> Answer {
            let mut seen = self.0.lock().unwrap();
            buf.fill(seen.len() as u8);
            seen.push((place.offset, buf.len()));
            Ok(())
        }
    }

    #[test]
    fn guest_memory_is_accessed_place_by_place() {
        let (seen, vmm) = (Arc::default(), Vmm::default());
        let mut memory = Bytes(Arc::clone(&seen), vmm.clone());
        let size = 3 * PAGE;
        let mapping = Mapping { size, translate: true, ..Mapping::default() };
        let piece = Piece { first: 0, last: size - 1, mapping };
        let mut buf = vec![9; size as usize];
        assert_eq!(read(&mut memory, &piece, &mut buf), Err(Errno(libc::ENOENT)));
        vmm.taken().place = Some((10, 2));
        read(&mut memory, &piece, &mut buf).unwrap();
        let n = PAGE as usize;
        assert_eq!(*seen.lock().unwrap(), [(10 * PAGE, 2 * n), (12 * PAGE, n)]);
        assert_eq!((buf[2 * n - 1], buf[2 * n]), (0, 1));
        // There is no other way to write.
        assert_eq!(write(&mut memory, &piece, &buf), Err(Errno(libc::EOPNOTSUPP)));
        vmm.taken().place = Some((10, 0));
        assert_eq!(read(&mut memory, &piece, &mut buf), Err(Errno(libc::EINVAL)));
    }
}
