// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library asks of the operating system and the processor: system calls with types around
//! them, memory that the kernel writes bitmaps into, loops over bitmaps, and the allocator's
//! reserve.
//!
//! The room at the bottom. It knows the kernel's numbers and nothing about this library, and
//! returns errnos as they are. Unsafe code is allowed only here, in `capi` and in
//! `transport/ops.rs`.

#![allow(unsafe_code)]

mod bell;
mod bitmap;
mod bits;
mod channel;
mod confidential;
pub(crate) mod device;
mod errno;
pub(crate) mod fd;
pub(crate) mod file;
mod ioctl;
pub(crate) mod iommufd;
mod memory_file;
pub(crate) mod named;
mod process;
mod quiet;
mod region;
mod reserve;
mod retry;
pub(crate) mod socket;
mod span;
mod system;
pub(crate) mod type1;
pub mod uapi;
mod watch;

pub(crate) use bell::Bell;
pub use bitmap::{Bitmap, BitmapBuffer};
pub(crate) use bits::{count, drain};
pub(crate) use channel::{Channel, OwnedChannel, TERMINAL};
pub(crate) use confidential::{dump, leave_out_of_dumps, wipe};
pub use device::{FeatureRequest, IovaRange};
pub use errno::Errno;
pub use fd::Direction;
pub(crate) use memory_file::{Mapping, MemoryFile};
pub(crate) use process::{PerProcess, Process};
pub use region::RegionMapping;
pub use reserve::Reserve;
pub(crate) use reserve::{Room, admits_call as reserve_admits_call, may_fail, reserve_room};
pub(crate) use retry::{INTERRUPTED, Stuck, uninterrupted};
pub use span::{PageSize, Span};
#[cfg(feature = "env-logger")]
pub(crate) use system::write_to_stderr;
pub(crate) use system::{
    current_thread_token, kernel_release, monotonic_ns, page_size, random_bytes,
};
pub(crate) use watch::Watch;
