// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `vfiomig probe --json` printed, as far as compat needs it. It may be long, and comes from other
//! hosts: no tree is made of it, which would take dozens of times as much memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The objects that have a name.
#[derive(Default)]
pub struct Found {
    /// How many there are.
    pub count: u64,
    /// The first one's `identity.exported`.
    pub exported: Option<String>,
}

/// Looks for the object of this name, or for all; one object may stand alone.
pub fn find(json: &[u8], wanted: Option<&str>) -> serde_json::Result<Found> {
    let (mut found, mut object) = (Found::default(), Object::default());
    let mut from = serde_json::Deserializer::from_slice(json);
    Place { at: At::Top, wanted, found: &mut found, object: &mut object }.deserialize(&mut from)?;
    from.end()?;
    Ok(found)
}

/// What is known of the object that is being read.
#[derive(Default)]
struct Object {
    is_wanted: bool,
    exported: Option<String>,
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Top,
    Object,
    Name,
    Identity,
    Exported,
}

struct Place<'a> {
    at: At,
    wanted: Option<&'a str>,
    found: &'a mut Found,
    object: &'a mut Object,
}

impl Place<'_> {
    fn within(&mut self, at: At) -> Place<'_> {
        Place { at, wanted: self.wanted, found: self.found, object: self.object }
    }

    /// What a member of an object is, by its name.
    fn member(&self, name: &str) -> Option<At> {
        match (self.at, name) {
            (At::Top | At::Object, "name" | "device") => Some(At::Name),
            (At::Top | At::Object, "identity") => Some(At::Identity),
            (At::Identity, "exported") => Some(At::Exported),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

/// Values of other types than those that are looked for mean nothing here.
impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what vfiomig probe --json prints")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.at {
            At::Name => self.object.is_wanted |= self.wanted == Some(text),
            At::Exported => self.object.exported = Some(text.to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        match self.at {
            At::Top => while all.next_element_seed(self.within(At::Object))?.is_some() {},
            _ => while all.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let is_object = matches!(self.at, At::Top | At::Object);
        if is_object {
            let is_wanted = self.wanted.is_none();
            *self.object = Object { is_wanted, exported: None };
        }
        while let Some(name) = members.next_key::<String>()? {
            match self.member(&name) {
                Some(at) => members.next_value_seed(self.within(at))?,
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        if is_object && self.object.is_wanted {
            self.found.count += 1;
            if self.found.count == 1 {
                self.found.exported = self.object.exported.take();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, wanted: Option<&str>) -> (u64, Option<String>) {
        let found = find(json.as_bytes(), wanted).unwrap();
        (found.count, found.exported)
    }

    #[test]
    fn objects_are_found_by_either_name_and_everything_else_is_passed_over() {
        let one = r#"{"name": "a", "device": "b", "x": [1, {"name": "c"}], "identity": {"exported": "07"}}"#;
        let text = Some("07".to_owned());
        for wanted in [None, Some("a"), Some("b")] {
            assert_eq!(found(one, wanted), (1, text.clone()), "{wanted:?}");
            assert_eq!(found(&format!("[{one}, 5, null, [], \"a\"]"), wanted), (1, text.clone()));
            assert_eq!(found(&format!("[{one}, {one}]"), wanted), (2, text.clone()));
        }
        assert_eq!(found(one, Some("c")), (0, None));
        assert_eq!(found(r#"[{"identity": null}, {"identity": 3.5}]"#, None), (2, None));
        assert_eq!(found("[]", None), (0, None));
        assert_eq!(found("-1", None), (0, None));
        for wrong in ["", "[", "{}x", "[1,]", &"[".repeat(100_000)] {
            assert!(find(wrong.as_bytes(), None).is_err(), "{}", &wrong[..wrong.len().min(9)]);
        }
    }
}
