// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log messages: the library is silent until the VMM asks for them.
//!
//! Messages go through the `log` facade. A Rust VMM sets its own logger and sees them. For a C VMM,
//! the library installs a logger of its own, once, and changes where that one sends.

use std::sync::{Arc, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::alloc;
use crate::error::{Result, err};
use crate::sys::{self, PerProcess};

/// Where messages go.
pub(crate) type Sink = Box<dyn Fn(Level, &str, &str) + Send + Sync>;

/// The guarded value is only ever replaced as a whole, so a panic cannot have left half of it.
type Place = RwLock<Option<Arc<Sink>>>;

struct Dispatcher(PerProcess<Place>);

static DISPATCHER: Dispatcher = Dispatcher(PerProcess::new(RwLock::new(None)));

impl Dispatcher {
    /// A child's messages go where its parent's do, unless another thread of the parent was
    /// changing that at the time of the fork.
    fn sink(&self) -> &Place {
        self.0.get(|parents| {
            let sink = parents.try_read().map_or(None, |sink| sink.clone());
            RwLock::new(sink)
        })
    }
}

impl Log for Dispatcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Called without the lock, so that a sink may set another one.
        let sink = self.sink().read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink {
            let text = alloc::format(*record.args());
            let text = text.as_deref().unwrap_or("(no memory for this message)");
            sink(record.level(), record.target(), text);
        }
    }

    fn flush(&self) {}
}

/// Sends messages up to `level` to `sink`, or nowhere. Fails if the process has another logger.
pub(crate) fn set(sink: Option<Sink>, level: LevelFilter) -> Result<()> {
    // `set_logger` succeeds only once; after that, our own logger is recognised by its address.
    let ours = log::set_logger(&DISPATCHER).is_ok()
        || std::ptr::addr_eq(std::ptr::from_ref(log::logger()), &raw const DISPATCHER);
    if !ours {
        return Err(err!(Busy, "this process has a Rust logger already; set that one up instead"));
    }
    let mut place = DISPATCHER.sink().write().unwrap_or_else(PoisonError::into_inner);
    let old = std::mem::replace(&mut *place, sink.map(Arc::new));
    drop(place);
    log::set_max_level(level);
    // Dropped last, without the lock, because it releases the VMM's data.
    drop(old);
    Ok(())
}

/// The longest `VFIOMIG_LOG` that is looked at, in bytes.
const MAX_RULES: usize = 4096;

/// What `VFIOMIG_LOG` says: `LEVEL` for all messages, or `TARGET=LEVEL` for those whose targets begin
/// so, or `TARGET` alone for all of its messages; several with commas between them. The longest target
/// that fits a message decides. Without any of these: errors.
struct Filter(String);

impl Filter {
    fn rules(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.0.split(',').filter_map(|text| rule(text).ok())
    }

    /// The highest level of any target.
    fn max(&self) -> LevelFilter {
        self.rules().map(|(_, level)| level).max().unwrap_or(LevelFilter::Error)
    }

    fn passes(&self, level: Level, target: &str) -> bool {
        let fitting = self.rules().filter(|(name, _)| target.starts_with(name));
        // Of two that are as long, the last.
        let best = fitting.max_by_key(|(name, _)| name.len());
        let none = self.rules().next().is_none();
        level <= best.map_or(if none { LevelFilter::Error } else { LevelFilter::Off }, |(_, l)| l)
    }
}

/// A target and its level, or what is not understood.
fn rule(text: &str) -> std::result::Result<(&str, LevelFilter), &str> {
    let text = text.trim();
    match text.split_once('=') {
        Some((name, level)) => {
            let level = level.trim().parse().map_err(|_| text)?;
            Ok((name.trim(), level))
        }
        None if text.is_empty() => Err(text),
        None => Ok(text.parse().map_or((text, LevelFilter::Trace), |level| ("", level))),
    }
}

/// Logs to standard error as `VFIOMIG_LOG` says.
pub(crate) fn init_env() -> Result<()> {
    let copy = |value: &[u8]| alloc::text_of_bytes(value, MAX_RULES, "no memory for VFIOMIG_LOG");
    let filter = Filter(sys::environment(c"VFIOMIG_LOG", copy)?);
    for text in filter.0.split(',').filter_map(|text| rule(text).err()) {
        if !text.is_empty() {
            say(format_args!("vfiomig: not understood in VFIOMIG_LOG, ignored: {text}\n"));
        }
    }
    let level = filter.max();
    let sink: Sink = Box::new(move |level, target, message| {
        if filter.passes(level, target) {
            say(format_args!("[{level:<5} {target}] {message}\n"));
        }
    });
    set(Some(sink), level)
}

fn say(line: std::fmt::Arguments<'_>) {
    sys::write_to_stderr(alloc::format(line).unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str, level: Level, target: &str) -> bool {
        let filter = Filter(filter.to_owned());
        // What is above every level never comes here.
        level <= filter.max() && filter.passes(level, target)
    }

    #[test]
    fn one_level_is_for_all_messages() {
        for (text, last) in [
            ("trace", Some(Level::Trace)),
            ("Debug", Some(Level::Debug)),
            (" info ", Some(Level::Info)),
            ("WARN", Some(Level::Warn)),
            ("error", Some(Level::Error)),
            ("off", None),
            // Nothing that is understood: errors.
            ("", Some(Level::Error)),
            (",", Some(Level::Error)),
            ("vfiomig=loud", Some(Level::Error)),
        ] {
            for level in Level::iter() {
                let expected = last.is_some_and(|last| level <= last);
                assert_eq!(passes(text, level, "vfiomig::save"), expected, "{text} {level}");
            }
        }
    }

    #[test]
    fn the_longest_target_that_fits_decides() {
        let text = "warn,vfiomig::load=trace, vfiomig::load::limits = off,vfiomig::dirty";
        for (target, level, expected) in [
            ("vfiomig::save", Level::Warn, true),
            ("vfiomig::save", Level::Info, false),
            ("vfiomig::load", Level::Trace, true),
            ("vfiomig::loading", Level::Trace, true),
            ("vfiomig::load::limits", Level::Error, false),
            ("vfiomig::dirty", Level::Trace, true),
        ] {
            assert_eq!(passes(text, level, target), expected, "{target} {level}");
        }
        assert!(!passes("vfiomig::load=debug", Level::Error, "vfiomig::save"));
        // Of two for the same target the last.
        assert!(passes("off,info", Level::Info, "vfiomig::save"));
        assert!(!passes("info,off", Level::Error, "vfiomig::save"));
        assert!(!passes("info,nonsense=x,off", Level::Error, "vfiomig::save"));
    }
}
