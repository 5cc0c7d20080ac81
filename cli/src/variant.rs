// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which VFIO driver fits a PCI device.
//!
//! Vendors' VFIO drivers register aliases of the form `vfio_pci:v000015B3d0000101E…`, so the
//! running kernel's `modules.alias` is the general answer, even for drivers that have yet to be
//! written. The table helps if the kernel has no such module: it then says what is missing.

use std::fs;

use crate::sysfs::{PciIds, Root, Sriov, SysDevice, names};

/// The driver that takes any PCI device, and migrates none.
pub const GENERIC: &str = "vfio-pci";

/// A vendor's VFIO driver, as this program knows it.
#[derive(Debug)]
pub struct Known {
    /// Module.
    pub module: &'static str,
    /// Driver, as in `/sys/bus/pci/drivers`.
    pub driver: &'static str,
    /// Kernel option.
    pub option: &'static str,
    /// First kernel that has it, as a version.
    pub since: &'static str,
    /// Vendor ID.
    pub vendor: u16,
    /// Device IDs.
    pub devices: &'static [u16],
    /// Whether it implements migration.
    pub migrates: bool,
    /// Only virtual functions: some devices have the same ID for both.
    pub vf_only: bool,
    /// Drivers of the physical function that it works with; empty: not known.
    pub physfn_drivers: &'static [&'static str],
    /// What else must be set up for migration; `{pf}` and `{vf}` are addresses.
    pub hint: &'static str,
}

/// From the device tables of Linux 7.3.
pub const KNOWN: &[Known] = &[
    Known {
        module: "mlx5_vfio_pci",
        driver: "mlx5_vfio_pci",
        option: "CONFIG_MLX5_VFIO_PCI",
        since: "5.18",
        vendor: 0x15b3,
        devices: &[0x101e],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["mlx5_core"],
        hint: "mlx5 offers migration only for a VF whose `migratable` capability was switched on \
               before the VF was bound: put the PF into switchdev mode, see `devlink port show` \
               for the VF's port, then `devlink port function set PORT migratable enable`",
    },
    Known {
        module: "hisi_acc_vfio_pci",
        driver: "hisi_acc_vfio_pci",
        option: "CONFIG_HISI_ACC_VFIO_PCI",
        since: "5.18",
        vendor: 0x19e5,
        devices: &[0xa251, 0xa256, 0xa259],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["hisi_zip", "hisi_sec2", "hisi_hpre"],
        hint: "hisi_acc offers migration only on hardware version 3 (Kunpeng 920 successors) or \
               newer, with the PF driven on this host",
    },
    Known {
        module: "pds_vfio_pci",
        driver: "pds_vfio_pci",
        option: "CONFIG_PDS_VFIO_PCI",
        since: "6.6",
        vendor: 0x1dd8,
        devices: &[0x1003],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["pds_core"],
        hint: "pds offers migration only while the PF is driven by pds_core and its firmware \
               has the live migration service",
    },
    Known {
        module: "qat_vfio_pci",
        driver: "qat_vfio_pci",
        option: "CONFIG_QAT_VFIO_PCI",
        since: "6.10",
        vendor: 0x8086,
        devices: &[0x4941, 0x4943, 0x4945, 0x4947, 0x4949],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["4xxx", "420xx", "6xxx"],
        hint: "qat offers migration only while the PF is driven and up on this host",
    },
    Known {
        module: "virtio_vfio_pci",
        driver: "virtio_vfio_pci",
        option: "CONFIG_VIRTIO_VFIO_PCI",
        since: "6.13 (with migration)",
        vendor: 0x1af4,
        devices: &[0x1041, 0x1042],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["virtio-pci"],
        hint: "virtio offers migration only where the PF has the device parts capability of \
               virtio 1.4 and is driven by virtio-pci",
    },
    Known {
        module: "xe_vfio_pci",
        driver: "xe-vfio-pci",
        option: "CONFIG_XE_VFIO_PCI",
        since: "6.19",
        vendor: 0x8086,
        devices: &[
            0xb080, 0xb081, 0xb082, 0xb083, 0xb084, 0xb085, 0xb086, 0xb087, 0xb08f, 0xb090, 0xb0a0,
            0xb0b0, 0xfd80, 0xfd81, 0xe202, 0xe209, 0xe20b, 0xe20c, 0xe20d, 0xe210, 0xe211, 0xe212,
            0xe216, 0xe220, 0xe221, 0xe222, 0xe223,
        ],
        migrates: true,
        vf_only: true,
        physfn_drivers: &["xe"],
        hint: "xe offers migration only while the PF is driven by xe in SR-IOV mode on this host",
    },
    Known {
        module: "nvgrace_gpu_vfio_pci",
        driver: "nvgrace_gpu_vfio_pci",
        option: "CONFIG_NVGRACE_GPU_VFIO_PCI",
        since: "6.9",
        vendor: 0x10de,
        devices: &[0x2342, 0x2345, 0x2348, 0x2941, 0x31c2],
        migrates: false,
        vf_only: false,
        physfn_drivers: &[],
        hint: "",
    },
];

/// A driver that fits a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Module.
    pub module: String,
    /// The driver; most are called like their module, but not all.
    pub driver: String,
    /// The running kernel has it.
    pub installed: bool,
    /// Whether it implements migration, if this program knows the driver.
    pub migrates: Option<bool>,
}

impl Variant {
    /// What this program knows of it.
    pub fn known(&self) -> Option<&'static Known> {
        known(&self.module)
    }
}

/// What this program knows of a driver or its module.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.module == name || known.driver == name)
}

/// The aliases for VFIO drivers of the running kernel: pattern and module.
#[derive(Clone, Debug, Default)]
pub struct Aliases(Vec<(String, String)>);

impl Aliases {
    /// Reads `modules.alias`, and the aliases of what is built in.
    pub fn read(root: &Root, release: &str) -> Aliases {
        let mut found = Vec::new();
        for base in
            ["/lib/modules", "/usr/lib/modules", "/run/booted-system/kernel-modules/lib/modules"]
        {
            let directory = root.at(base).join(release);
            if let Ok(text) = fs::read(directory.join("modules.alias")) {
                found.extend(parse_aliases(&String::from_utf8_lossy(&text)));
            }
            if let Ok(text) = fs::read(directory.join("modules.builtin.modinfo")) {
                found.extend(parse_modinfo(&String::from_utf8_lossy(&text)));
            }
            if !found.is_empty() {
                break;
            }
        }
        Aliases(found)
    }

    /// Drivers whose alias matches the device, the most specific first.
    fn matching(&self, modalias: &str) -> Vec<&str> {
        let Some(ids) = modalias.strip_prefix("pci:") else { return Vec::new() };
        let wanted = format!("vfio_pci:{ids}");
        let mut found: Vec<(usize, &str)> = self
            .0
            .iter()
            .filter(|(pattern, _)| matches(pattern, &wanted))
            .map(|(pattern, module)| (pattern.matches('*').count(), module.as_str()))
            .collect();
        found.sort_by_key(|(wildcards, _)| *wildcards);
        let mut modules: Vec<&str> = Vec::new();
        for (_, module) in found {
            if !is_generic(module) && !modules.contains(&module) {
                modules.push(module);
            }
        }
        modules
    }
}

fn is_generic(module: &str) -> bool {
    module.replace('_', "-") == GENERIC
}

fn parse_aliases(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("alias ")?.split_once(' '))
        .filter(|(pattern, _)| pattern.starts_with("vfio_pci:"))
        .map(|(pattern, module)| (pattern.to_owned(), normal(module)))
        .collect()
}

/// Entries `MODULE.alias=PATTERN`, each followed by a NUL.
fn parse_modinfo(text: &str) -> Vec<(String, String)> {
    text.split('\0')
        .filter_map(|entry| entry.split_once(".alias="))
        .filter(|(_, pattern)| pattern.starts_with("vfio_pci:"))
        .map(|(module, pattern)| (pattern.to_owned(), normal(module)))
        .collect()
}

/// Modules' names have dashes or underscores; drivers' names have underscores.
fn normal(module: &str) -> String {
    module.trim().replace('-', "_")
}

/// Matches as `fnmatch` does with the wildcards that aliases have: `*`, `?` and `[…]`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: after the last star, one character further in the text.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p + 1, t));
            p += 1;
            continue;
        }
        let rest = pattern.get(p..).unwrap_or_default();
        match text.get(t).and_then(|byte| one(rest, *byte)) {
            Some(used) => {
                p += used;
                t += 1;
            }
            None => match back {
                None => return false,
                Some((star, at)) => {
                    back = Some((star, at + 1));
                    p = star;
                    t = at + 1;
                }
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// How much of the pattern the byte uses up, if it matches.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let end = set.iter().position(|b| *b == b']')?;
            let set = set.get(..end)?;
            let in_range = set.windows(3).any(|part| match part {
                [from, b'-', to] => (from..=to).contains(&&byte),
                _ => false,
            });
            (in_range || set.contains(&byte)).then_some(end + 2)
        }
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

/// The drivers that fit a device, best first; none for a physical function of a device whose
/// drivers are for virtual ones.
pub fn fitting(root: &Root, device: &SysDevice, aliases: &Aliases) -> Vec<Variant> {
    let Some(ids) = &device.pci else { return Vec::new() };
    let is_vf = matches!(device.sriov, Some(Sriov::Vf { .. }));
    let fits = |known: Option<&Known>| known.is_none_or(|known| is_vf || !known.vf_only);
    let mut found: Vec<Variant> = aliases
        .matching(device.modalias.as_deref().unwrap_or_default())
        .into_iter()
        .filter(|module| fits(known(module)))
        .map(|module| Variant {
            module: module.to_owned(),
            driver: driver_of(root, module),
            installed: true,
            migrates: known(module).map(|known| known.migrates),
        })
        .collect();
    for known in by_ids(ids).filter(|known| fits(Some(known))) {
        if found.iter().all(|variant| variant.module != known.module) {
            found.push(Variant {
                module: known.module.to_owned(),
                driver: known.driver.to_owned(),
                installed: false,
                migrates: Some(known.migrates),
            });
        }
    }
    found
}

/// The driver in a module: as the kernel calls it if it is loaded.
fn driver_of(root: &Root, module: &str) -> String {
    let loaded = names(&root.at("/sys/module").join(module).join("drivers"));
    let driver = loaded.iter().find_map(|name| name.strip_prefix("pci:"));
    driver.or(known(module).map(|known| known.driver)).unwrap_or(module).to_owned()
}

fn by_ids(ids: &PciIds) -> impl Iterator<Item = &'static Known> {
    let (vendor, device) = (ids.vendor, ids.device);
    KNOWN.iter().filter(move |known| known.vendor == vendor && known.devices.contains(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MLX5: &str = "pci:v000015B3d0000101Esv000015B3sd00000023bc02sc00i00";

    fn aliases(text: &str) -> Aliases {
        Aliases(parse_aliases(text))
    }

    #[test]
    fn the_most_specific_alias_wins_and_the_generic_driver_is_none() {
        let aliases = aliases(
            "# Aliases extracted from modules themselves.\n\
             alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n\
             alias vfio_pci:v000015B3d*sv*sd*bc*sc*i* all_mlx\n\
             alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5-vfio-pci\n\
             alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core\n\
             alias vfio_pci:v00008086d00004941sv*sd*bc*sc*i* qat_vfio_pci\n",
        );
        assert_eq!(aliases.matching(MLX5), ["mlx5_vfio_pci", "all_mlx"]);
        assert!(aliases.matching("pci:v000010DEd00000001sv0sd0bc03sc00i00").is_empty());
        assert!(aliases.matching("platform:foo").is_empty());
    }

    #[test]
    fn what_is_built_in_is_found_too() {
        let found = parse_modinfo(
            "vfio.license=GPL v2\0mlx5_vfio_pci.alias=vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*\0\
             mlx5_core.alias=pci:v000015B3d0000101Esv*sd*bc*sc*i*\0",
        );
        assert_eq!(Aliases(found).matching(MLX5), ["mlx5_vfio_pci"]);
    }

    #[test]
    fn patterns_match_as_the_shell_does() {
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*", "", true),
            ("a*b*c", "axbxbxc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[bc]d", "acd", true),
            ("a[0-9]d", "a5d", true),
            ("a[0-9]d", "axd", false),
            ("a[0-9", "a5", false),
            ("", "", true),
            ("", "a", false),
            ("abc", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_driver_is_in_the_table_once_and_says_where_it_comes_from() {
        for (at, known) in KNOWN.iter().enumerate() {
            assert!(KNOWN[at + 1..].iter().all(|other| other.module != known.module));
            assert!(known.option.starts_with("CONFIG_") && known.option.ends_with("_VFIO_PCI"));
            assert_eq!(known.option["CONFIG_".len()..].to_lowercase(), known.module);
            assert!(known.hint.is_empty() != known.migrates);
        }
    }
}
