// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work of the library's that takes a while: shown on a terminal, and cancelled by a signal.

use std::sync::mpsc;
use std::time::Duration;

use vfiomig::Code;
use vfiomig::checkpoint::Watcher;

use crate::exit::{Status, Trouble};
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// How soon a signal is noticed.
const PERIOD: Duration = Duration::from_millis(20);

/// Does the work. A signal cancels it.
pub fn while_watched<R>(
    interrupt: &Interrupt,
    watcher: &Watcher,
    mut progress: Progress,
    work: impl FnOnce() -> R,
) -> R {
    // One that has come already must not be missed, however short the work is.
    if interrupt.signal().is_some() {
        watcher.cancel();
    }
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                if interrupt.signal().is_some() {
                    watcher.cancel();
                }
                progress.at(watcher.stats().stream_bytes);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// What the library says of a file that it reads or writes, and of the devices in it.
pub fn library_trouble(what: &str, error: &vfiomig::Error) -> Trouble {
    let errno = error.failure().map_or(0, |failure| failure.errno);
    let status = match error.code() {
        Code::Perm => Status::Permission,
        _ if [libc::EACCES, libc::EPERM, libc::EROFS].contains(&errno) => Status::Permission,
        Code::Busy => Status::Busy,
        Code::NoMem | Code::NoSpace | Code::Inval => Status::Resources,
        _ => Status::Device,
    };
    Trouble::new(status, format!("{what}: {error}"))
}
