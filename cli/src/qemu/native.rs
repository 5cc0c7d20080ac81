// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data of a device in QEMU's file, as a native stream.

use std::fs::File;
use std::io::{self, Read};

use vfiomig::identity::Identity;
use vfiomig::stream::{Encoder, FrameType, HEADER_LEN, encode_identity};

use super::PiecesReader;
use crate::exit::{Result, Status, Trouble};

/// Bytes of a frame, as a save makes them.
const FRAME: usize = 128 << 10;

/// Passes the stream on, piece by piece. It says that it was saved from `identity`: QEMU's file does not.
pub fn write_stream(
    reader: &mut PiecesReader<'_>,
    identity: &Identity,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut encoder = Encoder::new(new_id().map_err(|error| no_id(&error))?, 0);
    let mut frame = vec![0; FRAME];
    let mut data = vec![0; FRAME - HEADER_LEN];
    let mut put = |made: vfiomig::Result<usize>, frame: &[u8]| {
        let len = made.map_err(|error| Trouble::new(Status::Resources, error.to_string()))?;
        put(frame.get(..len).unwrap_or_default())
    };
    put(encoder.preamble(&mut frame), &frame)?;
    let identity = encode_identity(identity);
    put(encoder.frame(&mut frame, FrameType::Identity, &[&identity]), &frame)?;
    loop {
        let len = reader.read(&mut data)?;
        if len == 0 {
            break;
        }
        let payload = data.get(..len).unwrap_or_default();
        put(encoder.frame(&mut frame, FrameType::Data, &[payload]), &frame)?;
    }
    put(encoder.end(&mut frame), &frame)
}

/// A name that no other stream has.
fn new_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

fn no_id(error: &io::Error) -> Trouble {
    Trouble::new(Status::Resources, format!("/dev/urandom: {error}"))
}
