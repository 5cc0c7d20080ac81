// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of an `api.toml` as they are written; `src/capi/api.toml` says what the keys mean.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::State;

/// An `api.toml`: that of `src/capi` has the date and the errors, those of its folders the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTable {
    pub date: Option<String>,
    #[serde(default)]
    pub errors: BTreeMap<String, String>,
    pub section: RawSection,
    pub object: Option<RawObject>,
    #[serde(default)]
    pub constants: Vec<RawGroup>,
    #[serde(default)]
    pub function: Vec<RawFunction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSection {
    pub order: u32,
    pub title: String,
    #[serde(default)]
    pub macros: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawObject {
    pub number: u8,
    pub about: String,
    pub state: Vec<State>,
    #[serde(default)]
    pub waits: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGroup {
    pub title: String,
    pub prefix: Option<String>,
    #[serde(default)]
    pub names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFunction {
    pub name: String,
    pub since: String,
    pub handle: Option<String>,
    pub states: Option<Vec<String>>,
    pub wrong_state: Option<String>,
    #[serde(default)]
    pub concurrent: bool,
    #[serde(default)]
    pub no_wait: bool,
    #[serde(default)]
    pub must_check: bool,
    pub args: Vec<String>,
    pub errors: Vec<String>,
    pub returns: Option<String>,
    pub brief: Option<String>,
}
