// SPDX-License-Identifier: MIT OR Apache-2.0
//! Callbacks of dirty tracking: the VMM's memory, and trackers of its own.

use std::ffi::{c_int, c_void};

use super::structs::{
    page_of, vfiomig_mapping, vfiomig_memory_ops, vfiomig_place, vfiomig_tracker_ops,
};
use crate::capi::callbacks::{Opaque, status};
use crate::capi::sized::read_in;
use crate::dirty::{CustomTracker, DirtyPages, Mapping, Memory, PageSize, Place};
use crate::error::{Code, Errno, Error, Result, err};
use crate::transport::{Bitmap, Span};

/// A VMM's memory behind a table of callbacks.
pub(super) struct MemoryOps {
    ops: vfiomig_memory_ops,
    opaque: Opaque,
}

impl MemoryOps {
    /// From here on the library owns the opaque.
    ///
    /// # Safety
    /// Whoever brings the table promises, until `release` has been called:
    /// 1. Its callbacks may be called with `opaque`, on any thread, one at a time, and then `release`
    ///    once.
    /// 2. Each uses what it is given pointers to only while it runs: `set_dirty` reads the words that
    ///    have the `num_bits` bits, `translate` fills in its place, `read` writes to the `len` bytes,
    ///    and `write` reads them.
    /// 3. `enumerate` calls `add` on its own thread, before it returns, with the opaque that it got
    ///    for it, and with NULL or a mapping of the size that it claims.
    /// 4. Where `read` or `write` is NULL: the host address of every mapping in the map, and of every
    ///    place that `translate` fills in, is NULL, or leads to as many bytes as the mapping or place
    ///    says, which may be read, and, unless the mapping is read-only, written. For a mapping that
    ///    holds as long as it is in the map, for a place until the call into the library returns.
    pub(super) unsafe fn new(ops: vfiomig_memory_ops, opaque: *mut c_void) -> MemoryOps {
        // SAFETY: promise 1.
        let opaque = unsafe { Opaque::new(opaque, ops.release) };
        MemoryOps { ops, opaque }
    }
}

/// What `add` needs while a VMM enumerates its mappings.
struct Adder<'a> {
    add: &'a mut dyn FnMut(Mapping) -> Result<()>,
    /// The first mapping that was refused: the VMM might not pass the error on.
    refused: Option<Error>,
}

unsafe extern "C" fn add(opaque: *mut c_void, mapping: *const vfiomig_mapping) -> c_int {
    // SAFETY: promise 3 of `MemoryOps::new`: the adder that `enumerate` was given, whose thread has
    // lent it for as long as that runs.
    let Some(adder) = (unsafe { opaque.cast::<Adder<'_>>().as_mut() }) else {
        return Code::Fault.to_ret();
    };
    let mut take = || {
        // SAFETY: promise 3: NULL, or a structure of the size that it claims.
        let (mapping, tail) = unsafe { read_in(mapping, "the mapping") }?;
        tail.check()?;
        (adder.add)(mapping.to_mapping()?)
    };
    match take() {
        Ok(()) => 0,
        Err(error) => {
            let ret = error.code().to_ret();
            adder.refused.get_or_insert(error);
            ret
        }
    }
}

impl Memory for MemoryOps {
    fn enumerate(&mut self, sink: &mut dyn FnMut(Mapping) -> Result<()>) -> Result<bool> {
        let Some(enumerate) = self.ops.enumerate else { return Ok(false) };
        let mut adder = Adder { add: sink, refused: None };
        // SAFETY: promises 1 and 3; the adder lives during the call.
        let ret = unsafe {
            enumerate(self.opaque.get(), Some(add), std::ptr::from_mut(&mut adder).cast())
        };
        if let Some(error) = adder.refused {
            return Err(error);
        }
        status(ret).map(|()| true).map_err(|errno| {
            Error::new(
                errno.callback_code(),
                format!("the VMM does not enumerate its mappings: {errno}"),
            )
        })
    }

    fn takes_pages(&self) -> bool {
        self.ops.set_dirty.is_some()
    }

    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> std::result::Result<(), Errno> {
        let set_dirty = self.ops.set_dirty.ok_or(Errno(libc::EOPNOTSUPP))?;
        let DirtyPages { cookie, offset, page, bitmap, bits } = pages;
        // SAFETY: promises 1 and 2; the bitmap has `bits` bits, and lives during the call.
        status(unsafe {
            set_dirty(self.opaque.get(), cookie, offset, page.bytes(), bitmap.as_ptr(), bits)
        })
    }

    fn translate(&mut self, iova: u64, size: u64) -> std::result::Result<Place, Errno> {
        let translate = self.ops.translate.ok_or(Errno(libc::EOPNOTSUPP))?;
        let mut place = vfiomig_place {
            struct_size: size_of::<vfiomig_place>() as u32,
            reserved: 0,
            cookie: 0,
            offset: 0,
            size: 0,
            host: std::ptr::null_mut(),
        };
        // SAFETY: promises 1 and 2; `place` is valid for writes, and any bits are a value of it.
        status(unsafe { translate(self.opaque.get(), iova, size, &raw mut place) })?;
        Ok(Place::from(place))
    }

    fn read(&mut self, place: Place, buf: &mut [u8]) -> std::result::Result<(), Errno> {
        if let Some(read) = self.ops.read {
            let (to, len) = (buf.as_mut_ptr().cast(), buf.len());
            // SAFETY: promises 1 and 2; `buf` is valid for writes of `len` bytes.
            return status(unsafe { read(self.opaque.get(), place.cookie, place.offset, to, len) });
        }
        let from = host(place, buf.len())?;
        // SAFETY: promise 4; `host` has found that the place has as many bytes as `buf`.
        unsafe { std::ptr::copy(from, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    fn write(&mut self, place: Place, buf: &[u8]) -> std::result::Result<(), Errno> {
        if let Some(write) = self.ops.write {
            let (from, len) = (buf.as_ptr().cast(), buf.len());
            // SAFETY: promises 1 and 2; `buf` is valid for reads of `len` bytes.
            return status(unsafe {
                write(self.opaque.get(), place.cookie, place.offset, from, len)
            });
        }
        let to = host(place, buf.len())?;
        // SAFETY: as in `read`; nothing is written to a place that is read-only.
        unsafe { std::ptr::copy(buf.as_ptr(), to, buf.len()) };
        Ok(())
    }
}

fn host(place: Place, len: usize) -> std::result::Result<*mut u8, Errno> {
    if place.host == 0 || (len as u64) > place.size {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    Ok(std::ptr::with_exposed_provenance_mut(place.host))
}

/// A tracker behind a table of callbacks.
pub(super) struct TrackerOps {
    ops: vfiomig_tracker_ops,
    page: PageSize,
    opaque: Opaque,
}

impl TrackerOps {
    /// From here on the library owns the opaque, even if it refuses the table.
    ///
    /// # Safety
    /// Whoever brings the table promises, until `release` has been called:
    /// 1. Its callbacks may be called with `opaque`, on any thread, one at a time, and then `release`
    ///    once.
    /// 2. `sync` uses the bitmap only while it runs, and writes to no more than its `num_words` words
    ///    and the rest of their last page.
    pub(super) unsafe fn new(ops: vfiomig_tracker_ops, opaque: *mut c_void) -> Result<TrackerOps> {
        // SAFETY: promise 1.
        let opaque = unsafe { Opaque::new(opaque, ops.release) };
        if ops.sync.is_none() {
            return Err(err!(Inval, "tracker->sync is required"));
        }
        if ops.reserved != 0 {
            return Err(err!(Inval, "tracker->reserved is not zero"));
        }
        let page = page_of(ops.page_size, "a tracker")?;
        Ok(TrackerOps { ops, page, opaque })
    }
}

impl CustomTracker for TrackerOps {
    fn page_size(&self) -> PageSize {
        self.page
    }

    fn start(&mut self) -> std::result::Result<(), Errno> {
        // SAFETY: promise 1.
        self.ops.start.map_or(Ok(()), |start| status(unsafe { start(self.opaque.get()) }))
    }

    fn stop(&mut self) -> std::result::Result<(), Errno> {
        // SAFETY: promise 1.
        self.ops.stop.map_or(Ok(()), |stop| status(unsafe { stop(self.opaque.get()) }))
    }

    fn sync(&mut self, bitmap: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
        let sync = self.ops.sync.ok_or(Errno(libc::EOPNOTSUPP))?;
        let Span { start: iova, length, page } = bitmap.span();
        let page_size = page.bytes();
        let (words, num) = (bitmap.as_mut_ptr(), bitmap.len());
        // SAFETY: promises 1 and 2; a `Bitmap` has the words, and its pages, exclusively, during the
        // call.
        status(unsafe { sync(self.opaque.get(), iova, length, page_size, words, num) })
    }
}
