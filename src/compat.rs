// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether one device may take another one's state: two identities, judged under a policy.
//!
//! A judgement asks no device and touches none, so it can be made on any host, before anything is
//! given up. It is about accidents: an identity is a claim, not a proof.

use std::fmt::{self, Write as _};

use crate::alloc;
use crate::error::{Errno, Result, err};
use crate::flags::flags;
use crate::identity::Identity;
use crate::version;

const NO_MEMORY: &str = "no memory to judge two identities";

macro_rules! fields {
    ($($(#[$doc:meta])+ $field:ident = $number:literal, $label:literal, $name:literal, $rule:ident;)+) => {
        /// What is judged by itself. Numbers and labels never change their meaning.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Field { $($(#[$doc])+ $field = $number,)+ }

        impl Field {
            /// All of them.
            pub const ALL: &'static [Field] = &[$(Field::$field,)+];

            /// The field as a word, for scripts.
            pub fn label(self) -> &'static str {
                match self { $(Field::$field => $label,)+ }
            }

            /// The field in texts.
            pub fn name(self) -> &'static str {
                match self { $(Field::$field => $name,)+ }
            }

            /// The rule that holds if a policy says nothing else: docs/security.md has the reasons.
            pub fn careful_rule(self) -> &'static Rule {
                match self { $(Field::$field => &Rule::$rule,)+ }
            }
        }
    };
}

fields! {
    /// The bus that the device behaves as.
    Bus = 1, "bus", "bus", AsTarget;
    /// The kernel driver.
    Driver = 2, "driver", "driver", AsTarget;
    /// PCI vendor and device.
    PciDevice = 3, "pci-device", "PCI device", AsTarget;
    /// PCI subsystem vendor and device.
    PciSubsystem = 4, "pci-subsystem", "PCI subsystem", AsTarget;
    /// PCI revision; known wherever the PCI device is.
    PciRevision = 5, "pci-revision", "PCI revision", AsTarget;
    /// The mdev type.
    MdevType = 6, "mdev-type", "mdev type", AsTarget;
    /// The vendor's type of a virtual function.
    VendorType = 7, "vendor-type", "vendor's type", AsTarget;
    /// The version of the driver's module.
    DriverVersion = 8, "driver-version", "driver version", IfKnown;
    /// The hash of the module's source.
    DriverSrcversion = 9, "driver-srcversion", "driver srcversion", Ignore;
    /// The version of the firmware.
    Firmware = 10, "firmware", "firmware", IfKnown;
    /// The VMM's opaque string.
    VendorData = 11, "vendor-data", "vendor string", IfKnown;
    /// The migration protocol.
    Protocol = 12, "protocol", "migration protocol", IfKnown;
    /// The kernel's release.
    KernelRelease = 13, "kernel-release", "kernel release", Ignore;
    /// The estimated size of the state.
    StateSize = 14, "state-size", "state size", Ignore;
    /// The migration flags.
    MigrationFlags = 15, "migration-flags", "migration flags", Ignore;
}

impl Field {
    /// The field of this number.
    pub fn from_number(number: u32) -> Option<Field> {
        Field::ALL.iter().copied().find(|field| *field as u32 == number)
    }

    /// Whether its values can be compared as versions.
    pub fn is_version(self) -> bool {
        matches!(self, Field::DriverVersion | Field::Firmware)
    }

    /// Its value as text, which is also how lists name it; `None` if it is not known.
    pub fn value(self, of: &Identity) -> Result<Option<String>> {
        let [vendor, device, sub_vendor, sub_device] = of.pci;
        let pair = |one: u16, two: u16| match (one, two) {
            (0, 0) => Ok(None),
            (one, two) => text(format_args!("{one:04x}:{two:04x}")),
        };
        let known = |text: &str| match text {
            "" => Ok(None),
            text => alloc::text(text, NO_MEMORY).map(Some),
        };
        match self {
            Field::Bus => known(&of.bus),
            Field::Driver => known(&of.driver),
            Field::PciDevice => pair(vendor, device),
            Field::PciSubsystem => pair(sub_vendor, sub_device),
            Field::PciRevision if (vendor, device) == (0, 0) => Ok(None),
            Field::PciRevision => text(format_args!("{:#04x}", of.pci_revision)),
            Field::MdevType => known(&of.mdev_type),
            Field::VendorType => known(&of.vendor_type),
            Field::DriverVersion => known(&of.driver_version),
            Field::DriverSrcversion => known(&of.driver_srcversion),
            Field::Firmware => known(&of.firmware),
            Field::VendorData if of.vendor_data.is_empty() => Ok(None),
            Field::VendorData => text(format_args!("{}", of.vendor_data.escape_ascii())),
            Field::Protocol if of.protocol == 0 => Ok(None),
            Field::Protocol => text(format_args!("{}", of.protocol)),
            Field::KernelRelease => known(&of.kernel_release),
            Field::StateSize if of.state_size == 0 => Ok(None),
            Field::StateSize => text(format_args!("{}", of.state_size)),
            Field::MigrationFlags if of.migration_flags.is_empty() => Ok(None),
            Field::MigrationFlags => text(format_args!("{:#x}", of.migration_flags.bits())),
        }
    }
}

fn text(args: fmt::Arguments<'_>) -> Result<Option<String>> {
    match alloc::format(args) {
        Some(text) => Ok(Some(text)),
        None => alloc::refuse(NO_MEMORY),
    }
}

/// What must hold of one field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Nothing: the field is passed over.
    Ignore,
    /// If both sides know it, it is the same.
    IfKnown,
    /// If the target knows it, the source says the same.
    AsTarget,
    /// It is the same, or neither side knows it.
    Exact,
    /// Both sides know it, and it is the same.
    Require,
    /// The source's value is one of these, whatever the target's is.
    OneOf(Vec<String>),
    /// Both sides know it, and it is the same, or the source's value and the target's are one of
    /// these pairs.
    Pairs(Vec<(String, String)>),
    /// Both sides know it, and both are versions from the first to the second, ends included. The
    /// library compares numbers between dots, one after the other.
    Range(Option<String>, Option<String>),
}

/// What came of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Why {
    /// Both sides know it, and it differs.
    Differs = 1,
    /// Only the target knows it.
    SourceUnknown = 2,
    /// Only the source knows it.
    TargetUnknown = 3,
    /// Neither side knows it.
    BothUnknown = 4,
    /// It differs or one side does not know it, and the rule is to pass over it.
    Ignored = 5,
    /// It differs, and a list or a range allows that.
    Allowed = 6,
    /// It is not in the list.
    NotListed = 7,
    /// It is outside of the range.
    OutOfRange = 8,
    /// It cannot be compared with a range: it is not numbers between dots.
    NotAVersion = 9,
    /// The VMM's callback refuses; of no field.
    Callback = 10,
}

/// What a reason does to the verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Effect {
    /// The devices do not fit.
    Refuses = 0,
    /// The field passed, because it could not be compared.
    Unchecked = 1,
    /// The field passed.
    Passes = 2,
}

/// Why a field counts against the source, or was not held against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldReason {
    /// Which field; `None` for the VMM's callback.
    pub field: Option<Field>,
    /// What came of it.
    pub why: Why,
    /// What that does.
    pub effect: Effect,
    /// The source's value, if it is known.
    pub source: Option<String>,
    /// The target's value, if it is known.
    pub target: Option<String>,
}

impl fmt::Display for FieldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(field) = self.field else { return f.write_str("the VMM's callback refuses") };
        let source = self.source.as_deref().unwrap_or("unknown");
        let target = self.target.as_deref().unwrap_or("unknown");
        write!(f, "{} {source} (target: {target})", field.name())?;
        f.write_str(match self.why {
            Why::Differs | Why::Callback => "",
            Why::SourceUnknown | Why::TargetUnknown | Why::BothUnknown
                if self.effect == Effect::Refuses =>
            {
                ": must be known"
            }
            Why::SourceUnknown | Why::TargetUnknown => ": could not be compared",
            Why::BothUnknown => "",
            Why::Ignored => ": not compared",
            Why::Allowed => ": allowed",
            Why::NotListed => ": not in the list",
            Why::OutOfRange => ": out of the range",
            Why::NotAVersion => ": not a version",
        })
    }
}

/// Decides whether a stream of this source may be loaded into this target. An errno refuses it.
pub type Decider = Box<dyn FnMut(&Identity, &Identity) -> std::result::Result<(), Errno> + Send>;

flags! {
    /// Fields that need not match: a short way to say [`Rule::Ignore`].
    Ignore: u32 {
        /// The driver's name.
        DRIVER = 1 << 0;
        /// PCI subsystem vendor and device.
        PCI_SUBSYSTEM = 1 << 1;
        /// PCI revision.
        PCI_REVISION = 1 << 2;
        /// The mdev type.
        MDEV_TYPE = 1 << 3;
        /// The vendor string.
        VENDOR_DATA = 1 << 4;
        /// Everything, also the fields that have no flag here.
        EVERYTHING = 1 << 5;
        /// The vendor's type.
        VENDOR_TYPE = 1 << 6;
        /// The driver's version.
        DRIVER_VERSION = 1 << 7;
    }
}

/// What must match, and what need not.
///
/// The default is what a careful operator would choose: what the target knows of the fields that say
/// what a device is, the source must say too; versions must be the same if both are known; what says
/// nothing about the state is not compared.
#[derive(Default)]
pub struct Policy {
    others: Option<Rule>,
    rules: Vec<(Field, Rule)>,
    decide: Option<Decider>,
}

impl Policy {
    /// The rule for all fields that are compared by default and have no rule of their own. Only
    /// [`Rule::Ignore`], [`Rule::IfKnown`], [`Rule::AsTarget`] and [`Rule::Exact`] make sense there:
    /// no device has every field.
    pub fn with_others(mut self, rule: Rule) -> Result<Policy> {
        if !matches!(rule, Rule::Ignore | Rule::IfKnown | Rule::AsTarget | Rule::Exact) {
            return Err(err!(Inval, "the rule for all other fields must not be a list or REQUIRE"));
        }
        if self.others.is_some() {
            return Err(err!(Inval, "the policy has two rules for all other fields"));
        }
        self.others = Some(rule);
        Ok(self)
    }

    /// The rule for one field, which has none yet.
    pub fn with(mut self, field: Field, rule: Rule) -> Result<Policy> {
        if self.rules.iter().any(|(taken, _)| *taken == field) {
            return Err(err!(Inval, "the policy has two rules for the {}", field.name()));
        }
        if let Rule::Range(min, max) = &rule {
            if !field.is_version() {
                return Err(err!(Inval, "the {} has no range: it is not a version", field.name()));
            }
            if min.is_none() && max.is_none() {
                return Err(err!(Inval, "the range for the {} has no end", field.name()));
            }
            for end in [min, max].into_iter().flatten() {
                if !version::is_version(end) {
                    return Err(err!(Inval, "{:?} is not a version", end));
                }
            }
        }
        alloc::push(&mut self.rules, (field, rule), NO_MEMORY)?;
        Ok(self)
    }

    /// Passes over these fields.
    pub fn ignoring(self, ignored: Ignore) -> Result<Policy> {
        if ignored.contains(Ignore::EVERYTHING) {
            if !self.rules.is_empty() {
                return Err(err!(Inval, "everything is to be ignored, and fields have rules"));
            }
            return self.with_others(Rule::Ignore);
        }
        let fields = [
            (Ignore::DRIVER, Field::Driver),
            (Ignore::PCI_SUBSYSTEM, Field::PciSubsystem),
            (Ignore::PCI_REVISION, Field::PciRevision),
            (Ignore::MDEV_TYPE, Field::MdevType),
            (Ignore::VENDOR_DATA, Field::VendorData),
            (Ignore::VENDOR_TYPE, Field::VendorType),
            (Ignore::DRIVER_VERSION, Field::DriverVersion),
        ];
        fields
            .into_iter()
            .filter(|(flag, _)| ignored.contains(*flag))
            .try_fold(self, |policy, (_, field)| policy.with(field, Rule::Ignore))
    }

    /// Asked in addition, if no rule refuses.
    pub fn deciding(mut self, decide: Decider) -> Result<Policy> {
        if self.decide.is_some() {
            return Err(err!(Inval, "the policy has two callbacks"));
        }
        self.decide = Some(decide);
        Ok(self)
    }

    /// Whether it would not have a source of which nothing is known, or wants to see it.
    pub(crate) fn is_strict(&self) -> bool {
        let asks = |rule: &Rule| !matches!(rule, Rule::Ignore | Rule::IfKnown);
        self.decide.is_some()
            || self.others.as_ref().is_some_and(asks)
            || self.rules.iter().any(|(_, rule)| asks(rule))
    }

    /// The rule that holds for a field.
    pub fn rule(&self, field: Field) -> &Rule {
        if let Some((_, rule)) = self.rules.iter().find(|(named, _)| *named == field) {
            return rule;
        }
        match (&self.others, field.careful_rule()) {
            (Some(rule), careful) if *careful != Rule::Ignore => rule,
            (_, careful) => careful,
        }
    }

    /// Judges whether the target may take the source's state.
    pub fn judge(&mut self, source: &Identity, target: &Identity) -> Result<Verdict> {
        let mut verdict = Verdict { reasons: Vec::new(), refused_by_callback: None };
        for &field in Field::ALL {
            let (theirs, ours) = (field.value(source)?, field.value(target)?);
            let found = compare(self.rule(field), theirs.as_deref(), ours.as_deref());
            if let Some((why, effect)) = found {
                let reason =
                    FieldReason { field: Some(field), why, effect, source: theirs, target: ours };
                alloc::push(&mut verdict.reasons, reason, NO_MEMORY)?;
            }
        }
        if let (Some(decide), true) = (&mut self.decide, verdict.is_compatible()) {
            if let Err(errno) = decide(source, target) {
                verdict.refused_by_callback = Some(errno);
                let (why, effect) = (Why::Callback, Effect::Refuses);
                let reason = FieldReason { field: None, why, effect, source: None, target: None };
                alloc::push(&mut verdict.reasons, reason, NO_MEMORY)?;
            }
        }
        Ok(verdict)
    }
}

/// What a rule says about two values; `None`: they are the same, and that is right.
fn compare(rule: &Rule, source: Option<&str>, target: Option<&str>) -> Option<(Why, Effect)> {
    use Effect::{Passes, Refuses, Unchecked};
    let unknown = match (source, target) {
        (Some(_), Some(_)) => None,
        (None, Some(_)) => Some(Why::SourceUnknown),
        (Some(_), None) => Some(Why::TargetUnknown),
        (None, None) => Some(Why::BothUnknown),
    };
    let same = source == target;
    match (rule, unknown) {
        (Rule::Ignore, Some(Why::BothUnknown)) => Some((Why::BothUnknown, Passes)),
        (Rule::Ignore, _) => (!same).then_some((Why::Ignored, Passes)),
        (Rule::OneOf(list), _) => match source {
            None => Some((unknown.unwrap_or(Why::SourceUnknown), Refuses)),
            Some(value) if !list.iter().any(|one| one == value) => Some((Why::NotListed, Refuses)),
            Some(_) => (!same).then_some((Why::Allowed, Passes)),
        },
        (Rule::Require | Rule::Pairs(_) | Rule::Range(..), Some(why)) => Some((why, Refuses)),
        (_, Some(Why::BothUnknown)) => Some((Why::BothUnknown, Passes)),
        (Rule::Exact, Some(why)) => Some((why, Refuses)),
        (Rule::AsTarget, Some(Why::SourceUnknown)) => Some((Why::SourceUnknown, Refuses)),
        (_, Some(why)) => Some((why, Unchecked)),
        (Rule::Range(min, max), None) => {
            let ends = (min.as_deref(), max.as_deref());
            let within = |value: Option<&str>| match version::is_within(value?, ends.0, ends.1) {
                None => Some(Why::NotAVersion),
                Some(false) => Some(Why::OutOfRange),
                Some(true) => None,
            };
            match within(source).or_else(|| within(target)) {
                Some(why) => Some((why, Refuses)),
                None => (!same).then_some((Why::Allowed, Passes)),
            }
        }
        (_, None) if same => None,
        (Rule::Pairs(pairs), None) => {
            let listed = |(from, to): &(String, String)| {
                source == Some(from.as_str()) && target == Some(to.as_str())
            };
            match pairs.iter().any(listed) {
                true => Some((Why::Allowed, Passes)),
                false => Some((Why::NotListed, Refuses)),
            }
        }
        (_, None) => Some((Why::Differs, Refuses)),
    }
}

/// What a judgement came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// One for each field that differs, that a side does not know, or that was passed over, in the
    /// order of the fields.
    pub reasons: Vec<FieldReason>,
    /// What the VMM's callback refused with.
    pub refused_by_callback: Option<Errno>,
}

impl Verdict {
    /// Whether the target may take the source's state.
    pub fn is_compatible(&self) -> bool {
        self.count(Effect::Refuses) == 0
    }

    /// How many reasons have this effect.
    pub fn count(&self, effect: Effect) -> usize {
        self.reasons.iter().filter(|reason| reason.effect == effect).count()
    }

    /// An error that names all that does not fit, if anything does not.
    pub fn check(&self) -> Result<()> {
        refuse(self.reasons.iter().filter(|reason| reason.effect == Effect::Refuses))
    }
}

fn refuse<'a>(reasons: impl Iterator<Item = &'a FieldReason>) -> Result<()> {
    let mut wrong = alloc::Text(String::new());
    let mut any = false;
    for reason in reasons {
        any = true;
        // Without memory the text ends earlier.
        let _ = write!(wrong, ", {reason}");
    }
    match any {
        false => Ok(()),
        true => {
            let wrong = wrong.0.strip_prefix(", ").unwrap_or_default();
            Err(err!(OtherDevice, "the source's device does not fit the target's: {wrong}"))
        }
    }
}

/// Refuses a stream whose identity is not the one that was announced for it. What only one of them
/// has does not count, nor does the size of the state, which is an estimate of the moment.
pub(crate) fn check_announced(announced: &Identity, stream: &Identity) -> Result<()> {
    for &field in Field::ALL {
        let (said, found) = (field.value(announced)?, field.value(stream)?);
        if let (Some(said), Some(found)) = (said, found) {
            if said != found && field != Field::StateSize {
                return Err(err!(
                    OtherDevice,
                    "the stream is not of the device that was announced: {} {found}, and not {said}",
                    field.name()
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
