// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C side of vfio-user servers.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::{numbered, read_struct, vfiomig_sim};
use crate::Sim;
use crate::shared::Shared;
use crate::table::status;
use crate::vfio_user::{MessageFault, Server, ServerOptions};

/// `struct vfiomig_sim_server_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_sim_server_options {
    pub struct_size: u32,
    pub delay_us: u32,
    pub quirks: u64,
    pub max_data_xfer: u32,
    pub max_msg_fds: u32,
    pub max_dma_maps: u32,
    pub reply_timeout_ms: u32,
}

// The layout that the header has.
const _: () = {
    assert!(size_of::<vfiomig_sim_server_options>() == 32);
    assert!(std::mem::offset_of!(vfiomig_sim_server_options, max_dma_maps) == 24);
};

impl From<&vfiomig_sim_server_options> for ServerOptions {
    fn from(c: &vfiomig_sim_server_options) -> ServerOptions {
        let default = ServerOptions::default();
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        ServerOptions {
            quirks: c.quirks,
            max_data_xfer: or(c.max_data_xfer, default.max_data_xfer),
            max_msg_fds: or(c.max_msg_fds, default.max_msg_fds),
            max_dma_maps: or(c.max_dma_maps, default.max_dma_maps),
            delay_us: c.delay_us,
            reply_timeout_ms: or(c.reply_timeout_ms, default.reply_timeout_ms),
        }
    }
}

/// What C holds: a server, in a box.
pub type vfiomig_sim_server = c_void;

/// Runs a function on the server behind a pointer; a panic becomes EIO.
///
/// # Safety
/// `server` is NULL, or a server that was not freed.
unsafe fn with<T>(
    server: *mut vfiomig_sim_server,
    call: impl FnOnce(&Server) -> Result<T, i32>,
) -> Result<T, i32> {
    // SAFETY: as the caller promised; NULL is caught.
    let server = unsafe { server.cast::<Server>().as_ref() }.ok_or(libc::EFAULT)?;
    catch_unwind(AssertUnwindSafe(|| call(server))).unwrap_or(Err(libc::EIO))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_new(
    sim: *mut vfiomig_sim,
    options: *const vfiomig_sim_server_options,
    out: *mut *mut vfiomig_sim_server,
) -> c_int {
    let made = catch_unwind(|| {
        if sim.is_null() || out.is_null() {
            return Err(libc::EFAULT);
        }
        // SAFETY: vfiomig-sim.h: NULL, or options of the size that they begin with.
        let options = unsafe { read_struct(options) }?;
        let sim = sim.cast::<Shared>().cast_const();
        // SAFETY: vfiomig-sim.h: a simulator that was not freed; the server has a reference of its own.
        let shared = unsafe {
            Arc::increment_strong_count(sim);
            Arc::from_raw(sim)
        };
        let server = Server::new(&Sim { shared }, ServerOptions::from(&options))?;
        // SAFETY: vfiomig-sim.h: `out` is valid for writes.
        unsafe { *out = Box::into_raw(Box::new(server)).cast() };
        Ok(())
    });
    status(made.unwrap_or(Err(libc::EIO)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_free(server: *mut vfiomig_sim_server) {
    if !server.is_null() {
        // SAFETY: vfiomig-sim.h: made by `vfiomig_sim_server_new`, and freed once.
        drop(unsafe { Box::from_raw(server.cast::<Server>()) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_serve(
    server: *mut vfiomig_sim_server,
    fd: c_int,
) -> c_int {
    if fd < 0 {
        return -libc::EBADF;
    }
    // SAFETY: vfiomig-sim.h: from here on the descriptor is the server's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    status(unsafe { with(server, |server| server.serve(socket)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_listen(
    server: *mut vfiomig_sim_server,
    path: *const c_char,
) -> c_int {
    if path.is_null() {
        return -libc::EFAULT;
    }
    // SAFETY: vfiomig-sim.h: a text.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    status(unsafe { with(server, |server| server.listen(path)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_stop(server: *mut vfiomig_sim_server) {
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    let _ = unsafe {
        with(server, |server| {
            server.stop();
            Ok(())
        })
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_dma_write(
    server: *mut vfiomig_sim_server,
    iova: u64,
    data: *const c_void,
    len: usize,
) -> c_int {
    let data = match len {
        0 => &[],
        _ if data.is_null() => return -libc::EFAULT,
        // SAFETY: vfiomig-sim.h: `len` bytes.
        _ => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) },
    };
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    status(unsafe { with(server, |server| server.dma_write(iova, data)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_dma_read(
    server: *mut vfiomig_sim_server,
    iova: u64,
    data: *mut c_void,
    len: usize,
) -> c_int {
    let data = match len {
        0 => &mut [],
        _ if data.is_null() => return -libc::EFAULT,
        // SAFETY: vfiomig-sim.h: room for `len` bytes, which are only written to.
        _ => unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), len) },
    };
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    status(unsafe { with(server, |server| server.dma_read(iova, data)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_inject_message(
    server: *mut vfiomig_sim_server,
    command: u32,
    nth: u64,
    what: u32,
    value: u64,
) -> c_int {
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    let result = unsafe {
        with(server, |server| {
            let (what, _) = numbered(&MessageFault::ALL, what)?;
            let command = u16::try_from(command).map_err(|_| libc::EINVAL)?;
            if nth == 0 {
                return Err(libc::EINVAL);
            }
            server.inject_message(command, nth, what, value)
        })
    };
    status(result)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_clear_message_faults(server: *mut vfiomig_sim_server) {
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    let _ = unsafe {
        with(server, |server| {
            server.clear_message_faults();
            Ok(())
        })
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_sim_server_count(
    server: *mut vfiomig_sim_server,
    command: u32,
) -> u64 {
    let count = |server: &Server| Ok(u16::try_from(command).map_or(0, |n| server.count(n)));
    // SAFETY: vfiomig-sim.h: NULL, or a server that was not freed.
    unsafe { with(server, count) }.unwrap_or(0)
}
