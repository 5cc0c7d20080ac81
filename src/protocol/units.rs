// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units: how the data of the protocols with regions is cut, so that a target writes it in the pieces
//! in which it was read.
//!
//! A frame's edges mean nothing, and a unit may be longer than the memory of either side. So a unit
//! goes as pieces with a header each (docs/protocols.md). A piece at 0 begins a unit; a unit that
//! had begun and was not complete is void then.

/// The length of a header, in bytes.
pub(super) const HEADER: usize = 24;

/// What a unit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Kind {
    /// A chunk of a v1 region.
    Chunk = 1,
    /// RFC: a snapshot of the device's memory begins.
    Snapshot = 2,
    /// RFC: a chunk of it.
    Memory = 3,
    /// RFC: the device's configuration.
    Config = 4,
}

/// A part of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub kind: Kind,
    /// Its bytes.
    pub len: u32,
    /// Where it belongs in its unit.
    pub at: u64,
    /// The length of the whole unit.
    pub unit: u64,
}

impl Piece {
    pub fn encode(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let fields = [u64::from(self.kind as u32) | u64::from(self.len) << 32, self.at, self.unit];
        for (to, from) in out.iter_mut().zip(fields.iter().flat_map(|field| field.to_le_bytes())) {
            *to = from;
        }
        out
    }

    /// What a header says, if it can be right.
    fn decode(bytes: &[u8; HEADER]) -> Option<Piece> {
        let word = |at: usize| {
            let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let (first, at, unit) = (word(0)?, word(8)?, word(16)?);
        let kind = match first as u32 {
            1 => Kind::Chunk,
            2 => Kind::Snapshot,
            3 => Kind::Memory,
            4 => Kind::Config,
            _ => return None,
        };
        let piece = Piece { kind, len: (first >> 32) as u32, at, unit };
        let end = piece.at.checked_add(u64::from(piece.len))?;
        (piece.len > 0 && end <= piece.unit).then_some(piece)
    }
}

/// What comes next in the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    /// A unit of this kind and length begins.
    Begin(Kind, u64),
    /// Bytes of it, and where they belong.
    Bytes(&'a [u8], u64),
    /// It is complete.
    End(Kind, u64),
}

/// Takes data apart, however it is split.
#[derive(Default)]
pub(super) struct Reader {
    header: [u8; HEADER],
    /// Bytes of the next header that have come.
    gathered: usize,
    /// The unit under way: what it is, how long, and how much of it has come.
    unit: Option<(Kind, u64, u64)>,
    /// What is missing of the piece under way.
    left: u32,
    /// The unit's end has not been returned.
    ended: bool,
}

impl Reader {
    /// Takes a part off the front of `bytes`. None: all of it was taken. An error says what is wrong.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Part<'a>>, &'static str> {
        if std::mem::take(&mut self.ended) {
            let (kind, len, _) = self.unit.take().ok_or("a unit is missing")?;
            return Ok(Some(Part::End(kind, len)));
        }
        if self.left > 0 {
            return Ok(self.piece(bytes));
        }
        let missing = HEADER - self.gathered;
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        let places = self.header.iter_mut().skip(self.gathered);
        places.zip(now).for_each(|(to, from)| *to = *from);
        self.gathered += now.len();
        *bytes = later;
        if self.gathered < HEADER {
            return Ok(None);
        }
        self.gathered = 0;
        let piece = Piece::decode(&self.header).ok_or("a piece of a unit cannot be right")?;
        self.left = piece.len;
        if piece.at == 0 {
            self.unit = Some((piece.kind, piece.unit, 0));
            return Ok(Some(Part::Begin(piece.kind, piece.unit)));
        }
        match self.unit {
            Some(unit) if unit == (piece.kind, piece.unit, piece.at) => Ok(self.piece(bytes)),
            _ => Err("a piece does not continue its unit"),
        }
    }

    fn piece<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Part<'a>> {
        let (now, later) = bytes.split_at((self.left as usize).min(bytes.len()));
        *bytes = later;
        let (_, len, at) = self.unit.as_mut()?;
        if now.is_empty() {
            return None;
        }
        let from = *at;
        *at += now.len() as u64;
        self.left -= now.len() as u32;
        self.ended = at == len;
        Some(Part::Bytes(now, from))
    }

    /// What the unit under way is.
    pub fn kind(&self) -> Option<Kind> {
        self.unit.map(|(kind, ..)| kind)
    }

    /// Whether no unit is under way.
    pub fn at_rest(&self) -> bool {
        self.unit.is_none() && self.gathered == 0
    }
}

/// The data of a piece that is sent through `Spill`, in bytes.
const SHORT: usize = 232;

/// A short piece, for a buffer that has no room for a header.
pub(super) struct Spill {
    bytes: [u8; HEADER + SHORT],
    from: usize,
    to: usize,
}

impl Default for Spill {
    fn default() -> Spill {
        Spill { bytes: [0; HEADER + SHORT], from: 0, to: 0 }
    }
}

impl Spill {
    /// Moves what is there into `buf`; returns how much that was.
    pub fn drain(&mut self, buf: &mut [u8]) -> usize {
        let rest = self.bytes.get(self.from..self.to).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.from += len;
        len
    }

    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Room for a piece, header and all.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `len` bytes of the room are to be sent.
    pub fn filled(&mut self, len: usize) {
        (self.from, self.to) = (0, len.min(self.bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: u32, at: u64, unit: u64) -> Vec<u8> {
        let mut all = Piece { kind: Kind::Chunk, len, at, unit }.encode().to_vec();
        all.extend((at..at + u64::from(len)).map(|byte| byte as u8));
        all
    }

    /// What a reader finds, with bytes that follow each other put together.
    fn read(data: &[u8], step: usize) -> Result<(Vec<String>, bool), &'static str> {
        let mut reader = Reader::default();
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        for mut part in data.chunks(step) {
            while let Some(part) = reader.next(&mut part)? {
                match part {
                    Part::Bytes(some, at) => {
                        assert_eq!(some[0], at as u8);
                        bytes.extend_from_slice(some);
                    }
                    Part::Begin(kind, len) => {
                        found.push(format!("begin {kind:?} {len}"));
                        bytes.clear();
                    }
                    Part::End(_, len) => {
                        assert_eq!(bytes, (0..len).map(|byte| byte as u8).collect::<Vec<_>>());
                        found.push(format!("end {len}"));
                    }
                }
            }
        }
        // The end of a unit that was just completed.
        let mut none: &[u8] = &[];
        if let Some(Part::End(_, len)) = reader.next(&mut none)? {
            found.push(format!("end {len}"));
        }
        Ok((found, reader.at_rest()))
    }

    #[test]
    fn units_come_out_as_they_went_in_however_they_are_split() {
        let data = [piece(5, 0, 12), piece(7, 5, 12), piece(1, 0, 1), piece(30, 0, 30)].concat();
        for step in 1..data.len() {
            let (found, rest) = read(&data, step).unwrap();
            let expected =
                ["begin Chunk 12", "end 12", "begin Chunk 1", "end 1", "begin Chunk 30", "end 30"];
            assert_eq!((found, rest), (expected.map(String::from).to_vec(), true), "{step}");
        }
    }

    #[test]
    fn a_unit_that_begins_anew_makes_void_what_came_before() {
        let data = [piece(5, 0, 12), piece(3, 0, 3)].concat();
        let (found, rest) = read(&data, 9).unwrap();
        assert_eq!(found, ["begin Chunk 12", "begin Chunk 3", "end 3"]);
        assert!(rest);
    }

    #[test]
    fn a_cut_is_noticed_and_a_piece_that_cannot_be_right_is_refused() {
        let data = piece(20, 0, 20);
        for len in 1..data.len() {
            assert!(!read(&data[..len], 7).unwrap().1, "{len}");
        }
        let odd = |len, at, unit| Piece { kind: Kind::Chunk, len, at, unit }.encode().to_vec();
        for bad in [
            odd(0, 0, 5),
            odd(6, 0, 5),
            odd(1, 5, 5),
            odd(2, u64::MAX, u64::MAX),
            odd(1, 1, 5), // continues nothing
            [piece(2, 0, 5), odd(1, 3, 5)].concat(),
            [piece(2, 0, 5), odd(1, 1, 5)].concat(),
            [piece(2, 0, 5), odd(1, 2, 6)].concat(),
            vec![0; HEADER],
            vec![2; HEADER],
            vec![0xff; HEADER],
        ] {
            assert!(read(&bad, bad.len()).is_err(), "{bad:?}");
        }
    }
}
