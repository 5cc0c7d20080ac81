// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the device may be saved or loaded: who switched that off, before a session begins and
//! while it goes on.

use super::inner::Inner;
use super::probe::{Reason, ReasonCode};
use crate::cancel::Cancel;
use crate::error::Result;
use crate::policy::{Denial, Direction, Directions, Facts, Level, Permit, judge};

/// The reasons for what is denied. A device that may still go one way is limited, not blocked.
pub(super) fn reasons(denials: &[Denial]) -> Vec<Reason> {
    let all = denials.iter().fold(Directions::empty(), |all, denial| all | denial.directions);
    let nothing_left = all == Directions::all();
    let code = |denial: &Denial| match (nothing_left, denial.level) {
        (true, Level::Environment) => ReasonCode::DisabledByEnvironment,
        (true, Level::Process) => ReasonCode::DisabledByProcess,
        (true, Level::Policy) => ReasonCode::DisabledByPolicy,
        (false, _) if denial.directions == Directions::SAVE => ReasonCode::SaveDisabled,
        (false, _) => ReasonCode::LoadDisabled,
    };
    let reason = |denial| Reason { code: code(denial), text: denial.text.clone().into_owned() };
    denials.iter().map(reason).collect()
}

impl Inner {
    /// Permits a session, unless somebody switched that off or the device cannot migrate. Calls of
    /// the session end with what is returned; the permit goes to [`Inner::claim`].
    pub(crate) fn permit(&mut self, direction: Direction) -> Result<(Permit, Cancel)> {
        self.check_not_disabled()?;
        let facts = Facts { name: self.name.as_deref(), identity: &self.identity };
        let verdict = judge(&facts);
        self.replace_permission_reasons(reasons(&verdict.denials));
        let (permit, permission) = verdict.permit(direction)?;
        self.check_can_migrate()?;
        Ok((permit, Cancel::with(permission)))
    }

    /// Whether the session may still go on.
    pub(crate) fn check_permitted(&mut self) -> Result<()> {
        let facts = Facts { name: self.name.as_deref(), identity: &self.identity };
        self.permit.as_mut().map_or(Ok(()), |permit| permit.check(&facts))
    }
}
