// SPDX-License-Identifier: MIT OR Apache-2.0
//! `src/libvfiomig.map`: the export map, a node per version that introduced functions.

use std::fmt::Write;

use crate::api::Api;

pub fn make(api: &Api) -> String {
    let mut out = String::from(
        "# SPDX-License-Identifier: MIT OR Apache-2.0\n\
         # Made by apigen from the api.toml files in src/capi; do not edit. A symbol's node changes only\n\
         # where its meaning does (docs/abi.md).\n",
    );
    let mut before: Option<String> = None;
    for since in api.versions() {
        let node = format!("VFIOMIG_{since}");
        let _ = write!(out, "\n{node} {{\nglobal:\n");
        let mut names: Vec<&str> = api
            .functions
            .iter()
            .filter(|function| function.since == since)
            .map(|function| function.name.as_str())
            .collect();
        names.sort_unstable();
        for name in names {
            let _ = writeln!(out, "    {name};");
        }
        match &before {
            // Once is enough: it hides everything that no node names.
            None => out.push_str("local:\n    *;\n};\n"),
            Some(before) => {
                let _ = writeln!(out, "}} {before};");
            }
        }
        before = Some(node);
    }
    out
}
