// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings: what keeps a device from migrating, and what to do about it.
//!
//! The library's reasons say what the opened device answered; the codes here say what is wrong
//! around it. Both end up in one list.

use vfiomig::device::{Reason, Severity as Weight};

/// How much a finding matters, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The device cannot be migrated as it is set up.
    Blocks,
    /// The device could not be asked, so nothing is known.
    Hides,
    /// It can be migrated, but not well.
    Limits,
    /// Good to know.
    Info,
}

impl Severity {
    /// A stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Blocks => "blocks",
            Severity::Hides => "hides",
            Severity::Limits => "limits",
            Severity::Info => "info",
        }
    }
}

macro_rules! codes {
    ($($name:ident = $word:literal, $severity:ident, $what:literal;)*) => {
        /// What was found. Words never change their meaning; docs/probe.md lists them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Code { $(#[doc = $what] $name,)* }

        impl Code {
            /// Every code there is.
            #[cfg(test)]
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable word.
            pub fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// How much it matters, unless another way led to the device.
            pub fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    NoDriver = "no-driver", Blocks, "No driver is bound to the device.";
    HostDriver = "host-driver", Blocks, "A driver of the host is bound, not a VFIO driver.";
    MdevParent = "mdev-parent", Blocks, "The device is the parent of mediated devices, not one of them.";
    GroupBlocked = "group-blocked", Blocks, "The host uses other devices of the IOMMU group.";
    NoIommu = "no-iommu", Blocks, "The machine has no IOMMU, or it is switched off.";
    NoIommuGroup = "no-iommu-group", Blocks, "The device is in no IOMMU group.";
    NoVfio = "no-vfio", Blocks, "The kernel was built without VFIO.";
    NoType1 = "no-type1", Blocks, "The container found no IOMMU driver.";
    UnsafeInterrupts = "unsafe-interrupts", Blocks, "The IOMMU cannot remap interrupts.";
    InUse = "in-use", Hides, "Another process has the device open.";
    Permission = "permission", Hides, "You may not open a node.";
    NodeMissing = "node-missing", Hides, "A node that should exist does not.";
    VfToken = "vf-token", Hides, "The VF needs the token of its PF's owner.";
    NotVfio = "not-vfio", Hides, "The node does not belong to a VFIO device.";
    OpenFailed = "open-failed", Hides, "Opening failed for some other reason.";
    PhysfnDriver = "physfn-driver", Limits, "The PF is not bound to the driver that VF migration needs.";
    NoiommuMode = "noiommu-mode", Limits, "The device is in a group without an IOMMU.";
    PhysicalFunction = "physical-function", Info, "The device is a PF; drivers migrate VFs.";
    VariantAvailable = "variant-available", Info, "A vendor's VFIO driver fits and is installed.";
    VariantMissing = "variant-missing", Info, "A vendor's VFIO driver fits, but this kernel does not have it.";
    NoVariant = "no-variant", Info, "No vendor's VFIO driver is known for the device.";
    VariantSetup = "variant-setup", Info, "The vendor's VFIO driver is bound, but needs more setup.";
    GroupShared = "group-shared", Info, "Other devices of the group must go to the same VM.";
    NoCdev = "no-cdev", Info, "The kernel gives VFIO devices no node of their own.";
    NoIommufd = "no-iommufd", Info, "The kernel has no iommufd.";
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The stable word.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The device itself said so; its setup otherwise.
    pub from_device: bool,
    /// What it means here, for people.
    pub text: String,
    /// What to do about it, in words.
    pub todo: Option<String>,
    /// What to do about it, as root, in a shell.
    pub commands: Vec<String>,
}

impl Finding {
    /// A finding of this program.
    pub fn new(code: Code, text: impl Into<String>) -> Finding {
        Finding {
            code: code.word(),
            severity: code.severity(),
            from_device: false,
            text: text.into(),
            todo: None,
            commands: Vec::new(),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn todo(mut self, todo: impl Into<String>) -> Finding {
        self.todo = Some(todo.into());
        self
    }

    /// Adds commands.
    #[must_use]
    pub fn commands(mut self, commands: Vec<String>) -> Finding {
        self.commands = commands;
        self
    }

    /// Another way led to the device, so what went wrong with this one is mere information.
    #[must_use]
    pub fn demoted(mut self) -> Finding {
        self.severity = Severity::Info;
        self
    }
}

impl From<Reason> for Finding {
    fn from(reason: Reason) -> Finding {
        Finding {
            code: reason.code.label(),
            severity: match reason.code.severity() {
                Weight::Blocks => Severity::Blocks,
                Weight::Limits => Severity::Limits,
                Weight::Info => Severity::Info,
            },
            from_device: true,
            text: reason.text,
            todo: None,
            commands: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use vfiomig::device::ReasonCode;

    use super::*;

    #[test]
    fn a_word_means_one_thing_in_the_tool_and_the_library() {
        let mut words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
        words.extend(ReasonCode::ALL.iter().map(|code| code.label()));
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn the_documentation_lists_every_word_with_its_severity() {
        let doc = include_str!("../../docs/probe.md");
        let row = |word: &str, severity: &str| format!("| `{word}` | {severity} |");
        for code in Code::ALL {
            let row = row(code.word(), code.severity().as_str());
            assert!(doc.contains(&row), "docs/probe.md lacks {row}");
        }
        for &code in ReasonCode::ALL {
            let finding = Finding::from(Reason { code, text: String::new() });
            let row = row(finding.code, finding.severity.as_str());
            assert!(doc.contains(&row), "docs/probe.md lacks {row}");
        }
    }
}
