// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::error::Code;
use crate::fsm::MigrationFlags;

fn vf() -> Identity {
    Identity {
        bus: "pci".into(),
        driver: "mlx5_vfio_pci".into(),
        pci: [0x15b3, 0x101e, 0x15b3, 0x0023],
        pci_revision: 0,
        vendor_data: b"fw 28.39".to_vec(),
        kernel_release: "6.12".into(),
        state_size: 1 << 20,
        migration_flags: MigrationFlags::all(),
        vendor_type: "nvidia-1155".into(),
        driver_version: "550.54.14".into(),
        driver_srcversion: "533BB7E5866E52F63B9ACCB".into(),
        firmware: "28.39.1002".into(),
        protocol: 2,
        mdev_type: "mtty-2".into(),
    }
}

/// The same with another value, or none, in one field.
fn with(field: Field, known: bool) -> Identity {
    let mut id = vf();
    let text = if known { "other" } else { "" };
    match field {
        Field::Bus => id.bus = text.into(),
        Field::Driver => id.driver = text.into(),
        Field::PciDevice if known => id.pci[1] += 1,
        Field::PciDevice => (id.pci[0], id.pci[1]) = (0, 0),
        Field::PciSubsystem if known => id.pci[3] += 1,
        Field::PciSubsystem => (id.pci[2], id.pci[3]) = (0, 0),
        Field::PciRevision if known => id.pci_revision += 1,
        Field::PciRevision => (id.pci[0], id.pci[1]) = (0, 0),
        Field::MdevType => id.mdev_type = text.into(),
        Field::VendorType => id.vendor_type = text.into(),
        Field::DriverVersion => id.driver_version = text.into(),
        Field::DriverSrcversion => id.driver_srcversion = text.into(),
        Field::Firmware => id.firmware = text.into(),
        Field::VendorData => id.vendor_data = text.into(),
        Field::Protocol => id.protocol = u32::from(known),
        Field::KernelRelease => id.kernel_release = text.into(),
        Field::StateSize => id.state_size = u64::from(known),
        Field::MigrationFlags => {
            id.migration_flags = MigrationFlags::from_bits_retain(u64::from(known));
        }
    }
    id
}

fn judge(policy: Policy, source: &Identity, target: &Identity) -> Verdict {
    let mut policy = policy;
    policy.judge(source, target).unwrap()
}

/// What came of a field.
fn of(verdict: &Verdict, field: Field) -> Option<(Why, Effect)> {
    let mut found = verdict.reasons.iter().filter(|reason| reason.field == Some(field));
    let reason = found.next();
    assert_eq!(found.next(), None, "{field:?} has two reasons");
    reason.map(|reason| (reason.why, reason.effect))
}

#[test]
fn the_same_device_fits_without_a_word() {
    let verdict = judge(Policy::default(), &vf(), &vf());
    assert!(verdict.is_compatible());
    assert_eq!(verdict.reasons, []);
    verdict.check().unwrap();
}

/// The whole table: every rule, and what becomes of a field that is the same, differs, or is not
/// known here, there or at all.
#[test]
fn every_rule_says_what_it_promises() {
    use Effect::{Passes, Refuses, Unchecked};
    use Why::{Allowed, BothUnknown, Differs, Ignored, NotListed, SourceUnknown, TargetUnknown};
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let pairs = |one: &str, two: &str| Rule::Pairs(vec![(one.to_owned(), two.to_owned())]);
    // Rule, same, differs, unknown to the source, to the target, to both.
    type Outcomes = [Option<(Why, Effect)>; 5];
    let table: [(Rule, Outcomes); 9] = [
        (
            Rule::Ignore,
            [
                None,
                Some((Ignored, Passes)),
                Some((Ignored, Passes)),
                Some((Ignored, Passes)),
                Some((BothUnknown, Passes)),
            ],
        ),
        (
            Rule::IfKnown,
            [
                None,
                Some((Differs, Refuses)),
                Some((SourceUnknown, Unchecked)),
                Some((TargetUnknown, Unchecked)),
                Some((BothUnknown, Passes)),
            ],
        ),
        (
            Rule::AsTarget,
            [
                None,
                Some((Differs, Refuses)),
                Some((SourceUnknown, Refuses)),
                Some((TargetUnknown, Unchecked)),
                Some((BothUnknown, Passes)),
            ],
        ),
        (
            Rule::Exact,
            [
                None,
                Some((Differs, Refuses)),
                Some((SourceUnknown, Refuses)),
                Some((TargetUnknown, Refuses)),
                Some((BothUnknown, Passes)),
            ],
        ),
        (
            Rule::Require,
            [
                None,
                Some((Differs, Refuses)),
                Some((SourceUnknown, Refuses)),
                Some((TargetUnknown, Refuses)),
                Some((BothUnknown, Refuses)),
            ],
        ),
        (
            Rule::OneOf(list(&["a", "b"])),
            [
                None,
                Some((Allowed, Passes)),
                Some((SourceUnknown, Refuses)),
                Some((Allowed, Passes)),
                Some((BothUnknown, Refuses)),
            ],
        ),
        (
            Rule::OneOf(list(&["b"])),
            [
                Some((NotListed, Refuses)),
                Some((NotListed, Refuses)),
                Some((SourceUnknown, Refuses)),
                Some((NotListed, Refuses)),
                Some((BothUnknown, Refuses)),
            ],
        ),
        (
            pairs("a", "b"),
            [
                None,
                Some((Allowed, Passes)),
                Some((SourceUnknown, Refuses)),
                Some((TargetUnknown, Refuses)),
                Some((BothUnknown, Refuses)),
            ],
        ),
        (
            pairs("b", "a"),
            [
                None,
                Some((NotListed, Refuses)),
                Some((SourceUnknown, Refuses)),
                Some((TargetUnknown, Refuses)),
                Some((BothUnknown, Refuses)),
            ],
        ),
    ];
    let values = [
        (Some("a"), Some("a")),
        (Some("a"), Some("b")),
        (None, Some("a")),
        (Some("a"), None),
        (None, None),
    ];
    for (rule, expected) in table {
        for ((source, target), expected) in values.into_iter().zip(expected) {
            assert_eq!(compare(&rule, source, target), expected, "{rule:?} {source:?} {target:?}");
        }
    }
}

#[test]
fn ranges_hold_for_both_sides_and_refuse_what_is_no_version() {
    use Effect::{Passes, Refuses};
    let rule = Rule::Range(Some("550".into()), Some("570.133".into()));
    let cases = [
        ("550.54", "570.133", Some((Why::Allowed, Passes))),
        ("550.54", "550.54", None),
        ("535.1", "560", Some((Why::OutOfRange, Refuses))),
        ("560", "580", Some((Why::OutOfRange, Refuses))),
        ("535.1", "535.1", Some((Why::OutOfRange, Refuses))),
        ("560-rc1", "560", Some((Why::NotAVersion, Refuses))),
        ("560", "560-rc1", Some((Why::NotAVersion, Refuses))),
    ];
    for (source, target, expected) in cases {
        assert_eq!(compare(&rule, Some(source), Some(target)), expected, "{source} {target}");
    }
    for (source, target) in [(None, Some("560")), (Some("560"), None), (None, None)] {
        assert_eq!(compare(&rule, source, target).map(|(_, effect)| effect), Some(Refuses));
    }
}

/// What docs/security.md says of each field by default.
#[test]
fn by_default_what_says_what_a_device_is_must_be_said_and_what_says_nothing_is_passed_over() {
    use Effect::{Passes, Refuses, Unchecked};
    for &field in Field::ALL {
        let (differs, unknown) = match field {
            Field::Bus
            | Field::Driver
            | Field::PciDevice
            | Field::PciSubsystem
            | Field::PciRevision
            | Field::MdevType
            | Field::VendorType => (Refuses, Refuses),
            Field::DriverVersion | Field::Firmware | Field::VendorData | Field::Protocol => {
                (Refuses, Unchecked)
            }
            Field::DriverSrcversion
            | Field::KernelRelease
            | Field::StateSize
            | Field::MigrationFlags => (Passes, Passes),
        };
        let verdict = judge(Policy::default(), &with(field, true), &vf());
        assert_eq!(of(&verdict, field).unwrap().1, differs, "{field:?}");
        assert_eq!(verdict.is_compatible(), differs != Refuses, "{field:?}");
        assert_eq!(verdict.reasons.len(), 1, "{field:?}: {verdict:?}");
        let verdict = judge(Policy::default(), &with(field, false), &vf());
        assert_eq!(of(&verdict, field).unwrap().1, unknown, "{field:?}");
        // What only the source knows cannot be wrong.
        let verdict = judge(Policy::default(), &vf(), &with(field, false));
        assert!(verdict.is_compatible(), "{field:?}: {verdict:?}");
    }
}

#[test]
fn an_empty_identity_fits_only_a_device_of_which_nothing_is_known() {
    let none = Identity::default();
    let error = judge(Policy::default(), &none, &vf()).check().unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
    for part in
        ["bus unknown (target: pci): must be known", "PCI device unknown (target: 15b3:101e)"]
    {
        assert!(error.message().contains(part), "{}", error.message());
    }
    judge(Policy::default(), &none, &none).check().unwrap();
    judge(Policy::default(), &vf(), &none).check().unwrap();
    // As it was before there were policies.
    judge(Policy::default().with_others(Rule::IfKnown).unwrap(), &none, &vf()).check().unwrap();
    for others in [Rule::AsTarget, Rule::Exact] {
        let policy = || Policy::default().with_others(others.clone()).unwrap();
        assert!(!judge(policy(), &none, &vf()).is_compatible());
        judge(policy(), &none, &none).check().unwrap();
    }
    assert!(
        !judge(Policy::default().with_others(Rule::Exact).unwrap(), &vf(), &none).is_compatible()
    );
}

#[test]
fn a_fields_own_rule_comes_first_and_the_rule_for_others_spares_what_is_not_compared() {
    for &field in Field::ALL {
        let strict = Policy::default().with(field, Rule::Require).unwrap();
        assert!(!judge(strict, &with(field, true), &vf()).is_compatible(), "{field:?}");
        let loose = Policy::default().with(field, Rule::Ignore).unwrap();
        assert!(judge(loose, &with(field, true), &vf()).is_compatible(), "{field:?}");
        let all = Policy::default().with_others(Rule::Exact).unwrap();
        let spared = *field.careful_rule() == Rule::Ignore;
        assert_eq!(judge(all, &with(field, true), &vf()).is_compatible(), spared, "{field:?}");
        let none = Policy::default().ignoring(Ignore::EVERYTHING).unwrap();
        assert!(judge(none, &with(field, true), &vf()).is_compatible(), "{field:?}");
    }
}

#[test]
fn what_contradicts_itself_or_means_nothing_is_no_policy() {
    let with = |field, rule| Policy::default().with(field, rule);
    let range = |min: Option<&str>| Rule::Range(min.map(Into::into), None);
    let wrong = [
        with(Field::Driver, range(Some("1"))),
        with(Field::Firmware, range(None)),
        with(Field::Firmware, range(Some("v1"))),
        with(Field::Bus, Rule::Ignore).and_then(|policy| policy.with(Field::Bus, Rule::Exact)),
        with(Field::Driver, Rule::Exact).and_then(|policy| policy.ignoring(Ignore::DRIVER)),
        with(Field::Bus, Rule::Exact).and_then(|policy| policy.ignoring(Ignore::EVERYTHING)),
        Policy::default().with_others(Rule::Require),
        Policy::default().with_others(Rule::OneOf(Vec::new())),
        Policy::default()
            .with_others(Rule::Exact)
            .and_then(|policy| policy.ignoring(Ignore::EVERYTHING)),
        Policy::default()
            .deciding(Box::new(|_, _| Ok(())))
            .and_then(|policy| policy.deciding(Box::new(|_, _| Ok(())))),
    ];
    for (i, policy) in wrong.into_iter().enumerate() {
        assert_eq!(policy.err().map(|error| error.code()), Some(Code::Inval), "{i}");
    }
}

#[test]
fn the_callback_is_asked_last_and_may_only_refuse() {
    let asked = std::sync::Arc::new(std::sync::Mutex::new(0));
    for (errno, fits) in [(None, true), (Some(libc::EPERM), true), (None, false)] {
        let counted = std::sync::Arc::clone(&asked);
        let decide: Decider = Box::new(move |_, _| {
            *counted.lock().unwrap() += 1;
            errno.map_or(Ok(()), |errno| Err(Errno(errno)))
        });
        let source = with(Field::Driver, !fits);
        let source = if fits { vf() } else { source };
        let verdict = judge(Policy::default().deciding(decide).unwrap(), &source, &vf());
        assert_eq!(verdict.refused_by_callback, errno.map(Errno));
        assert_eq!(verdict.is_compatible(), fits && errno.is_none());
    }
    assert_eq!(*asked.lock().unwrap(), 2);
}

#[test]
fn a_stream_must_be_of_what_was_announced() {
    for &field in Field::ALL {
        let refused = check_announced(&vf(), &with(field, true)).err().map(|error| error.code());
        let expected = (field != Field::StateSize).then_some(Code::OtherDevice);
        assert_eq!(refused, expected, "{field:?}");
        check_announced(&vf(), &with(field, false)).unwrap();
        check_announced(&with(field, false), &vf()).unwrap();
    }
}

#[test]
fn numbers_and_labels_are_unique_and_lead_back() {
    let mut labels: Vec<&str> = Field::ALL.iter().map(|field| field.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Field::ALL.len());
    for (i, &field) in Field::ALL.iter().enumerate() {
        assert_eq!(field as usize, i + 1);
        assert_eq!(Field::from_number(field as u32), Some(field));
    }
    assert_eq!(Field::from_number(0), None);
    assert_eq!(Field::from_number(Field::ALL.len() as u32 + 1), None);
}

#[test]
fn a_vendor_string_is_shown_so_that_it_can_be_printed() {
    let mut theirs = vf();
    theirs.vendor_data = vec![0, b'a', 0x1b, 255];
    let error = judge(Policy::default(), &theirs, &vf()).check().unwrap_err();
    assert!(error.message().contains(r"vendor string \x00a\x1b\xff (target: fw 28.39)"), "{error}");
}
