// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_inspect_*`.

mod constants;
mod decoder;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use decoder::*;
pub use structs::*;

use super::args::{Out, bytes};
use super::auth::read_auth;
use super::callbacks::{Opaque, verdict};
use super::device::vfiomig_identity;
use super::entry::{admit, free, guarded_owner, publish, with};
use super::handle::Handle;
use super::limits::vfiomig_limits;
use super::row::Kind;
use super::sized::{SizedOut, read_in};
use super::table::{self, inspect_states as states};
use crate::error::{Code, Error, Result, err};
use crate::inspect::{Decoding, Entry, InspectOptions, Inspector, Verdict};
use decoder::Texts;

/// What a handle stands for.
pub struct Inspection {
    inspector: Inspector,
    decoding: Decoding,
    decoder_code: Option<Code>,
    sink: Sink,
}

/// The caller's callbacks.
#[derive(Default)]
struct Sink {
    entry: vfiomig_inspect_entry_fn,
    entry_opaque: Option<Opaque>,
    field: vfiomig_decoded_fn,
    field_opaque: Option<Opaque>,
}

impl Handle for vfiomig_inspect {
    const KIND: &'static Kind = &table::INSPECT;
    type Object = Inspection;
    type Shared = ();

    fn state(inspection: &Inspection) -> u32 {
        match inspection.inspector.report().verdict {
            Verdict::Pending => states::OPEN,
            _ => states::OVER,
        }
    }
}

fn value_of(opaque: Option<&Opaque>) -> *mut c_void {
    opaque.map_or(std::ptr::null_mut(), Opaque::get)
}

impl Sink {
    /// Owns the callbacks from here on.
    ///
    /// # Safety
    /// Promises 2 and 3 of C, for both.
    unsafe fn new(options: &vfiomig_inspect_options) -> Sink {
        // SAFETY: promise 2: each release function can be called with its opaque.
        let (entry_opaque, field_opaque) = unsafe {
            (
                Opaque::new(options.entry_opaque, options.entry_release),
                Opaque::new(options.field_opaque, options.field_release),
            )
        };
        Sink {
            entry: options.entry,
            entry_opaque: Some(entry_opaque),
            field: options.field,
            field_opaque: Some(field_opaque),
        }
    }

    /// Passes an entry on, and the fields that it completes.
    fn take(&self, decoding: &mut Decoding, entry: &Entry<'_>) -> Result<()> {
        if let Some(call) = self.entry {
            let out = vfiomig_inspect_entry::from(entry);
            // SAFETY: promises 2 and 3; the structure, and what it points to, live during the call.
            unsafe { call(value_of(self.entry_opaque.as_ref()), &raw const out) };
        }
        let Some(call) = self.field else { return Ok(()) };
        decoding.entry(entry, &mut |field| {
            let texts = Texts::of(field);
            let out = texts.field(field);
            // SAFETY: as above.
            let ret = unsafe { call(value_of(self.field_opaque.as_ref()), &raw const out) };
            verdict(ret).map_err(|errno| {
                Error::new(errno.refusal_code(), "the callback for fields has ended decoding")
            })
        })
    }
}

impl Inspection {
    /// Reads the options; the library owns what is in them from here on, even if it refuses them.
    ///
    /// # Safety
    /// NULL, or options as vfiomig.h describes them.
    unsafe fn read(from: *const vfiomig_inspect_options) -> Result<Inspection> {
        let mut made = InspectOptions::default();
        let (mut sink, mut decoding) = (Sink::default(), Decoding::new());
        if !from.is_null() {
            // SAFETY: promise 1: a structure of the size that it claims.
            let (options, tail) = unsafe { read_in(from, "options") }?;
            // SAFETY: promises 2 and 3, about the callbacks.
            sink = unsafe { Sink::new(&options) };
            // SAFETY: promises 1 to 3, for what the options point to.
            let (auth, decoder, limits) = unsafe {
                (
                    read_auth(options.auth),
                    decoder::decoder(options.decoder, options.decoder_opaque),
                    vfiomig_limits::read(options.limits),
                )
            };
            tail.check()?;
            if options.reserved != 0 {
                return Err(err!(Inval, "reserved is not zero in the options of an inspection"));
            }
            made.auth = auth?;
            made.limits = limits?.of_reader(made.limits);
            if let Some((driver, decoder)) = decoder? {
                decoding.add(&driver, decoder)?;
            }
        }
        let inspector = Inspector::new(made)?;
        Ok(Inspection { inspector, decoding, decoder_code: None, sink })
    }

    fn push(&mut self, mut input: &[u8]) -> Result<()> {
        while let Some(entry) = self.inspector.next(&mut input)? {
            if let Err(error) = self.sink.take(&mut self.decoding, &entry) {
                self.decoder_code.get_or_insert(error.code());
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        while let Some(entry) = self.inspector.finish()? {
            if let Err(error) = self.sink.take(&mut self.decoding, &entry) {
                self.decoder_code.get_or_insert(error.code());
            }
        }
        Ok(())
    }
}

/// Begins to inspect a stream. It needs no device, and has an effect on none: it reads a copy. Its
/// memory does not depend on the length of the stream; it keeps one frame at most.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_inspect_new(
    options: *const vfiomig_inspect_options,
    out: *mut *mut vfiomig_inspect,
) -> c_int {
    guarded_owner(&table::INSPECT_NEW, || {
        // First, so that its callbacks are released whatever happens.
        // SAFETY: vfiomig.h: NULL, or options.
        let inspection = unsafe { Inspection::read(options) };
        admit(&table::INSPECT_NEW)?;
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        publish(out, inspection?, ())
    })
}

/// Inspects the next len bytes of the stream, split in any way, and calls back for what they
/// complete. A stream that is damaged is no error: what is wrong is in the entries and in the report,
/// and inspection goes on where the stream can be understood again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_inspect_push(
    inspect: *mut vfiomig_inspect,
    data: *const c_void,
    len: usize,
) -> c_int {
    with(&table::INSPECT_PUSH, inspect, |inspection| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        inspection.push(unsafe { bytes(data, len, "data") }?)
    })
}

/// Tells that all of the stream has come. Calls back for what is left, and makes the verdict:
/// vfiomig_inspect_get_report() has it.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_inspect_end(inspect: *mut vfiomig_inspect) -> c_int {
    with(&table::INSPECT_END, inspect, Inspection::end)
}

/// Returns what there is to say of the stream, as far as it has come. The verdict is
/// VFIOMIG_INSPECT_VERDICT_PENDING until vfiomig_inspect_end() was called.
///
/// VFIOMIG_INSPECT_VERDICT_WHOLE means that a load with the same limits and keys takes the stream, as
/// far as that depends on the stream alone; other verdicts mean that it refuses it, or fails to commit,
/// with code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_inspect_get_report(
    inspect: *mut vfiomig_inspect,
    report: *mut vfiomig_inspect_report,
) -> c_int {
    with(&table::INSPECT_GET_REPORT, inspect, |inspection| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(report, "report") }?;
        let mut report = vfiomig_inspect_report::from(inspection.inspector.report());
        report.decoder_code = inspection.decoder_code.map_or(0, Code::to_ret);
        out.fill(&report);
        Ok(())
    })
}

/// Returns what the stream says that the saved device is. This is a claim, not a proof.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_inspect_get_identity(
    inspect: *mut vfiomig_inspect,
    identity: *mut vfiomig_identity,
) -> c_int {
    with(&table::INSPECT_GET_IDENTITY, inspect, |inspection| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(identity, "identity") }?;
        let Some(identity) = &inspection.inspector.report().identity else {
            return Err(err!(NoData, "the stream has not said what it is of"));
        };
        out.fill(&vfiomig_identity::from(&**identity));
        Ok(())
    })
}

/// Frees the inspection of a stream. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_inspect_free(inspect: *mut vfiomig_inspect) {
    free(&table::INSPECT_FREE, inspect);
}

#[cfg(test)]
mod tests;
