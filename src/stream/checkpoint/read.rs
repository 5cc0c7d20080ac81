// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading the manifest of a checkpoint, from its file or from wherever its bytes are.

use super::layout::{HEAD_LEN, Head, TRAILER_LEN, Trailer, has_magic};
use super::manifest::{MAX_MANIFEST, Manifest, NO_MEMORY};
use super::tag::{self, Authenticity, BLOCK_LEN};
use crate::alloc;
use crate::crc::crc32;
use crate::error::{Result, err};
use crate::stream::native::Features;

/// Whether a file that begins like this is a checkpoint, or was to become one.
pub fn looks_like_a_checkpoint(beginning: &[u8]) -> bool {
    has_magic(beginning)
}

/// Reads the manifest of a checkpoint of `len` bytes. `read` fills a buffer with what lies at an
/// offset, and fails if that is not there.
///
/// What it returns has been verified as far as the manifest goes. The streams have not been looked
/// at: each has checks of its own, and says itself what the manifest says of it.
pub fn read_manifest(
    len: u64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
    trust: Authenticity<'_>,
) -> Result<Manifest> {
    let mut head_bytes = [0; HEAD_LEN];
    if len < HEAD_LEN as u64 {
        return Err(err!(Proto, "a file of {len} bytes is not a checkpoint"));
    }
    read(0, &mut head_bytes)?;
    let head = Head::decode(&head_bytes)?;
    let trailer = read_trailer(len, read, &head)?;
    let mut bytes = alloc::filled(0, trailer.len as usize, NO_MEMORY)?;
    read(trailer.offset, &mut bytes)?;
    if crc32(&[&bytes]) != trailer.check {
        return Err(err!(BadMsg, "the manifest of the checkpoint is damaged: its check is wrong"));
    }
    let authenticated = head.features.contains(Features::AUTHENTICATED);
    let (body, key_id) = match (authenticated, trust) {
        (true, trust) => {
            let Some(at) = bytes.len().checked_sub(BLOCK_LEN) else {
                return Err(err!(Proto, "the checkpoint does not say how it is authenticated"));
            };
            let (body, block) = bytes.split_at(at);
            (body, Some(tag::check(trust, &head_bytes, body, block)?))
        }
        (false, Authenticity::Verify(auth)) if !auth.allow_unauthenticated => {
            return Err(err!(
                Perm,
                "the checkpoint is not authenticated, and only those that are may be loaded"
            ));
        }
        (false, _) => (&bytes[..], None),
    };
    let manifest = Manifest { key_id, ..Manifest::decode(body, head.id)? };
    manifest.check(trailer.offset)?;
    Ok(manifest)
}

/// Where the manifest is.
fn read_trailer(
    len: u64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
    head: &Head,
) -> Result<Trailer> {
    let least = (HEAD_LEN + TRAILER_LEN) as u64;
    let Some(at) = len.checked_sub(TRAILER_LEN as u64).filter(|_| len >= least) else {
        return Err(err!(NoData, "the checkpoint is not complete: it has {len} bytes"));
    };
    let mut bytes = [0; TRAILER_LEN];
    read(at, &mut bytes)?;
    let trailer = Trailer::decode(&bytes)?;
    if trailer.id != head.id {
        return Err(err!(Proto, "the trailer of the checkpoint is that of another one"));
    }
    if trailer.len > MAX_MANIFEST {
        return Err(err!(
            MsgSize,
            "a manifest of {} bytes; the most is {MAX_MANIFEST}",
            trailer.len
        ));
    }
    let end = trailer.offset.checked_add(trailer.len);
    if end != Some(at) || trailer.offset < HEAD_LEN as u64 {
        return Err(err!(Proto, "the manifest of the checkpoint does not lie before its trailer"));
    }
    Ok(trailer)
}
