// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fields of a driver's own data, as text: named by the library's decoders, or by one that was given.

use vfiomig::inspect::{Field, FieldFlags, Value};

use crate::text::hex;

/// How many fields are kept of one file: whoever wrote it decides how many there are.
pub const MOST: usize = 1 << 16;

/// A field's value, as people read it.
pub fn value_text(field: &Field<'_>) -> String {
    match field.value {
        Value::Unsigned(number) if field.flags.contains(FieldFlags::HEX) => format!("{number:#x}"),
        Value::Unsigned(number) => number.to_string(),
        Value::Bytes(bytes) => hex(bytes),
        Value::Text(text) => text.to_owned(),
    }
}
