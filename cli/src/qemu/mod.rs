// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration file of stock QEMU: what is in it, and what the commands do with its VFIO devices.

mod native;
mod pieces;
mod show;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use vfiomig::identity::Identity;
use vfiomig::inspect::{Decoding, Field, FieldFlags};
use vfiomig::{Code, Error};

pub use native::write_stream;
pub use pieces::{Pieces, PiecesReader};
pub use show::{judgement, to_json, to_text, verdict_text, vfio_json};

use crate::decoder::{self, Decoder};
use crate::exit::{Result, Status, Trouble};
use crate::fields::{self, value_text};
use crate::input::Input;
use crate::progress::Progress;
use crate::qemu_file::{Event, Section, SectionKind, Vfio, walk};
use crate::text::Plain;

/// No more sections than that are listed: whoever wrote the file decides how many there are.
const MOST: usize = 10_000;

/// What the state of an mtty begins with, on a host that is little-endian.
const MTTY: [u8; 8] = 0x7e9d_0989_8c3e_2c4e_u64.to_le_bytes();

/// The file of an input, from any place.
struct At<'a> {
    input: &'a mut Input,
    len: u64,
    at: u64,
    trouble: Option<Trouble>,
    progress: Progress,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.input.read_at(buf, self.at) {
            Ok(len) => {
                self.at = self.at.saturating_add(len as u64);
                self.progress.at(self.at);
                Ok(len)
            }
            Err(trouble) => {
                self.trouble = Some(trouble);
                Err(io::Error::other("it cannot be read"))
            }
        }
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("a place before the file"))?;
        Ok(self.at)
    }
}

/// Who names the fields of the devices' data.
#[derive(Clone, Copy, Default)]
pub struct Naming<'a> {
    /// Instead of the library's decoders.
    pub decoder: Option<&'a Decoder>,
    /// Whose data it is, if that is known from elsewhere.
    pub driver: Option<&'a str>,
}

/// What a file is looked through for.
#[derive(Default)]
pub struct Wanted<'a> {
    /// Who names the fields.
    pub naming: Naming<'a>,
    /// Where the device data of this device is.
    pub pieces_of: Option<&'a str>,
}

/// A field of a device's data.
pub struct Named {
    /// As the decoder calls it.
    pub name: String,
    /// As people read it.
    pub value: String,
    /// It means nothing.
    pub padding: bool,
}

type Sink<'a> = &'a mut dyn FnMut(&Field<'_>) -> vfiomig::Result<()>;

/// The fields of one device, as far as they have been named.
struct Decoded {
    decoding: Decoding,
    fields: Vec<Named>,
    problem: Option<String>,
}

/// What was seen in a file.
#[derive(Default)]
pub struct Seen {
    sections: Vec<Section>,
    left_out: u64,
    /// Its VFIO devices.
    pub devices: Vec<Vfio>,
    damage: Option<(u64, &'static str)>,
    complete: bool,
    /// By a device's name.
    decoded: BTreeMap<String, Decoded>,
    /// Fields of all devices.
    named: usize,
    /// Where the data of the device that is wanted lies.
    pub pieces: Pieces,
}

/// Looks through the file from its front.
pub fn read(input: &mut Input, wanted: &Wanted<'_>, shown: bool) -> Result<Seen> {
    let Some(len) = input.len else {
        let text = format!(
            "{}: QEMU's file is read from its end, too, and this is a pipe: put it into a file first",
            input.name
        );
        return Err(Trouble::new(Status::Input, text));
    };
    let progress = Progress::new(shown, "reading", Some(len));
    let mut file = At { input, len, at: 0, trouble: None, progress };
    let (mut seen, mut refused) = (Seen::default(), None);
    let done = walk(&mut file, &mut |event| {
        seen.take(&event, wanted).map_err(|trouble| {
            refused = Some(trouble);
            io::Error::other("what was found cannot be kept")
        })
    });
    match (done, refused.or(file.trouble.take())) {
        (Ok(()), _) => Ok(seen),
        (Err(_), Some(trouble)) => Err(trouble),
        (Err(error), None) => Err(Trouble::new(Status::Input, format!("{}: {error}", input.name))),
    }
}

/// The device of this name, or the only one, and where its data lies. The file is read twice if it
/// takes that to know the name.
pub fn one_device(
    input: &mut Input,
    device: Option<&str>,
    naming: Naming<'_>,
    shown: bool,
) -> Result<(Vfio, Seen)> {
    let name = match device {
        Some(name) => name.to_owned(),
        None => read(input, &Wanted::default(), shown)?.device(&input.name, None)?.name.clone(),
    };
    let seen = read(input, &Wanted { naming, pieces_of: Some(&name) }, shown)?;
    let vfio = seen.device(&input.name, Some(&name))?.clone();
    Ok((vfio, seen))
}

impl Seen {
    fn take(&mut self, event: &Event<'_>, wanted: &Wanted<'_>) -> Result<()> {
        match event {
            Event::Section(section) => self.section(section),
            Event::Data(name, at, bytes) => {
                if wanted.pieces_of == Some(*name) {
                    self.pieces.add(*at, bytes.len() as u64)?;
                }
                return self.data(name, bytes, wanted.naming);
            }
            Event::Damage(offset, text) => self.damage = Some((*offset, text)),
            Event::Device(vfio) => {
                self.devices.push((*vfio).clone());
                let decoded = self.decoded.get_mut(&vfio.name).filter(|_| vfio.is_whole());
                if let Some(decoded) = decoded {
                    decoded.call(&mut self.named, |decoding, sink| decoding.end(sink));
                }
            }
            Event::End(complete) => self.complete = *complete,
        }
        Ok(())
    }

    fn data(&mut self, name: &str, data: &[u8], naming: Naming<'_>) -> Result<()> {
        if !self.decoded.contains_key(name) {
            let decoded = Decoded::new(naming, data)?;
            self.decoded.insert(name.to_owned(), decoded);
        }
        if let Some(decoded) = self.decoded.get_mut(name) {
            decoded.call(&mut self.named, |decoding, sink| decoding.data(data, sink));
        }
        Ok(())
    }

    /// What is named in the data of a device.
    pub fn fields(&self, name: &str) -> &[Named] {
        self.decoded.get(name).map_or(&[], |decoded| decoded.fields.as_slice())
    }

    fn problem(&self, name: &str) -> Option<&str> {
        self.decoded.get(name)?.problem.as_deref()
    }

    /// Sections of one kind and name that follow each other are one line.
    fn section(&mut self, section: &Section) {
        if let Some(last) = self.sections.last_mut() {
            let same =
                (last.kind, &last.name, last.sized) == (section.kind, &section.name, section.sized);
            if same && section.kind == SectionKind::Part && last.instance == section.instance {
                last.length =
                    section.offset.saturating_add(section.length).saturating_sub(last.offset);
                return;
            }
        }
        match self.sections.len() {
            MOST => self.left_out += 1,
            _ => self.sections.push(section.clone()),
        }
    }

    /// How a command ends because of the file.
    pub fn status(&self) -> Status {
        match self.complete && self.damage.is_none() && self.devices.iter().all(Vfio::is_whole) {
            true => Status::Yes,
            false => Status::No,
        }
    }

    /// The device of this name, or the only one.
    pub fn device(&self, file: &str, wanted: Option<&str>) -> Result<&Vfio> {
        let names = || {
            let names: Vec<&str> = self.devices.iter().map(|it| it.name.as_str()).take(8).collect();
            names.join(", ")
        };
        let none = |status, why: String| Err(Trouble::new(status, format!("{file}: {why}")));
        match (wanted, self.devices.as_slice()) {
            (_, []) => none(Status::Input, "there is no VFIO device in this file of QEMU's".into()),
            (Some(name), devices) => match devices.iter().find(|it| it.name == name) {
                Some(found) => Ok(found),
                None => {
                    none(Status::Input, format!("there is no device {name} in it, but {}", names()))
                }
            },
            (None, [one]) => Ok(one),
            (None, _) => none(Status::Usage, format!("several devices are in it: {}", names())),
        }
    }
}

impl Decoded {
    /// QEMU's file does not say which driver the data is of; mtty's says so itself.
    fn new(naming: Naming<'_>, data: &[u8]) -> Result<Decoded> {
        let known = naming.driver.or(data.starts_with(&MTTY).then_some("mtty"));
        // Another device's may be what the decoder is for.
        let fits = |it: &&Decoder| known.is_none_or(|driver| it.is_for_other(driver).is_none());
        let decoder = naming.decoder.filter(fits);
        let driver = known.or(decoder.map(|it| it.driver.as_str())).unwrap_or_default();
        let mut decoding = decoder::decoding(decoder)?;
        decoding.begin(&Identity { driver: driver.into(), ..Identity::default() });
        Ok(Decoded { decoding, fields: Vec::new(), problem: None })
    }

    /// Has the decoder take something, and keeps the fields that this completes.
    fn call(
        &mut self,
        named: &mut usize,
        step: impl FnOnce(&mut Decoding, Sink<'_>) -> vfiomig::Result<()>,
    ) {
        let fields = &mut self.fields;
        let decoded = step(&mut self.decoding, &mut |field| {
            if *named == fields::MOST {
                return Err(Error::new(Code::MsgSize, "there are more fields than are kept"));
            }
            *named += 1;
            fields.push(Named {
                name: field.name.to_owned(),
                value: value_text(field),
                padding: field.flags.contains(FieldFlags::PADDING),
            });
            Ok(())
        });
        if let Err(error) = decoded {
            self.problem.get_or_insert(Plain(error.message()).to_string());
        }
    }
}
