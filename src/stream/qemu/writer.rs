// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing in QEMU's format: a call returns the contents of one of QEMU's sections, a piece of the
//! stopped device's data, or one packet.

use super::layout::{
    CONFIG_OVERHEAD, CONFIG_STATE, DATA_HEAD, DATA_STATE, END_OF_STATE, INIT_DATA_SENT,
    PACKET_CONFIG, PACKET_HEAD, PACKET_VERSION, SETUP_STATE, TAG_LEN,
};
use crate::error::{Result, err};
use crate::stream::bytes::Put;
use crate::stream::writer::{
    Before, Piece, Room, Round, SaveStatus, Took, Waiting, Write, too_small,
};

/// How often the stream says that all initial data has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marks {
    /// Never: the VMM has not negotiated it.
    None,
    /// At most once: some targets fail on a second mark.
    One,
    /// Once for each time that the device starts its initial data.
    Each,
}

/// Writes one stream of sections and packets.
pub(crate) struct Writer {
    packets: bool,
    marks: Marks,
    max_piece: usize,
    setup_sent: bool,
    /// Whether a mark was sent.
    marked: bool,
    /// Whether all data of the stopped device has been returned.
    data_done: bool,
    /// Number of the next packet.
    idx: u32,
    /// Pieces of data, and packets, so far.
    pieces: u64,
}

impl Writer {
    /// A new stream, in which at most `max_piece` bytes of data come at once. With `packets`, the
    /// stopped device's data and the configuration are packets.
    pub fn new(packets: bool, marks: Marks, max_piece: u32) -> Writer {
        Writer {
            packets,
            marks,
            max_piece: max_piece as usize,
            setup_sent: false,
            marked: false,
            data_done: false,
            idx: 0,
            pieces: 0,
        }
    }

    /// Whether a mark that is due goes out.
    fn may_mark(&self) -> bool {
        match self.marks {
            Marks::None => false,
            Marks::One => !self.marked,
            Marks::Each => true,
        }
    }

    /// The end of what QEMU sends in one round while the guest runs.
    fn end_round(&mut self, mark: Option<u32>, buf: &mut [u8]) -> Result<(usize, Took)> {
        match mark {
            Some(_) if self.may_mark() => {
                let len = tags(buf, &[INIT_DATA_SENT])?;
                self.marked = true;
                Ok((len, Took::Mark))
            }
            _ => Ok((tags(buf, &[END_OF_STATE])?, Took::Nothing)),
        }
    }

    /// Puts the header before data that has come; returns the length of both.
    fn put_head(&mut self, buf: &mut [u8], len: usize, packet: bool) -> usize {
        if len == 0 {
            return 0;
        }
        self.pieces += 1;
        let put = |buf: &mut [u8], head: &[u8]| {
            if let Some(room) = buf.get_mut(..head.len()) {
                room.copy_from_slice(head);
            }
            head.len() + len
        };
        if packet {
            let head = packet_head(self.idx, false);
            self.idx += 1;
            return put(buf, &head);
        }
        put(buf, &data_head(len as u64))
    }
}

impl Write for Writer {
    /// The configuration, once.
    fn check_blob(&self, kind: u32, stopped: bool, others: u32) -> Result<()> {
        if kind != 0 {
            return Err(err!(Inval, "QEMU's format has no kinds of blobs: use 0"));
        }
        if !stopped {
            return Err(err!(
                Inval,
                "the configuration is that of the stopped device: stop the device first"
            ));
        }
        if others > 0 {
            return Err(err!(
                Inval,
                "QEMU's format carries one configuration, and it has been added"
            ));
        }
        Ok(())
    }

    fn before_data(&mut self, before: &Before<'_>, buf: &mut [u8]) -> Result<Option<Piece>> {
        if !self.setup_sent {
            let len = tags(buf, &[SETUP_STATE, END_OF_STATE])?;
            self.setup_sent = true;
            return Ok(Some(Piece::more(len)));
        }
        if !self.data_done {
            return Ok(None);
        }
        let Some(Waiting::Blob(_, bytes)) = before.first else {
            return Err(err!(
                Inval,
                "the configuration is missing: add it as a blob, empty if there is none"
            ));
        };
        let head = packet_head(self.idx, true);
        let len = config(buf, if self.packets { &head } else { &[] }, bytes)?;
        Ok(Some(Piece { len, status: SaveStatus::End, took: Took::First }))
    }

    /// There are no rounds. A target whose device has pre-copy waits for the mark nevertheless.
    fn without_data(&mut self, mark: Option<u32>, buf: &mut [u8]) -> Result<Piece> {
        if mark.is_some() && self.marks != Marks::None {
            let len = tags(buf, &[INIT_DATA_SENT])?;
            self.marked = true;
            return Ok(Piece { took: Took::Mark, ..Piece::more(len) });
        }
        Ok(Piece { len: 0, status: SaveStatus::Drained, took: Took::Nothing })
    }

    /// After the room for a header, and before the room for a tag.
    fn room<'b>(&'b mut self, buf: &'b mut [u8], stopped: bool) -> Result<Room<'b>> {
        let packet = self.packets && stopped;
        // The last number cannot be used, because none could follow it.
        if packet && self.idx >= u32::MAX - 1 {
            return Err(err!(MsgSize, "the state needs more packets than there are numbers"));
        }
        let head = if packet { PACKET_HEAD } else { DATA_HEAD };
        Ok(Room::new(buf, head, TAG_LEN, self.max_piece))
    }

    fn seal(&mut self, buf: &mut [u8], data_len: usize, round: &Round) -> Result<Piece> {
        let packet = self.packets && round.stopped;
        let len = self.put_head(buf, data_len, packet);
        let behind = buf.get_mut(len..).unwrap_or_default();
        if !round.stopped {
            let (tag_len, took) = self.end_round(round.mark, behind)?;
            let status = if len == 0 { SaveStatus::Drained } else { SaveStatus::More };
            return Ok(Piece { len: len + tag_len, status, took });
        }
        if !round.ended {
            return Ok(Piece::more(len));
        }
        self.data_done = true;
        let tag_len = if packet { 0 } else { tags(behind, &[END_OF_STATE])? };
        Ok(Piece { len: len + tag_len, status: SaveStatus::Drained, took: Took::Nothing })
    }

    fn begun(&self) -> bool {
        self.pieces > 0 || self.marked
    }

    fn frames(&self) -> u64 {
        self.pieces
    }
}

/// The header of a piece of data on the main channel.
pub fn data_head(len: u64) -> [u8; DATA_HEAD] {
    let mut out = [0; DATA_HEAD];
    let mut put = Put { out: &mut out, at: 0 };
    put.bytes(&DATA_STATE.to_be_bytes());
    put.bytes(&len.to_be_bytes());
    out
}

/// The header of a packet: of one with data, or of the last one, with the configuration.
pub fn packet_head(idx: u32, config: bool) -> [u8; PACKET_HEAD] {
    let flags = if config { PACKET_CONFIG } else { 0 };
    let mut out = [0; PACKET_HEAD];
    let mut put = Put { out: &mut out, at: 0 };
    for field in [PACKET_VERSION, idx, flags] {
        put.bytes(&field.to_be_bytes());
    }
    out
}

/// Writes tags; returns their length.
fn tags(buf: &mut [u8], tags: &[u64]) -> Result<usize> {
    let len = tags.len() * TAG_LEN;
    let room = buf.get_mut(..len).ok_or_else(|| too_small(len))?;
    let mut put = Put { out: room, at: 0 };
    for tag in tags {
        put.bytes(&tag.to_be_bytes());
    }
    Ok(len)
}

/// Writes a configuration between its tags, after `head`; returns the length of all of it.
fn config(buf: &mut [u8], head: &[u8], blob: &[u8]) -> Result<usize> {
    let len = head.len() + CONFIG_OVERHEAD + blob.len();
    let room = buf.get_mut(..len).ok_or_else(|| too_small(len))?;
    let mut put = Put { out: room, at: 0 };
    put.bytes(head);
    put.bytes(&CONFIG_STATE.to_be_bytes());
    put.bytes(blob);
    put.bytes(&END_OF_STATE.to_be_bytes());
    Ok(len)
}
