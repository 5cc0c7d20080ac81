// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that shows a simulated device over vfio-user, for tests of clients.
//!
//! A [`Server`] speaks the protocol with one client at a time, over a socket that it is given or at a
//! path, on the thread that asks it to. Negotiation, infos, regions, interrupts, reset, device
//! features and migration data go to the [`Sim`] that it was made for, which counts what no client
//! may do, and whose faults and quirks work here as well.
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

mod connection;
mod desk;
mod device;
mod options;
mod regions;
mod socket;
mod version;
mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use rustix::event::PollFlags;

pub use options::ServerOptions;

use crate::Sim;
use crate::device::Core;
use crate::options::{Kind, NO_MIGRATION};
use crate::sync::Mutex;
use connection::Connection;
use desk::Desk;
use device::Device;
use socket::{Bell, Lost, wait};

/// The flag of peer-to-peer states, which vfio-user does not have.
const P2P_FLAG: u32 = 2;

struct Inner {
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
        let device = Mutex::new(Device::new(Arc::clone(&sim.shared))?);
        Ok(Server { inner: Arc::new(Inner { desk: Desk::new()?, options, device }) })
    }

    fn begin(&self) -> Result<Serving<'_>, i32> {
        self.inner.desk.begin()?;
        Ok(Serving(&self.inner.desk))
    }

    fn attend(&self, socket: OwnedFd) -> Lost {
        let mut device = self.inner.device.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = Connection::new(&self.inner.desk, &self.inner.options, socket);
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
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
        let listener = UnixListener::bind(path).map_err(errno)?;
        let result = self.accept(&listener);
        // Whoever stopped it may make the next one there.
        let _ = std::fs::remove_file(path);
        result
    }

    fn accept(&self, listener: &UnixListener) -> Result<(), i32> {
        let desk = &self.inner.desk;
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
        listener.set_nonblocking(true).map_err(errno)?;
        loop {
            let events = Some((listener.as_fd(), PollFlags::IN));
            if desk.is_stopped() || wait(events, desk.fd()).is_err() || desk.answer() {
                return Ok(());
            }
            match listener.accept() {
                Ok((socket, _)) => drop(self.attend(socket.into())),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(errno(error)),
            }
        }
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
