// SPDX-License-Identifier: MIT OR Apache-2.0
//! From section to section.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek};

use vfiomig::Error;

use super::describe::{Description, LONGEST};
use super::input::{AHEAD, FARTHEST, Input};
use super::vfio::Device;
use super::{MAGIC, ram};

/// How many sections and devices are told apart.
const MOST: usize = 16 << 10;

/// How much may be looked at a second time, beyond as much as the file has: what does not turn out to be
/// what it seemed is gone through again, and a file can be made of nothing else.
const SECOND_LOOKS: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// Types of sections.
mod of {
    pub const EOF: u8 = 0;
    pub const START: u8 = 1;
    pub const PART: u8 = 2;
    pub const END: u8 = 3;
    pub const FULL: u8 = 4;
    pub const SUBSECTION: u8 = 5;
    pub const DESCRIPTION: u8 = 6;
    pub const CONFIGURATION: u8 = 7;
    pub const COMMAND: u8 = 8;
    pub const FOOTER: u8 = 0x7e;
}

/// What a section is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// The machine.
    Configuration,
    /// The first one of what is sent while the guest runs.
    Start,
    /// More of it.
    Part,
    /// The last one of it.
    End,
    /// All of a device.
    Full,
    /// A command to the destination.
    Command,
    /// The description at the end.
    Description,
}

/// How the length of a section is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sized {
    /// It says so itself.
    Parsed,
    /// The description at the end of the file says so, and a footer stands there.
    Described,
    /// A footer was looked for.
    Searched,
}

/// A section of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// What it is for.
    pub kind: SectionKind,
    /// Where it begins, in bytes from the front of the file.
    pub offset: u64,
    /// Its length with its head and its footer, in bytes.
    pub length: u64,
    /// How that is known.
    pub sized: Sized,
    /// What it is of; the machine's type for the configuration.
    pub name: String,
    /// Which of several with this name.
    pub instance: u64,
    /// The version of what is in it.
    pub version: u32,
}

/// A VFIO device of the file, as far as it has come.
#[derive(Clone, Debug, Default)]
pub struct Vfio {
    /// Its name in QEMU, for example `0000:00:03.0/vfio`.
    pub name: String,
    /// Its sections.
    pub sections: u64,
    /// Bytes of device data.
    pub data_bytes: u64,
    /// Bytes of its configuration, which is QEMU's own.
    pub config_bytes: Option<u64>,
    /// How often it said that all initial data was sent.
    pub initial_marks: u64,
    /// Whether its end has come.
    pub ended: bool,
    /// Why the library would refuse it, and where, in bytes from the front of the file.
    pub problem: Option<(u64, Error)>,
}

impl Vfio {
    /// Whether it is whole, as far as this format can tell.
    pub fn is_whole(&self) -> bool {
        self.ended && self.problem.is_none()
    }
}

/// What is found in a file.
pub enum Event<'a> {
    /// A section.
    Section(&'a Section),
    /// Device data of the VFIO device with this name, and where it is in the file.
    Data(&'a str, u64, &'a [u8]),
    /// The file cannot be understood from there on.
    Damage(u64, &'static str),
    /// A VFIO device, when all of the file has been read.
    Device(&'a Vfio),
    /// All of the file has been read; whether it is complete.
    End(bool),
}

/// Takes what is found; an error ends the walk.
pub type Say<'a> = &'a mut dyn FnMut(Event<'_>) -> io::Result<()>;

/// A section that goes on: what its first one said.
struct Known {
    name: String,
    instance: u64,
    version: u32,
}

struct Walk<'a, R> {
    input: Input<R>,
    description: Option<Description>,
    layout: ram::Layout,
    known: HashMap<u32, Known>,
    devices: BTreeMap<String, Device>,
    /// Whether the end of the state has come.
    ended: bool,
    /// Bytes that were looked at a second time.
    again: u64,
    say: Say<'a>,
}

/// Why a walk ends.
enum Stop {
    File(io::Error),
    Damage(&'static str),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::File(error)
    }
}

const CUT: Stop = Stop::Damage("the file ends within a section");

/// Goes over a file of QEMU's from its front, and says what is in it.
pub fn walk<R: Read + Seek>(file: R, say: Say<'_>) -> io::Result<()> {
    let mut input = Input::new(file)?;
    let description = Description::find(&input.tail(LONGEST)?);
    let page_size = description.as_ref().and_then(|it| it.page_size);
    let page_size =
        page_size.filter(|size| size.is_power_of_two() && (1024..=1 << 20).contains(size));
    let mut walk = Walk {
        input,
        description,
        layout: ram::Layout { page_size: page_size.unwrap_or(4096), ignore_shared: false },
        known: HashMap::new(),
        devices: BTreeMap::new(),
        ended: false,
        again: 0,
        say,
    };
    let done = walk.file();
    let here = walk.input.offset();
    match done {
        Ok(()) => {}
        Err(Stop::File(error)) => return Err(error),
        Err(Stop::Damage(text)) => (walk.say)(Event::Damage(here, text))?,
    }
    let complete = done_right(&walk);
    for (name, device) in std::mem::take(&mut walk.devices) {
        let Device { sections, data_bytes, config_bytes, initial_marks, ended, problem, .. } =
            device;
        let vfio = Vfio { name, sections, data_bytes, config_bytes, initial_marks, ended, problem };
        (walk.say)(Event::Device(&vfio))?;
    }
    (walk.say)(Event::End(complete))
}

fn done_right<R: Read + Seek>(walk: &Walk<'_, R>) -> bool {
    walk.ended && walk.input.left() == 0
}

impl<R: Read + Seek> Walk<'_, R> {
    fn file(&mut self) -> Result<(), Stop> {
        if self.input.peek(4)? != MAGIC {
            return Err(Stop::Damage("this is not a migration file of QEMU"));
        }
        self.input.consume(4);
        if self.input.u32()? != Some(3) {
            return Err(Stop::Damage("a version other than 3 of QEMU's migration files"));
        }
        while let Some(kind) = self.input.u8()? {
            let offset = self.input.offset() - 1;
            match kind {
                of::CONFIGURATION => self.configuration(offset)?,
                of::START | of::FULL => self.first(kind, offset)?,
                of::PART | of::END => self.further(kind, offset)?,
                of::COMMAND => self.command(offset)?,
                of::EOF if !self.ended => self.ended = true,
                of::DESCRIPTION if self.ended => self.description(offset)?,
                _ if self.ended => {
                    self.input.back_to(offset)?;
                    return Err(Stop::Damage("something follows the end"));
                }
                _ => {
                    self.input.back_to(offset)?;
                    return Err(Stop::Damage("no section begins here"));
                }
            }
        }
        match self.ended {
            true => Ok(()),
            false => Err(Stop::Damage("the file ends before the end of the state")),
        }
    }

    fn say(&mut self, section: &Section) -> Result<(), Stop> {
        Ok((self.say)(Event::Section(section))?)
    }

    /// The machine's type, and what else must be the same on the other side.
    fn configuration(&mut self, offset: u64) -> Result<(), Stop> {
        let len = self.input.u32()?.ok_or(CUT)?;
        let name = self.input.peek(len.min(256) as usize)?;
        let name = String::from_utf8_lossy(name).replace(char::is_control, "?");
        if !self.input.skip(len.into())? {
            return Err(CUT);
        }
        while self.input.peek(1)? == [of::SUBSECTION] {
            self.input.consume(1);
            let name = self.input.text()?.ok_or(CUT)?;
            let _version = self.input.u32()?.ok_or(CUT)?;
            match name.as_str() {
                "configuration/target-page-bits" => {
                    let bits = self.input.u32()?.ok_or(CUT)?;
                    if !(10..=20).contains(&bits) {
                        return Err(Stop::Damage("the size of a page cannot be"));
                    }
                    self.layout.page_size = 1 << bits;
                }
                "configuration/capabilities" => {
                    for _ in 0..self.input.u32()?.ok_or(CUT)? {
                        let name = self.input.text()?.ok_or(CUT)?;
                        self.layout.ignore_shared |= name == "x-ignore-shared";
                        if name == "mapped-ram" {
                            return Err(Stop::Damage("files with mapped-ram are not read"));
                        }
                    }
                }
                "configuration/uuid" => {
                    if !self.input.skip(16)? {
                        return Err(CUT);
                    }
                }
                _ => return Err(Stop::Damage("a configuration that is not known")),
            }
        }
        let length = self.input.offset() - offset;
        let kind = SectionKind::Configuration;
        let section =
            Section { kind, offset, length, sized: Sized::Parsed, name, instance: 0, version: 0 };
        self.say(&section)
    }

    fn command(&mut self, offset: u64) -> Result<(), Stop> {
        let number = self.input.u16()?.ok_or(CUT)?;
        let len = self.input.u16()?.ok_or(CUT)?;
        if !self.input.skip(len.into())? {
            return Err(CUT);
        }
        let section = Section {
            kind: SectionKind::Command,
            offset,
            length: self.input.offset() - offset,
            sized: Sized::Parsed,
            name: format!("command {number}"),
            instance: 0,
            version: 0,
        };
        self.say(&section)
    }

    fn description(&mut self, offset: u64) -> Result<(), Stop> {
        let len = self.input.u32()?.ok_or(CUT)?;
        if !self.input.skip(len.into())? {
            return Err(CUT);
        }
        let section = Section {
            kind: SectionKind::Description,
            offset,
            length: self.input.offset() - offset,
            sized: Sized::Parsed,
            name: String::from("description"),
            instance: 0,
            version: 0,
        };
        self.say(&section)
    }

    /// A section that says what it is of.
    fn first(&mut self, kind: u8, offset: u64) -> Result<(), Stop> {
        let id = self.input.u32()?.ok_or(CUT)?;
        let name = self.input.text()?.ok_or(Stop::Damage("the name of a section cannot be"))?;
        let instance = self.input.u32()?.ok_or(CUT)?.into();
        let version = self.input.u32()?.ok_or(CUT)?;
        if self.known.len() >= MOST {
            return Err(Stop::Damage("more sections than are told apart"));
        }
        self.known.insert(id, Known { name, instance, version });
        self.body(kind, id, offset)
    }

    fn further(&mut self, kind: u8, offset: u64) -> Result<(), Stop> {
        let id = self.input.u32()?.ok_or(CUT)?;
        match self.known.contains_key(&id) {
            true => self.body(kind, id, offset),
            false => Err(Stop::Damage("a section of nothing that began before")),
        }
    }

    /// What is in a section, and its footer.
    fn body(&mut self, kind: u8, id: u32, offset: u64) -> Result<(), Stop> {
        let Some(Known { name, instance, version }) = self.known.get(&id) else { return Err(CUT) };
        let (name, instance, version) = (name.clone(), *instance, *version);
        let mut footer = [of::FOOTER, 0, 0, 0, 0];
        for (slot, byte) in footer.iter_mut().skip(1).zip(id.to_be_bytes()) {
            *slot = byte;
        }
        let begin = self.input.offset();
        let described = match (kind, &mut self.description) {
            (of::FULL, Some(description)) => description.next(&name, instance),
            _ => None,
        };
        let parsed = match name.as_str() {
            "ram" => ram::skip(&mut self.input, self.layout)?.is_some(),
            _ if is_vfio(&name) => self.vfio(&name, footer)?,
            _ => false,
        };
        let sized = if parsed && self.footer(footer)? {
            Sized::Parsed
        } else {
            self.again += self.input.offset() - begin;
            if self.again > self.input.len().saturating_add(SECOND_LOOKS) {
                return Err(Stop::Damage("too much of it is not what it looks like"));
            }
            self.input.back_to(begin)?;
            let there = match described {
                Some(len) => self.input.skip(len)? && self.footer(footer)?,
                None => false,
            };
            if there {
                Sized::Described
            } else {
                self.input.back_to(begin)?;
                self.search(footer)?;
                Sized::Searched
            }
        };
        let length = self.input.offset() - offset;
        let kind = match kind {
            of::START => SectionKind::Start,
            of::PART => SectionKind::Part,
            of::END => SectionKind::End,
            _ => SectionKind::Full,
        };
        self.say(&Section { kind, offset, length, sized, name, instance, version })
    }

    fn vfio(&mut self, name: &str, footer: [u8; 5]) -> Result<bool, Stop> {
        if self.devices.len() >= MOST {
            return Err(Stop::Damage("more devices than are told apart"));
        }
        let device = self.devices.entry(name.to_owned()).or_insert_with(Device::new);
        let say = &mut self.say;
        let part = &mut |at, bytes: &[u8]| say(Event::Data(name, at, bytes));
        Ok(device.section(&mut self.input, footer, part)?)
    }

    /// Takes the footer, if it is here.
    fn footer(&mut self, footer: [u8; 5]) -> io::Result<bool> {
        let here = self.input.peek(footer.len())? == footer;
        if here {
            self.input.consume(footer.len());
        }
        Ok(here)
    }

    /// Looks for the footer that something can follow.
    fn search(&mut self, footer: [u8; 5]) -> Result<(), Stop> {
        let begin = self.input.offset();
        loop {
            if self.input.offset() - begin > FARTHEST {
                return Err(Stop::Damage("no section is as long: its end is not there"));
            }
            let ahead = self.input.peek(AHEAD)?;
            let len = ahead.len();
            let found = ahead.windows(footer.len()).enumerate().position(|(at, window)| {
                window == footer && plausible(ahead.get(at + footer.len()..).unwrap_or_default())
            });
            if let Some(at) = found {
                self.input.consume(at + footer.len());
                return Ok(());
            }
            // What follows a footer has some bytes.
            let keep = footer.len() + HEAD;
            if len <= keep {
                return Err(Stop::Damage("the end of a section is not there"));
            }
            self.input.consume(len - keep);
        }
    }
}

/// As many bytes of the next section are looked at: type, id, length of the name, and some of it.
const HEAD: usize = 1 + 4 + 1 + 4;

/// Whether a section, or the end of the file, can begin like this.
fn plausible(bytes: &[u8]) -> bool {
    match bytes {
        [of::START | of::FULL, _, _, _, _, len, name @ ..] => {
            let name = name.get(..usize::from(*len).min(4)).unwrap_or_default();
            *len > 0 && name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
        }
        [of::PART | of::END, 0, 0, _, _, ..] => true,
        [of::COMMAND, 0, 0..=32, ..] | [of::EOF, of::DESCRIPTION, ..] | [of::EOF] => true,
        _ => false,
    }
}

/// Whether QEMU calls the state of a VFIO device like this.
fn is_vfio(name: &str) -> bool {
    name == "vfio" || name.ends_with("/vfio")
}
