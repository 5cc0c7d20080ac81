// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sits between two QEMUs and passes on what they send, keeping it or damaging it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cases::Res;

/// QEMU's marks in the stream of a VFIO device.
pub const DATA: u64 = 0xffff_ffff_ef10_0004;
/// Precedes the PCI configuration.
pub const CONFIG: u64 = 0xffff_ffff_ef10_0002;
/// Precedes a piece of the stream in the library's own format.
pub const NATIVE_DATA: u64 = 0xffff_ffff_ef1f_0001;

/// One wrong bit.
#[derive(Clone, Copy)]
pub struct Flip {
    /// After this mark,
    pub mark: u64,
    /// from this one of them on (0 is the first),
    pub nth: usize,
    /// this many bytes after its end,
    pub offset: usize,
    /// this bit.
    pub bit: u8,
}

/// What is done to the bytes from source to destination.
#[derive(Default)]
pub struct Plan {
    /// Flip this.
    pub flip: Option<Flip>,
    /// Keep what passes in files of this name and the number of the connection.
    pub keep: Option<PathBuf>,
}

struct Shared {
    plan: Plan,
    flipped: AtomicBool,
    stalled: AtomicBool,
    failure: Mutex<Option<String>>,
    connections: Mutex<Vec<UnixStream>>,
}

/// A relay. Its threads end when the connections do.
pub struct Relay {
    shared: Arc<Shared>,
}

/// Finds marks in a stream that comes in pieces, and flips what is to be flipped. A byte after a
/// mark has never been passed on when the mark's end comes.
struct Editor {
    flip: Flip,
    window: u64,
    seen: usize,
    /// This many bytes until the one to flip.
    countdown: Option<usize>,
}

impl Editor {
    /// Whether it flipped a bit of this piece.
    fn feed(&mut self, piece: &mut [u8]) -> bool {
        let mut flipped = false;
        for byte in piece {
            match self.countdown {
                Some(0) => {
                    *byte ^= 1 << self.flip.bit;
                    self.countdown = None;
                    flipped = true;
                }
                Some(n) => self.countdown = Some(n - 1),
                None => {}
            }
            self.window = self.window << 8 | u64::from(*byte);
            if self.window == self.flip.mark {
                if self.seen == self.flip.nth {
                    self.countdown = Some(self.flip.offset);
                }
                self.seen += 1;
            }
        }
        flipped
    }
}

impl Relay {
    /// Listens at `from` and connects to `to` for each connection.
    pub fn start(from: &Path, to: &Path, plan: Plan) -> Res<Relay> {
        let _ = std::fs::remove_file(from);
        let listener = UnixListener::bind(from).map_err(|e| format!("{}: {e}", from.display()))?;
        let shared = Arc::new(Shared {
            plan,
            flipped: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            failure: Mutex::new(None),
            connections: Mutex::new(Vec::new()),
        });
        let relay = Relay { shared: shared.clone() };
        let to = to.to_owned();
        std::thread::spawn(move || {
            for (number, source) in listener.incoming().enumerate() {
                let connected = source.and_then(|source| {
                    let destination = UnixStream::connect(&to)?;
                    let back = (destination.try_clone()?, source.try_clone()?);
                    Ok((source, destination, back))
                });
                let Ok((source, destination, (from_destination, to_source))) = connected else {
                    shared.fail(format!("connection {number} could not be passed on"));
                    return;
                };
                if let (Ok(mut all), Ok(a), Ok(b)) =
                    (shared.connections.lock(), source.try_clone(), destination.try_clone())
                {
                    all.extend([a, b]);
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.forward(number, source, destination));
                std::thread::spawn(move || copy(from_destination, to_source, |_| Ok(())));
            }
        });
        Ok(relay)
    }

    /// Whether the bit was flipped.
    pub fn flipped(&self) -> bool {
        self.shared.flipped.load(Ordering::SeqCst)
    }

    /// Stops passing anything from source to destination, or resumes.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        if let Ok(all) = self.shared.connections.lock() {
            for connection in all.iter() {
                let _ = connection.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// What went wrong in the relay itself.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().ok().and_then(|failure| failure.clone())
    }
}

impl Shared {
    fn fail(&self, what: String) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(what);
        }
    }

    fn forward(&self, number: usize, source: UnixStream, destination: UnixStream) {
        let mut editor =
            self.plan.flip.map(|flip| Editor { flip, window: 0, seen: 0, countdown: None });
        let mut keep = match &self.plan.keep {
            Some(path) => match File::create(format!("{}.{number}", path.display())) {
                Ok(file) => Some(file),
                Err(e) => return self.fail(format!("{}: {e}", path.display())),
            },
            None => None,
        };
        copy(source, destination, |piece| {
            while self.stalled.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if let Some(editor) = &mut editor {
                if editor.feed(piece) {
                    self.flipped.store(true, Ordering::SeqCst);
                }
            }
            match &mut keep {
                Some(file) => {
                    file.write_all(piece).map_err(|e| self.fail(format!("keeping the stream: {e}")))
                }
                None => Ok(()),
            }
        });
    }
}

/// Passes on until one of the two is gone, and then closes both.
fn copy(
    mut from: UnixStream,
    mut to: UnixStream,
    mut each: impl FnMut(&mut [u8]) -> Result<(), ()>,
) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        let Some(piece) = buffer.get_mut(..n).filter(|piece| !piece.is_empty()) else { break };
        if each(piece).is_err() || to.write_all(piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
    let _ = from.shutdown(std::net::Shutdown::Read);
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn edit(flip: Flip, stream: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut editor = Editor { flip, window: 0, seen: 0, countdown: None };
        let mut out = stream.to_vec();
        let flipped = out.chunks_mut(piece).fold(false, |any, piece| editor.feed(piece) | any);
        (out, flipped)
    }

    #[test]
    fn a_bit_behind_the_second_mark_is_flipped_whatever_the_pieces() {
        let mut stream = vec![7; 20];
        for fill in [1, 2] {
            stream.extend(DATA.to_be_bytes());
            stream.extend([fill; 30]);
        }
        let mut want = stream.clone();
        let at = 20 + 8 + 30 + 8 + 5;
        want[at] ^= 4;
        for piece in 1..stream.len() + 1 {
            let flip = Flip { mark: DATA, nth: 1, offset: 5, bit: 2 };
            assert_eq!(edit(flip, &stream, piece), (want.clone(), true), "pieces of {piece}");
        }
    }

    #[test]
    fn nothing_is_changed_where_the_mark_is_missing() {
        let stream: Vec<u8> = (0..200).collect();
        let flip = Flip { mark: CONFIG, nth: 0, offset: 0, bit: 0 };
        assert_eq!(edit(flip, &stream, 3), (stream.clone(), false));
    }
}
