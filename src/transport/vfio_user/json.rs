// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads what a server says of itself: JSON, of which a few numbers matter.
//!
//! Takes no memory, and goes no deeper than [`DEEPEST`].

/// How deep values may lie in one another.
const DEEPEST: u32 = 16;

/// A place in a text.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A value, as it stands in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Value<'a>(&'a [u8]);

/// What is not JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

type Read<T> = Result<T, Malformed>;

impl<'a> Value<'a> {
    /// The whole of a text, which is one value.
    pub fn parse(text: &'a [u8]) -> Read<Value<'a>> {
        let mut reader = Reader { rest: text };
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.rest.is_empty() { Ok(value) } else { Err(Malformed) }
    }

    /// The member of an object with this name; the last one, if there are several. `None` if there
    /// is none; an error if this is not an object.
    pub fn member(self, name: &str) -> Read<Option<Value<'a>>> {
        let mut reader = Reader { rest: self.0 };
        let mut found = None;
        reader.object(0, |key, value| {
            if key == name.as_bytes() {
                found = Some(value);
            }
        })?;
        Ok(found)
    }

    /// The value as a number that is not negative and has no fraction.
    pub fn number(self) -> Read<u64> {
        let digits = std::str::from_utf8(self.0).map_err(|_| Malformed)?;
        if digits.starts_with('+') {
            return Err(Malformed);
        }
        digits.parse().map_err(|_| Malformed)
    }

    /// The value as a truth.
    pub fn truth(self) -> Read<bool> {
        match self.0 {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// The next byte that is no space, if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.take(byte) { Ok(()) } else { Err(Malformed) }
    }

    /// Takes the first `len` bytes.
    fn split(&mut self, len: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A string, without its quotes and as it stands there: escapes stay.
    fn string(&mut self) -> Read<&'a [u8]> {
        self.expect(b'"')?;
        let mut escaped = false;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let text = self.split(end.ok_or(Malformed)?)?;
        self.expect(b'"')?;
        Ok(text)
    }

    fn value(&mut self, depth: u32) -> Read<Value<'a>> {
        if depth > DEEPEST {
            return Err(Malformed);
        }
        self.skip_space();
        let from = self.rest;
        match from.first().ok_or(Malformed)? {
            b'{' => self.object(depth, |_, _| {})?,
            b'[' => self.list(depth)?,
            b'"' => drop(self.string()?),
            _ => {
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let end = from.iter().position(|byte| !plain(byte)).unwrap_or(from.len());
                if self.split(end)?.is_empty() {
                    return Err(Malformed);
                }
            }
        }
        let len = from.len() - self.rest.len();
        from.get(..len).map(Value).ok_or(Malformed)
    }

    fn list(&mut self, depth: u32) -> Read<()> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    fn object(&mut self, depth: u32, mut each: impl FnMut(&'a [u8], Value<'a>)) -> Read<()> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            each(key, self.value(depth + 1)?);
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_wherever_they_stand() {
        let text = br#" {"a":{"max":7},"b\"":"}","list":[1,[2,{"max":1}],"]"], "max" : 1048576, "yes":true} "#;
        let value = Value::parse(text).unwrap();
        let number = |value: Value<'_>, name: &str| value.member(name).unwrap().unwrap().number();
        assert_eq!(number(value, "max"), Ok(1 << 20));
        assert_eq!(number(value.member("a").unwrap().unwrap(), "max"), Ok(7));
        assert_eq!(value.member("yes").unwrap().unwrap().truth(), Ok(true));
        assert_eq!(value.member("none"), Ok(None));
        assert_eq!(value.member("max").unwrap().unwrap().member("x"), Err(Malformed));
        let twice = Value::parse(br#"{"n":1,"n":2}"#).unwrap();
        assert_eq!(number(twice, "n"), Ok(2));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = [vec![b'['; 20], vec![b']'; 20]].concat();
        for text in [
            &b""[..],
            b"{",
            b"}",
            b"{}x",
            b"{\"a\"}",
            b"{\"a\":}",
            b"{\"a\":1,}",
            b"[1,]",
            b"\"a",
            b"\"a\\\"",
            b"{a:1}",
            b"[1 2]",
            b"\xff",
            &deep,
        ] {
            assert_eq!(Value::parse(text), Err(Malformed), "{}", text.escape_ascii());
        }
        for text in ["-1", "1.5", "18446744073709551616", "1e3", "\"1\"", "true", "{}", "x"] {
            assert_eq!(Value::parse(text.as_bytes()).unwrap().number(), Err(Malformed), "{text}");
        }
        assert_eq!(Value::parse(b"1").unwrap().truth(), Err(Malformed));
    }
}
