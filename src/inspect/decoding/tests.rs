// SPDX-License-Identifier: MIT OR Apache-2.0
//! What decoders may say, and what mtty's says.

use super::super::fields::{FieldFlags, MAX_NAME, MAX_VALUE, Value};
use super::*;
use crate::error::Code;

/// An mtty's state: a port with 3 bytes in its FIFO, from 5 on.
fn mtty(ports: u32) -> Vec<u8> {
    let mut out = 0x7e9d_0989_8c3e_2c4eu64.to_ne_bytes().to_vec();
    for number in [1, 0, ports, 0] {
        out.extend_from_slice(&number.to_ne_bytes());
    }
    for which in 0..ports as u8 {
        let mut port = [0; 36];
        for (at, byte) in port.iter_mut().enumerate().take(24) {
            *byte = at as u8 + 100 * which;
        }
        (port[24], port[25], port[26], port[27]) = (8, 5, 3, 1);
        port[30..32].copy_from_slice(&0x1234u16.to_ne_bytes());
        (port[32], port[33], port[34]) = (1, 16, 14);
        out.extend_from_slice(&port);
    }
    out
}

/// What a decoder says of data that comes in pieces of this length.
fn fields(bytes: &[u8], step: usize) -> Vec<String> {
    let mut said = Vec::new();
    let mut sink = |field: &Field<'_>| {
        let Field { name, value, bits, offset, flags, .. } = *field;
        said.push(format!("{name} {value:?} {bits} {offset} {flags}"));
        Ok(())
    };
    let mut decoding = Decoding::new();
    decoding.begin(&Identity { driver: "mtty".into(), ..Identity::default() });
    assert!(decoding.is_active());
    for piece in bytes.chunks(step) {
        decoding.data(piece, &mut sink).unwrap();
    }
    decoding.end(&mut sink).unwrap();
    assert!(!decoding.is_active());
    said
}

#[test]
fn every_member_of_mttys_state_has_a_name_and_they_cover_all_of_it() {
    let bytes = mtty(2);
    let said = fields(&bytes, 100);
    assert_eq!(said.len(), 5 + 2 * 20);
    for line in [
        "header.magic Unsigned(9123458906490547278) 64 0 HEX",
        "header.nr_ports Unsigned(2) 32 16 none",
        "port0.uart.lcr Unsigned(3) 8 27 HEX",
        "port1.uart.scr Unsigned(107) 8 67 HEX",
        "port0.fifo.data Bytes([8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]) 128 32 none",
        "port1.fifo.count Unsigned(3) 8 86 none",
        "port0.divisor Unsigned(4660) 16 54 HEX",
        "port1.intr_trigger_level Unsigned(14) 8 94 none",
        "port1.pad1 Unsigned(0) 8 95 PADDING",
    ] {
        assert!(said.iter().any(|said| said == line), "{line} in {said:#?}");
    }
    // One begins where the other ends.
    let mut end = 0;
    for line in &said {
        let mut words = line.rsplit(' ').skip(1);
        let (offset, bits): (u64, u64) =
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        assert_eq!(offset, end, "{line}");
        end = offset + bits / 8;
    }
    assert_eq!(end, bytes.len() as u64);
    for step in [1, 5, 24, 36] {
        assert_eq!(fields(&bytes, step), said);
    }
}

#[test]
fn what_mtty_cannot_have_saved_is_suspect_and_any_data_has_an_end() {
    let suspect = |bytes: &[u8]| {
        let said = fields(bytes, 7).into_iter().filter(|line| line.contains("SUSPECT"));
        said.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(suspect(&mtty(1)).is_empty());
    for (at, name) in [(0, "header.magic"), (8, "header.major"), (20, "header.flags")] {
        let mut bytes = mtty(1);
        bytes[at] ^= 0x40;
        assert_eq!(suspect(&bytes), [name]);
    }
    let mut bytes = mtty(1);
    bytes[24 + 25] = 200;
    assert_eq!(suspect(&bytes), ["port0.fifo.tail", "port0.fifo.count"]);
    let mut longer = mtty(1);
    longer.extend([0; 36]);
    assert_eq!(suspect(&longer), ["rest"]);
    assert_eq!(suspect(&longer[..50]), ["rest"]);
    // As many ports as a number can say.
    longer[16..20].fill(0xff);
    assert_eq!(suspect(&longer), ["header.nr_ports", "port1.max_fifo_size"]);
}

/// A decoder that says what it is told to.
struct Says<F>(F);

impl<F: FnMut(&mut Fields<'_>) -> Result<()> + Send> FieldDecoder for Says<F> {
    fn data(&mut self, _bytes: &[u8], _offset: u64, out: &mut Fields<'_>) -> Result<()> {
        (self.0)(out)
    }

    fn restart(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, _len: u64, _out: &mut Fields<'_>) -> Result<()> {
        Ok(())
    }
}

fn says(
    what: impl FnMut(&mut Fields<'_>) -> Result<()> + Send + 'static,
) -> (Result<()>, Vec<(String, usize, FieldFlags)>) {
    let mut decoding = Decoding::new();
    decoding.add("other", Box::new(MttyFields::new())).unwrap();
    decoding.add("", Box::new(Says(what))).unwrap();
    decoding.begin(&Identity { driver: "mtty".into(), ..Identity::default() });
    let mut said = Vec::new();
    let done = decoding.data(b"data", &mut |field| {
        let len = match field.value {
            Value::Unsigned(_) => 8,
            Value::Bytes(bytes) => bytes.len(),
            Value::Text(text) => 1000 * text.len(),
        };
        said.push((field.name.into(), len, field.flags));
        Ok(())
    });
    assert_eq!(decoding.is_active(), done.is_ok());
    (done, said)
}

fn named(name: &str, value: Value<'_>, out: &mut Fields<'_>) -> Result<()> {
    let flags = FieldFlags::empty();
    out.put(&Field { name, value, bits: 8, offset: 0, description: "\u{1b}[2J", flags })
}

#[test]
fn what_a_decoder_says_is_bounded_whoever_has_written_it() {
    let longest = "n".repeat(MAX_NAME);
    for name in ["", "two words", "tab\t", "\u{e9}", &format!("{longest}n")] {
        let name = name.to_owned();
        let (done, said) = says(move |out| named(&name, Value::Unsigned(1), out));
        assert_eq!((done.unwrap_err().code(), said.len()), (Code::Inval, 0));
    }
    let (done, said) = says(move |out| {
        named(&longest, Value::Bytes(&[0; MAX_VALUE + 1]), out)?;
        named("t", Value::Text(&"\u{e9}".repeat(MAX_VALUE)), out)?;
        named("u", Value::Text("\u{1b}[2J"), out)
    });
    done.unwrap();
    let of = |at: usize| (said[at].1, said[at].2);
    assert_eq!(of(0), (MAX_VALUE, FieldFlags::CUT));
    assert_eq!(of(1), (1000 * MAX_VALUE, FieldFlags::CUT));
    assert_eq!(of(2), (4, FieldFlags::empty()));
    let (done, said) = says(|out| {
        loop {
            named("again", Value::Unsigned(0), out)?;
        }
    });
    assert_eq!(done.unwrap_err().code(), Code::MsgSize);
    assert_eq!(said.len(), MAX_FIELDS as usize);
}
