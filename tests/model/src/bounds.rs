// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much may happen in a world.

use std::fmt;

/// How much may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// How many attempts there are.
    pub attempts: u32,
    /// How often each side's connection may break.
    pub cuts: u8,
    /// How often something that is asked for may fail.
    pub failures: u8,
    /// How often pre-copy may be resumed.
    pub resumes: u8,
    /// How many processes may die, of themselves or by a fence.
    pub deaths: u8,
    /// How many devices there are.
    pub devices: u32,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { attempts, cuts, failures, resumes, deaths, devices } = self;
        write!(f, "attempts {attempts}, cuts a side {cuts}, failures {failures}, ")?;
        write!(f, "resumed pre-copies {resumes}, deaths {deaths}, devices {devices}")
    }
}
