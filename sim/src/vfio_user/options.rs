// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a server is made, what it does that others do not expect, and what can be made to go wrong.

use super::socket::MOST_FDS;

/// What servers do: bits of [`ServerOptions::quirks`]. Those of the device behind a server are
/// [`crate::quirk`]; a reset that leaves the migration state is one of them.
pub mod quirk {
    use crate::quirks::quirks;

    quirks! {
        /// libvfio-user: a command's payload is read by one `recv`, of which the kernel returns at
        /// most 32 KiB. A command that does not come whole is answered with EINVAL, and what is left
        /// of it is taken for the next header.
        ONE_RECV = 0;
        /// libvfio-user: a reply to MIG_DATA_READ is as long as the data that were asked for. Zeros
        /// come after those that there are.
        UNTRIMMED = 1;
        /// libvfio-user: the error reply to a SET of a feature has a payload, its own.
        SET_PAYLOAD = 2;
        /// libvfio-user: while the device is stopped, all commands but those about regions, features
        /// and reading its data are refused with EINVAL.
        STOPPED_REFUSES = 3;
        /// libvfio-user: features that it does not have are EINVAL, not ENOTTY.
        UNKNOWN_EINVAL = 4;
        /// No twin socket, whoever asks for it.
        NO_TWIN_SOCKET = 5;
        /// What it sends comes byte by byte.
        BYTEWISE = 6;
        /// libvfio-user's sample: stop-copy sends everything again; data of pre-copy are not a part of
        /// the state.
        STARTS_OVER = 7;
        /// It speaks version 0.0 only.
        MINOR_ZERO = 8;
        /// It answers with a minor version above the client's.
        MINOR_ABOVE = 9;
        /// It answers with major version 1.
        MAJOR_ONE = 10;
        /// It says that it has a twin socket, and the descriptor is not where it says.
        TWIN_LIES = 11;
        /// libvfio-user: a client's command that crosses one of the server's on the only socket ends
        /// the connection.
        CROSSING_FATAL = 12;
        /// libvfio-user: the device is reset when its client leaves.
        LEAVING_RESETS = 13;
        /// libvfio-user: of data messages, only the client's limit counts.
        CLIENT_LIMIT_ONLY = 14;
        /// libvfio-user: what is mapped already can be mapped again in the same way.
        MAP_AGAIN = 15;
    }

    /// Of what libvfio-user and its sample server do, as of June 2026, all that is a quirk here. That
    /// does not replace a test with libvfio-user itself. A reset keeps the migration state if the
    /// device has [`crate::quirk::RESET_KEEPS_STATE`] besides; when its client leaves, it runs again.
    pub const LIBVFIO_USER: u64 = ONE_RECV
        | UNTRIMMED
        | SET_PAYLOAD
        | STOPPED_REFUSES
        | UNKNOWN_EINVAL
        | STARTS_OVER
        | CROSSING_FATAL
        | LEAVING_RESETS
        | CLIENT_LIMIT_ONLY
        | MAP_AGAIN;
}

/// The most bytes that a client may make a server hold at a time, whatever the options say.
pub(crate) const MOST_DATA: u32 = 64 << 20;

/// How a vfio-user server is made. Where a zero in the C structure means nothing, it stands for the
/// default; here [`Default`] provides it.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Bits of [`quirk`].
    pub quirks: u64,
    /// The most bytes of data that a client may ask for, or send, at once.
    pub max_data_xfer: u32,
    /// The most descriptors that a client may send with a message.
    pub max_msg_fds: u32,
    /// The most regions of memory that a client may map.
    pub max_dma_maps: u32,
    /// Microseconds that pass before each message that the server sends.
    pub delay_us: u32,
    /// Milliseconds in which a client must reply to a command of the server's, else it is left.
    pub reply_timeout_ms: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            quirks: 0,
            max_data_xfer: 1 << 20,
            max_msg_fds: 8,
            max_dma_maps: 65535,
            delay_us: 0,
            reply_timeout_ms: 60_000,
        }
    }
}

impl ServerOptions {
    pub(crate) fn check(&self) -> Result<(), i32> {
        let known = quirk::ALL.iter().fold(0, |all, (bit, _)| all | bit);
        let sound =
            (1..=MOST_DATA).contains(&self.max_data_xfer) && self.max_msg_fds as usize <= MOST_FDS;
        if sound && self.quirks & !known == 0 { Ok(()) } else { Err(libc::EINVAL) }
    }

    pub(crate) fn has(&self, quirk: u64) -> bool {
        self.quirks & quirk != 0
    }
}

/// What becomes of a message that the server should send. `value` is that of [`super::Server::inject_message`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MessageFault {
    /// The connection is closed instead.
    Close = 0,
    /// The connection is closed after `value` bytes of it.
    CloseWithin = 1,
    /// It is not sent.
    Silence = 2,
    /// It comes `value` microseconds late.
    Late = 3,
    /// It has another id.
    WrongId = 4,
    /// It has `value` as its command.
    WrongCommand = 5,
    /// A reply is called a command, and a command a reply.
    WrongType = 6,
    /// It has `value` as its size.
    WrongSize = 7,
    /// It is an error with the number `value`, which may be 0 or none that there is.
    Error = 8,
    /// It has the error of `Error`, and keeps its payload.
    ErrorWithPayload = 9,
    /// It has `value` descriptors, at least one, that nobody asked for.
    Fds = 10,
    /// All of it, header included, is something else, as `value` says.
    Nonsense = 11,
    /// Its payload is something else, as `value` says.
    Payload = 12,
    /// It lacks the last `value` bytes of its payload, and says so.
    Cut = 13,
    /// It has `value` bytes more, and says so. MIG_DATA_READ: they are data.
    More = 14,
    /// MIG_DATA_READ, DMA_READ, DMA_WRITE: it claims to be about `value` bytes more than it is.
    Claims = 15,
    /// DMA_READ, DMA_WRITE: it is about the address `value`.
    Elsewhere = 16,
}

impl MessageFault {
    /// In the order of their numbers, with their names.
    pub const ALL: [(MessageFault, &'static str); 17] = [
        (MessageFault::Close, "CLOSE"),
        (MessageFault::CloseWithin, "CLOSE_WITHIN"),
        (MessageFault::Silence, "SILENCE"),
        (MessageFault::Late, "LATE"),
        (MessageFault::WrongId, "WRONG_ID"),
        (MessageFault::WrongCommand, "WRONG_COMMAND"),
        (MessageFault::WrongType, "WRONG_TYPE"),
        (MessageFault::WrongSize, "WRONG_SIZE"),
        (MessageFault::Error, "ERROR"),
        (MessageFault::ErrorWithPayload, "ERROR_WITH_PAYLOAD"),
        (MessageFault::Fds, "FDS"),
        (MessageFault::Nonsense, "NONSENSE"),
        (MessageFault::Payload, "PAYLOAD"),
        (MessageFault::Cut, "CUT"),
        (MessageFault::More, "MORE"),
        (MessageFault::Claims, "CLAIMS"),
        (MessageFault::Elsewhere, "ELSEWHERE"),
    ];
}
