// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig policy check`: whether a policy file is right, before or after it is where it counts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use vfiomig::Code;
use vfiomig::policy::{MAX_FILE, Rules, check_host_file, host_file};

/// The file can be used, or the host has none.
const GOOD: u8 = 0;
/// It cannot: it would deny everything.
const BAD: u8 = 1;
/// It could not be read.
const TROUBLE: u8 = 2;

/// The subcommand.
pub fn command() -> Command {
    let file = Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
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
pub fn run(args: &ArgMatches) -> io::Result<ExitCode> {
    let Some(("check", args)) = args.subcommand() else { return Ok(ExitCode::from(TROUBLE)) };
    let code = match args.get_one::<PathBuf>("file") {
        Some(file) => check_contents(file)?,
        None => check_host()?,
    };
    Ok(ExitCode::from(code))
}

fn check_contents(file: &Path) -> io::Result<u8> {
    let shown = file.display();
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("vfiomig: {shown}: {error}");
            return Ok(TROUBLE);
        }
    };
    match Rules::parse(&bytes) {
        Ok(rules) => good(&format!("{shown}: {}", summary(&rules))),
        Err(error) if error.line == 0 => {
            eprintln!("{shown}: {}", error.text);
            Ok(BAD)
        }
        Err(error) => {
            eprintln!("{shown}:{}: {}", error.line, error.text);
            Ok(BAD)
        }
    }
}

/// One byte more than a policy file can have shows that there is more.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_host() -> io::Result<u8> {
    let path = host_file();
    let shown = path.display();
    match check_host_file() {
        Ok(rules) => good(&format!("{shown}: {}", summary(&rules))),
        Err(error) if error.code() == Code::NoData => {
            good(&format!("{shown}: there is none, so everything is allowed"))
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(BAD)
        }
    }
}

fn good(line: &str) -> io::Result<u8> {
    writeln!(io::stdout(), "{line}")?;
    Ok(GOOD)
}

fn summary(rules: &Rules) -> String {
    let number = match rules.len() {
        1 => "1 rule".to_owned(),
        number => format!("{number} rules"),
    };
    let rest = if rules.denies_by_default() { "denied" } else { "allowed" };
    format!("{number}; what none of them names is {rest}")
}
