// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and callbacks of `vfiomig_compat_*`.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::constants::*;
use crate::alloc;
use crate::capi::callbacks::{Opaque, verdict, vfiomig_release_fn};
use crate::capi::device::vfiomig_identity;
use crate::capi::sized::{read_in, sized32};
use crate::compat::{Decider, Effect, Field, FieldReason, Policy, Rule, Verdict};
use crate::error::{Result, err};
use crate::identity::Identity;
use crate::transport::put_fixed_text;

/// Decides whether a stream of `source` may be loaded into `target`. Returns 0, or -errno to refuse
/// it, as vfiomig_blob_fn does. May be called more than once for a load.
pub type vfiomig_policy_fn = Option<
    unsafe extern "C" fn(
        opaque: *mut c_void,
        source: *const vfiomig_identity,
        target: *const vfiomig_identity,
    ) -> c_int,
>;

/// Takes a reason of a verdict.
pub type vfiomig_compat_reason_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, reason: *const vfiomig_compat_reason)>;

/// What must hold of one field. VFIOMIG_FIELD_* says how the field's value looks as text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_compat_rule {
    /// VFIOMIG_COMPAT_RULE_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_FIELD_*.
    pub field: u32,
    /// VFIOMIG_RULE_*.
    pub rule: u32,
    /// The number of values, at most 1024.
    pub num_values: u32,
    /// VFIOMIG_RULE_ONE_OF: what the source may have. VFIOMIG_RULE_PAIRS: what the source may have,
    /// followed by what the target may have with it, and so on. At most 1024 bytes each.
    pub values: *const *const c_char,
    /// VFIOMIG_RULE_RANGE: the lowest version, numbers between dots, at most 1024 bytes; NULL: any.
    pub min: *const c_char,
    /// The highest version, which is compatible as well; NULL: any.
    pub max: *const c_char,
}

/// What must match between the source's device and the target's; NULL, and zeros, for the default,
/// which vfiomig_compat_judge() explains.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_compat_policy {
    /// VFIOMIG_COMPAT_POLICY_INIT sets it.
    pub struct_size: u32,
    /// The rule for all fields without one in rules: VFIOMIG_RULE_DEFAULT, _IGNORE, _IF_KNOWN,
    /// _AS_TARGET or _EXACT. It does not apply to what is not compared by default.
    pub others: u32,
    /// One rule for each of some fields; every element has the same struct_size.
    pub rules: *const vfiomig_compat_rule,
    /// How many there are.
    pub num_rules: u32,
    /// Zero.
    pub reserved: u32,
    /// Decides in addition, if no rule refuses; NULL: the rules alone decide. To let it decide about
    /// a field, give the field VFIOMIG_RULE_IGNORE.
    pub decide: vfiomig_policy_fn,
    /// Passed to decide.
    pub decide_opaque: *mut c_void,
    /// Releases decide_opaque.
    pub decide_release: vfiomig_release_fn,
}

/// Why a field counts against the source, or why it does not although it differs, is not known, or
/// is not compared.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_compat_reason {
    /// The size of this structure in the library.
    pub struct_size: u32,
    /// VFIOMIG_FIELD_*; 0: the policy's callback.
    pub field: u32,
    /// VFIOMIG_COMPAT_*; its meaning never changes.
    pub code: u32,
    /// VFIOMIG_SEVERITY_BLOCKS: the devices do not fit. VFIOMIG_SEVERITY_LIMITS: the field could not
    /// be compared, and passed. VFIOMIG_SEVERITY_INFO: it passed.
    pub severity: u32,
    /// The field as a word, for scripts.
    pub label: [c_char; 32],
    /// The source's value; empty: not known. What is longer is cut.
    pub source: [c_char; 256],
    /// The target's value; empty: not known. What is longer is cut.
    pub target: [c_char; 256],
    /// All of this in one line, for people to read.
    pub text: [c_char; 464],
}

/// What a judgement came to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_verdict {
    /// VFIOMIG_VERDICT_INIT sets it.
    pub struct_size: u32,
    /// 1: the target may take the source's state. 0: it must not.
    pub compatible: u32,
    /// How many reasons the callback was given.
    pub num_reasons: u32,
    /// How many of them are against the source: VFIOMIG_SEVERITY_BLOCKS.
    pub num_refused: u32,
    /// How many fields passed because they could not be compared: VFIOMIG_SEVERITY_LIMITS.
    pub num_unchecked: u32,
    /// Zero.
    pub reserved: u32,
}

sized32!(vfiomig_compat_rule, vfiomig_compat_policy, vfiomig_compat_reason, vfiomig_verdict,);

const NO_MEMORY: &str = "no memory for a policy";

/// The most values of a rule.
const MAX_VALUES: usize = 1024;

/// The longest value of a rule, in bytes.
const MAX_VALUE: usize = 1024;

/// A text of a rule; `None` for NULL.
///
/// # Safety
/// Promise 1 of C: NULL, or a NUL-terminated text.
unsafe fn value(from: *const c_char) -> Result<Option<String>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; promise 1: a NUL at the end.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_VALUE => alloc::text(text, NO_MEMORY).map(Some),
        _ => {
            Err(err!(Inval, "a value in a rule is not UTF-8, or is longer than {MAX_VALUE} bytes"))
        }
    }
}

impl vfiomig_compat_rule {
    /// # Safety
    /// Promise 1 of C, for the texts that it points to.
    unsafe fn values(&self) -> Result<Vec<String>> {
        let count = self.num_values as usize;
        if count > MAX_VALUES {
            return Err(err!(Inval, "a rule has {count} values; the most is {MAX_VALUES}"));
        }
        if self.values.is_null() {
            return Err(err!(Fault, "the values of a rule are NULL"));
        }
        let mut out = Vec::new();
        alloc::reserve(&mut out, count, NO_MEMORY)?;
        for i in 0..count {
            // SAFETY: promise 1: `num_values` pointers, each to a text.
            match unsafe { value(self.values.wrapping_add(i).read_unaligned()) }? {
                Some(text) => out.push(text),
                None => return Err(err!(Fault, "value {i} of a rule is NULL")),
            }
        }
        Ok(out)
    }

    /// # Safety
    /// As [`Self::values`].
    unsafe fn to_rule(self) -> Result<Option<Rule>> {
        let lists = matches!(self.rule, VFIOMIG_RULE_ONE_OF | VFIOMIG_RULE_PAIRS);
        if !lists && (self.num_values != 0 || !self.values.is_null()) {
            return Err(err!(Inval, "a rule has values, and is not of a kind that has any"));
        }
        if self.rule != VFIOMIG_RULE_RANGE && !(self.min.is_null() && self.max.is_null()) {
            return Err(err!(Inval, "a rule has min or max, and is no range"));
        }
        Ok(Some(match self.rule {
            VFIOMIG_RULE_ONE_OF => {
                // SAFETY: the caller made the same promise.
                let values = unsafe { self.values() }?;
                if values.is_empty() {
                    return Err(err!(Inval, "a rule's list is empty"));
                }
                Rule::OneOf(values)
            }
            VFIOMIG_RULE_PAIRS => {
                // SAFETY: the caller made the same promise.
                let values = unsafe { self.values() }?;
                if values.is_empty() || values.len() % 2 != 0 {
                    return Err(err!(Inval, "{} values are not pairs", values.len()));
                }
                let mut pairs = Vec::new();
                alloc::reserve(&mut pairs, values.len() / 2, NO_MEMORY)?;
                let mut values = values.into_iter();
                while let (Some(source), Some(target)) = (values.next(), values.next()) {
                    pairs.push((source, target));
                }
                Rule::Pairs(pairs)
            }
            // SAFETY: the caller made the same promise.
            VFIOMIG_RULE_RANGE => unsafe { Rule::Range(value(self.min)?, value(self.max)?) },
            VFIOMIG_RULE_REQUIRE => Rule::Require,
            other => return simple_rule(other),
        }))
    }
}

/// A rule that needs nothing else, and that may hold for several fields.
fn simple_rule(number: u32) -> Result<Option<Rule>> {
    Ok(Some(match number {
        VFIOMIG_RULE_DEFAULT => return Ok(None),
        VFIOMIG_RULE_IGNORE => Rule::Ignore,
        VFIOMIG_RULE_IF_KNOWN => Rule::IfKnown,
        VFIOMIG_RULE_AS_TARGET => Rule::AsTarget,
        VFIOMIG_RULE_EXACT => Rule::Exact,
        _ => return Err(err!(Inval, "there is no rule {number}, or not in this place")),
    }))
}

/// A callback that decides, which the library owns from here on.
///
/// # Safety
/// Promises 2 and 3 of C, for the callback and its release function.
pub(in crate::capi) unsafe fn decider(
    call: vfiomig_policy_fn,
    opaque: *mut c_void,
    release: vfiomig_release_fn,
) -> Option<Decider> {
    // SAFETY: promise 2: `release` can be called with `opaque`.
    let opaque = unsafe { Opaque::new(opaque, release) };
    // Without a function nobody will use the opaque, so it is released at once.
    let call = call?;
    Some(Box::new(move |source: &Identity, target: &Identity| {
        let (source, target) = (source.into(), target.into());
        let (source, target) = (&raw const source, &raw const target);
        // SAFETY: promises 2 and 3; both structures live during the call.
        verdict(unsafe { call(opaque.get(), source, target) })
    }))
}

impl vfiomig_compat_policy {
    /// # Safety
    /// Promises 2 and 3 of C, for the callback.
    unsafe fn decider(&self) -> Option<Decider> {
        // SAFETY: the caller made the same promise.
        unsafe { decider(self.decide, self.decide_opaque, self.decide_release) }
    }

    /// What comes with the callback.
    ///
    /// # Safety
    /// Promise 1 of C, for the rules and the texts that they point to.
    unsafe fn to_policy(self) -> Result<Policy> {
        if self.reserved != 0 {
            return Err(err!(Inval, "reserved is not zero in a policy"));
        }
        let mut policy = Policy::default();
        if let Some(rule) = simple_rule(self.others)? {
            policy = policy.with_others(rule)?;
        }
        if self.num_rules != 0 && self.rules.is_null() {
            return Err(err!(Fault, "the rules of a policy are NULL"));
        }
        let mut at = self.rules.cast::<u8>();
        let mut first_size = 0;
        for _ in 0..self.num_rules {
            // SAFETY: promise 1: an element for each, which begins with its size.
            let (rule, tail) = unsafe { read_in(at.cast::<vfiomig_compat_rule>(), "a rule") }?;
            tail.check()?;
            if first_size != 0 && rule.struct_size != first_size {
                return Err(err!(Inval, "the rules of a policy have different sizes"));
            }
            first_size = rule.struct_size;
            at = at.wrapping_add(first_size as usize);
            let field = Field::from_number(rule.field)
                .ok_or_else(|| err!(Inval, "there is no field {}", rule.field))?;
            // SAFETY: the caller made the same promise.
            if let Some(rule) = unsafe { rule.to_rule() }? {
                policy = policy.with(field, rule)?;
            }
        }
        Ok(policy)
    }
}

/// Reads a policy; NULL for the default. The library owns the callback in it from here on, even if
/// it refuses the policy.
///
/// # Safety
/// NULL, or a policy as vfiomig.h describes it.
pub(in crate::capi) unsafe fn policy_in(from: *const vfiomig_compat_policy) -> Result<Policy> {
    if from.is_null() {
        return Ok(Policy::default());
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (policy, tail) = unsafe { read_in(from, "a policy") }?;
    // SAFETY: promises 2 and 3, about the callback in it.
    let decide = unsafe { policy.decider() };
    tail.check()?;
    // SAFETY: promise 1, about what it points to.
    let policy = unsafe { policy.to_policy() }?;
    match decide {
        Some(decide) => policy.deciding(decide),
        None => Ok(policy),
    }
}

/// Reads an identity that may come from anywhere.
///
/// # Safety
/// NULL, or an identity of the size that it claims.
pub(super) unsafe fn identity_in(from: *const vfiomig_identity, what: &str) -> Result<Identity> {
    // SAFETY: the caller made the same promise.
    let (identity, tail) = unsafe { read_in(from, what) }?;
    tail.check()?;
    if identity.vendor_data_len as usize > identity.vendor_data.len() {
        let len = identity.vendor_data_len;
        return Err(err!(Inval, "vendor_data_len of {what} is {len}"));
    }
    let identity = Identity::from(&identity);
    identity.check()?;
    Ok(identity)
}

/// The same, but NULL stands for none.
///
/// # Safety
/// As [`identity_in`].
pub(in crate::capi) unsafe fn identity_if_any(
    from: *const vfiomig_identity,
    what: &str,
) -> Result<Option<Box<Identity>>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller made the same promise.
    Ok(Some(Box::new(unsafe { identity_in(from, what) }?)))
}

impl From<&FieldReason> for vfiomig_compat_reason {
    fn from(reason: &FieldReason) -> Self {
        let mut out = vfiomig_compat_reason {
            struct_size: size_of::<Self>() as u32,
            field: reason.field.map_or(0, |field| field as u32),
            code: reason.why as u32,
            severity: reason.effect as u32,
            label: [0; 32],
            source: [0; 256],
            target: [0; 256],
            text: [0; 464],
        };
        put_fixed_text(&mut out.label, reason.field.map_or("callback", Field::label));
        put_fixed_text(&mut out.source, reason.source.as_deref().unwrap_or_default());
        put_fixed_text(&mut out.target, reason.target.as_deref().unwrap_or_default());
        // Without memory there is no text; the codes say the same.
        let text = alloc::format(format_args!("{reason}"));
        put_fixed_text(&mut out.text, text.as_deref().unwrap_or_default());
        out
    }
}

impl From<&Verdict> for vfiomig_verdict {
    fn from(verdict: &Verdict) -> Self {
        vfiomig_verdict {
            struct_size: 0,
            compatible: u32::from(verdict.is_compatible()),
            num_reasons: verdict.reasons.len() as u32,
            num_refused: verdict.count(Effect::Refuses) as u32,
            num_unchecked: verdict.count(Effect::Unchecked) as u32,
            reserved: 0,
        }
    }
}
