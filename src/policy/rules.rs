// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of a policy file: how they are written, and what they say of a device.
//!
//! Their grammar is in vfiomig-policy(5). A `deny` rule that fits counts, wherever it stands, so
//! that appending a line switches something off for certain. What is not known of a device may be
//! what a rule asks for: it is then denied, and not allowed.

use std::fmt;
use std::ops::Range;

use super::facts::{Facts, Holds};
use crate::alloc;
use crate::switch::{Direction, Directions};

/// The longest file, in bytes.
pub const MAX_FILE: usize = 64 << 10;
/// The most lines.
pub const MAX_LINES: usize = 1000;
/// The longest value of a condition, in bytes: what it is compared with is not longer.
const MAX_VALUE: usize = 64;

/// What is wrong with a policy file, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    /// The line, from 1; 0: the whole file.
    pub line: usize,
    /// What is wrong. Says nothing of what the file contains, which may be any file.
    pub text: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(self.text),
            line => write!(f, "line {line}: {}", self.text),
        }
    }
}

/// What texts a rule can ask for, in the order of [`Rule::texts`].
const TEXT_KEYS: [&str; 4] = ["driver", "device", "mdev-type", "vendor-type"];

/// PCI vendor and device; what is not given may be any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PciIds(Option<u16>, Option<u16>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    line: usize,
    deny: bool,
    directions: Option<Directions>,
    pci: Option<PciIds>,
    /// Where in the file the values stand.
    texts: [Option<Range<usize>>; TEXT_KEYS.len()],
}

/// A whole policy file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    text: String,
    rules: Vec<Rule>,
    /// Whether what no rule allows is denied, and the line that says so.
    default: Option<(bool, usize)>,
}

impl Rules {
    /// Reads a policy file's contents.
    pub fn parse(bytes: &[u8]) -> Result<Rules, SyntaxError> {
        let whole = |text| SyntaxError { line: 0, text };
        if bytes.len() > MAX_FILE {
            return Err(whole("it is longer than 64 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            SyntaxError { line, text: "it is not valid UTF-8" }
        })?;
        let mut rules = Rules {
            text: alloc::text(text, "").map_err(|_| whole("there is no memory to read it"))?,
            rules: Vec::new(),
            default: None,
        };
        let mut at = 0;
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            rules.line(number, at, line).map_err(|text| SyntaxError { line: number, text })?;
            at += line.len();
        }
        rules.check()?;
        Ok(rules)
    }

    /// How many rules there are, without the default.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is nothing but a default.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether what no rule allows is denied.
    pub fn denies_by_default(&self) -> bool {
        self.default.is_some_and(|(deny, _)| deny)
    }

    /// The line that denies a device this direction, if one does.
    pub fn denies(&self, direction: Direction, device: &Facts<'_>) -> Option<usize> {
        let fits = |rule: &&Rule| self.fits(rule, direction, device);
        let denying = self.rules.iter().filter(|rule| rule.deny).find(fits);
        if let Some(rule) = denying {
            return Some(rule.line);
        }
        match self.default {
            Some((true, line)) if !self.rules.iter().any(|rule| !rule.deny && fits(&rule)) => {
                Some(line)
            }
            _ => None,
        }
    }

    fn fits(&self, rule: &Rule, direction: Direction, device: &Facts<'_>) -> bool {
        if rule.directions.is_some_and(|directions| !directions.contains(direction.alone())) {
            return false;
        }
        let known: [(_, Same); TEXT_KEYS.len()] = [
            (device.driver(), same_name),
            (device.name(), u8::eq_ignore_ascii_case),
            (device.mdev_type(), u8::eq),
            (device.vendor_type(), u8::eq),
        ];
        let texts = rule.texts.iter().zip(known).filter_map(|(wanted, (known, same))| {
            let pattern = self.text.get(wanted.clone()?)?;
            Some(known.holds(|text| matches(pattern.as_bytes(), text.as_bytes(), same)))
        });
        let pci = rule.pci.map(|PciIds(vendor, device_id)| {
            device.pci().holds(|(is_vendor, is_device)| {
                vendor.is_none_or(|id| id == is_vendor)
                    && device_id.is_none_or(|id| id == is_device)
            })
        });
        texts.chain(pci).all(|holds| match holds {
            Holds::Yes => true,
            Holds::No => false,
            Holds::Perhaps => rule.deny,
        })
    }

    // --- reading -----------------------------------------------------------------------------------

    /// Takes a line, which begins at `start` in the file.
    fn line(&mut self, number: usize, start: usize, line: &str) -> Result<(), &'static str> {
        if number > MAX_LINES {
            return Err("there are more than 1000 lines");
        }
        let Some(line) = line.strip_suffix('\n') else {
            return Err("the last line has no end: is the file complete?");
        };
        if let Some(what) = line.chars().find_map(why_refused) {
            return Err(what);
        }
        let line = line.split('#').next().unwrap_or_default();
        let mut words = Words { line, at: 0 };
        let Some((_, action)) = words.next() else { return Ok(()) };
        match action {
            "default" => self.default_line(number, words),
            "allow" | "deny" => {
                let rule = read_rule(number, action == "deny", start, words)?;
                alloc::push(&mut self.rules, rule, "").map_err(|_| "there is no memory for it")
            }
            _ => Err("a line begins with allow, deny or default"),
        }
    }

    fn default_line(&mut self, number: usize, mut words: Words<'_>) -> Result<(), &'static str> {
        let deny = match words.next() {
            Some((_, "allow")) => false,
            Some((_, "deny")) => true,
            _ => return Err("after default comes allow or deny"),
        };
        if words.next().is_some() {
            return Err("nothing comes after default allow or default deny");
        }
        match self.default.replace((deny, number)) {
            None => Ok(()),
            Some(_) => Err("there is a default already"),
        }
    }

    /// What no single line shows.
    fn check(&self) -> Result<(), SyntaxError> {
        if self.rules.is_empty() && self.default.is_none() {
            let text = "it says nothing: if everything is to be allowed, write default allow";
            return Err(SyntaxError { line: 0, text });
        }
        match self.rules.iter().find(|rule| !rule.deny) {
            Some(rule) if !self.denies_by_default() => Err(SyntaxError {
                line: rule.line,
                text: "allow has no effect without default deny, because the rest is allowed too",
            }),
            _ => Ok(()),
        }
    }
}

/// What must not be in a line, not even in a comment.
fn why_refused(c: char) -> Option<&'static str> {
    match c {
        '\t' => None,
        '\r' => Some("it ends with a carriage return: save the file with Unix line ends"),
        '\0' => Some("it contains a NUL"),
        '\u{feff}' => Some("it contains a byte order mark: save the file without"),
        c if c.is_control() => Some("it contains a control character"),
        _ => None,
    }
}

/// Words between spaces and tabs, and where they begin.
struct Words<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        let is_space = |c: char| c == ' ' || c == '\t';
        let rest = self.line.get(self.at..)?;
        let start = self.at + rest.find(|c| !is_space(c))?;
        let rest = self.line.get(start..)?;
        let word = rest.get(..rest.find(is_space).unwrap_or(rest.len()))?;
        self.at = start + word.len();
        Some((start, word))
    }
}

fn read_rule(
    line: usize,
    deny: bool,
    start: usize,
    words: Words<'_>,
) -> Result<Rule, &'static str> {
    const TWICE: &str = "a condition stands there twice";
    let mut rule = Rule { line, deny, directions: None, pci: None, texts: Default::default() };
    for (at, word) in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err("a condition is written KEY=VALUE, without spaces");
        };
        check_value(value)?;
        if let Some((_, place)) =
            TEXT_KEYS.iter().zip(&mut rule.texts).find(|(name, _)| **name == key)
        {
            let from = start + at + key.len() + 1;
            if place.replace(from..from + value.len()).is_some() {
                return Err(TWICE);
            }
            if key == "device" && lacks_domain(value) {
                return Err("a PCI address begins with its domain: 0000:01:00.0, or *:01:00.0");
            }
            continue;
        }
        let twice = match key {
            "direction" => rule.directions.replace(read_direction(value)?).is_some(),
            "pci" => rule.pci.replace(read_pci(value)?).is_some(),
            _ => {
                return Err(
                    "the conditions are driver, device, mdev-type, vendor-type, pci and direction",
                );
            }
        };
        if twice {
            return Err(TWICE);
        }
    }
    Ok(rule)
}

fn check_value(value: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:+*".contains(c);
    match value {
        "" => Err("a condition has no value"),
        value if value.len() > MAX_VALUE => Err("a value is longer than 64 bytes"),
        value if !value.chars().all(allowed) => {
            Err("a value has letters, digits, . _ - : + and the wildcard *")
        }
        _ => Ok(()),
    }
}

/// Whether it is a PCI address as lspci shows it, which is the name of no device.
fn lacks_domain(value: &str) -> bool {
    let form = value.bytes().map(|c| if c.is_ascii_hexdigit() { b'0' } else { c });
    form.eq(*b"00:00.0")
}

fn read_direction(value: &str) -> Result<Directions, &'static str> {
    match value {
        "save" => Ok(Directions::SAVE),
        "load" => Ok(Directions::LOAD),
        _ => Err("a direction is save or load"),
    }
}

fn read_pci(value: &str) -> Result<PciIds, &'static str> {
    const FORM: &str = "PCI ids are written VENDOR:DEVICE, each 4 hexadecimal digits or *";
    let (vendor, device) = value.split_once(':').ok_or(FORM)?;
    let id = |text: &str| match text {
        "*" => Ok(None),
        text if text.len() == 4 && text.chars().all(|c| c.is_ascii_hexdigit()) => {
            u16::from_str_radix(text, 16).map(Some).map_err(|_| FORM)
        }
        _ => Err(FORM),
    };
    Ok(PciIds(id(vendor)?, id(device)?))
}

/// Whether two characters of a value are the same.
type Same = fn(&u8, &u8) -> bool;

/// As for modprobe: people write mlx5-vfio-pci for mlx5_vfio_pci, and a rule that never fits would
/// tell nobody.
fn same_name(a: &u8, b: &u8) -> bool {
    let plain = |c: u8| if c == b'-' { b'_' } else { c };
    plain(*a) == plain(*b)
}

/// Whether `text` is what `pattern` says, where * stands for anything.
fn matches(pattern: &[u8], text: &[u8], same: Same) -> bool {
    let starts = |part: &[u8], text: &[u8]| {
        part.len() <= text.len() && part.iter().zip(text).all(|(a, b)| same(a, b))
    };
    let mut parts = pattern.split(|c| *c == b'*');
    let first = parts.next().unwrap_or_default();
    if !starts(first, text) {
        return false;
    }
    let Some(last) = parts.next_back() else { return first.len() == text.len() };
    let mut text = text.get(first.len()..).unwrap_or_default();
    for part in parts {
        let found = (0..=text.len()).find(|at| starts(part, text.get(*at..).unwrap_or_default()));
        let Some(at) = found else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    let end = text.len().checked_sub(last.len()).and_then(|at| text.get(at..));
    end.is_some_and(|end| starts(last, end))
}

#[cfg(test)]
mod tests;
