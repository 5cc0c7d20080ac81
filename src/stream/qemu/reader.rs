// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main channel: tags, pieces of data, and the gap in which the VMM reads its own part.
//!
//! A VMM reads from a stream that others read from too, so [`Reader::space`] never asks for a byte
//! that does not belong to this device. Data is passed on as it comes, in any pieces; there is
//! nothing to verify it with.

use std::fmt;
use std::sync::Arc;

use super::layout::{
    CONFIG_LOAD_READY, CONFIG_STATE, DATA_STATE, END_OF_STATE, INIT_DATA_SENT, SETUP_STATE, TAG_LEN,
};
use super::quota::Quota;
use crate::error::{Code, Error, Result, err};
use crate::private::Private;
use crate::stream::reader::{Item, Read};

/// How much is received at once, in bytes, if the driver's data is long.
pub(crate) const RECEIVE_ROOM: u64 = if cfg!(test) { 100 } else { 1 << 20 };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// A tag comes next; nothing of its section has come.
    Section,
    /// A tag comes next, after data of the same section.
    Inside,
    /// The end of the first section.
    SetupEnd,
    /// The length of a piece of data.
    Length,
    /// This much of a piece of data.
    Data(u64),
    /// The end of the section in which the VMM reads its own part.
    ConfigEnd,
    /// Nothing of this stream.
    Nothing,
}

/// Something to pass on, and where it lies.
enum Found<'i> {
    Item(Item<'static>),
    /// Data in the caller's input.
    Input(&'i [u8]),
    /// This much data, received here.
    Staged(usize),
}

/// The state of one main channel being read.
pub struct Reader {
    packets: bool,
    quota: Arc<Quota>,
    at: At,
    setup_seen: bool,
    /// As much of a tag or a length as has come.
    head: [u8; TAG_LEN],
    filled: usize,
    /// Memory for data that is received here, and how much of it has not been passed on yet.
    staged: Private,
    received: usize,
    /// What follows the item that was passed on.
    then: Option<Item<'static>>,
    initial: u32,
    pieces: u64,
    data_bytes: u64,
    offset: u64,
    refused: Option<Code>,
}

impl Reader {
    /// A reader of one main channel. With `packets`, stop-copy data and the configuration come
    /// elsewhere, and not here.
    pub fn new(packets: bool, quota: Arc<Quota>) -> Reader {
        Reader {
            packets,
            quota,
            at: At::Section,
            setup_seen: false,
            head: [0; TAG_LEN],
            filled: 0,
            staged: Private::new(),
            received: 0,
            then: None,
            initial: 0,
            pieces: 0,
            data_bytes: 0,
            offset: 0,
            refused: None,
        }
    }

    /// Whether the last section has come.
    pub fn ended(&self) -> bool {
        self.at == At::Nothing && self.then.is_none() && self.refused.is_none()
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Found<'i>>> {
        loop {
            if let Some(item) = self.then.take() {
                return Ok(Some(Found::Item(item)));
            }
            if let At::Data(left) = self.at {
                let from_staged = self.received > 0;
                let len = match from_staged {
                    true => std::mem::take(&mut self.received),
                    false => usize::try_from(left).unwrap_or(usize::MAX).min(input.len()),
                };
                if len == 0 {
                    return Ok(None);
                }
                self.at = match left.saturating_sub(len as u64) {
                    0 => At::Inside,
                    rest => At::Data(rest),
                };
                self.data_bytes = self.data_bytes.saturating_add(len as u64);
                if from_staged {
                    return Ok(Some(Found::Staged(len)));
                }
                let (data, rest) = input.split_at_checked(len).unwrap_or_default();
                *input = rest;
                self.offset += len as u64;
                return Ok(Some(Found::Input(data)));
            }
            if self.at == At::Nothing {
                return match input.len() {
                    0 => Ok(None),
                    more => Err(err!(Proto, "{more} bytes follow the end of the stream")),
                };
            }
            let missing = TAG_LEN - self.filled;
            let (front, rest) = input.split_at(missing.min(input.len()));
            *input = rest;
            self.offset += front.len() as u64;
            for (slot, byte) in self.head.iter_mut().skip(self.filled).zip(front) {
                *slot = *byte;
            }
            self.filled += front.len();
            if self.filled < TAG_LEN {
                return Ok(None);
            }
            self.filled = 0;
            let head = u64::from_be_bytes(self.head);
            if let Some(item) = self.head_came(head, input.len())? {
                return Ok(Some(Found::Item(item)));
            }
        }
    }

    /// The length of a piece of data has come.
    fn length_came(&mut self, len: u64) -> Result<()> {
        if len == 0 {
            return Err(err!(Proto, "a piece of data is empty"));
        }
        self.quota.claim(len)?;
        self.pieces += 1;
        self.at = At::Data(len);
        Ok(())
    }

    /// A tag or a length has come, with this much input after it.
    fn head_came(&mut self, head: u64, behind: usize) -> Result<Option<Item<'static>>> {
        if self.at == At::Length {
            return self.length_came(head).map(|()| None);
        }
        let wrong = |what: &str| Err(err!(Proto, "{} came {what}", Name(head)));
        match (head, self.at) {
            (SETUP_STATE, At::Section) if !self.setup_seen => {
                self.setup_seen = true;
                self.at = At::SetupEnd;
                Ok(None)
            }
            (SETUP_STATE, _) => wrong("where the stream does not begin"),
            (_, At::Section) if !self.setup_seen => wrong("where SETUP_STATE was due"),
            (END_OF_STATE, At::ConfigEnd) => {
                self.at = At::Nothing;
                self.then = Some(Item::End);
                Ok(Some(Item::SectionEnd))
            }
            (END_OF_STATE, _) => {
                self.at = At::Section;
                Ok(Some(Item::SectionEnd))
            }
            (_, At::SetupEnd | At::ConfigEnd) => wrong("where END_OF_STATE was due"),
            (DATA_STATE, _) => {
                self.at = At::Length;
                Ok(None)
            }
            (INIT_DATA_SENT, _) => {
                self.initial = self.initial.saturating_add(1);
                self.at = At::Section;
                self.then = Some(Item::SectionEnd);
                Ok(Some(Item::InitialComplete(self.initial)))
            }
            (CONFIG_STATE | CONFIG_LOAD_READY, At::Inside) => wrong("within a section"),
            (CONFIG_STATE, _) if self.packets => {
                wrong("on the main channel, although the configuration comes in a packet")
            }
            (CONFIG_STATE, _) if behind > 0 => Err(err!(
                Proto,
                "{behind} bytes were taken from the VMM's own part of the stream; pass on no more \
                 than there is space for"
            )),
            (CONFIG_STATE, _) => {
                self.at = At::ConfigEnd;
                Ok(Some(Item::Config))
            }
            (CONFIG_LOAD_READY, _) if self.packets => {
                self.at = At::Nothing;
                self.then = Some(Item::SectionEnd);
                Ok(Some(Item::ConfigReady))
            }
            (CONFIG_LOAD_READY, _) => wrong("although no packets are expected"),
            _ => Err(err!(
                Proto,
                "{head:#x} is no tag of QEMU's: the format is another, or the stream was damaged"
            )),
        }
    }
}

/// A tag, for people to read.
struct Name(u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            END_OF_STATE => "END_OF_STATE",
            CONFIG_STATE => "CONFIG_STATE",
            SETUP_STATE => "SETUP_STATE",
            DATA_STATE => "DATA_STATE",
            INIT_DATA_SENT => "INIT_DATA_SENT",
            CONFIG_LOAD_READY => "CONFIG_LOAD_READY",
            other => return write!(f, "{other:#x}"),
        })
    }
}

impl Read for Reader {
    fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>> {
        if let Some(code) = self.refused {
            return Err(Error::new(code, "this stream has been refused before"));
        }
        match self.advance(input) {
            Ok(None) => Ok(None),
            Ok(Some(Found::Item(item))) => Ok(Some(item)),
            Ok(Some(Found::Input(data))) => Ok(Some(Item::Data(data))),
            Ok(Some(Found::Staged(len))) => {
                Ok(Some(Item::Data(self.staged.get(..len).unwrap_or_default())))
            }
            Err(error) => {
                self.refused = Some(error.code());
                Err(error)
            }
        }
    }

    fn space(&mut self) -> Result<&mut [u8]> {
        match self.at {
            At::Nothing => Err(err!(Inval, "nothing more of this stream is to come")),
            At::Data(left) => {
                let len = left.min(RECEIVE_ROOM) as usize;
                if self.staged.len() < len {
                    let more = len - self.staged.len();
                    self.staged.lengthen(more, "no memory for data")?;
                }
                Ok(self.staged.get_mut(..len).unwrap_or_default())
            }
            _ => Ok(self.head.get_mut(self.filled..).unwrap_or_default()),
        }
    }

    fn received(&mut self, len: usize) -> Result<()> {
        let room = match self.at {
            At::Nothing => 0,
            At::Data(left) => (left.min(RECEIVE_ROOM) as usize).min(self.staged.len()),
            _ => TAG_LEN - self.filled,
        };
        if self.received > 0 || len > room {
            return Err(err!(
                Inval,
                "{len} bytes cannot have been received: there was room for {room}"
            ));
        }
        match self.at {
            At::Data(_) => self.received = len,
            _ => self.filled += len,
        }
        self.offset += len as u64;
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn frames(&self) -> u64 {
        self.pieces
    }

    fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    fn at_rest(&self) -> bool {
        self.setup_seen && matches!(self.at, At::Section | At::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::qemu;
    use proptest::prelude::*;

    /// What a reader passes on, with data joined; the last line is the verdict.
    fn said(bytes: &[u8], packets: bool, step: usize, by_space: bool) -> Vec<String> {
        let mut reader = Reader::new(packets, Arc::new(Quota::new(5000)));
        let (mut said, mut data) = (vec![], vec![]);
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if reader.at == At::Nothing {
                assert_eq!(reader.next(&mut &b"x"[..]).unwrap_err().code(), Code::Proto);
                said.push("over".into());
                return said;
            }
            let space = reader.space().unwrap();
            assert!(!space.is_empty());
            let len = space.len().min(step).min(bytes.len());
            let (mut piece, rest) = bytes.split_at(len);
            bytes = rest;
            if by_space {
                space[..len].copy_from_slice(piece);
                piece = &[];
                reader.received(len).unwrap();
            }
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(Item::Data(part))) => data.extend_from_slice(part),
                    Ok(Some(item)) => said.push(format!("{} {item:?}", data.len())),
                    Ok(None) => break,
                    Err(error) => {
                        said.push(format!("{:?}", error.code()));
                        let again = reader.next(&mut [].as_slice()).unwrap_err();
                        assert_eq!(again.code(), error.code());
                        return said;
                    }
                }
            }
        }
        said.push(format!("{data:?} {}", reader.ended()));
        said
    }

    /// Streams that are not refused at their first byte.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let tag = prop_oneof![
            6 => Just(END_OF_STATE),
            1 => Just(CONFIG_STATE),
            1 => Just(SETUP_STATE),
            2 => Just(INIT_DATA_SENT),
            1 => Just(CONFIG_LOAD_READY),
            1 => any::<u64>(),
        ];
        let part = prop_oneof![
            tag.prop_map(|tag| tag.to_be_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..300)
                .prop_map(|data| { [&qemu::data_head(data.len() as u64)[..], &data].concat() }),
        ];
        proptest::collection::vec(part, 0..12).prop_map(|parts| {
            let begin = [SETUP_STATE.to_be_bytes(), END_OF_STATE.to_be_bytes()].concat();
            [begin, parts.concat()].concat()
        })
    }

    proptest! {
        #[test]
        fn any_split_says_the_same(
            bytes in streams(), cut in 0usize..40, packets: bool, step in 1usize..150,
        ) {
            let bytes = &bytes[..bytes.len().saturating_sub(cut)];
            let whole = said(bytes, packets, usize::MAX, false);
            prop_assert_eq!(&whole, &said(bytes, packets, step, false));
            prop_assert_eq!(&whole, &said(bytes, packets, step, true));
        }
    }
}
