// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can happen between two groups that keep windows: frames of several devices go over
//! several channels, each of which keeps its own order and holds only so many frames; credits come back
//! late; and a device may take nothing for ever.
//!
//! What decides is the library's own [`Credit`] and [`Window`]. Whatever the mapping of frames to
//! channels: no frame is refused, no more is kept than the window allows, and the devices that take
//! their frames get all of them. A target that left frames in its channels until there is room would
//! break the last rule, which is the mistake that is planted here.

// A model that is wrong about its own world is to stop.
#![allow(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use stateright::{Checker, Model, Property};
use vfiomig::group::flow::{Credit, FRAME_COST, Window};

/// The length of a frame.
const LEN: usize = 100;

/// How much may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// How many devices there are.
    pub devices: usize,
    /// How many channels there are.
    pub channels: usize,
    /// Frames of each device.
    pub frames: u8,
    /// Frames that a channel holds.
    pub depth: usize,
    /// Frames that a window holds.
    pub window: u64,
    /// Whether the first device takes nothing.
    pub stuck: bool,
    /// The planted mistake: frames stay in their channel until there is room.
    pub waits_in_channel: bool,
}

/// One device's part of a world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Device {
    credit: Credit,
    window: Window<()>,
    sent: u8,
    written: u8,
    /// A credit on its way.
    back: Option<u64>,
}

/// Both sides, and what is between them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Between {
    devices: Vec<Device>,
    /// Frames on their way: the device, and which of its frames.
    channels: Vec<VecDeque<(usize, u8)>>,
    refused: bool,
}

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The source sends a device's next frame over a channel.
    Send(usize, usize),
    /// The target takes the next frame off a channel.
    Take(usize),
    /// The target writes a device's next frame.
    Write(usize),
    /// The target says how much room there is for a device.
    Tell(usize),
    /// The source hears it.
    Hear(usize),
}

impl Traffic {
    fn room(&self, device: &Device) -> bool {
        device.window.held() + FRAME_COST + LEN as u64 <= self.size()
    }

    fn size(&self) -> u64 {
        self.window * (FRAME_COST + LEN as u64)
    }

    fn takes(&self, device: usize) -> bool {
        !self.stuck || device != 0
    }
}

impl Model for Traffic {
    type State = Between;
    type Action = Event;

    fn init_states(&self) -> Vec<Between> {
        let device = Device {
            credit: Credit::default(),
            window: Window::new(self.size()),
            sent: 0,
            written: 0,
            back: None,
        };
        let devices = vec![device; self.devices];
        vec![Between { devices, channels: vec![VecDeque::new(); self.channels], refused: false }]
    }

    fn actions(&self, state: &Between, events: &mut Vec<Event>) {
        for (number, device) in state.devices.iter().enumerate() {
            let may_send = self.waits_in_channel || device.credit.room() >= LEN;
            if device.sent < self.frames && may_send {
                let free = (0..self.channels).filter(|c| state.channels[*c].len() < self.depth);
                events.extend(free.map(|channel| Event::Send(number, channel)));
            }
            if device.window.is_ready() && self.takes(number) {
                events.push(Event::Write(number));
            }
            if device.window.is_due() && !self.waits_in_channel {
                events.push(Event::Tell(number));
            }
            if device.back.is_some() {
                events.push(Event::Hear(number));
            }
        }
        for (channel, frames) in state.channels.iter().enumerate() {
            if let Some((number, _)) = frames.front() {
                if !self.waits_in_channel || self.room(&state.devices[*number]) {
                    events.push(Event::Take(channel));
                }
            }
        }
    }

    fn next_state(&self, before: &Between, event: Event) -> Option<Between> {
        let mut state = before.clone();
        match event {
            Event::Send(number, channel) => {
                let device = &mut state.devices[number];
                state.channels[channel].push_back((number, device.sent));
                device.credit.sent(LEN);
                device.sent += 1;
            }
            Event::Take(channel) => {
                let (number, frame) = state.channels[channel].pop_front()?;
                let offset = u64::from(frame) * LEN as u64;
                let put = state.devices[number].window.put(offset, LEN, || Ok(()));
                state.refused |= put.is_err();
            }
            Event::Write(number) => {
                let device = &mut state.devices[number];
                let (len, ()) = device.window.take()?;
                device.window.written(len);
                device.written += 1;
            }
            Event::Tell(number) => {
                let limit = state.devices[number].window.tell();
                state.devices[number].back = Some(limit);
            }
            Event::Hear(number) => {
                let limit = state.devices[number].back.take()?;
                state.devices[number].credit.raise(limit);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no frame is refused", |_: &Traffic, state: &Between| !state.refused),
            Property::always("windows hold", |traffic: &Traffic, state: &Between| {
                state.devices.iter().all(|device| device.window.held() <= traffic.size())
            }),
            Property::always("nothing stops before it is done", |traffic, state: &Between| {
                let mut events = vec![];
                traffic.actions(state, &mut events);
                let devices = state.devices.iter().enumerate();
                let mut live = devices.filter(|(number, _)| traffic.takes(*number));
                !events.is_empty() || live.all(|(_, device)| device.written == traffic.frames)
            }),
            Property::sometimes("a window is full", |traffic: &Traffic, state: &Between| {
                state.devices.iter().any(|device| !traffic.room(device))
            }),
        ]
    }
}

/// What came of one run.
pub struct Flowed {
    traffic: Traffic,
    states: usize,
    seconds: f64,
    broken: Vec<&'static str>,
}

impl Flowed {
    /// Whether this is as it should be: nothing is broken, or the planted mistake was found.
    pub fn is_right(&self) -> bool {
        match self.traffic.waits_in_channel {
            false => self.broken.is_empty(),
            true => self.broken == ["nothing stops before it is done"],
        }
    }
}

impl fmt::Display for Flowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { devices, channels, frames, depth, window, stuck, waits_in_channel } =
            self.traffic;
        write!(f, "devices {devices}, channels {channels} of {depth}, frames {frames}, ")?;
        write!(
            f,
            "windows of {window}{}",
            if stuck { ", a device that takes nothing" } else { "" }
        )?;
        write!(f, ": {} states in {:.1} s", self.states, self.seconds)?;
        if waits_in_channel {
            write!(f, "; frames that wait in their channel: {:?}", self.broken)?;
        } else if !self.broken.is_empty() {
            write!(f, "; broken: {:?}", self.broken)?;
        }
        Ok(())
    }
}

/// Goes through all that can happen.
pub fn flow(traffic: Traffic) -> Flowed {
    let begun = Instant::now();
    let checker = traffic.checker().threads(1).spawn_bfs().join();
    let mut broken = vec![];
    for property in traffic.properties() {
        let found = checker.discovery(property.name).is_some();
        let expected = matches!(property.expectation, stateright::Expectation::Sometimes);
        if found != expected {
            broken.push(property.name);
        }
    }
    let states = checker.unique_state_count();
    Flowed { traffic, states, seconds: begun.elapsed().as_secs_f64(), broken }
}
