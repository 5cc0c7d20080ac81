// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty tracking, case by case: bad arguments, callbacks that fail, which tracker is chosen and why,
//! which ranges a device is asked to log.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::field_reassign_with_default
)]

mod machine;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use machine::{Container, Dev, FakeMemory, Log, Shared, Table, World, lock, writer};
use vfiomig::Code;
use vfiomig::dirty::{
    DirtyPages, Mapping, Memory, PageSize, Span, TrackerKind, Tracking, TrackingOptions, Writer,
};
use vfiomig::error::Errno;
use vfiomig::transport::{Bitmap, DmaLog, IovaRange};

const PAGE: u64 = 4096;
const PAGES: u64 = 64;

/// A machine with one mapping of all its memory, 64 pages at address 0, and tracking of it.
fn machine() -> (Shared, Tracking) {
    let mut world = World::new(1, PAGE, &[(0, PAGES)]);
    let mapping = world.make(0, PAGES, false, false);
    world.tell(0..PAGES as usize);
    let world = Arc::new(Mutex::new(world));
    let options = TrackingOptions { page_size: PageSize::new(PAGE), buffer_bytes: 4096 };
    let mut tracking = Tracking::new(FakeMemory(world.clone()), options).unwrap();
    tracking.map(mapping).unwrap();
    (world, tracking)
}

fn log() -> Log {
    Log { page: PAGE, max_ranges: 256, max_bytes: u64::MAX, ..Log::default() }
}

fn table(world: &Shared) -> usize {
    let mut w = lock(world);
    w.tables.push(Table { page: PAGE, ..Table::default() });
    w.tables.len() - 1
}

/// Makes a device, and adds it to the tracking as a writer.
fn device(world: &Shared, tracking: &mut Tracking, log: Option<Log>, table: Option<usize>) -> u32 {
    let d = {
        let mut w = lock(world);
        w.devs.push(Dev {
            log,
            table,
            own: None,
            container: None,
            running: true,
            awoken: 0,
            number: None,
            health: false,
            resets: Arc::default(),
        });
        w.devs.len() - 1
    };
    let number = tracking.add_writer(writer(world, d)).unwrap();
    lock(world).devs[d].number = Some(number);
    number
}

fn start(world: &Shared, tracking: &mut Tracking) {
    tracking.start().unwrap();
    lock(world).tracking = true;
}

fn write(world: &Shared, device: usize, pages: &[usize]) {
    let mut w = lock(world);
    pages.iter().for_each(|page| w.write(device, *page));
}

fn span(start: u64, length: u64, page_size: u64) -> Span {
    Span { start, length, page: PageSize::new(page_size).unwrap() }
}

/// The pages that `set_dirty` got since the last time.
fn delivered(world: &Shared) -> BTreeSet<usize> {
    let mut w = lock(world);
    let frames = std::mem::take(&mut w.delivered);
    assert_eq!(w.wrong, [""; 0]);
    frames.into_iter().map(|(_, frame)| w.frames[frame].at).collect()
}

fn pages(tracking: &mut Tracking) -> BTreeSet<usize> {
    let mut words = [0];
    tracking.sync(span(0, PAGES * PAGE, PAGE), &mut words).unwrap();
    (0..PAGES as usize).filter(|page| words[0] >> page & 1 == 1).collect()
}

fn set<const N: usize>(pages: [usize; N]) -> BTreeSet<usize> {
    pages.into_iter().collect()
}

// --- bad arguments ---------------------------------------------------------------------------------

#[test]
fn bad_arguments_are_refused_by_name_and_change_nothing() {
    let (world, mut tracking) = machine();
    device(&world, &mut tracking, Some(log()), None);
    start(&world, &mut tracking);
    write(&world, 0, &[3, 40]);
    let end = PAGES * PAGE;

    let mapping = |iova: u64, size: u64| Mapping { iova, size, ..Mapping::default() };
    for (bad, says) in [
        (mapping(end, 0), "is empty"),
        (mapping(end + 1, PAGE), "is not in whole pages"),
        (mapping(end, PAGE + 1), "is not in whole pages"),
        (mapping(0u64.wrapping_sub(PAGE), 2 * PAGE), "wraps"),
        (mapping(end, 0u64.wrapping_sub(PAGE)), "wraps"),
        (mapping(end - PAGE, 2 * PAGE), "overlaps the one at 0x0"),
        (mapping(3 * PAGE, PAGE), "overlaps the one at 0x0"),
        (Mapping { offset: 7, ..mapping(end, PAGE) }, "offset 0x7"),
        (Mapping { window: true, ..mapping(end, 0) }, "is empty"),
        (Mapping { window: true, ..mapping(end, 100) }, "is not in whole pages"),
    ] {
        let error = tracking.map(bad).unwrap_err();
        assert_eq!(error.code(), Code::Inval, "{bad:x?}");
        assert!(error.message().contains(says), "{error}");
    }

    let mut words = [0; 4];
    for (iova, length, page, code) in [
        (0, 0, PAGE, Code::Inval),
        (PAGE / 2, PAGE, PAGE, Code::Inval),
        (0, PAGE / 2, PAGE, Code::Inval),
        (0u64.wrapping_sub(PAGE), 2 * PAGE, PAGE, Code::Inval),
        (0, !(PAGE - 1), PAGE, Code::Inval),
        (0, PAGE, 256, Code::Inval),
        (0, 257 * PAGE, PAGE, Code::NoSpace),
    ] {
        let error = tracking.sync(span(iova, length, page), &mut words).unwrap_err();
        assert_eq!(error.code(), code, "{iova:#x} {length:#x} {page}: {error}");
    }
    assert_eq!(words, [0; 4]);

    let never = || -> Result<(), Errno> { panic!("nothing is to be unmapped") };
    for (iova, size, code) in [
        (0, 0, Code::Inval),
        (1, PAGE, Code::Inval),
        (0, PAGE - 1, Code::Inval),
        (PAGE, 0u64.wrapping_sub(PAGE) + 1, Code::Inval),
        (0u64.wrapping_sub(PAGE), 2 * PAGE, Code::Inval),
    ] {
        assert_eq!(tracking.unmap(iova, size, None, never).unwrap_err().code(), code, "{iova:#x}");
    }
    // Even if nothing is mapped, the VMM is asked.
    let refuses = || Err(Errno(libc::EBUSY));
    assert_eq!(tracking.unmap(end, PAGE, None, refuses).unwrap_err().code(), Code::Io);
    let mut asked = false;
    let agrees = || {
        asked = true;
        Ok(())
    };
    tracking.unmap(end, PAGE, None, agrees).unwrap();
    assert!(asked);
    let short = Some((PageSize::new(PAGE).unwrap(), &mut [][..]));
    assert_eq!(tracking.unmap(0, PAGE, short, never).unwrap_err().code(), Code::NoSpace);

    for (iova, length, code) in
        [(0, 0, Code::Inval), (u64::MAX, 2, Code::Inval), (end - 1, 2, Code::NoData)]
    {
        assert_eq!(tracking.mark(iova, length).unwrap_err().code(), code);
        let buf = vec![0; length as usize];
        assert_eq!(tracking.dma_write(iova, &buf).unwrap_err().code(), code);
    }
    assert_eq!(tracking.remove_writer(9).unwrap_err().code(), Code::NoData);
    assert_eq!(tracking.start().unwrap_err().code(), Code::Inval);

    assert_eq!(tracking.num_errors(), 0);
    tracking.collect().unwrap();
    assert_eq!(delivered(&world), set([3, 40]));
}

#[test]
fn without_tracking_nothing_is_read_and_stopping_is_no_error() {
    let (world, mut tracking) = machine();
    assert_eq!(tracking.collect().unwrap_err().code(), Code::Inval);
    assert_eq!(tracking.sync(span(0, PAGE, PAGE), &mut [0]).unwrap_err().code(), Code::Inval);
    assert_eq!(tracking.rearm().unwrap_err().code(), Code::Inval);
    tracking.stop().unwrap();
    device(&world, &mut tracking, Some(log()), None);
    start(&world, &mut tracking);
    tracking.stop().unwrap();
    tracking.stop().unwrap();
    assert!(!tracking.is_tracking());
    assert!(!lock(&world).devs[0].log.as_ref().unwrap().on);
}

// --- callbacks that fail ---------------------------------------------------------------------------

/// A VMM that enumerates a map that is wrong in some way, and stops taking pages at some point.
#[derive(Default)]
struct Vmm {
    mappings: Vec<Mapping>,
    /// Fails after this many mappings.
    fails_at: Option<usize>,
    /// How many more calls it accepts.
    left: usize,
    taken: Vec<(u64, u64)>,
}

#[derive(Clone, Default)]
struct Memories(Arc<Mutex<Vmm>>);

impl Memory for Memories {
    fn enumerate(
        &mut self,
        add: &mut dyn FnMut(Mapping) -> vfiomig::Result<()>,
    ) -> vfiomig::Result<bool> {
        let vmm = self.0.lock().unwrap();
        for (i, mapping) in vmm.mappings.iter().enumerate() {
            if vmm.fails_at == Some(i) {
                return Err(vfiomig::Error::new(Code::Io, "the map is gone"));
            }
            add(*mapping)?;
        }
        Ok(true)
    }

    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Result<(), Errno> {
        let mut vmm = self.0.lock().unwrap();
        if vmm.left == 0 {
            return Err(Errno(libc::ENOBUFS));
        }
        vmm.left -= 1;
        vmm.taken.extend(pages.offsets().map(|offset| (pages.cookie, offset)));
        Ok(())
    }
}

fn mapping(cookie: u64, iova: u64, pages: u64) -> Mapping {
    Mapping { iova, size: pages * PAGE, cookie, ..Mapping::default() }
}

#[test]
fn what_set_dirty_refuses_is_delivered_later_and_nothing_twice() {
    let memory = Memories::default();
    memory.0.lock().unwrap().mappings =
        vec![mapping(1, 0, 4), mapping(2, 1 << 32, 4), mapping(3, 1 << 33, 4)];
    let mut tracking = Tracking::new(
        memory.clone(),
        TrackingOptions { page_size: PageSize::new(PAGE), buffer_bytes: 0 },
    )
    .unwrap();
    tracking.start().unwrap();
    for iova in [PAGE, (1 << 32) + 2 * PAGE, (1 << 33) + 3 * PAGE] {
        tracking.mark(iova, 1).unwrap();
    }
    let mut seen = Vec::new();
    for left in [0, 1, 1, 9] {
        memory.0.lock().unwrap().left = left;
        let result = tracking.collect();
        let mut vmm = memory.0.lock().unwrap();
        seen.extend(std::mem::take(&mut vmm.taken));
        let code = result.err().map(|error| error.code());
        assert_eq!(code, if left == 9 { None } else { Some(Code::Io) });
    }
    assert_eq!(seen, [(1, PAGE), (2, 2 * PAGE), (3, 3 * PAGE)]);
    memory.0.lock().unwrap().left = 9;
    tracking.collect().unwrap();
    assert_eq!(memory.0.lock().unwrap().taken, []);
}

#[test]
fn a_map_that_cannot_be_enumerated_starts_nothing() {
    let (world, _) = machine();
    let memory = Memories::default();
    let mut tracking = Tracking::new(
        memory.clone(),
        TrackingOptions { page_size: PageSize::new(PAGE), buffer_bytes: 0 },
    )
    .unwrap();
    device(&world, &mut tracking, Some(log()), None);
    for (mappings, fails_at, code) in [
        (vec![mapping(1, 0, 4), mapping(2, PAGE, 1)], None, Code::Inval),
        (vec![mapping(1, 0, 4), mapping(2, 8 * PAGE, 0)], None, Code::Inval),
        (vec![mapping(1, 0, 4), mapping(2, 8 * PAGE, 1)], Some(1), Code::Io),
    ] {
        {
            let mut vmm = memory.0.lock().unwrap();
            (vmm.mappings, vmm.fails_at) = (mappings, fails_at);
        }
        assert_eq!(tracking.start().unwrap_err().code(), code);
        assert!(!tracking.is_tracking());
        assert_eq!(tracking.stats().mapped_bytes, 0);
        assert!(!lock(&world).devs[0].log.as_ref().unwrap().on);
    }
    memory.0.lock().unwrap().fails_at = None;
    tracking.start().unwrap();
    assert_eq!(tracking.stats().mapped_bytes, 5 * PAGE);
}

#[test]
fn a_range_that_could_not_be_unmapped_stays_and_is_dirty() {
    let (world, mut tracking) = machine();
    let t = table(&world);
    device(&world, &mut tracking, None, Some(t));
    start(&world, &mut tracking);
    write(&world, 0, &[9, 20]);
    let refuses = || Err(Errno(libc::EBUSY));
    let error = tracking.unmap(8 * PAGE, 4 * PAGE, None, refuses).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    let seen = tracking.error(0).unwrap();
    assert_eq!((seen.first, seen.last), (8 * PAGE, 12 * PAGE - 1));
    assert_eq!(pages(&mut tracking), set([8, 9, 10, 11, 20]));
    assert_eq!(pages(&mut tracking), set([8, 9, 10, 11]));

    let hands = world.clone();
    let unmap = move || lock(&hands).unmap(8..12);
    let mut words = [0];
    tracking
        .unmap(8 * PAGE, 4 * PAGE, Some((PageSize::new(PAGE).unwrap(), &mut words)), unmap)
        .unwrap();
    assert_eq!(words, [0xf]);
    assert_eq!(pages(&mut tracking), set([]));
    assert_eq!(tracking.stats().mapped_bytes, (PAGES - 4) * PAGE);
}

// --- the choice ------------------------------------------------------------------------------------

#[test]
fn each_writer_gets_the_best_tracker_that_works_and_says_why_not_a_better_one() {
    let (world, mut tracking) = machine();
    let good = table(&world);
    let none = table(&world);
    lock(&world).tables[none].none = true;
    lock(&world).containers.push(Container {
        page: PAGE,
        max_bitmap: 1 << 28,
        maps: [(0, PAGES * PAGE - 1)].into(),
        ..Container::default()
    });
    let all = device(&world, &mut tracking, Some(log()), Some(good));
    let mute = device(&world, &mut tracking, Some(Log { no_report: true, ..log() }), Some(good));
    let neither = device(&world, &mut tracking, Some(Log { max_bytes: 0, ..log() }), Some(none));
    let mut third = {
        let mut w = lock(&world);
        w.devs.push(Dev {
            log: None,
            table: Some(none),
            own: None,
            container: Some(0),
            running: true,
            awoken: 0,
            number: None,
            health: false,
            resets: Arc::default(),
        });
        drop(w);
        writer(&world, 3)
    };
    third.required = true;
    let third = tracking.add_writer(third).unwrap();
    let bare = tracking.add_writer(Writer::default()).unwrap();
    start(&world, &mut tracking);

    let kind = |number| tracking.writer(number).unwrap().tracker;
    let note = |number| tracking.writer(number).unwrap().note;
    assert_eq!((kind(all), note(all).as_str()), (TrackerKind::DeviceLog, ""));
    assert_eq!(kind(mute), TrackerKind::Hwpt);
    assert!(note(mute).contains("CONFIG_IOMMUFD"), "{}", note(mute));
    assert_eq!(kind(neither), TrackerKind::AllDirty);
    assert!(note(neither).contains("refuses to log"), "{}", note(neither));
    assert!(note(neither).contains("IOMMU_HWPT_ALLOC_DIRTY_TRACKING"), "{}", note(neither));
    assert_eq!(kind(third), TrackerKind::Type1);
    assert_eq!(kind(bare), TrackerKind::AllDirty);
}

#[test]
fn a_writer_that_must_be_tracked_and_cannot_be_stops_the_start() {
    let (world, mut tracking) = machine();
    device(&world, &mut tracking, Some(log()), None);
    let mut required = Writer::default();
    required.name = "the second".into();
    required.required = true;
    tracking.add_writer(required).unwrap();
    let error = tracking.start().unwrap_err();
    assert_eq!(error.code(), Code::NotSupported);
    assert!(error.message().contains("the second"), "{error}");
    assert!(!tracking.is_tracking());
    assert!(!lock(&world).devs[0].log.as_ref().unwrap().on);
}

/// QEMU asks the page tables only if one device has no log, and then does not ask the log.
#[test]
fn two_devices_with_different_trackers_are_both_reported() {
    let (world, mut tracking) = machine();
    let tracked = table(&world);
    let untracked = table(&world);
    lock(&world).tables[untracked].none = true;
    device(&world, &mut tracking, None, Some(tracked));
    device(&world, &mut tracking, Some(log()), Some(untracked));
    start(&world, &mut tracking);
    write(&world, 0, &[1, 5]);
    write(&world, 1, &[5, 63]);
    assert_eq!(pages(&mut tracking), set([1, 5, 63]));
    write(&world, 1, &[2]);
    tracking.collect().unwrap();
    assert_eq!(delivered(&world), set([2]));
    tracking.collect().unwrap();
    assert_eq!(delivered(&world), set([]));
}

// --- ranges ----------------------------------------------------------------------------------------

type Asked = Arc<Mutex<Vec<Vec<IovaRange>>>>;
type Refuses = fn(&[IovaRange]) -> Option<i32>;

/// A log that keeps what it was asked for.
struct Recorder {
    asked: Asked,
    refuses: Refuses,
}

impl DmaLog for Recorder {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        self.asked.lock().unwrap().push(ranges.to_vec());
        match (self.refuses)(ranges) {
            Some(errno) => Err(Errno(errno)),
            None => Ok(page.bytes()),
        }
    }

    fn stop(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn report(&mut self, _: &mut Bitmap<'_>) -> Result<(), Errno> {
        Ok(())
    }
}

/// Starts a log over these ranges, in pages; returns what it was asked for and the note.
fn asked(ranges: &[(u64, u64)], refuses: Refuses) -> (Vec<Vec<IovaRange>>, TrackerKind, String) {
    let memory = Memories::default();
    memory.0.lock().unwrap().mappings =
        ranges.iter().map(|(first, n)| mapping(*first, first * PAGE, *n)).collect();
    let mut tracking =
        Tracking::new(memory, TrackingOptions { page_size: PageSize::new(PAGE), buffer_bytes: 0 })
            .unwrap();
    let asked = Asked::default();
    let mut writer = Writer::default();
    writer.device_log = Some(Box::new(Recorder { asked: asked.clone(), refuses }));
    let number = tracking.add_writer(writer).unwrap();
    tracking.start().unwrap();
    let stats = tracking.writer(number).unwrap();
    let asked = asked.lock().unwrap().clone();
    (asked, stats.tracker, stats.note)
}

fn islands(n: u64) -> Vec<(u64, u64)> {
    // The gaps grow: the first is the smallest.
    (0..n).map(|i| (100 + i * 10 + i * i, 1)).collect()
}

#[test]
fn the_kernel_takes_256_ranges_and_the_257th_is_joined_over_the_smallest_gap() {
    let (starts, kind, note) = asked(&islands(256), |_| None);
    assert_eq!((starts.len(), starts[0].len(), kind), (1, 256, TrackerKind::DeviceLog));
    assert!(starts[0].iter().all(|range| range.length == PAGE));
    assert_eq!(note, "");

    let (starts, kind, _) = asked(&islands(257), |_| None);
    assert_eq!((starts.len(), starts[0].len(), kind), (1, 256, TrackerKind::DeviceLog));
    assert_eq!(starts[0][0], IovaRange { iova: 100 * PAGE, length: 12 * PAGE });
    assert!(starts[0][1..].iter().all(|range| range.length == PAGE));
}

#[test]
fn a_device_that_takes_fewer_ranges_gets_fewer() {
    let (starts, kind, _) =
        asked(&islands(64), |ranges| (ranges.len() > 9).then_some(libc::ENOSPC));
    assert_eq!(kind, TrackerKind::DeviceLog);
    let last = starts.last().unwrap();
    assert!((3..=9).contains(&last.len()), "{}", last.len());
    assert!(starts.len() <= 4, "{}", starts.len());
    let inside =
        |page: u64| last.iter().any(|r| r.iova <= page * PAGE && page * PAGE < r.iova + r.length);
    assert!(islands(64).iter().all(|(page, _)| inside(*page)));
}

#[test]
fn a_range_that_a_device_cannot_log_is_named_and_the_others_are_logged() {
    let (starts, kind, note) = asked(&[(1, 1), (5, 2), (9, 1)], |ranges| {
        let at_fault =
            |range: &IovaRange| range.iova <= 5 * PAGE && 5 * PAGE < range.iova + range.length;
        ranges.iter().any(at_fault).then_some(libc::EINVAL)
    });
    assert_eq!(kind, TrackerKind::DeviceLog);
    assert!(note.contains("0x5000 (0x2000 bytes)"), "{note}");
    let logged: Vec<u64> = starts.last().unwrap().iter().map(|range| range.iova / PAGE).collect();
    assert_eq!(logged, [1, 9]);
    assert!(starts.len() <= 8, "{}", starts.len());
}

#[test]
fn what_is_too_much_together_is_logged_in_part_and_the_rest_named() {
    let (starts, kind, note) = asked(&[(1, 1), (5, 2), (9, 1)], |ranges| {
        let pages: u64 = ranges.iter().map(|range| range.length / PAGE).sum();
        (pages > 3).then_some(libc::ENOSPC)
    });
    assert_eq!(kind, TrackerKind::DeviceLog);
    let pages: u64 = starts.last().unwrap().iter().map(|range| range.length / PAGE).sum();
    assert_eq!(pages, 3);
    assert!(note.contains("does not log all of the memory"), "{note}");
    assert!(starts.len() <= 8, "{}", starts.len());
}

#[test]
fn nothing_is_asked_for_up_to_2_to_the_64() {
    let last = (1 << 52) - 2;
    let (starts, kind, _) = asked(&[(0, 4), (last, 2)], |ranges| {
        let wraps = |range: &IovaRange| range.iova.checked_add(range.length).is_none();
        ranges.iter().any(wraps).then_some(libc::EOVERFLOW)
    });
    assert_eq!(kind, TrackerKind::DeviceLog);
    let ranges =
        [(0, 4), (last, 1)].map(|(first, n)| IovaRange { iova: first * PAGE, length: n * PAGE });
    assert_eq!(starts, [ranges]);
}
