// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs in the lab's virtual machine: starts QEMUs there, migrates a VFIO device from one to the
//! other, and checks what arrives. What it prints is described in lab/README.md.
//!
//! `QEMU_CASES` in the environment names the cases to run: words, one of which must be part of the
//! case's name. `QEMU_TIMES` says how often each is run.

mod bench;
mod cases;
mod device;
mod dirty;
mod failures;
mod matrix;
mod pair;
mod qmp;
mod relay;
mod several;
mod versions;
mod vm;

use std::process::ExitCode;

use cases::{Lab, is_wanted, wanted};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if let (Some("kept"), Some(kernel)) = (args.next().as_deref(), args.next()) {
        // For the host: whose streams there must be after a run of the matrix.
        for name in matrix::kept(&kernel).iter().filter(|name| is_wanted(&wanted(), name)) {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(e) => {
            eprintln!("qemu-lab: {e}");
            return ExitCode::FAILURE;
        }
    };
    match std::env::args().nth(1).as_deref() {
        Some("matrix") => matrix::run(&lab),
        Some("failures") => failures::run(&lab, failures::WITH_QEMU_FORMAT),
        Some("native") => failures::run(&lab, failures::WITH_NATIVE_FORMAT),
        Some("dirty") => dirty::run(&lab),
        Some("several") => several::run(&lab),
        Some("stock") => {
            matrix::run_stock(&lab);
            failures::run(&lab, failures::WITHOUT);
        }
        Some("bench") => bench::run(&lab),
        other => {
            eprintln!("qemu-lab: no such run: {}", other.unwrap_or("(none)"));
            return ExitCode::FAILURE;
        }
    }
    let (passed, failed, skipped) = lab.counts();
    if passed + failed + skipped == 0 {
        // Nothing to do on this kernel, or none that was asked for.
        return ExitCode::from(77);
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
