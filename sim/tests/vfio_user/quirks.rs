// SPDX-License-Identifier: MIT OR Apache-2.0
//! What servers do that others do not expect, and what can be made to go wrong: each does what it says.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::client::*;
use crate::dma::{answer, mapping, memory};
use crate::{EINVAL, ENOTTY, plain};
use vfiomig_sim::vfio_user::{MessageFault, Server, ServerOptions, quirk};
use vfiomig_sim::{Effect, NO_MIGRATION, Op, Sim, SimOptions};

const TWIN: &str = r#"{"capabilities":{"twin_socket":{"supported":true}}}"#;

fn with(quirks: u64) -> ServerOptions {
    ServerOptions { quirks, ..plain() }
}

/// The reply to a client's introduction.
fn introduced(quirks: u64, minor: u16) -> Message {
    raw(small(), with(quirks), |socket, _, _| Client::mute(socket).introduce(minor, TWIN))
}

#[test]
fn all_quirks_are_known_and_nothing_else_is() {
    let sim = Sim::new(small()).unwrap();
    let all = quirk::ALL.iter().fold(0, |all, (bit, _)| all | bit);
    assert_eq!(all.count_ones() as usize, quirk::ALL.len());
    assert!(Server::new(&sim, with(all)).is_ok());
    assert_eq!(Server::new(&sim, with(1 << 63)).map(drop), Err(libc::EINVAL));
    for (n, (what, _)) in MessageFault::ALL.iter().enumerate() {
        assert_eq!(*what as usize, n);
    }
}

#[test]
fn the_header_has_the_same_numbers() {
    let header = include_str!("../../include/vfiomig-sim.h");
    let prefix = "#define VFIOMIG_SIM_SERVER_";
    let define = |line: &'static str| {
        let mut words = line.strip_prefix(prefix)?.splitn(2, ' ');
        Some((words.next()?, words.next()?.split("/*").next()?.trim()))
    };
    let mut found: Vec<_> = header.lines().filter_map(define).collect();
    let bits = quirk::ALL.iter().map(|(bit, name)| (*name, format!("(1ull << {})", bit.ilog2())));
    let wrongs = MessageFault::ALL.iter().map(|(what, name)| (*name, format!("{}u", *what as u32)));
    let all = ("LIBVFIO_USER", format!("{:#x}ull", quirk::LIBVFIO_USER));
    let expected: Vec<_> = bits.chain([all]).chain(wrongs).collect();
    assert_eq!(expected.len(), found.len());
    for ((name, value), found) in expected.iter().zip(found.drain(..)) {
        assert_eq!((*name, value.as_str()), found);
    }
}

#[test]
fn versions_and_the_twin_socket_may_be_unexpected() {
    let version = |quirks, minor| introduced(quirks, minor).payload[..4].to_vec();
    assert_eq!(version(quirk::MINOR_ZERO, 1), halves([0, 0]));
    assert_eq!(version(quirk::MINOR_ABOVE, 1), halves([0, 2]));
    assert_eq!(version(quirk::MAJOR_ONE, 1), halves([1, 1]));
    let text = |message: &Message| String::from_utf8(message.payload[4..].to_vec()).unwrap();
    let none = introduced(quirk::NO_TWIN_SOCKET, 1);
    assert!(none.fds.is_empty() && !text(&none).contains("twin"));
    let lies = introduced(quirk::TWIN_LIES, 1);
    assert!(lies.fds.len() == 1 && text(&lies).contains(r#""fd_index":7"#));
}

#[test]
fn a_command_above_32_kib_does_not_come_whole() {
    let size = 64 << 10;
    let data = |len: usize| [words(&[8 + len as u32, len as u32]), vec![0; len]].concat();
    served(SimOptions { state_size: size, ..small() }, with(quirk::ONE_RECV), |client, _, _| {
        client.set_state(RESUMING).unwrap();
        // Whole, and refused by the device only.
        let errno = client.call(18, &data(32768 - 24)).unwrap_err();
        assert_eq!(errno, libc::EFAULT as u32);
        client.set_state(STOP).unwrap_err();
        // One byte too long: refused, and that byte begins the next header.
        assert_eq!(client.call(18, &data(32768 - 23)), Err(EINVAL));
        client.send(13, 0, &[], &[]);
        let next = receive(&client.socket).unwrap();
        assert_eq!((next.id.to_ne_bytes(), next.error), ([0, client.id.to_ne_bytes()[0]], EINVAL));
    });
    served(SimOptions { state_size: size, ..small() }, plain(), |client, _, _| {
        client.set_state(RESUMING).unwrap();
        assert_eq!(client.call(18, &data(1 << 17)), Err(libc::EFAULT as u32));
    });
}

#[test]
fn replies_may_be_longer_than_their_data() {
    served(small(), with(quirk::UNTRIMMED), |client, _, _| {
        client.set_state(STOP_COPY).unwrap();
        let (mut all, mut last) = (0, 1);
        while last > 0 {
            let reply = client.call(17, &words(&[8 + 5000, 5000])).unwrap();
            assert_eq!(reply.len(), 5008);
            last = u32_at(&reply, 4) as usize;
            assert!(reply[8 + last..].iter().all(|byte| *byte == 0));
            all += last;
        }
        assert!(all > 8192);
    });
}

#[test]
fn a_failed_set_may_carry_its_payload() {
    served(small(), with(quirk::SET_PAYLOAD), |client, _, _| {
        let payload = [words(&[16, SET | 2]), words(&[7, 0])].concat();
        let reply = client.exchange(16, &payload, &[]);
        assert_eq!((reply.error, reply.flags, reply.payload), (EINVAL, 0x21, payload));
        assert_eq!(client.feature(GET | 2, &[], 7), Err(EINVAL));
        assert_eq!(client.call(99, &words(&[16, SET | 2])), Err(EINVAL));
    });
}

#[test]
fn a_stopped_device_may_refuse_all_but_its_data() {
    for state in [STOP, STOP_COPY, RESUMING, RUNNING] {
        served(small(), with(quirk::STOPPED_REFUSES), |client, _, _| {
            client.set_state(state).unwrap();
            let refused = [STOP, STOP_COPY].contains(&state);
            for (command, payload) in [
                (4, words(&[16, 0, 0, 0])),
                (5, [words(&[32, 0, 0, 0]), longs(&[0, 0])].concat()),
                (2, mapping(3, 0, 0, 4096)),
                (3, [words(&[24, 2]), longs(&[0, 0])].concat()),
                (8, words(&[20, 0x21, 0, 0, 0])),
            ] {
                let reply = client.call(command, &payload);
                assert_eq!(reply.is_err(), refused, "{state} {command}");
            }
            let place = [longs(&[0]), words(&[7, 4])].concat();
            assert!(client.call(9, &place).is_ok());
            assert!(client.call(10, &[place, vec![0; 4]].concat()).is_ok());
            assert_eq!(client.state(), state);
            assert_eq!(client.call(13, &[]).is_err(), refused);
        });
    }
}

#[test]
fn unknown_features_may_be_invalid() {
    let unknown = |quirks| {
        served(small(), with(quirks), |client, _, _| client.feature(GET | 3, &[], 8).unwrap_err())
    };
    assert_eq!((unknown(0), unknown(quirk::UNKNOWN_EINVAL)), (ENOTTY, EINVAL));
    let none = SimOptions { migration_flags: NO_MIGRATION, ..small() };
    served(none, with(quirk::UNKNOWN_EINVAL), |client, _, _| {
        assert_eq!(client.feature(GET | 1, &[], 8), Err(EINVAL));
    });
}

#[test]
fn messages_may_come_byte_by_byte_and_late() {
    let slow = ServerOptions { quirks: quirk::BYTEWISE, delay_us: 20_000, ..plain() };
    raw(small(), slow, |socket, _, server| {
        let mut client = Client::mute(socket);
        let before = Instant::now();
        let reply = client.introduce(0, TWIN);
        assert!(before.elapsed() >= Duration::from_millis(20));
        assert_eq!((reply.error, reply.fds.len()), (0, 1));
        client.set_state(STOP_COPY).unwrap();
        assert_eq!(client.read(5000).unwrap().len(), 5000);
        // What is sent at once comes at once, and this does not, unless the client is slow.
        let pieces = |_| {
            client.send(16, 0, &words(&[16, GET | 2]), &[]);
            let first = (&client.socket).read(&mut [0; 100]).unwrap();
            (&client.socket).read_exact(&mut [0; 32][first..]).unwrap();
            first < 32
        };
        assert!((0..100).any(pieces));
        let before = Instant::now();
        server.inject_message(0, 1, MessageFault::Late, 50_000).unwrap();
        client.state();
        assert!(before.elapsed() >= Duration::from_millis(70));
        // Nobody waits for what is late when the server is stopped.
        server.inject_message(0, 1, MessageFault::Late, 3_600_000_000).unwrap();
        client.send(13, 0, &[], &[]);
        while server.count(13) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(server.count(13), 1);
        server.stop();
        assert!(receive(&client.socket).is_none());
    });
}

#[test]
fn stop_copy_may_send_everything_again() {
    let saved = |quirks| {
        served(small(), with(quirks), |client, sim, _| {
            client.set_state(PRE_COPY).unwrap();
            let before = client.drain(1000);
            client.set_state(STOP_COPY).unwrap();
            (before, client.drain(1000), sim.digest())
        })
    };
    let loaded = |data: &[u8]| {
        served(SimOptions { seed: 4, ..small() }, plain(), |client, sim, _| {
            client.set_state(RESUMING).unwrap();
            client.write(data)?;
            client.set_state(STOP).map(|()| sim.digest())
        })
    };
    let (before, after, digest) = saved(0);
    assert!(loaded(&after).is_err());
    assert_eq!(loaded(&[before, after].concat()), Ok(digest));
    let (before, after, digest) = saved(quirk::STARTS_OVER);
    assert_eq!(loaded(&after), Ok(digest));
    assert!(!before.is_empty() && loaded(&[before, after].concat()).is_err());
}

#[test]
fn crossing_commands_may_end_the_connection() {
    raw(small(), with(quirk::CROSSING_FATAL), |socket, _, server| {
        let mut client = Client::mute(socket);
        client.introduce(0, "{}");
        client.call(2, &mapping(3, 0, 0, 4096)).unwrap();
        std::thread::scope(|scope| {
            let write = scope.spawn(|| server.dma_write(0, &[1]));
            receive(&client.socket).unwrap();
            client.send(13, 0, &[], &[]);
            assert_eq!(write.join().unwrap(), Err(libc::ENOTCONN));
        });
        assert!(receive(&client.socket).is_none());
    });
}

#[test]
fn a_device_may_be_reset_when_its_client_leaves() {
    for (quirks, state) in [(0, STOP_COPY), (quirk::LEAVING_RESETS, RUNNING)] {
        let sim = Sim::new(small()).unwrap();
        let server = Server::new(&sim, with(quirks)).unwrap();
        let fresh = sim.digest();
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let _stopper = Stopper(&server);
            scope.spawn(|| server.serve(theirs.into()));
            let mut client = Client::new(ours);
            sim.guest_write(0, 1, 1).unwrap();
            client.set_state(STOP_COPY).unwrap();
        });
        assert_eq!((sim.state().0, sim.open_streams()), (state, u32::from(quirks == 0)));
        assert_eq!(sim.digest() == fresh, quirks != 0);
    }
}

#[test]
fn only_the_clients_limit_may_count_for_data() {
    let few = ServerOptions { max_data_xfer: 100, quirks: quirk::CLIENT_LIMIT_ONLY, ..plain() };
    served(small(), few, |client, _, _| {
        client.set_state(STOP_COPY).unwrap();
        assert_eq!(client.read(1000).unwrap().len(), 1000);
        assert_eq!(client.read((1 << 20) + 1), Err(EINVAL));
        let place = [longs(&[0]), words(&[0, 101])].concat();
        assert_eq!(client.call(9, &place), Err(EINVAL));
    });
}

#[test]
fn what_is_mapped_may_be_mapped_again() {
    served(small(), with(quirk::MAP_AGAIN), |client, _, _| {
        for _ in 0..2 {
            client.call(2, &mapping(3, 0, 0, 4096)).unwrap();
        }
        assert_eq!(client.call(2, &mapping(3, 0, 0, 8192)), Err(EINVAL));
    });
}

/// All that comes after a request for the state, before the server is stopped. The id is 1.
fn spoilt(what: MessageFault, value: u64) -> Vec<u8> {
    served(small(), plain(), |client, _, server| {
        server.inject_message(16, 1, what, value).unwrap();
        client.id = 0;
        client.send(16, 0, &words(&[16, GET | 2]), &[]);
        while server.count(16) == 0 {
            std::thread::yield_now();
        }
        // What the device is to do comes after the reply, however that was sent.
        let _ = server.dma_write(0, &[1]);
        server.stop();
        let mut all = vec![];
        client.socket.read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn each_message_can_go_wrong_in_each_way() {
    let good = [words(&[16, GET | 2]), words(&[RUNNING, u32::MAX])].concat();
    let whole = |command, flags, error, payload: &[u8]| message(1, command, flags, error, payload);
    let right = whole(16, 1, 0, &good);
    let mut claims = right.clone();
    claims[4..8].copy_from_slice(&words(&[77]));
    assert_eq!(spoilt(MessageFault::Late, 10), right);
    assert!(spoilt(MessageFault::Close, 0).is_empty());
    assert_eq!(spoilt(MessageFault::CloseWithin, 17), right[..17]);
    assert!(spoilt(MessageFault::Silence, 0).is_empty());
    assert_eq!(spoilt(MessageFault::WrongCommand, 500), whole(500, 1, 0, &good));
    assert_eq!(spoilt(MessageFault::WrongType, 0), whole(16, 0, 0, &good));
    assert_eq!(spoilt(MessageFault::WrongSize, 77), claims);
    assert_eq!(spoilt(MessageFault::Error, 0), whole(16, 0x21, 0, &[]));
    assert_eq!(spoilt(MessageFault::Error, u32::MAX.into()), whole(16, 0x21, u32::MAX, &[]));
    assert_eq!(spoilt(MessageFault::ErrorWithPayload, 5), whole(16, 0x21, 5, &good));
    assert_eq!(spoilt(MessageFault::Cut, 9), whole(16, 1, 0, &good[..7]));
    assert_eq!(spoilt(MessageFault::Cut, 99), whole(16, 1, 0, &[]));
    assert_eq!(spoilt(MessageFault::More, 3), whole(16, 1, 0, &[&good[..], &[0; 3]].concat()));
    // Of no meaning for this command.
    assert_eq!(spoilt(MessageFault::Claims, 3), right);
    assert_eq!(spoilt(MessageFault::Elsewhere, 3), right);
    let other = spoilt(MessageFault::Payload, 3);
    assert_eq!((&other[..16], other.len()), (&right[..16], right.len()));
    assert_ne!(other[16..], right[16..]);
    assert_eq!(other, spoilt(MessageFault::Payload, 3));
    let nonsense = spoilt(MessageFault::Nonsense, 3);
    assert!(nonsense.len() == right.len() && nonsense[..16] != right[..16]);
    served(small(), plain(), |client, _, server| {
        server.inject_message(0, 1, MessageFault::WrongId, 0).unwrap();
        client.send(16, 0, &words(&[16, GET | 2]), &[]);
        assert_eq!(receive(&client.socket).unwrap().id, client.id + 1);
        for (value, count) in [(0, 1), (5, 5)] {
            server.inject_message(0, 1, MessageFault::Fds, value).unwrap();
            let reply = client.exchange(16, &words(&[16, GET | 2]), &[]);
            assert_eq!((reply.fds.len(), &reply.payload), (count, &good));
            // It can be seen whether the client closes them.
            assert_eq!(server.unasked_fds(), 1);
            drop(reply);
            // Whoever answers that has sent, and closed, its own.
            assert_eq!(client.state(), RUNNING);
            assert_eq!(server.unasked_fds(), 0);
        }
        // With its own, never more than there can be.
        server.inject_message(5, 1, MessageFault::Fds, 300).unwrap();
        let info = [words(&[64, 0, 2, 0]), longs(&[0, 0])].concat();
        let reply = client.exchange(5, &info, &[]);
        assert!(reply.error == 0 && reply.fds.len() >= 16);
        let long = server.inject_message(16, 1, MessageFault::More, (64 << 20) + 1);
        assert_eq!(long, Err(libc::EINVAL));
    });
}

#[test]
fn the_nth_message_about_a_command_goes_wrong() {
    served(small(), plain(), |client, _, server| {
        server.inject_message(16, 3, MessageFault::Error, 71).unwrap();
        server.inject_message(0, 2, MessageFault::Error, 72).unwrap();
        server.inject_message(13, 1, MessageFault::Error, 73).unwrap();
        assert_eq!(client.state(), RUNNING);
        assert_eq!(client.feature(GET | 2, &[], 8), Err(72));
        assert_eq!(client.call(4, &words(&[16, 0, 0, 0])).map(drop), Ok(()));
        assert_eq!(client.feature(GET | 2, &[], 8), Err(71));
        assert_eq!(client.state(), RUNNING);
        server.clear_message_faults();
        assert_eq!(client.call(13, &[]), Ok(vec![]));
        assert_eq!((server.count(1), server.count(16), server.count(13)), (1, 4, 1));
        client.call(99, &[]).unwrap_err();
        assert_eq!((server.count(0), server.count(99)), (1, 0));
    });
}

#[test]
fn data_and_dma_may_be_more_than_they_are() {
    served(small(), plain(), |client, sim, server| {
        client.set_state(STOP_COPY).unwrap();
        server.inject_message(17, 1, MessageFault::Claims, 5).unwrap();
        let reply = client.call(17, &words(&[108, 100])).unwrap();
        assert_eq!((u32_at(&reply, 4), reply.len()), (105, 108));
        server.inject_message(17, 1, MessageFault::More, 5).unwrap();
        let reply = client.call(17, &words(&[108, 100])).unwrap();
        assert_eq!((u32_at(&reply, 4), reply.len()), (105, 113));
        client.set_state(RUNNING).unwrap();
        client.call_with(2, &mapping(3, 0, 0, 4096), &[&memory(4096)]).unwrap();
        client.call(2, &mapping(3, 0, 4096, 4096)).unwrap();
        let twin = client.twin.take().unwrap();
        std::thread::scope(|scope| {
            for (what, value, address, count) in [
                (MessageFault::Elsewhere, 9, 9, 8),
                (MessageFault::Claims, 1 << 40, 4096, 8 + (1 << 40)),
            ] {
                server.inject_message(12, 1, what, value).unwrap();
                let write = scope.spawn(|| server.dma_write(4096, &[7; 8]));
                let got = receive(&twin).unwrap();
                assert_eq!((u64_at(&got.payload, 0), u64_at(&got.payload, 8)), (address, count));
                send(&twin, &message(got.id, 12, 0x21, libc::EFAULT as u32, &[]), &[]);
                assert_eq!(write.join().unwrap(), Err(libc::EFAULT));
                // Who echoes that has done nothing wrong.
                server.inject_message(12, 1, what, value).unwrap();
                let write = scope.spawn(|| server.dma_write(4096, &[7; 8]));
                assert_eq!(answer(&twin, &[]).1, address);
                assert_eq!(write.join().unwrap(), Err(libc::EINVAL));
                assert_eq!(sim.violations().0, 0);
            }
            // Answered as it came.
            server.inject_message(12, 1, MessageFault::WrongId, 0).unwrap();
            let write = scope.spawn(|| server.dma_write(4096, &[7; 8]));
            let got = receive(&twin).unwrap();
            send(&twin, &message(got.id, 12, 1, 0, &got.payload[..16]), &[]);
            assert_eq!(write.join().unwrap(), Err(libc::ENOTCONN));
            assert_eq!(sim.violations().0, 0);
        });
    });
}

#[test]
fn what_libvfio_user_does_is_one_set_of_quirks() {
    let keeps = vfiomig_sim::quirk::RESET_KEEPS_STATE;
    let options = SimOptions { quirks: keeps, ..small() };
    served(options, with(quirk::LIBVFIO_USER), |client, sim, _| {
        sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Half);
        let payload = [words(&[16, SET | 2]), words(&[STOP_COPY, 0])].concat();
        let reply = client.exchange(16, &payload, &[]);
        assert_eq!((reply.error, reply.payload), (libc::EBUSY as u32, payload));
        // Half way.
        assert_eq!(client.state(), STOP);
        assert_eq!(client.call(13, &[]), Err(EINVAL));
        client.set_state(RESUMING).unwrap();
        assert_eq!(client.call(13, &[]), Ok(vec![]));
        assert_eq!(client.state(), RESUMING);
    });
}

#[test]
fn nobody_waits_for_ever_for_what_the_client_cannot_answer() {
    let soon = ServerOptions { reply_timeout_ms: 100, ..plain() };
    for (what, goes_on) in [
        (Some(MessageFault::Silence), true),
        (Some(MessageFault::WrongType), false),
        (Some(MessageFault::Nonsense), false),
        (None, false),
    ] {
        served(small(), soon.clone(), |client, sim, server| {
            client.call(2, &mapping(3, 0, 0, 4096)).unwrap();
            if let Some(what) = what {
                server.inject_message(12, 1, what, 1).unwrap();
            }
            assert_eq!(server.dma_write(0, &[1]), Err(libc::ETIMEDOUT));
            assert_eq!(sim.violations().0, 0);
            if goes_on {
                assert_eq!(client.state(), RUNNING);
            } else {
                assert!(receive(&client.socket).is_none());
            }
        });
    }
}

#[test]
fn whoever_leaves_libvfio_user_leaves_a_device_that_runs() {
    let keeps = vfiomig_sim::quirk::RESET_KEEPS_STATE;
    for left in [STOP, STOP_COPY, RESUMING, PRE_COPY] {
        let sim = Sim::new(SimOptions { quirks: keeps, ..small() }).unwrap();
        let server = Server::new(&sim, with(quirk::LIBVFIO_USER)).unwrap();
        for _ in 0..2 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            std::thread::scope(|scope| {
                let _stopper = Stopper(&server);
                scope.spawn(|| server.serve(theirs.into()));
                let mut client = Client::new(ours);
                assert_eq!(client.state(), RUNNING);
                client.call(2, &mapping(3, 0, 0, 4096)).unwrap();
                client.set_state(left).unwrap();
            });
            assert_eq!((sim.state().0, sim.open_streams()), (RUNNING, 0));
        }
    }
}
