// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker behind a type1 container, which reports every pinned page as dirty.

use super::{Extent, Tracker, TrackerKind, refused};
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::Map;
use crate::error::{Result, err};
use crate::transport::{Bitmap, Type1};

pub(in crate::dirty) struct Container {
    type1: Box<dyn Type1>,
    page: PageSize,
    max_bitmap: u64,
    calls: u64,
}

impl Container {
    pub fn new(type1: Box<dyn Type1>, page: PageSize) -> Container {
        Container { type1, page, max_bitmap: 0, calls: 0 }
    }
}

impl Tracker for Container {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Type1
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 2;
        let info = self.type1.info();
        let info =
            info.map_err(|errno| refused("the container does not say what it can do", errno))?;
        self.page = info
            .page_sizes
            .smallest()
            .ok_or_else(|| err!(NotSupported, "the container has no dirty tracking"))?;
        self.max_bitmap = info.max_bitmap;
        self.type1.start().map_err(|errno| match errno.0 {
            libc::EACCES => err!(NotSupported, "the container is not of type1v2"),
            _ => refused("the container does not start dirty tracking", errno),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.type1
            .stop()
            .map_err(|errno| refused("the container does not stop dirty tracking", errno))
    }

    fn read(&mut self, _keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()> {
        self.calls += 1;
        self.type1.bitmap(bitmap).map_err(|errno| {
            let hint = match errno.0 {
                libc::EINVAL => {
                    "; is it mapped exactly like this, as one mapping or several whole ones?"
                }
                _ => "",
            };
            let text = format!("the dirty bits of {}, are unreadable", bitmap.span());
            refused(&text, errno).note(hint)
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn extent(&self) -> Extent {
        Extent::WholeMappings { max_bitmap: self.max_bitmap }
    }

    fn unmap(&mut self, bitmap: &mut Bitmap<'_>) -> Option<Result<()>> {
        let mut unmap = || {
            self.calls += 1;
            let unmapped = self.type1.unmap(bitmap);
            let what = format!("unmapping {}, with its dirty bits", bitmap.span());
            let unmapped = unmapped.map_err(|errno| refused(&what, errno))?;
            if unmapped == bitmap.span().length {
                return Ok(());
            }
            Err(err!(Io, "{what}: only {unmapped:#x} bytes were mapped"))
        };
        Some(unmap())
    }
}
