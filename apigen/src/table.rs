// SPDX-License-Identifier: MIT OR Apache-2.0
//! `src/capi/table.rs`: the rows as the entry guards need them, formatted as rustfmt does it.

use std::fmt::Write;

use crate::api::Api;

/// rustfmt's limit.
const WIDTH: usize = 100;

pub fn make(api: &Api) -> String {
    let mut out = String::from(
        "// SPDX-License-Identifier: MIT OR Apache-2.0\n\
         //! Made by apigen from the api.toml files; do not edit.\n\n\
         use super::row::{Kind, Row};\n\
         use crate::error::Code;\n",
    );
    for object in &api.objects {
        let states: Vec<String> =
            object.states.iter().map(|state| format!("{:?}", state.name)).collect();
        let fields = [
            format!("number: {}", object.number),
            format!("name: {:?}", object.name),
            format!("states: &[{}]", states.join(", ")),
            format!("waits: {}", object.waits),
        ];
        let head = format!("pub(super) static {}: Kind =", object.name.to_uppercase());
        let value = format!("Kind {{ {} }};", fields.join(", "));
        let _ = write!(out, "\n{}\n", assignment(&head, &value, &fields));
    }
    for function in api.functions.iter().filter(|f| f.is_guarded()) {
        let short = function.name.trim_start_matches("vfiomig_").to_uppercase();
        let fields = [
            format!("name: {:?}", function.name),
            format!("states: {:#b}", function.mask(api)),
            format!("wrong_state: Code::{}", api.code(&function.wrong_state)),
            format!("needs_memory: {}", function.errors.iter().any(|(code, _)| code == "ENOMEM")),
        ];
        let head = format!("pub(super) const {short}: Row =");
        let value = format!("Row {{ {} }};", fields.join(", "));
        let _ = write!(out, "\n{}\n", assignment(&head, &value, &fields));
    }
    out
}

/// `head value` on one line, on two, or with an item per line.
fn assignment(head: &str, value: &str, items: &[String]) -> String {
    if head.len() + 1 + value.len() <= WIDTH {
        format!("{head} {value}")
    } else if 4 + value.len() <= WIDTH {
        format!("{head}\n    {value}")
    } else {
        let open = value.split_inclusive(['[', '{']).next().unwrap_or_default();
        let close = if open.ends_with('[') { "];" } else { "};" };
        let items: String = items.iter().map(|item| format!("    {item},\n")).collect();
        format!("{head} {open}\n{items}{close}")
    }
}
