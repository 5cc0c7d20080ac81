// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices behind vfio-user servers that is mapped, unmapped and tracked in ways that go wrong
//! easily.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod track;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use common::small;
use track::{PAGE, Taken, mapping, new_tracking};
use vfiomig::Device;
use vfiomig::device::DeviceOptions;
use vfiomig::dirty::{Tracking, Writer};
use vfiomig::error::{Code, Errno, Result};
use vfiomig::transport::{
    DmaAccess, DmaRange, GuestMemory, Requests, VfioUserOptions, VfioUserTransport,
};
use vfiomig_sim::vfio_user::{MessageFault, Server, ServerOptions};
use vfiomig_sim::{Sim, SimOptions};

const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const RESET: u16 = 13;
const FEATURE: u16 = 16;
const PAGES: u64 = 400;

/// A device behind a server, and the guest's memory in a file.
struct Machine {
    device: Device,
    server: Server,
    file: File,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.server.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Machine {
    fn new(options: SimOptions, timeout: Duration) -> Machine {
        let sim = Sim::new(options).unwrap();
        let server = Server::new(&sim, ServerOptions::default()).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let serves = server.clone();
        let thread = std::thread::spawn(move || serves.serve(far.into()).unwrap());
        let client = VfioUserOptions { timeout, ..VfioUserOptions::default() };
        let transport = VfioUserTransport::new(near, client).unwrap();
        let device = Device::new(transport, DeviceOptions::default()).unwrap();
        static NUMBER: Mutex<u64> = Mutex::new(0);
        let number = {
            let mut number = NUMBER.lock().unwrap();
            *number += 1;
            *number
        };
        let path = std::env::temp_dir().join(format!("vfio-mem-{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(PAGES * PAGE).unwrap();
        Machine { device, server, file, thread: Some(thread) }
    }

    fn plain() -> Machine {
        Machine::new(small(1), Duration::from_secs(30))
    }

    fn map(&self, first: u64, pages: u64, direct: bool, known: bool) -> Result<()> {
        let memory = direct.then(|| (self.file.as_fd(), first * PAGE));
        let access = DmaAccess::READ | DmaAccess::WRITE;
        let (iova, size) = (first * PAGE, pages * PAGE);
        self.device.map_dma(DmaRange { iova, size, access, memory, known })
    }

    fn unmap(&self, first: u64, pages: u64) -> Result<()> {
        self.device.unmap_dma(first * PAGE, pages * PAGE, false)
    }

    fn write(&self, page: u64) {
        self.server.dma_write(page * PAGE, b"x").unwrap();
    }

    fn track(&self, maps: &[(u64, u64)]) -> (Tracking, Taken) {
        let taken = Taken::default();
        let maps: Vec<_> = maps.iter().map(|(first, pages)| mapping(*first, *pages)).collect();
        let mut tracking = new_tracking(taken.clone(), &maps);
        tracking.add_writer(Writer::device(&self.device).unwrap()).unwrap();
        tracking.start().unwrap();
        (tracking, taken)
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn what_was_written_before_memory_is_unmapped_outlives_what_is_mapped_there_next() {
    let it = Machine::plain();
    it.map(0, 70, true, false).unwrap();
    let (mut tracking, taken) = it.track(&[(0, 70)]);
    it.write(5);
    it.unmap(0, 70).unwrap();
    for (first, pages) in [(40, 20), (0, 40), (60, 10)] {
        it.map(first, pages, true, false).unwrap();
    }
    tracking.collect().unwrap();
    assert!(taken.take().contains(&5));
}

#[test]
#[cfg_attr(miri, ignore)]
fn memory_that_the_server_has_by_other_means_is_never_clean_for_lack_of_a_log() {
    let it = Machine::plain();
    it.map(0, 70, true, false).unwrap();
    it.map(70, 30, false, true).unwrap();
    let (mut tracking, taken) = it.track(&[(0, 70), (70, 30)]);
    it.write(3);
    let synced = tracking.collect().unwrap();
    assert!(!synced.errors, "{:?}", tracking.stats());
    // The server knows nothing of the second range, and the first is none the worse for that.
    assert_eq!(taken.take(), [3].into_iter().chain(70..100).collect::<Vec<_>>());
}

#[test]
#[cfg_attr(miri, ignore)]
fn addresses_that_the_server_does_not_have_are_dirty_and_others_are_not() {
    let it = Machine::plain();
    it.map(0, 70, true, false).unwrap();
    let (mut tracking, taken) = it.track(&[(0, 70), (200, 10)]);
    for _ in 0..2 {
        it.write(20);
        let synced = tracking.collect().unwrap();
        assert!(!synced.errors, "{:?}", tracking.stats());
        assert_eq!(taken.take(), [20].into_iter().chain(200..210).collect::<Vec<_>>());
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_server_that_logs_in_larger_pages_is_asked_in_these() {
    let it =
        Machine::new(SimOptions { log_page_size: 4 * PAGE, ..small(1) }, Duration::from_secs(30));
    it.map(0, 80, true, false).unwrap();
    let (mut tracking, taken) = it.track(&[(0, 80)]);
    it.write(6);
    it.write(79);
    let synced = tracking.collect().unwrap();
    assert!(!synced.errors, "{:?}", tracking.stats());
    assert_eq!(taken.take(), [4, 5, 6, 7, 76, 77, 78, 79]);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_mapping_or_unmapping_that_is_not_answered_is_in_doubt_and_can_be_ended() {
    let it = Machine::new(small(1), Duration::from_millis(500));
    it.server.inject_message(DMA_MAP, 1, MessageFault::Silence, 0).unwrap();
    it.map(0, 70, true, false).unwrap_err();
    // The server has it, whatever the library heard.
    let (mut tracking, taken) = it.track(&[(0, 70)]);
    it.write(5);
    tracking.collect().unwrap();
    assert!(taken.take().contains(&5));
    it.write(6);
    it.server.inject_message(DMA_UNMAP, 1, MessageFault::Silence, 0).unwrap();
    it.unmap(0, 70).unwrap_err();
    assert_eq!(it.server.count(DMA_UNMAP), 1);
    // The server has it no longer, and nobody has the log.
    it.unmap(0, 70).unwrap();
    it.map(0, 70, true, false).unwrap();
    tracking.collect().unwrap();
    assert!(taken.take().contains(&6));
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_reply_that_is_too_long_fails_its_command_alone() {
    let it = Machine::plain();
    it.server.inject_message(FEATURE, 1, MessageFault::More, 100).unwrap();
    it.device.state().unwrap_err();
    it.device.state().unwrap();
}

/// Memory and a connection that nobody uses.
struct Unused;

impl GuestMemory for Unused {
    fn read(&mut self, _: u64, _: &mut [u8]) -> std::result::Result<(), Errno> {
        panic!("read")
    }

    fn write(&mut self, _: u64, _: &[u8]) -> std::result::Result<(), Errno> {
        panic!("write")
    }
}

impl Requests for Unused {
    fn request(
        &mut self,
        _: u16,
        _: &[u8],
        _: &[BorrowedFd<'_>],
        _: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        panic!("request")
    }
}

#[test]
fn memory_is_refused_where_it_would_not_be_used() {
    let options = VfioUserOptions { memory: Some(Box::new(Unused)), ..VfioUserOptions::default() };
    let error = VfioUserTransport::lent(Unused, options).err().unwrap();
    assert_eq!(error.code(), Code::Inval);
    VfioUserTransport::lent(Unused, VfioUserOptions::default()).unwrap();
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_reset_that_is_not_answered_ends_the_connection() {
    let mut it = Machine::new(small(1), Duration::from_millis(500));
    it.server.inject_message(RESET, 1, MessageFault::Silence, 0).unwrap();
    it.device.reset().unwrap_err();
    // The server sees the end without being stopped.
    it.thread.take().unwrap().join().unwrap();
    assert_eq!(it.device.state().unwrap_err().code(), Code::NoDev);
    it.thread = Some(std::thread::spawn(|| {}));
}
