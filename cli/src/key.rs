// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys of authenticated streams, as files have them: 32 bytes, or 64 hexadecimal digits.

use clap::{Arg, ArgMatches};
use vfiomig::stream::{Auth, KEY_LEN};

use crate::exit::{Result, Status, Trouble};
use crate::input;
use crate::text::from_hex;

/// A key, whatever its id.
#[derive(Clone)]
pub struct Key(Box<[u8; KEY_LEN]>);

/// `--key-file`.
pub fn arg() -> Arg {
    Arg::new("key-file")
        .long("key-file")
        .value_name("FILE")
        .help("The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits")
}

/// Reads the file that was named, if one was.
pub fn read(args: &ArgMatches) -> Result<Option<Key>> {
    let Some(file) = args.get_one::<String>("key-file") else { return Ok(None) };
    let wrong = || {
        let text = format!("{file}: not a key: it takes {KEY_LEN} bytes, or 64 hexadecimal digits");
        Trouble::new(Status::Input, text)
    };
    // Digits, and the end of their line.
    let bytes = input::open(file)?.read_all(2 * KEY_LEN + 2)?.ok_or_else(wrong)?;
    let digits = || from_hex(std::str::from_utf8(&bytes).ok()?.trim_end());
    let key = if bytes.len() == KEY_LEN { Some(bytes.clone()) } else { digits() };
    let key: Option<[u8; KEY_LEN]> = key.and_then(|key| key.try_into().ok());
    Ok(Some(Key(Box::new(key.ok_or_else(wrong)?))))
}

impl Key {
    /// For a stream that has been made with this key, whatever the key's id.
    pub fn auth(&self) -> Auth {
        let key = self.0.clone();
        Auth::with_keys(0, move |_id, place| {
            *place = *key;
            Ok(())
        })
    }
}
