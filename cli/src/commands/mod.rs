// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands, a module each. They call what lies beside this folder, and not each other.

pub mod completions;

mod checkpoint;
mod compat;
mod diff;
mod extract;
mod inspect;
mod policy;
mod probe;
mod reset;
mod restore;
mod verify;

use clap::{ArgMatches, Command};

use crate::context::Context;
use crate::exit::{Result, Status};

/// All of them, as `--help` lists them.
pub fn all() -> [Command; 11] {
    [
        probe::command(),
        inspect::command(),
        verify::command(),
        diff::command(),
        extract::command(),
        compat::command(),
        checkpoint::command(),
        restore::command(),
        reset::command(),
        policy::command(),
        completions::command(),
    ]
}

/// Runs the command of this name; completions need the whole command line, and are left to main.
pub fn run(name: &str, args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    match name {
        "probe" => probe::run(args, context),
        "inspect" => inspect::run(args, context),
        "verify" => verify::run(args, context),
        "diff" => diff::run(args, context),
        "extract" => extract::run(args, context),
        "compat" => compat::run(args, context),
        "checkpoint" => checkpoint::run(args, context),
        "restore" => restore::run(args, context),
        "reset" => reset::run(args, context),
        "policy" => policy::run(args, context),
        _ => Ok(Status::Usage),
    }
}
