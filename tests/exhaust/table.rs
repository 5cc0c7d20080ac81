// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked of a device, and which errnos are known for it: the table of
//! docs/kernel-interface.md, which is read and not repeated here.

use std::collections::BTreeMap;

/// What the library asks of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Asked {
    ProbeLog,
    Report,
    GetFlags,
    GetState,
    SetState,
    GetSize,
    OptIn,
    Read,
    Write,
    PrecopyInfo,
    Reset,
    Close,
    PollFd,
    Nonblocking,
    Identity,
    RegionRead,
}

impl Asked {
    pub const ALL: [Asked; 16] = [
        Asked::ProbeLog,
        Asked::Report,
        Asked::GetFlags,
        Asked::GetState,
        Asked::SetState,
        Asked::GetSize,
        Asked::OptIn,
        Asked::Read,
        Asked::Write,
        Asked::PrecopyInfo,
        Asked::Reset,
        Asked::Close,
        Asked::PollFd,
        Asked::Nonblocking,
        Asked::Identity,
        Asked::RegionRead,
    ];

    /// Its row in the document.
    fn row(self) -> &'static str {
        match self {
            Asked::ProbeLog => "`PROBE DMA_LOGGING_START`",
            Asked::Report => "`GET DMA_LOGGING_REPORT`",
            Asked::GetFlags => "`GET MIGRATION`",
            Asked::GetState => "`GET MIG_DEVICE_STATE`",
            Asked::SetState => "`SET MIG_DEVICE_STATE`",
            Asked::GetSize => "`GET MIG_DATA_SIZE`",
            Asked::OptIn => "`SET MIG_PRECOPY_INFOv2`",
            Asked::Read => "`read`",
            Asked::Write => "`write`",
            Asked::PrecopyInfo => "`VFIO_MIG_GET_PRECOPY_INFO`",
            Asked::Reset => "`VFIO_DEVICE_RESET`",
            Asked::Close => "`close` of the data fd",
            Asked::PollFd => "`poll` of the data fd",
            Asked::Nonblocking => "`O_NONBLOCK` of the data fd",
            Asked::Identity => "identity, of devices behind callbacks",
            Asked::RegionRead => "read of configuration space",
        }
    }

    /// A feature ioctl, by its flags.
    pub fn feature(flags: u32) -> Option<Asked> {
        const GET: u32 = 1 << 16;
        const SET: u32 = 1 << 17;
        const PROBE: u32 = 1 << 18;
        match (flags & 0xffff, flags & !0xffff) {
            (1, GET) => Some(Asked::GetFlags),
            (2, GET) => Some(Asked::GetState),
            (2, SET) => Some(Asked::SetState),
            (6, set) if set == SET | PROBE => Some(Asked::ProbeLog),
            (8, GET) => Some(Asked::Report),
            (9, GET) => Some(Asked::GetSize),
            (12, SET) => Some(Asked::OptIn),
            _ => None,
        }
    }
}

const DOCUMENT: &str = include_str!("../../docs/kernel-interface.md");

/// A number that no errno of any list has: whatever a driver makes up.
pub const MADE_UP: i32 = 4000;

/// The errnos of each operation: the document's, and one that is not in its list.
pub fn errnos() -> BTreeMap<Asked, Vec<i32>> {
    let rest = DOCUMENT.split("### Errnos by operation").nth(1).expect("the section");
    let rows: Vec<(&str, &str)> = rest
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split_once('|').expect("two columns"))
        .map(|(what, errnos)| (what.trim(), errnos.trim()))
        .collect();
    assert_eq!(rows.len(), Asked::ALL.len(), "a row of the document is no operation here");
    Asked::ALL
        .into_iter()
        .map(|asked| {
            let row = rows.iter().find(|(what, _)| *what == asked.row());
            let (_, names) = row.unwrap_or_else(|| panic!("the document has no {}", asked.row()));
            let names = names.split_whitespace().map(|name| name.trim_matches('`'));
            let numbers: Vec<i32> = names.map(number).chain([MADE_UP]).collect();
            assert!(numbers.len() > 3, "{asked:?}");
            (asked, numbers)
        })
        .collect()
}

fn number(name: &str) -> i32 {
    const KNOWN: [(&str, i32); 19] = [
        ("EAGAIN", libc::EAGAIN),
        ("EBADF", libc::EBADF),
        ("EBUSY", libc::EBUSY),
        ("EFAULT", libc::EFAULT),
        ("EINTR", libc::EINTR),
        ("EINVAL", libc::EINVAL),
        ("EIO", libc::EIO),
        ("ENODEV", libc::ENODEV),
        ("ENOMEM", libc::ENOMEM),
        ("ENOMSG", libc::ENOMSG),
        ("ENOSPC", libc::ENOSPC),
        ("ENOTCONN", libc::ENOTCONN),
        ("ENOTTY", libc::ENOTTY),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("EOVERFLOW", libc::EOVERFLOW),
        ("EPERM", libc::EPERM),
        ("ETIMEDOUT", libc::ETIMEDOUT),
        ("ENXIO", libc::ENXIO),
        ("E2BIG", libc::E2BIG),
    ];
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.unwrap_or_else(|| panic!("{name} is no errno that this test knows")).1
}

/// The codes that a C function may return, as its row in an api.toml lists them.
pub struct Listed(BTreeMap<String, Vec<String>>);

impl Listed {
    pub fn read() -> Listed {
        let mut listed = BTreeMap::new();
        for table in [
            include_str!("../../src/capi/device/api.toml"),
            include_str!("../../src/capi/save/api.toml"),
            include_str!("../../src/capi/load/api.toml"),
            include_str!("../../src/capi/qemu/api.toml"),
            include_str!("../../src/capi/checkpoint/api.toml"),
            include_str!("../../src/capi/restore/api.toml"),
            include_str!("../../src/capi/group/api.toml"),
        ] {
            for function in table.split("[[function]]").skip(1) {
                let name = function.split("name = \"").nth(1).expect("a name");
                let name = name.split('"').next().unwrap_or_default();
                let errors = function.split("errors = [").nth(1).expect("errors");
                let errors = errors.split("\n]").next().unwrap_or_default();
                // "ECODE, ECODE: text": every second piece is within the quotes.
                let codes = errors.split('"').skip(1).step_by(2);
                let codes = codes.filter_map(|text| text.split(':').next());
                let codes = codes.flat_map(|codes| codes.split(", ").map(str::to_owned));
                listed.insert(name.to_owned(), codes.collect());
            }
        }
        Listed(listed)
    }

    pub fn has(&self, function: &str, code: &str) -> bool {
        let codes = self.0.get(function).unwrap_or_else(|| panic!("{function} has no row"));
        codes.iter().any(|listed| listed == code)
    }
}
