// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a probe found, as text for people and as JSON for programs (docs/probe.md).

use std::fmt::Write as _;

use serde_json::{Value, json};
use vfiomig::device::Caps;

use crate::examine::{Answers, Report};
use crate::finding::{Finding, Severity};
use crate::identity::identity_json;
use crate::kconfig::Kernel;
use crate::sysfs::{PciIds, Root, Sriov, SysDevice};
use crate::text::{INDENT, Plain, Style, bytes, line, wrap};

/// One device as a JSON object. Members are only ever added, never renamed, and never change their
/// meaning.
pub fn to_json(root: &Root, kernel: &Kernel, report: &Report) -> Value {
    let device = report.target.device.as_ref();
    let answers = report.answers.as_ref();
    json!({
        "schema": 1,
        "device": report.target.given,
        "name": device.map(|device| &device.name),
        "migratable": report.migratable(),
        "state": answers.and_then(|a| a.state).map(|state| state.to_string()),
        "capabilities": answers.map(|a| caps_json(&a.caps)),
        "identity": answers.map(|a| identity_json(&a.identity)),
        "access": answers.map(|a| json!({
            "by": a.way.as_str(),
            "node": a.way.node().to_string_lossy(),
        })),
        "sysfs": device.map(|device| root.name_of(&device.path).to_string_lossy().into_owned()),
        "bus": device.map(|device| &device.bus),
        "driver": device.and_then(|device| device.driver.as_ref()),
        "driver_override": device.and_then(|device| device.driver_override.as_ref()),
        "vfio": device.is_some_and(SysDevice::is_vfio),
        "cdev": device.and_then(|device| device.vfio_dev.as_ref()).filter(|dev| dev.has_cdev)
            .map(|dev| dev.node().to_string_lossy().into_owned()),
        "pci": device.and_then(|device| device.pci.as_ref()).map(pci_json),
        "sriov": device.and_then(|device| device.sriov.as_ref()).map(sriov_json),
        "mdev": device.and_then(|device| device.mdev.as_ref()).map(|mdev| json!({
            "type": mdev.kind,
            "parent": mdev.parent,
        })),
        "iommu_group": device.and_then(|device| device.group.as_ref()).map(|group| json!({
            "id": group.id,
            "noiommu": group.noiommu,
            "others": group.others.iter().map(|member| json!({
                "name": member.name,
                "driver": member.driver,
                "blocks": member.blocks,
            })).collect::<Vec<_>>(),
        })),
        "variant_drivers": report.variants.iter().map(|variant| json!({
            "module": variant.module,
            "driver": variant.driver,
            "installed": variant.installed,
            "migrates": variant.migrates,
        })).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "kernel": {
            "release": kernel.release,
            "config": kernel.config.as_ref().map(|file| file.to_string_lossy()),
            "options": kernel.options.iter()
                .map(|(option, setting)| ((*option).to_owned(), json!(setting.as_str())))
                .collect::<serde_json::Map<_, _>>(),
        },
    })
}

fn caps_json(caps: &Caps) -> Value {
    json!({
        "migration_flags": caps.migration_flags.bits(),
        "stop_copy": caps.can_migrate(),
        "pre_copy": caps.has_pre_copy(),
        "p2p": caps.has_p2p(),
        "state_size": caps.state_size,
        "dma_logging": caps.dma_logging,
        "precopy_info_v2": caps.precopy_info_v2,
    })
}

fn pci_json(ids: &PciIds) -> Value {
    json!({
        "vendor": format!("{:04x}", ids.vendor),
        "device": format!("{:04x}", ids.device),
        "subsystem_vendor": format!("{:04x}", ids.subsystem_vendor),
        "subsystem_device": format!("{:04x}", ids.subsystem_device),
        "revision": format!("{:02x}", ids.revision),
        "class": format!("{:06x}", ids.class),
    })
}

fn sriov_json(sriov: &Sriov) -> Value {
    match sriov {
        Sriov::Vf { physfn, physfn_driver } => json!({
            "role": "vf",
            "physfn": physfn,
            "physfn_driver": physfn_driver,
        }),
        Sriov::Pf { total, enabled } => json!({
            "role": "pf",
            "total_vfs": total,
            "num_vfs": enabled,
        }),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "code": finding.code,
        "severity": finding.severity.as_str(),
        "source": if finding.from_device { "device" } else { "setup" },
        "text": finding.text,
        "todo": finding.todo,
        "commands": finding.commands,
    })
}

/// The kernel, in one line.
pub fn kernel_line(kernel: &Kernel) -> String {
    let mut line = format!("kernel {}", Plain(&kernel.release));
    let Some(config) = &kernel.config else {
        line.push_str(" (its configuration cannot be read)\n");
        return line;
    };
    let _ = write!(line, " ({}):", config.display());
    for option in ["CONFIG_VFIO", "CONFIG_VFIO_GROUP", "CONFIG_VFIO_DEVICE_CDEV", "CONFIG_IOMMUFD"]
    {
        let setting = kernel.option(option).map_or("?", |setting| setting.as_str());
        let _ = write!(line, " {}={setting}", option.trim_start_matches("CONFIG_"));
    }
    line.push('\n');
    line
}

/// One device, for people to read.
pub fn to_text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let title = Plain(&report.target.given).to_string();
    let (verdict, colour) = verdict(report);
    let _ = writeln!(out, "{}: {}", style.bold(&title), style.paint(colour, verdict));
    if let Some(device) = &report.target.device {
        line(&mut out, "device", &about_device(device, &report.target.given));
        if let Some(pci) = &device.pci {
            line(&mut out, "PCI", &about_pci(pci));
        }
        line(&mut out, "driver", &about_driver(device));
    }
    if let Some(answers) = &report.answers {
        about_answers(&mut out, answers);
    }
    for finding in &report.findings {
        let colour = match finding.severity {
            Severity::Blocks => "31",
            Severity::Hides | Severity::Limits => "33",
            Severity::Info => "2",
        };
        let label = finding.severity.as_str();
        let text = format!("{} [{}]", Plain(&finding.text), finding.code);
        let _ = write!(out, "  {}", style.paint(colour, label));
        wrap(&mut out, &text, 2 + label.len());
        if let Some(todo) = &finding.todo {
            line(&mut out, "", &format!("→ {todo}"));
        }
        for command in &finding.commands {
            // Never wrapped, so that it can be copied.
            let _ = writeln!(out, "{:INDENT$}  # {}", "", Plain(command));
        }
    }
    out
}

fn verdict(report: &Report) -> (&'static str, &'static str) {
    let limited = report.findings.iter().any(|finding| finding.severity == Severity::Limits);
    match report.migratable() {
        Some(true) if limited => ("can migrate, with limits", "32"),
        Some(true) => ("can migrate", "32"),
        Some(false) => ("cannot migrate", "31"),
        None => ("not known: it could not be asked", "33"),
    }
}

fn about_device(device: &SysDevice, given: &str) -> String {
    let mut text = device.bus.clone();
    if device.name != given {
        let _ = write!(text, " {}", device.name);
    }
    if let Some(mdev) = &device.mdev {
        let kind = mdev.kind.as_deref().unwrap_or("of unknown type");
        let _ = write!(text, " {kind}");
        if let Some(parent) = &mdev.parent {
            let _ = write!(text, " of {parent}");
        }
    }
    match &device.sriov {
        Some(Sriov::Vf { physfn, physfn_driver }) => {
            let driver = physfn_driver.as_deref().unwrap_or("no driver");
            let _ = write!(text, ", virtual function of {physfn} ({driver})");
        }
        Some(Sriov::Pf { total, enabled }) => {
            let _ = write!(text, ", physical function, {enabled} of {total} virtual ones enabled");
        }
        None => {}
    }
    if let Some(group) = &device.group {
        let _ = write!(text, ", IOMMU group {}", group.id);
    }
    text
}

fn about_pci(ids: &PciIds) -> String {
    format!(
        "{:04x}:{:04x}, subsystem {:04x}:{:04x}, revision {:02x}, class {:06x}",
        ids.vendor, ids.device, ids.subsystem_vendor, ids.subsystem_device, ids.revision, ids.class
    )
}

fn about_driver(device: &SysDevice) -> String {
    let mut text = device.driver.clone().unwrap_or_else(|| "none".into());
    if let Some(wanted) =
        device.driver_override.as_ref().filter(|d| device.driver != Some((*d).clone()))
    {
        let _ = write!(text, " (driver_override says {wanted})");
    }
    text
}

fn about_answers(out: &mut String, answers: &Answers) {
    line(out, "opened by", &format!("{} {}", answers.way.as_str(), answers.way.node().display()));
    if let Some(state) = answers.state {
        line(out, "state", &state.to_string());
    }
    let caps = &answers.caps;
    if caps.migration_flags.is_empty() {
        return;
    }
    let all = [
        (caps.can_migrate(), "stop-copy"),
        (caps.has_pre_copy(), "pre-copy"),
        (caps.has_p2p(), "peer-to-peer"),
        (caps.dma_logging, "DMA logging"),
        (caps.precopy_info_v2, "pre-copy info v2"),
    ];
    let can: Vec<&str> = all.iter().filter(|(can, _)| *can).map(|(_, what)| *what).collect();
    line(out, "can", &format!("{} (flags {:#x})", can.join(", "), caps.migration_flags.bits()));
    if let Some(size) = caps.state_size {
        line(out, "state size", &format!("about {}", bytes(size)));
    }
}
