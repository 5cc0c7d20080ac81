// SPDX-License-Identifier: MIT OR Apache-2.0
//! One side of a comparison: something that says what a device is. A live device, a stream or
//! checkpoint, an exported identity, or what `vfiomig probe --json` printed.

use std::path::Path;

use vfiomig::Code;
use vfiomig::device::Identity;
use vfiomig::stream::checkpoint;
use vfiomig::stream::{DecodeLimits, Decoder, Item, MAX_EXPORTED, Read};

use crate::contents;
use crate::context::Context;
use crate::device;
use crate::exit::{Result, Status, Trouble};
use crate::input::{self, Input};
use crate::key::Key;
use crate::probe_json;
use crate::sysfs::{is_uuid, pci_address};
use crate::text::from_hex;
use crate::walk::is_of_other_key;

/// A probe of a host with thousands of devices is shorter, in bytes.
const MAX_JSON: usize = 64 << 20;

/// What says with which key a stream was made is within so many bytes at its beginning.
const START: usize = 4096;

/// An identity, and where it comes from.
pub struct Side {
    /// As it was given.
    pub name: String,
    /// `device`, `identity`, `stream`, `checkpoint` or `probe`.
    pub kind: &'static str,
    /// What the device is.
    pub identity: Identity,
}

/// Finds out what the device is.
pub fn read(context: &Context<'_>, given: &str, key: Option<&Key>) -> Result<Side> {
    let side = |kind, identity| Side { name: given.to_owned(), kind, identity };
    let Some((file, device)) = as_file(given) else {
        let live = device::open(context, given)?;
        let identity = live.device.identity().map_err(|error| live.trouble(&error))?;
        return Ok(side("device", identity));
    };
    let mut input = input::open(file)?;
    let start = input.peek::<8>()?;
    match start.as_slice() {
        b"\x89VFIOMIG" => Ok(side("stream", of_stream(&mut input, key)?)),
        b"\x89VFIOMCP" => Ok(side("checkpoint", of_checkpoint(&mut input, device, key)?)),
        b"\x89VFIOMID" => Ok(side("identity", of_export(&mut input)?)),
        _ if matches!(start.trim_ascii_start(), [b'[' | b'{', ..]) => {
            Ok(side("probe", of_json(&mut input, device)?))
        }
        [b'Q', b'E', b'V', b'M', ..] => Err(unusable(
            &input,
            "QEMU's streams do not say what they were saved from: probe the device on its host",
        )),
        [] => Err(unusable(&input, "it is empty")),
        _ => Err(unusable(
            &input,
            "neither a stream, nor an exported identity, nor what vfiomig probe --json prints",
        )),
    }
}

/// The file that is meant and, after a `#`, which of the devices in it; `None` if a device is.
fn as_file(given: &str) -> Option<(&str, Option<&str>)> {
    if given == "-" {
        return Some((given, None));
    }
    let path = Path::new(given);
    let is_node = path.starts_with("/dev/vfio") || path.starts_with("/sys");
    if is_node || pci_address(given).is_some() || is_uuid(given) {
        return None;
    }
    if path.symlink_metadata().is_ok() {
        return Some((given, None));
    }
    match given.rsplit_once('#') {
        Some((file, device)) => Some((file, Some(device))),
        None => given.contains('/').then_some((given, None)),
    }
}

fn unusable(input: &Input, why: &str) -> Trouble {
    Trouble::new(Status::Input, format!("{}: {why}", input.name))
}

fn of_library(input: &Input, error: &vfiomig::Error) -> Trouble {
    let (status, todo) = match error.code() {
        Code::Perm => (Status::Permission, ": give its key with --key-file"),
        Code::NoMem => (Status::Resources, ""),
        _ => (Status::Input, ""),
    };
    Trouble::new(status, format!("{}: {error}{todo}", input.name))
}

fn of_export(input: &mut Input) -> Result<Identity> {
    let rest = input.read_all(MAX_EXPORTED + 1)?;
    let rest = rest.ok_or_else(|| unusable(input, "too long for an exported identity"))?;
    Identity::from_bytes(&rest).map_err(|error| of_library(input, &error))
}

/// A stream begins with it: the rest is not looked at.
fn of_stream(input: &mut Input, key: Option<&Key>) -> Result<Identity> {
    let limits = DecodeLimits::default();
    let made = match key {
        Some(key) => Decoder::authenticated(limits, key.auth()),
        None => Ok(Decoder::new(limits)),
    };
    let mut decoder = made.map_err(|error| of_library(input, &error))?;
    let (mut bytes, mut start) = (Vec::new(), Vec::new());
    loop {
        match decoder.next(&mut bytes.as_slice()) {
            Ok(Some(Item::Identity(identity))) => return Ok(*identity),
            Ok(Some(_)) => return Err(unusable(input, "it does not begin with an identity")),
            Ok(None) => {}
            Err(error) => return Err(of_beginning(input, key, &start, &error)?),
        }
        bytes.resize(4096, 0);
        let len = input.read(&mut bytes)?;
        bytes.truncate(len);
        start.extend(bytes.iter().take(START - start.len()));
        if len == 0 {
            return Err(unusable(input, "it ends before it says what it was saved from"));
        }
    }
}

/// Why a stream that begins like this was refused.
fn of_beginning(
    input: &Input,
    key: Option<&Key>,
    start: &[u8],
    error: &vfiomig::Error,
) -> Result<Trouble> {
    let Some(key) = key else { return Ok(of_library(input, error)) };
    let refused = error.code() == Code::Perm || is_of_other_key(start, key)?;
    let status = if refused { Status::Permission } else { Status::Input };
    Ok(Trouble::new(status, format!("{}: {error}", input.name)))
}

/// Of a checkpoint's manifest. Its streams say the same, or are refused when they are loaded.
fn of_checkpoint(input: &mut Input, wanted: Option<&str>, key: Option<&Key>) -> Result<Identity> {
    let manifest = contents::manifest(input, key)?;
    if manifest.key_id.is_some() && key.is_none() {
        let text = format!("{}: it is authenticated: give its key with --key-file", input.name);
        return Err(Trouble::new(Status::Permission, text));
    }
    let identity = |entry: &checkpoint::Entry| (*entry.identity).clone();
    match (wanted, manifest.devices.as_slice()) {
        (Some(name), _) => manifest
            .device(name)
            .map(identity)
            .ok_or_else(|| unusable(input, "there is no such device in it")),
        (None, [one]) => Ok(identity(one)),
        (None, devices) => {
            let names: Vec<&str> = devices.iter().map(|entry| entry.name.as_str()).collect();
            let names = names.join(", ");
            let text = format!("there are several devices in it ({names}): say which after a #");
            Err(unusable(input, &text))
        }
    }
}

/// Of what `vfiomig probe --json` printed, or one object of it.
fn of_json(input: &mut Input, wanted: Option<&str>) -> Result<Identity> {
    let rest = input.read_all(MAX_JSON)?;
    let rest = rest.ok_or_else(|| unusable(input, "longer than 64 MiB"))?;
    let found = probe_json::find(&rest, wanted)
        .map_err(|error| unusable(input, &format!("not JSON: {error}")))?;
    let bytes = match found.count {
        0 => return Err(unusable(input, "there is no such device in it")),
        1 => found.exported.as_deref().and_then(from_hex),
        _ => {
            let text = "there are several devices in it: say which after a #, as in FILE#3b:00.2";
            return Err(unusable(input, text));
        }
    };
    let bytes = bytes.ok_or_else(|| {
        unusable(input, "it has no identity.exported: the device could not be asked")
    })?;
    Identity::from_bytes(&bytes).map_err(|error| of_library(input, &error))
}
