// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names for what is in a driver's own data, and who gives them.
//!
//! A decoder sees a device's data in order and in any pieces, and says which fields are in it. What
//! it says is bounded here, whoever has written it: the names, the values, and how many there are.

use crate::error::{Result, err};
use crate::flags::flags;

/// The longest name of a field, in bytes.
pub const MAX_NAME: usize = 63;
/// The longest value that is bytes or text, in bytes; what is longer is cut.
pub const MAX_VALUE: usize = 4096;
/// The longest description, in bytes; what is longer is cut.
pub const MAX_DESCRIPTION: usize = 255;
/// How many fields there can be in a stream.
pub const MAX_FIELDS: u32 = 1 << 16;

flags! {
    /// What there is to say of a field besides its value.
    FieldFlags: u32 {
        /// People read it in hexadecimal.
        HEX = 1 << 0;
        /// The driver cannot have saved this.
        SUSPECT = 1 << 1;
        /// It means nothing: padding.
        PADDING = 1 << 2;
        /// The value is longer than what is here.
        CUT = 1 << 3;
    }
}

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A number.
    Unsigned(u64),
    /// Bytes, at most [`MAX_VALUE`].
    Bytes(&'a [u8]),
    /// A text without control characters, at most [`MAX_VALUE`] bytes long.
    Text(&'a str),
}

/// A field of a device's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its name, with dots between its parts: printable ASCII without spaces, at most [`MAX_NAME`]
    /// bytes.
    pub name: &'a str,
    /// Its value.
    pub value: Value<'a>,
    /// How many bits it has.
    pub bits: u32,
    /// Where it is, in bytes from the front of the device's data.
    pub offset: u64,
    /// What it is, for people; empty: nothing to say.
    pub description: &'a str,
    /// More about it.
    pub flags: FieldFlags,
}

/// Where a decoder's fields go.
pub struct Fields<'a> {
    pub(super) sink: &'a mut dyn FnMut(&Field<'_>) -> Result<()>,
    /// How many more there may be.
    pub(super) left: &'a mut u32,
}

/// The longest front of a text that fits.
fn cut(text: &str, longest: usize) -> &str {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Fields<'_> {
    /// Passes a field on. Refuses a name that cannot be, and more fields than [`MAX_FIELDS`].
    pub fn put(&mut self, field: &Field<'_>) -> Result<()> {
        let name = field.name.as_bytes();
        if !(1..=MAX_NAME).contains(&name.len()) || !name.iter().all(u8::is_ascii_graphic) {
            return Err(err!(
                Inval,
                "the name of a field is empty, longer than {MAX_NAME} bytes, or not printable"
            ));
        }
        *self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| err!(MsgSize, "the decoder names more than {MAX_FIELDS} fields"))?;
        let mut field = *field;
        field.description = match field.description {
            text if text.chars().any(char::is_control) => "",
            text => cut(text, MAX_DESCRIPTION),
        };
        // It may end up on a terminal.
        if let Value::Text(text) = field.value {
            if text.chars().any(char::is_control) {
                field.value = Value::Bytes(text.as_bytes());
            }
        }
        let (value, is_cut) = match field.value {
            Value::Bytes(bytes) if bytes.len() > MAX_VALUE => {
                (Value::Bytes(bytes.get(..MAX_VALUE).unwrap_or_default()), true)
            }
            Value::Text(text) if text.len() > MAX_VALUE => {
                (Value::Text(cut(text, MAX_VALUE)), true)
            }
            value => (value, false),
        };
        field.value = value;
        if is_cut {
            field.flags |= FieldFlags::CUT;
        }
        (self.sink)(&field)
    }
}

/// Names what is in a driver's data. An error ends it for this stream; it says nothing of whether
/// the stream is whole.
pub trait FieldDecoder: Send {
    /// The next bytes of the data: those from `offset` on, which is 0 at the beginning and after a
    /// restart.
    fn data(&mut self, bytes: &[u8], offset: u64, out: &mut Fields<'_>) -> Result<()>;

    /// The source has started again: what came before is void, and so is what was said of it.
    fn restart(&mut self) -> Result<()>;

    /// The data is complete, with `len` bytes in all.
    fn end(&mut self, len: u64, out: &mut Fields<'_>) -> Result<()>;
}
