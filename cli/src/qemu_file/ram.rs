// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM's sections, which say what they consist of.

use std::io::{self, Read, Seek};

use super::input::Input;

/// Flags that share a word with an address.
mod flag {
    pub const ZERO: u64 = 0x02;
    pub const MEM_SIZE: u64 = 0x04;
    pub const PAGE: u64 = 0x08;
    pub const EOS: u64 = 0x10;
    pub const CONTINUE: u64 = 0x20;
    pub const XBZRLE: u64 = 0x40;
    pub const COMPRESSED: u64 = 0x100;
    pub const MULTIFD_FLUSH: u64 = 0x200;
}

/// What the RAM of a guest looks like.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Bytes in a page.
    pub page_size: u64,
    /// RAM that is shared is not in the file, and its blocks say where it is.
    pub ignore_shared: bool,
}

/// Passes over the section that begins here. `None`: this is not how RAM looks.
pub fn skip<R: Read + Seek>(input: &mut Input<R>, layout: Layout) -> io::Result<Option<()>> {
    loop {
        let Some(word) = input.u64()? else { return Ok(None) };
        let (flags, rest) = (word & (layout.page_size - 1), word & !(layout.page_size - 1));
        let paged = flag::ZERO | flag::PAGE | flag::XBZRLE | flag::COMPRESSED;
        if flags & paged != 0 && flags & flag::CONTINUE == 0 && input.text()?.is_none() {
            return Ok(None);
        }
        let right = match flags & !flag::CONTINUE {
            flag::EOS => return Ok(Some(())),
            flag::MEM_SIZE => blocks(input, rest, layout)?,
            flag::ZERO => input.skip(1)?,
            flag::PAGE => input.skip(layout.page_size)?,
            flag::XBZRLE => match (input.u8()?, input.u16()?) {
                (Some(_), Some(len)) => input.skip(len.into())?,
                _ => false,
            },
            flag::COMPRESSED => match input.u32()? {
                Some(len) => input.skip(len.into())?,
                None => false,
            },
            flag::MULTIFD_FLUSH => true,
            _ => false,
        };
        if !right {
            return Ok(None);
        }
    }
}

/// The list of blocks, which have so many bytes in all.
fn blocks<R: Read + Seek>(input: &mut Input<R>, total: u64, layout: Layout) -> io::Result<bool> {
    let mut left = total;
    while left > 0 {
        let (Some(_name), Some(len)) = (input.text()?, input.u64()?) else { return Ok(false) };
        if layout.ignore_shared && input.u64()?.is_none() {
            return Ok(false);
        }
        match left.checked_sub(len) {
            // A block without bytes would let this go on for as long as the file does.
            Some(less) if len > 0 => left = less,
            _ => return Ok(false),
        }
    }
    Ok(true)
}
