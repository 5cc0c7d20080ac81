// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a stream of a checkpoint is whole, and the one that the manifest names.

use super::manifest::{Entry, StreamEnd};
use crate::error::{Result, err};
use crate::stream::auth::Auth;
use crate::stream::native::{Decoder, END_LEN};
use crate::stream::reader::{DecodeLimits, Item, Read};

/// One stream that is read and not loaded.
pub struct Verifier<'a> {
    entry: &'a Entry,
    decoder: Decoder,
    /// The last bytes that came: at the end, the payload of END.
    last: [u8; END_LEN],
    came: u64,
    blobs: bool,
}

impl<'a> Verifier<'a> {
    /// For the stream of this device. With `auth`, it must be authenticated, as `auth` says.
    pub fn new(entry: &'a Entry, limits: DecodeLimits, auth: Option<Auth>) -> Result<Verifier<'a>> {
        let decoder = match auth {
            Some(auth) => Decoder::authenticated(limits, auth)?,
            None => Decoder::new(limits),
        };
        Ok(Verifier { entry, decoder, last: [0; END_LEN], came: 0, blobs: false })
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while let Some(item) = self.decoder.next(&mut rest)? {
            match item {
                Item::Identity(identity) if *identity != *self.entry.identity => {
                    return Err(self.another("is of another device than the manifest says"));
                }
                Item::Blob { .. } => self.blobs = true,
                _ => {}
            }
        }
        self.came = self.came.saturating_add(bytes.len() as u64);
        let (kept, new) = (END_LEN.saturating_sub(bytes.len()), bytes.len().min(END_LEN));
        self.last.rotate_right(kept);
        let from = bytes.len() - new;
        for (to, byte) in self.last.iter_mut().skip(kept).zip(bytes.iter().skip(from)) {
            *to = *byte;
        }
        Ok(())
    }

    /// All of it has come.
    pub fn finish(self) -> Result<()> {
        let name = &self.entry.name;
        if !self.decoder.ended() {
            return Err(err!(
                NoData,
                "the stream of {name} is not complete: it has {} bytes and no end",
                self.came
            ));
        }
        let entry = self.entry;
        let ids = (self.decoder.migration_id(), self.decoder.device());
        if ids != (Some(entry.migration_id), Some(entry.device)) {
            return Err(self.another("is not the one that the manifest names"));
        }
        match StreamEnd::from_payload(&self.last)? == entry.end {
            true => Ok(()),
            false => Err(self.another("ends otherwise than the manifest says")),
        }
    }

    /// Whether a blob has come, even one before a restart: the totals at the end leave that out.
    pub fn has_blobs(&self) -> bool {
        self.blobs
    }

    /// Bytes that have come.
    pub fn came(&self) -> u64 {
        self.came
    }

    fn another(&self, how: &str) -> crate::error::Error {
        err!(Proto, "the stream of {} {how}", self.entry.name)
    }
}
