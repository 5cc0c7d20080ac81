// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees as sysfs would show them, and what is found in them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::open::{OpenError, Step};
use crate::sysfs::find;

struct Tree {
    dir: tempfile::TempDir,
    root: Root,
}

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let tree = Tree { dir, root };
        tree.write("/proc/sys/kernel/osrelease", "6.12.0\n");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A link; sysfs has relative ones, which stay inside the tree as these do.
    fn link(&self, path: &str, to: &str) {
        let (path, to) = (self.root.at(path), self.root.at(to));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(&to).unwrap();
        let _ = fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    /// A PCI function; its directory.
    fn pci(&self, address: &str, vendor: u16, device: u16) -> String {
        let path = format!("/sys/devices/pci0000:00/{address}");
        self.write(&format!("{path}/vendor"), &format!("{vendor:#06x}\n"));
        self.write(&format!("{path}/device"), &format!("{device:#06x}\n"));
        self.write(
            &format!("{path}/modalias"),
            &format!("pci:v{vendor:08X}d{device:08X}sv00000000sd00000000bc02sc00i00\n"),
        );
        self.link(&format!("{path}/subsystem"), "/sys/bus/pci");
        self.link(&format!("/sys/bus/pci/devices/{address}"), &path);
        path
    }

    fn driver(&self, device: &str, driver: &str) {
        self.link(&format!("{device}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
    }

    fn group(&self, device: &str, id: u32) {
        let group = format!("/sys/kernel/iommu_groups/{id}");
        self.link(&format!("{device}/iommu_group"), &group);
        let name = device.rsplit('/').next().unwrap();
        self.link(&format!("{group}/devices/{name}"), device);
    }

    /// What a VFIO driver adds; with or without a node of its own.
    fn vfio(&self, device: &str, cdev: bool) {
        let path = format!("{device}/vfio-dev/vfio0");
        fs::create_dir_all(self.root.at(&path)).unwrap();
        if cdev {
            self.write(&format!("{path}/dev"), "252:0\n");
        }
        self.link(&format!("{path}/device"), device);
        self.link(&format!("{path}/subsystem"), "/sys/class/vfio-dev");
        self.link("/sys/class/vfio-dev/vfio0", &path);
    }

    fn sriov_vf(&self, vf: &str, pf: &str) {
        self.link(&format!("{vf}/physfn"), pf);
    }

    fn aliases(&self, text: &str) {
        self.write("/lib/modules/6.12.0/modules.alias", text);
    }

    fn examine(&self, given: &str) -> Report {
        let target = find(&self.root, given).unwrap();
        examine(&self.root, &crate::open::open, &Kernel::read(&self.root), target)
    }
}

fn codes(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

fn finding(report: &Report, code: Code) -> &Finding {
    let found = report.findings.iter().find(|finding| finding.code == code.word());
    found.unwrap_or_else(|| panic!("no {} in {:?}", code.word(), codes(report)))
}

const VF: &str = "0000:3b:00.2";
const MLX5: &str = "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n\
                    alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci\n";

/// A mlx5 VF in group 12 whose PF the host drives.
fn mlx5_vf(tree: &Tree) -> String {
    let pf = tree.pci("0000:3b:00.0", 0x15b3, 0x101d);
    tree.driver(&pf, "mlx5_core");
    tree.write(&format!("{pf}/sriov_totalvfs"), "8\n");
    tree.write(&format!("{pf}/sriov_numvfs"), "1\n");
    let vf = tree.pci(VF, 0x15b3, 0x101e);
    tree.sriov_vf(&vf, &pf);
    tree.group(&vf, 12);
    vf
}

#[test]
fn a_vf_without_driver_gets_the_recipe_of_its_variant_driver() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    tree.aliases(MLX5);
    let report = tree.examine("3b:00.2");
    assert_eq!(codes(&report), ["no-driver", "variant-available"]);
    assert_eq!(report.migratable(), Some(false));
    assert_eq!(
        finding(&report, Code::NoDriver).commands,
        [
            "modprobe mlx5_vfio_pci",
            "echo mlx5_vfio_pci > /sys/bus/pci/devices/0000:3b:00.2/driver_override",
            "echo 0000:3b:00.2 > /sys/bus/pci/drivers_probe",
        ]
    );
    let hint = finding(&report, Code::VariantAvailable).todo.as_deref().unwrap();
    assert!(hint.contains("migratable enable"), "{hint}");
}

#[test]
fn a_vf_of_the_host_is_unbound_first_and_the_missing_module_is_named() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "mlx5_core");
    tree.write("/boot/config-6.12.0", "CONFIG_VFIO=m\n# CONFIG_MLX5_VFIO_PCI is not set\n");
    let report = tree.examine(VF);
    assert_eq!(codes(&report), ["host-driver", "variant-missing"]);
    let commands = &finding(&report, Code::HostDriver).commands;
    assert_eq!(commands[1], format!("echo vfio-pci > /sys/bus/pci/devices/{VF}/driver_override"));
    assert_eq!(commands[2], format!("echo {VF} > /sys/bus/pci/devices/{VF}/driver/unbind"));
    let text = &finding(&report, Code::VariantMissing).text;
    assert!(text.contains("without CONFIG_MLX5_VFIO_PCI"), "{text}");
    assert!(!report.variants[0].installed);
}

#[test]
fn the_driver_of_a_loaded_module_is_called_as_the_kernel_says() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    tree.aliases("alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* acme_vfio_pci\n");
    tree.link("/sys/module/acme_vfio_pci/drivers/pci:acme-vfio", "/sys/bus/pci/drivers/acme-vfio");
    let report = tree.examine(VF);
    let commands = &finding(&report, Code::NoDriver).commands;
    assert_eq!(commands[0], "modprobe acme_vfio_pci");
    assert!(commands[1].starts_with("echo acme-vfio > "), "{commands:?}");
    let text = &finding(&report, Code::VariantAvailable).text;
    assert!(text.contains("binding it shows whether it can migrate"), "{text}");
}

#[test]
fn a_physfn_of_another_driver_is_noticed() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    tree.driver("/sys/devices/pci0000:00/0000:3b:00.0", "vfio-pci");
    tree.aliases(MLX5);
    let text = finding(&tree.examine(VF), Code::PhysfnDriver).text.clone();
    assert!(text.contains("driven by vfio-pci; mlx5_vfio_pci needs mlx5_core"), "{text}");
}

#[test]
fn a_physical_function_is_told_to_make_virtual_ones_and_is_not_unbound() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    tree.aliases(MLX5);
    tree.write("/sys/devices/pci0000:00/0000:3b:00.0/sriov_numvfs", "0\n");
    tree.group("/sys/devices/pci0000:00/0000:3b:00.0", 11);
    let report = tree.examine("3b:00.0");
    assert_eq!(codes(&report), ["host-driver", "physical-function"]);
    assert!(finding(&report, Code::HostDriver).commands.is_empty());
    let commands = &finding(&report, Code::PhysicalFunction).commands;
    assert_eq!(commands, &["echo 1 > /sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs"]);
}

#[test]
fn a_device_that_no_variant_driver_knows_cannot_be_helped() {
    let tree = Tree::new();
    let nic = tree.pci("0000:01:00.0", 0x8086, 0x1533);
    tree.group(&nic, 1);
    tree.aliases(MLX5);
    let report = tree.examine("01:00.0");
    assert!(codes(&report).contains(&"no-variant"));
    assert!(report.variants.is_empty());

    // One that is known, and known not to migrate.
    let gpu = tree.pci("0009:01:00.0", 0x10de, 0x2342);
    tree.group(&gpu, 2);
    let report = tree.examine("0009:01:00.0");
    let text = &finding(&report, Code::NoVariant).text;
    assert!(text.contains("nvgrace_gpu_vfio_pci"), "{text}");
}

#[test]
fn a_missing_iommu_is_told_from_a_device_it_does_not_cover() {
    let tree = Tree::new();
    tree.pci("0000:01:00.0", 0x8086, 0x1533);
    finding(&tree.examine("01:00.0"), Code::NoIommu);
    let other = tree.pci("0000:02:00.0", 0x8086, 0x1533);
    tree.group(&other, 1);
    finding(&tree.examine("01:00.0"), Code::NoIommuGroup);
}

#[test]
fn a_group_says_who_blocks_it_and_who_shares_it() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    for (address, driver) in [("0000:3b:00.3", "nvme"), ("0000:3b:00.4", "vfio-pci")] {
        let other = tree.pci(address, 0x144d, 0xa808);
        tree.driver(&other, driver);
        tree.group(&other, 12);
    }
    let bridge = tree.pci("0000:3a:00.0", 0x8086, 0x2030);
    tree.driver(&bridge, "pcieport");
    tree.group(&bridge, 12);
    let report = tree.examine(VF);
    let blocked = finding(&report, Code::GroupBlocked);
    assert!(blocked.text.ends_with("group 12: 0000:3b:00.3 (nvme)"), "{}", blocked.text);
    assert_eq!(
        blocked.commands,
        ["echo 0000:3b:00.3 > /sys/bus/pci/devices/0000:3b:00.3/driver/unbind"]
    );
    let shared = &finding(&report, Code::GroupShared).text;
    assert!(shared.contains("0000:3b:00.4 (vfio-pci)") && !shared.contains("nvme"), "{shared}");
}

#[test]
fn a_kernel_without_vfio_is_named() {
    let tree = Tree::new();
    mlx5_vf(&tree);
    tree.write("/boot/config-6.12.0", "# CONFIG_VFIO is not set\n");
    let text = finding(&tree.examine(VF), Code::NoVfio).text.clone();
    assert!(text.contains("6.12.0") && text.contains("/boot/config-6.12.0"), "{text}");
}

#[test]
fn missing_nodes_of_a_vfio_device_leave_the_answer_open() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "mlx5_vfio_pci");
    tree.vfio(&vf, true);
    let report = tree.examine(VF);
    assert_eq!(report.migratable(), None);
    let missing: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.code == "node-missing")
        .map(|finding| finding.text.as_str())
        .collect();
    assert_eq!(missing, ["/dev/vfio/devices/vfio0 does not exist", "/dev/vfio/12 does not exist"]);
    finding(&report, Code::NoIommufd);
    assert!(!codes(&report).contains(&"no-cdev"));

    // The node exists, but is not VFIO's.
    tree.write("/dev/vfio/devices/vfio0", "");
    tree.write("/dev/iommu", "");
    let report = tree.examine("/dev/vfio/devices/vfio0");
    assert_eq!(codes(&report), ["not-vfio"]);
    assert_eq!(report.target.device.as_ref().unwrap().name, VF);
}

#[test]
fn a_kernel_without_cdev_says_so_and_leads_to_the_group() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "vfio-pci");
    tree.vfio(&vf, false);
    tree.write("/boot/config-6.12.0", "CONFIG_VFIO=m\n# CONFIG_IOMMUFD is not set\n");
    let report = tree.examine(VF);
    assert!(finding(&report, Code::NoCdev).text.contains("CONFIG_VFIO_DEVICE_CDEV"));
    let no_iommufd = finding(&report, Code::NoIommufd);
    assert!(no_iommufd.commands.is_empty() && no_iommufd.todo.is_some());
    assert!(finding(&report, Code::NodeMissing).text.starts_with("/dev/vfio/12 "));
}

#[test]
fn groups_without_iommu_have_other_nodes_but_those_of_mediated_devices_do_not() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "vfio-pci");
    tree.vfio(&vf, false);
    tree.write("/sys/kernel/iommu_groups/12/name", "vfio-noiommu\n");
    let report = tree.examine(VF);
    finding(&report, Code::NoiommuMode);
    assert!(finding(&report, Code::NodeMissing).text.starts_with("/dev/vfio/noiommu-12 "));

    let uuid = "6d747479-0000-4000-8000-00000000c0de";
    let mdev = format!("/sys/devices/virtual/mtty/mtty/{uuid}");
    tree.link(&format!("{mdev}/subsystem"), "/sys/bus/mdev");
    tree.link(&format!("/sys/bus/mdev/devices/{uuid}"), &mdev);
    tree.link(
        &format!("{mdev}/mdev_type"),
        "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2",
    );
    tree.driver(&mdev, "mtty");
    tree.group(&mdev, 13);
    tree.write("/sys/kernel/iommu_groups/13/name", "vfio-noiommu\n");
    let report = tree.examine(&uuid.to_uppercase());
    assert!(!codes(&report).contains(&"noiommu-mode"));
    assert!(finding(&report, Code::NodeMissing).text.starts_with("/dev/vfio/13 "));
    let mdev = report.target.device.unwrap().mdev.unwrap();
    assert_eq!((mdev.kind.as_deref(), mdev.parent.as_deref()), (Some("mtty-2"), Some("mtty")));
}

#[test]
fn a_parent_of_mediated_devices_says_how_to_make_one() {
    let tree = Tree::new();
    let parent = "/sys/devices/virtual/mtty/mtty";
    tree.link(&format!("{parent}/subsystem"), "/sys/class/mtty");
    tree.link("/sys/class/mdev_bus/mtty", parent);
    tree.write(&format!("{parent}/mdev_supported_types/mtty-2/available_instances"), "12\n");
    let report = tree.examine(parent);
    assert_eq!(codes(&report), ["mdev-parent"]);
    let found = finding(&report, Code::MdevParent);
    assert!(found.text.ends_with("mtty-2 (12 left)"), "{}", found.text);
    assert!(found.commands[0].ends_with("/mdev_bus/mtty/mdev_supported_types/mtty-2/create"));
}

#[test]
fn a_variant_driver_that_offers_nothing_is_explained() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "mlx5_vfio_pci");
    tree.vfio(&vf, true);
    let target = find(&tree.root, VF).unwrap();
    let mut findings = Vec::new();
    let kernel = Kernel::read(&tree.root);
    about_variants(&kernel, target.device.as_ref().unwrap(), &[], true, &mut findings);
    assert_eq!(findings[0].code, Code::VariantSetup.word());
    assert!(findings[0].todo.as_deref().unwrap().contains("devlink"));
    // If it could not be asked, it is not accused.
    findings.clear();
    about_variants(&kernel, target.device.as_ref().unwrap(), &[], false, &mut findings);
    assert_eq!(findings, []);
}

/// Errnos as the kernel gives them, by the step that gives them (drivers/vfio/group.c,
/// device_cdev.c, container.c; drivers/iommu/iommu.c).
#[test]
fn an_errno_is_read_by_the_step_that_it_came_from() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "vfio-pci");
    tree.vfio(&vf, true);
    tree.write("/proc/4711/comm", "qemu-system-x86\n");
    tree.write("/proc/4711/fd/x", "");
    symlink("/dev/vfio/12", tree.root.at("/proc/4711/fd/7")).unwrap();
    let device = find(&tree.root, VF).unwrap().device.unwrap();
    let cdev = Way::Cdev { node: "/dev/vfio/devices/vfio0".into() };
    let group = Way::Group { node: "/dev/vfio/12".into(), device: VF.into(), noiommu: false };
    let cases = [
        (&cdev, Step::Node, libc::EACCES, Code::Permission),
        (&cdev, Step::Node, libc::EPERM, Code::Permission),
        (&cdev, Step::Node, libc::ENOENT, Code::NodeMissing),
        (&cdev, Step::Node, libc::ENXIO, Code::OpenFailed),
        (&cdev, Step::Bind, libc::EBUSY, Code::InUse),
        (&cdev, Step::Bind, libc::EINVAL, Code::InUse),
        (&cdev, Step::Bind, libc::EPERM, Code::InUse),
        (&cdev, Step::Bind, libc::EACCES, Code::VfToken),
        (&cdev, Step::Bind, libc::ENOTTY, Code::NotVfio),
        (&group, Step::Node, libc::EBUSY, Code::InUse),
        (&group, Step::GroupStatus, libc::ENOTTY, Code::NotVfio),
        (&group, Step::NotViable, libc::EPERM, Code::GroupBlocked),
        (&group, Step::SetContainer, libc::EPERM, Code::InUse),
        (&group, Step::SetIommu, libc::EPERM, Code::UnsafeInterrupts),
        (&group, Step::SetIommu, libc::EINVAL, Code::NoType1),
        (&group, Step::GetDevice, libc::EACCES, Code::VfToken),
        (&group, Step::GetDevice, libc::ENODEV, Code::NotVfio),
        (&group, Step::GetDevice, libc::EIO, Code::OpenFailed),
        (&group, Step::ApiVersion, libc::EPROTO, Code::OpenFailed),
    ];
    for (way, step, errno, code) in cases {
        let error = OpenError { step, node: way.node().to_owned(), errno };
        let found = about_open(&tree.root, way, &error, Some(&device));
        assert_eq!(found.code, code.word(), "{step:?} {errno}");
        if code == Code::InUse {
            assert!(found.text.contains("qemu-system-x86 (process 4711)"), "{}", found.text);
        }
    }
    // The same EPERM, with a device of the host in the group.
    let other = tree.pci("0000:3b:00.3", 0x144d, 0xa808);
    tree.driver(&other, "nvme");
    tree.group(&other, 12);
    let device = find(&tree.root, VF).unwrap().device.unwrap();
    let error = OpenError { step: Step::Bind, node: "/dev/x".into(), errno: libc::EPERM };
    let found = about_open(&tree.root, &cdev, &error, Some(&device));
    assert_eq!(found.code, Code::GroupBlocked.word());
}

#[test]
fn a_node_that_may_not_be_opened_is_described() {
    let tree = Tree::new();
    tree.write("/dev/vfio/12", "");
    let meta = fs::metadata(tree.root.at("/dev/vfio/12")).unwrap();
    tree.write("/etc/passwd", &format!("somebody:x:{}:1::/:/bin/sh\n", meta.uid()));
    tree.write("/etc/group", &format!("other:x:{}:\nkvm:x:{}:\n", meta.gid() + 1, meta.gid()));
    let way = Way::Group { node: "/dev/vfio/12".into(), device: VF.into(), noiommu: false };
    let error = OpenError { step: Step::Node, node: "/dev/vfio/12".into(), errno: libc::EACCES };
    let found = about_open(&tree.root, &way, &error, None);
    assert!(found.text.contains("(user somebody, group kvm, mode 0"), "{}", found.text);
}

/// Every code has been seen by a test above, or is made by a step that only a kernel can fail.
#[test]
fn every_code_is_tested() {
    let source = include_str!("tests.rs");
    for code in Code::ALL {
        let name = format!("Code::{code:?}");
        assert!(
            source.contains(&format!("{name})")) || source.contains(&format!("{name}.word()")),
            "no test finds {name}"
        );
    }
}

#[test]
fn names_lead_to_devices() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "vfio-pci");
    tree.vfio(&vf, true);
    tree.write("/dev/vfio/devices/vfio0", "");
    let real = format!("{}/x", tree.dir.path().display());
    for given in [
        VF,
        "3B:00.2",
        vf.as_str(),
        &format!("/sys/bus/pci/devices/{VF}"),
        "/sys/class/vfio-dev/vfio0",
        &format!("{vf}/vfio-dev/vfio0"),
        "/dev/vfio/devices/vfio0",
    ] {
        let target = find(&tree.root, given).unwrap_or_else(|error| panic!("{given}: {error:?}"));
        assert_eq!(target.device.unwrap().name, VF, "{given}");
        assert_eq!(target.node.is_some(), given.starts_with("/dev"), "{given}");
    }
    for (given, why) in [
        ("3b:00.7", "no PCI device 0000:3b:00.7"),
        ("6d747479-0000-4000-8000-00000000dead", "no mediated device"),
        ("nonsense", "a device is a PCI address"),
        ("..", "a device is a PCI address"),
        ("/sys/bus/pci", "not the directory of a device"),
        ("/sys/nowhere", "No such file"),
        (real.as_str(), "No such file"),
        ("/dev/vfio/vfio", "not a device"),
        ("/dev/vfio/12", "name one of its devices: 0000:3b:00.2"),
        ("/dev/vfio/devices/vfio7", "No such file"),
    ] {
        let error = find(&tree.root, given).unwrap_err();
        assert!(error.0.contains(why), "{given}: {}", error.0);
    }
}

#[test]
fn all_finds_what_has_to_do_with_migration_and_nothing_else() {
    let tree = Tree::new();
    let vf = mlx5_vf(&tree);
    tree.driver(&vf, "vfio-pci");
    tree.vfio(&vf, true);
    let disk = tree.pci("0000:01:00.0", 0x144d, 0xa808);
    tree.driver(&disk, "nvme");
    let parent = "/sys/devices/virtual/mtty/mtty";
    tree.link(&format!("{parent}/subsystem"), "/sys/class/mtty");
    tree.link("/sys/class/mdev_bus/mtty", parent);
    tree.write(&format!("{parent}/mdev_supported_types/mtty-2/available_instances"), "12\n");
    let found: Vec<String> =
        crate::sysfs::candidates(&tree.root).into_iter().map(|target| target.given).collect();
    assert_eq!(found, ["mtty", "0000:3b:00.0", VF]);
}
