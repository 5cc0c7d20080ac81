// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leads the decoder for a stream's driver along its device data.

use super::entry::{Checked, Content, Entry, What};
use super::fields::{Field, FieldDecoder, Fields, MAX_FIELDS};
use super::mtty::MttyFields;
use crate::alloc;
use crate::error::{Error, Result};
use crate::identity::{Identity, protocol};

/// The decoder that the library has for a device's data, if it has one.
pub fn built_in(identity: &Identity) -> Option<Box<dyn FieldDecoder>> {
    // Other protocols have other data.
    if identity.generation() != protocol::V2 {
        return None;
    }
    match identity.driver.as_str() {
        "mtty" => Some(Box::new(MttyFields::new())),
        _ => None,
    }
}

const NO_MEMORY: &str = "no memory for a decoder";

/// Follows the entries of one stream, and has the decoder for its driver name the fields.
#[derive(Default)]
pub struct Decoding {
    known: Vec<(String, Box<dyn FieldDecoder>)>,
    current: Option<Box<dyn FieldDecoder>>,
    named: u32,
    offset: u64,
}

impl Decoding {
    /// With the library's decoders only.
    pub fn new() -> Decoding {
        Decoding::default()
    }

    /// Has data of this driver decoded by that one; an empty name stands for any driver. What is
    /// added later goes before what was there.
    pub fn add(&mut self, driver: &str, decoder: Box<dyn FieldDecoder>) -> Result<()> {
        let driver = alloc::text(driver, NO_MEMORY)?;
        alloc::push(&mut self.known, (driver, decoder), NO_MEMORY)
    }

    /// Says that the data is of this device, for streams that do not say so themselves.
    pub fn begin(&mut self, identity: &Identity) {
        let driver = identity.driver.as_str();
        let fits = |known: &String| known.is_empty() || known == driver;
        let found = self.known.iter().rposition(|(known, _)| fits(known));
        self.current = match found {
            Some(at) => Some(self.known.swap_remove(at).1),
            None => built_in(identity),
        };
    }

    /// Whether data is being decoded.
    pub fn is_active(&self) -> bool {
        self.current.is_some()
    }

    /// Takes the next entry of a stream, and passes on the fields that it completes. Where data is
    /// missing or wrong, decoding ends, and so it does with an error, which says why.
    pub fn entry(
        &mut self,
        entry: &Entry<'_>,
        sink: &mut dyn FnMut(&Field<'_>) -> Result<()>,
    ) -> Result<()> {
        let What::Frame(frame) = &entry.what else {
            if entry.problem.is_some() || matches!(entry.what, What::Gap { .. }) {
                self.current = None;
            }
            return Ok(());
        };
        let right = matches!(frame.checked, Checked::Right | Checked::NoKey);
        if entry.problem.is_some() || !right {
            self.current = None;
            return Ok(());
        }
        match &frame.content {
            Content::Identity(identity) => {
                self.begin(identity);
                Ok(())
            }
            Content::Data => self.data(frame.payload, sink),
            Content::Restart(_) => self.restart(),
            Content::End { .. } => self.end(sink),
            _ => Ok(()),
        }
    }

    /// The next device data of a stream.
    pub fn data(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(&Field<'_>) -> Result<()>,
    ) -> Result<()> {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.call(sink, |decoder, out| decoder.data(bytes, offset, out))
    }

    /// Device data begins again.
    pub fn restart(&mut self) -> Result<()> {
        (self.offset, self.named) = (0, 0);
        self.call(&mut |_| Ok(()), |decoder, _| decoder.restart())
    }

    /// No more device data comes.
    pub fn end(&mut self, sink: &mut dyn FnMut(&Field<'_>) -> Result<()>) -> Result<()> {
        let len = self.offset;
        let done = self.call(sink, |decoder, out| decoder.end(len, out));
        self.current = None;
        done
    }

    fn call(
        &mut self,
        sink: &mut dyn FnMut(&Field<'_>) -> Result<()>,
        call: impl FnOnce(&mut dyn FieldDecoder, &mut Fields<'_>) -> Result<(), Error>,
    ) -> Result<()> {
        let Some(decoder) = &mut self.current else { return Ok(()) };
        let mut left = MAX_FIELDS.saturating_sub(self.named);
        let done = call(decoder.as_mut(), &mut Fields { sink, left: &mut left });
        self.named = MAX_FIELDS - left;
        if done.is_err() {
            self.current = None;
        }
        done
    }
}

#[cfg(test)]
mod tests;
