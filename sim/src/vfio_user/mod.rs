// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that shows a simulated device over vfio-user, for tests of clients.
//!
//! A [`Server`] speaks the protocol with one client at a time, over a socket that it is given or at a
//! path, on the thread that asks it to. Resets, device features and migration data go to the [`Sim`]
//! that it was made for, whose faults work here as well, and whose quirks do where vfio-user has what
//! they are about. Regions, interrupts, the guest's memory and the log of it are the server's own. What
//! no client may do is counted by the [`Sim`] as far as a device can tell. The device reads and writes
//! the guest's memory when a test wants it ([`Server::dma_write`]), or the guest: [the
//! registers](registers) in its region 0 do that, and work from another process, too. What real servers
//! do that others do not expect are [quirks](quirk), and any message can be made to go wrong ([`Server::inject_message`]).
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use vfiomig_sim::{Sim, SimOptions};
//! use vfiomig_sim::vfio_user::{Server, ServerOptions};
//!
//! let sim = Sim::new(SimOptions::default()).unwrap();
//! let server = Server::new(&sim, ServerOptions::default()).unwrap();
//! let (vmm, device) = UnixStream::pair().unwrap();
//! std::thread::scope(|scope| {
//!     scope.spawn(|| server.serve(device.into()));
//!     // … the client's side, with `vmm` …
//!     drop(vmm);
//! });
//! ```

mod channel;
mod connection;
mod desk;
mod device;
mod memory;
mod options;
mod outgoing;
mod regions;
pub mod registers;
mod socket;
mod version;
mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use rustix::event::PollFlags;

pub use options::{MessageFault, ServerOptions, quirk};

use crate::Sim;
use crate::device::Core;
use crate::options::{Kind, NO_MIGRATION};
use crate::shared::Shared;
use crate::sync::Mutex;
use connection::Connection;
use desk::{Desk, Work};
use device::Device;
use options::MOST_DATA;
use socket::{Bell, Lost, wait};
use wire::errno;

/// The flag of peer-to-peer states, which vfio-user does not have.
const P2P_FLAG: u32 = 2;

struct Inner {
    sim: Arc<Shared>,
    desk: Desk,
    options: ServerOptions,
    device: Mutex<Device>,
}

/// A vfio-user server. Clones share it.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

/// Ends when whoever serves does.
struct Serving<'a>(&'a Desk);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        // Also if whoever served has panicked: nobody may wait for it.
        self.0.close();
        self.0.end();
    }
}

impl Server {
    /// A server of a device, which from now on has no peer-to-peer states. EINVAL if the options make
    /// no sense, if the device speaks one of the older protocols or is in a state that vfio-user does
    /// not have; an errno if the system has no descriptors.
    pub fn new(sim: &Sim, options: ServerOptions) -> Result<Server, i32> {
        options.check()?;
        without_p2p(&mut sim.shared.lock())?;
        let sim = Arc::clone(&sim.shared);
        let device = Mutex::new(Device::new(Arc::clone(&sim), options.clone())?);
        Ok(Server { inner: Arc::new(Inner { sim, desk: Desk::new()?, options, device }) })
    }

    fn begin(&self) -> Result<Serving<'_>, i32> {
        self.inner.desk.begin()?;
        Ok(Serving(&self.inner.desk))
    }

    fn attend(&self, socket: OwnedFd) -> Lost {
        let mut device = self.inner.device.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { desk, sim, options, .. } = &*self.inner;
        let connection = Connection::new(desk, sim, options, socket);
        let lost = connection.run(&mut device);
        device.client_went();
        lost
    }

    /// Serves one client over a connected socket, until it leaves or the server is stopped. The device
    /// stays as the client leaves it. EBUSY while the server serves on another thread.
    pub fn serve(&self, socket: OwnedFd) -> Result<(), i32> {
        let _serving = self.begin()?;
        self.attend(socket);
        Ok(())
    }

    /// Makes a socket at a path and serves one client after the other, until the server is stopped. A
    /// second client can connect while there is one, and is not answered before that one leaves. EBUSY
    /// as above; what the system says about the path, EADDRINUSE if there is something.
    pub fn listen(&self, path: &Path) -> Result<(), i32> {
        let _serving = self.begin()?;
        let listener = UnixListener::bind(path).map_err(errno)?;
        let result = self.accept_all(&listener, u64::MAX);
        // Whoever stopped it may make the next one there.
        let _ = std::fs::remove_file(path);
        result
    }

    /// The same on a socket that is there, for at most `clients` clients.
    pub fn accept(&self, listener: &UnixListener, clients: u64) -> Result<(), i32> {
        let _serving = self.begin()?;
        self.accept_all(listener, clients)
    }

    fn accept_all(&self, listener: &UnixListener, clients: u64) -> Result<(), i32> {
        let desk = &self.inner.desk;
        listener.set_nonblocking(true).map_err(errno)?;
        let mut left = clients;
        while left > 0 {
            let events = Some((listener.as_fd(), PollFlags::IN));
            if desk.is_stopped() || wait(events, desk.fd(), None).is_err() || desk.answer() {
                return Ok(());
            }
            match listener.accept() {
                Ok((socket, _)) => {
                    self.attend(socket.into());
                    left -= 1;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(())
    }

    /// The device writes to the guest's memory, between two commands of the client. What the client has
    /// mapped with a descriptor is written there, and logged; else the client is sent messages, which it
    /// must answer meanwhile. ENOTCONN without a client, ENOENT where nothing is mapped, EACCES where
    /// the device may not write, EPERM while it is stopped, ENODEV when it is gone, and what the client
    /// answers. ETIMEDOUT, and the client is left, if it does not answer in time.
    pub fn dma_write(&self, iova: u64, bytes: &[u8]) -> Result<(), i32> {
        self.inner.desk.ask(Work::Write(iova, bytes.to_vec())).map(drop)
    }

    /// The device reads there. Errors as above.
    pub fn dma_read(&self, iova: u64, buf: &mut [u8]) -> Result<(), i32> {
        let bytes = self.inner.desk.ask(Work::Read(iova, buf.len()))?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    /// Something goes wrong with the `nth` message (from 1, counted from now) that the server sends
    /// about a command, by its number in the protocol: a reply, or DMA_READ and DMA_WRITE (11, 12). 0:
    /// about any. What `value` means is said of each [`MessageFault`]. Several may be pending.
    /// EINVAL if it were longer than anything that a server sends.
    pub fn inject_message(
        &self,
        command: u16,
        nth: u64,
        what: MessageFault,
        value: u64,
    ) -> Result<(), i32> {
        if what == MessageFault::More && value > MOST_DATA.into() {
            return Err(libc::EINVAL);
        }
        self.inner.desk.inject_message(command, nth, what, value);
        Ok(())
    }

    /// How many messages with [`MessageFault::Fds`] there were whose descriptors somebody still has.
    /// The server itself has them until it receives the next command.
    pub fn unasked_fds(&self) -> usize {
        self.inner.desk.unasked()
    }

    /// Forgets what was to go wrong.
    pub fn clear_message_faults(&self) {
        self.inner.desk.clear_message_faults();
    }

    /// How many commands with a number came so far; 0: with none that there is.
    pub fn count(&self, command: u16) -> u64 {
        self.inner.desk.count(command)
    }

    /// Ends what serves, and what will, from any thread.
    pub fn stop(&self) {
        self.inner.desk.stop();
    }
}

fn without_p2p(core: &mut Core) -> Result<(), i32> {
    let flags = core.options.migration_flags;
    if core.options.kind != Kind::V2 || matches!(core.state().0, 5 | 7) {
        return Err(libc::EINVAL);
    }
    if flags != NO_MIGRATION {
        core.options.migration_flags = flags & !P2P_FLAG;
    }
    Ok(())
}
