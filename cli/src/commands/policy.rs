// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig policy check`: whether a policy file is right, before or after it is where it counts.

use clap::{Arg, ArgMatches, Command};
use vfiomig::Code;
use vfiomig::policy::{MAX_FILE, Rules, check_host_file, host_file};

use crate::context::Context;
use crate::exit::{End, Result, Status, Trouble};
use crate::input;

/// The subcommand.
pub fn command() -> Command {
    let file = Arg::new("file").value_name("FILE").help(
        "Checks what this file contains, whoever owns it; without one, this host's policy as \
         migrations find it",
    );
    Command::new("policy")
        .about("Says whether a policy file is right: see vfiomig-policy(5)")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("check")
                .about("Checks a policy file")
                .after_help(
                    "Exit status: 0 it is right, or this host has none, 1 it is wrong and would deny \
                     everything, 2 wrong usage or the file cannot be read.",
                )
                .arg(file),
        )
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let Some(("check", args)) = args.subcommand() else { return Ok(Status::Usage) };
    match args.get_one::<String>("file") {
        Some(file) => check_contents(context, file),
        None => check_host(context),
    }
}

fn check_contents(context: &mut Context<'_>, file: &str) -> Result<Status> {
    // One status for all that is not a policy, since before there were others.
    let cannot = |trouble: Trouble| Trouble { end: End::Status(Status::Usage), ..trouble };
    let mut input = input::open(file).map_err(cannot)?;
    let bytes = input.read_all(MAX_FILE).map_err(cannot)?;
    // One byte more than a policy file can have shows that there is more.
    let bytes = bytes.unwrap_or_else(|| vec![b'#'; MAX_FILE + 1]);
    match Rules::parse(&bytes) {
        Ok(rules) => good(context, &format!("{file}: {}", summary(&rules))),
        Err(error) if error.line == 0 => bad(context, &format!("{file}: {}", error.text)),
        Err(error) => bad(context, &format!("{file}:{}: {}", error.line, error.text)),
    }
}

fn check_host(context: &mut Context<'_>) -> Result<Status> {
    let path = host_file();
    let shown = path.display();
    match check_host_file() {
        Ok(rules) => good(context, &format!("{shown}: {}", summary(&rules))),
        Err(error) if error.code() == Code::NoData => {
            good(context, &format!("{shown}: there is none, so everything is allowed"))
        }
        Err(error) => bad(context, error.message()),
    }
}

fn good(context: &mut Context<'_>, line: &str) -> Result<Status> {
    context.say(&format!("{line}\n"))?;
    Ok(Status::Yes)
}

fn bad(context: &mut Context<'_>, line: &str) -> Result<Status> {
    let _ = writeln!(context.err, "{line}");
    Ok(Status::No)
}

fn summary(rules: &Rules) -> String {
    let number = match rules.len() {
        1 => "1 rule".to_owned(),
        number => format!("{number} rules"),
    };
    let rest = if rules.denies_by_default() { "denied" } else { "allowed" };
    format!("{number}; what none of them names is {rest}")
}
