// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--json`, which is the same everywhere.

use clap::{Arg, ArgAction};

/// The option.
pub fn arg() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print JSON, as docs/schema describes it")
}
