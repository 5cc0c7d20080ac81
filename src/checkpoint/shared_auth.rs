// SPDX-License-Identifier: MIT OR Apache-2.0
//! One caller's keys, or MAC, for all streams of a checkpoint and for its manifest.

use std::sync::{Arc, PoisonError};

use crate::error::{Errno, Result, err};
use crate::stream::{Auth, CHALLENGE_LEN, Mac, Secret, TAG_LEN};
use crate::sync::{Mutex, MutexGuard};
use crate::waiting::{Nested, may_wait, may_wait_for_keys};

type Answer<T> = std::result::Result<T, Errno>;

/// What several sessions authenticate with, one at a time.
pub(super) struct SharedAuth {
    key_id: u32,
    challenge: Option<[u8; CHALLENGE_LEN]>,
    allow_unauthenticated: bool,
    /// The length of a tag, if it is a MAC of the VMM's own.
    mac: Option<usize>,
    secret: Arc<Mutex<Secret>>,
    /// A MAC of the VMM's own computes one tag at a time.
    turn: Mutex<()>,
}

fn lock<T>(place: &Mutex<T>, may_wait: bool) -> Answer<MutexGuard<'_, T>> {
    match may_wait {
        true => Ok(place.lock().unwrap_or_else(PoisonError::into_inner)),
        false => place.try_lock().map_err(|_| Errno(libc::EBUSY)),
    }
}

/// The callbacks are in use while one of them runs, and a session that asks waits for that with its
/// device locked: which is why they are [`Nested`], and wait for nothing.
fn with_secret<T>(
    secret: &Mutex<Secret>,
    call: impl FnOnce(&mut Secret) -> Answer<T>,
) -> Answer<T> {
    let mut secret = lock(secret, may_wait_for_keys())?;
    let _nested = Nested::new();
    call(&mut secret)
}

impl SharedAuth {
    pub fn new(auth: Auth) -> SharedAuth {
        let mac = match &auth.secret {
            Secret::Keys(_) => None,
            Secret::Mac(mac) => Some(mac.tag_len()),
        };
        SharedAuth {
            key_id: auth.key_id,
            challenge: auth.challenge,
            allow_unauthenticated: auth.allow_unauthenticated,
            mac,
            secret: Arc::new(Mutex::new(auth.secret)),
            turn: Mutex::new(()),
        }
    }

    /// For one session.
    pub fn lend(&self) -> Auth {
        let secret = Arc::clone(&self.secret);
        let auth = match self.mac {
            Some(tag_len) => Auth::with_mac(self.key_id, LentMac { secret, tag_len }),
            None => Auth::with_keys(self.key_id, move |id, key| {
                with_secret(&secret, |secret| match secret {
                    Secret::Keys(source) => source(id, key),
                    Secret::Mac(_) => Err(Errno(libc::ENOKEY)),
                })
            }),
        };
        let allow_unauthenticated = self.allow_unauthenticated;
        Auth { challenge: self.challenge, allow_unauthenticated, ..auth }
    }

    /// Held while one stream is read: a MAC of the VMM's own is not used for two at once.
    pub fn turn(&self) -> Result<Option<MutexGuard<'_, ()>>> {
        match self.mac {
            None => Ok(None),
            Some(_) => lock(&self.turn, may_wait())
                .map(Some)
                .map_err(|_| err!(Busy, "the VMM's own MAC is in use for another stream")),
        }
    }
}

struct LentMac {
    secret: Arc<Mutex<Secret>>,
    tag_len: usize,
}

impl LentMac {
    fn with<T>(&self, call: impl FnOnce(&mut dyn Mac) -> Answer<T>) -> Answer<T> {
        with_secret(&self.secret, |secret| match secret {
            Secret::Mac(mac) => call(mac.as_mut()),
            Secret::Keys(_) => Err(Errno(libc::ENOKEY)),
        })
    }
}

impl Mac for LentMac {
    fn tag_len(&self) -> usize {
        self.tag_len
    }

    fn begin(&mut self, key_id: u32) -> Answer<()> {
        self.with(|mac| mac.begin(key_id))
    }

    fn update(&mut self, bytes: &[u8]) -> Answer<()> {
        self.with(|mac| mac.update(bytes))
    }

    fn finish(&mut self, tag: &mut [u8; TAG_LEN]) -> Answer<()> {
        self.with(|mac| mac.finish(tag))
    }
}
