// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig extract`: a part of a stream or checkpoint, as a file of its own.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use vfiomig::inspect::{Content, Entry, Frame, Verdict, What};

use crate::contents::Part;
use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::key::Key;
use crate::new_file::{self, NewFile};
use crate::progress::Progress;
use crate::walk::Walk;
use crate::{contents, found, input, key};

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
                 that kind; stream: the stream of one device of a checkpoint",
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
                .help("Which device of a checkpoint with several"),
        )
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
    let mut parts = contents.parts(&input, args.get_one::<String>("device").map(String::as_str))?;
    let several = parts.len();
    let (Some(part), 1) = (parts.first_mut(), several) else {
        let text = format!("{}: {several} devices are in it: say which, with --device", input.name);
        return Err(Trouble::new(Status::Usage, text));
    };
    // Once to see whether it is whole, and how often it starts again.
    let progress = Progress::new(context.progress, "verifying", part.len);
    let found = Walk::new(&mut input, part, key.as_ref(), progress)?.finish()?;
    let verdict = found.verdict();
    if verdict != Verdict::Whole && !args.get_flag("damaged") {
        let word = found::verdict_word(verdict);
        let text = format!("{}: {word}: --damaged extracts what there is", input.name);
        return Err(Trouble::new(found.status(), text));
    }
    part.rewind(&mut input)?;
    let mut new = NewFile::create(output)?;
    let progress = Progress::new(context.progress, "extracting", part.len);
    match wanted {
        Wanted::Stream => copy(&mut input, part, &mut new, progress)?,
        _ => {
            let mut taker =
                Taker { wanted, restarts: found.report.restarts, blobs: 0, took: false };
            taker.take(&mut input, part, key.as_ref(), &mut new, progress)?;
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

fn copy(input: &mut Input, part: &mut Part, new: &mut NewFile, mut bar: Progress) -> Result<()> {
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let len = part.read(input, &mut buf)?;
        if len == 0 {
            return Ok(());
        }
        new.write(buf.get(..len).unwrap_or_default())?;
        done += len as u64;
        bar.at(done);
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
        new: &mut NewFile,
        bar: Progress,
    ) -> Result<()> {
        let mut walk = Walk::new(input, part, key, bar)?;
        while walk.next(&mut |entry| self.entry(entry, new))? {}
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, new: &mut NewFile) -> Result<()> {
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
