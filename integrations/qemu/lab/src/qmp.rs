// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's machine protocol, as far as it is needed here: commands one at a time, and events with
//! the time at which QEMU sent them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::Res;

/// How long QEMU may take to answer. It holds the big lock for seconds at a time when it loads a
/// large state under emulation.
const ANSWER: Duration = Duration::from_secs(300);

/// An event.
pub struct Event {
    /// Its name, as QEMU spells it.
    pub name: String,
    /// What belongs to it.
    pub data: Value,
    /// Microseconds since 1970 of the machine's clock, which all QEMUs in it share.
    pub at_us: u64,
}

/// A connection to one QEMU.
pub struct Qmp {
    stream: UnixStream,
    buffered: Vec<u8>,
    next_id: u64,
    /// How long a command may take.
    pub patience: Duration,
    /// All events that have come.
    pub events: Vec<Event>,
}

impl Qmp {
    /// Waits for the socket to appear; `alive` says whether it still can.
    pub fn connect(path: &Path, deadline: Instant, mut alive: impl FnMut() -> Res<()>) -> Res<Qmp> {
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() >= deadline => return Err(format!("no QMP socket: {e}")),
                Err(_) => {
                    alive()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        let mut qmp =
            Qmp { stream, buffered: Vec::new(), next_id: 0, patience: ANSWER, events: Vec::new() };
        let greeting = qmp.message(deadline)?.ok_or("QEMU did not greet")?;
        if greeting.get("QMP").is_none() {
            return Err(format!("not a greeting: {greeting}"));
        }
        qmp.command("qmp_capabilities", json!({ "enable": ["oob"] }))?;
        Ok(qmp)
    }

    /// The next message; `None` when there is none until the deadline.
    fn message(&mut self, deadline: Instant) -> Res<Option<Value>> {
        loop {
            if let Some(end) = self.buffered.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|e| format!("QMP: {e}: {}", String::from_utf8_lossy(&line)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(|e| format!("QMP: {e}"))?;
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err("QEMU closed its QMP socket".into()),
                Ok(n) => self.buffered.extend(piece.iter().take(n)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("QMP: {e}")),
            }
        }
    }

    fn take_event(&mut self, message: &Value) -> bool {
        let Some(name) = message.get("event").and_then(Value::as_str) else { return false };
        let time = |part| message.pointer(part).and_then(Value::as_u64).unwrap_or(0);
        self.events.push(Event {
            name: name.to_owned(),
            data: message.get("data").cloned().unwrap_or(Value::Null),
            at_us: time("/timestamp/seconds") * 1_000_000 + time("/timestamp/microseconds"),
        });
        true
    }

    /// Executes a command and returns what it returns.
    pub fn command(&mut self, name: &str, arguments: Value) -> Res<Value> {
        self.execute("execute", name, arguments)
    }

    /// The same of one that QEMU takes even while somebody holds its big lock.
    pub fn out_of_band(&mut self, name: &str, arguments: Value) -> Res<Value> {
        self.execute("exec-oob", name, arguments)
    }

    fn execute(&mut self, how: &str, name: &str, arguments: Value) -> Res<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let request = json!({ how: name, "arguments": arguments, "id": id });
        self.stream
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|e| format!("{name}: QEMU does not listen: {e}"))?;
        let deadline = Instant::now() + self.patience;
        while let Some(message) = self.message(deadline).map_err(|e| format!("{name}: {e}"))? {
            if self.take_event(&message) {
                continue;
            }
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                return Err(format!("{name}: answer to something else: {message}"));
            }
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            let text = message.pointer("/error/desc").and_then(Value::as_str);
            return Err(format!("{name}: {}", text.unwrap_or("an error without a text")));
        }
        Err(format!("{name}: no answer in {} s", self.patience.as_secs()))
    }

    /// Reads the events that have come, waiting for at most this long for one.
    pub fn poll(&mut self, wait: Duration) -> Res<()> {
        let deadline = Instant::now() + wait;
        while let Some(message) = self.message(deadline)? {
            if !self.take_event(&message) {
                return Err(format!("not asked for: {message}"));
            }
            if !self.buffered.contains(&b'\n') {
                break;
            }
        }
        Ok(())
    }

    /// When the last event of this name was sent.
    pub fn last(&self, name: &str) -> Option<&Event> {
        self.events.iter().rev().find(|e| e.name == name)
    }
}
