// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig reset`: takes a device that an earlier user left behind back to its power-on state.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use vfiomig::device::State;

use crate::context::Context;
use crate::device;
use crate::exit::{Result, Status, Trouble};

/// The subcommand.
pub fn command() -> Command {
    Command::new("reset")
        .about("Resets a device that an earlier user left in the middle of a migration")
        .after_help(
            "Says what is lost first, and asks. Exit status: 0 it is RUNNING, in its power-on state \
             if it was reset; 1 the answer was no; others as for all commands.",
        )
        .arg(Arg::new("device").value_name("DEVICE").required(true).help("As for probe"))
        .arg(
            Arg::new("yes").long("yes").short('y').action(ArgAction::SetTrue).help("Do not ask"),
        )
        .arg(
            Arg::new("running")
                .long("running")
                .action(ArgAction::SetTrue)
                .help("Also a device that is RUNNING, and has not been left behind"),
        )
        .arg(crate::json::arg())
        .arg(crate::history::arg())
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let name = args.get_one::<String>("device").map_or("", String::as_str);
    let live = device::open(context, name)?;
    let ask_state = || live.device.state().map_err(|error| live.trouble(&error));
    // One that does not say what state it is in can be reset as well.
    let before = ask_state().ok();
    let json = args.get_flag("json");
    let (loses, worth_it) = about_loss(before);
    if before == Some(State::Running) && !args.get_flag("running") {
        if json {
            context.json(&json!({
                "schema": 1, "device": name, "state_before": "RUNNING", "reset": false,
                "loses": null, "state": "RUNNING",
            }))?;
        } else {
            context.say(&format!(
                "{name}: RUNNING: nobody left it behind. --running resets it anyway\n"
            ))?;
        }
        return Ok(Status::Yes);
    }
    let state = before.map_or("a state that it does not say".to_owned(), |state| state.to_string());
    let _ = writeln!(context.err, "{name} is in {state}. A reset loses {loses}.{worth_it}");
    if !args.get_flag("yes") {
        match context.ask(&format!("Reset {name}?")) {
            Some(true) => {}
            Some(false) => return Err(Trouble::new(Status::No, format!("{name}: not reset"))),
            None => {
                let text = format!("{name}: not reset: nobody is there to ask: --yes");
                return Err(Trouble::new(Status::Usage, text));
            }
        }
    }
    live.device.reset().map_err(|error| live.trouble(&error))?;
    let after = ask_state()?;
    if json {
        context.json(&json!({
            "schema": 1,
            "device": name,
            "state_before": before.map(|state| state.to_string()),
            "reset": true,
            "loses": loses,
            "state": after.to_string(),
        }))?;
    } else {
        context.say(&format!("{name}: reset; {after}\n"))?;
    }
    Ok(Status::Yes)
}

/// What a reset loses, and what to consider before it.
fn about_loss(state: Option<State>) -> (&'static str, &'static str) {
    match state {
        Some(State::Running | State::RunningP2p) => {
            ("all that the device holds: its registers, queues and requests in flight", "")
        }
        Some(State::PreCopy | State::PreCopyP2p) => (
            "all that the device holds, and the save that had begun",
            " Its guest was running: what it asked of the device is lost.",
        ),
        Some(State::Stop) => (
            "all that the device holds for its stopped guest",
            " Nothing is lost if a VMM runs it instead.",
        ),
        Some(State::StopCopy) => (
            "all that the device holds for its stopped guest",
            " If no target has that guest, this is the only copy.",
        ),
        Some(State::Resuming) => (
            "what was loaded so far, which is not a whole state",
            " The source still has the whole one.",
        ),
        _ => ("all that the device may still hold", ""),
    }
}
