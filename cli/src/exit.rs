// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the tool ends: what each exit status means, and the one line that says what went wrong.
//!
//! vfiomig(1) and docs/tool.md have the same table.

use std::fmt;
use std::io;

use vfiomig::Code;

/// What an exit status means. Numbers never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Status {
    /// Yes, whole, the same; done.
    Yes = 0,
    /// The command did its work, and the answer is no: cannot migrate, damaged, different, does not
    /// fit. Or a question was answered with no.
    No = 1,
    /// Wrong usage, or a device that was named does not exist.
    Usage = 2,
    /// An input cannot be read, or is not what the command reads.
    Input = 3,
    /// Something is forbidden: a file's or node's permissions, a key, the host's policy.
    Permission = 4,
    /// The device cannot be used, or failed.
    Device = 5,
    /// Somebody else is using the device.
    Busy = 6,
    /// The result cannot be written, or there is not enough memory.
    Resources = 7,
}

impl Status {
    /// The number, and one line for people.
    #[cfg(test)]
    pub const ALL: &'static [(Status, &'static str)] = &[
        (Status::Yes, "yes, whole, the same; done"),
        (Status::No, "no: cannot migrate, damaged, different, does not fit"),
        (Status::Usage, "wrong usage, or there is no such device"),
        (Status::Input, "an input cannot be read, or is not what the command reads"),
        (Status::Permission, "forbidden: permissions, a key, the host's policy"),
        (Status::Device, "the device cannot be used, or failed"),
        (Status::Busy, "somebody else is using the device"),
        (Status::Resources, "the result cannot be written, or memory is short"),
    ];
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself.
    Status(Status),
    /// Because of this signal.
    Signal(i32),
}

impl End {
    /// What the shell gets.
    pub fn code(self) -> u8 {
        match self {
            End::Status(status) => status as u8,
            // As shells do it.
            End::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        }
    }
}

/// Why a command could not do its work: one line, which also says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// How the tool ends.
    pub end: End,
    /// For standard error; nothing is said if it is empty.
    pub text: String,
}

/// The result of a command's parts.
pub type Result<T> = std::result::Result<T, Trouble>;

impl Trouble {
    /// Trouble of this kind.
    pub fn new(status: Status, text: impl Into<String>) -> Trouble {
        Trouble { end: End::Status(status), text: text.into() }
    }

    /// A signal has come, and what was begun is undone.
    pub fn interrupted(signal: i32, text: impl Into<String>) -> Trouble {
        Trouble { end: End::Signal(signal), text: text.into() }
    }

    /// What a device answered, or refused to.
    pub fn of_device(name: &str, error: &vfiomig::Error) -> Trouble {
        let status = match error.code() {
            Code::Perm => Status::Permission,
            Code::Busy => Status::Busy,
            Code::NoMem => Status::Resources,
            _ => Status::Device,
        };
        Trouble::new(status, format!("{name}: {error}"))
    }

    /// An output could not be written.
    pub fn of_output(name: impl fmt::Display, error: &io::Error) -> Trouble {
        let status = match error.kind() {
            io::ErrorKind::PermissionDenied => Status::Permission,
            _ => Status::Resources,
        };
        Trouble::new(status, format!("{name}: {error}"))
    }
}

impl From<io::Error> for Trouble {
    /// Of standard output.
    fn from(error: io::Error) -> Trouble {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever was reading has stopped, and misses nothing.
            return Trouble::new(Status::Yes, "");
        }
        Trouble::of_output("standard output", &error)
    }
}

/// What the system says of an error, without its number.
pub fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_and_the_documentation_have_every_status() {
        let (page, doc) = (include_str!("../vfiomig.1"), include_str!("../../docs/tool.md"));
        for (status, text) in Status::ALL {
            let row = format!("| {} | {text} |", *status as u8);
            assert!(doc.contains(&row), "docs/tool.md lacks {row}");
            let entry = format!(".TP\n.B {}\n", *status as u8);
            assert!(page.contains(&entry), "vfiomig.1 lacks status {}", *status as u8);
        }
    }

    #[test]
    fn a_signal_ends_the_tool_as_a_shell_would_say_it() {
        assert_eq!(End::Signal(libc::SIGINT).code(), 130);
        assert_eq!(End::Status(Status::Busy).code(), 6);
    }
}
