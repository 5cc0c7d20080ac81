// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lets stateright go through the model, and says what came of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model as _, Path, Property};

use crate::bounds::Bounds;
use crate::fault::Fault;
use crate::model::{Model, Step, properties};
use crate::world::World;

/// What came of one run.
pub struct Found {
    model: Model,
    states: usize,
    took: Duration,
    /// Rules that are broken, with how.
    broken: Vec<(&'static str, Vec<Step>)>,
    /// What was never reached.
    missing: Vec<&'static str>,
}

impl Found {
    /// Whether this is as it should be.
    pub fn is_right(&self) -> bool {
        match self.model.fault {
            None => self.broken.is_empty() && self.missing.is_empty(),
            Some(fault) => self.broken.iter().any(|(rule, _)| *rule == fault.breaks()),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.model.fault {
            None => write!(f, "{}", self.model.bounds)?,
            Some(fault) => write!(f, "planted: {fault:?}")?,
        }
        write!(f, ": {} states in {:.1} s", self.states, self.took.as_secs_f64())?;
        if self.model.fault.is_none() && self.is_right() {
            write!(f, ": all rules hold, and all endings are reached")?;
        }
        for (rule, steps) in &self.broken {
            write!(f, "; broken in {} steps: {rule}", steps.len())?;
            if !self.is_right() {
                write!(f, ": {steps:?}")?;
            }
        }
        for ending in &self.missing {
            if self.model.fault.is_none() {
                write!(f, "; never reached: {ending}")?;
            }
        }
        Ok(())
    }
}

/// Goes through all states within the bounds.
pub fn explore(bounds: Bounds) -> Found {
    run(Model { bounds, fault: None }, HasDiscoveries::AnyFailures)
}

/// Looks for what a planted mistake must break.
pub fn find(fault: Fault) -> Found {
    let rule = BTreeSet::from([fault.breaks()]);
    run(Model { bounds: fault.bounds(), fault: Some(fault) }, HasDiscoveries::AnyOf(rule))
}

/// Lists of steps that the checker has gone: how it reaches each ending, and how it reaches one state
/// in `every`.
pub fn lists(bounds: Bounds, every: usize) -> Vec<Vec<Step>> {
    let lists = Arc::new(Mutex::new(Vec::new()));
    let seen = AtomicUsize::new(0);
    let collected = Arc::clone(&lists);
    let visitor = move |path: Path<World, Step>| {
        if seen.fetch_add(1, Ordering::Relaxed) % every == every - 1 {
            collected.lock().unwrap_or_else(PoisonError::into_inner).push(path.into_actions());
        }
    };
    let model = Model { bounds, fault: None };
    let checker = model.checker().visitor(visitor).spawn_bfs().join();
    let endings = checker.discoveries().into_values().map(Path::into_actions);
    let mut lists = std::mem::take(&mut *lists.lock().unwrap_or_else(PoisonError::into_inner));
    lists.extend(endings);
    lists
}

fn run(model: Model, until: HasDiscoveries) -> Found {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).finish_when(until).spawn_bfs().join();
    let mut found = checker.discoveries();
    let (mut broken, mut missing) = (Vec::new(), Vec::new());
    for Property { name, expectation, .. } in properties() {
        let path = found.remove(name).map(Path::into_actions);
        match (expectation, path) {
            (stateright::Expectation::Sometimes, None) if model.reaches(name) => missing.push(name),
            (stateright::Expectation::Sometimes, _) | (_, None) => {}
            (_, Some(steps)) => broken.push((name, steps)),
        }
    }
    Found { model, states: checker.unique_state_count(), took: began.elapsed(), broken, missing }
}
