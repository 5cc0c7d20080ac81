// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig extract`: a part of a stream or checkpoint, as a file of its own.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use vfiomig::identity::Identity;
use vfiomig::inspect::{Content, Entry, Frame, Tags, Verdict, What};

use crate::contents::{Contents, Part};
use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::interrupt::Interrupt;
use crate::key::Key;
use crate::new_file::{self, NewFile};
use crate::progress::Progress;
use crate::qemu::PiecesReader;
use crate::walk::Walk;
use crate::{contents, found, input, key, qemu, side};

/// The subcommand.
pub fn command() -> Command {
    Command::new("extract")
        .about("Writes a part of a stream or checkpoint into a file of its own")
        .after_help(
            "What is written counts since the last restart. Exit status: 0 written, 1 not whole, or \
             there is no such part; others as for verify.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("A stream or checkpoint"))
        .arg(
            Arg::new("what").value_name("WHAT").required(true).help(
                "data: what the driver saved; blob:KIND or blob:KIND:N: the first or Nth blob of \
                 that kind; stream: one device of a checkpoint or of QEMU's file as a stream",
            ),
        )
        .arg(
            Arg::new("output").long("output").short('o').value_name("FILE").required(true).help(
                "Where to write: under that name when it is whole, not at all otherwise",
            ),
        )
        .arg(
            Arg::new("device")
                .long("device")
                .value_name("NAME")
                .help("Which device of a checkpoint, or of QEMU's file, with several"),
        )
        .arg(Arg::new("identity").long("identity").value_name("SOURCE").help(
            "What the device was that QEMU saved, for a stream: as for compat; QEMU does not say",
        ))
        .arg(
            Arg::new("damaged")
                .long("damaged")
                .action(ArgAction::SetTrue)
                .help("Write what there is, even if the stream is not whole"),
        )
        .arg(key::arg())
}

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Data,
    /// Of this kind, the nth.
    Blob(u32, u64),
    Stream,
}

fn wanted(text: &str) -> Option<Wanted> {
    let mut parts = text.split(':');
    let wanted = match parts.next()? {
        "data" => Wanted::Data,
        "stream" => Wanted::Stream,
        "blob" => {
            let kind = parts.next()?.parse().ok()?;
            let number = parts.next().map_or(Some(1), |text| text.parse().ok())?;
            Wanted::Blob(kind, number)
        }
        _ => return None,
    };
    (parts.next().is_none() && !matches!(wanted, Wanted::Blob(_, 0))).then_some(wanted)
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let given = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
    let what = given("what");
    let wanted = wanted(what).ok_or_else(|| {
        let text = format!("{what}: what can be extracted is data, blob:KIND, blob:KIND:N, stream");
        Trouble::new(Status::Usage, text)
    })?;
    let output = Path::new(given("output"));
    new_file::judge(output)?;
    let key = key::read(args)?;
    let mut input = input::open(given("file"))?;
    if input.len.is_none() {
        let text = format!("{}: this reads a file twice: put it into one first", input.name);
        return Err(Trouble::new(Status::Input, text));
    }
    let contents = contents::of(&mut input, key.as_ref())?;
    let output = Output { name: output, interrupt: &context.interrupt, shown: context.progress };
    let device = args.get_one::<String>("device").map(String::as_str);
    let identity = args.get_one::<String>("identity");
    if let Contents::Qemu = &contents {
        let identity = identity.map(|given| side::read(context, given, None)).transpose()?;
        let identity = identity.map(|side| side.identity);
        let damaged = args.get_flag("damaged");
        return of_qemu(&mut input, device, (wanted, damaged), identity.as_ref(), &output);
    }
    if identity.is_some() {
        let text = format!("{}: it says itself what the device was: no --identity", input.name);
        return Err(Trouble::new(Status::Usage, text));
    }
    let mut parts = contents.parts(&input, device)?;
    let several = parts.len();
    let (Some(part), 1) = (parts.first_mut(), several) else {
        let text = format!("{}: {several} devices are in it: say which, with --device", input.name);
        return Err(Trouble::new(Status::Usage, text));
    };
    // Once to see whether it is whole, and how often it starts again.
    let progress = Progress::new(context.progress, "verifying", part.len);
    let found = Walk::new(&mut input, part, key.as_ref(), progress)?.finish()?;
    let verdict = found.verdict();
    if key.is_some() && found.report.tags != Tags::Verified {
        // Whoever gives a key does not want what it does not open, damaged or not.
        return Err(Trouble::new(
            found.status(),
            format!("{}: {}", input.name, found::why(&found)),
        ));
    }
    if verdict != Verdict::Whole && !args.get_flag("damaged") {
        let (why, todo) =
            (found::why(&found), input.if_growing("--damaged extracts what there is"));
        let text = format!("{}: {why}: {todo}", input.name);
        return Err(Trouble::new(found.status(), text));
    }
    part.rewind(&mut input)?;
    let mut new = output.create(part.len)?;
    match wanted {
        Wanted::Stream => copy(&mut input, part, &mut new)?,
        _ => {
            let mut taker =
                Taker { wanted, restarts: found.report.restarts, blobs: 0, took: false };
            taker.take(&mut input, part, key.as_ref(), &mut new)?;
            if !taker.took && wanted != Wanted::Data {
                return Err(Trouble::new(
                    Status::No,
                    format!("{}: there is no {what}", input.name),
                ));
            }
        }
    }
    new.finish()?;
    Ok(Status::Yes)
}

/// Where it goes.
struct Output<'a> {
    name: &'a Path,
    interrupt: &'a Interrupt,
    shown: bool,
}

impl Output<'_> {
    /// From here on, a signal removes what was begun.
    fn create(&self, total: Option<u64>) -> Result<New<'_>> {
        self.interrupt.watch()?;
        let progress = Progress::new(self.shown, "extracting", total);
        Ok(New { file: NewFile::create(self.name)?, done: 0, progress, output: self })
    }
}

/// What has been written.
struct New<'a> {
    file: NewFile,
    done: u64,
    progress: Progress,
    output: &'a Output<'a>,
}

impl New<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stop_if_asked_to()?;
        self.file.write(bytes)?;
        self.done += bytes.len() as u64;
        self.progress.at(self.done);
        Ok(())
    }

    fn stop_if_asked_to(&self) -> Result<()> {
        match self.output.interrupt.signal() {
            None => Ok(()),
            Some(signal) => {
                let text = format!("{}: not written: interrupted", self.output.name.display());
                Err(Trouble::interrupted(signal, text))
            }
        }
    }

    fn finish(self) -> Result<()> {
        self.stop_if_asked_to()?;
        self.file.finish()
    }
}

/// A device of QEMU's file.
fn of_qemu(
    input: &mut Input,
    device: Option<&str>,
    (wanted, damaged): (Wanted, bool),
    identity: Option<&Identity>,
    output: &Output<'_>,
) -> Result<Status> {
    let (vfio, seen) = qemu::one_device(input, device, qemu::Naming::default(), output.shown)?;
    let name = format!("{}#{}", input.name, vfio.name);
    let refuse = |status, why: &str| Err(Trouble::new(status, format!("{name}: {why}")));
    let identity = match (wanted, identity) {
        (Wanted::Blob(..), _) => return refuse(Status::No, "QEMU's files have no blobs"),
        (Wanted::Data, None) => None,
        (Wanted::Data, Some(_)) => {
            return refuse(Status::Usage, "--identity is for a stream; data says nothing of it");
        }
        (Wanted::Stream, Some(identity)) => Some(identity),
        (Wanted::Stream, None) => {
            let why = "QEMU does not say what the device was, and a stream has to: give --identity, \
                       as vfiomig probe --identity writes it on the source";
            return refuse(Status::Usage, why);
        }
    };
    if !vfio.is_whole() && (identity.is_some() || !damaged) {
        let todo = match wanted {
            Wanted::Stream => "it would look like a whole stream; --damaged is for data only",
            _ => input.if_growing("--damaged extracts what there is"),
        };
        return refuse(Status::No, &format!("{}: {todo}", qemu::judgement(&vfio)));
    }
    if seen.pieces.is_empty() {
        let why = "there is no device data in it: the device had none, or it went over multifd \
                   channels, which are not in this file";
        return refuse(Status::No, why);
    }
    let mut new = output.create(Some(seen.pieces.len()))?;
    let mut reader = PiecesReader::new(input, &seen.pieces);
    match identity {
        Some(identity) => qemu::write_stream(&mut reader, identity, &mut |it| new.write(it))?,
        None => {
            let mut buf = vec![0; 1 << 20];
            loop {
                let len = reader.read(&mut buf)?;
                if len == 0 {
                    break;
                }
                new.write(buf.get(..len).unwrap_or_default())?;
            }
        }
    }
    new.finish()?;
    Ok(Status::Yes)
}

fn copy(input: &mut Input, part: &mut Part, new: &mut New<'_>) -> Result<()> {
    let mut buf = vec![0; 1 << 20];
    loop {
        let len = part.read(input, &mut buf)?;
        if len == 0 {
            return Ok(());
        }
        new.write(buf.get(..len).unwrap_or_default())?;
    }
}

/// Takes what is wanted from after the last restart.
struct Taker {
    wanted: Wanted,
    /// Restarts that are still to come.
    restarts: u64,
    blobs: u64,
    took: bool,
}

impl Taker {
    fn take(
        &mut self,
        input: &mut Input,
        part: &mut Part,
        key: Option<&Key>,
        new: &mut New<'_>,
    ) -> Result<()> {
        let mut walk = Walk::new(input, part, key, Progress::new(false, "", None))?;
        while walk.next(&mut |entry| self.entry(entry, new))? {}
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, new: &mut New<'_>) -> Result<()> {
        let What::Frame(Frame { content, payload, .. }) = &entry.what else { return Ok(()) };
        match (content, self.wanted) {
            (Content::Restart(_), _) => self.restarts = self.restarts.saturating_sub(1),
            _ if self.restarts > 0 => {}
            (Content::Data, Wanted::Data) => {
                self.took = true;
                new.write(payload)?;
            }
            (Content::Blob { kind, bytes }, Wanted::Blob(wanted, number)) if *kind == wanted => {
                self.blobs += 1;
                if self.blobs == number {
                    self.took = true;
                    new.write(bytes)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
