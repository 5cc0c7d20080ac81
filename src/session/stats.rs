// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of a session, which other threads may read during a call.

use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($(#[$doc:meta])* $plain:ident, $atomic:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $plain { $($(#[$field_doc])* pub $field: u64,)* }

        #[derive(Default, Debug)]
        pub(crate) struct $atomic { $(pub $field: AtomicU64,)* }

        impl $atomic {
            pub fn load(&self) -> $plain {
                $plain { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

stats! {
    /// What a save has done so far. Times are in nanoseconds.
    SaveStats, AtomicSaveStats {
        /// Device data returned to the caller, including that before restarts, in bytes.
        data_bytes,
        /// Part of it that was read before the device stopped, in bytes.
        precopy_bytes,
        /// The whole stream returned to the caller, in bytes.
        stream_bytes,
        /// Frames.
        frames,
        /// How often the save started again because the device was reset.
        restarts,
        /// Time spent in the driver's reads after the device stopped.
        stop_read_ns,
        /// Time that the change to PRE_COPY took.
        begin_ns,
        /// Time that the change to PRE_COPY_P2P or RUNNING_P2P took.
        quiesce_ns,
        /// Time that the change to STOP_COPY took.
        stop_ns,
        /// Time that the change which ended the save took.
        finish_ns,
    }
}

stats! {
    /// What a load has done so far. Times are in nanoseconds.
    LoadStats, AtomicLoadStats {
        /// Device data written to the driver, in bytes, restarts included.
        data_bytes,
        /// The whole stream taken from the caller, without packets, in bytes.
        stream_bytes,
        /// Frames; in QEMU's format, pieces of data on the main channel.
        frames,
        /// Packets.
        packets,
        /// Packets that are waiting for their turn or being written at the moment, in bytes.
        queued_bytes,
        /// How often the source started again.
        restarts,
        /// Blobs handed to the callback.
        blobs,
        /// Time spent in the driver's writes.
        write_ns,
        /// Time that the change to RESUMING took.
        begin_ns,
        /// Time that the driver took to check and accept the state.
        commit_ns,
        /// Number of the latest mark that all initial data has come; 0: none yet.
        initial_generation,
    }
}

/// The live numbers of a save.
#[derive(Clone, Default, Debug)]
pub struct SaveNumbers(pub(crate) Arc<AtomicSaveStats>);

/// The live numbers of a load.
#[derive(Clone, Default, Debug)]
pub struct LoadNumbers(pub(crate) Arc<AtomicLoadStats>);

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(super) fn set(counter: &AtomicU64, n: u64) {
    counter.store(n, Ordering::Relaxed);
}
