// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saving in QEMU's format: a call gives the contents of one of QEMU's sections, a piece of the
//! stopped device's data, or one packet.

use super::{Control, Filled, Next, Phase, Save, SaveOptions, SaveStatus};
use crate::device::{Inner, State};
use crate::error::{Errno, Error, Result, err};
use crate::protocol::v2::ReadStep;
use crate::stream::qemu::{
    DATA_HEAD, END_OF_STATE, INIT_DATA_SENT, PACKET_CONFIG, PACKET_HEAD, SETUP_STATE, TAG_LEN,
    config, data_head, packet_head, tags,
};

/// Where the stream of sections and packets is.
#[derive(Default)]
pub(super) struct Sections {
    setup_sent: bool,
    /// All data of the stopped device has been returned.
    data_done: bool,
    /// Number of the next packet.
    idx: u32,
    pieces: u64,
}

impl Sections {
    /// Data of the device is on its way.
    pub(super) fn begun(&self) -> bool {
        self.pieces > 0
    }

    /// Pieces of data and packets so far.
    pub(super) fn sent(&self) -> u64 {
        self.pieces
    }
}

/// What the format cannot carry is not asked for.
pub(super) fn check_options(options: &SaveOptions) -> Result<()> {
    if options.device_index != 0 || options.migration_id != [0; 16] {
        return Err(err!(Inval, "QEMU's format carries neither the device's number nor a session"));
    }
    Ok(())
}

impl Save {
    /// A section, or a piece of the stopped device's data.
    pub(super) fn next_section(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        self.check_cancelled()?;
        self.restart_after_reset(inner)?;
        if !self.sections.setup_sent {
            let len = tags(buf, &[SETUP_STATE, END_OF_STATE])?;
            self.sections.setup_sent = true;
            return Ok(Next { status: SaveStatus::More, len });
        }
        if self.phase != Phase::StopCopy {
            return self.next_iteration(inner, buf);
        }
        if self.sections.data_done {
            return self.last_piece(buf, &[]);
        }
        let Filled { len, step, .. } = self.read_behind(inner, buf, DATA_HEAD)?;
        let mut end = self.seal_data(buf, len);
        let over = self.is_over(inner, len, step)?;
        if over {
            end += tags(buf.get_mut(end..).unwrap_or_default(), &[END_OF_STATE])?;
        }
        let status = if over { SaveStatus::Drained } else { SaveStatus::More };
        Ok(Next { status, len: end })
    }

    /// As [`Save::next_section`] until the device has stopped; then packets.
    pub(super) fn next_section_or_packet(
        &mut self,
        inner: &mut Inner,
        buf: &mut [u8],
    ) -> Result<Next> {
        if self.phase != Phase::StopCopy || !self.sections.setup_sent {
            return self.next_section(inner, buf);
        }
        self.check_cancelled()?;
        self.restart_after_reset(inner)?;
        let idx = self.sections.idx;
        if self.sections.data_done {
            return self.last_piece(buf, &packet_head(idx, PACKET_CONFIG));
        }
        // The last number cannot be used: none could follow it.
        if idx >= u32::MAX - 1 {
            self.phase = Phase::Failed;
            return Err(err!(MsgSize, "the state needs more packets than there are numbers"));
        }
        let Filled { len, step, .. } = self.read_behind(inner, buf, PACKET_HEAD)?;
        let mut end = 0;
        if len > 0 {
            put(buf, &packet_head(idx, 0));
            self.sections.idx += 1;
            self.sections.pieces += 1;
            end = PACKET_HEAD + len;
        }
        let over = self.is_over(inner, len, step)?;
        let status = if over { SaveStatus::Drained } else { SaveStatus::More };
        Ok(Next { status, len: end })
    }

    /// What QEMU sends in one round while the guest runs.
    fn next_iteration(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        if inner.data().is_none() {
            return match self.streaming {
                false => self.no_rounds(inner, buf),
                true => self.dead(inner, Errno(libc::ENODEV)),
            };
        }
        let Filled { len, step, .. } = self.read_behind(inner, buf, DATA_HEAD)?;
        match step {
            Some(ReadStep::WouldBlock) if len == 0 => return Err(would_block()),
            Some(ReadStep::Dead(errno)) if len == 0 => return self.dead(inner, errno),
            _ => {}
        }
        let end = self.seal_data(buf, len);
        // Where nothing came, asking is also what makes mlx5 and virtio produce the next piece.
        if len == 0 || self.initial.is_worth_a_look() {
            self.look_for_initial(inner, len == 0);
        }
        let tag = match self.due_mark() {
            true => INIT_DATA_SENT,
            false => END_OF_STATE,
        };
        let tag_len = tags(buf.get_mut(end..).unwrap_or_default(), &[tag])?;
        let status = if len == 0 { SaveStatus::Drained } else { SaveStatus::More };
        Ok(Next { status, len: end + tag_len })
    }

    /// Without pre-copy there are no rounds. A target whose device has pre-copy waits for the mark
    /// all the same, unless the guest stands.
    fn no_rounds(&mut self, inner: &Inner, buf: &mut [u8]) -> Result<Next> {
        let awaited = inner.caps().has_pre_copy() && self.origin != State::Stop;
        if awaited && self.options.switchover_ack && !self.initial.is_marked() {
            let len = tags(buf, &[INIT_DATA_SENT])?;
            self.initial.mark();
            return Ok(Next { status: SaveStatus::More, len });
        }
        Ok(Next { status: SaveStatus::Drained, len: 0 })
    }

    /// Whether the mark that all initial data was sent goes out now: one per generation, or one in
    /// all for a target that takes no more.
    fn due_mark(&mut self) -> bool {
        let spent = self.options.ack_once && self.initial.ever_marked();
        let due = self.options.switchover_ack && self.initial.is_due() && !spent;
        if due {
            self.initial.mark();
        }
        due
    }

    /// Reads behind room for a head, and leaves room for a tag.
    fn read_behind(&mut self, inner: &mut Inner, buf: &mut [u8], head: usize) -> Result<Filled> {
        let room = buf.len().saturating_sub(head + TAG_LEN);
        let limit = room.min(self.options.max_frame as usize);
        let payload = buf.get_mut(head..head + limit).unwrap_or_default();
        let filled = self.read(inner, payload, |_| {})?;
        match filled.failed {
            // What was read is lost with the save; nothing half is sent.
            Some(error) => {
                self.phase = Phase::Failed;
                Err(error)
            }
            None => Ok(filled),
        }
    }

    /// Puts the head before data that was read; returns the length of both.
    fn seal_data(&mut self, buf: &mut [u8], len: usize) -> usize {
        if len == 0 {
            return 0;
        }
        put(buf, &data_head(len as u64));
        self.sections.pieces += 1;
        DATA_HEAD + len
    }

    /// Whether the stopped device has given all its data.
    fn is_over(&mut self, inner: &mut Inner, len: usize, step: Option<ReadStep>) -> Result<bool> {
        match step {
            Some(ReadStep::End) => {
                self.sections.data_done = true;
                Ok(true)
            }
            Some(ReadStep::WouldBlock) if len == 0 => Err(would_block()),
            Some(ReadStep::Dead(errno)) if len == 0 => self.dead(inner, errno).map(|_| false),
            _ => Ok(false),
        }
    }

    /// The configuration, between its tags.
    fn last_piece(&mut self, buf: &mut [u8], head: &[u8]) -> Result<Next> {
        let blob = match self.queue.front() {
            Some(Control::Blob(_, bytes)) => bytes,
            _ => {
                return Err(err!(
                    Inval,
                    "the configuration is missing: add it as a blob, empty if there is none"
                ));
            }
        };
        let len = config(buf, head, blob)?;
        self.queue.clear();
        self.phase = Phase::Ended;
        Ok(Next { status: SaveStatus::End, len })
    }

    /// Whether a blob of this kind can be added now: the configuration, once.
    pub(super) fn check_config(&self, kind: u32) -> Result<()> {
        if kind != 0 {
            return Err(err!(Inval, "QEMU's format has no kinds of blobs: use 0"));
        }
        if self.phase != Phase::StopCopy {
            return Err(err!(Inval, "the configuration is that of the stopped device: stop first"));
        }
        if self.blobs > 0 {
            return Err(err!(Inval, "QEMU's format carries one configuration, and it was added"));
        }
        Ok(())
    }
}

fn put(buf: &mut [u8], head: &[u8]) {
    if let Some(room) = buf.get_mut(..head.len()) {
        room.copy_from_slice(head);
    }
}

fn would_block() -> Error {
    err!(Again, "the device has no data now; poll its data fd")
}
