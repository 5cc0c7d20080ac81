// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `vfiomig` tool: VFIO migration without a VMM.
//!
//! ```text
//! main      arguments, exit status
//! commands  one module for each
//! side      what compat compares: a device, a stream, an identity
//! probe_json what probe --json printed, read again
//! examine   one device: asking it, and what follows
//! device    a device that a command works on
//! refusal   why it could not be opened
//! output    a probe as text and JSON
//! identity  the same for what a device is
//! found     the same for what was found out about a stream
//! history   --history: what happened to devices
//! walk      reads a stream from the front to the back
//! contents  what a file holds, and where in it each stream is
//! qemu      what the commands do with a file of QEMU's
//! qemu_file what is in one
//! decoder   code that names fields, out of a shared object
//! fields    fields of device data, as text
//! finding   the words for what is found
//! context   what commands work with: output, questions, signals
//! open      nodes and ioctls
//! variant   which VFIO driver fits
//! kconfig   the running kernel
//! sysfs     facts about devices
//! input     files to read, whatever they turn out to be
//! new_file  files to write, whole or not at all
//! json      --json
//! key       keys of authenticated streams
//! watch     work that takes a while, and signals that end it
//! interrupt signals
//! progress  how far long work is
//! text      columns, colours, sizes
//! exit      what each exit status means
//! sys       a system call
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod commands;
mod contents;
mod context;
mod decoder;
mod device;
mod examine;
mod exit;
mod fields;
mod finding;
mod found;
mod history;
mod identity;
mod input;
mod interrupt;
mod json;
mod kconfig;
mod key;
mod new_file;
mod open;
mod output;
mod policy_rules;
mod probe_json;
mod progress;
mod qemu;
mod qemu_file;
mod refusal;
mod side;
mod sys;
mod sysfs;
mod text;
mod variant;
mod walk;
mod watch;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, Command, value_parser};

use crate::context::{Context, style_of};
use crate::exit::{End, Result, Status};
use crate::interrupt::Interrupt;
use crate::sysfs::Root;

fn command() -> Command {
    let version: String = format!(
        "{}\nlibvfiomig {}.{}.{}",
        env!("CARGO_PKG_VERSION"),
        vfiomig::capi::version::VFIOMIG_VERSION_MAJOR,
        vfiomig::capi::version::VFIOMIG_VERSION_MINOR,
        vfiomig::capi::version::VFIOMIG_VERSION_PATCH,
    );
    Command::new("vfiomig")
        .about("VFIO live migration: devices, streams and checkpoints")
        .version(version)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Exit status: 0 yes, whole, the same; 1 no; 2 wrong usage; 3 an input cannot be read; \
             4 forbidden; 5 the device failed; 6 in use; 7 the result cannot be written; 128 \
             and the signal's number after a signal.",
        )
        .arg(
            // Looks at another tree, for tests.
            Arg::new("sysroot")
                .long("sysroot")
                .global(true)
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .hide(true),
        )
        .subcommands(commands::all())
}

/// Runs the command that the arguments name.
fn run(arguments: impl IntoIterator<Item = OsString>, context: &mut Context<'_>) -> End {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let text = error.render().to_string();
            let wrong = error.use_stderr();
            let stream: &mut dyn Write = if wrong { context.err } else { context.out };
            let _ = stream.write_all(text.as_bytes());
            return End::Status(if wrong { Status::Usage } else { Status::Yes });
        }
    };
    if let Some(root) = matches.get_one::<PathBuf>("sysroot") {
        context.root = Root::new(root);
    }
    let result: Result<Status> = match matches.subcommand() {
        Some(("completions", args)) => commands::completions::run(command(), args, context),
        Some((name, args)) => commands::run(name, args, context),
        None => Ok(Status::Usage),
    };
    let result = result.and_then(|status| {
        context.out.flush()?;
        Ok(status)
    });
    let failed = result.is_err();
    let end = match result {
        Ok(status) => End::Status(status),
        Err(trouble) => {
            if !trouble.text.is_empty() {
                context.complain(&trouble.text);
            }
            trouble.end
        }
    };
    if let Some((_, args)) = matches.subcommand() {
        history::print(args, failed, &context.histories, context.err);
    }
    end
}

fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    let style = style_of(&out);
    let (mut stdin, asks) = (io::stdin().lock(), io::stdin().is_terminal());
    let mut context = Context {
        root: Root::new("/"),
        open: &open::open,
        style,
        out: &mut out,
        progress: err.is_terminal(),
        interrupt: Interrupt::default(),
        histories: Default::default(),
        err: &mut err,
        answers: asks.then_some(&mut stdin as &mut dyn BufRead),
    };
    ExitCode::from(run(std::env::args_os(), &mut context).code())
}
