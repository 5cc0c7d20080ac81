// SPDX-License-Identifier: MIT OR Apache-2.0
//! One side as a process: a machine of the library's, simulated devices, and a VMM that does step by
//! step what `tests/replay.rs` tells it to.
//!
//! usage: vfiomig-model-vmm source|target ATTEMPT DEVICES FOLDER LINK
//!
//! Commands come on standard input, a line each; each is answered by a line. Messages go over the Unix
//! socket LINK. The devices' streams go through files in FOLDER.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use vfiomig::device::DeviceOptions;
use vfiomig::handover::{Event, Fence, HEADER_LEN, Handover, message_len};
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::{Device, Load, Save};
use vfiomig_model::{Node, Side, Taken, Work, options};
use vfiomig_sim::{Effect, Op, Sim, SimOptions};

type Failed = Box<dyn std::error::Error>;

/// Not a power of two, nor a multiple of anything.
const STATE_SIZE: u64 = 30_011;

struct Vmm {
    side: Side,
    node: Node,
    num_devices: u32,
    folder: PathBuf,
    link: Option<UnixStream>,
    sims: Vec<Sim>,
    devices: Vec<Device>,
    saves: Vec<Save>,
    loads: Vec<Load>,
    vcpus_run: bool,
    said: u32,
}

impl Vmm {
    fn new(mut args: impl Iterator<Item = String>) -> Result<Vmm, Failed> {
        let mut arg = |what: &str| args.next().ok_or_else(|| format!("no {what}"));
        let side = if arg("side")? == "source" { Side::Source } else { Side::Target };
        let attempt = arg("attempt")?.parse()?;
        let num_devices: u32 = arg("number of devices")?.parse()?;
        let folder = arg("folder")?.into();
        let link = UnixStream::connect(arg("link")?)?;
        let (mut sims, mut devices) = (Vec::new(), Vec::new());
        for number in 0..num_devices {
            let seed = u64::from(number) + if side == Side::Source { 1 } else { 100 };
            let options = SimOptions { seed, state_size: STATE_SIZE, ..SimOptions::default() };
            let sim = Sim::new(options).map_err(|errno| format!("errno {errno}"))?;
            devices.push(Device::new(sim.transport(), DeviceOptions::default())?);
            sims.push(sim);
        }
        let node = begin(side, attempt, num_devices)?;
        let vcpus_run = side == Side::Source;
        Ok(Vmm {
            side,
            node,
            num_devices,
            folder,
            link: Some(link),
            sims,
            devices,
            saves: Vec::new(),
            loads: Vec::new(),
            vcpus_run,
            said: 0,
        })
    }

    /// What a VMM does at once.
    fn pump(&mut self) -> Result<(), Failed> {
        loop {
            let mut ahead = self.node.clone();
            let taken = ahead.take();
            match taken {
                Taken::Nothing | Taken::Work(_) => return Ok(()),
                Taken::Message(message) => {
                    let link = self.link.as_mut().ok_or("a message without a connection")?;
                    link.write_all(&message)?;
                    self.said += 1;
                }
                Taken::Local if ahead.begun && !self.node.begun => self.begin_streams()?,
                Taken::Local => {}
            }
            self.node = ahead;
        }
    }

    fn begin_streams(&mut self) -> Result<(), Failed> {
        for device in &self.devices {
            match self.side {
                Side::Source => self.saves.push(device.save(SaveOptions::default())?),
                Side::Target => self.loads.push(device.load(LoadOptions::default())?),
            }
        }
        Ok(())
    }

    fn stream(&self, number: usize) -> PathBuf {
        self.folder.join(format!("stream-{}-{number}", self.node.attempt))
    }

    /// The guest and its devices stop, and the rest is sent.
    fn stop(&mut self) -> Result<(), Failed> {
        self.vcpus_run = false;
        for save in &mut self.saves {
            save.quiesce()?;
        }
        for save in &mut self.saves {
            save.stop()?;
        }
        for number in 0..self.saves.len() {
            let path = self.stream(number);
            let save = self.saves.get_mut(number).ok_or("no save")?;
            let (mut stream, mut buf) = (Vec::new(), vec![0; 64 << 10]);
            loop {
                let next = save.next(&mut buf)?;
                stream.extend_from_slice(buf.get(..next.len).unwrap_or_default());
                if next.status == SaveStatus::End {
                    break;
                }
            }
            std::fs::write(path, stream)?;
        }
        Ok(())
    }

    fn finish_saves(&mut self, ending: Ending) -> Result<(), Failed> {
        for save in &mut self.saves {
            save.finish(ending)?;
        }
        self.saves.clear();
        Ok(())
    }

    fn run(&mut self) -> Result<(), Failed> {
        for device in &self.devices {
            device.run()?;
        }
        self.vcpus_run = true;
        Ok(())
    }

    /// Carries an action out on the devices.
    fn carry_out(&mut self, work: Work) -> Result<(), Failed> {
        match work {
            Work::Judge => {}
            Work::Stop => self.stop()?,
            Work::Commit => self.loads.iter_mut().try_for_each(Load::commit)?,
            Work::Release => self.finish_saves(Ending::Release)?,
            Work::Keep => {
                self.finish_saves(Ending::Keep)?;
                self.run()?;
            }
            Work::Run => self.run()?,
            Work::Reset => {
                self.loads.clear();
                self.devices.iter().try_for_each(Device::reset)?;
            }
        }
        Ok(())
    }

    fn done(&mut self, well: bool) -> Result<(), Failed> {
        let work = self.node.doing.take().ok_or("nothing is being done")?;
        if !well {
            self.sims.first().ok_or("no device")?.inject(Op::SetState, 1, 5, Effect::Once);
        }
        let result = self.carry_out(work);
        if well != result.is_ok() {
            return Err(format!("{work:?} went {result:?}").into());
        }
        if !well {
            let _ = self.node.machine.notify(Event::Failed(-5));
            return Ok(());
        }
        let event = match work {
            Work::Judge => Event::Judged(0),
            Work::Stop => return self.ended(),
            Work::Commit => Event::Committed,
            Work::Release => Event::Released,
            Work::Keep => Event::Kept,
            Work::Run => Event::Running,
            Work::Reset => Event::Reset,
        };
        // A result may come too late to count.
        let _ = self.node.machine.notify(event);
        Ok(())
    }

    fn ended(&mut self) -> Result<(), Failed> {
        for device in 0..self.num_devices {
            let _ = self.node.machine.notify(Event::Ended(device));
        }
        Ok(())
    }

    /// All devices' streams arrive.
    fn receive_all(&mut self) -> Result<(), Failed> {
        for number in 0..self.loads.len() {
            let stream = std::fs::read(self.stream(number))?;
            self.loads.get_mut(number).ok_or("no load")?.push(&stream)?;
        }
        self.ended()
    }

    /// A message arrives over the connection.
    fn receive(&mut self) -> Result<(), Failed> {
        let message = read_message(self.link.as_mut().ok_or("no connection")?)?;
        let _ = self.node.machine.receive(&message);
        Ok(())
    }

    /// The connection is closed, and this side notices.
    fn cut(&mut self) -> Result<(), Failed> {
        let mut link = self.link.take().ok_or("no connection")?;
        if link.read(&mut [0])? != 0 {
            return Err("the connection is not closed".into());
        }
        self.node.linked = false;
        Ok(self.node.machine.notify(Event::Cut)?)
    }

    fn connect(&mut self, path: &str) -> Result<(), Failed> {
        self.link = Some(UnixStream::connect(path)?);
        self.node.linked = true;
        Ok(self.node.machine.notify(Event::Connected)?)
    }

    fn retry(&mut self, attempt: u32, path: &str) -> Result<(), Failed> {
        self.loads.clear();
        self.saves.clear();
        self.link = Some(UnixStream::connect(path)?);
        self.node = begin(self.side, attempt, self.num_devices)?;
        Ok(())
    }

    fn command(&mut self, line: &str) -> Result<(), Failed> {
        let mut words = line.split_whitespace();
        let command = words.next().ok_or("no command")?;
        let mut word = || words.next().ok_or("no argument");
        match command {
            "start" => {}
            "take" => {
                self.node.take();
            }
            "done" => self.done(true)?,
            "fail" => self.done(false)?,
            "receive" => self.receive()?,
            "late" => {
                let message = bytes(word()?)?;
                let _ = self.node.machine.receive(&message);
            }
            "switchover" => drop(self.node.machine.notify(Event::Switchover)),
            "resume" => {
                self.node.machine.notify(Event::Resumed)?;
                self.node.doing = None;
            }
            "all" => self.receive_all()?,
            "cancel" => drop(self.node.machine.cancel()),
            "cut" => self.cut()?,
            "connect" => self.connect(word()?)?,
            "retry" => self.retry(word()?.parse()?, word()?)?,
            "fenced" => {
                let did_not_run = word()? == "did-not-run";
                let fence = if did_not_run { Fence::DidNotRun } else { Fence::MayHaveRun };
                self.node.machine.peer_fenced(fence)?;
            }
            _ => return Err("an unknown command".into()),
        }
        self.pump()
    }

    /// What this side has come to.
    fn answer(&mut self) -> Result<String, Failed> {
        let mut hasher = DefaultHasher::new();
        self.node.machine.hash(&mut hasher);
        let node = &self.node;
        let mut line = format!(
            "said {} machine {:016x} told {} begun {} doing {:?} vcpus {} devices",
            std::mem::take(&mut self.said),
            hasher.finish(),
            node.told,
            u8::from(node.begun),
            node.doing,
            u8::from(self.vcpus_run)
        );
        for sim in &self.sims {
            if let (1.., Some(what)) = sim.violations() {
                return Err(format!("what no VMM may do: {what}").into());
            }
            write!(line, " {:?}:{:016x}", sim.state().0, sim.digest())?;
        }
        Ok(line)
    }
}

fn begin(side: Side, attempt: u32, num_devices: u32) -> Result<Node, Failed> {
    let mut machine = Handover::new(options(side, attempt, num_devices))?;
    machine.notify(Event::Connected)?;
    Ok(Node::new(machine, attempt, 0))
}

fn read_message(link: &mut UnixStream) -> Result<Vec<u8>, Failed> {
    let mut header = [0; HEADER_LEN];
    link.read_exact(&mut header)?;
    let mut message = header.to_vec();
    message.resize(message_len(&header)?, 0);
    link.read_exact(message.get_mut(HEADER_LEN..).unwrap_or_default())?;
    Ok(message)
}

fn bytes(hex: &str) -> Result<Vec<u8>, Failed> {
    let digit = |at: usize| hex.get(at..at + 2).ok_or("half a byte");
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(digit(at)?, 16)?)).collect()
}

fn main() -> Result<(), Failed> {
    let mut vmm = Vmm::new(std::env::args().skip(1))?;
    for line in std::io::stdin().lock().lines() {
        vmm.command(&line?)?;
        println!("{}", vmm.answer()?);
    }
    // The devices are left as they are.
    std::process::exit(0)
}
