// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a state ends well from here: when the link returns, or when a fencer answers.
//!
//! Everything under way is lost first. Nothing bad happens from here on, and the two VMMs go on as
//! they would, with their timers. Where that ends is what the second promise is about.

use vfiomig::handover::{Event, Fence, Outcome, Reason};

use crate::node::Ran;
use crate::world::{Side, World};

/// More than any handover takes from anywhere: each round has every message repeated.
const ROUNDS: usize = 40;

/// One side's VMM does what it can; what it says is returned.
fn work(world: &mut World, side: Side) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    loop {
        if world.node(side).doing.is_some() {
            world.finish(side, true);
        }
        match world.take(side) {
            None if world.node(side).doing.is_none() => return said,
            None => {}
            Some(None) => {}
            Some(Some(message)) => said.push(message),
        }
    }
}

fn is_lost(world: &World, side: Side) -> bool {
    let report = world.node(side).report();
    report.outcome == Outcome::Lost && report.reason != Reason::None
}

/// With both sides alive, the link returns: the guest runs on exactly one of them, or is lost, with a
/// reason, because a device failed.
pub fn heals_by_link(world: &World) -> bool {
    let mut world = world.clone();
    world.network.clear();
    for side in Side::BOTH {
        world.connect(side);
    }
    for _ in 0..ROUNDS {
        for side in Side::BOTH {
            for message in work(&mut world, side) {
                world.deliver(side.other(), &message);
            }
            world.notify(side, Event::Tick);
        }
        if Side::BOTH.iter().all(|side| world.node(*side).report().settled) {
            break;
        }
        world.notify(Side::Source, Event::Switchover);
        if world.can_receive_all() {
            world.receive_all();
        }
        if world.can_retry(Side::Target) {
            world.retry(Side::Target);
        }
    }
    let runs = [world.source.runs, world.target.runs];
    let told = world.source.is_over();
    let one = told && (runs == [true, false] || runs == [false, true]);
    // After a failure that could not be undone there, the target is silent, and needs a fence.
    one || is_lost(&world, Side::Source) || is_lost(&world, Side::Target)
}

/// One side is dead, and a fencer says so to the other one: the guest runs there, or is lost, with a
/// reason; or it was on the other side, and died with its host.
pub fn heals_by_fence(world: &World, survivor: Side, fence: Fence) -> bool {
    let mut world = world.clone();
    world.network.clear();
    let before = world.node(survivor).report();
    if world.node(survivor).fenced.is_none() {
        world.fence(survivor, fence);
    }
    work(&mut world, survivor);
    world.notify(survivor, Event::Tick);
    work(&mut world, survivor);
    let node = world.node(survivor);
    let report = node.report();
    match (survivor, report.outcome) {
        _ if node.told != 1 => false,
        // It had gone, or never left: what becomes of a guest whose host dies is not for a handover.
        (Side::Source, Outcome::OnTarget) => before.outcome == Outcome::OnTarget,
        (Side::Target, Outcome::OnSource) => true,
        (Side::Source, Outcome::OnSource) | (Side::Target, Outcome::OnTarget) => node.runs,
        (_, Outcome::Lost) if report.reason == Reason::Stuck => true,
        (_, Outcome::Lost) => {
            let right = match report.reason {
                Reason::Fenced => survivor == Side::Target && world.received < node.attempt,
                Reason::MayHaveRun => fence == Fence::MayHaveRun,
                reason => reason != Reason::None,
            };
            right && !node.runs
        }
        (_, Outcome::Pending | Outcome::Undecided) => false,
    }
}

/// What a fencer can truthfully say to the survivor.
pub(crate) fn truths(world: &World, survivor: Side) -> impl Iterator<Item = Fence> {
    let ran = world.node(survivor.other()).ran;
    [Fence::DidNotRun, Fence::MayHaveRun]
        .into_iter()
        .filter(move |fence| *fence == Fence::MayHaveRun || ran != Ran::Yes)
}
