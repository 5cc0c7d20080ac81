// SPDX-License-Identifier: MIT OR Apache-2.0
//! Authentication of streams in C: what the options of saves and loads have in common.

use std::ffi::{c_int, c_void};

use super::callbacks::{Opaque, verdict, vfiomig_release_fn};
use super::sized::{read_in, sized32};
use crate::error::{Errno, Result, err};
use crate::stream::{Auth, CHALLENGE_LEN, KEY_LEN, Mac, TAG_LEN};

/// challenge is set: the stream is made, or has been made, for this one load.
pub const VFIOMIG_AUTH_CHALLENGE: u32 = 1 << 0;
/// Of a load: also takes a stream without authentication, which anybody may have made.
pub const VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED: u32 = 1 << 1;

/// Fills in the 32 bytes of the key with this id: 0, or -errno to refuse it. ENOKEY, ENOENT, EACCES,
/// EKEYEXPIRED, EKEYREVOKED and EKEYREJECTED become EPERM; otherwise as for vfiomig_blob_fn. Called
/// once per stream: in vfiomig_save_begin(), or in the push that brings the stream's beginning. The
/// library wipes its copy when it has derived the stream's own key from it. A key of zeros is refused.
pub type vfiomig_get_key_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, key_id: u32, key: *mut u8) -> c_int>;

/// A message authentication code of the VMM's own, in place of keyed BLAKE3, for one stream. One tag
/// is computed at a time, on the thread that uses the session: begin, any number of update, finish. A
/// begin without a finish before it starts again. Each returns 0, or -errno, which ends the session
/// as vfiomig_blob_fn says. All members are required but release.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_mac_ops {
    /// Size of this structure, set by the caller: VFIOMIG_MAC_OPS_INIT.
    pub struct_size: u32,
    /// Length of a tag in bytes: 16 to 32.
    pub tag_len: u32,
    /// A tag begins, with the key that has this id.
    pub begin: Option<unsafe extern "C" fn(opaque: *mut c_void, key_id: u32) -> c_int>,
    /// The next len bytes that it covers, in pieces of any length.
    pub update:
        Option<unsafe extern "C" fn(opaque: *mut c_void, data: *const c_void, len: usize) -> c_int>,
    /// Writes the tag_len bytes of the tag, which are not all zeros.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void, tag: *mut u8) -> c_int>,
    /// Releases the opaque.
    pub release: vfiomig_release_fn,
}

/// How a stream is authenticated, in the options of a save or of a load: with keys that both sides
/// have (get_key), or with a MAC of the VMM's own (mac), of which exactly one is set. Only the native
/// format is authenticated; with QEMU's format, auth is -EINVAL.
///
/// A load with this takes no stream without authentication, unless VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED
/// is set; a load without this takes no authenticated stream. Both are -EPERM, and so is a key that
/// is not there. A wrong tag is -EBADMSG, and a stream that was made for another challenge -EXDEV.
/// Nothing reaches the driver before the tag of its frame has been verified.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_auth {
    /// Size of this structure, set by the caller: VFIOMIG_AUTH_INIT.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_AUTH_*, or 0.
    pub flags: u32,
    /// Of a save: which key it uses; the stream tells the target. A load ignores it.
    pub key_id: u32,
    /// Zero.
    pub reserved: u32,
    /// With VFIOMIG_AUTH_CHALLENGE: what the target has chosen for this one load, 32 random bytes
    /// that it has sent to the source beforehand. A save binds it into the stream, and a load refuses
    /// a stream without it: a recorded stream cannot be loaded again.
    pub challenge: [u8; 32],
    /// Brings keys; NULL with mac.
    pub get_key: vfiomig_get_key_fn,
    /// Passed to get_key.
    pub get_key_opaque: *mut c_void,
    /// Releases get_key_opaque.
    pub get_key_release: vfiomig_release_fn,
    /// Computes tags; NULL with get_key. It is copied.
    pub mac: *const vfiomig_mac_ops,
    /// Passed to the callbacks of mac.
    pub mac_opaque: *mut c_void,
}

sized32!(vfiomig_auth, vfiomig_mac_ops);

const _: () = assert!(CHALLENGE_LEN == 32 && KEY_LEN == 32 && TAG_LEN == 32);

/// Reads how a stream is authenticated; NULL: not at all. The library owns what is in it from here
/// on, even if it refuses it.
///
/// # Safety
/// NULL, or a structure as vfiomig.h describes it.
pub(super) unsafe fn read_auth(from: *const vfiomig_auth) -> Result<Option<Auth>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (auth, tail) = unsafe { read_in(from, "auth") }?;
    // SAFETY: promise 2.
    let key_opaque = unsafe { Opaque::new(auth.get_key_opaque, auth.get_key_release) };
    // SAFETY: promises 1 to 3, about the table and what stands beside it.
    let mac = unsafe { OwnMac::read(auth.mac, auth.mac_opaque) }?;
    tail.check()?;
    let made = match (auth.get_key, mac) {
        (Some(get_key), None) => {
            Auth::with_keys(auth.key_id, move |id, key: &mut [u8; KEY_LEN]| {
                // SAFETY: promises 2 and 3; the key's 32 bytes can be written to during the call.
                verdict(unsafe { get_key(key_opaque.get(), id, key.as_mut_ptr()) })
            })
        }
        (None, Some(mac)) => Auth::with_mac(auth.key_id, mac),
        (None, None) => return Err(err!(Inval, "auth has neither get_key nor mac")),
        (Some(_), Some(_)) => return Err(err!(Inval, "auth has both get_key and mac")),
    };
    auth.complete(made).map(Some)
}

impl vfiomig_auth {
    /// Adds what does not come with the callbacks.
    fn complete(&self, made: Auth) -> Result<Auth> {
        let known = VFIOMIG_AUTH_CHALLENGE | VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED;
        if self.flags & !known != 0 || self.reserved != 0 {
            return Err(err!(Inval, "unknown flags in auth, or reserved is not zero"));
        }
        let challenge = match (self.flags & VFIOMIG_AUTH_CHALLENGE != 0, self.challenge) {
            (false, [0, rest @ ..]) if rest == [0; CHALLENGE_LEN - 1] => None,
            (false, _) => {
                return Err(err!(Inval, "auth has a challenge without VFIOMIG_AUTH_CHALLENGE"));
            }
            (true, challenge) if challenge == [0; CHALLENGE_LEN] => {
                return Err(err!(Inval, "the challenge consists of zeros: fill in random bytes"));
            }
            (true, challenge) => Some(challenge),
        };
        let allow_unauthenticated = self.flags & VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED != 0;
        Ok(Auth { challenge, allow_unauthenticated, ..made })
    }
}

/// A VMM's MAC behind a table of callbacks.
struct OwnMac {
    tag_len: u32,
    begin: unsafe extern "C" fn(*mut c_void, u32) -> c_int,
    update: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int,
    finish: unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int,
    opaque: Opaque,
}

impl OwnMac {
    /// # Safety
    /// NULL, or a table as vfiomig.h describes it, and the opaque that belongs to it.
    unsafe fn read(ops: *const vfiomig_mac_ops, opaque: *mut c_void) -> Result<Option<OwnMac>> {
        if ops.is_null() {
            return Ok(None);
        }
        // SAFETY: promise 1: a structure of the size that it claims.
        let (ops, tail) = unsafe { read_in(ops, "mac") }?;
        // SAFETY: promise 2.
        let opaque = unsafe { Opaque::new(opaque, ops.release) };
        tail.check()?;
        let (Some(begin), Some(update), Some(finish)) = (ops.begin, ops.update, ops.finish) else {
            return Err(err!(Fault, "begin, update or finish of mac is NULL"));
        };
        Ok(Some(OwnMac { tag_len: ops.tag_len, begin, update, finish, opaque }))
    }
}

impl Mac for OwnMac {
    fn tag_len(&self) -> usize {
        self.tag_len as usize
    }

    fn begin(&mut self, key_id: u32) -> Result<(), Errno> {
        // SAFETY: promises 2 and 3.
        verdict(unsafe { (self.begin)(self.opaque.get(), key_id) })
    }

    fn update(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let (data, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: promises 2 and 3; there are `len` bytes, which live during the call.
        verdict(unsafe { (self.update)(self.opaque.get(), data, len) })
    }

    fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> Result<(), Errno> {
        // SAFETY: promises 2 and 3; `tag_len` is at most the length of `tag`, or the session would
        // not have begun.
        verdict(unsafe { (self.finish)(self.opaque.get(), tag.as_mut_ptr()) })
    }
}
