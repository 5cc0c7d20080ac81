// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffers of dirty tracking: an answer leaves nothing in them for the next one, and they take
//! as much memory as docs/dirty-tracking.md says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::field_reassign_with_default)] // Not all fields are public.

mod track;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use track::{Own, PAGE, new_tracking, set_bit};
use vfiomig::dirty::{DirtyPages, Mapping, Memory, PageSize, Tracking, Writer};
use vfiomig::error::Errno;
use vfiomig::transport::{Bitmap, Hwpt, PageSizes, Type1, Type1Info};

/// What a tracker says at its next reading: these bits of every page, and whether it then fails.
#[derive(Clone, Default)]
struct Says(Arc<Mutex<(Vec<u64>, bool)>>);

impl Says {
    fn answer(&self, bitmap: &mut [u64]) -> Result<(), Errno> {
        let (bits, fails) = std::mem::take(&mut *self.0.lock().unwrap());
        for bit in bits {
            set_bit(bitmap, bit);
        }
        if fails { Err(Errno(libc::EIO)) } else { Ok(()) }
    }

    fn next(&self, bits: &[u64], fails: bool) {
        *self.0.lock().unwrap() = (bits.to_vec(), fails);
    }
}

/// A page table that says this, with a limit for its bitmaps in bytes.
struct Table(Says, u64);

impl Hwpt for Table {
    fn key(&self) -> u64 {
        1
    }

    fn set_tracking(&mut self, _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn bitmap(&mut self, _: bool, b: &mut Bitmap<'_>) -> Result<(), Errno> {
        self.0.answer(b)
    }

    fn is_mapped(&mut self, _: u64, _: u64) -> Option<Result<bool, Errno>> {
        None
    }

    fn max_bitmap(&self) -> u64 {
        self.1
    }
}

struct Container(Says);

impl Type1 for Container {
    fn key(&self) -> u64 {
        1
    }

    fn info(&mut self) -> Result<Type1Info, Errno> {
        Ok(Type1Info { page_sizes: PageSizes::from_bits(PAGE), max_bitmap: 256 << 20 })
    }

    fn start(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn bitmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        self.0.answer(bitmap)
    }

    fn unmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<u64, Errno> {
        self.0.answer(bitmap).map(|()| bitmap.span().length)
    }
}

#[derive(Clone, Default)]
struct Vmm {
    pages: Arc<Mutex<BTreeSet<u64>>>,
    counts: Arc<Mutex<u64>>,
}

impl Memory for Vmm {
    fn set_dirty(&mut self, dirty: DirtyPages<'_>) -> Result<(), Errno> {
        let mut pages = self.pages.lock().unwrap();
        let mut counts = self.counts.lock().unwrap();
        for offset in dirty.offsets() {
            pages.insert(offset / PAGE);
            *counts += 1;
        }
        Ok(())
    }
}

fn tracking_of(writer: Writer, mapped: u64) -> (Tracking, Vmm) {
    let vmm = Vmm::default();
    let mut tracking = new_tracking(vmm.clone(), &[Mapping { size: mapped, ..Mapping::default() }]);
    tracking.add_writer(writer).unwrap();
    tracking.start().unwrap();
    (tracking, vmm)
}

fn writers(says: &Says) -> Vec<(&'static str, u64, Writer)> {
    let mut all = Vec::new();
    for (name, page) in [("own", PAGE), ("own, small", 512), ("own, large", 4 * PAGE)] {
        let says = says.clone();
        let sync = move |_: u64, _: u64, bitmap: &mut [u64]| says.answer(bitmap);
        let mut writer = Writer::default();
        writer.custom = Some(Box::new(Own { page, sync }));
        all.push((name, page, writer));
    }
    for (name, page) in [("hwpt", PAGE), ("hwpt, large", 4 * PAGE)] {
        let mut writer = Writer::default();
        writer.hwpt = Some(Box::new(Table(says.clone(), u64::MAX)));
        writer.hwpt_page_size = PageSize::new(page);
        all.push((name, page, writer));
    }
    let mut writer = Writer::default();
    writer.type1 = Some(Box::new(Container(says.clone())));
    all.push(("type1", PAGE, writer));
    all
}

#[test]
fn an_answer_leaves_nothing_for_the_next_one() {
    const PAGES: u64 = 1000;
    let says = Says::default();
    for (name, page, writer) in writers(&says) {
        let (mut tracking, vmm) = tracking_of(writer, PAGES * PAGE);
        let mut collect = |bits: &[u64], fails: bool| {
            says.next(bits, fails);
            let errors = tracking.collect().unwrap().errors;
            assert_eq!(errors, fails, "{name}");
            let dirty = tracking.writer(0).unwrap().dirty_bytes;
            (std::mem::take(&mut *vmm.pages.lock().unwrap()), dirty)
        };
        let pages = |bits: &[u64]| -> BTreeSet<u64> {
            let each = |bit: &u64| bit * page / PAGE..=((bit + 1) * page - 1) / PAGE;
            bits.iter().flat_map(each).collect()
        };
        let last = PAGES * PAGE / page - 1;
        let nothing = BTreeSet::new();
        assert_eq!(collect(&[0, 64, last], false), (pages(&[0, 64, last]), 3 * page), "{name}");
        assert_eq!(collect(&[], false), (nothing.clone(), 3 * page), "{name}");
        // What it reported before it failed is covered by the error, once.
        assert_eq!(collect(&[1, 65], true).0, (0..PAGES).collect(), "{name}");
        assert_eq!(collect(&[], false), (nothing.clone(), 3 * page), "{name}");
        assert_eq!(collect(&[7], false), (pages(&[7]), 4 * page), "{name}");
        // A bit after those that it was asked for, in the same word.
        if (last + 1) % 64 != 0 {
            assert_eq!(collect(&[last + 1], false), (nothing.clone(), 4 * page), "{name}");
            assert_eq!(collect(&[], false), (nothing, 4 * page), "{name}");
        }
    }
}

/// Bytes of address space for a bitmap of that many.
fn mapped(bytes: u64) -> u64 {
    bytes.next_multiple_of(64 << 10) + (64 << 10)
}

#[test]
fn memory_is_the_documented_function_of_the_map() {
    let says = Says::default();
    for gib in [1u64, 16, 100] {
        let bitmap = gib * (32 << 10);
        for (name, page, writer) in writers(&says) {
            if page != PAGE {
                continue;
            }
            let (mut tracking, _) = tracking_of(writer, gib << 30);
            says.next(&[0, 12_345], false);
            tracking.collect().unwrap();
            let least = tracking.stats().memory_bytes;
            // The answer and the sum.
            let buffers = 2 * mapped(512 << 10);
            let whole = if name == "own" { 0 } else { 2 * mapped(bitmap) };
            assert_eq!(least, buffers + whole, "{name}, {gib} GiB");
            // Everything pending, as bits: every other page.
            let ones: Vec<u64> = (0..gib * (1 << 18)).step_by(2).collect();
            if gib == 1 && name != "own" {
                says.next(&ones, false);
                tracking.remove_writer(0).unwrap();
                assert_eq!(tracking.stats().memory_bytes, least + bitmap, "{name}");
            }
        }
    }
}

/// The page table behaves like kernels whose iommufd loses bits of large mappings.
#[test]
fn a_mapping_larger_than_its_page_table_can_tell_is_dirty_and_smaller_ones_are_exact() {
    let says = Says::default();
    let pages_of = |bitmap: u64| bitmap * 8;
    for (bitmap, whole) in [(4096, true), (4104, false)] {
        let mut writer = Writer::default();
        writer.hwpt = Some(Box::new(Table(says.clone(), 4096)));
        let (mut tracking, vmm) = tracking_of(writer, pages_of(bitmap) * PAGE);
        for round in 1..=3 {
            says.next(&[5], false);
            assert_eq!(tracking.collect().unwrap().errors, !whole);
            let found = std::mem::take(&mut *vmm.pages.lock().unwrap());
            if whole {
                assert_eq!(found, BTreeSet::from([5]));
                continue;
            }
            assert_eq!(found.len() as u64, pages_of(bitmap));
            let assumed = tracking.writer(0).unwrap().assumed_bytes;
            assert_eq!(assumed, round * pages_of(bitmap) * PAGE);
            let message = &tracking.error(0).unwrap().message;
            assert!(message.contains("Linux 6.7.0 to 6.7.6"), "{message}");
            assert!(message.contains("map it in pieces"), "{message}");
        }
    }
}
