// SPDX-License-Identifier: MIT OR Apache-2.0
//! The target that VFIOMIG_FUZZ_TARGET names.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vfiomig_fuzz::Target;

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("VFIOMIG_FUZZ_TARGET").expect("VFIOMIG_FUZZ_TARGET");
        vfiomig_fuzz::target(&name).expect("a target of this name")
    })
}

fuzz_target!(|bytes: &[u8]| {
    target().check(bytes);
});
