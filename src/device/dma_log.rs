// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's DMA logging, for whoever tracks dirty pages.

use super::Device;
use super::probe::ReasonCode;
use crate::error::{Errno, Result};
use crate::transport::{Bitmap, DmaLog, IovaRange, PageSize};

impl Device {
    /// The device's DMA logging, or why there is none.
    pub(crate) fn dma_log(&self) -> Result<std::result::Result<Box<dyn DmaLog>, String>> {
        let mut inner = self.lock()?;
        if !inner.caps().dma_logging {
            let codes = [ReasonCode::NoDmaLogging, ReasonCode::DmaLoggingUnusable];
            let reason = inner.reasons().iter().find(|reason| codes.contains(&reason.code));
            return Ok(Err(reason.map(|reason| reason.text.clone()).unwrap_or_default()));
        }
        let log = inner.link.dma_log();
        Ok(Ok(log.unwrap_or_else(|| Box::new(InTurn(self.clone())))))
    }
}

/// A log that is used in turn with everything else.
struct InTurn(Device);

impl InTurn {
    fn with<T>(
        &self,
        call: impl FnOnce(&mut dyn DmaLog) -> std::result::Result<T, Errno>,
    ) -> std::result::Result<T, Errno> {
        let mut inner = self.0.lock().map_err(|_| Errno(libc::EBUSY))?;
        inner.link.with_log(call)
    }
}

impl DmaLog for InTurn {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> std::result::Result<u64, Errno> {
        self.with(|log| log.start(page, ranges))
    }

    fn stop(&mut self) -> std::result::Result<(), Errno> {
        self.with(|log| log.stop())
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
        self.with(|log| log.report(bitmap))
    }
}
