// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::identity::Identity;
use proptest::prelude::*;

fn mtty() -> Identity {
    Identity {
        bus: "pci".into(),
        driver: "mtty".into(),
        mdev_type: "mtty-2".into(),
        pci: [0x4348, 0x3253, 0x4348, 0x3253],
        ..Identity::default()
    }
}

fn vf() -> Identity {
    Identity {
        bus: "pci".into(),
        driver: "mlx5_vfio_pci".into(),
        pci: [0x15b3, 0x101e, 0x15b3, 0x0023],
        ..Identity::default()
    }
}

const UUID: &str = "6d747479-0000-4000-8000-000000009b0e";
const ADDRESS: &str = "0000:3b:00.2";

/// The lines that deny an mtty device and a VF, saves and loads: 0 for none.
fn lines(text: &str) -> [usize; 4] {
    let rules = Rules::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let (mtty, vf) = (mtty(), vf());
    let mtty = Facts { name: Some(UUID), identity: &mtty };
    let vf = Facts { name: Some(ADDRESS), identity: &vf };
    [(Direction::Save, mtty), (Direction::Load, mtty), (Direction::Save, vf), (Direction::Load, vf)]
        .map(|(direction, device)| rules.denies(direction, &device).unwrap_or(0))
}

#[test]
fn each_condition_picks_its_devices() {
    let table: &[(&str, [usize; 4])] = &[
        ("deny\n", [1, 1, 1, 1]),
        ("default allow\n", [0, 0, 0, 0]),
        ("default deny\n", [1, 1, 1, 1]),
        ("deny direction=save\n", [1, 0, 1, 0]),
        ("deny direction=load\n", [0, 1, 0, 1]),
        ("deny driver=mtty\n", [1, 1, 0, 0]),
        ("deny driver=mtt\n", [0, 0, 0, 0]),
        ("deny driver=m*\n", [1, 1, 1, 1]),
        ("deny driver=*_vfio_pci\n", [0, 0, 1, 1]),
        ("deny driver=*\n", [1, 1, 1, 1]),
        ("deny driver=mlx5-vfio-pci\n", [0, 0, 1, 1]),
        ("deny driver=*-vfio_p*i\n", [0, 0, 1, 1]),
        ("deny driver=MTTY\n", [0, 0, 0, 0]),
        ("deny device=6D747479-0000-4000-8000-000000009B0E\n", [1, 1, 0, 0]),
        ("deny device=0000:3B:00.2\n", [0, 0, 1, 1]),
        ("deny device=*:3B:00.*\n", [0, 0, 1, 1]),
        ("deny mdev-type=mtty_2\n", [0, 0, 0, 0]),
        ("deny mdev-type=mtty-*\n", [1, 1, 0, 0]),
        ("deny mdev-type=*\n", [1, 1, 0, 0]),
        ("deny vendor-type=*\n", [0, 0, 0, 0]),
        ("deny pci=15b3:101e\n", [0, 0, 1, 1]),
        ("deny pci=15B3:101E\n", [0, 0, 1, 1]),
        ("deny pci=15b3:*\n", [0, 0, 1, 1]),
        ("deny pci=*:3253\n", [1, 1, 0, 0]),
        ("deny pci=*:*\n", [1, 1, 1, 1]),
        ("deny device=0000:3b:00.2\n", [0, 0, 1, 1]),
        ("deny device=0000:3b:*\n", [0, 0, 1, 1]),
        ("deny device=6d747479-*\n", [1, 1, 0, 0]),
        ("deny driver=mtty direction=load\n", [0, 1, 0, 0]),
        ("deny driver=mtty pci=15b3:*\n", [0, 0, 0, 0]),
        // What denies counts, wherever it stands.
        ("deny driver=nothing\ndeny driver=mtty\n", [2, 2, 0, 0]),
        ("deny direction=save\ndeny pci=15b3:*\ndeny\n", [1, 3, 1, 2]),
        ("default deny\nallow\ndeny driver=mtty\n", [3, 3, 0, 0]),
        ("deny driver=mtty\nallow driver=mtty\ndefault deny\n", [1, 1, 3, 3]),
        ("default deny\nallow driver=mtty direction=save\n", [0, 1, 1, 1]),
        ("allow driver=mtty\nallow pci=15b3:*\ndefault deny\n", [0, 0, 0, 0]),
        // Spaces, tabs, comments, empty lines.
        ("\n  # ä comment\n\t deny \t driver=mtty # another\n\n", [3, 3, 0, 0]),
        ("deny#all\n", [1, 1, 1, 1]),
    ];
    for (text, expected) in table {
        assert_eq!(lines(text), *expected, "{text:?}");
    }
}

#[test]
fn what_is_not_known_is_denied_and_not_allowed() {
    let nothing = Identity::default();
    let unknown = Facts { name: None, identity: &nothing };
    let denies = |text: &str, device: &Facts<'_>| {
        Rules::parse(text.as_bytes()).unwrap().denies(Direction::Save, device).is_some()
    };
    for condition in
        ["driver=mtty", "mdev-type=x", "vendor-type=x", "pci=15b3:*", "device=0000:3b:00.2"]
    {
        assert!(denies(&format!("deny {condition}\n"), &unknown), "{condition}");
        assert!(denies(&format!("default deny\nallow {condition}\n"), &unknown), "{condition}");
    }
    assert!(!denies("deny direction=load driver=mtty\n", &unknown));
    // A device on another bus has no PCI ids, and one whose driver is known has no other type.
    let platform = Identity { bus: "platform".into(), driver: "x".into(), ..Identity::default() };
    let platform = Facts { name: None, identity: &platform };
    assert!(!denies("deny pci=*:*\n", &platform));
    assert!(!denies("deny mdev-type=*\n", &platform));
    assert!(denies("deny device=a\n", &platform));
}

#[test]
fn every_mistake_is_refused_with_its_line() {
    let long = format!("deny driver={}\n", "x".repeat(65));
    let many = "\n".repeat(1000) + "deny\n";
    let huge = "#".repeat(MAX_FILE + 1);
    let table: &[(&[u8], usize, &str)] = &[
        (b"", 0, "says nothing"),
        (b"\n# nothing\n", 0, "says nothing"),
        (b"deny", 1, "no end"),
        (b"deny\nallow", 2, "no end"),
        (b"\n\nalow\n", 3, "begins with allow"),
        (b"Deny\n", 1, "begins with"),
        (b"default\n", 1, "allow or deny"),
        (b"default maybe\n", 1, "allow or deny"),
        (b"default deny driver=x\n", 1, "nothing comes after"),
        (b"default deny\ndefault deny\n", 2, "already"),
        (b"deny driver\n", 1, "KEY=VALUE"),
        (b"deny driver = x\n", 1, "KEY=VALUE"),
        (b"deny driver=\n", 1, "no value"),
        (b"deny drivers=x\n", 1, "the conditions are"),
        (b"deny =x\n", 1, "the conditions are"),
        (b"deny driver=x driver=y\n", 1, "twice"),
        (b"deny pci=1111:2222 pci=*:*\n", 1, "twice"),
        (b"deny direction=save direction=load\n", 1, "twice"),
        (b"deny direction=both\n", 1, "save or load"),
        (b"deny direction=*\n", 1, "save or load"),
        (b"deny driver=a/b\n", 1, "a value has"),
        (b"deny driver=\"a\"\n", 1, "a value has"),
        (b"deny driver=a=b\n", 1, "a value has"),
        (b"deny driver=a?\n", 1, "a value has"),
        ("deny driver=ä\n".as_bytes(), 1, "a value has"),
        (b"deny device=3b:00.2\n", 1, "begins with its domain"),
        (b"deny pci=15b3\n", 1, "PCI ids"),
        (b"deny pci=15b:101e\n", 1, "PCI ids"),
        (b"deny pci=+5b3:101e\n", 1, "PCI ids"),
        (b"deny pci=15b*:101e\n", 1, "PCI ids"),
        (b"deny pci=15b3:101e:1\n", 1, "PCI ids"),
        (b"deny\r\n", 1, "carriage return"),
        (b"deny # a\0b\n", 1, "NUL"),
        (b"deny\n# \x1b[2J\n", 2, "control character"),
        ("deny # \u{85}\n".as_bytes(), 1, "control character"),
        ("\u{feff}deny\n".as_bytes(), 1, "byte order mark"),
        ("deny\u{a0}driver=x\n".as_bytes(), 1, "begins with"),
        (b"deny\n\n# \xff\n", 3, "UTF-8"),
        (b"allow driver=x\n", 1, "default deny"),
        (b"deny\nallow driver=x\ndefault allow\n", 2, "default deny"),
        (long.as_bytes(), 1, "longer than 64"),
        (many.as_bytes(), 1001, "1000 lines"),
        (huge.as_bytes(), 0, "64 KiB"),
    ];
    for (bytes, line, text) in table {
        let shown = String::from_utf8_lossy(bytes.get(..40).unwrap_or(bytes));
        match Rules::parse(bytes) {
            Ok(_) => panic!("{shown:?} was accepted"),
            Err(error) => {
                assert_eq!(error.line, *line, "{shown:?}: {error}");
                assert!(error.text.contains(text), "{shown:?}: {error}");
            }
        }
    }
}

#[test]
fn a_file_at_its_limits_is_read() {
    let most = "deny driver=nothing\n".repeat(MAX_LINES);
    assert_eq!(Rules::parse(most.as_bytes()).unwrap().len(), MAX_LINES);
    let longest = "deny #".to_owned() + &"x".repeat(MAX_FILE - 7) + "\n";
    assert_eq!(longest.len(), MAX_FILE);
    assert_eq!(Rules::parse(longest.as_bytes()).unwrap().len(), 1);
    let value = format!("deny driver={}\n", "x".repeat(64));
    assert!(!Rules::parse(value.as_bytes()).unwrap().is_empty());
}

/// What * means, said in another way: all ways to divide the text.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| fits(rest, &text[at..])),
        ([a, pattern @ ..], [b, text @ ..]) => a == b && fits(pattern, text),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_wildcard_stands_for_anything(pattern in "[ab*]{1,8}", text in "[ab]{0,8}") {
        let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
        prop_assert_eq!(matches(pattern, text, u8::eq), fits(pattern, text));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Rules::parse(&bytes);
    }

    /// Words of the grammar in any order: mostly wrong, sometimes right.
    #[test]
    fn nor_do_words(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "allow", "deny", "default", " ", "\n", "\t", "#", "driver=", "pci=", "*", ":", "15b3",
            "direction=", "save", "device=", "\r", "\u{feff}",
        ]), 0..40))
    {
        let text = words.concat();
        if let Ok(rules) = Rules::parse(text.as_bytes()) {
            let identity = vf();
            let device = Facts { name: Some(ADDRESS), identity: &identity };
            let before = rules.denies(Direction::Save, &device).is_some();
            // A line that denies always counts, and what is denied stays so.
            let more = text.clone() + "deny direction=load\n";
            let more = Rules::parse(more.as_bytes()).unwrap();
            prop_assert!(more.denies(Direction::Load, &device).is_some());
            prop_assert_eq!(more.denies(Direction::Save, &device).is_some(), before);
        }
    }
}
