// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory: mapped and not, written to by the device, and what the log has of it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::client::*;
use crate::{EINVAL, ENOTTY, plain};
use vfiomig_sim::vfio_user::{Server, ServerOptions};
use vfiomig_sim::{Effect, Op, Sim, SimOptions, quirk};

const ENOENT: u32 = libc::ENOENT as u32;
const ENOTSUP: u32 = libc::ENOTSUP as u32;
const EEXIST: u32 = libc::EEXIST as u32;
const PAGE: u64 = 4096;
const READ_WRITE: u32 = 3;

pub fn memory(size: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

pub fn mapping(flags: u32, offset: u64, iova: u64, size: u64) -> Vec<u8> {
    [words(&[32, flags]), longs(&[offset, iova, size])].concat()
}

fn unmapping(argsz: u32, flags: u32, iova: u64, size: u64) -> Vec<u8> {
    [words(&[argsz, flags]), longs(&[iova, size])].concat()
}

impl Client {
    fn map(&mut self, fd: &OwnedFd, offset: u64, iova: u64, size: u64) {
        let mapped = self.call_with(2, &mapping(READ_WRITE, offset, iova, size), &[fd]);
        assert_eq!(mapped, Ok(vec![]));
    }

    fn start_log(&mut self, page: u64) -> Result<u64, u32> {
        let data = [longs(&[page]), words(&[1, 0]), longs(&[0, 1 << 40])].concat();
        let reply = self.feature(SET | 6, &data, 0)?;
        assert_eq!((reply.len(), &reply[8..]), (32, &data[8..]));
        Ok(u64::from_ne_bytes(reply[..8].try_into().unwrap()))
    }

    /// Numbers of the pages that are dirty.
    fn report(&mut self, iova: u64, length: u64, page: u64) -> Result<Vec<u64>, u32> {
        let bitmap = length.div_ceil(page).div_ceil(64) as usize * 8;
        let data = longs(&[iova, length, page]);
        let reply = self.feature(GET | 8, &data, 24 + bitmap)?;
        assert_eq!((&reply[..24], reply.len()), (&data[..], 24 + bitmap));
        Ok(bits(&reply[24..]))
    }

    fn register(&mut self, at: u64) -> u64 {
        let reply = self.call(9, &[longs(&[at]), words(&[0, 8])].concat()).unwrap();
        u64::from_le_bytes(reply[16..].try_into().unwrap())
    }

    /// Sends a command to the registers, and does not wait for the reply.
    fn command(&mut self, number: u64, address: u64, length: u64, seed: u64) {
        let values = [address, length, seed, number].map(u64::to_le_bytes).concat();
        let payload = [longs(&[0x20]), words(&[0, 32]), values].concat();
        self.send(10, 0, &payload, &[]);
    }

    fn commanded(&mut self) -> u64 {
        assert_eq!(self.receive(10).payload, [longs(&[0x20]), words(&[0, 32])].concat());
        self.register(0x38)
    }
}

fn bits(bitmap: &[u8]) -> Vec<u64> {
    let set = |n: &u64| u64_at(bitmap, (n / 64 * 8) as usize) >> (n % 64) & 1 == 1;
    (0..8 * bitmap.len() as u64).filter(set).collect()
}

/// What command 1 of the registers writes.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let numbers = (0..len as u64 / 8 + 1).map(|n| seed.wrapping_add(n));
    numbers.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Answers a command of the server's on a socket: what it was about, and its data.
pub fn answer(socket: &UnixStream, reply: &[u8]) -> (u16, u64, u64, Vec<u8>) {
    let got = receive(socket).unwrap();
    assert_eq!((got.flags, got.error), (0, 0));
    let (iova, count) = (u64_at(&got.payload, 0), u64_at(&got.payload, 8));
    let payload = [&got.payload[..16], reply].concat();
    send(socket, &message(got.id, got.command, 1, 0, &payload), &[]);
    (got.command, iova, count, got.payload[16..].to_vec())
}

#[test]
fn what_is_mapped_with_a_descriptor_is_written_there_and_logged() {
    served(small(), plain(), |client, sim, server| {
        let fd = memory(64 * PAGE);
        let file = File::from(fd.try_clone().unwrap());
        client.map(&fd, 4 * PAGE, 0x10000, 8 * PAGE);
        // Before the log there is none.
        server.dma_write(0x10000, &[9; 100]).unwrap();
        assert_eq!(client.start_log(PAGE), Ok(PAGE));
        client.map(&fd, 16 * PAGE, 0x10000 + 8 * PAGE, 8 * PAGE);
        server.dma_write(0x10000 + 2 * PAGE - 1, &[1, 2]).unwrap();
        // From one region into the next one, which was mapped later.
        let long: Vec<u8> = (0..2 * PAGE).map(|n| n as u8 | 1).collect();
        server.dma_write(0x10000 + 7 * PAGE, &long).unwrap();
        assert_eq!(client.report(0x10000, 8 * PAGE, PAGE), Ok(vec![1, 2, 7]));
        assert_eq!(client.report(0x10000, 8 * PAGE, PAGE), Ok(vec![]));
        assert_eq!(client.report(0x10000 + 8 * PAGE, 8 * PAGE, PAGE), Ok(vec![0]));
        let mut bytes = vec![0; 2 * PAGE as usize];
        file.read_exact_at(&mut bytes[..2], 6 * PAGE - 1).unwrap();
        assert_eq!(bytes[..2], [1, 2]);
        file.read_exact_at(&mut bytes[..PAGE as usize], 11 * PAGE).unwrap();
        file.read_exact_at(&mut bytes[PAGE as usize..], 16 * PAGE).unwrap();
        assert_eq!(bytes, long);
        let mut read = vec![0; long.len()];
        server.dma_read(0x10000 + 7 * PAGE, &mut read).unwrap();
        assert_eq!(read, long);
        // The beginning of a region, in order not to clear the rest.
        server.dma_write(0x10000 + 5 * PAGE, &[1]).unwrap();
        server.dma_write(0x10000, &[1]).unwrap();
        assert_eq!(client.report(0x10000, PAGE, PAGE), Ok(vec![0]));
        // Started again it keeps what it has; stopped it does not.
        assert_eq!(client.start_log(PAGE), Ok(PAGE));
        assert_eq!(client.start_log(2 * PAGE), Err(EINVAL));
        assert_eq!(client.report(0x10000, 8 * PAGE, PAGE), Ok(vec![5]));
        server.dma_write(0x10000, &[1]).unwrap();
        // A stopped device still tells.
        client.set_state(STOP).unwrap();
        assert_eq!(server.dma_write(0x10000, &[1]), Err(libc::EPERM));
        assert_eq!(server.dma_read(0x10000, &mut [1]), Err(libc::EPERM));
        assert_eq!(client.report(0x10000, PAGE, PAGE), Ok(vec![0]));
        client.set_state(RUNNING).unwrap();
        server.dma_write(0x10000, &[1]).unwrap();
        assert_eq!(client.feature(SET | 7, &[], 0), Ok(vec![]));
        assert_eq!(client.report(0x10000, PAGE, PAGE), Err(EINVAL));
        assert_eq!(client.start_log(PAGE), Ok(PAGE));
        assert_eq!(client.report(0x10000, PAGE, PAGE), Ok(vec![]));
        assert_eq!(sim.violations(), (0, None));
    });
}

#[test]
fn a_report_is_about_the_beginning_of_a_logged_region() {
    served(small(), plain(), |client, sim, server| {
        let fd = memory(256 * PAGE);
        client.map(&fd, 0, 0, 128 * PAGE);
        client.call(2, &mapping(READ_WRITE, 0, 1 << 30, PAGE)).unwrap();
        assert_eq!(client.report(0, PAGE, PAGE), Err(EINVAL));
        client.start_log(PAGE).unwrap();
        server.dma_write(100 * PAGE, &[1]).unwrap();
        for (iova, length, expected) in [
            (PAGE, PAGE, ENOTSUP),
            (128 * PAGE, PAGE, ENOENT),
            (0, 129 * PAGE, ENOENT),
            (0, 0, ENOENT),
            (1 << 30, PAGE, EINVAL),
            (u64::MAX, PAGE, ENOENT),
        ] {
            assert_eq!(client.report(iova, length, PAGE), Err(expected), "{iova:x} {length:x}");
        }
        assert_eq!(sim.violations().0, 0);
        // As many bytes as bits need, which is less than whole words.
        assert_eq!(client.feature(GET | 8, &longs(&[0, 129, 1]), 24 + 8), Err(EINVAL));
        let data = longs(&[0, 65 * PAGE, PAGE]);
        assert_eq!(client.feature(GET | 8, &data, 24 + 9), Err(EINVAL));
        assert_eq!(client.report(0, 128 * PAGE, 2 * PAGE), Err(EINVAL));
        assert_eq!(sim.violations().0, 2);
        assert_eq!(client.report(0, 128 * PAGE, PAGE), Ok(vec![100]));
    });
}

#[test]
fn a_log_is_started_in_pages_that_there_are() {
    let large = SimOptions { log_page_size: 1 << 16, ..small() };
    served(large, plain(), |client, sim, server| {
        client.map(&memory(1 << 20), 0, 1 << 20, 1 << 20);
        assert_eq!(client.start_log(PAGE), Ok(1 << 16));
        server.dma_write((1 << 20) + (3 << 16) + 5, &[1]).unwrap();
        assert_eq!(client.report(1 << 20, 1 << 20, 1 << 16), Ok(vec![3]));
        assert_eq!(sim.violations().0, 0);
        for (page, reserved, ranges) in
            [(1000, 0, 0), (2048, 0, 0), (0, 0, 0), (4096, 1, 0), (4096, 0, 1)]
        {
            let data = [longs(&[page]), words(&[ranges, reserved])].concat();
            assert_eq!(client.feature(SET | 6, &data, 0), Err(EINVAL));
        }
        assert_eq!(sim.violations().0, 5);
        for flags in [GET | 6, GET | 7, SET | 8, PROBE | GET | 6] {
            assert_eq!(client.feature(flags, &[0; 24], 64), Err(EINVAL), "{flags:x}");
        }
        assert_eq!(client.feature(PROBE | GET | 8, &[], 0), Ok(vec![]));
        // Neither asked for nor set, nothing happens.
        server.dma_write(1 << 20, &[1]).unwrap();
        let start = [longs(&[1 << 16]), words(&[0, 0])].concat();
        let report = longs(&[1 << 20, 1 << 20, 1 << 16]);
        for (feature, data) in [(6, start), (7, vec![]), (8, report)] {
            assert_eq!(client.feature(feature, &data, 32), Err(EINVAL), "{feature}");
        }
        assert_eq!(client.report(1 << 20, 1 << 20, 1 << 16), Ok(vec![0]));
    });
    let none = SimOptions { quirks: quirk::NO_LOGGING, ..small() };
    served(none, plain(), |client, _, _| assert_eq!(client.start_log(PAGE), Err(ENOTTY)));
    served(small(), plain(), |client, sim, server| {
        client.map(&memory(1 << 20), 0, 0, 1 << 20);
        sim.inject(Op::LogStart, 1, libc::ENOMEM, Effect::Once);
        assert_eq!(client.start_log(PAGE), Err(libc::ENOMEM as u32));
        client.start_log(PAGE).unwrap();
        for (effect, left) in [(Effect::Once, vec![7]), (Effect::Half, vec![])] {
            server.dma_write(7 * PAGE, &[1]).unwrap();
            sim.inject(Op::LogReport, 1, libc::EIO, effect);
            assert_eq!(client.report(0, 1 << 20, PAGE), Err(libc::EIO as u32));
            assert_eq!(client.report(0, 1 << 20, PAGE), Ok(left));
        }
    });
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let two = ServerOptions { max_dma_maps: 2, ..plain() };
    served(small(), two, |client, _, server| {
        let fd = memory(4 * PAGE);
        for (payload, fds, expected) in [
            (mapping(READ_WRITE, 0, 0, 0), 0, EINVAL),
            (mapping(READ_WRITE, 0, 1, PAGE), 0, EINVAL),
            (mapping(READ_WRITE, 0, 0, PAGE + 1), 0, EINVAL),
            (mapping(READ_WRITE, 0, u64::MAX - PAGE + 1, 2 * PAGE), 0, EINVAL),
            (mapping(16, 0, 0, PAGE), 0, EINVAL),
            // How to use a descriptor that there is not; in two ways; two; shorter than the region.
            (mapping(READ_WRITE | 4, 0, 0, PAGE), 0, EINVAL),
            (mapping(READ_WRITE | 12, 0, 0, PAGE), 1, EINVAL),
            (mapping(READ_WRITE, 0, 0, PAGE), 2, EINVAL),
            (mapping(READ_WRITE, PAGE, 0, 4 * PAGE), 1, EINVAL),
            (mapping(READ_WRITE, u64::MAX, 0, PAGE), 1, EINVAL),
            (mapping(READ_WRITE, 0, 0, PAGE)[..31].to_vec(), 0, EINVAL),
        ] {
            let fds = vec![&fd; fds];
            assert_eq!(client.call_with(2, &payload, &fds), Err(expected), "{payload:?}");
        }
        client.call_with(2, &mapping(1 | 8, 0, 2 * PAGE, 2 * PAGE), &[&fd]).unwrap();
        for (iova, size, expected) in
            [(2, 2, EEXIST), (3, 1, EINVAL), (1, 2, EINVAL), (0, 8, EINVAL), (3, 8, EINVAL)]
        {
            let payload = mapping(READ_WRITE, 0, iova * PAGE, size * PAGE);
            assert_eq!(client.call(2, &payload), Err(expected), "{iova} {size}");
        }
        client.call_with(2, &mapping(2 | 4, 0, u64::MAX - PAGE + 1, PAGE), &[&fd]).unwrap();
        assert_eq!(client.call(2, &mapping(READ_WRITE, 0, 0, PAGE)), Err(EINVAL));
        // That is there, however many there are.
        assert_eq!(client.call(2, &mapping(READ_WRITE, 0, 2 * PAGE, 2 * PAGE)), Err(EEXIST));
        // What may be read only, written only; what is not there.
        assert_eq!(server.dma_write(2 * PAGE, &[1]), Err(libc::EACCES));
        assert_eq!(server.dma_read(2 * PAGE, &mut [0]), Ok(()));
        assert_eq!(server.dma_read(u64::MAX, &mut [0]), Err(libc::EACCES));
        assert_eq!(server.dma_write(u64::MAX, &[1]), Ok(()));
        // The end of all addresses is followed by nothing.
        assert_eq!(server.dma_write(u64::MAX, &[1, 2]), Err(libc::ENOENT));
        assert_eq!(server.dma_read(0, &mut [0]), Err(libc::ENOENT));
        assert_eq!(server.dma_read(4 * PAGE - 1, &mut [0; 2]), Err(libc::ENOENT));
    });
}

#[test]
fn what_is_unmapped_is_gone_with_its_bits() {
    served(small(), plain(), |client, _, server| {
        let fd = memory(8 * PAGE);
        for n in 0..4 {
            client.map(&fd, 0, n << 20, 4 * PAGE);
        }
        let request = unmapping(24, 0, 0, 4 * PAGE);
        assert_eq!(client.call(3, &request), Ok(request.clone()));
        assert_eq!(client.call(3, &request), Err(ENOENT));
        assert_eq!(server.dma_write(0, &[1]), Err(libc::ENOENT));
        for bad in [
            unmapping(23, 0, 1 << 20, 4 * PAGE),
            unmapping(24, 3, 1 << 20, 4 * PAGE),
            unmapping(24, 2, 1 << 20, 4 * PAGE),
            unmapping(24, 0, 1 << 20, 4 * PAGE)[..23].to_vec(),
        ] {
            assert_eq!(client.call(3, &bad), Err(EINVAL), "{bad:?}");
        }
        assert_eq!(client.call(3, &unmapping(24, 0, 1 << 20, 3 * PAGE)), Err(ENOENT));
        // With what was written there.
        let dirty = |argsz, n: u64, page, room| {
            [unmapping(argsz, 1, n << 20, 4 * PAGE), longs(&[page, room])].concat()
        };
        assert_eq!(client.call(3, &dirty(48, 1, PAGE, 8)), Err(EINVAL));
        client.start_log(PAGE).unwrap();
        server.dma_write((1 << 20) + 3 * PAGE, &[1]).unwrap();
        for (argsz, page, room) in
            [(47, PAGE, 8), (48, 2 * PAGE, 8), (48, PAGE, 16), (48, PAGE, 0), (48, 0, 8)]
        {
            assert_eq!(client.call(3, &dirty(argsz, 1, page, room)), Err(EINVAL));
        }
        let request = dirty(48, 1, PAGE, 8);
        let reply = client.call(3, &request).unwrap();
        assert_eq!((&reply[..40], bits(&reply[40..])), (&request[..], vec![3]));
        assert_eq!(client.call(3, &request), Err(ENOENT));
        let all = unmapping(24, 2, 0, 0);
        assert_eq!(client.call(3, &all), Ok(all));
        assert_eq!(server.dma_write(2 << 20, &[1]), Err(libc::ENOENT));
    });
}

#[test]
fn what_is_mapped_without_a_descriptor_goes_by_messages_and_is_not_logged() {
    raw(small(), plain(), |socket, sim, server| {
        let mut client = Client::mute(socket);
        let caps =
            r#"{"capabilities":{"max_data_xfer_size":4096,"twin_socket":{"supported":true}}}"#;
        let twin = UnixStream::from(client.introduce(0, caps).fds.remove(0));
        client.call(2, &mapping(READ_WRITE, 0, 0, 4 * PAGE)).unwrap();
        client.start_log(PAGE).unwrap();
        let bytes: Vec<u8> = (0..5000).map(|n| n as u8).collect();
        std::thread::scope(|scope| {
            let write = scope.spawn(|| server.dma_write(100, &bytes));
            // In pieces that the client takes.
            assert_eq!(answer(&twin, &[]), (12, 100, 4096, bytes[..4096].to_vec()));
            assert_eq!(answer(&twin, &[]), (12, 4196, 904, bytes[4096..].to_vec()));
            assert_eq!(write.join().unwrap(), Ok(()));
            let read = scope.spawn(|| {
                let mut buf = [0; 3];
                server.dma_read(7, &mut buf).map(|()| buf)
            });
            assert_eq!(answer(&twin, &[4, 5, 6]), (11, 7, 3, vec![]));
            assert_eq!(read.join().unwrap(), Ok([4, 5, 6]));
            let read = scope.spawn(|| {
                let mut buf = vec![0; bytes.len()];
                server.dma_read(100, &mut buf).map(|()| buf)
            });
            assert_eq!(answer(&twin, &bytes[..4096]), (11, 100, 4096, vec![]));
            assert_eq!(answer(&twin, &bytes[4096..]), (11, 4196, 904, vec![]));
            assert_eq!(read.join().unwrap().as_ref(), Ok(&bytes));
        });
        assert_eq!(client.report(0, 4 * PAGE, PAGE), Err(EINVAL));
        assert_eq!(sim.violations().0, 0);
    });
}

#[test]
fn a_wrong_reply_fails_the_servers_command() {
    served(small(), plain(), |client, sim, server| {
        client.call(2, &mapping(READ_WRITE, 0, 0, 4 * PAGE)).unwrap();
        let twin = client.twin.take().unwrap();
        let here = longs(&[0, 8]);
        let away = longs(&[1, 8]);
        let long = [here.clone(), vec![0; 9]].concat();
        std::thread::scope(|scope| {
            for (flags, error, payload, expected, violations) in [
                (0x21, libc::EFAULT as u32, &[][..], libc::EFAULT, 0),
                (0x21, 0, &here, libc::EINVAL, 0),
                (0x21, u32::MAX, &[], libc::EINVAL, 0),
                // As QEMU answers; about something else; too much.
                (1, 0, &[], libc::EINVAL, 1),
                (1, 0, &away, libc::EINVAL, 2),
                (1, 0, &long, libc::EINVAL, 3),
            ] {
                let write = scope.spawn(|| server.dma_write(0, &[7; 8]));
                let got = receive(&twin).unwrap();
                send(&twin, &message(got.id, got.command, flags, error, payload), &[]);
                assert_eq!(write.join().unwrap(), Err(expected));
                assert_eq!(sim.violations().0, violations);
                assert_eq!(client.state(), RUNNING);
            }
            // The reply to another command is not followed by anything.
            let write = scope.spawn(|| server.dma_write(0, &[7; 8]));
            let got = receive(&twin).unwrap();
            send(&twin, &message(got.id + 1, got.command, 1, 0, &here), &[]);
            assert_eq!(write.join().unwrap(), Err(libc::ENOTCONN));
            assert!(receive(&client.socket).is_none());
        });
    });
}

#[test]
fn without_a_twin_socket_commands_of_both_sides_may_cross() {
    raw(small(), plain(), |socket, sim, server| {
        let mut client = Client::mute(socket);
        client.introduce(0, "{}");
        client.call(2, &mapping(READ_WRITE, 0, 0, 4 * PAGE)).unwrap();
        std::thread::scope(|scope| {
            let write = scope.spawn(|| server.dma_write(8, &[1]));
            let got = receive(&client.socket).unwrap();
            assert_eq!((got.command, u64_at(&got.payload, 0)), (12, 8));
            // It has not been answered, and the client goes on.
            client.send(16, 0, &[words(&[16, SET | 2]), words(&[STOP, 0])].concat(), &[]);
            client.send(16, 0, &words(&[16, GET | 2]), &[]);
            send(&client.socket, &message(got.id, 12, 1, 0, &got.payload[..16]), &[]);
            assert_eq!(write.join().unwrap(), Ok(()));
        });
        let first = receive(&client.socket).unwrap();
        assert_eq!((first.id, u32_at(&first.payload, 8)), (client.id - 1, STOP));
        assert_eq!(u32_at(&client.receive(16).payload, 8), STOP);
        assert_eq!(sim.violations().0, 0);
    });
}

#[test]
fn the_guest_has_its_device_do_dma() {
    served(small(), plain(), |client, sim, _| {
        let fd = memory(16 * PAGE);
        let file = File::from(fd.try_clone().unwrap());
        client.map(&fd, 0, 0, 16 * PAGE);
        client.call(2, &mapping(READ_WRITE, 0, 1 << 20, PAGE)).unwrap();
        client.start_log(PAGE).unwrap();
        client.command(1, 3 * PAGE - 4, 13, u64::MAX);
        assert_eq!(client.commanded(), 0);
        let mut bytes = [0; 14];
        file.read_exact_at(&mut bytes, 3 * PAGE - 4).unwrap();
        assert_eq!(bytes, [&pattern(u64::MAX, 13)[..], &[0]].concat()[..]);
        assert_eq!(client.report(0, 16 * PAGE, PAGE), Ok(vec![2, 3]));
        // It reads, and says what.
        file.write_all_at(&[1, 0, 0, 0, 0, 0, 0, 1, 2, 3], PAGE).unwrap();
        client.command(2, PAGE, 10, 0);
        assert_eq!(client.commanded(), 0);
        assert_eq!(client.register(0x40), 1 + (1 << 56) + 0x302);
        // By messages, while the client waits for its own reply.
        client.command(1, 1 << 20, 8, 77);
        let (command, iova, count, data) = answer(client.twin.as_ref().unwrap(), &[]);
        assert_eq!((command, iova, count, data), (12, 1 << 20, 8, pattern(77, 8)));
        assert_eq!(client.commanded(), 0);
        // The state of the device.
        let before = client.register(0x10);
        client.command(3, 0, 10, 5);
        assert_eq!(client.commanded(), 0);
        assert_ne!(client.register(0x10), before);
        assert_eq!(client.register(0x10), sim.digest());
        // An interrupt.
        let fd = event();
        client.call_with(8, &words(&[20, 0x24, 0, 0, 1]), &[&fd]).unwrap();
        client.command(4, 0, 0, 0);
        assert_eq!(client.commanded(), 0);
        assert_eq!(taken(&fd), Some(1));
        for (number, address, length, errno) in [
            (0, 0, 0, libc::EINVAL),
            (5, 0, 0, libc::EINVAL),
            (1, 1 << 40, 8, libc::ENOENT),
            (1, 0, (1 << 20) + 1, libc::E2BIG),
            (2, 0, u64::MAX, libc::E2BIG),
            (3, 8190, 3, libc::EINVAL),
            (4, 1 << 32, 0, libc::EINVAL),
        ] {
            client.command(number, address, length, 0);
            assert_eq!(client.commanded(), errno as u64, "{number} {address}");
        }
        // A register in halves, as some VMMs write; a part of the command is not one.
        let half = |at: u64, value: u32| [longs(&[at]), words(&[0, 4]), words(&[value])].concat();
        client.call(10, &half(0x24, 1)).unwrap();
        client.call(10, &half(0x20, 2)).unwrap();
        assert_eq!(client.register(0x20), 2 | 1 << 32);
        client.call(10, &half(0x3c, 1)).unwrap();
        assert_eq!(client.register(0x38), libc::EINVAL as u64);
        client.set_state(STOP).unwrap();
        client.command(1, 0, 8, 0);
        assert_eq!(client.commanded(), libc::EPERM as u64);
        assert_eq!(client.register(0x18), 0);
    });
}

#[test]
fn a_device_without_a_client_has_no_memory() {
    let server = Server::new(&Sim::new(small()).unwrap(), plain()).unwrap();
    assert_eq!(server.dma_write(0, &[1]), Err(libc::ENOTCONN));
    // What one client has mapped, the next one has not.
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let _stopper = Stopper(&server);
            let serving = scope.spawn(|| server.serve(theirs.into()));
            let mut client = Client::new(ours);
            assert_eq!(client.register(0x20), 0);
            assert_eq!(server.dma_write(0, &[1]), Err(libc::ENOENT));
            client.map(&memory(PAGE), 0, 0, PAGE);
            client.command(1, 0, 1, 0);
            assert_eq!(client.commanded(), 0);
            drop(client);
            serving.join().unwrap().unwrap();
        });
        assert_eq!(server.dma_write(0, &[1]), Err(libc::ENOTCONN));
    }
}

#[test]
fn whoever_waits_for_the_device_when_the_client_leaves_learns_it() {
    served(small(), plain(), |client, _, server| {
        client.call(2, &mapping(READ_WRITE, 0, 0, PAGE)).unwrap();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| server.dma_write(0, &[1]));
            receive(client.twin.as_ref().unwrap()).unwrap();
            let second = scope.spawn(|| server.dma_write(0, &[1]));
            client.twin = None;
            assert_eq!(first.join().unwrap(), Err(libc::ENOTCONN));
            assert_eq!(second.join().unwrap(), Err(libc::ENOTCONN));
        });
    });
}

#[test]
fn descriptors_that_nobody_asked_for_are_counted_and_closed() {
    served(small(), plain(), |client, sim, _| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        client.call_with(4, &words(&[16, 0, 0, 0]), &[&theirs.into()]).unwrap();
        assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
        assert_eq!(sim.violations().0, 1);
    });
}

#[test]
fn a_client_that_only_asks_is_left_at_some_time() {
    // Of many commands, and of few long ones.
    for (count, len) in [(65, 0), (2, 600_000)] {
        raw(small(), plain(), |socket, sim, server| {
            let mut client = Client::mute(socket);
            client.introduce(0, "{}");
            client.call(2, &mapping(READ_WRITE, 0, 0, PAGE)).unwrap();
            std::thread::scope(|scope| {
                let write = scope.spawn(|| server.dma_write(0, &[1]));
                receive(&client.socket).unwrap();
                for _ in 0..count {
                    client.send(13, 0, &vec![0; len], &[]);
                }
                assert_eq!(write.join().unwrap(), Err(libc::ENOTCONN));
            });
            assert_eq!(sim.violations().0, 1);
            assert!(receive(&client.socket).is_none());
        });
    }
}

#[test]
fn whoever_leaves_with_its_twin_socket_open_is_missed() {
    served(small(), plain(), |client, _, server| {
        client.call(2, &mapping(READ_WRITE, 0, 0, PAGE)).unwrap();
        std::thread::scope(|scope| {
            let write = scope.spawn(|| server.dma_write(0, &[1]));
            receive(client.twin.as_ref().unwrap()).unwrap();
            client.socket = UnixStream::pair().unwrap().0;
            assert_eq!(write.join().unwrap(), Err(libc::ENOTCONN));
        });
    });
}

#[test]
fn descriptors_keep_to_the_limits_of_both_sides() {
    served(small(), plain(), |client, sim, _| {
        let info = words(&[16, 0, 0, 0]);
        let fd = memory(PAGE);
        assert_eq!(client.call_with(4, &info, &[&fd; 9]), Err(EINVAL));
        assert_eq!(sim.violations().0, 1);
        // Within a message they belong to nothing.
        client.id += 1;
        let bytes = message(client.id, 2, 0, 0, &mapping(READ_WRITE, 0, 0, PAGE));
        for (part, fds) in
            [(&bytes[..16], vec![]), (&bytes[16..], vec![std::os::fd::AsFd::as_fd(&fd)])]
        {
            send(&client.socket, part, &fds);
        }
        assert_eq!(client.receive(2).error, EINVAL);
        assert_eq!(sim.violations().0, 2);
        client.map(&fd, 0, 0, PAGE);
        assert_eq!(sim.violations().0, 2);
    });
    raw(small(), plain(), |socket, _, _| {
        let mut client = Client::mute(socket);
        let none = r#"{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}"#;
        assert!(client.introduce(0, none).fds.is_empty());
        let region = [words(&[64, 0, 2, 0]), longs(&[0, 0])].concat();
        let reply = client.exchange(5, &region, &[]);
        assert!(reply.fds.is_empty() && u32_at(&reply.payload, 4) == 3);
    });
}
