// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig compat`: whether one device may take another one's state, before either is touched.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use vfiomig::compat::{Effect, Field, FieldReason, Policy, Verdict, Why};

use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::identity::identity_json;
use crate::side::{self, Side};
use crate::text::{Style, line};
use crate::{key, policy_rules};

/// The subcommand.
pub fn command() -> Command {
    let side = |name: &'static str, value, what: &str| {
        Arg::new(name).value_name(value).required(true).help(format!(
            "{what}: a device, a stream, a file of probe --identity, or one of probe \
             --json (with #NAME if it has several devices)"
        ))
    };
    Command::new("compat")
        .about("Says whether one device may take another one's state, and why not")
        .after_help("Exit status: 0 it may, 1 it may not; others as for all commands.")
        .arg(side("source", "SOURCE", "What is to be saved"))
        .arg(side("target", "TARGET", "What is to take its state"))
        .args(policy_rules::args())
        .arg(key::arg())
        .arg(crate::json::arg())
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let mut policy = policy_rules::read(args)?;
    let key = key::read(args)?;
    let given = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
    let (source, target) = (given("source"), given("target"));
    if source == "-" && target == "-" {
        return Err(Trouble::new(Status::Usage, "only one side can come from standard input"));
    }
    let source = side::read(context, source, key.as_ref())?;
    let target = side::read(context, target, key.as_ref())?;
    let verdict = policy
        .judge(&source.identity, &target.identity)
        .map_err(|error| Trouble::of_device("compat", &error))?;
    if args.get_flag("json") {
        context.json(&to_json(&source, &target, &policy, &verdict)?)?;
    } else {
        context.say(&to_text(&source, &target, &verdict, context.style))?;
    }
    Ok(if verdict.is_compatible() { Status::Yes } else { Status::No })
}

fn why_word(why: Why) -> &'static str {
    match why {
        Why::Differs => "differs",
        Why::SourceUnknown => "source-unknown",
        Why::TargetUnknown => "target-unknown",
        Why::BothUnknown => "both-unknown",
        Why::Ignored => "ignored",
        Why::Allowed => "allowed",
        Why::NotListed => "not-listed",
        Why::OutOfRange => "out-of-range",
        Why::NotAVersion => "not-a-version",
        Why::Callback => "callback",
    }
}

fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Refuses => "refuses",
        Effect::Unchecked => "unchecked",
        Effect::Passes => "passes",
    }
}

fn to_json(source: &Side, target: &Side, policy: &Policy, verdict: &Verdict) -> Result<Value> {
    let side = |side: &Side| {
        json!({
            "given": side.name,
            "kind": side.kind,
            "identity": identity_json(&side.identity),
        })
    };
    let fields = Field::ALL
        .iter()
        .map(|&field| field_json(field, source, target, policy, verdict))
        .collect::<vfiomig::Result<Vec<_>>>()
        .map_err(|error| Trouble::of_device("compat", &error))?;
    Ok(json!({
        "schema": 1,
        "compatible": verdict.is_compatible(),
        "source": side(source),
        "target": side(target),
        "fields": fields,
    }))
}

/// One field, whatever came of it.
fn field_json(
    field: Field,
    source: &Side,
    target: &Side,
    policy: &Policy,
    verdict: &Verdict,
) -> vfiomig::Result<Value> {
    let reason = verdict.reasons.iter().find(|reason| reason.field == Some(field));
    Ok(json!({
        "field": field.label(),
        "rule": policy_rules::word(policy.rule(field)),
        "source": field.value(&source.identity)?,
        "target": field.value(&target.identity)?,
        "effect": reason.map_or("passes", |reason| effect_word(reason.effect)),
        "why": reason.map_or("same", |reason| why_word(reason.why)),
        "text": reason.map(FieldReason::to_string),
    }))
}

fn to_text(source: &Side, target: &Side, verdict: &Verdict, style: Style) -> String {
    let fits = verdict.is_compatible();
    let mut out = format!(
        "{} → {}: {}\n",
        style.bold(&source.name),
        style.bold(&target.name),
        style.verdict(fits, if fits { "fits" } else { "does not fit" })
    );
    for effect in [Effect::Refuses, Effect::Unchecked, Effect::Passes] {
        for reason in verdict.reasons.iter().filter(|reason| reason.effect == effect) {
            if reason.why != Why::BothUnknown || effect == Effect::Refuses {
                line(&mut out, effect_word(effect), &reason.to_string());
            }
        }
    }
    out
}
