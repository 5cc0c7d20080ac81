// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

const PAGE: u64 = 4096;
const MMAP_CAPS: u32 = 1 | 2 | 4 | 8;

/// `struct vfio_region_info` and what comes behind it.
fn reply(flags: u32, first: u32, size: u64, caps: &[u8]) -> Vec<u8> {
    let argsz = (INFO + caps.len()) as u32;
    let mut all = Vec::new();
    for word in [argsz, flags, 9, first] {
        all.extend(word.to_ne_bytes());
    }
    all.extend(size.to_ne_bytes());
    all.extend((9u64 << 40).to_ne_bytes());
    all.extend(caps);
    all
}

fn capability(id: u16, next: u32, body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    all.extend(id.to_ne_bytes());
    all.extend(1u16.to_ne_bytes());
    all.extend(next.to_ne_bytes());
    all.extend(body);
    all
}

fn kind(next: u32, kind: u32, subtype: u32) -> Vec<u8> {
    capability(2, next, &[kind.to_ne_bytes(), subtype.to_ne_bytes()].concat())
}

fn sparse(next: u32, count: u32, areas: &[(u64, u64)]) -> Vec<u8> {
    let mut body = [count.to_ne_bytes(), [0; 4]].concat();
    for (offset, len) in areas {
        body.extend(offset.to_ne_bytes());
        body.extend(len.to_ne_bytes());
    }
    capability(1, next, &body)
}

fn parse(reply: &[u8]) -> Result<Region> {
    Region::parse(reply, 9, PAGE)
}

fn wrong(reply: &[u8]) -> String {
    parse(reply).unwrap_err().to_string()
}

#[test]
fn type_and_areas_are_found_wherever_they_stand_in_the_chain() {
    let unknown = capability(4, 48, &[7; 8]);
    let areas = sparse(48 + 48, 2, &[(3 * PAGE, PAGE), (PAGE, 2 * PAGE)]);
    let chain = [unknown, areas, kind(0, 3, 1)].concat();
    let region = parse(&reply(MMAP_CAPS, 32, 8 * PAGE, &chain)).unwrap();
    assert_eq!((region.index, region.size, region.kind), (9, 8 * PAGE, Some((3, 1))));
    // Sorted, and neighbours do not overlap.
    let expected = [Area { offset: PAGE, len: 2 * PAGE }, Area { offset: 3 * PAGE, len: PAGE }];
    assert_eq!(region.areas, expected);
}

#[test]
fn what_can_be_mapped_is_what_flag_and_capability_say_together() {
    let typed = kind(0, 3, 1);
    let whole = parse(&reply(MMAP_CAPS, 32, 2 * PAGE, &typed)).unwrap();
    assert_eq!(whole.areas, [Area { offset: 0, len: 2 * PAGE }]);
    let odd = parse(&reply(MMAP_CAPS, 32, 2 * PAGE + 8, &typed)).unwrap();
    assert_eq!(odd.areas, []);
    let area = sparse(0, 1, &[(0, PAGE)]);
    let unflagged = parse(&reply(MMAP_CAPS & !4, 32, 2 * PAGE, &area)).unwrap();
    assert_eq!(unflagged.areas, []);
    let none = parse(&reply(MMAP_CAPS, 32, 2 * PAGE, &sparse(0, 0, &[]))).unwrap();
    assert_eq!(none.areas, []);
    let empty = sparse(0, 2, &[(PAGE, 0), (0, PAGE)]);
    let empty = parse(&reply(MMAP_CAPS, 32, 2 * PAGE, &empty)).unwrap();
    assert_eq!(empty.areas, [Area { offset: 0, len: PAGE }]);
    // Without the flag there is no chain, whatever cap_offset says.
    let no_caps = parse(&reply(3, 77, PAGE, &[])).unwrap();
    assert_eq!((no_caps.kind, no_caps.areas), (None, vec![]));
}

#[test]
fn a_chain_that_leads_nowhere_backwards_or_around_is_refused() {
    for (first, caps) in [
        (4, kind(0, 3, 1)),                                      // into the structure
        (0xffff_fff8, kind(0, 3, 1)),                            // outside
        (44, kind(0, 3, 1)),                                     // its header reaches over the end
        (32, kind(32, 3, 1)),                                    // itself
        (32, kind(36, 3, 1)),                                    // into its own header
        (32, [kind(48, 3, 1), capability(9, 32, &[])].concat()), // a loop
        (32, kind(u32::MAX, 3, 1)),
        (32, capability(2, 0, &[0; 4])), // a body that is cut off
        (32, capability(1, 0, &[])),
        (32, capability(1, 0, &[0; 4])),
    ] {
        let text = wrong(&reply(MMAP_CAPS, first, 8 * PAGE, &caps));
        assert!(text.contains("cannot be right"), "{first}: {text}");
    }
    let twice = [kind(48, 3, 1), kind(0, 3, 1)].concat();
    assert!(wrong(&reply(MMAP_CAPS, 32, PAGE, &twice)).contains("two types"));
    let twice = [sparse(48, 0, &[]), sparse(0, 0, &[])].concat();
    assert!(wrong(&reply(MMAP_CAPS, 32, PAGE, &twice)).contains("two lists"));
}

#[test]
fn areas_that_cannot_be_are_refused() {
    for (areas, why) in [
        (sparse(0, 2, &[(0, PAGE)]), "more areas"),
        (sparse(0, u32::MAX, &[(0, PAGE)]), "more areas"),
        (sparse(0, 1, &[(8 * PAGE, PAGE)]), "outside of the region"),
        (sparse(0, 1, &[(u64::MAX - PAGE + 1, PAGE)]), "outside of the region"),
        (sparse(0, 1, &[(0, u64::MAX)]), "outside of the region"),
        (sparse(0, 1, &[(1, PAGE)]), "whole pages"),
        (sparse(0, 1, &[(0, PAGE + 1)]), "whole pages"),
        (sparse(0, 2, &[(PAGE, PAGE), (0, 2 * PAGE)]), "overlap"),
        (sparse(0, 2, &[(PAGE, PAGE), (PAGE, PAGE)]), "overlap"),
    ] {
        let text = wrong(&reply(MMAP_CAPS, 32, 8 * PAGE, &areas));
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[test]
fn what_comes_after_argsz_is_not_looked_at() {
    let mut short = reply(MMAP_CAPS, 32, PAGE, &kind(0, 3, 1));
    short[..4].copy_from_slice(&32u32.to_ne_bytes());
    assert!(wrong(&short).contains("outside of it"));
    assert!(wrong(&short[..16]).contains("too short"));
}

#[test]
fn every_cut_and_every_word_of_an_answer_is_survived() {
    let areas = sparse(0, 2, &[(0, PAGE), (2 * PAGE, PAGE)]);
    let whole = reply(MMAP_CAPS, 32, 8 * PAGE, &[kind(48, 3, 1), areas].concat());
    for len in 0..whole.len() {
        let _ = parse(&whole[..len]);
    }
    for at in (0..whole.len() - 3).step_by(4) {
        for value in [0, 1, 7, 31, 32, 33, 48, 79, 80, 0x7fff_ffff, u32::MAX] {
            let mut twisted = whole.clone();
            twisted[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            if let Ok(region) = parse(&twisted) {
                assert!(region.areas.iter().all(|area| area.end() <= region.size));
            }
        }
    }
}
