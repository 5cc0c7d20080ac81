// SPDX-License-Identifier: MIT OR Apache-2.0
//! Versions of drivers and firmware: numbers between dots, compared one after the other. What has
//! anything else in it is not a version, and no guess is made where it would stand.

use std::cmp::Ordering;

/// Whether this is numbers between dots.
pub(crate) fn is_version(text: &str) -> bool {
    text.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Compares two versions of any length: where one ends, it continues with zeros.
fn compare(one: &str, two: &str) -> Ordering {
    let (mut ones, mut twos) = (one.split('.'), two.split('.'));
    loop {
        let (a, b) = match (ones.next(), twos.next()) {
            (None, None) => return Ordering::Equal,
            (a, b) => (a.unwrap_or("0"), b.unwrap_or("0")),
        };
        // Numbers of any length, without a type that they would have to fit into.
        let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
        match a.len().cmp(&b.len()).then_with(|| a.cmp(b)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
}

/// Whether a text is a version between two others, ends included; `None`: it is not a version.
pub(crate) fn is_within(text: &str, min: Option<&str>, max: Option<&str>) -> Option<bool> {
    let enough = |min: &str| compare(text, min) != Ordering::Less;
    let not_too_much = |max: &str| compare(text, max) != Ordering::Greater;
    is_version(text).then(|| min.is_none_or(enough) && max.is_none_or(not_too_much))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_missing_ones_are_zero() {
        let rising = [
            "0",
            "0.0.1",
            "1.9",
            "1.10",
            "2",
            "28.39.1002",
            "28.39.1003",
            "550",
            "550.54.14",
            "99999999999999999999999",
            "100000000000000000000000.1",
        ];
        for (i, one) in rising.iter().enumerate() {
            for (k, two) in rising.iter().enumerate() {
                assert_eq!(compare(one, two), i.cmp(&k), "{one} {two}");
            }
        }
        assert_eq!(compare("1.0.0", "1"), Ordering::Equal);
        assert_eq!(compare("007", "7"), Ordering::Equal);
    }

    #[test]
    fn ranges_have_their_ends_and_refuse_what_is_no_version() {
        let cases = [
            ("550.54", Some("550"), Some("570"), Some(true)),
            ("550", Some("550"), Some("570"), Some(true)),
            ("570.0", Some("550"), Some("570"), Some(true)),
            ("570.1", Some("550"), Some("570"), Some(false)),
            ("549.99", Some("550"), None, Some(false)),
            ("549.99", None, Some("550"), Some(true)),
            ("28.39.1002 (MT_359)", Some("1"), None, None),
            ("v1", Some("1"), None, None),
            ("1..2", Some("1"), None, None),
            ("", Some("1"), None, None),
            ("-1", None, Some("1"), None),
        ];
        for (text, min, max, expected) in cases {
            assert_eq!(is_within(text, min, max), expected, "{text}");
        }
    }
}
