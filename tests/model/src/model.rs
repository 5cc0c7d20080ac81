// SPDX-License-Identifier: MIT OR Apache-2.0
//! The world as stateright's model: what can happen next, and what must hold.

use std::sync::Arc;

use stateright::Property;
use vfiomig::handover::{Event, Fence, Outcome, Reason};

use crate::bounds::Bounds;
use crate::fault::{COMMITTED_FIRST, ENDS_WELL, Fault, NEVER_BACK, NEVER_BOTH, TOLD_ONCE};
use crate::heal::{heals_by_fence, heals_by_link, truths};
use crate::world::{Side, World};

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A VMM takes its next action.
    Take(Side),
    /// It has carried out what it was asked for.
    Done(Side),
    /// It could not.
    Failed(Side),
    /// A message arrives.
    Deliver(Side, Arc<[u8]>),
    /// The source could stop the guest.
    Switchover,
    /// ... and must let it go on.
    Resume,
    /// All devices' streams have arrived.
    ReceiveAll,
    /// Somebody cancels.
    Cancel(Side),
    /// A side's connection breaks.
    Cut(Side),
    /// It is there again.
    Connect(Side),
    /// A side dies.
    Kill(Side),
    /// A side has the other one fenced.
    Fence(Side, Fence),
    /// A side begins the next attempt.
    Retry(Side),
}

const IN_DOUBT: &str = "nobody knows";

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// How much may happen.
    pub bounds: Bounds,
    /// A mistake that is planted.
    pub fault: Option<Fault>,
}

impl Model {
    /// What happens to the world in this step; `None` if it changes nothing.
    pub fn step(world: &World, step: &Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Take(side) => {
                next.take(*side)?;
            }
            Step::Done(side) => next.finish(*side, true),
            Step::Failed(side) => {
                next.failures = next.failures.checked_sub(1)?;
                next.finish(*side, false);
            }
            Step::Deliver(side, message) => next.deliver(*side, message),
            Step::Switchover => next.notify(Side::Source, Event::Switchover),
            Step::Resume => {
                next.notify(Side::Source, Event::Resumed);
                if next.source == world.source {
                    return None;
                }
                next.resumes = next.resumes.checked_sub(1)?;
                next.source.doing = None;
            }
            Step::ReceiveAll => next.receive_all(),
            Step::Cancel(side) => {
                let _ = next.node_mut(*side).machine.cancel();
            }
            Step::Cut(side) => {
                let node = next.node_mut(*side);
                node.cuts = node.cuts.checked_sub(1)?;
                next.cut(*side);
            }
            Step::Connect(side) => next.connect(*side),
            Step::Kill(side) => next.kill(*side),
            Step::Fence(side, fence) => next.fence(*side, *fence),
            Step::Retry(side) => next.retry(*side),
        }
        next.settle();
        (next != *world).then_some(next)
    }

    /// Whether each state is asked how it ends, which takes longer than to reach it.
    fn looks_ahead(&self) -> bool {
        self.fault.is_none_or(|fault| fault.breaks() == ENDS_WELL)
    }

    /// Whether the bounds allow for this ending.
    pub fn reaches(&self, ending: &str) -> bool {
        ending != IN_DOUBT || self.bounds.cuts > 0
    }

    fn steps_of(world: &World, side: Side, steps: &mut Vec<Step>) {
        let node = world.node(side);
        if world.can_retry(side) {
            steps.push(Step::Retry(side));
        }
        if !node.alive {
            return;
        }
        steps.push(Step::Take(side));
        if node.doing.is_some() {
            steps.push(Step::Done(side));
            if world.failures > 0 {
                steps.push(Step::Failed(side));
            }
        }
        steps.push(Step::Cancel(side));
        if node.linked && node.cuts > 0 {
            steps.push(Step::Cut(side));
        }
        if !node.linked {
            steps.push(Step::Connect(side));
        }
        if world.deaths == 0 {
            return;
        }
        // Nobody misses it otherwise.
        if !node.is_over() || !world.node(side.other()).is_over() {
            steps.push(Step::Kill(side));
        }
        if !node.is_over() && node.fenced.is_none() {
            for fence in truths(world, side) {
                steps.push(Step::Fence(side, fence));
            }
        }
    }
}

impl stateright::Model for Model {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(self.bounds, self.fault);
        if let Some(world) = &mut world {
            world.settle();
        }
        world.into_iter().collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for side in Side::BOTH {
            Model::steps_of(world, side, steps);
        }
        for (side, message) in &world.network {
            if world.node(*side).alive {
                steps.push(Step::Deliver(*side, message.clone()));
            }
        }
        if world.source.alive {
            steps.push(Step::Switchover);
            if world.resumes > 0 {
                steps.push(Step::Resume);
            }
        }
        if world.can_receive_all() {
            steps.push(Step::ReceiveAll);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        Model::step(world, &step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}

/// Whether somebody who lives ends it well, as things stand.
fn ends_well(world: &World) -> bool {
    match (world.source.alive, world.target.alive) {
        (true, true) => heals_by_link(world),
        (false, false) => true,
        (source, _) => {
            let survivor = if source { Side::Source } else { Side::Target };
            let node = world.node(survivor);
            match node.fenced {
                _ if node.is_over() => true,
                Some(fence) => heals_by_fence(world, survivor, fence),
                None => truths(world, survivor).all(|fence| heals_by_fence(world, survivor, fence)),
            }
        }
    }
}

fn ended(world: &World, side: Side, outcome: Outcome, reason: Reason) -> bool {
    let report = world.node(side).report();
    world.node(side).told > 0 && (report.outcome, report.reason) == (outcome, reason)
}

/// What must hold in every state, and what must be reachable.
pub fn properties() -> Vec<Property<Model>> {
    vec![
        Property::always(NEVER_BOTH, |_, world: &World| !(world.source.runs && world.target.runs)),
        Property::always(NEVER_BACK, |_, world: &World| !world.wrongs.went_back),
        Property::always(COMMITTED_FIRST, |_, world: &World| !world.wrongs.released_early),
        Property::always(TOLD_ONCE, |_, world: &World| {
            !world.wrongs.told_wrong && Side::BOTH.iter().all(|side| world.node(*side).told <= 1)
        }),
        Property::always(ENDS_WELL, |model: &Model, world| {
            !model.looks_ahead() || ends_well(world)
        }),
        Property::sometimes("it arrives", |_, world: &World| {
            ended(world, Side::Target, Outcome::OnTarget, Reason::None)
                && ended(world, Side::Source, Outcome::OnTarget, Reason::None)
        }),
        Property::sometimes("it is kept", |_, world: &World| {
            ended(world, Side::Source, Outcome::OnSource, Reason::Cancelled)
        }),
        Property::sometimes("it is taken back after a fence", |_, world: &World| {
            ended(world, Side::Source, Outcome::OnSource, Reason::Fenced)
        }),
        Property::sometimes("a target runs it alone", |_, world: &World| {
            ended(world, Side::Target, Outcome::OnTarget, Reason::None) && !world.source.alive
        }),
        Property::sometimes("it is lost, because it may have run", |_, world: &World| {
            ended(world, Side::Source, Outcome::Lost, Reason::MayHaveRun)
        }),
        Property::sometimes(IN_DOUBT, |_, world: &World| {
            world.source.report().outcome == Outcome::Undecided
        }),
    ]
}
