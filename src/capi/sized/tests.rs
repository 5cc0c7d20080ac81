// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::error::Code;

/// How large structures were when they were first released. A number never changes after its
/// release, nor 0.1.0's after 0.1.0: a structure that grows names a member with `since` instead, and
/// programs of before go on working. A new structure adds a line.
#[cfg(target_pointer_width = "64")]
mod first {
    use super::Sized32;
    use crate::capi::{
        auth::*, checkpoint::*, compat::*, device::*, dirty::*, error::*, estimate::*, fsm::*,
        group::*, guard::*, handover::*, inspect::*, limits::*, load::*, restore::*, save::*,
        transfer::*,
    };

    macro_rules! sizes {
        ($($name:ident: $size:literal,)*) => {
            /// Name, what the library takes for its first size, what that is.
            const SIZES: &[(&str, usize, usize)] =
                &[$((stringify!($name), <$name as Sized32>::FIRST, $size),)*];
        };
    }

    sizes! {
        vfiomig_auth: 88,
        vfiomig_caps: 32,
        vfiomig_channel_ops: 32,
        vfiomig_channel_options: 32,
        vfiomig_channel_stats: 48,
        vfiomig_checkpoint_options: 56,
        vfiomig_checkpoint_stats: 72,
        vfiomig_compat_policy: 48,
        vfiomig_compat_reason: 1024,
        vfiomig_compat_rule: 40,
        vfiomig_decision: 40,
        vfiomig_decoded: 64,
        vfiomig_decoder_ops: 104,
        vfiomig_device_ops: 96,
        vfiomig_device_options: 56,
        vfiomig_dirty_error: 496,
        vfiomig_dirty_options: 16,
        vfiomig_dirty_round: 40,
        vfiomig_dirty_stats: 96,
        vfiomig_dirty_writer: 64,
        vfiomig_dirty_writer_stats: 552,
        vfiomig_downtime: 136,
        vfiomig_event: 32,
        vfiomig_failure: 48,
        vfiomig_group_options: 40,
        vfiomig_group_status: 56,
        vfiomig_guard_ops: 56,
        vfiomig_guard_records: 72,
        vfiomig_handover_action: 24,
        vfiomig_handover_options: 56,
        vfiomig_handover_outcome: 24,
        vfiomig_identity: 640,
        vfiomig_inspect_entry: 472,
        vfiomig_inspect_options: 88,
        vfiomig_inspect_report: 416,
        vfiomig_limits: 64,
        vfiomig_load_options: 128,
        vfiomig_load_stats: 96,
        vfiomig_mac_ops: 40,
        vfiomig_mapping: 48,
        vfiomig_memory_ops: 56,
        vfiomig_path: 48,
        vfiomig_pending: 40,
        vfiomig_place: 40,
        vfiomig_prediction: 232,
        vfiomig_reason: 512,
        vfiomig_restore_device: 104,
        vfiomig_restore_info: 56,
        vfiomig_restore_options: 32,
        vfiomig_save_options: 48,
        vfiomig_save_stats: 88,
        vfiomig_tracker_ops: 48,
        vfiomig_transfer: 24,
        vfiomig_verdict: 24,
    }

    #[test]
    fn a_structure_that_grows_keeps_the_size_of_its_first_release() {
        for (name, first, released) in SIZES {
            assert_eq!(first, released, "{name}: has it grown without `since` in its sized32!?");
        }
    }

    /// Adds the structures that files below `folder` declare to be sized.
    fn declared(folder: &std::path::Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                declared(&path, names);
            }
            // Where the macro itself is, and these tests.
            let not_here = path.ends_with("sized.rs") || path.ends_with("sized/tests.rs");
            if path.extension() != Some("rs".as_ref()) || not_here {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for list in source.split("sized32!").skip(1) {
                let list = list.split([')', ']', '}']).next().unwrap();
                let each = list.split(['(', '[', '{', ',']);
                names
                    .extend(each.filter_map(|one| Some(one.split_whitespace().next()?.to_owned())));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn every_structure_that_may_grow_is_in_the_list() {
        let mut names = Vec::new();
        declared(concat!(env!("CARGO_MANIFEST_DIR"), "/src/capi").as_ref(), &mut names);
        names.sort();
        let listed: Vec<_> = SIZES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, listed);
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ours {
    struct_size: u32,
    number: u32,
    size: u64,
}

super::sized32!(Ours);

#[repr(C)]
struct Newer {
    known: Ours,
    future: u64,
}

fn newer(future: u64) -> Newer {
    let known = Ours { struct_size: size_of::<Newer>() as u32, number: 0, size: 0 };
    Newer { known, future }
}

/// Fills in a caller's structure, of whatever size it claims.
fn fill(theirs: &mut Newer) -> Result<()> {
    let to = std::ptr::from_mut(theirs).cast::<Ours>();
    // SAFETY: a structure of its size, or of one that is refused before anything relies on it.
    let out = unsafe { SizedOut::new(to, "theirs") }?;
    out.fill(&Ours { struct_size: 0, number: 3, size: 4 });
    Ok(())
}

#[test]
fn a_newer_callers_structure_is_accepted_while_its_tail_is_zero() {
    for (future, expected) in [(0, None), (1, Some(Code::TooBig))] {
        let theirs = newer(future);
        let from = (&raw const theirs).cast::<Ours>();
        // SAFETY: a structure with its size.
        let (_, tail) = unsafe { read_in(from, "theirs") }.unwrap();
        assert_eq!(tail.check().err().map(|e| e.code()), expected);
        // SAFETY: as above.
        let options = unsafe { read_options(from) };
        assert_eq!(options.err().map(|e| e.code()), expected);
    }
}

#[test]
fn a_newer_callers_structure_is_filled_and_its_tail_zeroed() {
    let mut theirs = newer(77);
    fill(&mut theirs).unwrap();
    assert_eq!(theirs.known.struct_size as usize, size_of::<Newer>());
    assert_eq!((theirs.known.number, theirs.known.size, theirs.future), (3, 4, 0));
}

/// What `Ours` was in a release before this one, and is to this one a structure that has grown.
#[repr(C)]
#[derive(Clone, Copy)]
struct Older {
    struct_size: u32,
    number: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Grown {
    struct_size: u32,
    number: u32,
    size: u64,
    more: u32,
    reserved: u32,
}

super::sized32!(Grown since size);

#[test]
fn an_older_callers_structure_is_extended_with_zeros() {
    // Followed by what is not part of it.
    let theirs = [Older { struct_size: 8, number: 7 }, Older { struct_size: 99, number: 99 }];
    // SAFETY: a structure with its size.
    let (ours, tail) = unsafe { read_in(theirs.as_ptr().cast::<Grown>(), "theirs") }.unwrap();
    tail.check().unwrap();
    assert_eq!((ours.number, ours.size, ours.more, ours.reserved), (7, 0, 0, 0));
}

#[test]
fn an_older_callers_structure_is_filled_up_to_its_size() {
    for size in [8, 16] {
        let mut theirs = [u32::MAX; 8];
        theirs[0] = size;
        // SAFETY: a structure of its size, and more behind it.
        let out = unsafe { SizedOut::new(theirs.as_mut_ptr().cast::<Grown>(), "theirs") }.unwrap();
        out.fill(&Grown { struct_size: 0, number: 3, size: 4, more: 5, reserved: 6 });
        let (filled, rest) = theirs.split_at(size as usize / 4);
        assert_eq!(filled[..2], [size, 3]);
        if let [_, _, low, high] = filled {
            let bytes = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
            assert_eq!(u64::from_ne_bytes(bytes.try_into().unwrap()), 4);
        }
        assert!(rest.iter().all(|word| *word == u32::MAX), "{theirs:x?}");
    }
}

#[test]
fn a_structure_shorter_than_its_first_version_is_refused() {
    for size in [0, 4, 7, 65537] {
        let theirs = Older { struct_size: size, number: 7 };
        // SAFETY: only the size is read, as it is refused.
        let read = unsafe { read_in((&raw const theirs).cast::<Grown>(), "theirs") };
        assert_eq!(read.err().unwrap().code(), Code::Inval, "{size}");
    }
    assert_eq!((Grown::FIRST, Ours::FIRST), (8, 16));
}

#[test]
fn sizes_that_cannot_be_are_refused_and_nothing_is_written() {
    for size in [0, 3, size_of::<Ours>() as u32 - 1, 1 << 20, u32::MAX] {
        let mut theirs = newer(5);
        theirs.known.struct_size = size;
        theirs.known.number = 9;
        assert_eq!(fill(&mut theirs).unwrap_err().code(), Code::Inval);
        assert_eq!((theirs.known.number, theirs.future), (9, 5));
    }
}
