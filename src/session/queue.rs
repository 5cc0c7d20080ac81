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
    waiting: VecDeque<Waiting>,
    /// Since the last restart.
    blobs: u32,
}

impl Queue {
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
        let limits = DecodeLimits::default();
        if self.blobs >= limits.max_blobs {
            return Err(err!(MsgSize, "readers take {} blobs by default", limits.max_blobs));
        }
        let limit = limits.max_blob as usize;
        if bytes.len() > limit {
            return Err(err!(
                MsgSize,
                "the blob has {} bytes; the most that a reader takes by default is {limit}",
                bytes.len()
            ));
        }
        let owned = Private::copy(bytes, "no memory for a blob")?;
        let waiting = Waiting::Blob(kind, owned);
        alloc::push_back(&mut self.waiting, waiting, "no memory for a frame to be sent")?;
        self.blobs += 1;
        Ok(())
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
}
