// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig restore`: loads a checkpoint into devices, one into one or one into many.

use std::ffi::CString;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use vfiomig::Code;
use vfiomig::checkpoint::{File, OpenOptions};
use vfiomig::session::LoadOptions;

use crate::contents::is_of_other_key;
use crate::context::Context;
use crate::device::{self, Live};
use crate::exit::{Result, Status, Trouble};
use crate::progress::Progress;
use crate::text::line;
use crate::watch::{library_trouble, while_watched};
use crate::{input, json as json_option, key, policy_rules};

/// A stream that is no longer than that is loaded from memory, where nobody can change it after it
/// was verified, in bytes.
const STAGED: u64 = 256 << 20;

/// The subcommand.
pub fn command() -> Command {
    Command::new("restore")
        .about("Loads a checkpoint into devices whose guest does not run")
        .after_help(
            "The file is verified whole, and must fit every device, before the first of them is reset. \
             Afterwards the devices are in STOP, unless --run is given. Exit status: 0 loaded; 1 \
             damaged, or it does not fit; 4 the key is missing or another; others as for all commands.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("A checkpoint"))
        .arg(Arg::new("device").value_name("DEVICE").required(true).num_args(1..).help(
            "As for probe; NAME=DEVICE if the checkpoint has several. One may be loaded into many",
        ))
        .arg(
            Arg::new("run")
                .long("run")
                .action(ArgAction::SetTrue)
                .help("Take the devices to RUNNING afterwards"),
        )
        .args(policy_rules::args())
        .arg(key::arg())
        .arg(json_option::arg())
        .arg(crate::history::arg())
}

/// A device that is to be loaded, and from what.
struct Pair {
    name: String,
    live: Live,
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let given = args.get_one::<String>("file").map_or("", String::as_str);
    let key = key::read(args)?;
    let mut input = input::open(given)?;
    if input.len.is_none() {
        let text = format!("{given}: a checkpoint is read from its end: put it into a file first");
        return Err(Trouble::new(Status::Input, text));
    }
    if input.peek::<8>()? != b"\x89VFIOMCP" {
        let text = format!("{given}: not a checkpoint: vfiomig inspect says what it is");
        return Err(Trouble::new(Status::Input, text));
    }
    let auth = key.as_ref().map(key::Key::auth);
    let options = OpenOptions { auth, staged: STAGED, ..OpenOptions::default() };
    let path = CString::new(given)
        .map_err(|_| Trouble::new(Status::Usage, format!("{given}: not a file's name")))?;
    let opened = File::open_at(None, &path, options);
    let file = opened.map_err(|error| match is_of_other_key(&mut input, key.as_ref(), &error) {
        true => Trouble::new(Status::Permission, format!("{given}: {error}")),
        false => of_file(given, &error),
    })?;
    context.interrupt.watch()?;
    let wanted = args.get_many::<String>("device").into_iter().flatten();
    let wanted: Vec<(String, &str)> =
        wanted.map(|text| pair(&file, given, text)).collect::<Result<_>>()?;
    let mut pairs = Vec::new();
    for (name, device) in wanted {
        pairs.push(Pair { name, live: device::open(context, device)? });
    }
    judge(args, &file, &pairs)?;
    verify(context, &file, given, &pairs)?;
    for (number, pair) in pairs.iter().enumerate() {
        // What is loaded is not taken back; what is still to come can be left alone.
        if let Some(signal) = context.interrupt.signal() {
            let text = format!("interrupted: {number} of {} devices are loaded", pairs.len());
            return Err(Trouble::interrupted(signal, text));
        }
        load(args, &file, pair).map_err(|mut trouble| {
            if pairs.len() > 1 {
                let text = format!("; {number} of {} devices were loaded before it", pairs.len());
                trouble.text.push_str(&text);
            }
            trouble
        })?;
    }
    say(args, context, given, &pairs)?;
    Ok(Status::Yes)
}

fn load(args: &ArgMatches, file: &File, pair: &Pair) -> Result<()> {
    let policy = policy_rules::read(args)?;
    let options = LoadOptions { policy, ..LoadOptions::default() };
    let done = file.restore(&pair.name, &pair.live.device, options);
    let done = done.and_then(|()| match args.get_flag("run") {
        true => pair.live.device.run(),
        false => Ok(()),
    });
    done.map_err(|error| pair.live.trouble(&error))
}

fn of_file(given: &str, error: &vfiomig::Error) -> Trouble {
    match error.code() {
        Code::Proto | Code::BadMsg | Code::MsgSize | Code::NoData | Code::OtherDevice => {
            Trouble::new(Status::No, format!("{given}: {error}"))
        }
        _ => library_trouble(given, error),
    }
}

/// `NAME=DEVICE`, or a device for the one that is there.
fn pair<'a>(file: &File, given: &str, text: &'a str) -> Result<(String, &'a str)> {
    let devices = &file.manifest().devices;
    if let Some((name, device)) = text.split_once('=') {
        return match file.manifest().device(name) {
            Some(_) => Ok((name.to_owned(), device)),
            None => Err(Trouble::new(Status::Usage, format!("{given}: no device {name} is in it"))),
        };
    }
    match devices.as_slice() {
        [one] => Ok((one.name.clone(), text)),
        _ => {
            let names: Vec<&str> = devices.iter().map(|entry| entry.name.as_str()).collect();
            let names = names.join(", ");
            let text = format!("{given}: it holds {names}: say which for {text}, as NAME={text}");
            Err(Trouble::new(Status::Usage, text))
        }
    }
}

/// All of them, before the first one loses what it holds.
fn judge(args: &ArgMatches, file: &File, pairs: &[Pair]) -> Result<()> {
    for Pair { name, live } in pairs {
        let Some(entry) = file.manifest().device(name) else { continue };
        let target = live.device.identity().map_err(|error| live.trouble(&error))?;
        let verdict = policy_rules::read(args)?.judge(&entry.identity, &target);
        verdict
            .and_then(|verdict| verdict.check())
            .map_err(|error| Trouble::new(Status::No, format!("{}: {error}", live.name)))?;
    }
    Ok(())
}

fn verify(context: &Context<'_>, file: &File, given: &str, pairs: &[Pair]) -> Result<()> {
    let all: u64 = file.manifest().devices.iter().map(|entry| entry.stream_len()).sum();
    let progress = Progress::new(context.progress, "verifying", Some(all));
    let watcher = file.watcher();
    let done = while_watched(&context.interrupt, &watcher, progress, || {
        pairs.iter().try_for_each(|pair| file.verify(&pair.name))
    });
    match (done, context.interrupt.signal()) {
        (Ok(()), None) => Ok(()),
        (_, Some(signal)) => {
            Err(Trouble::interrupted(signal, "interrupted: the devices are as they were"))
        }
        (Err(error), None) => Err(of_file(given, &error)),
    }
}

fn say(args: &ArgMatches, context: &mut Context<'_>, given: &str, pairs: &[Pair]) -> Result<()> {
    let state = if args.get_flag("run") { "RUNNING" } else { "STOP" };
    if args.get_flag("json") {
        let devices: Vec<_> = pairs
            .iter()
            .map(|pair| json!({ "device": pair.live.name, "from": pair.name, "state": state }))
            .collect();
        return context.json(&json!({ "schema": 1, "file": given, "devices": devices }));
    }
    let mut text = format!("{given}: loaded\n");
    for pair in pairs {
        line(&mut text, "device", &format!("{} from {}: {state}", pair.live.name, pair.name));
    }
    context.say(&text)
}
