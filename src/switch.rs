// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process's switch: whether this process may save and load devices.
//!
//! Any thread turns it at any time. It has no lock and wakes nobody: sessions compare the position
//! that they began at with the present one, wherever they also look for a cancellation.

// Not `crate::sync`: this is one for the whole process, also while threads are scheduled by a test.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flags::flags;

flags! {
    /// Which ways migrations go.
    Directions: u32 {
        /// Away from this host.
        SAVE = 1 << 0;
        /// To this host.
        LOAD = 1 << 1;
    }
}

/// One way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Away from this host.
    Save,
    /// To this host.
    Load,
}

impl Direction {
    /// Both, in the order of their bits.
    pub(crate) const BOTH: [Direction; 2] = [Direction::Save, Direction::Load];

    /// The set of this one alone.
    pub(crate) fn alone(self) -> Directions {
        match self {
            Direction::Save => Directions::SAVE,
            Direction::Load => Directions::LOAD,
        }
    }

    /// What is done in this direction.
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Direction::Save => "saving",
            Direction::Load => "loading",
        }
    }

    /// A session in this direction.
    pub(crate) fn session(self) -> &'static str {
        match self {
            Direction::Save => "save",
            Direction::Load => "load",
        }
    }
}

/// A switch that counts how often it was turned: on while the count is even.
#[derive(Debug)]
pub(crate) struct Switch(AtomicU64);

impl Switch {
    const fn new() -> Switch {
        Switch(AtomicU64::new(0))
    }

    fn set(&self, on: bool) {
        let turned = |count: u64| (on != (count % 2 == 0)).then(|| count.wrapping_add(1));
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, turned);
    }

    /// Where it is now, if it is on.
    fn position(&self) -> Option<u64> {
        let count = self.0.load(Ordering::SeqCst);
        (count % 2 == 0).then_some(count)
    }
}

static SAVES: Switch = Switch::new();
static LOADS: Switch = Switch::new();

fn switch(direction: Direction) -> &'static Switch {
    match direction {
        Direction::Save => &SAVES,
        Direction::Load => &LOADS,
    }
}

/// Allows these directions in this process and no others. Sessions in the others are cut off.
pub(crate) fn set_allowed(allowed: Directions) {
    for direction in Direction::BOTH {
        switch(direction).set(allowed.contains(direction.alone()));
    }
}

/// What the process's switch allows now.
pub(crate) fn allowed() -> Directions {
    let mut allowed = Directions::empty();
    for direction in Direction::BOTH {
        if switch(direction).position().is_some() {
            allowed |= direction.alone();
        }
    }
    allowed
}

/// A session's permission: it ends for good when the switch is turned off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permission {
    switch: &'static Switch,
    position: u64,
}

impl Permission {
    /// If this direction is on.
    pub fn of(direction: Direction) -> Option<Permission> {
        let switch = switch(direction);
        switch.position().map(|position| Permission { switch, position })
    }

    /// Whether the switch has been off since, even if it is on again.
    pub fn has_ended(self) -> bool {
        self.switch.0.load(Ordering::Relaxed) != self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch of a test's own: the process's cuts off what other tests do.
    fn switch() -> &'static Switch {
        Box::leak(Box::new(Switch::new()))
    }

    #[test]
    fn switching_off_ends_what_began_and_switching_on_does_not_bring_it_back() {
        let switch = switch();
        let permission = Permission { switch, position: switch.position().unwrap() };
        switch.set(true);
        assert!(!permission.has_ended());
        switch.set(false);
        assert!(permission.has_ended() && switch.position().is_none());
        switch.set(false);
        switch.set(true);
        assert!(permission.has_ended());
        let next = Permission { switch, position: switch.position().unwrap() };
        assert!(!next.has_ended());
    }

    #[test]
    fn threads_that_turn_it_at_once_leave_it_where_the_last_one_put_it() {
        let switch = switch();
        let begun = Permission { switch, position: switch.position().unwrap() };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..1000).for_each(|i| switch.set((i + thread) % 2 == 0)));
            }
        });
        assert!(begun.has_ended());
        switch.set(true);
        assert!(switch.position().is_some());
        switch.set(false);
        assert!(switch.position().is_none());
    }
}
