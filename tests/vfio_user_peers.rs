// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the client does with peers that are slow, die, or say what makes no sense: a real server, and
//! somebody in between.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vfiomig::device::{Device, DeviceOptions};
use vfiomig::error::{Code, Result};
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::transport::{VfioUserOptions, VfioUserTransport};
use vfiomig_sim::vfio_user::{Server, ServerOptions};
use vfiomig_sim::{Sim, SimOptions};

/// Length of the header of a message.
const HEADER: usize = 16;
/// More than any message has.
const ENDLESS: u32 = (64 << 20) + 1;

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Sends bytes, with these descriptors on the first; returns whether they are gone.
fn send(to: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    match sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
        Ok(sent) => { to }.write_all(&bytes[sent..]).is_ok(),
        Err(_) => false,
    }
}

/// What happens to one reply of the server's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    /// The connection ends before it.
    Gone,
    /// The connection ends within it.
    Cut,
    /// It is for another command.
    OtherId,
    OtherCommand,
    /// It is a command.
    NoReply,
    /// It claims to be longer than anything can be.
    Endless,
    /// It claims to be shorter than its header.
    Short,
    /// It is longer than what was asked for.
    Longer,
    /// It has no body.
    Empty,
    /// All of its body is ones.
    Ones,
    /// It refuses, with an errno that does not exist, and a body.
    Refused,
    /// It comes twice.
    Twice,
    /// It has a descriptor that nobody asked for.
    WithFd,
    /// It comes a byte at a time.
    Bytewise,
}

const HARMS: [Harm; 14] = [
    Harm::Gone,
    Harm::Cut,
    Harm::OtherId,
    Harm::OtherCommand,
    Harm::NoReply,
    Harm::Endless,
    Harm::Short,
    Harm::Longer,
    Harm::Empty,
    Harm::Ones,
    Harm::Refused,
    Harm::Twice,
    Harm::WithFd,
    Harm::Bytewise,
];

impl Harm {
    /// Whether a client cannot tell that anything happened.
    fn is_harmless(self) -> bool {
        matches!(self, Harm::WithFd | Harm::Bytewise)
    }

    /// Whether nobody knows any longer what is whose reply, or where the next one begins.
    fn ends_all(self) -> bool {
        use Harm::*;
        matches!(self, Gone | Cut | OtherId | OtherCommand | NoReply | Endless | Short | Twice)
    }

    /// Passes a reply on; returns whether the connection goes on.
    fn pass(self, to: &UnixStream, head: [u8; HEADER], body: &[u8], fds: &[OwnedFd]) -> bool {
        let (mut head, mut body) = (head, body.to_vec());
        let mut put =
            |at: usize, value: u32| head[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        let size = (HEADER + body.len()) as u32;
        match self {
            Harm::Gone => return false,
            Harm::OtherId => head[0] ^= 0x55,
            Harm::OtherCommand => head[2] ^= 1,
            Harm::NoReply => put(8, 0),
            Harm::Endless => put(4, ENDLESS),
            Harm::Short => put(4, 15),
            Harm::Longer => {
                put(4, size + (2 << 20));
                body.resize(body.len() + (2 << 20), 0);
            }
            Harm::Empty => {
                put(4, HEADER as u32);
                body.clear();
            }
            Harm::Ones => body.fill(0xff),
            Harm::Refused => {
                put(8, 0x21);
                put(12, u32::MAX);
            }
            Harm::Cut | Harm::Twice | Harm::WithFd | Harm::Bytewise => {}
        }
        let whole = [&head[..], &body].concat();
        let mut fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match self {
            Harm::WithFd => {
                fds.push(to.as_fd());
                send(to, &whole, &fds)
            }
            Harm::Bytewise => whole
                .iter()
                .enumerate()
                .all(|(n, byte)| send(to, &[*byte], if n == 0 { &fds } else { &[] })),
            Harm::Cut => {
                send(to, &whole[..whole.len() - 1], &fds);
                false
            }
            Harm::Twice => send(to, &whole, &fds) && send(to, &whole, &[]),
            _ => send(to, &whole, &fds),
        }
    }
}

/// Receives a message as a whole; `None` at the end.
fn receive(from: &UnixStream) -> Option<([u8; HEADER], Vec<u8>, Vec<OwnedFd>)> {
    let (mut head, mut got, mut fds) = ([0; HEADER], 0, vec![]);
    while got < HEADER {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut head[got..])];
        let more = recvmsg(from, parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if more == 0 {
            return None;
        }
        got += more;
    }
    let mut body = vec![0; number(&head, 4) as usize - HEADER];
    { from }.read_exact(&mut body).ok()?;
    Some((head, body, fds))
}

/// A device behind a server, with somebody in between who harms its reply with this number.
struct Harmed {
    device: Option<Device>,
    sim: Sim,
    replies: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Harmed {
    fn drop(&mut self) {
        self.device = None;
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn harmed(harm: Harm, nth: usize, seed: u64) -> (Harmed, Result<()>) {
    let sim =
        Sim::new(SimOptions { seed, state_size: 3000, max_read: 900, ..SimOptions::default() })
            .unwrap();
    let server = Server::new(&sim, ServerOptions::default()).unwrap();
    let (near, client) = UnixStream::pair().unwrap();
    let (behind, far) = UnixStream::pair().unwrap();
    let replies = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&replies);
    let (to_server, from_client) = (behind.try_clone().unwrap(), client.try_clone().unwrap());
    let threads = vec![
        std::thread::spawn(move || server.serve(far.into()).unwrap()),
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(len @ 1..) = { &from_client }.read(&mut bytes) {
                if { &to_server }.write_all(&bytes[..len]).is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown(std::net::Shutdown::Both);
        }),
        std::thread::spawn(move || {
            while let Some((head, body, fds)) = receive(&behind) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let goes_on = match number == nth {
                    true => harm.pass(&client, head, &body, &fds),
                    false => pass_plain(&client, head, &body, &fds),
                };
                if !goes_on {
                    break;
                }
            }
            let _ = behind.shutdown(std::net::Shutdown::Both);
            let _ = client.shutdown(std::net::Shutdown::Both);
        }),
    ];
    let options =
        VfioUserOptions { timeout: Duration::from_millis(300), ..VfioUserOptions::default() };
    let made = VfioUserTransport::new(near, options)
        .and_then(|transport| Device::new(transport, DeviceOptions::default()));
    let (device, result) = match made {
        Ok(device) => (Some(device), Ok(())),
        Err(error) => (None, Err(error)),
    };
    (Harmed { device, sim, replies, threads }, result)
}

fn pass_plain(to: &UnixStream, head: [u8; HEADER], body: &[u8], fds: &[OwnedFd]) -> bool {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    send(to, &[&head[..], body].concat(), &fds)
}

fn save(device: &Device) -> Result<Vec<u8>> {
    let mut save = device
        .save(SaveOptions { read_timeout: Duration::from_secs(1), ..SaveOptions::default() })?;
    let (mut stream, mut buf) = (vec![], vec![0; 8192]);
    loop {
        let next = save.next(&mut buf)?;
        stream.extend_from_slice(&buf[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::Drained => save.stop()?,
            SaveStatus::End => break,
        }
    }
    save.finish(Ending::Keep)?;
    Ok(stream)
}

fn load(device: &Device, stream: &[u8]) -> Result<()> {
    let options = LoadOptions { write_timeout: Duration::from_secs(1), ..LoadOptions::default() };
    let mut load = device.load(options)?;
    load.push(stream)?;
    load.commit()?;
    drop(load);
    device.run()
}

/// A session with each harm at each reply: an error or success, in time, and the process goes on.
fn each_harm(mut session: impl FnMut(&Harmed) -> Result<()>) -> (usize, usize) {
    let (all, made) = harmed(Harm::WithFd, usize::MAX, 1);
    made.unwrap();
    session(&all).unwrap();
    let replies = all.replies.load(Ordering::SeqCst);
    assert!(replies > 8, "{replies}");
    let (mut failed, mut passed) = (0, 0);
    for harm in HARMS {
        for nth in 0..replies {
            let begun = Instant::now();
            let (it, made) = harmed(harm, nth, 1);
            let result = made.and_then(|()| session(&it));
            match &result {
                Err(error) => {
                    failed += 1;
                    assert!(!harm.is_harmless(), "{harm:?} at {nth}: {error}");
                    let known = [
                        Code::NoDev,
                        Code::Io,
                        Code::NotSupported,
                        Code::NotTty,
                        Code::Inval,
                        Code::NoMem,
                    ];
                    assert!(known.contains(&error.code()), "{harm:?} at {nth}: {error}");
                }
                Ok(()) => passed += 1,
            }
            if let Some(device) = it.device.as_ref().filter(|_| harm.ends_all()) {
                // Whatever came of the session, the server is not believed any longer.
                assert!(device.state().is_err(), "{harm:?} at {nth}");
            }
            drop(it);
            assert!(begun.elapsed() < Duration::from_secs(60), "{harm:?} at {nth}");
        }
    }
    (failed, passed)
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_server_that_dies_or_says_nonsense_at_any_message_of_a_save_is_an_error_and_no_more() {
    let (failed, passed) = each_harm(|it| save(it.device.as_ref().unwrap()).map(drop));
    assert!(failed > passed / 2 && passed > 20, "{failed} failed, {passed} passed");
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_server_that_dies_or_says_nonsense_at_any_message_of_a_load_is_an_error_and_no_more() {
    let (source, made) = harmed(Harm::WithFd, usize::MAX, 7);
    made.unwrap();
    let stream = save(source.device.as_ref().unwrap()).unwrap();
    let digest = source.sim.digest();
    let (failed, passed) = each_harm(|it| {
        load(it.device.as_ref().unwrap(), &stream)?;
        // A load that passes has loaded all of it.
        assert_eq!(it.sim.digest(), digest);
        Ok(())
    });
    assert!(failed > passed / 2 && passed > 20, "{failed} failed, {passed} passed");
}
