// SPDX-License-Identifier: MIT OR Apache-2.0
//! Times as events and statistics give them: in nanoseconds, 64 bits.

use std::time::{Duration, Instant};

pub(crate) fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long ago it was.
pub(crate) fn elapsed_ns(since: Instant) -> u64 {
    ns(since.elapsed())
}
