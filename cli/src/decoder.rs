// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--decoder FILE`: a decoder in a shared object, which whoever calls the tool has named.
//!
//! The file has the function `decoder_for_vfiomig`, in C:
//!
//! ```c
//! const struct vfiomig_decoder_ops *decoder_for_vfiomig(void **opaque);
//! ```
//!
//! It is called for each stream, and returns a table that stays where it is, with what is passed to the
//! table's callbacks in `opaque`; NULL if it cannot. docs/inspect.md says the same to those who write one.
//!
//! Nothing is ever searched for: the name is a file's, made absolute, whatever it looks like. What is in
//! the file runs as a part of the tool, as soon as it is loaded.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use clap::{Arg, ArgMatches};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use vfiomig::Code;
use vfiomig::capi::inspect::{decoder, vfiomig_decoder_ops};
use vfiomig::inspect::{Decoding, FieldDecoder};

use crate::exit::{Result, Status, Trouble};
use crate::input;

/// What the file must have.
const SYMBOL: &[u8] = b"decoder_for_vfiomig\0";

type Make = unsafe extern "C" fn(opaque: *mut *mut c_void) -> *const vfiomig_decoder_ops;

/// A decoder that was given.
pub struct Decoder {
    /// As it was given.
    pub name: String,
    /// The driver whose data it names; empty: any.
    pub driver: String,
    make: Make,
}

/// `--decoder`.
pub fn arg() -> Arg {
    Arg::new("decoder").long("decoder").value_name("FILE").help(
        "A shared object whose code names the fields of the device's data; it runs as a part of the tool",
    )
}

/// Loads the file that was named, if one was.
pub fn read(args: &ArgMatches) -> Result<Option<Decoder>> {
    let Some(given) = args.get_one::<String>("decoder") else { return Ok(None) };
    let unusable = |why: &str| Trouble::new(Status::Input, format!("{given}: {why}"));
    input::judge_file(given)?;
    // With a slash at its front, no directory is searched for it.
    let path =
        std::path::absolute(Path::new(given)).map_err(|error| unusable(&error.to_string()))?;
    // SAFETY: whoever calls the tool wants this file's code to run; what it does is up to them.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| {
        let text = error.to_string().replace(char::is_control, " ");
        unusable(&format!("not a shared object that can be loaded: {text}"))
    })?;
    // SAFETY: docs/inspect.md: this is what a function of this name is.
    let make = unsafe { library.get::<Make>(SYMBOL) }.map(|symbol| *symbol);
    let make =
        make.map_err(|_| unusable("it has no function decoder_for_vfiomig: not a decoder"))?;
    // It stays for as long as the process does, so what it returns stays valid.
    let _ = library.into_raw();
    let mut made = Decoder { name: given.clone(), driver: String::new(), make };
    made.driver = made.make()?.0;
    Ok(Some(made))
}

impl Decoder {
    /// One for a stream.
    fn make(&self) -> Result<(String, Box<dyn FieldDecoder>)> {
        let mut opaque = ptr::null_mut();
        // SAFETY: docs/inspect.md: it fills in a pointer, and returns NULL or a table for which holds
        // what vfiomig.h says of decoders.
        let made = unsafe { decoder((self.make)(&raw mut opaque), opaque) };
        let trouble = |status, why: &str| Trouble::new(status, format!("{}: {why}", self.name));
        match made {
            Ok(Some(made)) => Ok(made),
            Ok(None) => Err(trouble(Status::Resources, "the decoder has refused to begin")),
            Err(error) => {
                let why = match error.code() {
                    Code::NoMem => return Err(trouble(Status::Resources, error.message())),
                    Code::TooBig => "a decoder for a newer libvfiomig",
                    _ => "not a decoder for this libvfiomig",
                };
                Err(trouble(Status::Input, &format!("{why}: {}", error.message())))
            }
        }
    }

    /// Leads a stream's data to it.
    pub fn decoding(&self) -> Result<Decoding> {
        let (driver, decoder) = self.make()?;
        let mut decoding = Decoding::new();
        decoding
            .add(&driver, decoder)
            .map_err(|error| Trouble::new(Status::Resources, error.to_string()))?;
        Ok(decoding)
    }

    /// Why it has nothing to say of data of this driver; `None`: it is for it.
    pub fn is_for_other(&self, driver: &str) -> Option<String> {
        let fits = self.driver.is_empty() || self.driver == driver;
        (!fits).then(|| {
            format!("{} is for data of {}, and this is of {driver}", self.name, self.driver)
        })
    }
}

/// The decoding of one more stream, with a decoder that was given or without.
pub fn decoding(decoder: Option<&Decoder>) -> Result<Decoding> {
    decoder.map_or_else(|| Ok(Decoding::new()), Decoder::decoding)
}
