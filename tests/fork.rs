// SPDX-License-Identifier: MIT OR Apache-2.0
//! A child after fork() in a Rust VMM: values of the parent's that go out of scope there leave the
//! parent's device alone, and those that are used say so.

#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vfiomig::dirty::{
    CustomTracker, DirtyPages, Mapping, Memory, PageSize, Span, Tracking, TrackingOptions, Writer,
};
use vfiomig::error::Errno;
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::stream::Format;
use vfiomig::transport::Bitmap;
use vfiomig::{Code, Device, device::DeviceOptions};
use vfiomig_sim::{Op, Sim, SimOptions};

/// Runs `child` in a child; false: it was wrong, died, or waited forever.
fn in_a_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls nothing that another thread of this test could be inside of, and ends
    // without unwinding.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::alarm(60);
            // A thread that ends by a panic is the last of its process, which then ends well.
            let fine = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
            libc::_exit(i32::from(!fine));
        }
    }
    let mut status = -1;
    // SAFETY: waits for the child; `status` is valid for writes.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status == 0
}

struct Nowhere;

impl Memory for Nowhere {
    fn set_dirty(&mut self, _: DirtyPages<'_>) -> Result<(), Errno> {
        Ok(())
    }
}

/// Counts what it is asked, and forgets with each reading what was dirty.
struct Counted(Arc<AtomicU32>);

impl CustomTracker for Counted {
    fn page_size(&self) -> PageSize {
        PageSize::new(4096).unwrap()
    }
    fn start(&mut self) -> Result<(), Errno> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn stop(&mut self) -> Result<(), Errno> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn sync(&mut self, _: &mut Bitmap<'_>) -> Result<(), Errno> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn sim() -> (Sim, Device) {
    let sim = Sim::new(SimOptions::default()).unwrap();
    let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
    (sim, device)
}

#[test]
fn sessions_that_are_dropped_in_a_child_ask_nothing_of_the_device() {
    let (from, source) = sim();
    let (to, target) = sim();
    let save = source.save(SaveOptions::default()).unwrap();
    let options = LoadOptions { format: Format::QemuPackets, ..LoadOptions::default() };
    let load = target.load(options).unwrap();
    let asked = (from.count(Op::Any), to.count(Op::Any));
    let mut all = Some((save, load, source, target));
    assert!(in_a_child(|| {
        let Some((mut save, mut load, source, target)) = all.take() else { return false };
        let packets = load.packets();
        let refused = source.state().is_err_and(|error| error.code() == Code::BadHandle)
            && save.next(&mut [0; 8192]).is_err_and(|error| error.code() == Code::BadHandle)
            && load.push(b"x").is_err_and(|error| error.code() == Code::BadHandle)
            && packets.is_some_and(|p| p.submit(b"x").is_err_and(|e| e.code() == Code::BadHandle));
        drop((save, load));
        drop((source, target));
        refused
            && (from.count(Op::Any), to.count(Op::Any)) == asked
            && (from.open_streams(), to.open_streams()) == (1, 1)
            && (from.releases(), to.releases()) == (0, 0)
    }));
    // In the parent, they go on.
    let (save, load, source, target) = all.take().unwrap();
    drop((save, load));
    assert!(source.state().is_ok() && target.state().is_ok());
    assert_eq!((from.open_streams(), to.open_streams()), (0, 0));
}

#[test]
fn tracking_that_is_used_or_dropped_in_a_child_asks_nothing_of_its_trackers() {
    let asked = Arc::new(AtomicU32::new(0));
    let mut tracking = Tracking::new(Nowhere, TrackingOptions::default()).unwrap();
    let tracker: Box<dyn CustomTracker> = Box::new(Counted(Arc::clone(&asked)));
    tracking.add_writer(Writer { custom: Some(tracker), ..Writer::default() }).unwrap();
    tracking.map(Mapping { size: 64 << 12, ..Mapping::default() }).unwrap();
    tracking.start().unwrap();
    let before = asked.load(Ordering::Relaxed);
    let mut all = Some(tracking);
    assert!(in_a_child(|| {
        let Some(mut tracking) = all.take() else { return false };
        let (mut words, page) = ([0; 1], PageSize::new(4096).unwrap());
        let refused = [
            tracking.sync(Span { start: 0, length: 64 << 12, page }, &mut words).map(drop),
            tracking.collect().map(drop),
            tracking.rearm().map(drop),
            tracking.mark(0, 1),
            tracking.map(Mapping { iova: 1 << 30, size: 4096, ..Mapping::default() }),
            tracking.unmap(0, 4096, None, || panic!("unmapped")).map(drop),
            tracking.dma_read(0, &mut [0; 8]),
            tracking.dma_write(0, &[0; 8]),
            tracking.add_writer(Writer::default()).map(drop),
            tracking.remove_writer(0),
            tracking.start().map(drop),
            tracking.stop(),
        ]
        .into_iter()
        .all(|result| result.is_err_and(|error| error.code() == Code::BadHandle));
        drop(tracking);
        refused && asked.load(Ordering::Relaxed) == before
    }));
    let mut tracking = all.take().unwrap();
    tracking.collect().unwrap();
    drop(tracking);
    assert_eq!(asked.load(Ordering::Relaxed), before + 2);
}
