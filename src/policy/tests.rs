// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files and what becomes of them, each in a directory of its own. The process's own policy is left
//! alone: other tests are using it.
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::file::{PolicyFile, Says, Why, check};
use super::place::Place;
use super::*;
use crate::error::Code;
use crate::identity::Identity;
use crate::sys::file::effective_user;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vfiomig-policy-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Directory(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("policy.conf")
    }

    /// As an administrator would: the file is there as a whole, or not at all.
    fn put(&self, text: &str) {
        let new = self.0.join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o644)).unwrap();
        fs::rename(&new, self.file()).unwrap();
    }

    fn place(&self) -> Place {
        Place::new(None, &self.file(), true, false).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Why it cannot be used.
fn unusable(file: &PolicyFile) -> &str {
    match file.says() {
        Says::Unusable(text) => text,
        other => panic!("{other:?}"),
    }
}

fn denied_line(file: &PolicyFile) -> Option<usize> {
    let identity = Identity { driver: "mtty".into(), ..Identity::default() };
    let device = Facts { name: Some("x"), identity: &identity };
    match file.denies(Direction::Save, &device) {
        None => None,
        Some(Why::Line(_, line)) => Some(line),
        Some(Why::Unusable(text)) => panic!("{text}"),
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn whatever_is_wrong_with_a_file_denies_and_says_what() {
    let is_root = effective_user() == 0;
    type Spoil = fn(&Directory);
    let table: &[(&str, Spoil, &str, bool)] = &[
        ("missing", |d| fs::remove_file(d.file()).unwrap(), "does not exist", false),
        (
            "a directory",
            |d| {
                fs::remove_file(d.file()).unwrap();
                fs::create_dir(d.file()).unwrap();
            },
            "not a regular file",
            false,
        ),
        (
            "a link",
            |d| {
                fs::rename(d.file(), d.0.join("there")).unwrap();
                symlink("there", d.file()).unwrap();
            },
            "not a regular file",
            false,
        ),
        (
            "a socket",
            |d| {
                fs::remove_file(d.file()).unwrap();
                std::os::unix::net::UnixListener::bind(d.file()).unwrap();
            },
            "not a regular file",
            false,
        ),
        (
            "a FIFO",
            |d| {
                fs::remove_file(d.file()).unwrap();
                let made = std::process::Command::new("mkfifo").arg(d.file()).status().unwrap();
                assert!(made.success());
            },
            "not a regular file",
            false,
        ),
        (
            "written by its group",
            |d| fs::set_permissions(d.file(), Permissions::from_mode(0o664)).unwrap(),
            "others may write to it (mode 0664)",
            false,
        ),
        (
            "written by all",
            |d| fs::set_permissions(d.file(), Permissions::from_mode(0o646)).unwrap(),
            "others may write to it (mode 0646)",
            false,
        ),
        (
            "in a directory of all",
            |d| fs::set_permissions(&d.0, Permissions::from_mode(0o1777)).unwrap(),
            "others may write to the directory that it is in (mode 1777)",
            false,
        ),
        (
            "in a directory of its group",
            |d| fs::set_permissions(&d.0, Permissions::from_mode(0o775)).unwrap(),
            "directory that it is in (mode 0775)",
            false,
        ),
        (
            "somebody else's",
            |d| chown(d.file(), Some(1234), None).unwrap(),
            "it belongs to user 1234",
            true,
        ),
        (
            "in somebody else's directory",
            |d| chown(&d.0, Some(1234), None).unwrap(),
            "the directory that it is in belongs to user 1234",
            true,
        ),
        ("too long", |d| d.put(&"#".repeat(MAX_FILE + 1)), "longer than 64 KiB", false),
        ("malformed", |d| d.put("deny\n\nalow\n"), "policy.conf: line 3: a line begins", false),
        ("cut off", |d| d.put("deny driver=mlx5"), "line 1: the last line has no end", false),
        ("empty", |d| d.put(""), "it says nothing", false),
    ];
    for (name, spoil, text, needs_root) in table {
        if *needs_root && !is_root {
            continue;
        }
        let directory = Directory::new();
        directory.put("default allow\n");
        let mut file = PolicyFile::new(directory.place());
        assert_eq!(denied_line(&file), None, "{name}");
        spoil(&directory);
        // As a new process sees it.
        let fresh = PolicyFile::new(directory.place());
        assert!(unusable(&fresh).contains(text), "{name}: {}", unusable(&fresh));
        let identity = Identity::default();
        let device = Facts { name: None, identity: &identity };
        assert!(fresh.denies(Direction::Save, &device).is_some(), "{name}");
        assert!(fresh.denies(Direction::Load, &device).is_some(), "{name}");
        assert_eq!(check(directory.place()).unwrap_err().code(), Code::Inval, "{name}");
        // As one does that has seen it before: what is only missing goes on to hold.
        assert_eq!(file.look_again(), *name != "missing", "{name}");
        if *name != "missing" {
            assert!(unusable(&file).contains(text), "{name}");
            // And it notices when that is put right.
            fs::set_permissions(&directory.0, Permissions::from_mode(0o755)).unwrap();
            if is_root {
                chown(&directory.0, Some(0), None).unwrap();
            }
            if directory.file().is_dir() {
                fs::remove_dir(directory.file()).unwrap();
            }
            directory.put("default allow\n");
            assert!(file.look_again(), "{name}");
            assert_eq!(denied_line(&file), None, "{name}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn the_hosts_file_is_roots_alone() {
    let directory = Directory::new();
    directory.put("default allow\n");
    let place = Place::new(None, &directory.file(), false, true).unwrap();
    let file = PolicyFile::new(place);
    match effective_user() {
        0 => assert_eq!(denied_line(&file), None),
        user => assert!(unusable(&file).contains(&format!("it belongs to user {user}"))),
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn what_was_seen_holds_until_something_else_takes_its_place() {
    let directory = Directory::new();
    let optional = || Place::new(None, &directory.file(), true, true).unwrap();
    let mut file = PolicyFile::new(optional());
    assert_eq!((file.says(), denied_line(&file)), (&Says::Nothing, None));
    assert!(!file.look_again());
    directory.put("deny\n");
    assert!(file.look_again());
    assert_eq!(denied_line(&file), Some(1));
    assert!(!file.look_again());
    fs::remove_file(directory.file()).unwrap();
    assert!(!file.look_again());
    assert_eq!(denied_line(&file), Some(1));
    // A new process sees nothing of it.
    assert_eq!(PolicyFile::new(optional()).says(), &Says::Nothing);
    directory.put("# nothing now\ndefault allow\n");
    assert!(file.look_again());
    assert_eq!(denied_line(&file), None);
}

/// Within one tick of the file system's clock, and without a change of size.
#[test]
#[cfg_attr(miri, ignore)]
fn a_change_that_leaves_no_trace_is_noticed() {
    let directory = Directory::new();
    directory.put("deny driver=mtty\n");
    let mut file = PolicyFile::new(directory.place());
    for round in 0..200 {
        let (text, line) = match round % 2 {
            0 => ("deny driver=mttx\n", None),
            _ => ("deny driver=mtty\n", Some(1)),
        };
        fs::write(directory.file(), text).unwrap();
        assert!(file.look_again(), "{round}");
        assert_eq!(denied_line(&file), line, "{round}");
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_file_is_found_through_its_directory() {
    let directory = Directory::new();
    directory.put("deny\n");
    let fd = File::open(&directory.0).unwrap();
    let place = Place::new(Some(fd.as_fd()), Path::new("policy.conf"), true, false).unwrap();
    drop(fd);
    // Wherever it is now.
    let elsewhere = Directory::new();
    fs::rename(&directory.0, elsewhere.0.join("moved")).unwrap();
    assert_eq!(denied_line(&PolicyFile::new(place)), Some(1));
    for path in ["", "relative", "/", "/etc/", "/etc/..", "/etc/."] {
        let refused = Place::new(None, Path::new(path), true, false);
        assert_eq!(refused.map(drop).unwrap_err().code(), Code::Inval, "{path:?}");
    }
    assert!(Place::new(None, Path::new("/etc/a\0b"), true, false).is_err());
}

/// Nothing that another process does to the file while it is read shows half of it.
#[test]
#[cfg_attr(miri, ignore)]
fn a_file_that_is_replaced_all_the_time_is_read_as_one_or_the_other() {
    let directory = Directory::new();
    directory.put("deny\n");
    let until = Instant::now() + Duration::from_millis(300);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if Instant::now() > until {
                    break;
                }
                let padding = "#\n".repeat(round % 50);
                directory.put(&format!("{padding}deny\n"));
            }
        });
        let mut read = 0;
        while Instant::now() < until {
            let file = PolicyFile::new(directory.place());
            match file.says() {
                Says::Rules(rules) => assert_eq!(rules.len(), 1),
                Says::Unusable(text) => assert!(text.contains("keeps changing"), "{text}"),
                Says::Nothing => panic!("it was not there"),
            }
            read += 1;
        }
        assert!(read > 10, "{read}");
    });
}
