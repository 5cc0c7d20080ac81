// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a load asks of a guard, whoever has written it.

use crate::error::Result;

/// Judges a device's data. An error refuses the stream: the load fails, and the device is reset.
pub trait Guard: Send {
    /// A load begins, and nothing has happened to the device yet.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// The next bytes, before the driver gets them: those from `offset` on, which is 0 at the
    /// beginning and after a restart.
    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()>;

    /// The source has started again: what came before is void.
    fn restart(&mut self) -> Result<()>;

    /// The data is complete, with `len` bytes in all.
    fn end(&mut self, len: u64) -> Result<()>;
}
