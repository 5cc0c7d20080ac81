// SPDX-License-Identifier: MIT OR Apache-2.0
//! What vouches for a manifest: a tag that only who has the key can make. It ties the streams to
//! each other, so that nobody makes one checkpoint of the devices of two.

use zeroize::Zeroize;

use super::layout::HEAD_LEN;
use crate::error::{Error, Result, err};
use crate::stream::auth::{Auth, Key, Secret, TAG_LEN, callback_failure};
use crate::stream::bytes::{Get, Put};

/// Length of what authenticates a manifest, in bytes.
pub(super) const BLOCK_LEN: usize = 48;
const MARK: [u8; 4] = *b"VMCa";
/// What a caller's key becomes in no other use of it: docs/stream-format.md.
const CONTEXT: &str = "libvfiomig 2026-12-01 manifest of a checkpoint";

/// What a reader makes of what authenticates a checkpoint.
#[derive(Debug)]
pub enum Authenticity<'a> {
    /// It is verified with this. Whether a checkpoint without it is refused is up to that, too.
    Verify(&'a mut Auth),
    /// There is nothing to verify it with: an authenticated checkpoint is refused.
    NoKey,
    /// It is not looked at: for programs that show what is there and load nothing.
    Ignore,
}

fn algorithm(secret: &Secret) -> u16 {
    match secret {
        Secret::Keys(_) => 1,
        Secret::Mac(_) => 2,
    }
}

/// What stands behind a manifest that is authenticated with `auth`.
pub(super) fn make(
    auth: &mut Auth,
    head: &[u8; HEAD_LEN],
    manifest: &[u8],
) -> Result<[u8; BLOCK_LEN]> {
    auth.check()?;
    let mut block = [0; BLOCK_LEN];
    let mut put = Put { out: &mut block, at: 0 };
    put.bytes(&MARK);
    put.bytes(&algorithm(&auth.secret).to_le_bytes());
    put.bytes(&[0; 2]);
    put.bytes(&auth.key_id.to_le_bytes());
    let (before, _) = block.split_at(BLOCK_LEN - TAG_LEN);
    let tag = compute(&mut auth.secret, auth.key_id, &[head, manifest, before])?;
    Put { out: &mut block, at: BLOCK_LEN - TAG_LEN }.bytes(&tag);
    Ok(block)
}

/// Reads the block, and verifies it if the caller wants that. Returns the key's id.
pub(super) fn check(
    trust: Authenticity<'_>,
    head: &[u8; HEAD_LEN],
    manifest: &[u8],
    block: &[u8],
) -> Result<u32> {
    let mut get = Get { bytes: block, at: 0 };
    let (mark, made_with, reserved) = (get.array::<4>(), get.u16(), get.u16());
    let (key_id, more) = (get.u32(), get.u32());
    let known = (1..=2).contains(&made_with);
    if block.len() != BLOCK_LEN || mark != MARK || !known || reserved != 0 || more != 0 {
        return Err(err!(Proto, "the checkpoint does not say how it is authenticated"));
    }
    let auth = match trust {
        Authenticity::Ignore => return Ok(key_id),
        Authenticity::NoKey => {
            return Err(err!(
                Perm,
                "the checkpoint is authenticated, and there is no key to verify it with"
            ));
        }
        Authenticity::Verify(auth) => auth,
    };
    auth.check()?;
    if algorithm(&auth.secret) != made_with {
        return Err(err!(Perm, "the checkpoint is authenticated in another way than is verified"));
    }
    let (before, tag) = block.split_at(BLOCK_LEN - TAG_LEN);
    let ours = compute(&mut auth.secret, key_id, &[head, manifest, before])?;
    let theirs = Get { bytes: tag, at: 0 }.array();
    // Compared in constant time.
    match blake3::Hash::from_bytes(ours) == blake3::Hash::from_bytes(theirs) {
        true => Ok(key_id),
        false => Err(err!(
            BadMsg,
            "the tag of the checkpoint's manifest is wrong: it was made with another key, or changed"
        )),
    }
}

fn compute(secret: &mut Secret, key_id: u32, parts: &[&[u8]]) -> Result<[u8; TAG_LEN]> {
    match secret {
        Secret::Keys(source) => {
            let key = Key::ask(source, key_id)?;
            let mut deriving = blake3::Hasher::new_derive_key(CONTEXT);
            deriving.update(key.bytes());
            let mut own = deriving.finalize();
            let mut keyed = blake3::Hasher::new_keyed(own.as_bytes());
            for part in parts {
                keyed.update(part);
            }
            let tag = *keyed.finalize().as_bytes();
            deriving.zeroize();
            keyed.zeroize();
            own.zeroize();
            Ok(tag)
        }
        Secret::Mac(mac) => {
            let mut tag = [0; TAG_LEN];
            let mut run = || {
                mac.begin(key_id)?;
                for part in parts {
                    mac.update(part)?;
                }
                mac.finish(&mut tag)
            };
            run().map_err(|errno| {
                Error::new(errno.refusal_code(), "the VMM's own MAC failed")
                    .with_failure(callback_failure(errno))
            })?;
            if let Some(rest) = tag.get_mut(mac.tag_len()..) {
                rest.fill(0);
            }
            match tag == [0; TAG_LEN] {
                true => Err(err!(Perm, "the VMM's own MAC made a tag of zeros")),
                false => Ok(tag),
            }
        }
    }
}
