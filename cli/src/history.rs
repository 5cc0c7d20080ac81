// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--history`: what happened to the devices that a command had open.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use clap::{Arg, ArgMatches};
use vfiomig::Device;
use vfiomig::history::History;

/// The histories of devices that were closed.
pub type Histories = Rc<RefCell<Vec<History>>>;

/// The option, of commands that open devices.
pub fn arg() -> Arg {
    Arg::new("history")
        .long("history")
        .value_name("FORMAT")
        .value_parser(["text", "json"])
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("text")
        .help(
            "Print what happened to the devices on standard error: text, if it fails; json, always",
        )
}

/// Takes what happened to a device, which is about to be closed.
pub fn take(device: &Device, into: &Histories) {
    if let Ok(history) = device.history() {
        into.borrow_mut().push(history);
    }
}

/// Prints what was asked for.
pub fn print(args: &ArgMatches, failed: bool, histories: &Histories, to: &mut dyn Write) {
    // Not every command has the option.
    let format = args.try_get_one::<String>("history").ok().flatten();
    for history in histories.take() {
        let _ = match format.map(String::as_str) {
            Some("json") => write!(to, "{}", history.json()),
            Some(_) if failed => write!(to, "{}", history.text()),
            _ => Ok(()),
        };
    }
}
