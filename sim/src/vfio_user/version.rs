// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first message: versions, limits, and whether there is a socket for the server's own commands.

use serde_json::{Map, Value, json};

use super::options::{ServerOptions, quirk};
use super::wire::u32_at;

/// The newest minor version, of major version 0.
const MINOR: u16 = 2;
/// What a side that names no limit takes.
const DEFAULT_DATA: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Of a descriptor that is not there.
const WRONG_INDEX: u32 = 7;

/// What a client has said of itself.
#[derive(Debug)]
pub(crate) struct Client {
    minor: u16,
    /// The most bytes of data that it takes at once.
    pub max_data_xfer: usize,
    /// The most descriptors with a message.
    pub max_msg_fds: u64,
    pub wants_twin: bool,
}

impl Client {
    /// EINVAL if that is not how a client introduces itself.
    pub fn parse(payload: &[u8]) -> Result<Client, i32> {
        let [major, minor] = halves(u32_at(payload, 0)?);
        let said = capabilities(payload.get(4..).unwrap_or_default())?;
        let number = |key: &str, default: u64| match said.get(key) {
            Some(value) => value.as_u64().ok_or(libc::EINVAL),
            None => Ok(default),
        };
        let max_msg_fds = number("max_msg_fds", 1)?;
        let max_data_xfer = number("max_data_xfer_size", DEFAULT_DATA)?;
        let page = said.get("migration").and_then(|migration| migration.get("pgsize"));
        let twin = said.get("twin_socket").and_then(|twin| twin.get("supported"));
        if major != 0
            || max_data_xfer == 0
            || page.is_some_and(|page| page.as_u64() != Some(PAGE))
            || twin.is_some_and(|twin| !twin.is_boolean())
        {
            return Err(libc::EINVAL);
        }
        Ok(Client {
            minor,
            max_data_xfer: usize::try_from(max_data_xfer).unwrap_or(usize::MAX),
            max_msg_fds,
            wants_twin: twin.and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// What the server says of itself.
    pub fn answer(&self, own: &ServerOptions, twin: bool) -> Vec<u8> {
        let mut capabilities = json!({
            "max_msg_fds": own.max_msg_fds,
            "max_data_xfer_size": own.max_data_xfer,
            "max_dma_maps": own.max_dma_maps,
            "pgsizes": PAGE,
            "migration": { "pgsize": PAGE },
        });
        if let (true, Some(members)) = (twin, capabilities.as_object_mut()) {
            let index = if own.has(quirk::TWIN_LIES) { WRONG_INDEX } else { 0 };
            let twin = json!({ "supported": true, "fd_index": index });
            members.insert("twin_socket".to_owned(), twin);
        }
        let major = u16::from(own.has(quirk::MAJOR_ONE));
        let minor = match own.quirks {
            quirks if quirks & quirk::MINOR_ZERO != 0 => 0,
            quirks if quirks & quirk::MINOR_ABOVE != 0 => self.minor.saturating_add(1),
            _ => self.minor.min(MINOR),
        };
        let mut payload = major.to_ne_bytes().to_vec();
        payload.extend(minor.to_ne_bytes());
        payload.extend(json!({ "capabilities": capabilities }).to_string().bytes());
        payload.push(0);
        payload
    }
}

/// Two numbers of 16 bits, as they lie in memory.
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// Of a text that may be missing.
fn capabilities(text: &[u8]) -> Result<Map<String, Value>, i32> {
    let Some((end, json)) = text.split_last() else { return Ok(Map::new()) };
    if *end != 0 {
        return Err(libc::EINVAL);
    }
    match serde_json::from_slice(json) {
        Ok(Value::Object(mut object)) => match object.remove("capabilities") {
            Some(Value::Object(capabilities)) => Ok(capabilities),
            None => Ok(Map::new()),
            Some(_) => Err(libc::EINVAL),
        },
        _ => Err(libc::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(minor: u16, json: &str) -> Result<Client, i32> {
        let mut payload = 0u16.to_ne_bytes().to_vec();
        payload.extend(minor.to_ne_bytes());
        payload.extend(json.bytes().chain([0]));
        Client::parse(&payload)
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        for json in ["{}", r#"{"capabilities":{}}"#, r#"{"capabilities":{"unknown":[1]}}"#] {
            let client = parse(0, json).unwrap();
            assert_eq!((client.max_data_xfer, client.wants_twin), (1 << 20, false));
        }
        assert!(Client::parse(&[0, 0, 1, 0]).is_ok());
    }

    #[test]
    fn what_is_not_an_introduction_is_refused() {
        for json in [
            "",
            "[]",
            "{",
            r#"{"capabilities":[]}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_data_xfer_size":"big"}}"#,
            r#"{"capabilities":{"max_data_xfer_size":0}}"#,
            r#"{"capabilities":{"migration":{"pgsize":8192}}}"#,
            r#"{"capabilities":{"twin_socket":{"supported":1}}}"#,
        ] {
            assert_eq!(parse(0, json).unwrap_err(), libc::EINVAL, "{json}");
        }
        // Without its end; of another major version; nothing.
        assert_eq!(Client::parse(b"\0\0\0\0{}").unwrap_err(), libc::EINVAL);
        assert_eq!(
            Client::parse(&[&1u16.to_ne_bytes()[..], b"\0\0{}\0"].concat()).unwrap_err(),
            libc::EINVAL
        );
        assert_eq!(Client::parse(b"\0\0").unwrap_err(), libc::EINVAL);
    }

    #[test]
    fn a_minor_version_is_never_above_the_clients() {
        let minor = |of| {
            let answer = parse(of, "{}").unwrap().answer(&ServerOptions::default(), false);
            halves(u32_at(&answer, 0).unwrap())[1]
        };
        assert_eq!([minor(0), minor(1), minor(2), minor(9)], [0, 1, 2, 2]);
    }
}
