// SPDX-License-Identifier: MIT OR Apache-2.0
//! A VFIO device's sections, which the library's own reader judges.

use std::io::{self, Read, Seek};
use std::sync::Arc;

use vfiomig::Error;
use vfiomig::stream::qemu::{DATA_STATE, END_OF_STATE, Quota, Reader, TAG_LEN};
use vfiomig::stream::{Item, Read as _};

use super::input::{AHEAD, FARTHEST, Input};

/// How much data a load takes unless it is told otherwise, in bytes.
const MOST_DATA: u64 = 1 << 40;

/// One device's stream.
pub struct Device {
    reader: Reader,
    /// How much of a piece of data is still to come. The reader knows it as well, but makes room for it.
    left: u64,
    /// A length comes next.
    length_due: bool,
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
            reader: Reader::new(false, Arc::new(Quota::new(MOST_DATA))),
            left: 0,
            length_due: false,
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
        loop {
            let here = input.offset();
            let want = if self.left > 0 { self.left.min(AHEAD as u64) as usize } else { TAG_LEN };
            let bytes = input.peek(want)?;
            if bytes.len() < want && (self.left == 0 || bytes.is_empty()) {
                return Ok(false);
            }
            let len = bytes.len();
            let said = self.items(here, bytes, part)?;
            input.consume(len);
            match said {
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

    /// What these bytes complete: a tag, a length, or data and nothing else.
    fn items(&mut self, here: u64, mut bytes: &[u8], part: Take<'_>) -> io::Result<Said> {
        if self.left > 0 {
            self.left -= bytes.len() as u64;
        } else {
            let head = bytes.first_chunk().copied().map_or(0, u64::from_be_bytes);
            (self.left, self.length_due) = match self.length_due {
                true => (head, false),
                false => (0, head == DATA_STATE),
            };
        }
        let mut said = Said::More;
        loop {
            match self.reader.next(&mut bytes) {
                Ok(None) => return Ok(said),
                Ok(Some(Item::Data(data))) => {
                    self.data_bytes += data.len() as u64;
                    part(here, data)?;
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

    fn refuse(&mut self, offset: u64, error: Error) {
        self.problem.get_or_insert((offset, error));
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
        let ahead = input.peek(AHEAD)?;
        if let Some(at) = ahead.windows(end.len()).position(|window| window == end) {
            input.consume(at);
            return Ok(Some(input.offset() - begin));
        }
        let done = ahead.len().saturating_sub(end.len() - 1);
        if done == 0 || input.offset() - begin > FARTHEST {
            return Ok(None);
        }
        input.consume(done);
    }
}
