// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a server is made.

/// The most bytes that a client may make a server hold at a time, whatever the options say.
const MOST_DATA: u32 = 64 << 20;
/// What a kernel passes with a message.
const MOST_FDS: u32 = 253;

/// How a vfio-user server is made. Where a zero in the C structure means nothing, it stands for the
/// default; here [`Default`] provides it.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The most bytes of data that a client may ask for, or send, at once.
    pub max_data_xfer: u32,
    /// The most descriptors that a client may send with a message.
    pub max_msg_fds: u32,
    /// The most regions of memory that a client may map.
    pub max_dma_maps: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions { max_data_xfer: 1 << 20, max_msg_fds: 8, max_dma_maps: 65535 }
    }
}

impl ServerOptions {
    pub(crate) fn check(&self) -> Result<(), i32> {
        let sound = (1..=MOST_DATA).contains(&self.max_data_xfer) && self.max_msg_fds <= MOST_FDS;
        if sound { Ok(()) } else { Err(libc::EINVAL) }
    }
}
