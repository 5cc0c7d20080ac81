// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was found out about a stream, as text and as JSON.

use serde_json::{Value, json};
use vfiomig::inspect::{Problem, ProblemKind, Tags, Verdict};

use crate::identity::{identity_json, identity_text};
use crate::text::{Plain, Style, bytes, hex, line};
use crate::walk::Found;

/// A verdict's word.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Whole => "whole",
        Verdict::Unverified => "unverified",
        Verdict::Incomplete => "incomplete",
        Verdict::Refused => "refused",
        Verdict::Damaged => "damaged",
        Verdict::Foreign => "foreign",
        _ => "unknown",
    }
}

fn kind_word(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::NotAStream => "not-a-stream",
        ProblemKind::PreambleCheck => "preamble-check",
        ProblemKind::Version => "version",
        ProblemKind::Features => "features",
        ProblemKind::Block => "block",
        ProblemKind::Key => "key",
        ProblemKind::Challenge => "challenge",
        ProblemKind::NotAuthenticated => "not-authenticated",
        ProblemKind::Mark => "mark",
        ProblemKind::HeaderCheck => "header-check",
        ProblemKind::Sequence => "sequence",
        ProblemKind::Order => "order",
        ProblemKind::Device => "device",
        ProblemKind::Flags => "flags",
        ProblemKind::Length => "length",
        ProblemKind::Limit => "limit",
        ProblemKind::UnknownFrame => "unknown-frame",
        ProblemKind::PayloadCheck => "payload-check",
        ProblemKind::Tag => "tag",
        ProblemKind::Contents => "contents",
        ProblemKind::Totals => "totals",
        ProblemKind::AfterEnd => "after-end",
        ProblemKind::Truncated => "truncated",
        ProblemKind::NoEnd => "no-end",
        _ => "other",
    }
}

fn tags_word(tags: Tags) -> &'static str {
    match tags {
        Tags::None => "none",
        Tags::Verified => "verified",
        Tags::NoKey => "no-key",
        Tags::OtherKey => "other-key",
    }
}

/// A problem, and where it is.
pub fn problem_json(offset: u64, problem: &Problem) -> Value {
    json!({
        "offset": offset,
        "kind": kind_word(problem.kind),
        "code": problem.code().name(),
        "expected": problem.expected,
        "found": problem.found,
        "text": problem.error.to_string(),
    })
}

/// A stream in numbers.
pub fn to_json(name: Option<&str>, found: &Found) -> Value {
    let report = &found.report;
    json!({
        "name": name,
        "verdict": verdict_word(found.verdict()),
        "code": report.code.map(|code| code.name()),
        "problem": report.first_problem.as_ref().map(|(at, problem)| problem_json(*at, problem)),
        "misplaced": found.misplaced,
        "problems": report.problems,
        "version": report.preamble.map(|preamble| format!("{}.{}", preamble.major, preamble.minor)),
        "migration_id": report.preamble.map(|preamble| hex(&preamble.migration_id)),
        "device": report.device,
        "tags": tags_word(report.tags),
        "identity": report.identity.as_ref().map(|identity| identity_json(identity)),
        "bytes": report.bytes,
        "frames": report.frames,
        "data_bytes": report.data_bytes,
        "data_frames": report.data_frames,
        "blobs": report.blobs,
        "restarts": report.restarts,
        "initial_marks": report.initial_marks,
        "skipped": report.skipped,
        "lost_bytes": report.lost_bytes,
        "ended": report.ended,
        "gave_up": found.gave_up,
    })
}

/// The verdict, and what is wrong first.
pub fn verdict_text(title: &str, found: &Found, style: Style) -> String {
    let verdict = found.verdict();
    let good = verdict == Verdict::Whole;
    let title = Plain(title).to_string();
    let mut out =
        format!("{}: {}\n", style.bold(&title), style.verdict(good, verdict_word(verdict)));
    let report = &found.report;
    if let Some((offset, problem)) = &report.first_problem {
        line(&mut out, "problem", &format!("at byte {offset}: {}", problem.error));
        if report.problems > 1 {
            line(&mut out, "", &format!("and {} more", report.problems - 1));
        }
    }
    if let Some(misplaced) = &found.misplaced {
        line(&mut out, "problem", misplaced);
    }
    if report.lost_bytes > 0 {
        line(&mut out, "lost", &format!("{} could not be understood", bytes(report.lost_bytes)));
    }
    if found.gave_up {
        line(&mut out, "", "the rest was not looked at: nothing was understood for too long");
    }
    if report.tags == Tags::NoKey {
        line(&mut out, "tags", "not verified: give the key with --key-file");
    }
    out
}

/// Why it is not whole, in one line.
pub fn why(found: &Found) -> String {
    let word = verdict_word(found.verdict());
    let report = &found.report;
    match (&report.first_problem, &found.misplaced) {
        _ if report.tags == Tags::NoKey => format!("{word}: give its key with --key-file"),
        (Some((_, problem)), _) => format!("{word}: {}", Plain(&problem.error.to_string())),
        (None, Some(misplaced)) => format!("{word}: {misplaced}"),
        (None, None) => word.to_owned(),
    }
}

/// What it is, and how much.
pub fn summary_text(out: &mut String, found: &Found) {
    let report = &found.report;
    if let Some(preamble) = &report.preamble {
        let (major, minor) = (preamble.major, preamble.minor);
        let device = report.device.map(|it| format!(", device {it}")).unwrap_or_default();
        let id = hex(&preamble.migration_id);
        line(out, "format", &format!("native {major}.{minor}, migration id {id}{device}"));
    }
    if let Some(identity) = &report.identity {
        identity_text(out, identity);
    }
    if report.tags != Tags::NoKey {
        let by = match report.tags {
            Tags::Verified => "tags, which are right with this key",
            Tags::OtherKey => "tags, which cannot be verified with this key",
            _ => "checksums",
        };
        line(out, "checked by", by);
    }
    line(out, "length", &format!("{} in {} frames", bytes(report.bytes), report.frames));
    line(out, "data", &format!("{} in {} frames", bytes(report.data_bytes), report.data_frames));
    for (label, number) in
        [("blobs", report.blobs), ("restarts", report.restarts), ("skipped", report.skipped)]
    {
        if number > 0 {
            line(out, label, &number.to_string());
        }
    }
}
