// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can happen to a handover: the library's own machines, two at a time, in a world
//! that loses, repeats and reorders their messages, cuts their connection, kills and fences them, lets
//! what they ask for fail, and begins again.
//!
//! [`Model`] is that world for stateright, which goes through all of its states and holds each against
//! [`properties`](stateright::Model::properties). The library's functions are called; nothing of them
//! is copied here. [`Fault`] plants mistakes that a VMM or a protocol could make, around them, and each
//! must be found.
//!
//! Repetitions by timer are left out: a message that was sent may arrive at any time, any number of
//! times, or never, so sending it again adds nothing. They are what `heal` relies on, which begins
//! with everything lost.

mod bounds;
mod check;
mod fault;
mod flow;
mod heal;
mod model;
mod node;
mod world;

pub use bounds::Bounds;
pub use check::{Found, explore, find, lists};
pub use fault::Fault;
pub use flow::{Flowed, Traffic, flow};
pub use heal::{heals_by_fence, heals_by_link};
pub use model::{Model, Step};
pub use node::{Node, Ran, Taken, Work};
pub use world::{MIGRATION_ID, Side, World, options};
