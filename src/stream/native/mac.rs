// SPDX-License-Identifier: MIT OR Apache-2.0
//! Authenticated streams: the block behind the preamble, the stream's own key, and tags.
//!
//! A key is asked for once per stream, and only a key derived from it is kept: bound to the preamble
//! and the block, and so to the stream's random number, its migration, its device, the key's id, what
//! the target has chosen, and the direction. Each tag then has to cover no more than its frame.

use zeroize::Zeroize;

use super::frame::PREAMBLE_LEN;
use crate::crc::crc32;
use crate::error::{Code, Errno, Error, Result, err};
use crate::stream::auth::{Auth, CHALLENGE_LEN, Key, Mac, Secret, TAG_LEN, callback_failure};
use crate::stream::bytes::{Get, Put};

/// Length of the block behind the preamble without its tag, in bytes.
pub(crate) const BLOCK_LEN: usize = 96;
/// Length of a stream's random number in bytes.
pub const NONCE_LEN: usize = 32;

pub(crate) const BLOCK_MARK: [u8; 4] = *b"VMAu";
/// The block's flag that a challenge of the target's is in it.
const HAS_CHALLENGE: u16 = 1 << 0;
/// Between the challenge and the check.
const RESERVED_LEN: usize = 12;

/// What a caller's key becomes in no other use of it: docs/stream-format.md.
const CONTEXT: &str = "libvfiomig 2026-11-30 native stream from source to target";

/// As many bytes as BLAKE3 takes at once: it is slower with what is left over.
pub(super) const STEP: usize = 16 << 10;

/// What computes a stream's tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// Keyed BLAKE3.
    Blake3 = 1,
    /// A MAC of the VMM's own.
    Own = 2,
}

impl Algorithm {
    fn of(secret: &Secret) -> Algorithm {
        match secret {
            Secret::Keys(_) => Algorithm::Blake3,
            Secret::Mac(_) => Algorithm::Own,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Algorithm::Blake3 => "keyed BLAKE3",
            Algorithm::Own => "a MAC of the VMM's own",
        }
    }
}

/// The block behind the preamble of an authenticated stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// What computes its tags.
    pub algorithm: Algorithm,
    /// Which key it is.
    pub key_id: u32,
    /// The device's number within its VM.
    pub device: u32,
    /// Random bytes that no other stream has.
    pub nonce: [u8; NONCE_LEN],
    /// What the target has chosen for this one load.
    pub challenge: Option<[u8; CHALLENGE_LEN]>,
}

impl Block {
    /// For a stream that is authenticated like this.
    pub(super) fn new(auth: &Auth, device: u32, nonce: [u8; NONCE_LEN]) -> Block {
        let (algorithm, key_id) = (Algorithm::of(&auth.secret), auth.key_id);
        Block { algorithm, key_id, device, nonce, challenge: auth.challenge }
    }

    /// Its bytes in the migration `migration_id`, without the tag.
    pub(super) fn encode(&self, migration_id: &[u8; 16]) -> [u8; BLOCK_LEN] {
        let mut out = [0; BLOCK_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&BLOCK_MARK);
        put.bytes(&(self.algorithm as u16).to_le_bytes());
        put.bytes(&self.challenge.map_or(0, |_| HAS_CHALLENGE).to_le_bytes());
        put.bytes(&self.key_id.to_le_bytes());
        put.bytes(&self.device.to_le_bytes());
        put.bytes(&self.nonce);
        put.bytes(&self.challenge.unwrap_or_default());
        let check = block_check(migration_id, &out);
        Put { out: &mut out, at: BLOCK_LEN - 4 }.bytes(&check.to_le_bytes());
        out
    }

    /// Reads a block of the migration `migration_id`. Its tag has yet to be verified.
    pub(crate) fn decode(bytes: &[u8; BLOCK_LEN], migration_id: &[u8; 16]) -> Result<Block> {
        let mut get = Get { bytes, at: 0 };
        if get.array::<4>() != BLOCK_MARK {
            return Err(err!(Proto, "the stream does not say how it is authenticated"));
        }
        let (algorithm, flags, key_id, device) = (get.u16(), get.u16(), get.u32(), get.u32());
        let (nonce, challenge) = (get.array(), get.array());
        let reserved = get.array::<RESERVED_LEN>();
        if get.u32() != block_check(migration_id, bytes) {
            return Err(err!(BadMsg, "the check of the stream's authentication block is wrong"));
        }
        let algorithm = [Algorithm::Blake3, Algorithm::Own]
            .into_iter()
            .find(|known| *known as u16 == algorithm)
            .ok_or_else(|| {
                err!(Proto, "the stream is authenticated in a way ({algorithm}) that is not known")
            })?;
        let challenge = match flags {
            HAS_CHALLENGE => Some(challenge),
            0 if challenge == [0; CHALLENGE_LEN] => None,
            _ => return Err(err!(Proto, "flags that are not known in an authentication block")),
        };
        if reserved != [0; RESERVED_LEN] {
            return Err(err!(Proto, "a reserved field of the authentication block is not zero"));
        }
        Ok(Block { algorithm, key_id, device, nonce, challenge })
    }

    /// Refuses a stream that is authenticated otherwise than the caller can verify.
    pub(super) fn check_algorithm(&self, auth: &Auth) -> Result<()> {
        let ours = Algorithm::of(&auth.secret);
        if self.algorithm == ours {
            return Ok(());
        }
        Err(err!(
            Perm,
            "the stream is authenticated with {}, and this load verifies {}",
            self.algorithm.text(),
            ours.text()
        ))
    }

    /// Refuses a stream that was not made for this load. Its tag has been verified, so that it says
    /// something.
    pub(super) fn check_challenge(&self, wanted: Option<&[u8; CHALLENGE_LEN]>) -> Result<()> {
        match wanted {
            Some(wanted) if self.challenge.as_ref() != Some(wanted) => Err(err!(
                OtherDevice,
                "the stream was not made for this load: its challenge is another one, or missing"
            )),
            _ => Ok(()),
        }
    }
}

/// CRC-32 over the migration id and a block without its check.
pub(crate) fn block_check(migration_id: &[u8; 16], block: &[u8; BLOCK_LEN]) -> u32 {
    crc32(&[migration_id, block.get(..BLOCK_LEN - 4).unwrap_or_default()])
}

/// Computes the tags of one stream, one at a time. Moving it moves no secret.
pub(super) enum Tagger {
    Blake3(Box<Keyed>),
    Own(Box<Own>),
}

/// BLAKE3 with the stream's own key.
pub(super) struct Keyed(blake3::Hasher);

impl Drop for Keyed {
    /// The key, and the last bytes of a payload.
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A MAC of the VMM's own.
pub(super) struct Own {
    mac: Box<dyn Mac>,
    key_id: u32,
    /// What the stream's own key would be derived from: each tag begins with it.
    binding: [u8; PREAMBLE_LEN + BLOCK_LEN],
    /// The first refusal since the tag began.
    refused: Option<Errno>,
}

impl Tagger {
    /// For the stream that begins with these bytes.
    pub fn new(
        secret: Secret,
        key_id: u32,
        preamble: &[u8; PREAMBLE_LEN],
        block: &[u8; BLOCK_LEN],
    ) -> Result<Tagger> {
        let mut binding = [0; PREAMBLE_LEN + BLOCK_LEN];
        let mut put = Put { out: &mut binding, at: 0 };
        put.bytes(preamble);
        put.bytes(block);
        Ok(match secret {
            Secret::Keys(mut source) => {
                Tagger::Blake3(stream_key(&Key::ask(&mut source, key_id)?, &binding))
            }
            Secret::Mac(mac) => Tagger::Own(Box::new(Own { mac, key_id, binding, refused: None })),
        })
    }

    /// A tag begins.
    pub fn begin(&mut self) {
        match self {
            Tagger::Blake3(keyed) => {
                keyed.0.reset();
            }
            Tagger::Own(own) => {
                own.refused = own.mac.begin(own.key_id).err();
                if own.refused.is_none() {
                    own.refused = own.mac.update(&own.binding).err();
                }
            }
        }
    }

    /// The next bytes that it covers.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Tagger::Blake3(keyed) => {
                keyed.0.update(bytes);
            }
            Tagger::Own(own) if own.refused.is_none() => own.refused = own.mac.update(bytes).err(),
            Tagger::Own(_) => {}
        }
    }

    /// The tag over what has come and `last`.
    pub fn finish(&mut self, last: &[u8]) -> Result<[u8; TAG_LEN]> {
        self.update(last);
        match self {
            Tagger::Blake3(keyed) => Ok(*keyed.0.finalize().as_bytes()),
            Tagger::Own(own) => own.finish(),
        }
    }

    /// Whether the tag over what has come and `last` is this one. How long that takes says nothing
    /// of where they differ.
    pub fn verify(&mut self, last: &[u8], tag: &[u8; TAG_LEN]) -> Result<bool> {
        let ours = blake3::Hash::from_bytes(self.finish(last)?);
        Ok(ours == blake3::Hash::from_bytes(*tag))
    }

    /// The tag of a block.
    pub fn seal_block(
        &mut self,
        preamble: &[u8; PREAMBLE_LEN],
        block: &[u8; BLOCK_LEN],
    ) -> Result<[u8; TAG_LEN]> {
        self.begin();
        self.update(block);
        self.finish(preamble)
    }

    /// Whether a block, and the preamble before it, are what the source has written.
    pub fn verify_block(
        &mut self,
        preamble: &[u8; PREAMBLE_LEN],
        block: &[u8; BLOCK_LEN],
        tag: &[u8; TAG_LEN],
    ) -> Result<()> {
        self.begin();
        self.update(block);
        match self.verify(preamble, tag)? {
            true => Ok(()),
            false => Err(err!(
                BadMsg,
                "the tag of the stream's beginning is wrong: it was made with another key, or changed"
            )),
        }
    }
}

impl Own {
    fn finish(&mut self) -> Result<[u8; TAG_LEN]> {
        let mut tag = [0; TAG_LEN];
        let done = match self.refused {
            Some(errno) => Err(errno),
            None => self.mac.finish(&mut tag),
        };
        done.map_err(|errno| {
            let code = errno.refusal_code();
            Error::new(code, "the VMM's own MAC failed").with_failure(callback_failure(errno))
        })?;
        if let Some(rest) = tag.get_mut(self.mac.tag_len()..) {
            rest.fill(0);
        }
        // A callback that forgot to write says the same on both sides, and of any frame.
        match tag == [0; TAG_LEN] {
            true => Err(err!(Perm, "the VMM's own MAC made a tag of zeros")),
            false => Ok(tag),
        }
    }
}

/// The stream's own key, in place.
fn stream_key(key: &Key, binding: &[u8]) -> Box<Keyed> {
    let mut deriving = Box::new(Keyed(blake3::Hasher::new_derive_key(CONTEXT)));
    deriving.0.update(key.bytes());
    let mut of_direction = deriving.0.finalize();
    let mut binding_it = Box::new(Keyed(blake3::Hasher::new_keyed(of_direction.as_bytes())));
    binding_it.0.update(binding);
    let mut of_stream = binding_it.0.finalize();
    let keyed = Box::new(Keyed(blake3::Hasher::new_keyed(of_stream.as_bytes())));
    of_direction.zeroize();
    of_stream.zeroize();
    keyed
}

impl Auth {
    /// Why a stream without authentication is refused, if it is.
    pub(super) fn refuse_without(&self) -> Result<()> {
        match self.allow_unauthenticated {
            true => Ok(()),
            false => Err(Error::new(
                Code::Perm,
                "the stream is not authenticated, and this load takes no such stream",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::decode::Decoder;
    use super::super::encode::Encoder;
    use super::super::frame::FrameType;
    use super::*;
    use crate::stream::reader::{DecodeLimits, Read};

    /// Whatever it covers, its tag has this byte.
    struct Always {
        byte: u8,
        _user: Arc<()>,
    }

    impl Mac for Always {
        fn tag_len(&self) -> usize {
            16
        }

        fn begin(&mut self, _key_id: u32) -> std::result::Result<(), Errno> {
            Ok(())
        }

        fn update(&mut self, _bytes: &[u8]) -> std::result::Result<(), Errno> {
            Ok(())
        }

        fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> std::result::Result<(), Errno> {
            tag.fill(self.byte);
            Ok(())
        }
    }

    fn auth(byte: u8, user: &Arc<()>) -> Auth {
        Auth::with_mac(1, Always { byte, _user: Arc::clone(user) })
    }

    #[test]
    fn what_computes_tags_goes_with_the_end_of_the_stream_and_with_its_refusal() {
        let user = Arc::new(());
        let users = || Arc::strong_count(&user) - 1;
        let nonce = [7; NONCE_LEN];
        let mut encoder = Encoder::authenticated([3; 16], 0, auth(1, &user), nonce).unwrap();
        let mut out = [0; 1000];
        let mut len = encoder.preamble(&mut out).unwrap();
        len += encoder.frame(&mut out[len..], FrameType::Identity, &[]).unwrap();
        len += encoder.frame(&mut out[len..], FrameType::Data, &[b"data"]).unwrap();
        len += encoder.end(&mut out[len..]).unwrap();
        drop(encoder);
        assert_eq!(users(), 0);
        for totals_are_right in [true, false] {
            out[len - 1] ^= u8::from(!totals_are_right);
            let mut decoder =
                Decoder::authenticated(DecodeLimits::default(), auth(1, &user)).unwrap();
            let mut input = &out[..len - 1];
            while decoder.next(&mut input).unwrap().is_some() {}
            assert_eq!(users(), 1);
            let last = decoder.next(&mut &out[len - 1..len]).is_ok();
            assert_eq!((last, users()), (totals_are_right, 0));
            assert_eq!(decoder.ended(), totals_are_right);
        }
    }
}
