// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exported identities of any bytes, judged under any policy: what is read can be written, and a
//! verdict is what a second, simpler judge says. The checksums are corrected first, because no
//! fuzzer guesses them.

use vfiomig::compat::{Effect, Field, Policy, Rule, Verdict};
use vfiomig::device::Identity;
use vfiomig::stream::MAX_EXPORTED;

use crate::input::{Input, crc};

/// The bytes before an exported identity's fields.
const HEAD: usize = 20;

/// Makes the container fit its fields.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < HEAD {
        return;
    }
    let len = (bytes.len() - HEAD) as u32;
    bytes[..8].copy_from_slice(b"\x89VFIOMID");
    bytes[8..12].copy_from_slice(&[1, 0, 0, 0]);
    bytes[12..16].copy_from_slice(&len.to_le_bytes());
    let check = crc(&[&bytes[..16], &bytes[HEAD..]]);
    bytes[16..20].copy_from_slice(&check.to_le_bytes());
}

fn identity(bytes: &[u8]) -> Option<Identity> {
    let read = Identity::from_bytes(bytes).ok()?;
    let written = read.to_bytes().expect("what was read can be written");
    assert!(written.len() <= MAX_EXPORTED);
    assert_eq!(Identity::from_bytes(&written).expect("and read again"), read);
    Some(read)
}

/// A value for a list: what an identity has there, or anything.
fn value(input: &mut Input, field: Field, of: &Identity) -> String {
    match input.u8() % 4 {
        0 => String::from_utf8_lossy(input.bytes()).into_owned(),
        1 => format!("{}.{}", input.u8(), input.u16()),
        _ => field.value(of).expect("memory").unwrap_or_default(),
    }
}

fn rule(input: &mut Input, field: Field, source: &Identity, target: &Identity) -> Rule {
    let end = |input: &mut Input| {
        let of = if input.flag() { source } else { target };
        input.flag().then(|| value(input, field, of))
    };
    match input.u8() % 8 {
        0 => Rule::Ignore,
        1 => Rule::IfKnown,
        2 => Rule::AsTarget,
        3 => Rule::Exact,
        4 => Rule::Require,
        5 => Rule::OneOf((0..input.u8() % 4).map(|_| value(input, field, source)).collect()),
        6 => Rule::Pairs(
            (0..input.u8() % 4)
                .map(|_| (value(input, field, source), value(input, field, target)))
                .collect(),
        ),
        _ => Rule::Range(end(input), end(input)),
    }
}

/// Numbers between dots as a key that compares like them; `None`: it is something else.
fn version(text: &str) -> Option<Vec<(usize, &str)>> {
    let mut key = Vec::new();
    for part in text.split('.') {
        if part.is_empty() || !part.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        key.push((digits.len(), digits));
    }
    while key.last() == Some(&(0, "")) {
        key.pop();
    }
    Some(key)
}

fn is_within(text: &str, min: Option<&str>, max: Option<&str>) -> bool {
    fn end(end: &str) -> Vec<(usize, &str)> {
        version(end).expect("a policy has none but versions")
    }
    version(text).is_some_and(|text| {
        min.is_none_or(|min| end(min) <= text) && max.is_none_or(|max| text <= end(max))
    })
}

/// The second judge: whether a rule refuses.
fn refuses(rule: &Rule, source: Option<&str>, target: Option<&str>) -> bool {
    let both = source.is_some() && target.is_some();
    let same = source == target;
    match rule {
        Rule::Ignore => false,
        Rule::IfKnown => both && !same,
        Rule::AsTarget => target.is_some() && !same,
        Rule::Exact => !same,
        Rule::Require => !(both && same),
        Rule::OneOf(list) => !list.iter().any(|one| Some(one.as_str()) == source),
        Rule::Pairs(pairs) => {
            let listed = pairs
                .iter()
                .any(|(from, to)| Some(from.as_str()) == source && Some(to.as_str()) == target);
            !(both && (same || listed))
        }
        Rule::Range(min, max) => {
            let within = |text| is_within(text, min.as_deref(), max.as_deref());
            !(source.is_some_and(within) && target.is_some_and(within))
        }
    }
}

fn check(policy: &Policy, verdict: &Verdict, source: &Identity, target: &Identity) {
    let mut refused = 0;
    for &field in Field::ALL {
        let (theirs, ours) = (field.value(source).unwrap(), field.value(target).unwrap());
        let refuse = refuses(policy.rule(field), theirs.as_deref(), ours.as_deref());
        refused += usize::from(refuse);
        let mut reasons = verdict.reasons.iter().filter(|reason| reason.field == Some(field));
        let reason = reasons.next();
        assert_eq!(reasons.next(), None);
        assert_eq!(refuse, reason.is_some_and(|reason| reason.effect == Effect::Refuses));
        // What is not the same, or not known, never passes without a word.
        let quiet = theirs.is_some() && theirs == ours;
        assert!(quiet || reason.is_some(), "{field:?}");
        if let Some(reason) = reason {
            assert!(!reason.to_string().chars().any(char::is_control), "{reason}");
        }
    }
    assert_eq!(verdict.is_compatible(), refused == 0);
    assert_eq!(verdict.check().is_ok(), refused == 0);
    assert_eq!(verdict.count(Effect::Refuses), refused);
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mended = input.flag();
    let rules = input.u8() % 6;
    let decisions = input.bytes();
    let first = usize::from(input.u16());
    let rest = input.all();
    let (one, two) = rest.split_at(first.min(rest.len()));
    let read = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if mended {
            mend(&mut bytes);
        }
        identity(&bytes)
    };
    let (source, target) = (read(one), read(two));
    let source = source.unwrap_or_default();
    let target = target.unwrap_or_else(|| source.clone());
    let same = Policy::default().judge(&source, &source).expect("memory");
    assert!(same.is_compatible(), "a device that does not fit itself: {same:?}");

    let mut input = Input::new(decisions);
    let mut policy = Policy::default();
    if input.flag() {
        let rule =
            input.pick(&[Rule::Ignore, Rule::IfKnown, Rule::AsTarget, Rule::Exact].each_ref());
        policy = policy.with_others(rule.clone()).expect("one of those");
    }
    for _ in 0..rules {
        let field = input.pick(Field::ALL);
        let rule = rule(&mut input, field, &source, &target);
        // What contradicts itself is refused; the fuzzer goes on with another policy.
        match policy.with(field, rule) {
            Ok(more) => policy = more,
            Err(_) => return,
        }
    }
    let verdict = policy.judge(&source, &target).expect("memory");
    check(&policy, &verdict, &source, &target);
}
