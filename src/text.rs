// SPDX-License-Identifier: MIT OR Apache-2.0
//! Texts that there may be no memory for.

use std::fmt;

use crate::sys::may_fail;

/// A formatted text; `None` if there is no memory for it.
pub(crate) fn format(args: fmt::Arguments<'_>) -> Option<String> {
    let mut out = Text(String::new());
    fmt::write(&mut out, args).ok().map(|()| out.0)
}

/// A text that grows as long as there is memory.
pub(crate) struct Text(pub String);

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.0.capacity() - self.0.len() < part.len() {
            may_fail(|| self.0.try_reserve(part.len())).map_err(|_| fmt::Error)?;
        }
        self.0.push_str(part);
        Ok(())
    }
}
