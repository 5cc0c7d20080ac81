// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that the tool writes: whole under their name, or not there at all. One that was there
//! before stays until its successor is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::exit::{Result, Status, Trouble, system_text};

/// A file that does not have its name yet.
pub struct NewFile {
    file: File,
    /// Where it is until it is complete.
    at: PathBuf,
    name: PathBuf,
    named: bool,
}

fn failed(name: &Path, error: &io::Error) -> Trouble {
    let of = io::Error::new(error.kind(), system_text(error));
    Trouble::of_output(format_args!("{}: not written", name.display()), &of)
}

/// Refuses a name that is taken by something other than a file. The link would be replaced, and not
/// what it leads to.
pub fn judge(name: &Path) -> Result<()> {
    let what = match fs::symlink_metadata(name) {
        Ok(meta) if meta.is_file() => return Ok(()),
        Ok(meta) if meta.is_symlink() => {
            "is a symbolic link, and is not replaced: name what it leads to, or remove it"
        }
        Ok(meta) if meta.is_dir() => "is a directory: name a file in it",
        Ok(_) => "is not a file, and is not replaced by one: choose another name",
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(name, &error)),
    };
    Err(Trouble::new(Status::Resources, format!("{} {what}", name.display())))
}

/// A new file in the directory of `name`. Its own name is short, since `name` may be as long as names
/// can be.
fn create_beside(name: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 0;
    loop {
        let at = name.with_file_name(format!(".vfiomig-{}-{number}.new", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at) {
            Ok(file) => return Ok((file, at)),
            // Another one of this process, or what a process of this number has left.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {
                number += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

impl NewFile {
    /// A file beside the one that it is to become, for its owner only: what a device held may be
    /// confidential.
    pub fn create(name: &Path) -> Result<NewFile> {
        judge(name)?;
        let (file, at) = create_beside(name).map_err(|error| failed(name, &error))?;
        Ok(NewFile { file, at, name: name.to_owned(), named: false })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| failed(&self.name, &error))
    }

    /// Gives it its name, when it is on the disk.
    pub fn finish(mut self) -> Result<()> {
        let done = self.file.sync_all().and_then(|()| fs::rename(&self.at, &self.name));
        self.named = done.is_ok();
        done.map_err(|error| failed(&self.name, &error))?;
        // The name, too. Some file systems cannot do that, and have done it already.
        let directory = self.name.parent().filter(|path| !path.as_os_str().is_empty());
        if let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::End;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("file");
        fs::write(&name, "before").unwrap();
        let mut new = NewFile::create(&name).unwrap();
        new.write(b"half").unwrap();
        drop(new);
        assert_eq!(fs::read(&name).unwrap(), b"before");
        let mut new = NewFile::create(&name).unwrap();
        new.write(b"whole").unwrap();
        new.finish().unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_longest_name_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("n".repeat(255));
        let mut new = NewFile::create(&name).unwrap();
        let other = NewFile::create(&dir.path().join("other")).unwrap();
        new.write(b"whole").unwrap();
        new.finish().unwrap();
        drop(other);
        assert_eq!(fs::read(&name).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for there in [false, true] {
            let trouble = NewFile::create(&link).err().unwrap();
            assert_eq!(trouble.end, End::Status(Status::Resources), "{there}");
            fs::write(&file, "before").unwrap();
        }
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"before");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_not_a_file_is_not_replaced() {
        for name in ["/dev/full", "/dev/null", "/tmp"] {
            let trouble = NewFile::create(Path::new(name)).err().unwrap();
            assert_eq!(trouble.end, End::Status(Status::Resources), "{name}");
        }
    }
}
