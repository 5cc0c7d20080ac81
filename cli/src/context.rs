// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command works with: where devices are and how they are opened, where its output goes, and
//! whether somebody is watching.

use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::Value;

use crate::exit::Result;
use crate::history::Histories;
use crate::interrupt::Interrupt;
use crate::open::{OpenError, Opened, Way};
use crate::sysfs::Root;
use crate::text::{Plain, Style};

/// Opens a device.
pub type Open<'a> = &'a dyn Fn(&Root, &Way) -> std::result::Result<Opened, OpenError>;

/// A command's surroundings.
pub struct Context<'a> {
    /// Where `/sys`, `/dev` and so on are.
    pub root: Root,
    /// How devices are opened.
    pub open: Open<'a>,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Where questions are answered, if somebody is there.
    pub answers: Option<&'a mut dyn BufRead>,
    /// Colours of the output.
    pub style: Style,
    /// Whether standard error is a terminal, which shows how far long work is.
    pub progress: bool,
    /// What asks the tool to stop.
    pub interrupt: Interrupt,
    /// What happened to the devices that were open.
    pub histories: Histories,
}

impl Context<'_> {
    /// One line about what went wrong.
    pub fn complain(&mut self, text: &str) {
        let _ = writeln!(self.err, "vfiomig: {}", Plain(text));
    }

    /// Text for people.
    pub fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// JSON for programs.
    pub fn json(&mut self, value: &Value) -> Result<()> {
        Ok(writeln!(self.out, "{value:#}")?)
    }

    /// Asks a person; `None` if there is none to ask.
    pub fn ask(&mut self, question: &str) -> Option<bool> {
        let answers = self.answers.as_mut()?;
        let _ = write!(self.err, "{question} Type yes to go on: ");
        let _ = self.err.flush();
        let mut line = String::new();
        // What is longer is not "yes".
        let _ = io::Read::take(answers, 16).read_line(&mut line);
        Some(line.trim() == "yes")
    }
}

/// Colours, if the output goes to a terminal that may have them.
pub fn style_of(out: &impl IsTerminal) -> Style {
    Style(out.is_terminal() && std::env::var_os("NO_COLOR").is_none())
}
