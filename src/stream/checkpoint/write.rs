// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a checkpoint's writer puts around the streams.

use super::layout::{HEAD_LEN, Head, Trailer};
use super::manifest::{MAX_MANIFEST, Manifest, NO_MEMORY};
use super::tag;
use crate::alloc;
use crate::crc::crc32;
use crate::error::{Result, err};
use crate::stream::auth::Auth;
use crate::stream::native::Features;

fn head(id: [u8; 16], authenticated: bool) -> [u8; HEAD_LEN] {
    let features = if authenticated { Features::AUTHENTICATED } else { Features::empty() };
    Head { features, id }.encode()
}

/// What the file of the checkpoint `id` begins with.
pub fn encode_head(id: [u8; 16], authenticated: bool) -> [u8; HEAD_LEN] {
    head(id, authenticated)
}

/// What the file ends with, behind `offset` bytes: the manifest, what authenticates it, and the
/// trailer. Refuses what no reader would take.
pub fn encode_manifest(
    manifest: &Manifest,
    offset: u64,
    auth: Option<&mut Auth>,
) -> Result<Vec<u8>> {
    manifest.check(offset)?;
    for entry in &manifest.devices {
        entry.identity.check()?;
    }
    let mut out = manifest.encode()?;
    if let Some(auth) = auth {
        let block = tag::make(auth, &head(manifest.id, true), &out)?;
        alloc::reserve(&mut out, block.len(), NO_MEMORY)?;
        out.extend_from_slice(&block);
    }
    let len = out.len() as u64;
    if len > MAX_MANIFEST {
        return Err(err!(MsgSize, "a manifest of {len} bytes; the most is {MAX_MANIFEST}"));
    }
    let trailer = Trailer { offset, len, id: manifest.id, check: crc32(&[&out]) }.encode();
    alloc::reserve(&mut out, trailer.len(), NO_MEMORY)?;
    out.extend_from_slice(&trailer);
    Ok(out)
}
