// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::error::Code;

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
