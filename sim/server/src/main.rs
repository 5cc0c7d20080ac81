// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig-sim-server`: a simulated device behind a vfio-user socket, for tests that start one from
//! the shell. What it can do is said in `vfiomig_sim::vfio_user`, and in `vfiomig-sim.h`.
//!
//! It prints a line when it listens, and one when it ends. SIGTERM and SIGINT end it.

mod options;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vfiomig_sim::Sim;
use vfiomig_sim::vfio_user::Server;

use options::Options;

fn text(what: &str, errno: i32) -> String {
    format!("{what}: {}", std::io::Error::from_raw_os_error(errno))
}

fn run(options: Options) -> Result<(), String> {
    let sim = Sim::new(options.sim).map_err(|errno| text("the device", errno))?;
    let server = Server::new(&sim, options.server).map_err(|errno| text("the server", errno))?;
    for fault in &options.faults {
        let injected = server.inject_message(fault.command, fault.nth, fault.what, fault.value);
        injected.map_err(|errno| text("a fault", errno))?;
    }
    for (op, nth, errno, effect) in options.device_faults {
        sim.inject(op, nth, errno, effect);
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let stopper = server.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stopper.stop();
        }
    });
    let listener = listen(&options.path)?;
    println!("listening on {}", options.path.display());
    let result = server.accept(&listener, if options.once { 1 } else { u64::MAX });
    let _ = std::fs::remove_file(&options.path);
    let (violations, first) = sim.violations();
    println!(
        "state {}, digest {:016x}, violations {violations}{}",
        sim.state().0,
        sim.digest(),
        first.map_or(String::new(), |first| format!(": {first}")),
    );
    result.map_err(|errno| text("the socket", errno))
}

fn listen(path: &Path) -> Result<UnixListener, String> {
    UnixListener::bind(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("vfiomig-sim-server: {what}");
            ExitCode::FAILURE
        }
    }
}
