// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device data of any bytes, in any pieces, past the guards: how it is split changes nothing, and
//! what passes keeps to what a second, simpler judge looks for.

use vfiomig::Code;
use vfiomig::guard::{Field, Guard, Mlx5, Mtty, Optional, RecordFormat, Records};

use crate::input::Input;

/// What a guard says of this, in pieces of at most `step` bytes.
fn verdict(guard: &mut dyn Guard, data: &[u8], step: usize) -> Result<(), (Code, String)> {
    let said = |result: vfiomig::Result<()>| result.map_err(|e| (e.code(), e.to_string()));
    let mut offset = 0;
    for piece in data.chunks(step) {
        said(guard.data(piece, offset))?;
        offset += piece.len() as u64;
    }
    said(guard.end(offset))
}

/// The cap on a record of the format below, in bytes.
const CAP: u64 = 300;

fn records() -> Records {
    Records::new(RecordFormat {
        header: 16,
        big_endian: false,
        size: Field { offset: 0, width: 8 },
        with_header: false,
        tag: Some(Field { offset: 12, width: 4 }),
        tags: vec![0, 1],
        optional: Some(Optional { flags: Field { offset: 8, width: 4 }, mask: 1 }),
        max_record: CAP,
        max_total: 1500,
    })
    .expect("a format that can be")
}

/// Whatever mtty would index with lies within its FIFO.
fn judge_mtty(data: &[u8]) {
    assert!(data.len() == 60 || data.len() == 96, "{} bytes", data.len());
    for port in data[24..].chunks(36) {
        assert!(port[24] < 16 && port[25] < 16 && port[26] <= 16, "{port:?}");
        assert!(port[27] < 2 && port[28] < 2 && port[33] <= 16, "{port:?}");
    }
}

/// The records end where the data ends, and none is longer than the cap.
fn judge_records(mut data: &[u8], cap: u64) {
    while !data.is_empty() {
        let size = u64::from_le_bytes(data[..8].try_into().unwrap());
        assert!(size <= cap, "{size}");
        data = &data[16 + size as usize..];
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (step, which) = (usize::from(input.u8()) % 40 + 1, input.u8() % 3);
    let mut data = bytes.get(2..).unwrap_or_default().to_vec();
    // Magic, version and number of ports, which no fuzzer guesses.
    if which == 0 && data.len() >= 24 {
        data[..8].copy_from_slice(&0x7e9d_0989_8c3e_2c4eu64.to_ne_bytes());
        for (place, number) in [(8, 1u32), (12, 0), (16, u32::from(data[16] % 3)), (20, 0)] {
            data[place..place + 4].copy_from_slice(&number.to_ne_bytes());
        }
    }
    let make = || -> Box<dyn Guard> {
        match which {
            0 => Box::new(Mtty::new("")),
            1 => Box::new(records()),
            _ => Box::new(Mlx5::new(0)),
        }
    };
    let whole = verdict(&mut *make(), &data, usize::MAX);
    assert_eq!(whole, verdict(&mut *make(), &data, step));
    // A restart forgets whatever came before.
    let mut used = make();
    let _ = verdict(&mut *used, &data, step);
    used.restart().expect("a guard that restarts");
    assert_eq!(whole, verdict(&mut *used, &data, step));
    if whole.is_ok() {
        match which {
            0 => judge_mtty(&data),
            1 => judge_records(&data, CAP),
            _ => judge_records(&data, 1 << 30),
        }
    }
}
