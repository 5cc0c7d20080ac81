// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig probe`: what devices can do, and why they cannot migrate, or not well.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;

use crate::context::Context;
use crate::examine::{Report, examine};
use crate::exit::{Result, Status, Trouble};
use crate::kconfig::Kernel;
use crate::new_file::NewFile;
use crate::output;
use crate::sysfs::{Root, Target, candidates, find, names};

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
                     /dev/vfio/devices, directory in /sys, or vfio-user:PATH with the socket of a \
                     server; without one as --all",
        ))
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with("device")
                .help("Probe every device that has to do with VFIO, SR-IOV or mediated devices"),
        )
        .arg(crate::json::arg())
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .requires("device")
                .help("Write what the one DEVICE is into a file, for another host to judge"),
        )
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let kernel = Kernel::read(&context.root);
    let mut status = Status::Yes;
    let targets = match args.get_many::<String>("device") {
        None => candidates(&context.root),
        Some(given) => {
            let mut targets: Vec<Target> = Vec::new();
            for name in given {
                match find(&context.root, name) {
                    Ok(target) => targets.push(target),
                    Err(error) => {
                        status = Status::Usage;
                        context.complain(&error.0);
                    }
                }
            }
            targets
        }
    };
    let json = args.get_flag("json");
    let identity = args.get_one::<PathBuf>("identity");
    if identity.is_some() && targets.len() > 1 {
        return Err(Trouble::new(Status::Usage, "--identity is for one device"));
    }
    if targets.is_empty() && status == Status::Yes {
        status = Status::Usage;
        nothing_there(context, &kernel);
    }
    if !json && !targets.is_empty() {
        context.say(&output::kernel_line(&kernel))?;
    }
    let mut objects = Vec::new();
    for target in targets {
        let report = examine(&context.root, context.open, &kernel, target);
        status = status.max(status_of(&report));
        if let Some(file) = identity {
            status = status.max(write_identity(context, &report, file)?);
        }
        if json {
            objects.push(output::to_json(&context.root, &kernel, &report));
        } else {
            context.say(&format!("\n{}", output::to_text(&report, context.style)))?;
        }
    }
    if json {
        context.json(&Value::Array(objects))?;
    }
    Ok(status)
}

/// Writes what the device is.
fn write_identity(context: &mut Context<'_>, report: &Report, file: &Path) -> Result<Status> {
    let Some(answers) = &report.answers else {
        let text = format!("{}: not written: the device could not be asked", file.display());
        context.complain(&text);
        return Ok(Status::No);
    };
    let bytes = answers
        .identity
        .to_bytes()
        .map_err(|error| Trouble::of_device(&report.target.given, &error))?;
    let mut new = NewFile::create(file)?;
    new.write(&bytes)?;
    new.finish()?;
    Ok(Status::Yes)
}

fn status_of(report: &Report) -> Status {
    if report.migratable() == Some(true) { Status::Yes } else { Status::No }
}

/// Says why there is nothing to probe, on standard error because standard output may be JSON.
fn nothing_there(context: &mut Context<'_>, kernel: &Kernel) {
    context
        .complain("there is no device here that has to do with VFIO, SR-IOV or mediated devices");
    let mut text = format!("  {}", output::kernel_line(kernel));
    text.push_str(&about_nothing(&context.root, kernel));
    text.push_str("  to see what a PCI device needs, name it: vfiomig probe 0000:3b:00.0\n");
    let _ = context.err.write_all(text.as_bytes());
}

fn about_nothing(root: &Root, kernel: &Kernel) -> String {
    let mut text = String::new();
    if kernel.lacks("CONFIG_VFIO") {
        text.push_str("  the kernel was built without VFIO: no device can be passed to a guest\n");
    } else if !root.at("/dev/vfio").exists() && !root.at("/sys/class/vfio").exists() {
        text.push_str("  VFIO is not loaded: modprobe vfio-pci\n");
    }
    if names(&root.at("/sys/kernel/iommu_groups")).is_empty() {
        text.push_str("  there are no IOMMU groups: no IOMMU, or it is switched off\n");
    }
    text
}
