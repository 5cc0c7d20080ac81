// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log messages: the library is silent until the VMM asks for them.
//!
//! Messages go through the `log` facade. A Rust VMM sets its own logger and sees them. For a C VMM,
//! the library installs a logger of its own, once, and changes where that one sends.

use std::sync::{Arc, PoisonError, RwLock};

use log::{LevelFilter, Log, Metadata, Record};

use crate::alloc;
use crate::error::{Result, err};
use crate::sys::PerProcess;

/// Where messages go.
pub(crate) type Sink = Box<dyn Fn(log::Level, &str, &str) + Send + Sync>;

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

/// Logs to standard error as `VFIOMIG_LOG` says.
#[cfg(feature = "env-logger")]
pub(crate) fn init_env() -> Result<()> {
    let logger = env_logger::Builder::from_env("VFIOMIG_LOG").build();
    let level = logger.filter();
    let sink: Sink = Box::new(move |level, target, message| {
        // In one expression: before Rust 1.89, what `format_args!` makes ends with its statement.
        let wanted = logger.matches(
            &Record::builder().level(level).target(target).args(format_args!("{message}")).build(),
        );
        if wanted {
            // Not with the logger's own writer: it has a lock, which a child may find taken.
            let line = alloc::format(format_args!("[{level:<5} {target}] {message}\n"));
            crate::sys::write_to_stderr(line.unwrap_or_default().as_bytes());
        }
    });
    set(Some(sink), level)
}

/// Logs to standard error as `VFIOMIG_LOG` says.
#[cfg(not(feature = "env-logger"))]
pub(crate) fn init_env() -> Result<()> {
    Err(err!(NotSupported, "this library was built without the feature env-logger"))
}
