// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a save's stream has to say besides data, until its writer takes it: that it starts again,
//! and the VMM's blobs.

use std::collections::VecDeque;

use crate::alloc;
use crate::error::{Result, err};
use crate::private::Private;
use crate::stream::{DecodeLimits, Waiting};

#[derive(Default)]
pub(super) struct Queue {
    /// What the other side takes.
    limits: DecodeLimits,
    waiting: VecDeque<Waiting>,
    /// Since the last restart.
    blobs: u32,
}

impl Queue {
    pub fn new(limits: DecodeLimits) -> Queue {
        Queue { limits, ..Queue::default() }
    }

    pub fn first(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// The writer has taken the first.
    pub fn took_first(&mut self) {
        self.waiting.pop_front();
    }

    /// How many blobs there were since the last restart.
    pub fn blobs(&self) -> u32 {
        self.blobs
    }

    /// Queues a blob. One that no reader would take is refused here, where the VMM can still do
    /// without it.
    pub fn add_blob(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        let limits = &self.limits;
        if self.blobs >= limits.max_blobs {
            return Err(err!(MsgSize, "the limits allow a stream {} blobs", limits.max_blobs));
        }
        let limit = limits.max_blob as usize;
        if bytes.len() > limit {
            return Err(err!(
                MsgSize,
                "the blob has {} bytes; the limits allow {limit}, which is also what a reader takes",
                bytes.len()
            ));
        }
        let room = limits.max_memory.saturating_sub(self.bytes_waiting());
        if bytes.len() as u64 > room {
            return Err(err!(
                MsgSize,
                "the blob has {} bytes, and the limits allow {room} more to wait to be sent",
                bytes.len()
            ));
        }
        let owned = Private::copy(bytes, "no memory for a blob")?;
        let waiting = Waiting::Blob(kind, owned);
        alloc::push_back(&mut self.waiting, waiting, "no memory for a frame to be sent")?;
        self.blobs += 1;
        Ok(())
    }

    /// Bytes of blobs that wait.
    fn bytes_waiting(&self) -> u64 {
        let len = |waiting: &Waiting| match waiting {
            Waiting::Blob(_, bytes) => bytes.len() as u64,
            Waiting::Restart(_) => 0,
        };
        self.waiting.iter().map(len).sum()
    }

    /// The save starts again. `number`: which restart that is, if the stream has to tell.
    pub fn restart(&mut self, number: Option<u32>) {
        // Like the blobs that were sent, those still waiting describe the device before the reset.
        self.clear();
        self.waiting.extend(number.map(Waiting::Restart));
        self.blobs = 0;
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_restart_goes_first_and_takes_back_the_blobs() {
        let mut queue = Queue::default();
        queue.add_blob(7, b"before").unwrap();
        queue.restart(Some(1));
        queue.add_blob(8, b"after").unwrap();
        assert_eq!(queue.blobs(), 1);
        assert!(matches!(queue.first(), Some(Waiting::Restart(1))));
        queue.took_first();
        assert!(matches!(queue.first(), Some(Waiting::Blob(8, bytes)) if bytes[..] == *b"after"));
        // A stream that has not begun has nothing to take back.
        queue.restart(None);
        assert!(queue.first().is_none() && queue.blobs() == 0);
    }

    #[test]
    fn what_no_reader_takes_is_refused_and_does_not_count() {
        let mut queue = Queue::default();
        let limits = DecodeLimits::default();
        let large = vec![0; limits.max_blob as usize + 1];
        assert_eq!(queue.add_blob(1, &large).unwrap_err().code(), Code::MsgSize);
        assert!(queue.first().is_none() && queue.blobs() == 0);
        for _ in 0..limits.max_blobs {
            queue.add_blob(1, &[]).unwrap();
            queue.took_first();
        }
        assert_eq!(queue.add_blob(1, &[]).unwrap_err().code(), Code::MsgSize);
        queue.restart(Some(1));
        queue.add_blob(1, &[]).unwrap();
    }

    #[test]
    fn blobs_that_wait_stay_within_the_memory_of_the_save() {
        let limits = DecodeLimits { max_memory: 1000, max_blob: 600, ..DecodeLimits::default() };
        let mut queue = Queue::new(limits);
        assert_eq!(queue.add_blob(1, &[0; 601]).unwrap_err().code(), Code::MsgSize);
        queue.add_blob(1, &[0; 600]).unwrap();
        assert_eq!(queue.add_blob(1, &[0; 401]).unwrap_err().code(), Code::MsgSize);
        queue.add_blob(1, &[0; 400]).unwrap();
        assert_eq!(queue.add_blob(1, &[0; 1]).unwrap_err().code(), Code::MsgSize);
        queue.took_first();
        queue.add_blob(1, &[0; 600]).unwrap();
        assert_eq!(queue.blobs(), 3);
    }
}
