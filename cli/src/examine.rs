// SPDX-License-Identifier: MIT OR Apache-2.0
//! Examines one device: collects facts from sysfs and the answers of the opened device, and draws
//! the findings from them.

use vfiomig::device::{Caps, DeviceOptions, Identity, State};

use crate::context::Open;
use crate::device::ways;
use crate::finding::{Code, Finding, Severity};
use crate::kconfig::Kernel;
use crate::open::{IOMMUFD, Opened, Way};
use crate::refusal::{about_answer, about_open};
use crate::sysfs::{IommuGroup, Root, Sriov, SysDevice, Target, names};
use crate::variant::{self, GENERIC, Variant};

/// What the device answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers {
    /// How it was opened.
    pub way: Way,
    /// What it can do.
    pub caps: Caps,
    /// What it is.
    pub identity: Identity,
    /// The state it is in.
    pub state: Option<State>,
}

/// Everything that was found out about a device.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which device.
    pub target: Target,
    /// VFIO drivers that fit, best first.
    pub variants: Vec<Variant>,
    /// What it answered, if it could be opened.
    pub answers: Option<Answers>,
    /// Findings, worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether the device can be migrated; `None` if it could not be asked.
    pub fn migratable(&self) -> Option<bool> {
        if self.findings.iter().any(|finding| finding.severity == Severity::Blocks) {
            return Some(false);
        }
        self.answers.as_ref().map(|answers| answers.caps.can_migrate())
    }
}

/// Examines a device.
pub fn examine(root: &Root, open: Open<'_>, kernel: &Kernel, target: Target) -> Report {
    let mut findings = Vec::new();
    let mut variants = Vec::new();
    if let Some(device) = &target.device {
        variants = variant::fitting(root, device, &kernel.aliases);
        about_setup(root, kernel, device, &variants, &mut findings);
    }
    let mut answers = None;
    let mut failures = Vec::new();
    for way in ways(&target) {
        match open(root, &way) {
            Ok(opened) => {
                match ask(opened, way.clone(), target.device.as_ref()) {
                    Ok((told, reasons)) => {
                        answers = Some(told);
                        findings.extend(reasons);
                    }
                    Err(error) => failures.push(about_answer(&way, &error)),
                }
                break;
            }
            Err(error) => failures.push(about_open(root, &way, &error, target.device.as_ref())),
        }
    }
    if answers.is_some() {
        failures = failures.into_iter().map(Finding::demoted).collect();
    }
    // Both ways often fail for the same reason.
    failures.dedup();
    findings.extend(failures);
    if let Some(device) = &target.device {
        let can_migrate = answers.as_ref().is_some_and(|answers| answers.caps.can_migrate());
        if !can_migrate {
            about_variants(kernel, device, &variants, answers.is_some(), &mut findings);
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    Report { target, variants, answers, findings }
}

fn ask(
    opened: Opened,
    way: Way,
    device: Option<&SysDevice>,
) -> Result<(Answers, Vec<Finding>), vfiomig::Error> {
    // The group and the container, or the iommufd, must outlive the device.
    let Opened { device: make, keep: _keep } = opened;
    let sysfs = device.map(|device| device.path.clone());
    let options = DeviceOptions { sysfs, ..DeviceOptions::default() };
    let probed = make(options)?;
    let caps = probed.caps()?;
    let state = if caps.migration_flags.is_empty() { None } else { probed.state().ok() };
    let answers = Answers { way, caps, identity: probed.identity()?, state };
    Ok((answers, probed.reasons()?.into_iter().map(Finding::from).collect()))
}

/// What sysfs and the kernel's configuration say without opening anything.
fn about_setup(
    root: &Root,
    kernel: &Kernel,
    device: &SysDevice,
    variants: &[Variant],
    findings: &mut Vec<Finding>,
) {
    let name = &device.name;
    if !device.mdev_types.is_empty() && !device.is_vfio() {
        let types: Vec<String> = device
            .mdev_types
            .iter()
            .map(|(kind, left)| match left {
                Some(left) => format!("{kind} ({left} left)"),
                None => kind.clone(),
            })
            .collect();
        let kind = device.mdev_types.first().map(|(kind, _)| kind.as_str()).unwrap_or_default();
        findings.push(
            Finding::new(
                Code::MdevParent,
                format!(
                    "this device is the parent of mediated devices; it can make {}",
                    types.join(", ")
                ),
            )
            .todo("make one and probe its UUID")
            .commands(vec![format!(
                "uuidgen > /sys/class/mdev_bus/{name}/mdev_supported_types/{kind}/create"
            )]),
        );
    } else if !device.is_vfio() {
        about_driver(device, variants, findings);
    }
    if let Some(Sriov::Pf { total, enabled }) = device.sriov {
        let mut finding = Finding::new(
            Code::PhysicalFunction,
            format!(
                "a physical function with {enabled} of {total} virtual functions enabled; \
                 drivers migrate virtual functions only"
            ),
        );
        if enabled == 0 {
            finding = finding
                .todo("enable virtual functions and probe one")
                .commands(vec![format!("echo 1 > /sys/bus/pci/devices/{name}/sriov_numvfs")]);
        }
        findings.push(finding);
    }
    about_iommu(root, device, findings);
    about_kernel(root, kernel, device, findings);
}

fn about_driver(device: &SysDevice, variants: &[Variant], findings: &mut Vec<Finding>) {
    let finding = match &device.driver {
        None => Finding::new(Code::NoDriver, "no driver is bound to the device"),
        Some(driver) => {
            let text =
                format!("the host's driver {driver} is bound to the device, not a VFIO driver");
            Finding::new(Code::HostDriver, text)
        }
    };
    let is_pf = matches!(device.sriov, Some(Sriov::Pf { .. }));
    findings.push(match bind_recipe(device, variants) {
        // Unbinding a physical function takes its virtual functions away.
        Some((driver, commands)) if !is_pf => {
            let end = "; the host can then no longer use the device";
            let end = if device.driver.is_some() { end } else { "" };
            finding.todo(format!("bind {driver}{end}")).commands(commands)
        }
        _ => finding,
    });
}

/// How to bind the VFIO driver that fits best.
fn bind_recipe(device: &SysDevice, variants: &[Variant]) -> Option<(String, Vec<String>)> {
    let best = variants.iter().find(|v| v.installed && v.migrates != Some(false));
    let (module, driver) = match (device.bus.as_str(), best) {
        ("pci", Some(variant)) => (variant.module.as_str(), variant.driver.as_str()),
        ("pci", None) => (GENERIC, GENERIC),
        ("platform", _) => ("vfio-platform", "vfio-platform"),
        _ => return None,
    };
    let (bus, name) = (format!("/sys/bus/{}", device.bus), &device.name);
    let mut commands = vec![
        format!("modprobe {module}"),
        format!("echo {driver} > {bus}/devices/{name}/driver_override"),
    ];
    if device.driver.is_some() {
        commands.push(format!("echo {name} > {bus}/devices/{name}/driver/unbind"));
    }
    commands.push(format!("echo {name} > {bus}/drivers_probe"));
    Some((driver.to_owned(), commands))
}

fn about_iommu(root: &Root, device: &SysDevice, findings: &mut Vec<Finding>) {
    match &device.group {
        None if device.bus != "pci" || !device.mdev_types.is_empty() => {}
        None if names(&root.at("/sys/kernel/iommu_groups")).is_empty() => findings.push(
            Finding::new(Code::NoIommu, "this machine has no IOMMU, or it is switched off").todo(
                "switch VT-d, AMD-Vi or the SMMU on in the firmware, and the kernel's part of it \
                 on the kernel's command line (intel_iommu=on)",
            ),
        ),
        None => findings.push(
            Finding::new(Code::NoIommuGroup, "the IOMMU does not cover this device: it is not in a group")
                .todo("look for a firmware setting or an update; the kernel's log has DMAR or AMD-Vi lines"),
        ),
        Some(group) => about_group(device, group, findings),
    }
}

fn about_group(device: &SysDevice, group: &IommuGroup, findings: &mut Vec<Finding>) {
    if group.noiommu {
        findings.push(Finding::new(
            Code::NoiommuMode,
            format!(
                "group {} has no IOMMU: the device can reach all of the host's memory, \
                 and pages that it writes are not tracked",
                group.id
            ),
        ));
    }
    let called = |blocks: bool| -> Vec<String> {
        let members = group.others.iter().filter(|member| member.blocks == blocks);
        members
            .map(|member| match &member.driver {
                Some(driver) => format!("{} ({driver})", member.name),
                None => member.name.clone(),
            })
            .collect()
    };
    let (blocking, sharing) = (called(true), called(false));
    if !blocking.is_empty() {
        let commands = group
            .others
            .iter()
            .filter(|member| member.blocks)
            .map(|member| {
                let (bus, name) = (&device.bus, &member.name);
                format!("echo {name} > /sys/bus/{bus}/devices/{name}/driver/unbind")
            })
            .collect();
        let text = format!(
            "the host uses other devices of IOMMU group {}: {}",
            group.id,
            blocking.join(", ")
        );
        findings.push(
            Finding::new(Code::GroupBlocked, text)
                .todo("unbind them from the host, or move the device to another slot")
                .commands(commands),
        );
    }
    if !sharing.is_empty() {
        let text =
            format!("IOMMU group {} also has {}: one VM gets all", group.id, sharing.join(", "));
        findings.push(Finding::new(Code::GroupShared, text));
    }
}

fn about_kernel(root: &Root, kernel: &Kernel, device: &SysDevice, findings: &mut Vec<Finding>) {
    let from = kernel.config.as_deref().map(|file| format!(" ({})", file.display()));
    let from = from.unwrap_or_default();
    if !device.is_vfio() {
        if kernel.lacks("CONFIG_VFIO") {
            findings.push(
                Finding::new(
                    Code::NoVfio,
                    format!("kernel {} was built without CONFIG_VFIO{from}", kernel.release),
                )
                .todo("use a kernel with CONFIG_VFIO"),
            );
        }
        return;
    }
    if !device.vfio_dev.as_ref().is_some_and(|vfio_dev| vfio_dev.has_cdev) {
        let why = match kernel.lacks("CONFIG_VFIO_DEVICE_CDEV") {
            true => format!("built without CONFIG_VFIO_DEVICE_CDEV{from}"),
            false => "CONFIG_VFIO_DEVICE_CDEV, since Linux 6.6".to_owned(),
        };
        findings.push(Finding::new(
            Code::NoCdev,
            format!("the device has no node of its own in /dev/vfio/devices ({why}): a VMM uses its group"),
        ));
    }
    if !root.at(IOMMUFD).exists() {
        let finding = Finding::new(
            Code::NoIommufd,
            format!(
                "no {IOMMUFD}: no iommufd, so the IOMMU cannot track the pages that devices write"
            ),
        );
        findings.push(match kernel.option("CONFIG_IOMMUFD") {
            Some(crate::kconfig::Setting::No) => finding.todo(format!(
                "use a kernel with CONFIG_IOMMUFD; this one was built without{from}"
            )),
            _ => finding
                .todo("load it, if the kernel has it (CONFIG_IOMMUFD, since Linux 6.2)")
                .commands(vec!["modprobe iommufd".into()]),
        });
    }
}

/// Which driver would do, for a device that cannot migrate as it is.
fn about_variants(
    kernel: &Kernel,
    device: &SysDevice,
    variants: &[Variant],
    asked: bool,
    findings: &mut Vec<Finding>,
) {
    if device.pci.is_none() {
        return;
    }
    let bound = device.driver.as_deref().unwrap_or_default();
    let generic = bound.is_empty() || bound == GENERIC || !device.is_vfio();
    let mut physfn_of = variant::known(bound);
    if generic {
        let useful: Vec<&Variant> = variants.iter().filter(|v| v.migrates != Some(false)).collect();
        match useful.first() {
            Some(variant) => {
                findings.push(about_variant(kernel, device, variant, variants));
                physfn_of = variant.known();
            }
            None if !matches!(device.sriov, Some(Sriov::Pf { .. })) => findings.push(Finding::new(
                Code::NoVariant,
                match variants.first() {
                    Some(variant) => format!(
                        "{} fits the device, but does not implement migration",
                        variant.module
                    ),
                    None => "no vendor's VFIO driver is known for this device, and vfio-pci does \
                             not migrate"
                        .to_owned(),
                },
            )),
            None => {}
        }
    } else if let Some(known) = physfn_of.filter(|known| asked && known.migrates) {
        findings.push(
            Finding::new(Code::VariantSetup, format!("{bound} is bound, but offers no migration"))
                .todo(known.hint),
        );
    }
    let Some(Sriov::Vf { physfn, physfn_driver }) = &device.sriov else { return };
    let Some(known) = physfn_of.filter(|known| known.migrates) else { return };
    let driven = physfn_driver.as_deref();
    if !known.physfn_drivers.iter().any(|driver| driven == Some(*driver)) {
        let wanted = known.physfn_drivers.join(" or ");
        let has = driven.map_or("by no driver".to_owned(), |driver| format!("by {driver}"));
        findings.push(Finding::new(
            Code::PhysfnDriver,
            format!(
                "the physical function {physfn} is driven {has}; {} needs {wanted} there",
                known.module
            ),
        ));
    }
}

fn about_variant(
    kernel: &Kernel,
    device: &SysDevice,
    variant: &Variant,
    variants: &[Variant],
) -> Finding {
    let module = &variant.module;
    let hint = variant.known().map(|known| known.hint).filter(|hint| !hint.is_empty());
    if !variant.installed {
        let Some(known) = variant.known() else {
            return Finding::new(Code::VariantMissing, format!("{module} fits the device"));
        };
        let why = match kernel.option(known.option) {
            Some(crate::kconfig::Setting::No) => format!("it was built without {}", known.option),
            Some(_) => {
                format!("{} is set, so a package with more modules may be missing", known.option)
            }
            None => format!("it needs {}, Linux {} or newer", known.option, known.since),
        };
        return Finding::new(
            Code::VariantMissing,
            format!(
                "{module} fits the device, but kernel {} does not have it: {why}",
                kernel.release
            ),
        )
        .todo(format!("use a kernel with {} (Linux {})", known.option, known.since));
    }
    let mut finding = Finding::new(
        Code::VariantAvailable,
        format!(
            "{module} fits the device and is installed{}",
            match variant.migrates {
                Some(_) => "",
                None => "; binding it shows whether it can migrate",
            }
        ),
    );
    if let Some(hint) = hint {
        finding = finding.todo(hint);
    }
    // If no VFIO driver is bound, that finding has the recipe.
    match bind_recipe(device, variants) {
        Some((_, commands)) if device.is_vfio() => finding.commands(commands),
        _ => finding,
    }
}

#[cfg(test)]
mod tests;
