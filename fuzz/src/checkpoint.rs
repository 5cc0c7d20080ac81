// SPDX-License-Identifier: MIT OR Apache-2.0
//! Manifests of checkpoints of any bytes: they are refused, or can be written again and read as
//! the same. The checks are corrected first, because no fuzzer guesses them.

use vfiomig::error::{Code, Error};
use vfiomig::stream::DecodeLimits;
use vfiomig::stream::checkpoint::{
    Authenticity, HEAD_LEN, MAX_MANIFEST, Manifest, TRAILER_LEN, Verifier, encode_head,
    encode_manifest, read_manifest,
};

use crate::input::{Input, crc};

fn read(file: &[u8]) -> Result<Manifest, Error> {
    let mut read = |at: u64, buf: &mut [u8]| {
        let part = usize::try_from(at).ok().and_then(|at| file.get(at..)?.get(..buf.len()));
        buf.copy_from_slice(part.expect("nothing outside of the file is read"));
        Ok(())
    };
    read_manifest(file.len() as u64, &mut read, Authenticity::Ignore)
}

/// Makes both ends fit what is between them.
fn mend(file: &mut [u8], manifest: usize) {
    let end = file.len() - TRAILER_LEN;
    let from = HEAD_LEN + manifest.min(end - HEAD_LEN);
    let check = crc(&[&file[from..end]]);
    let authenticated = file[12] & 1 == 1;
    let id = [7; 16];
    file[..HEAD_LEN].copy_from_slice(&encode_head(id, authenticated));
    let trailer = &mut file[end..];
    trailer.fill(0);
    trailer[..8].copy_from_slice(b"\x89VFIOMCE");
    trailer[8..16].copy_from_slice(&(from as u64).to_le_bytes());
    trailer[16..24].copy_from_slice(&((end - from) as u64).to_le_bytes());
    trailer[24..40].copy_from_slice(&id);
    trailer[40..44].copy_from_slice(&check.to_le_bytes());
    let check = crc(&[&trailer[..60]]);
    trailer[60..].copy_from_slice(&check.to_le_bytes());
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mended = input.flag();
    let manifest = usize::from(input.u16());
    let mut file = input.all().to_vec();
    if mended && file.len() >= HEAD_LEN + TRAILER_LEN {
        mend(&mut file, manifest);
    }
    let Ok(manifest) = read(&file) else { return };
    let end = (file.len() - TRAILER_LEN) as u64;
    for entry in &manifest.devices {
        let mut verifier = Verifier::new(entry, DecodeLimits::default(), None).expect("no keys");
        let all = entry.pieces.iter().try_for_each(|piece| {
            assert!(piece.offset >= HEAD_LEN as u64 && piece.offset + piece.len <= end);
            verifier.push(&file[piece.offset as usize..][..piece.len as usize])
        });
        let _ = all.and_then(|()| verifier.finish());
    }
    // What was read can be written, if it is not at the edge of what may be.
    let again = match encode_manifest(&manifest, end, None) {
        Ok(again) => again,
        Err(error) if error.code() == Code::MsgSize => return,
        Err(error) => panic!("{error}"),
    };
    assert!(again.len() as u64 <= MAX_MANIFEST + TRAILER_LEN as u64);
    let mut file = file[..end as usize].to_vec();
    file[..HEAD_LEN].copy_from_slice(&encode_head(manifest.id, false));
    file.extend_from_slice(&again);
    let read = read(&file).expect("what was written can be read");
    assert_eq!(read, Manifest { key_id: None, ..manifest });
}
