// SPDX-License-Identifier: MIT OR Apache-2.0
//! A VFIO device's sections, which the library's own reader judges.

use std::io::{self, Read, Seek};
use std::sync::Arc;

use vfiomig::Error;
use vfiomig::stream::qemu::{END_OF_STATE, Quota, Reader, TAG_LEN};
use vfiomig::stream::{Item, Read as _};

use super::input::Input;

/// One device's stream.
pub struct Device {
    reader: Reader,
    /// Sections of it.
    pub sections: u64,
    /// Bytes of device data.
    pub data_bytes: u64,
    /// Bytes of its configuration.
    pub config_bytes: Option<u64>,
    /// How often it said that all initial data was sent.
    pub initial_marks: u64,
    /// Whether its end has come.
    pub ended: bool,
    /// Why the library would refuse it, and where.
    pub problem: Option<(u64, Error)>,
}

/// Takes device data, and where it is in the file.
type Take<'a> = &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>;

impl Device {
    pub fn new() -> Device {
        Device {
            reader: Reader::new(false, Arc::new(Quota::new(u64::MAX))),
            sections: 0,
            data_bytes: 0,
            config_bytes: None,
            initial_marks: 0,
            ended: false,
            problem: None,
        }
    }

    /// Reads one section, whose end the tags show. `footer`: what follows the end of a section, which
    /// ends the configuration. `false`: it is not what VFIO's sections are.
    pub fn section<R: Read + Seek>(
        &mut self,
        input: &mut Input<R>,
        footer: [u8; 5],
        part: Take<'_>,
    ) -> io::Result<bool> {
        self.sections += 1;
        if self.problem.is_some() {
            return Ok(false);
        }
        let begin = input.offset();
        loop {
            let space = match self.reader.space() {
                Ok(space) => space,
                Err(error) => return Ok(self.refuse(begin, error)),
            };
            let bytes = input.peek(space.len())?;
            let len = bytes.len().min(space.len());
            if len == 0 {
                return Ok(false);
            }
            for (slot, byte) in space.iter_mut().zip(bytes) {
                *slot = *byte;
            }
            let here = input.offset();
            input.consume(len);
            if let Err(error) = self.reader.received(len) {
                return Ok(self.refuse(here, error));
            }
            match self.items(here, part)? {
                Said::More => {}
                Said::SectionEnd => return Ok(true),
                Said::Wrong => return Ok(false),
                Said::Config => {
                    let Some(len) = config_len(input, footer)? else { return Ok(false) };
                    self.config_bytes = Some(len);
                }
            }
        }
    }

    /// What the bytes that have come complete.
    fn items(&mut self, here: u64, part: Take<'_>) -> io::Result<Said> {
        let mut said = Said::More;
        loop {
            match self.reader.next(&mut [].as_slice()) {
                Ok(None) => return Ok(said),
                // All that has come is data then, and nothing else: there was room for no more.
                Ok(Some(Item::Data(bytes))) => {
                    self.data_bytes += bytes.len() as u64;
                    part(here, bytes)?;
                }
                Ok(Some(Item::InitialComplete(_))) => self.initial_marks += 1,
                Ok(Some(Item::SectionEnd)) => said = Said::SectionEnd,
                Ok(Some(Item::Config)) => said = Said::Config,
                Ok(Some(Item::End)) => self.ended = true,
                Ok(Some(_)) => {}
                Err(error) => {
                    self.refuse(here, error);
                    return Ok(Said::Wrong);
                }
            }
        }
    }

    fn refuse(&mut self, offset: u64, error: Error) -> bool {
        self.problem.get_or_insert((offset, error));
        false
    }
}

enum Said {
    More,
    SectionEnd,
    Config,
    Wrong,
}

/// Passes over a configuration: the end of its section, with a footer behind it, follows it.
fn config_len<R: Read + Seek>(input: &mut Input<R>, footer: [u8; 5]) -> io::Result<Option<u64>> {
    let mut end = [0; TAG_LEN + 5];
    let (tag, rest) = end.split_at_mut(TAG_LEN);
    tag.copy_from_slice(&END_OF_STATE.to_be_bytes());
    rest.copy_from_slice(&footer);
    let begin = input.offset();
    loop {
        let ahead = input.peek(super::input::AHEAD)?;
        if let Some(at) = ahead.windows(end.len()).position(|window| window == end) {
            input.consume(at);
            return Ok(Some(input.offset() - begin));
        }
        let done = ahead.len().saturating_sub(end.len() - 1);
        if done == 0 {
            return Ok(None);
        }
        input.consume(done);
    }
}
