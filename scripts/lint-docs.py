#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Checks the documentation below a directory: the source tree, or what `make install` left.

- A link leads to a file that is there, and to a heading that it has.
- A function or constant of the C API that a page names exists in a header or has a man page.
- A man page refers only to man pages that are there, or to those of other packages.

usage: lint-docs.py DIRECTORY [HEADER...]
"""

import os
import re
import subprocess
import sys

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FUNCTION = re.compile(r"\bvfiomig_[a-z0-9_]*[a-z0-9](?=\()")
CONSTANT = re.compile(r"\bVFIOMIG_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*|_|\.\d)")
MAN = re.compile(r"\\%(vfiomig\w*) \((\d)\)|^\.BR \\?%?(vfiomig\w*) \((\d)\)", re.M)

# Variables of the environment and of the build that look like constants.
VARIABLES = re.compile(r"VFIOMIG_(LOG|DISABLE|POLICY|SYSCONFDIR|NO_INSTALL|MODEL_\w+|FUZZ_\w+|EXHAUST)$")


def files(root):
    """Markdown files and man pages below root; in a git work tree, those that git knows."""
    try:
        out = subprocess.run(
            ["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
            check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        out = [os.path.relpath(os.path.join(at, name), root)
               for at, _, names in os.walk(root) for name in names]
    for name in sorted(out):
        if re.search(r"\.md$|\.[1-9]$", name) and os.path.exists(os.path.join(root, name)):
            yield os.path.join(root, name)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def prose(text):
    """Without fenced code, in which brackets and # mean other things."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(text):
    """What a forge makes of headings."""
    for heading in re.findall(r"^#+ +(.*)$", prose(text), flags=re.M):
        heading = LINK.sub(lambda m: m.group(0)[1:m.group(0).index("]")], heading)
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def check_links(path, text):
    for target in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = os.path.join(os.path.dirname(path), name) if name else path
        if not os.path.exists(to):
            yield f"links to {target}, which is not there"
        elif anchor and anchor not in anchors(read(to)):
            yield f"links to {target}, which has no such heading"


def check_names(text, names, pages):
    for name in sorted(set(FUNCTION.findall(text))):
        if name not in names and f"{name}.3" not in pages:
            yield f"names {name}(), which does not exist"
    for name in sorted(set(CONSTANT.findall(text))):
        if names and name not in names and not VARIABLES.match(name):
            yield f"names {name}, which does not exist"


def check_pages(text, pages):
    for match in MAN.finditer(text):
        page = ".".join(filter(None, match.groups()))
        if page not in pages:
            yield f"refers to {page}, which is not there"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root, headers = sys.argv[1], sys.argv[2:]
    names = set()
    for header in headers:
        names.update(re.findall(r"\bvfiomig_\w+|\bVFIOMIG_\w+", read(header)))
    found = list(files(root))
    pages = {os.path.basename(path) for path in found if not path.endswith(".md")}
    wrong = checked = 0
    for path in found:
        text = read(path)
        problems = (list(check_links(path, text)) + list(check_names(text, names, pages))
                    if path.endswith(".md") else list(check_pages(text, pages)))
        for problem in problems:
            print(f"{os.path.relpath(path, root)} {problem}")
        wrong += len(problems)
        checked += 1
    print(f"lint-docs: {checked} files, {wrong} problems", file=sys.stderr)
    sys.exit(wrong > 0 or checked == 0)


if __name__ == "__main__":
    main()
