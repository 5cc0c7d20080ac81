// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which fields of an identity must agree, as the command line says it: `--rule FIELD=RULE`.

use clap::{Arg, ArgAction, ArgMatches};
use vfiomig::compat::{Field, Policy, Rule};

use crate::exit::{Result, Status, Trouble};

const RULES: &str =
    "ignore, if-known, as-target, exact, require, one-of:A,B, pairs:A>B,C>D, range:MIN..MAX";

/// The options.
pub fn args() -> [Arg; 3] {
    [
        Arg::new("rule")
            .long("rule")
            .value_name("FIELD=RULE")
            .action(ArgAction::Append)
            .help(format!("What must hold of a field: {RULES}")),
        Arg::new("ignore")
            .long("ignore")
            .value_name("FIELD")
            .action(ArgAction::Append)
            .help("Short for --rule FIELD=ignore"),
        Arg::new("others").long("others").value_name("RULE").help(
            "For all fields that are compared and have no rule: ignore, if-known, as-target, exact",
        ),
    ]
}

/// The policy that they make.
pub fn read(args: &ArgMatches) -> Result<Policy> {
    let usage = |text: String| Trouble::new(Status::Usage, text);
    let mut policy = Policy::default();
    let given = args.get_many::<String>("rule").into_iter().flatten();
    for text in given {
        let (field, rule) = text
            .split_once('=')
            .ok_or_else(|| usage(format!("--rule {text}: it takes FIELD=RULE")))?;
        let rule =
            rule_of(rule).ok_or_else(|| usage(format!("--rule {text}: the rules are {RULES}")))?;
        policy = policy.with(field_of(field)?, rule).map_err(|e| usage(e.to_string()))?;
    }
    for field in args.get_many::<String>("ignore").into_iter().flatten() {
        policy = policy.with(field_of(field)?, Rule::Ignore).map_err(|e| usage(e.to_string()))?;
    }
    if let Some(text) = args.get_one::<String>("others") {
        let rule = rule_of(text)
            .ok_or_else(|| usage(format!("--others {text}: the rules are {RULES}")))?;
        policy = policy.with_others(rule).map_err(|error| usage(error.to_string()))?;
    }
    Ok(policy)
}

fn field_of(name: &str) -> Result<Field> {
    Field::ALL.iter().copied().find(|field| field.label() == name).ok_or_else(|| {
        let all: Vec<&str> = Field::ALL.iter().map(|field| field.label()).collect();
        Trouble::new(Status::Usage, format!("no field {name}; the fields are {}", all.join(", ")))
    })
}

fn rule_of(text: &str) -> Option<Rule> {
    let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(match text.split_once(':') {
        None => match text {
            "ignore" => Rule::Ignore,
            "if-known" => Rule::IfKnown,
            "as-target" => Rule::AsTarget,
            "exact" => Rule::Exact,
            "require" => Rule::Require,
            _ => return None,
        },
        Some(("one-of", values)) => Rule::OneOf(list(values)),
        Some(("pairs", pairs)) => Rule::Pairs(
            pairs
                .split(',')
                .map(|pair| pair.split_once('>').map(|(a, b)| (a.to_owned(), b.to_owned())))
                .collect::<Option<_>>()?,
        ),
        Some(("range", range)) => {
            let (min, max) = range.split_once("..")?;
            Rule::Range(end(min), end(max))
        }
        Some(_) => return None,
    })
}

/// A rule's word.
pub fn word(rule: &Rule) -> &'static str {
    match rule {
        Rule::Ignore => "ignore",
        Rule::IfKnown => "if-known",
        Rule::AsTarget => "as-target",
        Rule::Exact => "exact",
        Rule::Require => "require",
        Rule::OneOf(_) => "one-of",
        Rule::Pairs(_) => "pairs",
        Rule::Range(..) => "range",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(rule_of("exact"), Some(Rule::Exact));
        assert_eq!(rule_of("one-of:a,b"), Some(Rule::OneOf(vec!["a".into(), "b".into()])));
        assert_eq!(rule_of("pairs:a>b"), Some(Rule::Pairs(vec![("a".into(), "b".into())])));
        assert_eq!(rule_of("range:1.2..1.9"), Some(Rule::Range(text("1.2"), text("1.9"))));
        assert_eq!(rule_of("range:1.2.."), Some(Rule::Range(text("1.2"), None)));
        for wrong in ["", "exactly", "pairs:a", "range:1", "other:1"] {
            assert_eq!(rule_of(wrong), None, "{wrong}");
        }
    }
}
