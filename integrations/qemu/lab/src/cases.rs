// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases: where they run, which are wanted, how they went.

use std::cell::Cell;
use std::path::PathBuf;

/// What went wrong, for people to read.
pub type Res<T> = Result<T, String>;

/// How an error begins that is known of a QEMU that need not do better.
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
    /// As the environment says.
    pub fn new() -> Res<Lab> {
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

    /// Cases that passed, failed and were skipped.
    pub fn counts(&self) -> (u32, u32, u32) {
        (self.passed.get(), self.failed.get(), self.skipped.get())
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

/// Words, one of which must be part of a case's name; none: all cases.
pub fn wanted() -> Vec<String> {
    std::env::var("QEMU_CASES").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whether a case is one of these.
pub fn is_wanted(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()))
}
