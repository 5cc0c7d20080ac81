// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty tracking against the model of `tests/dirty_model.rs`, with the bytes instead of its random
//! numbers: what devices write, what fails, what the VMM maps, unmaps and reads.

// The tests' own file, as it is: two models would soon disagree.
#[path = "../../tests/dirty_model.rs"]
#[allow(dead_code, unused_imports)]
mod dirty_model;

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // What the bytes do not decide follows from the seed.
    let seed = input.u64() | 1;
    dirty_model::machine::decide_by(input.all());
    let done = dirty_model::one(seed, std::env::var_os("VFIOMIG_MODEL_TRACE").is_some());
    dirty_model::machine::decide_by(&[]);
    if let Err(text) = done {
        panic!("{text}");
    }
}
