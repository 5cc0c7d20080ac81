// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are given to the tool to read. They may be anything: nothing here waits for somebody
//! to write, and nothing is opened that is neither a file nor a pipe.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::exit::{Result, Status, Trouble, system_text};
use crate::sys::set_blocking;

/// What to do about a file that is not whole because it is still growing.
pub const GROWING: &str = "it is still being written: try again when that has ended";

/// An open input.
pub struct Input {
    /// As it was given.
    pub name: String,
    file: File,
    /// Length of a regular file, when it was opened.
    pub len: Option<u64>,
    stamp: Option<Stamp>,
    /// What was read ahead: to see whether anybody writes to a pipe, or what a file is.
    ahead: Vec<u8>,
}

/// What changes when somebody writes to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp { len: meta.len(), changed: (meta.mtime(), meta.mtime_nsec()) }
    }
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
    let mut input = Input::new(given, file, &meta);
    if meta.file_type().is_fifo() {
        input.ahead.push(first_of_pipe(given, &mut input.file)?);
    }
    Ok(input)
}

/// Refuses what is not a regular file that can be read.
pub fn judge_file(given: &str) -> Result<()> {
    let meta = Path::new(given).metadata().map_err(|error| cannot_open(given, &error))?;
    match judge(given, &meta, false) {
        Ok(()) if !meta.is_file() => {
            Err(Trouble::new(Status::Input, format!("{given} is not a file")))
        }
        Ok(()) => File::open(given).map(drop).map_err(|error| cannot_open(given, &error)),
        Err(trouble) => Err(trouble),
    }
}

fn open_stdin() -> Result<Input> {
    let name = "standard input";
    let failed = |error: io::Error| cannot_open(name, &error);
    let stdin = io::stdin();
    let file = File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?);
    let meta = file.metadata().map_err(failed)?;
    judge(name, &meta, stdin.is_terminal())?;
    Ok(Input::new(name, file, &meta))
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
    fn new(name: &str, file: File, meta: &Metadata) -> Input {
        let is_file = meta.is_file();
        Input {
            name: name.to_owned(),
            file,
            len: is_file.then_some(meta.len()),
            stamp: is_file.then(|| Stamp::of(meta)),
            ahead: Vec::new(),
        }
    }

    /// The next bytes; none at the end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buf.len());
            for (place, byte) in buf.iter_mut().zip(self.ahead.drain(..len)) {
                *place = byte;
            }
            return Ok(len);
        }
        loop {
            match self.file.read(buf) {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(&error)),
            }
        }
    }

    /// The first bytes, which are read again later; fewer if there are no more.
    pub fn peek<const N: usize>(&mut self) -> Result<Vec<u8>> {
        let mut start = std::mem::take(&mut self.ahead);
        let mut buf = [0; N];
        while start.len() < N {
            let room = buf.get_mut(..N - start.len()).unwrap_or_default();
            match self.read(room)? {
                0 => break,
                len => start.extend_from_slice(buf.get(..len).unwrap_or_default()),
            }
        }
        self.ahead = start.clone();
        Ok(start)
    }

    /// What lies at an offset of a file; less at its end.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(&error)),
            }
        }
    }

    /// Begins a file again.
    pub fn rewind(&mut self) -> Result<()> {
        self.ahead.clear();
        self.file.rewind().map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> Trouble {
        let text = format!("{}: cannot be read: {}", self.name, system_text(error));
        Trouble::new(Status::Input, text)
    }

    /// Whether somebody has written to the file since it was opened.
    pub fn has_changed(&self) -> bool {
        match (self.stamp, self.file.metadata()) {
            (Some(stamp), Ok(meta)) => stamp != Stamp::of(&meta),
            _ => false,
        }
    }

    /// What to do about an input that is not whole: wait, or this.
    pub fn if_growing<'t>(&self, otherwise: &'t str) -> &'t str {
        if self.has_changed() { GROWING } else { otherwise }
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
    use std::fs;
    use std::io::Write;
    use std::process::Command;

    use super::*;
    use crate::exit::End;

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
        assert_eq!(trouble.end, End::Status(Status::Input));
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

    #[test]
    fn a_file_that_grows_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "abc").unwrap();
        let mut input = open(path.to_str().unwrap()).unwrap();
        assert_eq!(input.peek::<2>().unwrap(), b"ab");
        assert_eq!(input.read_all(3).unwrap().unwrap(), b"abc");
        assert!(!input.has_changed());
        fs::write(&path, "abcd").unwrap();
        assert!(input.has_changed());
    }
}
