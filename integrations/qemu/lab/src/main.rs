// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs in the lab's virtual machine: starts QEMUs there, migrates a VFIO device from one to the
//! other, and checks what arrives. What it prints is described in lab/README.md.
//!
//! `QEMU_CASES` in the environment names the cases to run: words, of which one must be part of the
//! case's name. `QEMU_TIMES`: how often each is run.

mod bench;
mod device;
mod dirty;
mod failures;
mod matrix;
mod pair;
mod qmp;
mod relay;
mod several;
mod vm;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;

/// What went wrong, for people to read.
pub type Res<T> = Result<T, String>;

/// How an error begins that is known of a QEMU of which better is not required.
pub const NOT_REQUIRED: &str = "as expected of this QEMU: ";

/// Where this runs, and how it went.
pub struct Lab {
    /// With `qemu/BUILD` in it.
    pub dir: PathBuf,
    /// For files that outlive the machine.
    pub out: PathBuf,
    /// For files that do not; memory.
    pub tmp: PathBuf,
    /// The lab's name for the kernel.
    pub kernel: String,
    wanted: Vec<String>,
    times: u32,
    passed: Cell<u32>,
    failed: Cell<u32>,
    skipped: Cell<u32>,
}

impl Lab {
    fn new() -> Res<Lab> {
        let var = |name: &str| std::env::var(name).map_err(|e| format!("{name}: {e}"));
        let tmp = PathBuf::from("/tmp/qemu-lab");
        std::fs::create_dir_all(&tmp).map_err(|e| format!("{}: {e}", tmp.display()))?;
        Ok(Lab {
            dir: var("LAB_DIR")?.into(),
            out: var("LAB_OUT")?.into(),
            tmp,
            kernel: var("KERNEL_VARIANT")?,
            wanted: wanted(),
            times: std::env::var("QEMU_TIMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1),
            passed: Cell::new(0),
            failed: Cell::new(0),
            skipped: Cell::new(0),
        })
    }

    /// Runs a case, if it is wanted, and reports.
    pub fn case(&self, name: &str, run: impl Fn() -> Res<()>) {
        if !is_wanted(&self.wanted, name) {
            return;
        }
        self.once(name, &run);
        for time in 1..self.times {
            self.once(&format!("{name}-again-{time}"), &run);
        }
    }

    fn once(&self, name: &str, run: impl Fn() -> Res<()>) {
        match run() {
            Ok(()) => {
                self.passed.set(self.passed.get() + 1);
                println!("ok {name}");
            }
            Err(why) if why.starts_with(NOT_REQUIRED) => {
                self.skipped.set(self.skipped.get() + 1);
                println!("skip {name}: {}", why.replace('\n', " "));
            }
            Err(why) => {
                self.failed.set(self.failed.get() + 1);
                println!("not ok {name}: {}", why.replace('\n', " "));
            }
        }
    }
}

/// Words of which one must be part of a case's name; none: all cases.
fn wanted() -> Vec<String> {
    std::env::var("QEMU_CASES").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn is_wanted(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()))
}

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
    let (passed, failed, skipped) = (lab.passed.get(), lab.failed.get(), lab.skipped.get());
    if passed + failed + skipped == 0 {
        // Nothing to do on this kernel, or none that was asked for.
        return ExitCode::from(77);
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
