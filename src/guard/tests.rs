// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::error::{Code, Result};
use proptest::prelude::*;

/// What a guard says of data that comes in pieces: nothing, or its code and text. After a refusal
/// it is not asked again, as a load does not.
fn verdict(guard: &mut dyn Guard, pieces: &[&[u8]]) -> std::result::Result<(), (Code, String)> {
    let said = |result: Result<()>| result.map_err(|e| (e.code(), e.to_string()));
    let mut offset = 0;
    for piece in pieces {
        said(guard.data(piece, offset))?;
        offset += piece.len() as u64;
    }
    said(guard.end(offset))
}

/// The same for pieces of these lengths, again and again.
fn split<'a>(mut data: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for len in lengths.iter().cycle() {
        if data.is_empty() {
            break;
        }
        let (piece, rest) = data.split_at((*len).min(data.len()));
        pieces.push(piece);
        data = rest;
    }
    pieces
}

/// A port as mtty saves it, with `count` bytes in its FIFO, the first at `tail`.
fn port(tail: u8, count: u8) -> [u8; 36] {
    let mut port = [0; 36];
    port[..24].copy_from_slice(b"registers, and the FIFO.");
    (port[24], port[25], port[26]) = ((tail + count) % 16, tail, count);
    (port[27], port[28], port[29], port[33], port[34]) = (1, 0, 0xaa, 16, 1);
    port
}

fn mtty(ports: &[[u8; 36]]) -> Vec<u8> {
    let mut out = 0x7e9d_0989_8c3e_2c4eu64.to_ne_bytes().to_vec();
    for number in [1, 0, ports.len() as u32, 0] {
        out.extend_from_slice(&number.to_ne_bytes());
    }
    out.extend(ports.concat());
    out
}

fn judge_mtty(mdev_type: &str, data: &[u8]) -> std::result::Result<(), (Code, String)> {
    verdict(&mut Mtty::new(mdev_type), &[data])
}

#[test]
fn everything_that_mtty_can_save_passes() {
    for tail in 0..16 {
        for count in 0..=16 {
            for max in [1, 16] {
                let mut one = port(tail, count);
                one[33] = max;
                judge_mtty("mtty-1", &mtty(&[one])).unwrap();
                judge_mtty("mtty-2", &mtty(&[port(0, 0), one])).unwrap();
                judge_mtty("", &mtty(&[one, one])).unwrap();
            }
        }
    }
}

#[test]
fn what_mtty_does_not_check_is_refused_at_its_byte() {
    // For each byte that the driver uses: the values that mtty saves there, the rest being as in a
    // port with 3 bytes in its FIFO from 5 on.
    let right: [(usize, &[u8]); 7] = [
        (24, &[8]),
        (25, &[5]),
        (26, &[3]),
        (27, &[0, 1]),
        (28, &[0, 1]),
        (33, &[1, 16]),
        (34, &[0, 1, 4, 8, 14]),
    ];
    for ports in 1..=2 {
        let good = mtty(&vec![port(5, 3); ports]);
        for which in 0..ports {
            for (member, values) in right {
                for value in 0..=u8::MAX {
                    let at = 24 + 36 * which + member;
                    let mut bad = good.clone();
                    bad[at] = value;
                    let said = judge_mtty("", &bad);
                    assert_eq!(said.is_ok(), values.contains(&value), "{member} {value}");
                    if let Err((code, text)) = said {
                        // Head and tail may be right in themselves, and the count tells.
                        let told =
                            if member < 26 && value < 16 { 24 + 36 * which + 26 } else { at };
                        assert_eq!(code, Code::Proto);
                        assert!(text.contains(&format!("at byte {told} of")), "{text}");
                        assert!(text.contains(&format!("port {which}")), "{text}");
                        // The byte is refused before the driver has it.
                        let mut guard = Mtty::new("");
                        guard.data(&bad[..told], 0).unwrap();
                        assert!(guard.data(&bad[told..=told], told as u64).is_err());
                    }
                }
            }
        }
    }
}

#[test]
fn a_header_that_is_not_this_devices_is_refused() {
    let good = mtty(&[port(1, 2), port(3, 4)]);
    judge_mtty("mtty-2", &good).unwrap();
    assert!(judge_mtty("mtty-1", &good).is_err());
    for byte in 0..24 {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[byte] ^= 1 << bit;
            assert_eq!(judge_mtty("", &bad).unwrap_err().0, Code::Proto, "{byte} {bit}");
        }
    }
    // As many ports as a number can say.
    let mut many = good.clone();
    many[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(judge_mtty("", &many).is_err());
}

#[test]
fn a_state_of_mttys_ends_where_its_ports_end() {
    let good = mtty(&[port(1, 2)]);
    for len in 0..good.len() {
        assert_eq!(judge_mtty("", &good[..len]).unwrap_err().0, Code::Proto, "{len}");
    }
    assert!(judge_mtty("", &[&good[..], &[0]].concat()).is_err());
    // A restart forgets everything, wherever it comes.
    for len in 0..=good.len() {
        let mut guard = Mtty::new("mtty-1");
        guard.data(&good[..len], 0).unwrap();
        guard.restart().unwrap();
        verdict(&mut guard, &[&good]).unwrap();
    }
}

fn little(size: u64, flags: u32, tag: u32) -> Vec<u8> {
    [&size.to_le_bytes()[..], &flags.to_le_bytes(), &tag.to_le_bytes()].concat()
}

fn format() -> RecordFormat {
    RecordFormat {
        header: 16,
        big_endian: false,
        size: Field { offset: 0, width: 8 },
        with_header: false,
        tag: Some(Field { offset: 12, width: 4 }),
        tags: vec![0, 7],
        optional: Some(Optional { flags: Field { offset: 8, width: 4 }, mask: 1 }),
        max_record: 1000,
        max_total: 3000,
    }
}

fn judge(format: RecordFormat, data: &[u8]) -> std::result::Result<(), Code> {
    verdict(&mut Records::new(format).unwrap(), &[data]).map_err(|(code, _)| code)
}

#[test]
fn records_pass_up_to_their_caps() {
    let record = |size: u64, tag| [little(size, 0, tag), vec![1; size as usize]].concat();
    let three = [record(1000, 0), record(0, 7), record(20, 7)].concat();
    judge(format(), &three).unwrap();
    judge(format(), &[]).unwrap();
    for size in [1001, 1 << 32, u64::MAX] {
        // The header alone is enough.
        let mut guard = Records::new(format()).unwrap();
        guard.data(&three, 0).unwrap();
        let refused = guard.data(&little(size, 0, 0), three.len() as u64).unwrap_err();
        assert_eq!(refused.code(), Code::MsgSize);
        assert!(refused.to_string().contains(&format!("at byte {}", three.len())), "{refused}");
    }
    // 2 * 1016 and 16 + 952 are 3000.
    let full = [record(1000, 0), record(1000, 0), record(952, 0)].concat();
    judge(format(), &full).unwrap();
    assert_eq!(judge(format(), &[&full[..], &little(0, 0, 0)].concat()), Err(Code::MsgSize));
    for len in 1..full.len() {
        let boundary = len == 1016 || len == 2032;
        assert_eq!(judge(format(), &full[..len]).is_ok(), boundary, "{len}");
    }
}

#[test]
fn records_of_an_unknown_kind_pass_only_if_the_driver_may_skip_them() {
    assert_eq!(judge(format(), &little(0, 0, 8)), Err(Code::Proto));
    assert_eq!(judge(format(), &little(0, 2, 8)), Err(Code::Proto));
    judge(format(), &little(0, 3, 8)).unwrap();
    assert_eq!(judge(format(), &little(1001, 1, 8)), Err(Code::MsgSize));
    let any = RecordFormat { tags: vec![], ..format() };
    judge(any, &little(0, 0, 8)).unwrap();
    let none = RecordFormat { optional: None, ..format() };
    assert_eq!(judge(none, &little(0, 3, 8)), Err(Code::Proto));
}

#[test]
fn numbers_of_any_width_and_order_are_read_where_they_are() {
    for big_endian in [false, true] {
        for (offset, width) in [(0, 1), (3, 1), (1, 2), (5, 4), (0, 8), (7, 8)] {
            for with_header in [false, true] {
                let format = RecordFormat {
                    header: 15,
                    big_endian,
                    size: Field { offset, width },
                    with_header,
                    tag: None,
                    tags: vec![],
                    optional: None,
                    max_record: 90,
                    max_total: u64::MAX,
                };
                let data = |size: u64| {
                    let said = if with_header { size + 15 } else { size };
                    let mut header = [0xee; 15];
                    let (begin, end) = (offset as usize, (offset + width) as usize);
                    match big_endian {
                        true => header[begin..end]
                            .copy_from_slice(&said.to_be_bytes()[8 - width as usize..]),
                        false => header[begin..end]
                            .copy_from_slice(&said.to_le_bytes()[..width as usize]),
                    }
                    [&header[..], &vec![3; size as usize]].concat()
                };
                judge(format.clone(), &[data(90), data(0), data(5)].concat()).unwrap();
                assert_eq!(judge(format, &data(91)), Err(Code::MsgSize));
            }
        }
    }
    // Shorter than its own header.
    let format = RecordFormat { with_header: true, ..format() };
    assert_eq!(judge(format.clone(), &little(15, 0, 0)), Err(Code::Proto));
    judge(format, &little(16, 0, 0)).unwrap();
}

#[test]
fn formats_that_cannot_be_are_refused() {
    let field = |offset, width| Field { offset, width };
    let wrong = [
        RecordFormat { header: 0, ..format() },
        RecordFormat { header: 65, ..format() },
        RecordFormat { header: u32::MAX, ..format() },
        RecordFormat { size: field(9, 8), ..format() },
        RecordFormat { size: field(0, 3), ..format() },
        RecordFormat { size: field(u32::MAX, 8), ..format() },
        RecordFormat { tag: Some(field(15, 2)), ..format() },
        RecordFormat { tag: None, ..format() },
        RecordFormat { tags: vec![0; MAX_TAGS + 1], ..format() },
        RecordFormat { optional: Some(Optional { flags: field(16, 1), mask: 1 }), ..format() },
    ];
    for format in wrong {
        assert_eq!(Records::new(format.clone()).unwrap_err().code(), Code::Inval, "{format:?}");
    }
}

#[test]
fn mlx5_gets_no_size_beyond_its_cap_by_either_way() {
    let judge = |state_size, data: &[u8]| verdict(&mut Mlx5::new(state_size), &[data]);
    // What the target says of itself, and the largest record that passes.
    let caps = [
        (0, 1 << 30),
        (1, 256 << 20),
        (17 << 20, 272 << 20),
        (1 << 40, u64::from(u32::MAX)),
        (u64::MAX, u64::from(u32::MAX)),
    ];
    for (state_size, cap) in caps {
        let header = |size, tag| Mlx5::new(state_size).data(&little(size, 0, tag), 0);
        header(cap, 0).unwrap();
        assert_eq!(header(cap + 1, 0).unwrap_err().code(), Code::MsgSize, "{state_size}");
        let announce = |size: u64| [little(8, 0, 1), size.to_le_bytes().to_vec()].concat();
        judge(state_size, &announce(cap)).unwrap();
        assert_eq!(judge(state_size, &announce(cap + 1)).unwrap_err().0, Code::MsgSize);
        // Again in a second record, and after a restart.
        let twice = [announce(cap), announce(cap + 1)].concat();
        assert_eq!(judge(state_size, &twice).unwrap_err().0, Code::MsgSize);
    }
    for short in 0..8 {
        assert_eq!(judge(0, &little(short, 0, 1)).unwrap_err().0, Code::Proto, "{short}");
    }
    // Longer ones are allowed; the first 8 bytes are the number.
    let longer = [little(12, 0, 1), 5u64.to_le_bytes().to_vec(), vec![0xff; 4]].concat();
    judge(0, &longer).unwrap();
    let mut guard = Mlx5::new(0);
    guard.data(&[little(8, 0, 1), vec![0xff; 7]].concat(), 0).unwrap();
    guard.restart().unwrap();
    verdict(&mut guard, &[&[little(3, 0, 0), vec![9; 3]].concat()]).unwrap();
}

#[test]
fn the_target_decides_which_guard_there_is() {
    let with = |driver: &str, flags| {
        built_in(&Identity { driver: driver.into(), migration_flags: flags, ..Identity::default() })
            .is_some()
    };
    let (all, none) =
        (MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY, MigrationFlags::empty());
    assert!(with("mtty", none) && with("mtty", all));
    assert!(with("mlx5_vfio_pci", all) && !with("mlx5_vfio_pci", MigrationFlags::STOP_COPY));
    assert!(!with("", all) && !with("virtio_vfio_pci", all));
}

/// Data that is not refused at its first byte, of any of the guards.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let ports = proptest::collection::vec((0u8..16, 0u8..=16).prop_map(|(t, c)| port(t, c)), 1..3);
    let size =
        prop_oneof![6 => 0u64..40, 1 => Just(1000u64), 1 => Just(1u64 << 28), 1 => any::<u64>()];
    let record = (size, 0u32..3, prop_oneof![0u32..3, Just(7)]).prop_map(|(size, flags, tag)| {
        [little(size, flags, tag), vec![1; size.min(50) as usize]].concat()
    });
    let records = proptest::collection::vec(record, 0..6).prop_map(|records| records.concat());
    let changed =
        (prop_oneof![ports.prop_map(|p| mtty(&p)), records], any::<(usize, u8)>(), 0usize..8);
    changed.prop_map(|(mut data, (at, value), change)| {
        if change < 3 && !data.is_empty() {
            let at = at % data.len();
            data[at] = value;
        }
        if change == 1 {
            data.truncate(at % (data.len() + 1));
        }
        data
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_verdict(
        data in data(), lengths in proptest::collection::vec(1usize..40, 1..6),
    ) {
        let guards: [fn() -> Box<dyn Guard>; 4] = [
            || Box::new(Mtty::new("")),
            || Box::new(Mtty::new("mtty-2")),
            || Box::new(Records::new(format()).unwrap()),
            || Box::new(Mlx5::new(0)),
        ];
        for guard in guards {
            let whole = verdict(&mut *guard(), &[&data]);
            prop_assert_eq!(&whole, &verdict(&mut *guard(), &split(&data, &lengths)));
            prop_assert_eq!(&whole, &verdict(&mut *guard(), &split(&data, &[1])));
        }
    }
}
