// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: options of the device, of the server, and what goes wrong.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use vfiomig_sim::vfio_user::{MessageFault, ServerOptions, quirk as server_quirk};
use vfiomig_sim::{Effect, Op, SimOptions, quirk};

/// A message that goes wrong: [`vfiomig_sim::vfio_user::Server::inject_message`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub command: u16,
    pub nth: u64,
    pub what: MessageFault,
    pub value: u64,
}

pub struct Options {
    pub path: PathBuf,
    pub once: bool,
    pub sim: SimOptions,
    pub server: ServerOptions,
    pub faults: Vec<Fault>,
    /// [`vfiomig_sim::Sim::inject`]
    pub device_faults: Vec<(Op, u64, i32, Effect)>,
}

fn number(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("N").value_parser(parse_number).help(help)
}

fn list(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
}

fn command() -> Command {
    let names = |all: &[(u64, &str)]| {
        all.iter().map(|(_, name)| name.to_lowercase()).collect::<Vec<_>>().join(" ")
    };
    let message_faults: Vec<_> =
        MessageFault::ALL.iter().map(|(_, name)| name.to_lowercase()).collect();
    let more = format!(
        "Quirks of the server: {}\nlibvfio_user: all that libvfio-user has\n\n\
         Quirks of the device: {}\n\n\
         What goes wrong with a message: {}\n\
         COMMAND is its number in the protocol, 0 any. Numbers may be 0x hexadecimal.",
        names(server_quirk::ALL),
        names(quirk::ALL),
        message_faults.join(" "),
    );
    Command::new("vfiomig-sim-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a simulated VFIO device over vfio-user, for tests of clients")
        .after_help(more)
        .arg(
            Arg::new("path")
                .value_name("SOCKET")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where it listens"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("End when the first client leaves"),
        )
        .arg(number("state-size", "Bytes of device state (1 MiB)"))
        .arg(number("initial-size", "Bytes of it that pre-copy sends as initial data (a quarter)"))
        .arg(number("seed", "The seed of its contents"))
        .arg(number("model", "Devices of another model refuse the state (1)"))
        .arg(number("migration-flags", "VFIO_MIGRATION_* (5)"))
        .arg(number("dirty-rate", "Bytes per second that become dirty while it runs"))
        .arg(number("read-rate", "The most bytes per second that reads return"))
        .arg(number("write-rate", "The most bytes per second that writes take"))
        .arg(number("max-read", "The most bytes that one read returns"))
        .arg(number("max-write", "The most bytes that one write takes"))
        .arg(number("log-page-size", "The smallest pages in which it logs its DMA (4096)"))
        .arg(list("device-quirk", "NAME", "What its driver does"))
        .arg(list(
            "device-fault",
            "OP:NTH:ERRNO:EFFECT",
            "An operation that fails, by the numbers in vfiomig-sim.h",
        ))
        .arg(list("quirk", "NAME", "What the server does"))
        .arg(list("fault", "COMMAND:NTH:WHAT[:VALUE]", "A message that goes wrong"))
        .arg(number("delay-us", "Microseconds before each message that it sends"))
        .arg(number("max-data-xfer", "The most bytes of data at once (1 MiB)"))
        .arg(number("max-msg-fds", "The most descriptors with a message (8)"))
        .arg(number("max-dma-maps", "The most mappings (65535)"))
        .arg(number("reply-timeout-ms", "Milliseconds for replies to its commands (60000)"))
}

fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is not a number"))
}

fn narrow<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(parse_number(text)?).map_err(|_| format!("{text} is too large"))
}

fn bits(names: &[String], all: &[(u64, &str)]) -> Result<u64, String> {
    names.iter().try_fold(0, |bits, name| {
        let known = all.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        let bit = known.map(|(bit, _)| *bit);
        let bit = bit.or_else(|| (name == "libvfio_user").then_some(server_quirk::LIBVFIO_USER));
        bit.map(|bit| bits | bit).ok_or_else(|| format!("there is no quirk {name}"))
    })
}

fn fault(text: &str) -> Result<Fault, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (command, nth, what, value) = match *parts.as_slice() {
        [command, nth, what] => (command, nth, what, "0"),
        [command, nth, what, value] => (command, nth, what, value),
        _ => return Err(format!("{text} is not COMMAND:NTH:WHAT[:VALUE]")),
    };
    let known = MessageFault::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(what));
    Ok(Fault {
        command: narrow(command)?,
        nth: parse_number(nth)?,
        what: known.ok_or_else(|| format!("{what} does not go wrong with a message"))?.0,
        value: parse_number(value)?,
    })
}

fn device_fault(text: &str) -> Result<(Op, u64, i32, Effect), String> {
    let parts: Vec<_> = text.split(':').collect();
    let [op, nth, errno, effect] = *parts.as_slice() else {
        return Err(format!("{text} is not OP:NTH:ERRNO:EFFECT"));
    };
    let unknown = || format!("{text}: there is no such operation or effect");
    let op = Op::ALL.get(narrow::<usize>(op)?).ok_or_else(unknown)?;
    let effect = Effect::ALL.get(narrow::<usize>(effect)?).ok_or_else(unknown)?;
    Ok((*op, parse_number(nth)?, narrow(errno)?, *effect))
}

fn lists(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many(name).unwrap_or_default().cloned().collect()
}

fn from_matches(matches: &ArgMatches) -> Result<Options, String> {
    let long = |name: &str, default: u64| matches.get_one(name).copied().unwrap_or(default);
    let short = |name: &str, default: u32| {
        u32::try_from(long(name, default.into())).map_err(|_| format!("--{name} is too large"))
    };
    let (sim, server) = (SimOptions::default(), ServerOptions::default());
    let all = |name: &str| lists(matches, name);
    Ok(Options {
        path: matches.get_one::<PathBuf>("path").cloned().unwrap_or_default(),
        once: matches.get_flag("once"),
        sim: SimOptions {
            state_size: long("state-size", sim.state_size),
            initial_size: long("initial-size", 0),
            seed: long("seed", 0),
            model: short("model", sim.model)?,
            migration_flags: short("migration-flags", sim.migration_flags)?,
            dirty_rate: long("dirty-rate", 0),
            read_rate: long("read-rate", 0),
            write_rate: long("write-rate", 0),
            max_read: short("max-read", 0)?,
            max_write: short("max-write", 0)?,
            log_page_size: long("log-page-size", 0),
            quirks: bits(&all("device-quirk"), quirk::ALL)?,
            ..sim
        },
        server: ServerOptions {
            quirks: bits(&all("quirk"), server_quirk::ALL)?,
            delay_us: short("delay-us", 0)?,
            max_data_xfer: short("max-data-xfer", server.max_data_xfer)?,
            max_msg_fds: short("max-msg-fds", server.max_msg_fds)?,
            max_dma_maps: short("max-dma-maps", server.max_dma_maps)?,
            reply_timeout_ms: short("reply-timeout-ms", server.reply_timeout_ms)?,
        },
        faults: all("fault").iter().map(|text| fault(text)).collect::<Result<_, _>>()?,
        device_faults: all("device-fault")
            .iter()
            .map(|text| device_fault(text))
            .collect::<Result<_, _>>()?,
    })
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    from_matches(&matches).map_err(|what| command.error(ErrorKind::InvalidValue, what))
}
