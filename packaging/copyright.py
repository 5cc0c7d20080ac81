#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes debian/copyright (dep5): this tree's own files, and every crate of the vendor tarball.

usage: copyright.py VENDOR-DIRECTORY >packaging/debian/copyright
"""

import os
import re
import sys
import tomllib

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: libvfiomig
Comment:
 Made by packaging/copyright.py, which reads the crates' own licence files. The
 crates are in the component tarball "vendor". Most of them are needed only to
 build and to test.

Files: *
Copyright: the libvfiomig developers
License: Expat or Apache-2.0

Files: lab/kmod/*
Copyright: the libvfiomig developers
License: GPL-2

Files: integrations/qemu/patches/*
Copyright: the libvfiomig developers
           the QEMU developers
License: GPL-2+
"""

EXPAT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of
this software and associated documentation files (the "Software"), to deal in
the Software without restriction, including without limitation the rights to
use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def common(name, file):
    return (f"On Debian systems, the text of the {name} is in\n"
            f"/usr/share/common-licenses/{file}.")


# What every Debian system has, and what everybody knows.
TEXTS = {
    "Expat": EXPAT,
    "Apache-2.0": common("Apache License, version 2.0,", "Apache-2.0"),
    "CC0-1.0": common("CC0 1.0 Universal licence", "CC0-1.0"),
    "GPL-2": common("GNU General Public License, version 2,", "GPL-2"),
    "GPL-2+": "Version 2, or any later version, at your choice.\n"
              + common("GNU General Public License, version 2,", "GPL-2"),
    "LGPL-2.1+": "Version 2.1, or any later version, at your choice.\n"
                 + common("GNU Lesser General Public License, version 2.1,", "LGPL-2.1"),
    "MPL-2.0": common("Mozilla Public License, version 2.0,", "MPL-2.0"),
}

# The short names of dep5, where they are not SPDX's.
SHORT = {"MIT": "Expat", "GPL-2.0-only": "GPL-2", "LGPL-2.1-or-later": "LGPL-2.1+",
         "GPL-2.0-or-later": "GPL-2+"}

# In which of a crate's files another licence's text is.
TEXT_FILES = {
    "0BSD": r"LICENSE-0BSD",
    "BSD-2-Clause": r"LICENSE-BSD",
    "BSD-3-Clause": r"LICENSE-BSD(-3-Clause)?",
    "BSL-1.0": r"LICENSE(-BOOST|-BSL)?(\.txt)?",
    "ISC": r"LICENSE(-ISC)?(\.(txt|md))?",
    "MIT-0": r"LICENSE(-MIT-?0)?(\.(txt|md))?",
    "Unicode-3.0": r"LICENSE-UNICODE",
    "Unlicense": r"UNLICENSE",
    "Zlib": r"LICENSE(-ZLIB)?(\.(txt|md))?",
}


def die(why):
    sys.exit(f"copyright.py: {why}")


def dep5(spdx):
    """An SPDX expression in dep5's words, and the licences in it."""
    spdx = spdx.replace("/", " OR ")
    # An "and" that binds less than "or" stands behind a comma.
    spdx = re.sub(r"^\(([^()]*)\) AND ", r"\1, AND ", spdx)
    if re.search(r"[()]", spdx):
        die(f"cannot say in dep5: {spdx}")
    spdx = re.sub(r" WITH (\S+)-exception", r" with \1 exception", spdx)
    names = []
    words = []
    for part in re.split(r"(,? (?:OR|AND) )", spdx):
        if re.match(r",? (OR|AND) $", part):
            words.append(part.lower())
            continue
        name = SHORT.get(part, part)
        names.append(name)
        words.append(name)
    return "".join(words), names


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def licence_files(crate):
    return [os.path.join(crate, name) for name in sorted(os.listdir(crate))
            if re.match(r"(LICEN[CS]E|COPYING|COPYRIGHT|UNLICENSE|NOTICE)", name, re.I)
            and os.path.isfile(os.path.join(crate, name))]


# Words of the licences' own texts, and the forms in the Apache licence's appendix.
NO_HOLDER = re.compile(
    r"\[|\{|<year>|yyyy|name of|(copyright|intellectual).*(notice|license|owner|holder|law|statement|interest)|"
    r"free software foundation", re.I)


def holders(crate, package):
    found = []
    for path in licence_files(crate):
        for line in read(path).splitlines():
            match = re.match(r"\W*copyright\b:?\s*(.*)$", line.strip(), re.I)
            if not match or NO_HOLDER.search(line):
                continue
            who = re.sub(r"^(\(c\)|©)\s*", "", match.group(1).strip(), flags=re.I).rstrip(".*/ ")
            if re.search(r"[A-Za-z]{2}", who) and who not in found:
                found.append(who)
    return found or package.get("authors") or [f"the developers of {package['name']}"]


def text_of(name, crates):
    base, _, exception = name.partition(" with ")
    if exception:
        text = TEXTS[base] + "\n\nWith the exception that follows.\n\n"
        for crate, names in crates:
            for path in licence_files(crate):
                match = "LLVM" in path and re.search(r"LLVM Exceptions?\b[^\n]*\n(.*)", read(path), re.I | re.S)
                if name in names and match:
                    return text + match.group(1).strip("- \n")
    elif base in TEXTS:
        return TEXTS[base]
    elif base in TEXT_FILES:
        for crate, names in crates:
            for path in licence_files(crate):
                if base in names and re.fullmatch(TEXT_FILES[base], os.path.basename(path), re.I):
                    lines = [line for line in read(path).strip().splitlines()
                             if not re.match(r"\W*(copyright\b(?! and| holder|\.).*\d|copyright \(c\))", line, re.I)]
                    return "\n".join(lines).strip()
    return die(f"no text for {name}")


def indent(text):
    return "\n".join(" " + line.rstrip() if line.strip() else " ." for line in text.splitlines())


def main():
    if len(sys.argv) != 2:
        die("usage: copyright.py VENDOR-DIRECTORY")
    vendor = sys.argv[1]
    crates = []
    paragraphs = {}
    for directory in sorted(os.listdir(vendor)):
        crate = os.path.join(vendor, directory)
        if not os.path.exists(os.path.join(crate, "Cargo.toml")):
            continue
        with open(os.path.join(crate, "Cargo.toml"), "rb") as file:
            package = tomllib.load(file)["package"]
        if not package.get("license"):
            die(f"{directory} does not name its licence")
        words, names = dep5(package["license"])
        crates.append((crate, names))
        # Without the version, so that not every update changes the file. Of several paragraphs that
        # match a file, the last counts: "shuttle-engine-*" stands behind "shuttle-*".
        who = paragraphs.setdefault((package["name"], words), [])
        who.extend(h for h in holders(crate, package) if h not in who)
    if not crates:
        die(f"there is no crate in {vendor}")

    print(HEAD)
    used = {"Expat", "Apache-2.0", "GPL-2", "GPL-2+"}
    for (name, words), who in sorted(paragraphs.items()):
        print(f"Files: vendor/vendor/{name}-*")
        print("Copyright: " + "\n           ".join(who))
        print(f"License: {words}\n")
    for _, names in crates:
        used.update(names)
    print("\n\n".join(f"License: {name}\n{indent(text_of(name, crates))}" for name in sorted(used)))


main()
