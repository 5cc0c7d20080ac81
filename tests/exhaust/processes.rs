// SPDX-License-Identifier: MIT OR Apache-2.0
//! This program again, as other processes: those that share the work, and those that are killed.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use super::table::Asked;
use super::{Found, Share};

const SHARE: &str = "VFIOMIG_EXHAUST_SHARE";
const ROLE: &str = "VFIOMIG_EXHAUST_ROLE";
const ALONE: &str = "VFIOMIG_EXHAUST_ALONE";
/// What begins the line in which a share says what it has come to.
const TELLS: &str = "share:";

fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

/// Whether a test has this process for itself; otherwise it has been run in one that it has.
pub fn alone(test: &str) -> Option<()> {
    if std::env::var_os(ALONE).is_some() {
        return Some(());
    }
    let mut command = this_program(test);
    let output = command.env(ALONE, "1").stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.starts_with("exhaust: ")).for_each(super::say);
    assert!(output.status.success(), "alone ({ALONE}=1): {}: {text}", output.status);
    None
}

/// Which share this process has, if it is one of those.
pub fn share() -> Option<Share> {
    let text = std::env::var(SHARE).ok()?;
    let (this, of) = text.split_once('/').unwrap();
    Some(Share { this: number(this), of: number(of) })
}

/// Which process of a migration this is, if it is one.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

/// Says what a share has come to, for [`in_shares`].
pub fn tell(found: &Found) {
    let mut line = format!("{TELLS} {} {}", found.points, found.failed);
    for (asked, errno) in &found.covered {
        let at = Asked::ALL.iter().position(|other| other == asked).unwrap();
        line += &format!(" {at},{errno}");
    }
    super::say(&line);
}

/// Tries everything, in as many processes as there are processors.
pub fn in_shares() -> Found {
    let of = std::thread::available_parallelism().map_or(1, usize::from);
    let shares: Vec<Child> = (0..of)
        .map(|this| {
            let mut command = this_program("each_call_fails_in_each_way");
            command.env(SHARE, format!("{this}/{of}")).stdout(Stdio::piped());
            // The panics are in what it says.
            command.stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let mut all = Found::default();
    for (at, share) in shares.into_iter().enumerate() {
        let output = share.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|line| line.starts_with("exhaust: FAILED")).for_each(super::say);
        let told = text.lines().find_map(|line| line.strip_prefix(TELLS));
        let told = told.unwrap_or_else(|| {
            panic!("a share ended with {} (alone: {SHARE}={at}/{of}): {text}", output.status)
        });
        let mut numbers = told.split_whitespace();
        all.points += number::<usize>(numbers.next().unwrap());
        all.failed += number::<usize>(numbers.next().unwrap());
        all.covered.extend(numbers.map(|pair| {
            let (at, errno) = pair.split_once(',').unwrap();
            (Asked::ALL[number::<usize>(at)], number(errno))
        }));
    }
    all
}

/// A process of a migration, with its end of a connection.
pub fn start(role: &str, socket: UnixStream) -> Child {
    let mut command = this_program("each_process_is_killed_at_each_call");
    command.env(ROLE, role).stdin(Stdio::from(OwnedFd::from(socket)));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
