// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are made here byte by byte, and one of a real QEMU where there is one.

use std::io::Cursor;
use std::process::{Command, Stdio};

use vfiomig::stream::qemu::{CONFIG_STATE, END_OF_STATE, SETUP_STATE, data_head};

use super::*;

/// What is said of a file, a line each.
fn said(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut data: Vec<(String, usize)> = Vec::new();
    walk(Cursor::new(bytes), &mut |event| {
        match event {
            Event::Section(section) => {
                let Section { kind, offset, length, sized, name, .. } = section;
                lines.push(format!("{offset}+{length} {kind:?} {name} {sized:?}"));
            }
            Event::Data(name, at, piece) => {
                assert_eq!(&bytes[at as usize..at as usize + piece.len()], piece);
                match data.last_mut() {
                    Some((last, len)) if last == name => *len += piece.len(),
                    _ => data.push((name.to_owned(), piece.len())),
                }
            }
            Event::Damage(offset, text) => lines.push(format!("{offset} damage: {text}")),
            Event::Device(vfio) => lines.push(format!(
                "{}: {} sections, {} bytes, config {:?}, ended {}, {:?}",
                vfio.name,
                vfio.sections,
                vfio.data_bytes,
                vfio.config_bytes,
                vfio.ended,
                vfio.problem.as_ref().map(|(offset, error)| (*offset, error.code())),
            )),
            Event::End(complete) => lines.push(format!("the end, {complete}")),
        }
        Ok(())
    })
    .unwrap();
    lines.extend(data.into_iter().map(|(name, len)| format!("{name}: {len} bytes of data")));
    lines
}

fn has(lines: &[String], what: &str) -> bool {
    lines.iter().any(|line| line.contains(what))
}

/// A file in the making.
struct File(Vec<u8>);

impl File {
    fn new() -> File {
        let mut file = File(b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec());
        file.0.extend(b"\x05\x1econfiguration/target-page-bits\0\0\0\x01\0\0\0\x0c");
        file
    }

    fn head(&mut self, kind: u8, id: u32, name: &str) {
        self.0.push(kind);
        self.0.extend(id.to_be_bytes());
        if kind == 1 || kind == 4 {
            self.0.push(name.len() as u8);
            self.0.extend(name.as_bytes());
            self.0.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }

    fn section(&mut self, kind: u8, id: u32, name: &str, body: &[u8]) {
        self.head(kind, id, name);
        self.0.extend(body);
        self.0.push(0x7e);
        self.0.extend(id.to_be_bytes());
    }

    fn tags(&mut self, kind: u8, id: u32, parts: &[&[u8]]) {
        self.section(kind, id, "0000:00:03.0/vfio", &parts.concat());
    }

    fn end(mut self, json: Option<&str>) -> Vec<u8> {
        self.0.push(0);
        if let Some(json) = json {
            self.0.push(6);
            self.0.extend((json.len() as u32).to_be_bytes());
            self.0.extend(json.as_bytes());
        }
        self.0
    }
}

const FOOL: &[u8] = b"\x7e\0\0\0\x05 is not the end, \x7e\0\0\0\x05\x04\0\0\0\0\0 neither";

const JSON: &str = r#"{"configuration": {}, "page_size": 4096, "devices": [
 {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2,
  "fields": [{"name": "a", "type": "uint8", "size": 20},
             {"name": "b", "array_len": 3, "type": "uint8", "size": 4}],
  "subsections": [{"vmsd_name": "x/y", "version": 1,
                   "fields": [{"name": "c", "type": "uint8", "size": 10}]}]}]}"#;

/// A file with these VFIO devices, each with its data, and nothing else.
pub fn devices(devices: &[(&str, &[u8])]) -> Vec<u8> {
    let (setup, end) = (SETUP_STATE.to_be_bytes(), END_OF_STATE.to_be_bytes());
    let mut file = File::new();
    for (id, (name, _)) in (1..).zip(devices) {
        file.section(1, id, name, &[setup, end].concat());
    }
    for (id, (name, data)) in (1..).zip(devices) {
        for piece in data.chunks(100) {
            let body = [&data_head(piece.len() as u64), piece, &end].concat();
            file.section(2, id, name, &body);
        }
        file.section(3, id, name, &end);
    }
    for (id, (name, _)) in (100..).zip(devices) {
        let config = [&CONFIG_STATE.to_be_bytes(), &b"configuration"[..], &end].concat();
        file.section(4, id, name, &config);
    }
    file.end(None)
}

/// RAM of one page and a page of zeros, a timer, and a VFIO device.
pub fn sample(json: Option<&str>) -> Vec<u8> {
    let mut file = File::new();
    let (setup, end) = (SETUP_STATE.to_be_bytes(), END_OF_STATE.to_be_bytes());
    let mut blocks = 0x2004u64.to_be_bytes().to_vec();
    blocks.extend(b"\x06pc.ram");
    blocks.extend(0x2000u64.to_be_bytes());
    blocks.extend(0x10u64.to_be_bytes());
    file.section(1, 2, "ram", &blocks);
    file.tags(1, 3, &[&setup, &end]);
    let mut pages = 0x0008u64.to_be_bytes().to_vec();
    pages.extend(b"\x06pc.ram");
    pages.extend([0x7e; 4096]);
    pages.extend(0x1022u64.to_be_bytes());
    pages.push(0);
    pages.extend(0x10u64.to_be_bytes());
    file.section(3, 2, "ram", &pages);
    file.tags(2, 3, &[&data_head(5), b"state", &end]);
    file.tags(3, 3, &[&data_head(3), b"end", &end]);
    file.section(4, 5, "timer", &FOOL[..FOOL.len().min(48)]);
    let config = CONFIG_STATE.to_be_bytes();
    file.tags(4, 6, &[&config, b"configuration", &end]);
    file.0.extend([8, 0, 1, 0, 0]);
    file.end(json)
}

#[test]
fn vfio_sections_are_found_and_the_rest_is_skipped_with_its_size() {
    // 20 + 3 * 4 + 10, and 9 for the head of the subsection.
    let len = FOOL.len().min(48);
    let json = JSON.replace("\"size\": 20", &format!("\"size\": {}", len - 31));
    let lines = said(&sample(Some(&json)));
    for line in [
        "Configuration pc Parsed",
        "Start ram Parsed",
        "End ram Parsed",
        "Part 0000:00:03.0/vfio Parsed",
        "Full timer Described",
        "Full 0000:00:03.0/vfio Parsed",
        "Command command 1 Parsed",
        "Description description Parsed",
        "0000:00:03.0/vfio: 4 sections, 8 bytes, config Some(13), ended true, None",
        "end, true",
        "0000:00:03.0/vfio: 8 bytes of data",
    ] {
        assert!(has(&lines, line), "{line} in {lines:#?}");
    }
    assert!(!has(&lines, "damage"), "{lines:#?}");
    // Without the description, the footer that a section can follow is the right one.
    let lines = said(&sample(None));
    assert!(has(&lines, "Full timer Searched") && has(&lines, "end, true"), "{lines:#?}");
    // A description that is wrong is not believed.
    let lines = said(&sample(Some(&JSON.replace("\"size\": 20", "\"size\": 21"))));
    assert!(has(&lines, "Full timer Searched") && has(&lines, "ended true"), "{lines:#?}");
}

#[test]
fn every_front_of_a_file_and_every_changed_byte_comes_to_an_end() {
    let whole = sample(Some(JSON));
    for len in 0..whole.len() - JSON.len() - 6 {
        let lines = said(&whole[..len]);
        assert!(has(&lines, "damage") && has(&lines, "end, false"), "{len} {lines:#?}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x81;
        assert!(has(&said(&bytes), "the end, "), "{at}");
    }
    assert!(has(&said(b"QEVM\0\0\0\x02"), "a version other than 3"));
    assert!(has(&said(b"\x7fELF"), "not a migration file"));
}

#[test]
fn what_the_library_would_refuse_of_a_vfio_device_is_named() {
    let (setup, end) = (SETUP_STATE.to_be_bytes(), END_OF_STATE.to_be_bytes());
    let mut file = File::new();
    file.tags(1, 3, &[&setup, &end]);
    file.tags(2, 3, &[&data_head(5), b"state", &setup]);
    file.tags(2, 3, &[&end]);
    let lines = said(&file.end(None));
    assert!(has(&lines, "Part 0000:00:03.0/vfio Searched"), "{lines:#?}");
    assert!(has(&lines, "ended false, Some((") && has(&lines, "Proto"), "{lines:#?}");
}

/// What looks like RAM to the end of the file, and is not, over and over.
#[test]
fn a_file_that_is_never_what_it_looks_like_takes_no_longer_than_others() {
    let mut file = File::new();
    file.section(1, 2, "ram", b"");
    for _ in 0..200_000 {
        // A page, behind which is the same in a later section: 228 of them are as long.
        file.section(2, 2, "", &0x28u64.to_be_bytes());
    }
    let since = std::time::Instant::now();
    let lines = said(&file.end(None));
    assert!(has(&lines, "too much of it is not what it looks like"), "{:?}", lines.last());
    assert!(since.elapsed().as_secs() < 20, "{:?}", since.elapsed());
}

/// A QEMU that has no VFIO device, but a machine's other devices.
#[test]
fn a_file_of_a_real_qemu_is_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let qemu = Command::new("qemu-system-x86_64")
        .args(["-M", "pc", "-S", "-m", "16", "-display", "none", "-nodefaults", "-vga", "none"])
        .args(["-device", "e1000", "-device", "virtio-rng-pci", "-device", "isa-serial"])
        .args(["-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut qemu) = qemu else {
        println!("skipped: there is no qemu-system-x86_64");
        return;
    };
    use std::io::{BufRead as _, Write as _};
    let mut to = qemu.stdin.take().unwrap();
    let mut from = std::io::BufReader::new(qemu.stdout.take().unwrap()).lines();
    let mut ask = |command: &str, until: &str| {
        writeln!(to, "{command}").unwrap();
        from.by_ref().map_while(Result::ok).any(|line| line.contains(until))
    };
    assert!(ask(r#"{"execute": "qmp_capabilities"}"#, "return"));
    let uri = format!("exec:cat >'{}'", path.display());
    ask(&format!(r#"{{"execute": "migrate", "arguments": {{"uri": "{uri}"}}}}"#), "return");
    let query = r#"{"execute": "query-migrate"}"#;
    let mut done = false;
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        writeln!(to, "{query}").unwrap();
        let line = from.by_ref().map_while(Result::ok).find(|line| line.contains("\"return\""));
        done = line.is_some_and(|line| line.contains("completed"));
        if done {
            break;
        }
    }
    drop(to);
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert!(done, "the migration did not complete");
    let bytes = std::fs::read(&path).unwrap();
    let lines = said(&bytes);
    assert!(has(&lines, "end, true") && !has(&lines, "damage"), "{lines:#?}");
    assert!(has(&lines, "End ram Parsed") && has(&lines, "e1000 Described"), "{lines:#?}");
    assert!(!has(&lines, "Searched"), "{lines:#?}");
    // All of it, one section behind the other.
    let mut place = 8;
    for line in &lines {
        if let Some((offset, rest)) = line.split_once('+') {
            assert_eq!(
                offset.parse::<u64>().unwrap(),
                place + u64::from(place > 8 && rest.contains("Description"))
            );
            let len = rest.split(' ').next().unwrap().parse::<u64>().unwrap();
            place = offset.parse::<u64>().unwrap() + len;
        }
    }
    assert_eq!(place, bytes.len() as u64);
    // Without the description, footers lead to the same sections.
    let front = bytes.iter().rposition(|byte| *byte == 6).unwrap();
    let _ = front;
    let at = (0..bytes.len() - 5)
        .find(|at| {
            bytes[*at] == 6
                && bytes[at + 1..at + 5] == ((bytes.len() - at - 5) as u32).to_be_bytes()[..]
        })
        .unwrap();
    let searched = said(&bytes[..at]);
    let of = |lines: &[String]| -> Vec<String> {
        let sections = lines.iter().filter(|line| line.contains('+') && !line.contains("descr"));
        sections.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(of(&searched), of(&lines));
    assert!(has(&searched, "e1000 Searched") && has(&searched, "end, true"));
}
