// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who vouches for a stream: keys, and MACs of the VMM's own, as a caller brings them.
//!
//! What is computed with them, and where it stands in a stream, is up to the format.

use std::fmt;

use zeroize::Zeroize;

use crate::error::{Code, Errno, Error, Failure, Operation, Result, err};

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of what a target chooses for one load, in bytes.
pub const CHALLENGE_LEN: usize = 32;
/// Room for a tag in a stream, in bytes. A shorter tag has zeros behind it.
pub const TAG_LEN: usize = 32;
/// The shortest tag that counts, in bytes: forging one succeeds once in 2^128 attempts.
pub const MIN_TAG_LEN: usize = 16;

/// Fills in the key with this id. An errno refuses the stream.
pub type KeySource =
    Box<dyn FnMut(u32, &mut [u8; KEY_LEN]) -> std::result::Result<(), Errno> + Send>;

/// A message authentication code of the VMM's own, in place of keyed BLAKE3. One tag is computed at
/// a time: `begin`, any number of `update`, `finish`. A `begin` without a `finish` before it starts
/// again.
pub trait Mac: Send {
    /// Length of a tag in bytes, from [`MIN_TAG_LEN`] to [`TAG_LEN`].
    fn tag_len(&self) -> usize;
    /// A tag begins, with the key that has this id.
    fn begin(&mut self, key_id: u32) -> std::result::Result<(), Errno>;
    /// The next bytes that it covers.
    fn update(&mut self, bytes: &[u8]) -> std::result::Result<(), Errno>;
    /// The tag, in as many bytes as it has.
    fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> std::result::Result<(), Errno>;
}

/// What computes tags.
pub enum Secret {
    /// Keyed BLAKE3, with the caller's keys.
    Keys(KeySource),
    /// The VMM itself.
    Mac(Box<dyn Mac>),
}

/// How a stream is authenticated.
pub struct Auth {
    /// Which key a save uses. A load learns it from the stream.
    pub key_id: u32,
    /// What computes tags.
    pub secret: Secret,
    /// What the target has chosen for this one load. A save binds it into its stream; a load refuses
    /// a stream that was not made for it, and with it every stream that was recorded before.
    pub challenge: Option<[u8; CHALLENGE_LEN]>,
    /// A load also takes streams without authentication.
    pub allow_unauthenticated: bool,
}

impl Auth {
    /// Keyed BLAKE3.
    pub fn with_keys(
        key_id: u32,
        keys: impl FnMut(u32, &mut [u8; KEY_LEN]) -> std::result::Result<(), Errno> + Send + 'static,
    ) -> Auth {
        Auth::new(key_id, Secret::Keys(Box::new(keys)))
    }

    /// A MAC of the VMM's own.
    pub fn with_mac(key_id: u32, mac: impl Mac + 'static) -> Auth {
        Auth::new(key_id, Secret::Mac(Box::new(mac)))
    }

    fn new(key_id: u32, secret: Secret) -> Auth {
        Auth { key_id, secret, challenge: None, allow_unauthenticated: false }
    }

    /// Refuses what is impossible.
    pub(crate) fn check(&self) -> Result<()> {
        if let Secret::Mac(mac) = &self.secret {
            let len = mac.tag_len();
            if !(MIN_TAG_LEN..=TAG_LEN).contains(&len) {
                return Err(err!(
                    Inval,
                    "a tag of {len} bytes; it must have {MIN_TAG_LEN} to {TAG_LEN}"
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Secret {
    /// Nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Keys(_) => "Keys(..)",
            Secret::Mac(_) => "Mac(..)",
        })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("key_id", &self.key_id)
            .field("secret", &self.secret)
            .field("challenge", &self.challenge.map(|_| ".."))
            .field("allow_unauthenticated", &self.allow_unauthenticated)
            .finish()
    }
}

/// A key, in memory of its own that is wiped when it goes. It is never copied or printed.
pub(super) struct Key(Box<[u8; KEY_LEN]>);

impl Key {
    /// The key with this id.
    pub fn ask(source: &mut KeySource, id: u32) -> Result<Key> {
        let mut key = Key(Box::new([0; KEY_LEN]));
        source(id, &mut key.0).map_err(|errno| key_refused(id, errno))?;
        // Nobody's key: the source has forgotten to fill it in.
        if key.0.iter().all(|byte| *byte == 0) {
            return Err(err!(Perm, "the key with id {id} consists of zeros"));
        }
        Ok(key)
    }

    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn key_refused(id: u32, errno: Errno) -> Error {
    let code = match errno.0 {
        // What stores of keys say of a key that cannot be used.
        libc::ENOENT
        | libc::EACCES
        | libc::ENOKEY
        | libc::EKEYEXPIRED
        | libc::EKEYREVOKED
        | libc::EKEYREJECTED => Code::Perm,
        _ => errno.refusal_code(),
    };
    Error::from_args(code, format_args!("there is no key with id {id} for this stream: {errno}"))
        .with_failure(callback_failure(errno))
}

/// What a callback of the VMM's that failed leaves in the failure structure.
pub(super) fn callback_failure(errno: Errno) -> Failure {
    Failure { operation: Operation::Callback, errno: errno.0, ..Failure::default() }
}
