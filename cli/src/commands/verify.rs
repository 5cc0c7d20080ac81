// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig verify`: whether a stream or checkpoint is whole.

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use crate::contents::Contents;
use crate::context::Context;
use crate::exit::{Result, Status};
use crate::input::{GROWING, Input};
use crate::progress::Progress;
use crate::walk::Walk;
use crate::{contents, found, input, json as json_option, key, qemu};

/// The subcommand.
pub fn command() -> Command {
    Command::new("verify")
        .about("Says whether a stream or checkpoint is whole, and where it is not")
        .after_help(
            "Exit status: 0 whole, as a load would take it; 1 damaged or incomplete; 3 not a stream; \
             4 it is authenticated, and the key is missing or another.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("A file, or - for a pipe"))
        .arg(key::arg())
        .arg(json_option::arg())
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let key = key::read(args)?;
    let given = args.get_one::<String>("file").map_or("", String::as_str);
    let mut input = input::open(given)?;
    let contents = contents::of(&mut input, key.as_ref())?;
    if let Contents::Qemu = &contents {
        return qemu_file(&mut input, given, args.get_flag("json"), context);
    }
    let mut status = Status::Yes;
    let mut streams = Vec::new();
    let mut text = String::new();
    for mut part in contents.parts(&input, None)? {
        let progress = Progress::new(context.progress, "verifying", part.len);
        let found = Walk::new(&mut input, &mut part, key.as_ref(), progress)?.finish()?;
        let title = part.title(&input);
        text.push_str(&found::verdict_text(&title, &found, context.style));
        if found.is_cut() && input.has_changed() {
            text.push_str(&format!("  {GROWING}\n"));
        }
        status = status.max(found.status());
        streams.push(found::to_json(part.name(), &found));
    }
    if args.get_flag("json") {
        context.json(&json!({
            "schema": 1,
            "file": given,
            "format": contents.word(),
            "whole": status == Status::Yes,
            "growing": input.has_changed(),
            "streams": streams,
        }))?;
    } else {
        context.say(&text)?;
    }
    Ok(status)
}

/// What can be told of a file of QEMU's, which has no checks.
fn qemu_file(
    input: &mut Input,
    given: &str,
    json: bool,
    context: &mut Context<'_>,
) -> Result<Status> {
    let seen = qemu::read(input, &qemu::Wanted::default(), context.progress)?;
    let (status, growing) = (seen.status(), input.has_changed());
    if json {
        context.json(&json!({
            "schema": 1,
            "file": given,
            "format": "qemu",
            "whole": status == Status::Yes,
            "growing": growing,
            "streams": [],
            "qemu": qemu::to_json(&seen),
        }))?;
    } else {
        let title = context.style.bold(&input.name);
        let mut text = qemu::verdict_text(&title, &seen, context.style);
        if status != Status::Yes && growing {
            text.push_str(&format!("  {GROWING}\n"));
        }
        context.say(&text)?;
    }
    Ok(status)
}
