//! The library's voice: silent until the VMM asks.
//!
//! Messages go through the `log` facade. A Rust VMM sets its own logger and sees them; for a C VMM
//! the library installs a logger of its own, once, and changes where that one sends.

use std::sync::PoisonError;

use log::{LevelFilter, Log, Metadata, Record};
use once_cell::sync::OnceCell;

use crate::alloc;
use crate::error::{Result, err};
use crate::sync::{Mutex, MutexGuard};

/// Where messages go.
pub(crate) type Sink = Box<dyn Fn(log::Level, &str, &str) + Send + Sync>;

struct Dispatcher {
    sink: Mutex<Option<std::sync::Arc<Sink>>>,
}

static DISPATCHER: OnceCell<Dispatcher> = OnceCell::new();

impl Dispatcher {
    fn sink(&self) -> MutexGuard<'_, Option<std::sync::Arc<Sink>>> {
        // The guarded value is replaced as a whole: a panic cannot have left half of it.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
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
        let sink = self.sink().clone();
        if let Some(sink) = sink {
            let text = alloc::format(*record.args());
            let text = text.as_deref().unwrap_or("(no memory for this message)");
            sink(record.level(), record.target(), text);
        }
    }

    fn flush(&self) {}
}

/// Sends messages up to `level` to `sink`, or nowhere. Fails where the process has a logger of
/// another kind.
pub(crate) fn set(sink: Option<Sink>, level: LevelFilter) -> Result<()> {
    let dispatcher = DISPATCHER.get_or_init(|| Dispatcher { sink: Mutex::new(None) });
    // `set_logger` succeeds once; from then on our own logger is recognised by its address.
    let ours = log::set_logger(dispatcher).is_ok()
        || std::ptr::addr_eq(std::ptr::from_ref(log::logger()), std::ptr::from_ref(dispatcher));
    if !ours {
        return Err(err!(Busy, "this process has a Rust logger already; set that one up instead"));
    }
    let old = std::mem::replace(&mut *dispatcher.sink(), sink.map(std::sync::Arc::new));
    log::set_max_level(level);
    // Dropped last and without the lock: it releases the VMM's data.
    drop(old);
    Ok(())
}

/// Logs to standard error as `VFIOMIG_LOG` says.
#[cfg(feature = "env-logger")]
pub(crate) fn init_env() -> Result<()> {
    let logger = env_logger::Builder::from_env("VFIOMIG_LOG").build();
    let level = logger.filter();
    let sink: Sink = Box::new(move |level, target, message| {
        let args = format_args!("{message}");
        let record = Record::builder().level(level).target(target).args(args).build();
        if logger.matches(&record) {
            logger.log(&record);
        }
    });
    set(Some(sink), level)
}

/// Logs to standard error as `VFIOMIG_LOG` says.
#[cfg(not(feature = "env-logger"))]
pub(crate) fn init_env() -> Result<()> {
    Err(err!(NotSupported, "this library was built without the feature env-logger"))
}
