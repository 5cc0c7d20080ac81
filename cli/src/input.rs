// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are given to the tool to read. They may be anything: nothing here waits for somebody
//! to write, and nothing is opened that is neither a file nor a pipe.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::exit::{Result, Status, Trouble, system_text};
use crate::sys::set_blocking;

/// An open input.
pub struct Input {
    /// As it was given.
    pub name: String,
    file: File,
    /// The first byte of a pipe, which was read to see whether anybody writes to it.
    first: Option<u8>,
}

/// Opens what was given; `-` is standard input.
pub fn open(given: &str) -> Result<Input> {
    if given == "-" {
        return open_stdin();
    }
    let path = Path::new(given);
    let failed = |error: &io::Error| cannot_open(given, error);
    // Before it is opened: opening some devices does something to them.
    judge(given, &path.metadata().map_err(|error| failed(&error))?, false)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| failed(&error))?;
    let meta = file.metadata().map_err(|error| failed(&error))?;
    judge(given, &meta, false)?;
    let mut input = Input::new(given, file);
    if meta.file_type().is_fifo() {
        input.first = Some(first_of_pipe(given, &mut input.file)?);
    }
    Ok(input)
}

fn open_stdin() -> Result<Input> {
    let name = "standard input";
    let failed = |error: io::Error| cannot_open(name, &error);
    let stdin = io::stdin();
    let file = File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?);
    let meta = file.metadata().map_err(failed)?;
    judge(name, &meta, stdin.is_terminal())?;
    Ok(Input::new(name, file))
}

fn cannot_open(name: &str, error: &io::Error) -> Trouble {
    let (status, todo) = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (Status::Permission, ": run as a user who may read it, or give it to this one")
        }
        io::ErrorKind::NotFound => (Status::Input, ": check the name"),
        _ => (Status::Input, ""),
    };
    Trouble::new(status, format!("{name}: {}{todo}", system_text(error)))
}

/// Refuses what cannot hold a stream.
fn judge(name: &str, meta: &Metadata, terminal: bool) -> Result<()> {
    let kind = meta.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "is a directory: name a file in it"
    } else if kind.is_fifo() || kind.is_socket() {
        return Ok(());
    } else if terminal {
        "is a terminal: name a file, or pipe one in"
    } else if kind.is_char_device() || kind.is_block_device() {
        "is a device node: copy what it holds into a file, or pipe it in"
    } else {
        "is not a file"
    };
    Err(Trouble::new(Status::Input, format!("{name} {what}")))
}

/// Sees whether anybody writes to a pipe that was opened without waiting, and waits for the first
/// byte if so.
fn first_of_pipe(name: &str, file: &mut File) -> Result<u8> {
    let nobody = "is a pipe that nobody writes to: start the writer first, or name a file";
    let mut first = [0];
    loop {
        match file.read(&mut first) {
            Ok(0) => return Err(Trouble::new(Status::Input, format!("{name} {nobody}"))),
            Ok(_) => {
                set_blocking(file).map_err(|error| cannot_open(name, &error))?;
                return Ok(first[0]);
            }
            // Somebody has it open for writing.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                set_blocking(file).map_err(|error| cannot_open(name, &error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_open(name, &error)),
        }
    }
}

impl Input {
    fn new(name: &str, file: File) -> Input {
        Input { name: name.to_owned(), file, first: None }
    }

    /// The next bytes; none at the end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if let (Some(byte), Some(place)) = (self.first, buf.first_mut()) {
            *place = byte;
            self.first = None;
            return Ok(1);
        }
        loop {
            match self.file.read(buf) {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let text = format!("{}: cannot be read: {}", self.name, system_text(&error));
                    return Err(Trouble::new(Status::Input, text));
                }
            }
        }
    }

    /// All of it, if it has no more than `most` bytes.
    pub fn read_all(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut buf = [0; 16 << 10];
        loop {
            let len = self.read(&mut buf)?;
            bytes.extend_from_slice(buf.get(..len).unwrap_or_default());
            if bytes.len() > most {
                return Ok(None);
            }
            if len == 0 {
                return Ok(Some(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use super::*;

    fn fifo(dir: &Path) -> String {
        let path = dir.join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_pipe_is_read_if_somebody_writes_to_it_and_is_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let name = fifo(dir.path());
        let trouble = open(&name).err().unwrap();
        assert_eq!(trouble.status, Status::Input);
        assert!(trouble.text.contains("nobody writes to"), "{}", trouble.text);

        let keep = OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let mut writer = OpenOptions::new().write(true).open(&name).unwrap();
        let sent = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"a pipe").unwrap();
        });
        let mut input = open(&name).unwrap();
        sent.join().unwrap();
        drop(keep);
        assert_eq!(input.read_all(6).unwrap().unwrap(), b"a pipe");
    }
}
