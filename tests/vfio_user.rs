// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices behind vfio-user servers: migrations, memory by messages and by descriptors, resets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod track;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Drive, Side, check_clean, migrate, small};
use track::{PAGE, Taken, mapping, new_tracking};
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, ReasonCode, State};
use vfiomig::dirty::{Tracking, Writer};
use vfiomig::error::{Code, Errno, Outcome};
use vfiomig::session::{Ending, LoadOptions, SaveOptions};
use vfiomig::transport::{
    DmaAccess, DmaRange, GuestMemory, Requests, VfioUserOptions, VfioUserTransport, command,
};
use vfiomig_sim::vfio_user::{Server, ServerOptions};
use vfiomig_sim::{Op, Sim, SimOptions, quirk};

/// A device behind a server, which serves on a thread of its own.
struct Served {
    side: Side,
    server: Server,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn served_with(options: SimOptions, limits: ServerOptions, client: VfioUserOptions) -> Served {
    let sim = Sim::new(options).unwrap();
    let server = Server::new(&sim, limits).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let thread = {
        let server = server.clone();
        std::thread::spawn(move || server.serve(far.into()).unwrap())
    };
    let transport = VfioUserTransport::new(near, client).unwrap();
    let device = Device::new(transport, DeviceOptions::default()).unwrap();
    Served { side: Side { sim, device }, server, thread: Some(thread) }
}

fn served(options: SimOptions) -> Served {
    served_with(options, ServerOptions::default(), VfioUserOptions::default())
}

#[test]
fn a_device_behind_a_server_is_migrated_with_and_without_pre_copy() {
    for migration_flags in [1, 5] {
        for (state_size, max_read) in [(1, 0), (3000, 7), (1 << 20, 0), (5 << 20, 100_000)] {
            let options = |seed| SimOptions {
                migration_flags,
                state_size,
                seed,
                max_read,
                ..SimOptions::default()
            };
            let (source, target) = (served(options(1)), served(options(2)));
            let sim = source.side.sim.clone();
            let drained = Box::new(move |_: &mut _| sim.guest_write(0, state_size, 9).unwrap());
            let drive = Drive { drained, buffers: vec![1 << 20], ..Drive::default() };
            migrate(&source.side, &target.side, drive);
            assert_eq!(source.side.sim.digest(), target.side.sim.digest());
        }
    }
}

#[test]
fn the_limits_of_the_server_and_the_client_are_kept() {
    for (server, transfer, command) in
        [(1 << 20, 1 << 20, 64), (100, 1 << 20, 32 << 10), (1 << 20, 33, 4096)]
    {
        let limits = || ServerOptions { max_data_xfer: server, ..ServerOptions::default() };
        let client = || VfioUserOptions {
            max_transfer: transfer,
            max_command: command,
            ..VfioUserOptions::default()
        };
        let source = served_with(small(1), limits(), client());
        let target = served_with(small(2), limits(), client());
        migrate(&source.side, &target.side, Drive::default());
        let most = (server as usize).min(transfer) as u64;
        assert!(source.side.sim.count(Op::Read) >= 3000 / most);
        assert!(target.side.sim.count(Op::Write) >= 3000 / most.min(command as u64 - 24));
    }
}

#[test]
fn what_a_server_cannot_tell_is_unknown_and_not_zero() {
    let it = served(small(1));
    let caps = it.side.device.caps().unwrap();
    assert!(caps.has_pre_copy() && !caps.has_p2p() && caps.dma_logging);
    assert_eq!((caps.state_size, caps.initial_state), (None, Some(State::Running)));
    let mut save = it.side.device.save(SaveOptions::default()).unwrap();
    let pending = save.pending().unwrap();
    assert_eq!((pending.precopy_known, pending.stop_copy_known), (false, false));
    save.finish(Ending::Keep).unwrap();
    drop(save);
    check_clean(&it.side);

    let it = served(SimOptions { migration_flags: 0x8000_0000, ..small(1) });
    let reasons = it.side.device.reasons().unwrap();
    assert_eq!(reasons[0].code, ReasonCode::DriverNoMigration, "{reasons:?}");
}

#[test]
fn a_device_is_kept_cancelled_reset_and_loaded_again() {
    let it = served(SimOptions { quirks: quirk::RESET_KEEPS_STATE, ..small(1) });
    let (device, sim) = (&it.side.device, &it.side.sim);
    sim.guest_write(0, 100, 5).unwrap();
    let digest = sim.digest();
    let mut buf = vec![0; 1 << 16];
    for stop in [false, true] {
        let mut save = device.save(SaveOptions::default()).unwrap();
        save.next(&mut buf).unwrap();
        if stop {
            save.stop().unwrap();
        }
        save.finish(Ending::Keep).unwrap();
        assert_eq!((sim.state(), sim.digest()), (vfiomig_sim::State::RUNNING, digest));
    }
    let stream = common::stream_of(device, SaveOptions::default()).unwrap();
    let mut load = device.load(LoadOptions::default()).unwrap();
    load.push(&stream[..stream.len() / 2]).unwrap();
    drop(load);
    assert_eq!(device.state().unwrap(), State::Running);
    let mut load = device.load(LoadOptions::default()).unwrap();
    load.push(&stream).unwrap();
    load.commit().unwrap();
    device.run().unwrap();
    assert_eq!(sim.digest(), digest);
    device.set_state(State::Stop).unwrap();
    device.reset().unwrap();
    assert_eq!(device.state().unwrap(), State::Running);
    assert_ne!(sim.digest(), digest);
    check_clean(&it.side);
}

#[test]
fn a_server_that_takes_long_can_be_cancelled_and_is_not_waited_for_without_end() {
    let slow = SimOptions { transition_us: [0, 0, 0, 0, 0, 0, 400_000, 0], ..small(1) };
    let client =
        VfioUserOptions { timeout: Duration::from_millis(150), ..VfioUserOptions::default() };
    let it = served_with(slow, ServerOptions::default(), client);
    let begun = Instant::now();
    let error = it.side.device.save(SaveOptions::default()).err().unwrap();
    // Recovery has to wait for the same server, and ends in a reset if that takes too long as well.
    let failure = error.failure().unwrap();
    let reset = failure.outcome == Outcome::Reset;
    assert!(failure.errno == libc::ETIMEDOUT || reset, "{error}: {failure:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The replies that come late are told apart from those that are waited for.
    while let Err(error) = it.side.device.state() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    it.side.device.reset().unwrap();
    assert_eq!(it.side.sim.violations(), (0, None));
}

/// The guest's memory: a page of `PAGES` is dirty if the library said so, or if it was handed over.
#[derive(Clone)]
struct Guest {
    file: Arc<File>,
    written: Arc<AtomicU64>,
}

const PAGES: u64 = 100;

impl Guest {
    fn new() -> Guest {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vfio-user-{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(PAGES * PAGE).unwrap();
        Guest { file: Arc::new(file), written: Arc::default() }
    }

    fn at(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, iova).unwrap();
        bytes
    }
}

impl GuestMemory for Guest {
    fn read(&mut self, iova: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.file.read_exact_at(buf, iova).map_err(|_| Errno(libc::EFAULT))
    }

    fn write(&mut self, iova: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.written.fetch_add(1, Ordering::Relaxed);
        self.file.write_all_at(bytes, iova).map_err(|_| Errno(libc::EFAULT))
    }
}

/// Ranges in pages, and whether the server gets a descriptor.
fn map(device: &Device, guest: &Guest, first: u64, pages: u64, direct: bool) {
    let memory = direct.then(|| (guest.file.as_fd(), first * PAGE));
    let access = DmaAccess::READ | DmaAccess::WRITE;
    let range = DmaRange { iova: first * PAGE, size: pages * PAGE, access, memory, known: false };
    device.map_dma(range).unwrap();
}

/// The device writes, while the VMM answers it.
fn write(it: &Served, guest_address: u64, bytes: &[u8]) -> Result<(), i32> {
    let server = it.server.clone();
    let bytes = bytes.to_vec();
    let writes = std::thread::spawn(move || server.dma_write(guest_address, &bytes));
    while !writes.is_finished() {
        it.side.device.serve_dma().unwrap();
        std::thread::yield_now();
    }
    writes.join().unwrap()
}

fn machine(options: SimOptions) -> (Served, Guest, Tracking, Taken) {
    let guest = Guest::new();
    let memory: Box<dyn GuestMemory> = Box::new(guest.clone());
    let client = VfioUserOptions { memory: Some(memory), ..VfioUserOptions::default() };
    let it = served_with(options, ServerOptions::default(), client);
    map(&it.side.device, &guest, 0, 70, true);
    map(&it.side.device, &guest, 70, 30, false);
    let taken = Taken::default();
    let maps = [mapping(0, 70), mapping(70, 30)];
    let mut tracking = new_tracking(taken.clone(), &maps);
    tracking.add_writer(Writer::device(&it.side.device).unwrap()).unwrap();
    (it, guest, tracking, taken)
}

#[test]
fn what_a_device_writes_directly_and_by_messages_is_dirty_and_nothing_else() {
    let (it, guest, mut tracking, taken) = machine(small(1));
    // Before tracking is on, nothing counts.
    write(&it, 3 * PAGE, b"before").unwrap();
    write(&it, 73 * PAGE, b"before").unwrap();
    tracking.start().unwrap();
    tracking.collect().unwrap();
    assert_eq!(taken.take(), [0; 0]);
    write(&it, 69 * PAGE, b"direct").unwrap();
    write(&it, 71 * PAGE - 3, b"across").unwrap();
    write(&it, 99 * PAGE, b"message").unwrap();
    assert_eq!(guest.at(71 * PAGE - 3, 6), b"across");
    assert_eq!(guest.at(99 * PAGE, 7), b"message");
    assert_eq!(guest.written.load(Ordering::Relaxed), 3);
    let synced = tracking.collect().unwrap();
    assert!(!synced.errors, "{:?}", tracking.stats());
    assert_eq!(taken.take(), [69, 70, 71, 99]);
    tracking.collect().unwrap();
    assert_eq!(taken.take(), [0; 0]);
    // Where nothing is mapped, or too much is asked for, the server hears why.
    assert_eq!(write(&it, 100 * PAGE, b"beyond"), Err(libc::ENOENT));
    let mut bytes = [0; 6];
    let server = it.server.clone();
    let reads =
        std::thread::spawn(move || server.dma_read(71 * PAGE - 3, &mut bytes).map(|()| bytes));
    while !reads.is_finished() {
        it.side.device.serve_dma().unwrap();
    }
    assert_eq!(reads.join().unwrap(), Ok(*b"across"));
    check_clean(&it.side);
}

#[test]
fn a_device_writes_by_messages_while_it_is_saved_and_no_page_is_missed() {
    let options = SimOptions { state_size: 4 << 20, max_read: 30_000, ..small(1) };
    let (source, guest, mut tracking, taken) = machine(options.clone());
    let target = served(SimOptions { seed: 2, ..options });
    tracking.start().unwrap();
    let (server, device) = (source.server.clone(), source.side.device.clone());
    let mut wrote = vec![];
    let writes = std::thread::spawn(move || {
        for n in 0..60u64 {
            let page = if n % 2 == 0 { n } else { 70 + n / 2 };
            match server.dma_write(page * PAGE, &n.to_le_bytes()) {
                Ok(()) => wrote.push(page),
                // It was stopped.
                Err(libc::EPERM) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
        wrote
    });
    let waiting = Arc::clone(&guest.written);
    let drained = Box::new(move |_: &mut _| {
        // The VMM is busy with something else, and answers in between.
        while waiting.load(Ordering::Relaxed) < 10 {
            device.serve_dma().unwrap();
        }
    });
    migrate(&source.side, &target.side, Drive { drained, ..Drive::default() });
    while !writes.is_finished() {
        source.side.device.serve_dma().unwrap();
    }
    let wrote: BTreeSet<u64> = writes.join().unwrap().into_iter().collect();
    assert!(wrote.len() >= 20);
    assert!(!tracking.collect().unwrap().errors);
    // The device is stopped, and still tells.
    assert_eq!(taken.take(), wrote.into_iter().collect::<Vec<_>>());
}

#[test]
fn what_was_written_to_a_range_that_is_unmapped_is_not_lost() {
    let (it, guest, mut tracking, taken) = machine(small(1));
    tracking.start().unwrap();
    write(&it, 5 * PAGE, b"direct").unwrap();
    write(&it, 75 * PAGE, b"message").unwrap();
    for (first, pages, dirty) in [(0, 70, 5), (70, 30, 75)] {
        let mut unmapped = false;
        let synced = tracking.unmap(first * PAGE, pages * PAGE, None, || {
            // Written at the last moment, after the tracking has asked.
            write(&it, (first + 7) * PAGE, b"last").unwrap();
            it.side.device.unmap_dma(first * PAGE, pages * PAGE, false).unwrap();
            unmapped = true;
            Ok(())
        });
        assert!(unmapped && !synced.unwrap().errors);
        assert_eq!(taken.take(), [dirty, first + 7]);
        assert_eq!(write(&it, first * PAGE, b"gone"), Err(libc::ENOENT));
    }
    // The same memory comes back elsewhere.
    map(&it.side.device, &guest, 40, 20, true);
    tracking.map(mapping(40, 20)).unwrap();
    write(&it, 44 * PAGE, b"again").unwrap();
    tracking.collect().unwrap();
    assert!(taken.take().contains(&44));
    check_clean(&it.side);
}

#[test]
fn ranges_that_the_tracking_has_otherwise_than_the_server_are_dirty_as_a_whole() {
    let (it, guest, tracking, _) = machine(small(1));
    drop(tracking);
    for maps in
        [vec![mapping(0, 50), mapping(50, 50)], vec![mapping(10, 60)], vec![mapping(0, 120)]]
    {
        let taken = Taken::default();
        let mut tracking = new_tracking(taken.clone(), &maps);
        tracking.add_writer(Writer::device(&it.side.device).unwrap()).unwrap();
        tracking.start().unwrap();
        write(&it, 20 * PAGE, b"x").unwrap();
        tracking.collect().unwrap();
        assert!(taken.take().contains(&20), "{maps:?}");
        tracking.stop().unwrap();
    }
    let again = DmaRange {
        iova: 69 * PAGE,
        size: PAGE,
        access: DmaAccess::READ,
        memory: Some((guest.file.as_fd(), 0)),
        known: false,
    };
    let device = &it.side.device;
    assert_eq!(device.map_dma(again).unwrap_err().code(), Code::Inval);
    assert_eq!(device.unmap_dma(0, PAGE, false).unwrap_err().code(), Code::Inval);
    let wraps = DmaRange { iova: u64::MAX - 1, size: PAGE, ..again };
    assert_eq!(device.map_dma(wraps).unwrap_err().code(), Code::Inval);
}

/// A VMM's own connection, which has no socket for the server's commands.
struct Vmm {
    socket: UnixStream,
    id: u16,
    /// Commands that it has carried, by their numbers.
    carried: Arc<Mutex<Vec<u16>>>,
    longest: Arc<AtomicU64>,
}

impl Vmm {
    fn new(socket: UnixStream) -> Vmm {
        let mut vmm = Vmm { socket, id: 0, carried: Arc::default(), longest: Arc::default() };
        let version =
            [&[0; 4][..], b"{\"capabilities\":{\"max_data_xfer_size\":65536}}\0"].concat();
        vmm.request(command::VERSION, &version, &[], &mut [0; 4096]).unwrap();
        vmm
    }
}

impl Requests for Vmm {
    fn request(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        reply: &mut [u8],
    ) -> Result<usize, Errno> {
        assert!(fds.is_empty(), "the VMM has mapped its memory itself");
        self.carried.lock().unwrap().push(command);
        self.longest.fetch_max(16 + payload.len() as u64, Ordering::Relaxed);
        self.id += 1;
        let size = (16 + payload.len()) as u32;
        let mut message = [self.id.to_ne_bytes(), command.to_ne_bytes()].concat();
        message.extend([size.to_ne_bytes(), [0; 4], [0; 4]].concat());
        message.extend(payload);
        let gone = |_| Errno(libc::ENODEV);
        self.socket.write_all(&message).map_err(gone)?;
        let mut head = [0; 16];
        self.socket.read_exact(&mut head).map_err(gone)?;
        let number = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(head[..4], message[..4]);
        let mut body = vec![0; number(4) as usize - 16];
        self.socket.read_exact(&mut body).map_err(gone)?;
        if number(8) & 0x20 != 0 {
            return Err(Errno(number(12) as i32));
        }
        reply[..body.len()].copy_from_slice(&body);
        Ok(body.len())
    }
}

type Carried = (Arc<Mutex<Vec<u16>>>, Arc<AtomicU64>);

fn lent(options: SimOptions) -> (Served, Carried) {
    let sim = Sim::new(options).unwrap();
    let server = Server::new(&sim, ServerOptions::default()).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let thread = {
        let server = server.clone();
        std::thread::spawn(move || server.serve(far.into()).unwrap())
    };
    let vmm = Vmm::new(near);
    let carried = (Arc::clone(&vmm.carried), Arc::clone(&vmm.longest));
    let limits = VfioUserOptions { max_transfer: 65536, ..VfioUserOptions::default() };
    let transport = VfioUserTransport::lent(vmm, limits).unwrap();
    let device = Device::new(transport, DeviceOptions::default()).unwrap();
    (Served { side: Side { sim, device }, server, thread: Some(thread) }, carried)
}

#[test]
fn a_device_is_migrated_over_the_vmms_own_connection() {
    let options = |seed| SimOptions { state_size: 300_000, seed, ..SimOptions::default() };
    let (source, (_, _)) = lent(options(1));
    let (target, (carried, longest)) = lent(options(2));
    migrate(&source.side, &target.side, Drive { buffers: vec![1 << 20], ..Drive::default() });
    let writes =
        carried.lock().unwrap().iter().filter(|it| **it == command::MIG_DATA_WRITE).count();
    assert!(writes >= 300_000 / (32 << 10), "{writes}");
    assert!(longest.load(Ordering::Relaxed) <= 32 << 10);
    // What it has mapped itself, it is not asked to map again.
    let device = &source.side.device;
    let range =
        DmaRange { iova: 0, size: PAGE, access: DmaAccess::READ, memory: None, known: true };
    device.map_dma(range).unwrap();
    device.unmap_dma(0, PAGE, true).unwrap();
    assert!(!carried.lock().unwrap().contains(&command::DMA_MAP));
    assert_eq!((device.serve_dma().unwrap(), device.dma_fd().unwrap()), (0, None));
}

#[test]
fn a_connection_that_the_vmm_loses_is_a_lost_device() {
    let (it, _) = lent(small(1));
    let mut save = it.side.device.save(SaveOptions::default()).unwrap();
    it.server.stop();
    let mut buf = vec![0; 1 << 16];
    let error = (0..100).find_map(|_| save.next(&mut buf).err()).unwrap();
    assert_eq!(error.code(), Code::NoDev, "{error}");
    drop(save);
    assert_eq!(it.side.device.state().unwrap_err().code(), Code::NoDev);
}
