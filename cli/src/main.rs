// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `vfiomig` tool: asks VFIO devices about live migration, without a VMM, and checks the policy
//! that they are under.
//!
//! ```text
//! main      arguments, exit status
//! probe     the subcommand of that name
//! policy    the same
//! examine   one device: asking it, and what follows
//! refusal   why it could not be opened
//! output    text and JSON
//! finding   the words for what is found
//! open      nodes and ioctls; the only module with unsafe in it
//! variant   which VFIO driver fits
//! kconfig   the running kernel
//! sysfs     facts about devices
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod examine;
mod finding;
mod kconfig;
mod open;
mod output;
mod policy;
mod probe;
mod refusal;
mod sysfs;
mod variant;

use std::io;
use std::process::ExitCode;

use clap::Command;

/// Something went wrong that has nothing to do with a device.
const TROUBLE: u8 = 2;

fn command() -> Command {
    let version: String = format!(
        "{}\nlibvfiomig {}.{}.{}",
        env!("CARGO_PKG_VERSION"),
        vfiomig::capi::version::VFIOMIG_VERSION_MAJOR,
        vfiomig::capi::version::VFIOMIG_VERSION_MINOR,
        vfiomig::capi::version::VFIOMIG_VERSION_PATCH,
    );
    Command::new("vfiomig")
        .about("VFIO live migration: what devices can do, and why they cannot")
        .version(version)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(probe::command())
        .subcommand(policy::command())
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("probe", args)) => probe::run(args),
        Some(("policy", args)) => policy::run(args),
        _ => return ExitCode::from(TROUBLE),
    };
    match result {
        Ok(code) => code,
        // Whoever was reading the output has stopped.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfiomig: {error}");
            ExitCode::from(TROUBLE)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
