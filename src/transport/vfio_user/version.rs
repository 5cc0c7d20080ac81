// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first message of each side: which version it speaks, and what its limits are.

use std::fmt::Write as _;

use super::json::{Malformed, Value};
use crate::alloc::Text;
use crate::error::Errno;

/// The version that is asked for. Servers answer with the lower one of both.
const MAJOR: u16 = 0;
const MINOR: u16 = 1;
/// The longest text of a server's that is read, in bytes.
pub(super) const LONGEST_TEXT: usize = 4096;
/// What a side takes that does not say how much, in bytes.
const DEFAULT_TRANSFER: u64 = 1 << 20;

/// What a server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    /// The most data of a message, in bytes; not 0.
    pub max_transfer: u64,
    /// Descriptors that a message may carry.
    pub max_fds: u64,
    /// Regions of memory that it may be given.
    pub max_maps: u64,
    /// Page sizes, with a bit for each; 0: it does not say.
    pub page_sizes: u64,
    /// Which of the descriptors that came with it is the socket for the server's own commands.
    pub twin: Option<usize>,
}

/// What the client says: its numbers, and the text that follows them, with its NUL.
pub(super) fn proposal(max_transfer: u64) -> Result<(u32, Text), Errno> {
    let mut text = Text(String::new());
    write!(
        text,
        "{{\"capabilities\":{{\"max_msg_fds\":1,\"max_data_xfer_size\":{max_transfer},\
         \"twin_socket\":{{\"supported\":true}}}}}}\0"
    )
    .map_err(|_| Errno(libc::ENOMEM))?;
    Ok((pair(MAJOR, MINOR), text))
}

fn pair(major: u16, minor: u16) -> u32 {
    let ([a, b], [c, d]) = (major.to_ne_bytes(), minor.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// What a server's reply says. `EPROTONOSUPPORT` if it speaks another version; `EPROTO` if it makes no
/// sense.
pub(super) fn answer(reply: &[u8]) -> Result<Offer, Errno> {
    let (numbers, text) = reply.split_first_chunk().ok_or(Errno(libc::EPROTO))?;
    let [a, b, c, d] = *numbers;
    if u16::from_ne_bytes([a, b]) != MAJOR || u16::from_ne_bytes([c, d]) > MINOR {
        return Err(Errno(libc::EPROTONOSUPPORT));
    }
    let end = text.iter().position(|byte| *byte == 0);
    match text.get(..end.unwrap_or(text.len())).unwrap_or_default() {
        [] => Ok(Offer::default()),
        // Whoever sends a text ends it.
        _ if end.is_none() => Err(Errno(libc::EPROTO)),
        text => read(text).map_err(|Malformed| Errno(libc::EPROTO)),
    }
}

impl Default for Offer {
    fn default() -> Offer {
        Offer {
            max_transfer: DEFAULT_TRANSFER,
            max_fds: 1,
            max_maps: 65535,
            page_sizes: 0,
            twin: None,
        }
    }
}

fn read(text: &[u8]) -> Result<Offer, Malformed> {
    let mut offer = Offer::default();
    let Some(capabilities) = Value::parse(text)?.member("capabilities")? else { return Ok(offer) };
    let number = |name, value: &mut u64| -> Result<(), Malformed> {
        if let Some(found) = capabilities.member(name)? {
            *value = found.number()?;
        }
        Ok(())
    };
    number("max_data_xfer_size", &mut offer.max_transfer)?;
    number("max_msg_fds", &mut offer.max_fds)?;
    number("max_dma_maps", &mut offer.max_maps)?;
    number("pgsizes", &mut offer.page_sizes)?;
    if offer.max_transfer == 0 {
        return Err(Malformed);
    }
    if let Some(twin) = capabilities.member("twin_socket")? {
        let supported = twin.member("supported")?.map_or(Ok(false), Value::truth)?;
        let index = twin.member("fd_index")?.map_or(Ok(0), Value::number)?;
        let index = usize::try_from(index).map_err(|_| Malformed)?;
        offer.twin = supported.then_some(index);
    }
    Ok(offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(major: u16, minor: u16, text: &str) -> Result<Offer, Errno> {
        let head = pair(major, minor).to_ne_bytes();
        answer(&[&head[..], text.as_bytes()].concat())
    }

    #[test]
    fn a_server_that_says_nothing_has_the_limits_of_the_protocol() {
        for text in ["", "\0", "{}\0", "{\"capabilities\":{}}\0"] {
            assert_eq!(reply(0, 0, text), Ok(Offer::default()), "{text}");
        }
    }

    #[test]
    fn what_a_server_says_is_taken() {
        let text = r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,
            "migration":{"pgsize":4096},"pgsizes":4096,"max_dma_maps":16,
            "twin_socket":{"supported":true,"fd_index":2}}}"#;
        let offer = Offer {
            max_transfer: 65536,
            max_fds: 8,
            max_maps: 16,
            page_sizes: 4096,
            twin: Some(2),
        };
        assert_eq!(reply(0, 1, &format!("{text}\0")), Ok(offer));
        let refused = r#"{"capabilities":{"twin_socket":{"supported":false,"fd_index":0}}}"#;
        assert_eq!(reply(0, 1, &format!("{refused}\0")), Ok(Offer::default()));
    }

    #[test]
    fn versions_and_texts_that_make_no_sense_are_refused() {
        for (major, minor) in [(1, 0), (0, 2), (0, u16::MAX)] {
            assert_eq!(reply(major, minor, "{}\0"), Err(Errno(libc::EPROTONOSUPPORT)));
        }
        for text in [
            "{}",
            "[]\0",
            "{\0",
            "{\"capabilities\":7}\0",
            "{\"capabilities\":{\"max_data_xfer_size\":0}}\0",
            "{\"capabilities\":{\"max_data_xfer_size\":-1}}\0",
            "{\"capabilities\":{\"max_msg_fds\":-1}}\0",
            "{\"capabilities\":{\"twin_socket\":1}}\0",
            "{\"capabilities\":{\"twin_socket\":{\"supported\":1}}}\0",
            "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":-1}}}\0",
        ] {
            assert_eq!(reply(0, 0, text), Err(Errno(libc::EPROTO)), "{text}");
        }
        assert_eq!(answer(&[0; 3]), Err(Errno(libc::EPROTO)));
    }

    #[test]
    fn the_client_asks_for_a_socket_for_the_servers_commands() {
        let (numbers, text) = proposal(1 << 20).unwrap();
        assert_eq!(numbers.to_ne_bytes(), [[0, 0], 1u16.to_ne_bytes()].concat()[..]);
        let text = text.0.strip_suffix('\0').unwrap();
        let offer = read(text.as_bytes()).unwrap();
        assert_eq!((offer.max_transfer, offer.twin), (1 << 20, Some(0)));
    }
}
