// SPDX-License-Identifier: MIT OR Apache-2.0

use super::places::Places;
use super::*;
use crate::dirty::buffers::Buffers;
use crate::dirty::fake::{PAGE, Vmm, map, page};
use crate::dirty::ledger::Ledger;
use crate::dirty::map::Mapping;
use crate::dirty::ranges::EVERYWHERE;

fn delivery(vmm: &Vmm) -> Delivery {
    Delivery::new(Box::new(vmm.clone()), page())
}

fn translated(pages: u64) -> Piece {
    let size = pages * PAGE;
    let mapping = Mapping { size, translate: true, ..Mapping::default() };
    Piece { first: 0, last: size - 1, mapping }
}

fn add(ledger: &mut Ledger, pages: &[u64]) {
    pages.iter().for_each(|page| ledger.add(&(page * PAGE..=(page + 1) * PAGE - 1)));
}

/// Does what delivery does when pieces are unmapped without a bitmap. `late` pages are written to
/// at the last moment.
fn unmap(
    delivery: &mut Delivery,
    pieces: &[Piece],
    ledger: &mut Ledger,
    late: &[u64],
) -> Result<()> {
    let mut union = Buffers::new(1 << 10).unwrap().union;
    let mut places = Places::new(pieces.len(), 100, page()).unwrap();
    delivery.reserve(places.room()).unwrap();
    delivery.locate(pieces, ledger, &mut union, &mut places)?;
    add(ledger, late);
    delivery.hand_over_pending(&EVERYWHERE, places.found(), ledger, &mut union);
    Ok(())
}

#[test]
fn translated_pages_go_where_the_vmm_says_that_they_are() {
    let (vmm, piece) = (Vmm::default(), translated(64));
    let mut delivery = delivery(&vmm);
    vmm.taken().place = Some((100, 2));
    let mut words = [0b0111_0001];
    delivery.give(&piece, 0, &mut words, 64).unwrap();
    assert_eq!((words, vmm.take()), ([0], vec![100, 104, 105, 106]));
    // If the VMM does not know the place, or does not take the page, the bits stay.
    vmm.taken().place = None;
    words = [0b11];
    assert!(delivery.give(&piece, 0, &mut words, 64).is_err());
    vmm.taken().place = Some((100, 2));
    vmm.taken().refuses = true;
    assert!(delivery.give(&piece, 0, &mut words, 64).is_err());
    assert_eq!((words, vmm.take()), ([0b11], vec![]));
}

#[test]
fn what_the_vmm_refuses_of_a_mapping_that_goes_is_kept_by_its_place() {
    let (vmm, mut ledger) = (Vmm::default(), Ledger::new(page()));
    let mut delivery = delivery(&vmm);
    vmm.taken().place = Some((100, 1));
    vmm.taken().refuses = true;
    add(&mut ledger, &[3, 4, 40]);
    let plain = map(&[(70, 8)]).pieces(&EVERYWHERE).next().unwrap();
    add(&mut ledger, &[71]);
    unmap(&mut delivery, &[translated(64), plain], &mut ledger, &[41, 42]).unwrap();
    assert_eq!((ledger.num_errors(), vmm.take()), (1, vec![]));
    assert!(delivery.drain().is_err());
    vmm.taken().refuses = false;
    // The place is the one from before the unmapping.
    vmm.taken().place = Some((200, 1));
    delivery.drain().unwrap();
    assert_eq!(vmm.take(), [71, 103, 104, 140, 141, 142]);
    assert_eq!(delivery.footprint(), 0);
}

#[test]
fn the_place_of_a_page_that_was_not_known_is_asked_for_again() {
    let (vmm, mut ledger) = (Vmm::default(), Ledger::new(page()));
    let mut delivery = delivery(&vmm);
    add(&mut ledger, &[3, 40]);
    unmap(&mut delivery, &[translated(64)], &mut ledger, &[]).unwrap();
    assert!(delivery.drain().is_err() && delivery.footprint() > 0);
    vmm.taken().place = Some((100, 1));
    delivery.drain().unwrap();
    assert_eq!((vmm.take(), delivery.footprint()), (vec![103, 140], 0));
}
