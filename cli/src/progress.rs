// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far long work is: a bar on standard error if that is a terminal, else nothing.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows no bar.
const SHORT: Duration = Duration::from_millis(300);

/// A bar that appears if the work takes a while.
pub struct Progress {
    shown: bool,
    what: String,
    /// Bytes in all, if that is known.
    total: Option<u64>,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of this much work.
    pub fn new(shown: bool, what: &str, total: Option<u64>) -> Progress {
        Progress { shown, what: what.to_owned(), total, since: Instant::now(), bar: None }
    }

    /// This many bytes are done.
    pub fn at(&mut self, bytes: u64) {
        if !self.shown {
            return;
        }
        if self.bar.is_none() && self.since.elapsed() >= SHORT {
            self.bar = Some(self.new_bar());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn new_bar(&self) -> ProgressBar {
        let (len, template) = match self.total {
            Some(total) => (
                Some(total),
                "{msg} [{bar:30}] {percent}% {bytes} of {total_bytes}, {bytes_per_sec}",
            ),
            None => (None, "{msg} {bytes}, {bytes_per_sec}"),
        };
        let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(self.what.clone());
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
