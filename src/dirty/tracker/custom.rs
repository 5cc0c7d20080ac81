// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker that a VMM brings itself, as callbacks.

use super::{Tracker, TrackerKind};
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::Map;
use crate::error::{Errno, Error, Result, err};
use crate::transport::Bitmap;

/// A tracker that the VMM brings: a vfio-user server's log, for example.
pub trait CustomTracker: Send {
    /// Size of the pages that it answers in, in bytes: a power of two.
    fn page_size(&self) -> PageSize;

    /// Starts tracking. What was written to before does not matter.
    fn start(&mut self) -> std::result::Result<(), Errno>;

    /// Stops tracking.
    fn stop(&mut self) -> std::result::Result<(), Errno>;

    /// Sets the bits of pages in the bitmap's span that were written to since the last call, and
    /// forgets those pages. The bitmap is zeroed, its pages are of [`CustomTracker::page_size`],
    /// and its span may reach beyond the ends of mappings.
    fn sync(&mut self, bitmap: &mut Bitmap<'_>) -> std::result::Result<(), Errno>;
}

pub(in crate::dirty) struct Custom {
    tracker: Box<dyn CustomTracker>,
    page: PageSize,
    calls: u64,
}

impl Custom {
    pub fn new(tracker: Box<dyn CustomTracker>) -> Result<Custom> {
        let page = tracker.page_size();
        if !(512..=1 << 30).contains(&page.bytes()) {
            let size = page.bytes();
            return Err(err!(Inval, "a tracker's pages have from 512 bytes to 1 GiB, not {size}"));
        }
        Ok(Custom { tracker, page, calls: 0 })
    }
}

fn callback(what: &str, errno: Errno) -> Error {
    Error::new(errno.callback_code(), format!("the VMM's tracker does not {what}: {errno}"))
}

impl Tracker for Custom {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Custom
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 1;
        self.tracker.start().map_err(|errno| callback("start", errno))
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.tracker.stop().map_err(|errno| callback("stop", errno))
    }

    fn read(&mut self, _keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()> {
        self.calls += 1;
        self.tracker
            .sync(bitmap)
            .map_err(|errno| callback(&format!("read {}", bitmap.span()), errno))
    }

    fn calls(&self) -> u64 {
        self.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// Does not stop.
    struct Refuses(Errno);

    impl CustomTracker for Refuses {
        fn page_size(&self) -> PageSize {
            PageSize::new(4096).unwrap()
        }

        fn start(&mut self) -> std::result::Result<(), Errno> {
            Ok(())
        }

        fn stop(&mut self) -> std::result::Result<(), Errno> {
            Err(self.0)
        }

        fn sync(&mut self, _bitmap: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
            Ok(())
        }
    }

    #[test]
    fn a_callback_that_a_signal_interrupted_was_called_once_and_has_not_timed_out() {
        for (errno, code) in [(libc::EINTR, Code::Io), (libc::ENOMEM, Code::NoMem)] {
            let mut tracker = Custom::new(Box::new(Refuses(Errno(errno)))).unwrap();
            assert_eq!(tracker.stop().unwrap_err().code(), code);
        }
    }
}
