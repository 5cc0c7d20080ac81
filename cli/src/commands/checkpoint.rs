// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig checkpoint`: the state of devices whose guest does not run, in a file.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use vfiomig::checkpoint::{Guest, Writer, WriterOptions};
use vfiomig::device::State;
use vfiomig::error::Outcome;
use vfiomig::session::SaveOptions;

use crate::context::Context;
use crate::device::{self, Live};
use crate::exit::{Result, Status, Trouble};
use crate::new_file;
use crate::progress::Progress;
use crate::text::line;
use crate::watch::{library_trouble, while_watched};
use crate::{json as json_option, key};

/// The subcommand.
pub fn command() -> Command {
    Command::new("checkpoint")
        .about("Writes the state of devices whose guest does not run into a file")
        .after_help(
            "Whatever happens, the devices go back to where they were, and an earlier FILE stays until \
             its successor is on the disk. If a device failed on the way, the message says where it \
             is now. Exit status: 0 written; others as for all commands.",
        )
        .arg(
            Arg::new("device")
                .value_name("DEVICE")
                .required(true)
                .num_args(1..)
                .help("As for probe; one or several"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .required(true)
                .help("Where to write"),
        )
        .arg(
            Arg::new("generation")
                .long("generation")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64))
                .help("A number of yours for it"),
        )
        .arg(
            Arg::new("note")
                .long("note")
                .value_name("TEXT")
                .help("A note of yours in it, at most 4096 bytes"),
        )
        .arg(
            Arg::new("no-sync")
                .long("no-sync")
                .action(ArgAction::SetTrue)
                .help("Do not wait until it is on the disk"),
        )
        .arg(key::arg())
        .arg(json_option::arg())
        .arg(crate::history::arg())
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let file = args.get_one::<String>("output").map_or("", String::as_str);
    new_file::judge(Path::new(file))?;
    let key = key::read(args)?;
    context.interrupt.watch()?;
    let names = args.get_many::<String>("device").into_iter().flatten();
    let devices = names.map(|name| device::open(context, name)).collect::<Result<Vec<Live>>>()?;
    let note = args.get_one::<String>("note").cloned().unwrap_or_default();
    let options = WriterOptions {
        generation: args.get_one::<u64>("generation").copied().unwrap_or(0),
        note: note.into_bytes(),
        auth: key.as_ref().map(key::Key::auth),
        durable: !args.get_flag("no-sync"),
        ..WriterOptions::default()
    };
    let writer = Writer::create(Path::new(file), options);
    let mut writer = writer.map_err(|error| library_trouble(file, &error))?;
    let watcher = writer.watcher();
    let before: Vec<Option<State>> = devices.iter().map(|it| it.device.state().ok()).collect();
    let progress = Progress::new(context.progress, "saving", None);
    let mut back = Ok(());
    let done = while_watched(&context.interrupt, &watcher, progress, || {
        let taken = take(&mut writer, &devices);
        back = writer.resume(Guest::GoesOn);
        back.clone().and(taken)?;
        writer.commit()
    });
    // Removes what it began, and ends its sessions.
    drop(writer);
    if let Err(error) = done {
        let mut trouble = match context.interrupt.signal() {
            Some(signal) => {
                let text = format!("{file}: not written: interrupted");
                let mut trouble = Trouble::interrupted(signal, text);
                if let Err(error) = &back {
                    trouble.text.push_str(&format!(": {error}"));
                }
                trouble
            }
            None => library_trouble(&format!("{file}: not written"), &error),
        };
        trouble.text.push_str(&whereabouts(&devices, &before, back.is_ok()));
        return Err(trouble);
    }
    let stats = watcher.stats();
    if args.get_flag("json") {
        context.json(&json!({
            "schema": 1,
            "file": file,
            "devices": devices.iter().map(|live| live.name.as_str()).collect::<Vec<_>>(),
            "stream_bytes": stats.stream_bytes,
            "file_bytes": stats.file_bytes,
            "pause_ns": stats.pause_ns,
        }))?;
    } else {
        let mut text = format!("{file}: written\n");
        for live in &devices {
            line(&mut text, "device", &live.name);
        }
        context.say(&text)?;
    }
    Ok(Status::Yes)
}

/// Where the devices are after a failure: what it says itself was true when it happened. One that
/// was reset may be where it was, and has lost what it held.
fn whereabouts(devices: &[Live], before: &[Option<State>], back: bool) -> String {
    let mut text = String::new();
    for (live, before) in devices.iter().zip(before) {
        let now = live.device.state().ok();
        let failure = live.device.failure().ok().flatten();
        if failure.is_some_and(|failure| failure.outcome == Outcome::Reset) {
            text.push_str(&format!("; {} was reset, and what it held is lost", live.name));
        }
        if now != *before || now.is_none() {
            let now = now.map_or("a state that it does not say".to_owned(), |now| now.to_string());
            text.push_str(&format!("; {} is in {now} now: see vfiomig reset", live.name));
        } else if failure.is_some_and(|failure| failure.outcome == Outcome::Lost) {
            text.push_str(&format!("; {} could not be reset: see vfiomig reset", live.name));
        }
    }
    match (text.is_empty(), back) {
        (true, true) => "; by now the devices are where they were".to_owned(),
        (true, false) => "; giving the devices back failed".to_owned(),
        (false, _) => text,
    }
}

fn take(writer: &mut Writer, devices: &[Live]) -> vfiomig::Result<()> {
    for (index, live) in devices.iter().enumerate() {
        let device_index = u32::try_from(index).unwrap_or(u32::MAX);
        let options = SaveOptions { device_index, ..SaveOptions::default() };
        writer.add(&live.name, &live.device, options)?;
    }
    writer.read()?;
    writer.stop()?;
    writer.read()
}
