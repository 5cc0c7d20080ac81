// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run does when its own parts are missing, which no caller can bring about: pages that nobody
//! can tell of are dirty.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};

use super::super::bitmap;
use super::*;
use crate::dirty::{CustomTracker, Writer};
use crate::error::Errno;
use crate::transport::Hwpt;

const PAGE: u64 = 4096;
const PAGES: u64 = 64;

type Given = Arc<Mutex<u64>>;

struct Counting(Given);

impl Memory for Counting {
    fn set_dirty(
        &mut self,
        _: u64,
        _: u64,
        _: u64,
        bitmap: &[u64],
        _: u64,
    ) -> std::result::Result<(), Errno> {
        *self.0.lock().unwrap() += bitmap.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        Ok(())
    }
}

/// Tracks, and nothing is dirty.
struct Clean;

impl CustomTracker for Clean {
    fn page_size(&self) -> u64 {
        PAGE
    }

    fn start(&mut self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn stop(&mut self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn sync(&mut self, _: u64, _: u64, _: u64, _: &mut [u64]) -> std::result::Result<(), Errno> {
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

    fn bitmap(
        &mut self,
        _: u64,
        _: u64,
        _: u64,
        _: bool,
        _: &mut [u64],
    ) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn is_mapped(&mut self, _: u64, _: u64) -> Option<std::result::Result<bool, Errno>> {
        None
    }
}

/// A run with a writer that is tracked by a page table or the VMM's tracker, and nothing dirty.
fn tracked(by_table: bool) -> (Run, Given) {
    let given = Given::default();
    let options = RunOptions { page_size: PAGE, buffer_bytes: 0 };
    let mut run = Run::new(Counting(given.clone()), options).unwrap();
    let size = PAGES * PAGE;
    run.map(Mapping { size, ..Mapping::default() }).unwrap();
    let mut writer = Writer::default();
    if by_table {
        writer.hwpt = Some(Box::new(Clean));
    } else {
        writer.custom = Some(Box::new(Clean));
    }
    run.add_writer(writer).unwrap();
    run.start().unwrap();
    assert_eq!(run.collect().unwrap(), Synced::default());
    assert_eq!(*given.lock().unwrap(), 0);
    (run, given)
}

fn all_is_dirty_and_said(mut run: Run, given: &Given) {
    let synced = run.collect().unwrap();
    assert_eq!((synced.errors, *given.lock().unwrap()), (true, PAGES));
    assert!(run.num_errors() > 0);
}

#[test]
fn without_the_tracker_of_a_writer_everything_is_dirty() {
    for by_table in [false, true] {
        let (mut run, given) = tracked(by_table);
        run.slots.clear();
        all_is_dirty_and_said(run, &given);
        let (mut run, given) = tracked(by_table);
        run.slots[0].active = false;
        all_is_dirty_and_said(run, &given);
        let (mut run, given) = tracked(by_table);
        run.users[0].as_mut().unwrap().chosen = None;
        all_is_dirty_and_said(run, &given);
    }
}

#[test]
fn a_tracker_that_goes_during_a_reading_leaves_everything_dirty() {
    for by_table in [false, true] {
        let (mut run, given) = tracked(by_table);
        let pieces: Vec<Piece> = run.map.writable(&EVERYWHERE).collect();
        run.slots.clear();
        run.users.clear();
        run.read_pieces(0, &pieces, false);
        all_is_dirty_and_said(run, &given);
    }
}

#[test]
fn a_sum_that_is_gone_leaves_its_mapping_dirty() {
    let (mut run, given) = tracked(true);
    let piece = run.map.writable(&EVERYWHERE).next().unwrap();
    run.sum = None;
    run.keep_sum(&piece, 0, PAGES);
    all_is_dirty_and_said(run, &given);
    let (mut run, _) = tracked(true);
    run.sum = None;
    let mut found = 0;
    run.chunk(&piece, piece.first, piece.last, Some(&piece), &mut |_, _, words, _| {
        found += bitmap::count(words);
        Ok(())
    })
    .unwrap();
    assert_eq!((found, run.num_errors()), (PAGES, 1));
}

#[test]
fn a_tracker_asked_for_what_it_does_not_answer_is_an_error_and_not_clean() {
    let (mut run, _) = tracked(true);
    let mut union = [0; 1];
    assert!(run.read_first(0, 0, PAGES * PAGE - 1, false, &mut union).is_err());
    let (mut run, _) = tracked(false);
    let piece = run.map.writable(&EVERYWHERE).next().unwrap();
    assert!(run.whole_answer(0, &piece, false).is_err());
    // A container is unmapped by its own call; where there is none the VMM's callback unmaps, and
    // what was dirty is not known.
    run.unmap_container(0, &[piece]);
    assert!(run.num_errors() > 0);
    assert!(run.pending.overlaps(&(0..=PAGES - 1)));
}
