// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text for people: two columns, colours on a terminal, sizes.

use std::fmt::{self, Write as _};

/// Columns before the text of a line.
pub const INDENT: usize = 14;
/// Lines are broken here.
const WIDTH: usize = 96;

/// Colours, or none.
#[derive(Clone, Copy)]
pub struct Style(pub bool);

impl Style {
    /// What stands out.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// In a colour, by its number.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Good or bad.
    pub fn verdict(self, good: bool, text: &str) -> String {
        self.paint(if good { "32" } else { "31" }, text)
    }
}

/// Text that comes from outside cannot control the terminal.
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| f.write_char(if c.is_control() { '?' } else { c }))
    }
}

/// A size that people can read, and the number of bytes.
pub fn bytes(size: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = size as f64;
    let mut unit = None;
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    match unit {
        None if size == 1 => "1 byte".to_owned(),
        None => format!("{size} bytes"),
        Some(unit) => format!("{value:.1} {unit} ({size} bytes)"),
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] wrote.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

/// A line with a label in the first column.
pub fn line(out: &mut String, label: &str, text: &str) {
    let _ = write!(out, "  {label}");
    wrap(out, &Plain(text).to_string(), 2 + label.chars().count());
}

/// Writes a text into the second column; `used` columns of the first line are taken.
pub fn wrap(out: &mut String, text: &str, used: usize) {
    let mut column = used;
    let mut pad = INDENT.saturating_sub(used).max(1);
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > INDENT && column + 1 + len > WIDTH {
            out.push('\n');
            column = 0;
            pad = INDENT;
        }
        out.extend(std::iter::repeat_n(' ', pad));
        out.push_str(word);
        column += pad + len;
        pad = 1;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_and_aligned() {
        let mut out = String::new();
        let text = "word ".repeat(40);
        line(&mut out, "label", &text);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines.len() > 2);
        for (at, line) in lines.iter().enumerate() {
            assert!(line.len() <= WIDTH, "{line}");
            assert_eq!(line.find("word"), Some(INDENT), "line {at}");
        }
        assert_eq!(out.split_whitespace().filter(|word| *word == "word").count(), 40);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut out = String::new();
        line(&mut out, "x", "a\x1b[31mb\x07");
        assert!(!out.contains('\x1b') && !out.contains('\x07'), "{out:?}");
        assert!(out.contains("a?[31mb?"));
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(96), "96 bytes");
        assert_eq!(bytes(4096), "4.0 KiB (4096 bytes)");
        assert_eq!(bytes(3 << 30), "3.0 GiB (3221225472 bytes)");
        assert_eq!(bytes(u64::MAX), "16.0 EiB (18446744073709551615 bytes)");
    }

    #[test]
    fn hexadecimal_is_read_back_and_nothing_else_is() {
        assert_eq!(from_hex(&hex(&[0, 0x9a, 0xff])), Some(vec![0, 0x9a, 0xff]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for wrong in ["0", "0g", "+1", "00 "] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
