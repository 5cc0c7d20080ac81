// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breaks words into lines.

/// Breaks words into lines of at most `width` columns; a longer word gets a line of its own.
pub fn fill<'a>(words: impl IntoIterator<Item = &'a str>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Like [`fill`], with the first line after `head` and the others indented to its end.
pub fn hang<'a>(head: &str, words: impl IntoIterator<Item = &'a str>, width: usize) -> Vec<String> {
    let indent = head.chars().count();
    let lines = fill(words, width.saturating_sub(indent));
    let with = |(i, line): (usize, String)| match i {
        0 => format!("{head}{line}"),
        _ => format!("{}{line}", " ".repeat(indent)),
    };
    lines.into_iter().enumerate().map(with).collect()
}

/// A doc comment's lines as paragraphs, one line each.
pub fn paragraphs(lines: &[String]) -> Vec<String> {
    lines
        .split(|line| line.trim().is_empty())
        .map(|lines| lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_long_as_they_may_be_and_no_longer() {
        assert_eq!(fill("a bb ccc dddd".split(' '), 8), ["a bb ccc", "dddd"]);
        assert_eq!(fill("a bb ccc dddd".split(' '), 3), ["a", "bb", "ccc", "dddd"]);
        assert_eq!(hang("f(", "a, b)".split(' '), 4), ["f(a,", "  b)"]);
    }
}
