// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool as it is called: exit status, output for people, JSON as docs/probe.md says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn vfiomig(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfiomig")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn link(root: &Path, path: &str, to: &str) {
    let (path, to) = (root.join(path), root.join(to));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::create_dir_all(&to).unwrap();
    symlink(to, path).unwrap();
}

/// A VF without a driver, and a VFIO device whose nodes are missing.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "proc/sys/kernel/osrelease", "6.12.0\n");
    write(root, "boot/config-6.12.0", "CONFIG_VFIO=m\nCONFIG_VFIO_GROUP=y\n");
    for (address, group) in [("0000:3b:00.2", "12"), ("0000:3b:00.3", "13")] {
        let device = format!("sys/devices/pci0000:00/{address}");
        write(root, &format!("{device}/vendor"), "0x15b3\n");
        write(root, &format!("{device}/device"), "0x101e\n");
        link(root, &format!("{device}/subsystem"), "sys/bus/pci");
        link(root, &format!("{device}/iommu_group"), &format!("sys/kernel/iommu_groups/{group}"));
        link(root, &format!("{device}/physfn"), "sys/devices/pci0000:00/0000:3b:00.0");
        link(root, &format!("sys/bus/pci/devices/{address}"), &device);
    }
    let bound = "sys/devices/pci0000:00/0000:3b:00.3";
    link(root, &format!("{bound}/driver"), "sys/bus/pci/drivers/mlx5_vfio_pci");
    write(root, &format!("{bound}/vfio-dev/vfio0/dev"), "252:0\n");
    dir
}

fn probe(tree: &tempfile::TempDir, arguments: &[&str]) -> Output {
    let mut all = vec!["probe", "--sysroot", tree.path().to_str().unwrap()];
    all.extend(arguments);
    vfiomig(&all)
}

fn json(output: &Output) -> Vec<Value> {
    match serde_json::from_slice(&output.stdout).unwrap() {
        Value::Array(objects) => objects,
        other => panic!("not an array: {other}"),
    }
}

#[test]
fn the_exit_status_says_what_was_found() {
    let tree = tree();
    let status = |arguments: &[&str]| probe(&tree, arguments).status.code().unwrap();
    assert_eq!(status(&["3b:00.2"]), 1);
    assert_eq!(status(&["3b:00.3"]), 1);
    assert_eq!(status(&["--all"]), 1);
    assert_eq!(status(&[]), 1);
    assert_eq!(status(&["3b:00.7"]), 2);
    // The worst one counts, wherever it comes.
    assert_eq!(status(&["3b:00.7", "3b:00.2"]), 2);
    assert_eq!(status(&["3b:00.2", "3b:00.7"]), 2);
    assert_eq!(status(&["--all", "3b:00.2"]), 2);
    assert_eq!(status(&["--nonsense"]), 2);
    assert_eq!(vfiomig(&[]).status.code(), Some(2));
    assert_eq!(vfiomig(&["nonsense"]).status.code(), Some(2));
    assert_eq!(vfiomig(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_device_behind_a_vfio_user_server_is_probed_by_its_socket() {
    use vfiomig_sim::vfio_user::{Server, ServerOptions};
    use vfiomig_sim::{Sim, SimOptions};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("device.sock");
    let name = format!("vfio-user:{}", socket.display());
    let output = vfiomig(&["probe", &name, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)[0]["findings"][0]["code"], "node-missing");

    let sim = Sim::new(SimOptions { pci: [1, 2, 3, 4], ..SimOptions::default() }).unwrap();
    let server = Server::new(&sim, ServerOptions::default()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| server.listen(&socket).unwrap());
        while !socket.exists() {
            std::thread::yield_now();
        }
        let output = vfiomig(&["probe", &name, "--json"]);
        server.stop();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let device = &json(&output)[0];
        assert_eq!(device["access"]["by"], "vfio-user", "{device}");
        assert_eq!(device["access"]["node"], socket.to_str().unwrap());
        assert_eq!(device["migratable"], true, "{device}");
    });
    // Nothing was changed.
    assert_eq!((sim.state(), sim.violations()), (vfiomig_sim::State::RUNNING, (0, None)));
}

#[test]
fn a_machine_with_nothing_to_probe_says_why() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "proc/sys/kernel/osrelease", "6.12.0\n");
    let output = probe(&dir, &["--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(json(&output).is_empty());
    for said in ["VFIO is not loaded: modprobe vfio-pci", "no IOMMU groups", "cannot be read"] {
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    write(dir.path(), "boot/config-6.12.0", "# CONFIG_VFIO is not set\n");
    let output = probe(&dir, &[]);
    assert!(stderr(&output).contains("built without VFIO"), "{}", stderr(&output));
    assert!(stdout(&output).is_empty());
}

#[test]
fn the_version_is_that_of_the_tool_and_of_the_library() {
    let output = vfiomig(&["--version"]);
    let expected = format!("vfiomig {0}\nlibvfiomig {0}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&output), expected);
}

#[test]
fn people_get_aligned_text_without_colours_and_commands_to_copy() {
    let tree = tree();
    let output = probe(&tree, &["3b:00.2", "3b:00.3"]);
    let text = stdout(&output);
    assert!(!text.contains('\x1b'));
    assert!(
        text.starts_with("kernel 6.12.0 (/boot/config-6.12.0): VFIO=m VFIO_GROUP=y "),
        "{text}"
    );
    assert!(text.contains("\n3b:00.2: cannot migrate\n"), "{text}");
    assert!(text.contains("\n3b:00.3: not known: it could not be asked\n"), "{text}");
    assert!(text.contains("[no-driver]") && text.contains("[node-missing]"), "{text}");
    let command =
        "\n                # echo vfio-pci > /sys/bus/pci/devices/0000:3b:00.2/driver_override\n";
    assert!(text.contains(command), "{text}");
    assert!(!text.contains(tree.path().to_str().unwrap()), "{text}");
    for line in text.lines().filter(|line| !line.contains(" # ")) {
        assert!(line.chars().count() <= 96, "{line}");
    }
}

/// Members that each object has, and whether they may be null here.
const MEMBERS: &[(&str, &str)] = &[
    ("schema", "number"),
    ("device", "string"),
    ("name", "string"),
    ("migratable", "boolean"),
    ("state", "null"),
    ("capabilities", "null"),
    ("identity", "null"),
    ("access", "null"),
    ("sysfs", "string"),
    ("bus", "string"),
    ("driver", "null"),
    ("driver_override", "null"),
    ("vfio", "boolean"),
    ("cdev", "null"),
    ("pci", "object"),
    ("sriov", "object"),
    ("mdev", "null"),
    ("iommu_group", "object"),
    ("variant_drivers", "array"),
    ("findings", "array"),
    ("kernel", "object"),
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[test]
fn json_has_the_documented_members_and_no_others() {
    let tree = tree();
    let objects = json(&probe(&tree, &["--json", "3b:00.2", "3b:00.3"]));
    let [unbound, bound] = objects.as_slice() else { panic!("{objects:?}") };
    let found: Vec<(&str, &str)> =
        unbound.as_object().unwrap().iter().map(|(name, v)| (name.as_str(), kind(v))).collect();
    assert_eq!(found, MEMBERS);

    assert_eq!(unbound["schema"], 1);
    assert_eq!(unbound["device"], "3b:00.2");
    assert_eq!(unbound["name"], "0000:3b:00.2");
    assert_eq!(unbound["migratable"], false);
    assert_eq!(unbound["sysfs"], "/sys/devices/pci0000:00/0000:3b:00.2");
    assert_eq!(unbound["pci"]["vendor"], "15b3");
    assert_eq!(unbound["sriov"]["role"], "vf");
    assert_eq!(unbound["sriov"]["physfn"], "0000:3b:00.0");
    assert_eq!(unbound["iommu_group"]["id"], 12);
    assert_eq!(unbound["variant_drivers"][0]["module"], "mlx5_vfio_pci");
    assert_eq!(unbound["variant_drivers"][0]["installed"], false);
    assert_eq!(unbound["kernel"]["options"]["CONFIG_VFIO"], "m");
    assert_eq!(unbound["kernel"]["options"]["CONFIG_IOMMUFD"], "n");
    assert_eq!(unbound["findings"][0]["code"], "no-driver");
    assert_eq!(unbound["findings"][0]["severity"], "blocks");
    assert_eq!(unbound["findings"][0]["source"], "setup");

    assert_eq!(bound["migratable"], Value::Null);
    assert_eq!(bound["driver"], "mlx5_vfio_pci");
    assert_eq!(bound["cdev"], "/dev/vfio/devices/vfio0");
    assert_eq!(bound["vfio"], true);
}

#[test]
fn an_identity_is_written_for_one_device_that_could_be_asked() {
    let tree = tree();
    let file = tree.path().join("identity");
    let name = file.to_str().unwrap();
    let several = probe(&tree, &["--identity", name, "3b:00.2", "3b:00.3"]);
    assert_eq!(several.status.code(), Some(2));
    assert!(stderr(&several).contains("one device"), "{}", stderr(&several));
    // A device of its own is needed: a list of candidates is not one.
    assert_eq!(probe(&tree, &["--identity", name]).status.code(), Some(2));
    fs::write(&file, "from before").unwrap();
    let unasked = probe(&tree, &["--identity", name, "3b:00.3"]);
    assert_eq!(unasked.status.code(), Some(1));
    assert!(stderr(&unasked).contains("not written"), "{}", stderr(&unasked));
    assert_eq!(fs::read_to_string(&file).unwrap(), "from before");
}

/// Every name of a member, at any depth.
fn member_names(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| member_names(value, names)),
        Value::Object(members) => {
            for (name, value) in members {
                if !name.starts_with("CONFIG_") {
                    names.push(name.clone());
                }
                member_names(value, names);
            }
        }
        _ => {}
    }
}

#[test]
fn the_documentation_names_every_member() {
    let doc = include_str!("../../docs/probe.md");
    let tree = tree();
    let mut names = Vec::new();
    for object in json(&probe(&tree, &["--json", "--all"])) {
        member_names(&object, &mut names);
    }
    assert!(names.len() > 50);
    for name in names {
        assert!(doc.contains(&format!("`{name}`")), "docs/probe.md lacks `{name}`");
    }
}

#[test]
fn the_manual_page_names_every_option() {
    let page = include_str!("../vfiomig.1");
    for option in ["all", "identity", "json", "help", "version"] {
        assert!(page.contains(&format!("\\-\\-{option}")), "vfiomig.1 lacks --{option}");
    }
}
