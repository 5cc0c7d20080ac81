// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig probe`: what devices can do, and why they cannot migrate, or not well.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;

use crate::examine::{Report, examine};
use crate::kconfig::Kernel;
use crate::output::{self, Style};
use crate::sysfs::{Root, Target, candidates, find, names};

/// Every device can be migrated.
const ALL_CAN: u8 = 0;
/// At least one device cannot, or could not be asked.
const ONE_CANNOT: u8 = 1;
/// A device was not found, or there is none.
const NOT_FOUND: u8 = 2;

/// The subcommand.
pub fn command() -> Command {
    Command::new("probe")
        .about("Says what VFIO devices can do, and why they cannot migrate, or not well")
        .after_help(
            "Exit status: 0 all devices can be migrated, 1 at least one cannot or could not be \
             asked, 2 wrong usage or a device was not found.",
        )
        .arg(Arg::new("device").value_name("DEVICE").action(ArgAction::Append).help(
            "PCI address (0000:3b:00.2, 3b:00.2), UUID of a mediated device, node in \
                     /dev/vfio/devices, or directory in /sys; without one as --all",
        ))
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with("device")
                .help("Probe every device that has to do with VFIO, SR-IOV or mediated devices"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print a JSON array with an object for each device"),
        )
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .requires("device")
                .help("Write what the one DEVICE is into a file, for another host to judge"),
        )
        .arg(
            // Probes another tree, for tests.
            Arg::new("sysroot")
                .long("sysroot")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .default_value("/")
                .hide(true),
        )
}

/// Runs it.
pub fn run(args: &ArgMatches) -> io::Result<ExitCode> {
    let root = args.get_one::<PathBuf>("sysroot").map_or("/".into(), Clone::clone);
    let root = Root::new(root);
    let kernel = Kernel::read(&root);
    let mut code = ALL_CAN;
    let targets = match args.get_many::<String>("device") {
        None => candidates(&root),
        Some(given) => {
            let mut targets: Vec<Target> = Vec::new();
            for name in given {
                match find(&root, name) {
                    Ok(target) => targets.push(target),
                    Err(error) => {
                        code = NOT_FOUND;
                        eprintln!("vfiomig: {}", error.0);
                    }
                }
            }
            targets
        }
    };
    let json = args.get_flag("json");
    let identity = args.get_one::<PathBuf>("identity");
    if identity.is_some() && targets.len() > 1 {
        eprintln!("vfiomig: --identity is for one device");
        return Ok(ExitCode::from(NOT_FOUND));
    }
    if targets.is_empty() && code == ALL_CAN {
        code = NOT_FOUND;
        nothing_there(&root, &kernel);
    }
    let mut out = io::stdout().lock();
    let style = Style(out.is_terminal() && std::env::var_os("NO_COLOR").is_none());
    if !json && !targets.is_empty() {
        out.write_all(output::kernel_line(&kernel).as_bytes())?;
    }
    let mut objects = Vec::new();
    for target in targets {
        let report = examine(&root, &kernel, target);
        code = code.max(exit_code(&report));
        if let Some(file) = identity {
            code = code.max(write_identity(&report, file)?);
        }
        if json {
            objects.push(output::to_json(&root, &kernel, &report));
        } else {
            writeln!(out)?;
            out.write_all(output::to_text(&report, style).as_bytes())?;
        }
    }
    if json {
        writeln!(out, "{:#}", Value::Array(objects))?;
    }
    out.flush()?;
    Ok(ExitCode::from(code))
}

/// Writes what the device is. A file that is there already is replaced as a whole, or stays.
fn write_identity(report: &Report, file: &Path) -> io::Result<u8> {
    let Some(answers) = &report.answers else {
        eprintln!("vfiomig: {}: not written: the device could not be asked", file.display());
        return Ok(ONE_CANNOT);
    };
    let about =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
    let bytes = answers.identity.to_bytes().map_err(|error| about(&error))?;
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, file))
        .inspect_err(|_| drop(std::fs::remove_file(&new)))
        .map_err(|error| about(&error))?;
    Ok(ALL_CAN)
}

fn exit_code(report: &Report) -> u8 {
    if report.migratable() == Some(true) { ALL_CAN } else { ONE_CANNOT }
}

/// Says why there is nothing to probe, on standard error because standard output may be JSON.
fn nothing_there(root: &Root, kernel: &Kernel) {
    eprintln!(
        "vfiomig: there is no device here that has to do with VFIO, SR-IOV or mediated devices"
    );
    eprint!("  {}", output::kernel_line(kernel));
    if kernel.lacks("CONFIG_VFIO") {
        eprintln!("  the kernel was built without VFIO: no device can be passed to a guest");
    } else if !root.at("/dev/vfio").exists() && !root.at("/sys/class/vfio").exists() {
        eprintln!("  VFIO is not loaded: modprobe vfio-pci");
    }
    if names(&root.at("/sys/kernel/iommu_groups")).is_empty() {
        eprintln!("  there are no IOMMU groups: no IOMMU, or it is switched off");
    }
    eprintln!("  to see what a PCI device needs, name it: vfiomig probe 0000:3b:00.0");
}
