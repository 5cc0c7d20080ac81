// SPDX-License-Identifier: MIT OR Apache-2.0
//! The description that QEMU writes at the end of a file: how long each device's section is.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// The longest description that is read, in bytes: QEMU's have some hundred thousand.
pub const LONGEST: u64 = 2 << 20;

/// How the description begins: its section's type and its length stand before it.
const TYPE: u8 = 6;

/// What the description says.
#[derive(Default)]
pub struct Description {
    /// Bytes in a page of the guest's.
    pub page_size: Option<u64>,
    /// By name and instance: the lengths of the sections in the order in which they come.
    lengths: HashMap<(String, u64), VecDeque<u64>>,
}

impl Description {
    /// Finds the description in the last bytes of a file; `None`: there is none that can be read.
    pub fn find(tail: &[u8]) -> Option<Description> {
        (0..tail.len().saturating_sub(5)).find_map(|at| {
            let rest = tail.get(at..)?;
            let (head, json) = rest.split_first_chunk::<5>()?;
            let [kind, len @ ..] = *head;
            let fits = kind == TYPE && u32::from_be_bytes(len) as usize == json.len();
            // QEMU ends the text with a NUL, or does not.
            let text = json.strip_suffix(&[0]).unwrap_or(json);
            (fits && text.starts_with(b"{")).then(|| Description::read(text)).flatten()
        })
    }

    fn read(json: &[u8]) -> Option<Description> {
        let value: Value = serde_json::from_slice(json).ok()?;
        let mut out =
            Description { page_size: value.get("page_size")?.as_u64(), ..Description::default() };
        for device in value.get("devices")?.as_array()? {
            let name = device.get("name").and_then(Value::as_str);
            let instance = device.get("instance_id").and_then(Value::as_u64);
            if let (Some(name), Some(instance), Some(len)) = (name, instance, length(device)) {
                out.lengths.entry((name.to_owned(), instance)).or_default().push_back(len);
            }
        }
        Some(out)
    }

    /// The length of the next section of this device, without its head and its footer.
    pub fn next(&mut self, name: &str, instance: u64) -> Option<u64> {
        self.lengths.get_mut(&(name.to_owned(), instance))?.pop_front()
    }
}

/// How long what has these fields and subsections is.
fn length(of: &Value) -> Option<u64> {
    let mut len = 0u64;
    for field in of.get("fields").and_then(Value::as_array).into_iter().flatten() {
        // Of each of as many elements.
        let size = field.get("size")?.as_u64()?;
        let count = field.get("array_len").map_or(Some(1), Value::as_u64)?;
        len = len.checked_add(size.checked_mul(count)?)?;
    }
    for sub in of.get("subsections").and_then(Value::as_array).into_iter().flatten() {
        // Type, length of the name, name, version.
        let name = sub.get("vmsd_name")?.as_str()?.len() as u64;
        len = len.checked_add(name + 6)?.checked_add(length(sub)?)?;
    }
    Some(len)
}
