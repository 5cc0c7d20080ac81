// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig completions`: what a shell needs to complete the command line. Packages install the same.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::context::Context;
use crate::exit::{Result, Status};

/// The subcommand.
pub fn command() -> Command {
    Command::new("completions")
        .about("Prints completions for a shell")
        .after_help("In bash: source <(vfiomig completions bash)")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .value_parser(value_parser!(Shell))
                .required(true)
                .help("Which shell"),
        )
}

/// Runs it, for the whole command line.
pub fn run(mut all: Command, args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let Some(shell) = args.get_one::<Shell>("shell") else { return Ok(Status::Usage) };
    let mut text = Vec::new();
    clap_complete::generate(*shell, &mut all, "vfiomig", &mut text);
    context.out.write_all(&text)?;
    Ok(Status::Yes)
}
