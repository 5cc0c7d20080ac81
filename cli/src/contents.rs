// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a file holds: one stream, a checkpoint of several, or what QEMU wrote; and where in it each
//! stream lies.

use vfiomig::Code;
use vfiomig::stream::MAGIC;
use vfiomig::stream::checkpoint::{self, Authenticity, Manifest, Piece, read_manifest};

use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::key::Key;

/// What a file turned out to be.
pub enum Contents {
    /// A native stream.
    Stream,
    /// A checkpoint.
    Checkpoint(Manifest),
    /// QEMU's migration stream.
    Qemu,
}

impl Contents {
    /// A stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Contents::Stream => "native",
            Contents::Checkpoint(_) => "checkpoint",
            Contents::Qemu => "qemu",
        }
    }

    /// The streams in it, or the one whose name is wanted.
    pub fn parts(&self, input: &Input, wanted: Option<&str>) -> Result<Vec<Part>> {
        let missing = |name: &str, names: &[String]| {
            let names = names.join(", ");
            let text = format!("{}: there is no device {name} in it, but {names}", input.name);
            Trouble::new(Status::Input, text)
        };
        let Contents::Checkpoint(manifest) = self else {
            return match wanted {
                None => Ok(vec![Part::whole(input)]),
                Some(name) => {
                    let text = format!(
                        "{}: only a checkpoint has devices with names, such as {name}",
                        input.name
                    );
                    Err(Trouble::new(Status::Input, text))
                }
            };
        };
        let fits = |entry: &&checkpoint::Entry| wanted.is_none_or(|name| entry.name == name);
        let parts: Vec<Part> = manifest.devices.iter().filter(fits).map(Part::of).collect();
        match (parts.is_empty(), wanted) {
            (true, Some(name)) => {
                let names: Vec<_> = manifest.devices.iter().map(|it| it.name.clone()).collect();
                Err(missing(name, &names))
            }
            _ => Ok(parts),
        }
    }
}

/// Finds out what an input is. The front of it is still to be read.
pub fn of(input: &mut Input, key: Option<&Key>) -> Result<Contents> {
    let start = input.peek::<8>()?;
    let foreign = |what: &str| Trouble::new(Status::Input, format!("{}: {what}", input.name));
    match start.as_slice() {
        [] => Err(foreign("it is empty")),
        [b'Q', b'E', b'V', b'M', ..] => match key {
            None => Ok(Contents::Qemu),
            Some(_) => {
                let text = format!(
                    "{}: nothing in QEMU's files is authenticated: no key can verify it",
                    input.name
                );
                Err(Trouble::new(Status::Permission, text))
            }
        },
        bytes if checkpoint::looks_like_a_checkpoint(bytes) => {
            Ok(Contents::Checkpoint(manifest(input, key)?))
        }
        bytes if bytes == MAGIC => Ok(Contents::Stream),
        // The beginning of one that is being written.
        bytes if MAGIC.starts_with(bytes) => Ok(Contents::Stream),
        _ => Err(foreign(
            "neither a stream nor a checkpoint of libvfiomig, nor QEMU's: it begins otherwise",
        )),
    }
}

/// Reads the manifest of a checkpoint.
pub fn manifest(input: &mut Input, key: Option<&Key>) -> Result<Manifest> {
    let Some(len) = input.len else {
        let text = format!(
            "{}: a checkpoint is read from its end, and this is a pipe: put it into a file first",
            input.name
        );
        return Err(Trouble::new(Status::Input, text));
    };
    let mut auth = key.map(Key::auth);
    let trust = match &mut auth {
        Some(auth) => Authenticity::Verify(auth),
        None => Authenticity::Ignore,
    };
    let mut trouble = None;
    let mut read = |offset: u64, buf: &mut [u8]| match input.read_at(buf, offset) {
        Ok(len) if len == buf.len() => Ok(()),
        Ok(_) => Err(vfiomig::Error::new(Code::NoData, "the file has become shorter")),
        Err(error) => {
            trouble = Some(error);
            Err(vfiomig::Error::new(Code::Io, "it cannot be read"))
        }
    };
    let found = read_manifest(len, &mut read, trust);
    match (found, trouble) {
        (Ok(manifest), _) => Ok(manifest),
        (Err(_), Some(trouble)) => Err(trouble),
        (Err(error), None) if is_of_other_key(input, key, &error) => {
            Err(Trouble::new(Status::Permission, format!("{}: {error}", input.name)))
        }
        (Err(error), None) => Err(not_whole(input, &error)),
    }
}

/// Whether all that is wrong with a checkpoint is the tag of its manifest: it was made with another
/// key, or by somebody who does not have it.
pub fn is_of_other_key(input: &mut Input, key: Option<&Key>, error: &vfiomig::Error) -> bool {
    error.code() == Code::BadMsg && key.is_some() && manifest(input, None).is_ok()
}

/// A checkpoint whose manifest cannot be relied on.
fn not_whole(input: &Input, error: &vfiomig::Error) -> Trouble {
    let (status, todo) = match error.code() {
        Code::Perm => (Status::Permission, ""),
        Code::NoMem => (Status::Resources, ""),
        _ if input.has_changed() => (Status::No, ": it is still being written: try again later"),
        _ => (Status::No, ""),
    };
    Trouble::new(status, format!("{}: {error}{todo}", input.name))
}

/// A stream within a file.
pub struct Part {
    /// What a checkpoint has to say of it.
    pub entry: Option<checkpoint::Entry>,
    /// Where it lies; `None`: all of the file, read from the front.
    pieces: Option<Vec<Piece>>,
    /// What has been read.
    at: u64,
    /// Bytes in all, if that is known.
    pub len: Option<u64>,
}

impl Part {
    /// All of an input.
    pub fn whole(input: &Input) -> Part {
        Part { entry: None, pieces: None, at: 0, len: input.len }
    }

    fn of(entry: &checkpoint::Entry) -> Part {
        let pieces = Some(entry.pieces.clone());
        Part { entry: Some(entry.clone()), pieces, at: 0, len: Some(entry.stream_len()) }
    }

    /// The name of its device, in a checkpoint.
    pub fn name(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.name.as_str())
    }

    /// The file's name, with the device's if it has one.
    pub fn title(&self, input: &Input) -> String {
        self.name().map_or(input.name.clone(), |name| format!("{}#{name}", input.name))
    }

    /// Begins again.
    pub fn rewind(&mut self, input: &mut Input) -> Result<()> {
        self.at = 0;
        if self.pieces.is_none() { input.rewind() } else { Ok(()) }
    }

    /// The next bytes; none at the end.
    pub fn read(&mut self, input: &mut Input, buf: &mut [u8]) -> Result<usize> {
        let len = match &self.pieces {
            None => input.read(buf)?,
            Some(pieces) => {
                let mut skip = self.at;
                let here = pieces.iter().find_map(|piece| match piece.len.checked_sub(skip) {
                    Some(left) if left > 0 => Some((piece.offset.saturating_add(skip), left)),
                    _ => {
                        skip -= piece.len;
                        None
                    }
                });
                let Some((offset, left)) = here else { return Ok(0) };
                let most = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                input.read_at(buf.get_mut(..most).unwrap_or_default(), offset)?
            }
        };
        self.at = self.at.saturating_add(len as u64);
        Ok(len)
    }
}
