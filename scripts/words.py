#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Phrases that must not come back: what is not English, and names that were given up.

Searches the documentation, and comments and texts in the sources. Lines are joined first, without
what comments begin with, so a phrase is found even if it wraps.

usage: words.py               prints "file:line: phrase → instead", and fails if there is any
       words.py --self-test   checks that phrases are found, and code is left alone
"""

import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

SEARCHED = re.compile(
    r"(README|CONTRIBUTING|SECURITY|CHANGELOG)\.md$"
    r"|docs/[\w-]+\.md$"
    r"|(src|apigen|sim|cli|tests|c-tests|include|fuzz|benches)/.*\.(rs|c|h|cpp|sh|in)$"
    r"|scripts/(?!words\.py).*\.(sh|py)$"
    r"|src/.*api\.toml$"
)

# What ends a clause: a phrase before it has no noun to belong to.
END = r"(?=[.,;:)]| ?$)"

# A phrase, and what to write instead. A pattern that finds good English is made more precise:
# there are no exceptions.
PHRASES = [
    (r"\banew\b", "again, restarted"),
    (r"\bat (?:every|all) times?\b", "always, at any time"),
    (r"\ball the same" + END, "anyway"),
    (r"\bany more(?=[.,;:)]| ?$| (?:and|or|but|when|once|if|because|also|even)\b)", "no longer"),
    (r"\bso-maniest\b", "nth"),
    (r"\bcan be had (?:simpler|easier|cheaper)\b", "is simpler"),
    (r"\bnot known to happen\b", "should never happen"),
    (r"\bsee the module" + END, "say what it is"),
    (r"\bof more errors\b", "too many errors"),
    (r"\bmade up for by\b", "a sentence that says who does what"),
    (r"\bwhat \w+ \w+ begins without\b", "forgets what …"),
    (r"\b(?:after|of|for|with|in|at) so many \w+\b(?! that\b)", "this many"),
    (r"\bat the most\b", "at most"),
    (r"\bno power of two\b", "not a power of two"),
    (r"(?<!here )\bis no (?:kind of|object|structure|version|state|number|text|list|code|evidence)\b",
     "is not a …"),
    (r"\b(?:that|which|in) (?:is|are) none" + END, "is not one"),
    (r"\bknown to be none" + END, "known not to be one"),
    (r"\b(?:is|are) none of (?:the|this|its)\b", "is not one of, does not belong to"),
    (r"\bcomes? zeroed\b", "is zeroed"),
    (r"\bwhere (?:that|this) (?:fails|succeeds)\b", "if that fails, if that succeeds"),
    (r"\bbehind (?:2\^64|the (?:range|end|piece)|an error)\b", "after"),
    (r"\bbegun (?:its|the) initial data again\b", "started its initial data again"),
    (r"\bhas no more" + END, "no longer has"),
    (r"\bstands? (?:twice|in (?:\{\})?api\.toml)", "is"),
    (r"\btakes? long\b", "takes a long time"),
    (r"\bis no writer's\b", "no writer has it"),
    (r"\bso often, in all\b", "how often in all"),
    # Given up: a tracking object is not a run, and what writes to memory is not a source.
    (r"\b(?:dirty|tracking) runs?\b", "tracking object"),
    (r"\bdirty[ _]sources?\b", "dirty writer"),
]

COMMENT = re.compile(
    r"(?P<line>//[^\n]*)"
    r"|(?P<block>/\*.*?\*/)"
    r'|(?P<raw>\br(?P<hash>#*)".*?"(?P=hash))'
    r'|(?P<text>"(?:\\.|[^"\\])*")'
    r"|'(?:\\[^']+|[^'\\\n])'",
    re.DOTALL,
)
LEADER = re.compile(r"^[ \t]*(?:///?!?|//!|/\*+|\*+/|\*|\#+!?|>|\.\\\")?[ \t]*")


class Prose:
    """Text that is searched, and the line on which each character stands."""

    def __init__(self):
        self.text, self.lines = [], []

    def add(self, text, line):
        self.text.append(text)
        self.lines += [line] * len(text)

    def add_lines(self, text, line):
        """Lines of a comment: joined, but an empty one ends a paragraph."""
        for number, part in enumerate(text.split("\n")):
            part = LEADER.sub("", part).removesuffix("*/").strip()
            self.add(part + " " if part else "\n", line + number)

    def add_literal(self, text, line):
        """A text, continued with a backslash or not."""
        for number, part in enumerate(text.split("\n")):
            part = (part.lstrip() if number else part).removesuffix("\\")
            self.add(re.sub(r"\\[nt]", "\n", part), line + number)

    def problems(self):
        text = "".join(self.text)
        for pattern, instead in PHRASES:
            for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
                yield self.lines[match.start()], match.group(), instead


def prose_of(name, text):
    prose = Prose()
    if not name.endswith((".rs", ".c", ".h", ".cpp")):
        prose.add_lines(text, 1)
        return prose
    before, kind = 0, None
    for match in COMMENT.finditer(text):
        now = match.lastgroup if match.lastgroup != "hash" else "raw"
        between = text[before:match.start()]
        # Lines of one comment, and pieces of one text, belong together.
        if now != kind or between.strip() or between.count("\n") > 1:
            prose.add("\n", 1)
        line = text.count("\n", 0, match.start()) + 1
        if now in ("line", "block"):
            prose.add_lines(match.group(), line)
        elif now == "raw":
            prose.add_lines(match.group(), line)
        elif now == "text":
            prose.add_literal(match.group()[1:-1], line)
        before, kind = match.end(), now
    return prose


def files():
    """Those that git knows, or all, in a tree without git."""
    try:
        names = subprocess.run(["git", "-C", TOP, "ls-files", "-co", "--exclude-standard"],
                               check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [os.path.relpath(os.path.join(at, name), TOP)
                 for at, _, found in os.walk(TOP) for name in found]
    for name in sorted(names):
        if SEARCHED.match(name) and os.path.exists(os.path.join(TOP, name)):
            yield name


def search():
    count = problems = 0
    for name in files():
        with open(os.path.join(TOP, name), encoding="utf-8") as file:
            prose = prose_of(name, file.read())
        count += 1
        for line, phrase, instead in sorted(prose.problems()):
            print(f"{name}:{line}: {phrase} → {instead}")
            problems += 1
    print(f"words: {count} files, {problems} problems")
    return problems == 0


def self_test():
    """(file, text, lines on which something is found)"""
    cases = [
        ("a.rs", "/// A log is started\n/// anew here.\nfn f() {}\n", [2]),
        ("a.rs", "//! It is dirty at every\n//! time.\n", [1]),
        ("a.rs", "    // It is dirty at\n    // every time.\n", [1]),
        ("a.rs", "/// It is dirty at every\n\n/// time.\n", []),
        ("a.rs", "let anew = 1; // again\n", []),
        ("a.rs", 'err!(Io, "dirty at every \\\n    time")\n', [1]),
        ("a.rs", "let c = '\"'; let anew = '\"';\n", []),
        ("a.rs", "fn f<'a>(x: &'a u8) {} // started anew\n", [1]),
        ("a.c", "/* Nobody uses it any\n * more. */\n", [1]),
        ("a.c", 'CHECK(x, "it came all the same");\n', [1]),
        ("a.c", "int free; /* nobody uses it any more */\n", [1]),
        ("a.c", 'CHECK(x, "dirty at every "\n      "time");\n', [1]),
        ("a.c", "/* They are all the same size, and any more are refused. */\n", []),
        ("a.md", "The page is dirty at\nevery time.\n", [1]),
        ("a.md", "It is dirty at every\n\ntime passes.\n", []),
        ("a.sh", "# It starts\n# anew.\n", [2]),
        ("api.toml", 'text = "It is not asked any more."\n', [1]),
    ]
    for name, text, expected in cases:
        found = [line for line, _, _ in prose_of(name, text).problems()]
        if found != expected:
            print(f"words: self-test: {text!r}: found on {found}, not {expected}")
            return False
    return True


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--self-test"]):
        sys.exit(__doc__)
    sys.exit(0 if (self_test() if sys.argv[1:] else search()) else 1)
