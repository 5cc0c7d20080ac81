// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool's reader of QEMU's migration files, on any bytes: it comes to an end, says the same however
//! the file is read, and what it says lies in the file, one section behind the other.

mod reader;

use std::io::{Cursor, Read, Result, Seek, SeekFrom};

use crate::input::Input;
use reader::{Event, SectionKind, walk};

/// A file that gives few bytes at once.
struct Short<'a> {
    file: Cursor<&'a [u8]>,
    most: usize,
}

impl Read for Short<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let most = self.most.min(buf.len());
        self.file.read(&mut buf[..most])
    }
}

impl Seek for Short<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.file.seek(to)
    }
}

/// What is said, a line each; data as the place where each run of it ends.
fn said(file: &[u8], most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut place, mut data) = (0, 0u64);
    walk(Short { file: Cursor::new(file), most }, &mut |event| {
        match event {
            Event::Section(section) => {
                assert!(section.offset >= place && section.length > 0, "{section:?} after {place}");
                place = section.offset + section.length;
                assert!(place <= file.len() as u64, "{section:?}");
                let first = section.kind != SectionKind::Part;
                lines.push(format!("{section:?}, {}", if first { section.name.len() } else { 0 }));
            }
            Event::Data(name, at, bytes) => {
                assert!(!name.is_empty());
                assert_eq!(file.get(at as usize..at as usize + bytes.len()), Some(bytes));
                data += bytes.len() as u64;
            }
            Event::Damage(offset, text) => {
                assert!(offset <= file.len() as u64, "{offset}: {text}");
                lines.push(format!("{offset} {text}"));
            }
            Event::Device(vfio) => {
                let problem = vfio.problem.as_ref().map(|(at, error)| (*at, error.code()));
                data -= vfio.data_bytes;
                lines.push(format!(
                    "{} {} {} {:?} {} {} {problem:?}",
                    vfio.name,
                    vfio.sections,
                    vfio.data_bytes,
                    vfio.config_bytes,
                    vfio.initial_marks,
                    vfio.is_whole()
                ));
            }
            Event::End(complete) => lines.push(complete.to_string()),
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(data, 0, "data of no device");
    lines
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (begun, most) = (input.flag(), usize::from(input.u8()) + 1);
    let mut file = if begun { b"QEVM\0\0\0\x03".to_vec() } else { Vec::new() };
    file.extend_from_slice(input.all());
    assert_eq!(said(&file, usize::MAX), said(&file, most));
}
