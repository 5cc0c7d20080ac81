// SPDX-License-Identifier: MIT OR Apache-2.0
//! What dirty tracking does when its own parts are missing, which no caller can bring about: pages
//! that nobody knows about are dirty.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::*;
use crate::dirty::bitmap;
use crate::dirty::{CustomTracker, DirtyPages};
use crate::error::Errno;
use crate::transport::{Bitmap, Hwpt};

const PAGE: u64 = 4096;
const PAGES: u64 = 64;

/// How many dirty pages the VMM was given.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<u64>>);

impl Given {
    fn take(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Memory for Given {
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> std::result::Result<(), Errno> {
        *self.0.lock().unwrap() += bitmap::count(pages.bitmap);
        Ok(())
    }
}

/// A tracker that never finds a dirty page.
struct Clean;

impl CustomTracker for Clean {
    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE).unwrap()
    }

    fn start(&mut self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn stop(&mut self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn sync(&mut self, _: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
        Ok(())
    }
}

impl Hwpt for Clean {
    fn key(&self) -> u64 {
        1
    }

    fn set_tracking(&mut self, _: bool) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn bitmap(&mut self, _: bool, _: &mut Bitmap<'_>) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn is_mapped(&mut self, _: u64, _: u64) -> Option<std::result::Result<bool, Errno>> {
        None
    }
}

/// The first pages.
fn pages(n: u64) -> Span {
    Span { start: 0, length: n * PAGE, page: PageSize::new(PAGE).unwrap() }
}

fn writer(by_table: bool) -> Writer {
    if by_table {
        Writer { hwpt: Some(Box::new(Clean)), ..Writer::default() }
    } else {
        Writer { custom: Some(Box::new(Clean)), ..Writer::default() }
    }
}

/// Tracking of a writer by a page table or the VMM's tracker, with nothing dirty.
fn tracked(by_table: bool) -> (Tracking, Given) {
    let given = Given::default();
    let options = TrackingOptions { page_size: PageSize::new(PAGE), buffer_bytes: 0 };
    let mut tracking = Tracking::new(given.clone(), options).unwrap();
    tracking.map(Mapping { size: PAGES * PAGE, ..Mapping::default() }).unwrap();
    tracking.add_writer(writer(by_table)).unwrap();
    tracking.start().unwrap();
    assert_eq!(tracking.collect().unwrap(), Synced::default());
    assert_eq!(given.take(), 0);
    (tracking, given)
}

/// The same, with another writer that nothing tracks, for a reason that nobody has thought of.
fn untracked(by_table: bool) -> (Tracking, Given, u32) {
    let (mut tracking, given) = tracked(by_table);
    let number = tracking.trackers.add(writer(by_table), None).unwrap();
    (tracking, given, number as u32)
}

#[test]
fn without_the_tracker_of_a_writer_everything_is_dirty() {
    for by_table in [false, true] {
        let (mut tracking, given, _) = untracked(by_table);
        for _ in 0..2 {
            assert!(tracking.collect().unwrap().errors);
            assert_eq!(given.take(), PAGES);
        }
        assert!(tracking.error(0).unwrap().message.contains("nothing tracks writer 1"));
        let mut words = [0];
        assert!(tracking.sync(pages(8), &mut words).unwrap().errors);
        assert_eq!(words, [0xff]);
        assert_eq!(given.take(), 0);
    }
}

#[test]
fn without_the_tracker_of_a_writer_what_is_unmapped_was_dirty() {
    for by_table in [false, true] {
        let (mut tracking, given, _) = untracked(by_table);
        let told = tracking.unmap(8 * PAGE, 8 * PAGE, None, || Ok(())).unwrap();
        assert_eq!((told.errors, given.take()), (true, 8));
        let mut words = [0];
        let told =
            tracking.unmap(0, 8 * PAGE, Some((pages(8).page, &mut words)), || Ok(())).unwrap();
        assert_eq!((told.errors, words), (true, [0xff]));
    }
}

#[test]
fn a_writer_without_a_tracker_leaves_everything_dirty_when_it_goes() {
    for by_table in [false, true] {
        let (mut tracking, given, number) = untracked(by_table);
        tracking.remove_writer(number).unwrap();
        assert!(tracking.collect().unwrap().errors);
        assert_eq!(given.take(), PAGES);
        assert!(!tracking.collect().unwrap().errors);
        assert_eq!(given.take(), 0);
    }
}

#[test]
fn a_tracker_that_is_no_longer_read_leaves_everything_dirty() {
    for by_table in [false, true] {
        let (mut tracking, given) = tracked(by_table);
        tracking.trackers.get_mut(0).unwrap().retire();
        assert!(tracking.collect().unwrap().errors);
        assert_eq!(given.take(), PAGES);
    }
}

#[test]
fn after_a_call_that_did_not_come_back_nothing_is_read_until_the_next_start() {
    let (mut tracking, _) = tracked(false);
    let unmap = || -> std::result::Result<(), Errno> { panic!("in a callback") };
    let call = AssertUnwindSafe(|| tracking.unmap(0, PAGE, None, unmap));
    assert!(catch_unwind(call).is_err());
    let code = |result: Result<Synced>| result.unwrap_err().code();
    assert_eq!(code(tracking.collect()), Code::NotRecoverable);
    assert_eq!(code(tracking.sync(pages(1), &mut [0])), Code::NotRecoverable);
    assert_eq!(code(tracking.unmap(0, PAGE, None, || Ok(()))), Code::NotRecoverable);
    assert_eq!(code(tracking.rearm()), Code::NotRecoverable);
    assert_eq!(tracking.remove_writer(0).unwrap_err().code(), Code::NotRecoverable);
    tracking.stop().unwrap();
    tracking.start().unwrap();
    assert_eq!(tracking.collect().unwrap(), Synced::default());
}
