// SPDX-License-Identifier: MIT OR Apache-2.0
//! The vfio-user server: what it answers to each command, byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod dma;
mod quirks;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use client::*;
use vfiomig_sim::vfio_user::{Server, ServerOptions};
use vfiomig_sim::{Effect, NO_MIGRATION, Op, Sim, SimOptions, quirk};

const EINVAL: u32 = libc::EINVAL as u32;
const ENOTTY: u32 = libc::ENOTTY as u32;

fn plain() -> ServerOptions {
    ServerOptions::default()
}

#[test]
fn a_client_learns_the_limits_and_gets_a_twin_socket() {
    raw(small(), plain(), |socket, _, _| {
        let mut client = Client::mute(socket);
        let caps = r#"{"capabilities":{"twin_socket":{"supported":true}}}"#;
        let reply = client.introduce(1, caps);
        assert_eq!((reply.flags, reply.error, reply.fds.len()), (1, 0, 1));
        assert_eq!(reply.payload[..4], halves([0, 1]));
        assert_eq!(reply.payload.last(), Some(&0));
        let text = &reply.payload[4..reply.payload.len() - 1];
        let json: serde_json::Value = serde_json::from_slice(text).unwrap();
        let caps = &json["capabilities"];
        assert_eq!(caps["max_data_xfer_size"], 1 << 20);
        assert_eq!(caps["max_msg_fds"], 8);
        assert_eq!(caps["max_dma_maps"], 65535);
        assert_eq!(caps["twin_socket"]["supported"], true);
        assert_eq!(caps["twin_socket"]["fd_index"], 0);
        // A second introduction is not one.
        assert_eq!(client.introduce(1, "{}").error, EINVAL);
    });
    raw(small(), plain(), |socket, _, _| {
        let reply = Client::mute(socket).introduce(0, r#"{"capabilities":{}}"#);
        assert_eq!((reply.error, reply.fds.len()), (0, 0));
        assert_eq!(reply.payload[..4], [0, 0, 0, 0]);
        assert!(!String::from_utf8(reply.payload).unwrap().contains("twin"));
    });
}

#[test]
fn whoever_introduces_itself_wrongly_is_told_and_left() {
    let bad: [(u16, &[u8]); 4] =
        [(1, b"\0\0\0\0[]\0"), (1, b"\x01\0\0\0{}\0"), (1, b"\0\0\0\0{}"), (4, &[16, 0, 0, 0])];
    for (command, payload) in bad {
        raw(small(), plain(), |socket, _, _| {
            let mut client = Client::mute(socket);
            assert_eq!(client.call(command, payload), Err(EINVAL));
            assert!(receive(&client.socket).is_none());
        });
    }
}

#[test]
fn a_header_that_cannot_be_followed_ends_the_connection() {
    // Shorter than itself, longer than anything.
    for size in [15, 0, u32::MAX, (1 << 20) + 33] {
        served(small(), plain(), |client, _, _| {
            let mut bytes = message(7, 13, 0, 0, &[]);
            bytes[4..8].copy_from_slice(&u32::to_ne_bytes(size));
            client.socket.write_all(&bytes).unwrap();
            let reply = receive(&client.socket).unwrap();
            assert_eq!((reply.id, reply.error, reply.flags), (7, EINVAL, 0x21));
            assert!(receive(&client.socket).is_none());
        });
    }
    // A reply to nothing.
    served(small(), plain(), |client, sim, _| {
        client.socket.write_all(&message(7, 13, 1, 0, &[])).unwrap();
        assert!(receive(&client.socket).is_none());
        assert_eq!(sim.violations().0, 1);
    });
}

#[test]
fn a_message_may_come_byte_by_byte() {
    served(small(), plain(), |client, _, _| {
        for byte in message(9, 4, 0, 0, &words(&[16, 0, 0, 0])) {
            client.socket.write_all(&[byte]).unwrap();
        }
        let reply = receive(&client.socket).unwrap();
        assert_eq!((reply.id, reply.error), (9, 0));
    });
}

#[test]
fn what_wants_no_reply_gets_none() {
    served(small(), plain(), |client, _, _| {
        client.send(16, 0x10, &[words(&[16, SET | 2]), words(&[STOP, 0])].concat(), &[]);
        // Nor if it fails.
        client.send(99, 0x10, &[], &[]);
        assert_eq!(client.state(), STOP);
    });
}

#[test]
fn infos_are_those_of_a_pci_device() {
    let pci = [0x1af4, 0x1042, 0x1234, 0x5678];
    served(SimOptions { pci, ..small() }, plain(), |client, sim, _| {
        assert_eq!(client.call(4, &words(&[16, 0, 0, 0])), Ok(words(&[16, 3, 9, 5])));
        assert_eq!(client.call(4, &words(&[15, 0, 0, 0])), Err(EINVAL));
        let region = |client: &mut Client, argsz, index| {
            let payload = [words(&[argsz, 0, index, 0]), longs(&[0, 0])].concat();
            client.exchange(5, &payload, &[])
        };
        let expect =
            |flags, index, size| [words(&[32, flags, index, 0]), longs(&[size, 0])].concat();
        assert_eq!(region(client, 32, 0).payload, expect(3, 0, 4096));
        assert_eq!(region(client, 4096, 1).payload, expect(0, 1, 0));
        assert_eq!(region(client, 32, 7).payload, expect(3, 7, 256));
        assert_eq!(region(client, 32, 9).error, EINVAL);
        assert_eq!(region(client, 31, 0).error, EINVAL);
        // What can be mapped has a capability, if there is room for it.
        let mut reply = region(client, 64, 2);
        let sparse = [words(&[0x1_0001, 0, 1, 0]), longs(&[4096, 61440])].concat();
        let info = [words(&[64, 15, 2, 32]), longs(&[65536, 0])].concat();
        assert_eq!(reply.payload, [info, sparse].concat());
        let memory = std::fs::File::from(reply.fds.remove(0));
        let reply = region(client, 32, 2);
        assert_eq!(reply.payload, [words(&[64, 15, 2, 0]), longs(&[65536, 0])].concat());
        // It is the memory of the region.
        let place = [longs(&[5000]), words(&[2, 4])].concat();
        assert_eq!(client.call(10, &[place.clone(), vec![1, 2, 3, 4]].concat()), Ok(place.clone()));
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, 5000).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!(client.call(9, &place), Ok([place, vec![1, 2, 3, 4]].concat()));
        // Who it is, in its configuration space.
        let place = [longs(&[0]), words(&[7, 48])].concat();
        let space = client.call(9, &place).unwrap();
        assert_eq!(space[16..20], [0xf4, 0x1a, 0x42, 0x10]);
        assert_eq!(space[60..64], [0x34, 0x12, 0x78, 0x56]);
        // Registers: what it is, where it is, what it holds, what was done wrong.
        let place = [longs(&[0]), words(&[0, 32])].concat();
        let registers = client.call(9, &place).unwrap();
        assert_eq!(
            registers[16..],
            [*b"vfiomigs", 2u64.to_le_bytes(), sim.digest().to_le_bytes(), [0; 8]].concat()
        );
        for (at, region, len) in [(0, 9, 4), (4093, 0, 4), (u64::MAX, 0, 4), (0, 0, 0), (0, 1, 1)] {
            let place = [longs(&[at]), words(&[region, len])].concat();
            assert_eq!(client.call(9, &place), Err(EINVAL), "{at} {region} {len}");
            assert_eq!(client.call(10, &[place, vec![0; len as usize]].concat()), Err(EINVAL));
        }
    });
}

#[test]
fn interrupts_go_where_the_client_wants_them() {
    served(small(), plain(), |client, _, _| {
        assert_eq!(client.call(7, &words(&[16, 0, 0, 0])), Ok(words(&[16, 1, 0, 1])));
        assert_eq!(client.call(7, &words(&[16, 0, 4, 0])), Ok(words(&[16, 0, 4, 0])));
        assert_eq!(client.call(7, &words(&[16, 0, 5, 0])), Err(EINVAL));
        assert_eq!(client.call(7, &words(&[16, 0, 0])), Err(EINVAL));
        assert_eq!(client.call(4, &words(&[16, 0, 0])), Err(EINVAL));
        let fd = event();
        let to_fd = words(&[20, 0x24, 1, 0, 1]);
        assert_eq!(client.call_with(8, &to_fd, &[&fd]), Ok(vec![]));
        let trigger = words(&[20, 0x21, 1, 0, 1]);
        assert_eq!(client.call(8, &trigger), Ok(vec![]));
        assert_eq!(taken(&fd), Some(1));
        // Nobody waits for one that is full.
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(client.call(8, &trigger), Ok(vec![]));
        assert_eq!(taken(&fd), Some(u64::MAX - 1));
        // Off again.
        assert_eq!(client.call(8, &words(&[20, 0x21, 1, 0, 0])), Ok(vec![]));
        assert_eq!(client.call(8, &trigger), Ok(vec![]));
        assert_eq!(taken(&fd), None);
        // Others are not interrupts.
        let socket = OwnedFd::from(UnixStream::pair().unwrap().0);
        for fd in [&socket, &dma::memory(4096)] {
            assert_eq!(client.call_with(8, &to_fd, &[fd]), Err(EINVAL));
        }
        for bad in [
            [19, 0x21, 1, 0, 0],
            [20, 0x21, 5, 0, 0],
            [20, 0x21, 1, 1, 1],
            [20, 0x24, 1, 0, 1],
            [20, 1, 1, 0, 0],
        ] {
            assert_eq!(client.call(8, &words(&bad)), Err(EINVAL), "{bad:?}");
        }
    });
}

#[test]
fn features_are_asked_for_with_room_for_the_answer() {
    served(small(), plain(), |client, sim, _| {
        // Never peer-to-peer, whatever the device could do.
        assert_eq!(client.feature(GET | 1, &[], 8), Ok(longs(&[5])));
        assert_eq!(client.feature(GET | 1, &[], 7), Err(EINVAL));
        assert_eq!(client.feature(GET | 2, &[], 8), Ok(words(&[RUNNING, u32::MAX])));
        for (flags, expected) in [
            (PROBE | GET | 1, Ok(vec![])),
            (PROBE | SET | 1, Err(EINVAL)),
            (PROBE | GET | SET | 2, Ok(vec![])),
            (GET | SET | 2, Err(EINVAL)),
            (2, Err(EINVAL)),
            (GET | 3, Err(ENOTTY)),
            (GET | 9, Err(ENOTTY)),
            (SET | 12, Err(ENOTTY)),
            (SET | 1, Err(EINVAL)),
            (PROBE | GET | 9, Err(ENOTTY)),
            (PROBE | GET | 77, Err(ENOTTY)),
        ] {
            assert_eq!(client.feature(flags, &[], 8), expected, "{flags:x}");
        }
        // No room for what was sent; nothing to set.
        let short = [words(&[15, SET | 2]), words(&[STOP, 0])].concat();
        assert_eq!(client.call(16, &short), Err(EINVAL));
        assert_eq!(client.call(16, &words(&[16, SET | 2])), Err(EINVAL));
        assert_eq!(client.call(16, &words(&[16])), Err(EINVAL));
        assert_eq!(sim.violations().0, 0);
    });
    served(SimOptions { migration_flags: NO_MIGRATION, ..small() }, plain(), |client, _, _| {
        assert_eq!(client.feature(GET | 1, &[], 8), Err(ENOTTY));
        assert_eq!(client.feature(GET | 2, &[], 8), Err(ENOTTY));
    });
}

#[test]
fn states_are_reached_as_far_as_there_is_a_way() {
    let ways = [STOP, RUNNING, STOP_COPY, PRE_COPY];
    for from in ways {
        for to in [0, 1, 2, 3, 4, 5, 6, 7, 8] {
            served(small(), plain(), |client, sim, _| {
                client.set_state(from).unwrap();
                let possible = ways.contains(&to) || to == RESUMING;
                let expected = if possible && (from, to) != (STOP_COPY, PRE_COPY) {
                    Ok(())
                } else {
                    Err(EINVAL)
                };
                assert_eq!(client.set_state(to), expected, "{from} {to}");
                assert_eq!(client.state(), if expected.is_ok() { to } else { from });
                assert_eq!(sim.violations().0, u64::from(expected.is_err()));
            });
        }
    }
}

/// The whole state of a device, read in pieces of `piece` bytes, with pre-copy or without.
fn saved(options: SimOptions, pre_copy: bool, piece: u32) -> (Vec<u8>, u64) {
    served(options, plain(), |client, sim, _| {
        let mut all = vec![];
        if pre_copy {
            client.set_state(PRE_COPY).unwrap();
            all = client.drain(piece);
            assert!(!all.is_empty());
            sim.guest_write(0, 100, 99).unwrap();
            all.extend(client.drain(piece));
        }
        client.set_state(STOP_COPY).unwrap();
        all.extend(client.drain(piece));
        client.set_state(STOP).unwrap();
        assert_eq!(client.read(piece), Err(EINVAL));
        assert_eq!((sim.violations().0, sim.open_streams()), (0, 0));
        (all, sim.digest())
    })
}

#[test]
fn what_is_read_from_one_device_another_one_takes() {
    for pre_copy in [false, true] {
        for piece in [1000, 1 << 20] {
            let options = SimOptions { eintr_every: 3, ..small() };
            let (data, digest) = saved(options, pre_copy, piece);
            let target = SimOptions { seed: 4, eintr_every: 3, ..small() };
            served(target, plain(), |client, sim, _| {
                assert_eq!(client.write(&data), Err(EINVAL));
                client.set_state(RESUMING).unwrap();
                assert_eq!(client.read(8), Err(EINVAL));
                client.write(&[]).unwrap();
                for part in data.chunks(777) {
                    client.write(part).unwrap();
                }
                client.set_state(RUNNING).unwrap();
                assert_eq!((sim.digest(), sim.open_streams()), (digest, 0));
                assert_eq!(sim.violations().0, 0);
            });
        }
    }
}

#[test]
fn an_incomplete_state_is_refused_and_the_device_stays() {
    let (data, _) = saved(small(), false, 4096);
    served(SimOptions { seed: 4, ..small() }, plain(), |client, _, _| {
        client.set_state(RESUMING).unwrap();
        client.write(&data[..data.len() - 1]).unwrap();
        assert_eq!(client.set_state(STOP), Err(EINVAL));
        assert_eq!(client.state(), RESUMING);
        client.write(&data[data.len() - 1..]).unwrap();
        client.set_state(STOP).unwrap();
        assert_eq!(client.write(&[1]), Err(EINVAL));
    });
    // A device that takes less than it was given says so by an error.
    served(SimOptions { max_write: 10, ..small() }, plain(), |client, _, _| {
        client.set_state(RESUMING).unwrap();
        client.write(&data[..10]).unwrap();
        assert_eq!(client.write(&data[10..21]), Err(EINVAL));
    });
}

#[test]
fn data_messages_keep_to_the_limits_of_both_sides() {
    let few = ServerOptions { max_data_xfer: 5000, ..plain() };
    served(small(), few.clone(), |client, _, _| {
        client.set_state(STOP_COPY).unwrap();
        assert_eq!(client.read(5001), Err(EINVAL));
        assert_eq!(client.read(5000).unwrap().len(), 5000);
        // No room for as much as is asked for.
        assert_eq!(client.call(17, &words(&[99, 100])), Err(EINVAL));
        assert_eq!(client.call(17, &words(&[8])), Err(EINVAL));
        client.set_state(RESUMING).unwrap();
        assert_eq!(client.call(18, &words(&[7, 0])), Err(EINVAL));
        // Less than it says, and more.
        assert_eq!(client.call(18, &[words(&[16, 8]), vec![0; 7]].concat()), Err(EINVAL));
        assert_eq!(client.call(18, &[words(&[16, 8]), vec![0; 9]].concat()), Err(EINVAL));
        // Whose argsz is that of something else.
        for argsz in [15, 17] {
            assert_eq!(client.call(18, &[words(&[argsz, 8]), vec![0; 8]].concat()), Err(EINVAL));
        }
    });
    raw(small(), few, |socket, _, _| {
        let mut client = Client::mute(socket);
        client.introduce(0, r#"{"capabilities":{"max_data_xfer_size":100}}"#);
        client.set_state(STOP_COPY).unwrap();
        assert_eq!(client.read(101), Err(EINVAL));
        assert_eq!(client.read(100).unwrap().len(), 100);
        let place = |len| [longs(&[0]), words(&[0, len])].concat();
        assert_eq!(client.call(9, &place(101)), Err(EINVAL));
        assert!(client.call(9, &place(100)).is_ok());
    });
}

#[test]
fn the_simulators_own_faults_and_quirks_are_those_of_the_served_device() {
    served(SimOptions { max_read: 50, ..small() }, plain(), |client, sim, _| {
        client.set_state(PRE_COPY).unwrap();
        assert_eq!(client.read(1000).unwrap().len(), 50);
        sim.inject(Op::Read, 2, libc::EIO, Effect::Once);
        client.read(1000).unwrap();
        assert_eq!(client.read(1000), Err(libc::EIO as u32));
        sim.inject(Op::Read, 1, libc::EINTR, Effect::Sticky);
        assert_eq!(client.read(1000), Err(libc::EINTR as u32));
        sim.clear_faults();
        sim.inject(Op::Read, 1, libc::EAGAIN, Effect::Sticky);
        assert_eq!(client.read(1000), Err(libc::EAGAIN as u32));
        sim.clear_faults();
        sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Half);
        assert_eq!(client.set_state(STOP), Err(libc::EBUSY as u32));
        assert_eq!(client.state(), RUNNING);
        sim.inject(Op::GetState, 1, libc::EIO, Effect::Die);
        assert_eq!(client.feature(GET | 2, &[], 8), Err(libc::EIO as u32));
        assert_eq!(client.call(13, &[]), Err(libc::ENODEV as u32));
    });
    let keeps = SimOptions { quirks: quirk::RESET_KEEPS_STATE, ..small() };
    for (options, expected) in [(small(), RUNNING), (keeps.clone(), RESUMING)] {
        served(options, plain(), |client, sim, _| {
            client.set_state(RESUMING).unwrap();
            client.call(13, &[]).unwrap();
            assert_eq!(client.state(), expected);
            assert_eq!(sim.open_streams(), u32::from(expected == RESUMING));
        });
    }
    served(keeps, plain(), |client, _, _| {
        client.set_state(STOP).unwrap();
        assert_eq!(client.call(13, &[]), Err(EINVAL));
    });
}

#[test]
fn a_server_is_made_for_what_vfio_user_can_do() {
    let made = |options| Server::new(&Sim::new(options).unwrap(), plain()).map(drop);
    assert_eq!(made(SimOptions { kind: vfiomig_sim::Kind::V1, ..small() }), Err(libc::EINVAL));
    let p2p = vfiomig_sim::State::RUNNING_P2P;
    assert_eq!(made(SimOptions { initial_state: p2p, ..small() }), Err(libc::EINVAL));
    let sim = Sim::new(small()).unwrap();
    for bad in [
        ServerOptions { max_data_xfer: 0, ..plain() },
        ServerOptions { max_data_xfer: (64 << 20) + 1, ..plain() },
        ServerOptions { max_msg_fds: 254, ..plain() },
    ] {
        assert_eq!(Server::new(&sim, bad).map(drop), Err(libc::EINVAL));
    }
}

#[test]
fn a_server_at_a_path_serves_one_client_after_the_other() {
    let path = std::env::temp_dir().join(format!("vfiomig-sim-{}.sock", std::process::id()));
    let sim = Sim::new(small()).unwrap();
    let server = Server::new(&sim, plain()).unwrap();
    std::thread::scope(|scope| {
        let _stopper = Stopper(&server);
        let listening = scope.spawn(|| server.listen(&path));
        let connect = || {
            loop {
                match UnixStream::connect(&path) {
                    Ok(socket) => return socket,
                    Err(_) => std::thread::yield_now(),
                }
            }
        };
        let mut first = Client::new(connect());
        first.set_state(STOP).unwrap();
        assert_eq!(server.listen(&path), Err(libc::EBUSY));
        // The second one is connected, and waits.
        let waits = connect();
        waits.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let mut second = Client { socket: waits, twin: None, id: 0 };
        second.send(1, 0, b"\0\0\0\0{}\0", &[]);
        assert!((&second.socket).read(&mut [0]).is_err());
        drop(first);
        second.socket.set_read_timeout(None).unwrap();
        assert_eq!(second.receive(1).error, 0);
        // The device is as it was left.
        assert_eq!(second.state(), STOP);
        server.stop();
        assert!(receive(&second.socket).is_none());
        assert_eq!(listening.join().unwrap(), Ok(()));
    });
    assert!(!path.exists());
    // It stays stopped.
    assert_eq!(server.listen(&path), Ok(()));
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| server.serve(theirs.into()));
            // Not until this side leaves.
            assert!(receive(&Client::mute(ours).socket).is_none());
            assert_eq!(serving.join().unwrap(), Ok(()));
        });
    }
}

#[test]
fn a_state_that_goes_on_is_read_on_whatever_else_the_device_offers() {
    let extra = SimOptions { quirks: quirk::EXTRA_DATA_FD, ..small() };
    let (data, digest) = saved(extra, true, 1000);
    served(SimOptions { seed: 4, ..small() }, plain(), |client, sim, _| {
        client.set_state(RESUMING).unwrap();
        client.write(&data).unwrap();
        client.set_state(RUNNING).unwrap();
        assert_eq!(sim.digest(), digest);
    });
}
