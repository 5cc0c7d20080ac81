// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_identity_*` and `vfiomig_compat_*`: identities as bytes, and whether one device may take
//! another one's state. Both ask no device.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes, bytes_mut};
use super::device::vfiomig_identity;
use super::entry::{admit, guarded, guarded_owner};
use super::sized::SizedOut;
use super::table;
use crate::error::err;
use crate::identity::Identity;

/// Writes an identity as bytes into buf, which has room for cap of them, and their number into
/// *len. VFIOMIG_IDENTITY_BYTES are always enough. Another host reads them with
/// vfiomig_identity_import(), whatever the versions of the library there and here. They are what
/// the stream has, in a container of their own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_identity_export(
    identity: *const vfiomig_identity,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    guarded(&table::IDENTITY_EXPORT, || {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let identity = unsafe { structs::identity_in(identity, "identity") }?;
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes; NULL, or memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let out = identity.to_bytes()?;
        let Some(buf) = buf.get_mut(..out.len()) else {
            return Err(err!(NoSpace, "the identity takes {} bytes, and cap is {cap}", out.len()));
        };
        buf.copy_from_slice(&out);
        len.write(out.len());
        Ok(())
    })
}

/// Reads an identity from the len bytes that vfiomig_identity_export() made on any host. They must
/// be all of them, and nothing else. What this version of the library does not know is left out.
/// What the bytes say is a claim, not a proof.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_identity_import(
    data: *const c_void,
    len: usize,
    identity: *mut vfiomig_identity,
) -> c_int {
    guarded(&table::IDENTITY_IMPORT, || {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        let data = unsafe { bytes(data, len, "data") }?;
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        out.fill(&vfiomig_identity::from(&Identity::from_bytes(data)?));
        Ok(())
    })
}

/// Judges whether a device that is `target` may take the state of one that is `source`, under a
/// policy. Asks no device, so any host can call it, with identities that it was sent, and before
/// anything is given up.
///
/// Returns 0 if they fit. Returns -EXDEV if they do not: the message names all that is against it,
/// and *verdict is filled in as well. Gives `reason` (NULL: nobody) a reason for each field that
/// differs, that a side does not know, or that was passed over, in the order of VFIOMIG_FIELD_*.
/// `reason` must not use what it is given after it has returned.
///
/// By default (policy NULL), what the target knows of bus, driver, PCI device, subsystem and
/// revision, mdev type and vendor's type, the source must say too, and say the same
/// (VFIOMIG_RULE_AS_TARGET). Versions of driver and firmware, the vendor string and the protocol
/// must be the same if both sides know them (VFIOMIG_RULE_IF_KNOWN). srcversion, kernel release,
/// size of the state and migration flags are not compared (VFIOMIG_RULE_IGNORE). docs/security.md
/// has the reasons.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_compat_judge(
    source: *const vfiomig_identity,
    target: *const vfiomig_identity,
    policy: *const vfiomig_compat_policy,
    reason: vfiomig_compat_reason_fn,
    opaque: *mut c_void,
    verdict: *mut vfiomig_verdict,
) -> c_int {
    guarded_owner(&table::COMPAT_JUDGE, || {
        // First, so that its callback is released whatever happens.
        // SAFETY: vfiomig.h: NULL, or a policy.
        let policy = unsafe { structs::policy_in(policy) };
        admit(&table::COMPAT_JUDGE)?;
        // SAFETY: vfiomig.h: NULL, or structures of the size that they claim.
        let (source, target) = unsafe {
            (structs::identity_in(source, "source")?, structs::identity_in(target, "target")?)
        };
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(verdict, "verdict") }?;
        let found = policy?.judge(&source, &target)?;
        for found in &found.reasons {
            if let Some(reason) = reason {
                let found = vfiomig_compat_reason::from(found);
                // SAFETY: promises 2 and 3; the structure lives during the call.
                unsafe { reason(opaque, &raw const found) };
            }
        }
        out.fill(&vfiomig_verdict::from(&found));
        found.check()
    })
}
