#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The rooms of src/: who calls whom, where unsafe code is, what is too long.

  rooms.py          prints it, and fails where a rule is broken
  rooms.py --files  prints every import, a line each

The rules:
- A room calls those below it in ROOMS, never upwards. docs/architecture.md has the same table, and
  names the rooms that each calls.
- No two files import each other, directly or around a loop: in src/, in each other member of the
  workspace, in lab/kmod. A child that uses its parent's types while the parent uses the child is a
  loop. `mod` declarations do not count, nor re-exports of what lies below the module that makes
  them, nor what stands in tests. A call of another file's method on `self` counts like an import.
- Unsafe code is where ROOMS and UNSAFE_ELSEWHERE allow it.
- Nothing hides from this program: there is no `include!`, nor a new name for the crate by
  `extern crate`.
- Every source file has an SPDX line, and no function has more than LONGEST lines.

KNOWN names what breaks the first two rules on purpose, or not for long. An entry that is no longer
needed is an error too.

Python's standard library is all that it takes; sources.py reads the sources.
"""

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase

sys.dont_write_bytecode = True
import sources  # noqa: E402

# From the top: a folder of src/ each, and the ground, which is what lies in src/ itself. The ground
# stands on what is asked of the system.
ROOMS = [
    # room, unsafe code allowed
    ("capi", True),
    ("dirty", False),
    ("group", False),
    ("checkpoint", False),
    ("session", False),
    ("inspect", False),
    ("guard", False),
    ("stream", False),
    ("handover", False),
    ("estimate", False),
    ("device", False),
    ("history", False),
    ("policy", False),
    ("protocol", False),
    ("transport", False),
    ("ground", False),
    ("sys", True),
]
NAMES = [name for name, _ in ROOMS]
GROUND = "ground"
# The face: it declares and re-exports, and calls nothing.
FACE = "src/lib.rs"

# (who imports, what, why); * stands for any name.
KNOWN = []

# Files of other rooms, and of other members, that speak to C or to the system.
UNSAFE_ELSEWHERE = [
    "cli/src/decoder.rs",
    "cli/src/open.rs",
    "cli/src/sys.rs",
    "fuzz/src/calls.rs",
    "fuzz/src/memory.rs",
    "integrations/qemu/lab/src/bench.rs",
    "integrations/qemu/lab/src/device.rs",
    "sim/src/capi.rs",
    "sim/src/capi/server.rs",
    "sim/src/shared.rs",
    "sim/src/table.rs",
    "src/transport/ops.rs",
]

LONGEST = 110  # lines of a function
LONG = 60  # from here on it is listed

C_ROOMS = ["lab/kmod"]
C_PROGRAMS = ["benches", "c-tests", "c-tests/demo", "c-tests/examples", "c-tests/lab", "c-tests/lab/decoders"]

SPDX = "SPDX-License-Identifier:"
SPDX_ENDINGS = (
    ".c", ".conf", ".config", ".cpp", ".h", ".in", ".map", ".py", ".rs", ".sed", ".sh", ".toml")
SPDX_NAMES = ("Kbuild", "Makefile")
SKIPPED = {".ci", ".git", "build", "target", "vendor"}


# ---- reading the tree ------------------------------------------------------------------------

def all_files(top):
    """The files of the tree: git's, where it is a checkout."""
    if os.path.exists(os.path.join(top, ".git")):
        try:
            listed = subprocess.run(
                ["git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                capture_output=True, check=True).stdout.decode()
            files = [f for f in listed.split("\0") if f and os.path.isfile(os.path.join(top, f))]
            return sorted(f for f in files if f.split("/")[0] not in SKIPPED)
        except (OSError, subprocess.CalledProcessError):
            pass
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = [f for f in folders if f not in SKIPPED]
        found += [os.path.relpath(os.path.join(folder, n), top) for n in names]
    return sorted(found)


def members(top):
    """The roots of the workspace's crates next to src/."""
    with open(os.path.join(top, "Cargo.toml"), encoding="utf-8") as manifest:
        listed = re.search(r"^members = \[(.*?)\]", manifest.read(), re.MULTILINE | re.DOTALL)
    for member in re.findall(r'"([^"]+)"', listed.group(1)) if listed else []:
        for name in ("lib.rs", "main.rs"):
            root = os.path.normpath(os.path.join(member, "src", name))
            if root != FACE and os.path.exists(os.path.join(top, root)):
                yield root


class Tree:
    """What the rules are about, read once."""

    def __init__(self, top):
        self.top = top
        self.files = all_files(top)
        crates = [sources.Crate(top, FACE)] + [sources.Crate(top, r) for r in members(top)]
        self.edges, self.functions, self.unsafe, self.lifted, self.hiding = {}, [], [], [], []
        for crate in crates:
            self.edges.update(crate.imports())
            self.functions += crate.functions
            self.unsafe += crate.unsafe
            self.lifted += crate.lifted
            self.hiding += crate.hiding
        self.rust = sorted({f for crate in crates for f in crate.files})
        for folder in C_ROOMS + C_PROGRAMS:
            listed = [f for f in self.files
                      if os.path.dirname(f) == folder and f.endswith((".c", ".h"))]
            edges, functions = sources.c_sources(top, listed)
            self.functions += functions
            if folder in C_ROOMS:
                self.edges.update(edges)

    def read(self, file):
        with open(os.path.join(self.top, file), encoding="utf-8", errors="replace") as source:
            return source.read()


# ---- rooms -----------------------------------------------------------------------------------

def room_of(file):
    """The room of a file of src/; None for the face, for files elsewhere and for homeless ones."""
    if not file.startswith("src/") or file == FACE:
        return None
    folder, _, rest = file[len("src/"):].partition("/")
    name = folder if rest else GROUND
    return name if name in NAMES else None


def place(file):
    """Where a file counts in lists: its room, or the folder of another member."""
    return room_of(file) or ("face" if file == FACE else os.path.dirname(file).removesuffix("/src"))


def calls(edges):
    """{room: {room it calls: how many imports}}"""
    out = {name: {} for name in NAMES}
    for source, target in edges:
        a, b = room_of(source), room_of(target)
        if a and b and a != b:
            out[a][b] = out[a].get(b, 0) + 1
    return out


def height(room):
    return -NAMES.index(room)


def upwards(edge):
    a, b = room_of(edge[0]), room_of(edge[1])
    return bool(a and b and height(b) > height(a))


# ---- rules -----------------------------------------------------------------------------------

def broken_edges(edges):
    """Loops and calls upwards that KNOWN does not name, and what it names without need."""
    rest = {edge: line for edge, line in edges.items() if not any(names(k, edge) for k in KNOWN)}
    yield from wrong(rest)
    for entry in KNOWN:
        more = {edge: line for edge, line in edges.items() if edge in rest or names(entry, edge)}
        if len(list(wrong(more))) == len(list(wrong(rest))):
            yield f"KNOWN: nothing needs {entry[0]} → {entry[1]} now: take it out"


def names(entry, edge):
    return fnmatchcase(edge[0], entry[0]) and fnmatchcase(edge[1], entry[1])


def wrong(edges):
    """Imports that go upwards, and loops."""
    for edge, line in sorted(edges.items()):
        if upwards(edge):
            yield (f"{edge[0]}:{line}: {room_of(edge[0])} calls upwards: {edge[1]} is in "
                   f"{room_of(edge[1])}")
        if edge[1] == FACE:
            yield f"{edge[0]}:{line}: imports what {FACE} defines"
    for group in sources.loops(edges):
        inside = [f"  {a}:{line} imports {b}"
                  for (a, b), line in sorted(edges.items()) if a in group and b in group]
        yield "\n".join(["these files import each other in a loop:", *inside])


def homeless(tree):
    for file in tree.rust:
        if file.startswith("src/") and file != FACE and not room_of(file):
            yield f"{file}: belongs to no room of ROOMS"
    for file in tree.files:
        if file.startswith("src/") and file.endswith(".rs") and file not in tree.rust:
            if not is_test_file(tree, file):
                yield f"{file}: no module declares it"


def is_test_file(tree, file):
    """Declared with #[cfg(test)], and so left out."""
    folder, name = os.path.split(file)
    parents = [f"{folder}/mod.rs", f"{folder}.rs", f"{folder}/lib.rs"]
    declared = re.compile(rf"#\[cfg\([^\n]*\btest\b[^\n]*\)\]\s*mod {name[:-3]};")
    return any(p in tree.files and declared.search(tree.read(p)) for p in parents)


def stray_unsafe(tree):
    allowed = {name for name, may in ROOMS if may}
    where = {}
    for file, line in [(f, line) for f, line, _ in tree.unsafe] + tree.lifted:
        where.setdefault(file, []).append(line)
    for file, lines in sorted(where.items()):
        if file not in UNSAFE_ELSEWHERE and room_of(file) not in allowed:
            listed = ", ".join(map(str, sorted(set(lines))))
            yield f"{file}: unsafe code, or leave for it, where none may be: lines {listed}"
    for file in UNSAFE_ELSEWHERE:
        if file not in where:
            yield f"UNSAFE_ELSEWHERE: {file} has no unsafe code"


def hiding(tree):
    for file, line, what in tree.hiding:
        yield f"{file}:{line}: {what} hides imports and unsafe code from this program"


def without_licence(tree):
    for file in tree.files:
        if file.endswith(SPDX_ENDINGS) or os.path.basename(file) in SPDX_NAMES or script(tree, file):
            if SPDX not in "".join(tree.read(file).splitlines(True)[:3]):
                yield f"{file}: no SPDX line at its head"


def script(tree, file):
    with open(os.path.join(tree.top, file), "rb") as source:
        return source.read(2) == b"#!"


def too_long(tree):
    for function in tree.functions:
        if function.length > LONGEST:
            yield (f"{function.file}:{function.line}: {function.name} has {function.length} lines, "
                   f"over {LONGEST}")


# Compiles since Rust 1.89, which is newer than what Cargo.toml declares. Without a "{" it always has.
TOO_NEW = re.compile(
    r"^ *let [^=;]*=\s*(?:(?:match|if) [^;]*?(?:=>|\{)\s*)?format_args!\(\s*\"[^\"]*\{", re.MULTILINE)


def too_new(tree):
    for file in tree.rust:
        text = tree.read(file)
        for match in TOO_NEW.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield (f"{file}:{line}: Rust 1.85 cannot keep what format_args!() returns (E0716): "
                   "write it into the call that takes it")


ROW = re.compile(r"^\| *`?(\w+)`? *\| *(yes|no) *\| *([^|]*?) *\|", re.MULTILINE)


def documented(tree, edges):
    """docs/architecture.md's table against ROOMS and against what calls what."""
    head = "| room | unsafe | calls |"
    text = tree.read("docs/architecture.md")
    if head not in text:
        yield f"docs/architecture.md: no table of rooms ({head} …)"
        return
    table = text[text.index(head):].split("\n\n")[0]
    real = calls(edge for edge in edges if not upwards(edge))
    rows = [(m.group(1), m.group(2), m.group(3)) for m in ROW.finditer(table)]
    wanted = []
    for name, may in ROOMS:
        below = [n for n in NAMES if n != GROUND and n in real[name]]
        wanted.append((name, "yes" if may else "no", ", ".join(below) or "none"))
    if rows != wanted:
        yield "\n".join(["docs/architecture.md: the table of rooms should say:",
                         *(f"  | {' | '.join(row)} |" for row in wanted)])


def problems(tree):
    yield from broken_edges(tree.edges)
    yield from homeless(tree)
    yield from stray_unsafe(tree)
    yield from hiding(tree)
    yield from without_licence(tree)
    yield from too_long(tree)
    yield from too_new(tree)
    yield from documented(tree, tree.edges)


# ---- the report ------------------------------------------------------------------------------

def report(tree):
    print("rooms, from the top, and how many imports go where (!: upwards):")
    for room, others in calls(tree.edges).items():
        files = sum(1 for f in tree.rust if room_of(f) == room)
        row = [f"{'!' if height(b) > height(room) else ''}{b} {n}"
               for b, n in sorted(others.items(), key=lambda pair: -height(pair[0]))]
        print(f"  {room:<10} {files:>3} files   {', '.join(row) or '-'}")
    print("unsafe, by room:")
    where = {}
    for file, _, what in tree.unsafe:
        where.setdefault(place(file), []).append(what)
    for room, found in sorted(where.items(), key=lambda pair: -len(pair[1])):
        kinds = [f"{found.count(kind)} {kind}s" for kind in sorted(set(found))]
        print(f"  {room:<22} {', '.join(kinds)}")
    print("the longest functions of src/, clib and lab/kmod:")
    ours = [f for f in tree.functions if f.file.startswith(("src/", "clib/", *C_ROOMS))]
    for function in sorted(ours, key=lambda f: -f.length)[:10]:
        print(f"  {function.length:>4}  {function.name:<28} {function.file}:{function.line}")
    print("the longest files:")
    for lines, file in sorted(((tree.read(f).count("\n"), f) for f in tree.files
                               if f.startswith(("src/", "clib/", *C_ROOMS))
                               and f.endswith((".rs", ".c", ".h"))), reverse=True)[:10]:
        print(f"  {lines:>4}  {file}")
    long = [f for f in tree.functions if f.length > LONG]
    if long:
        print(f"functions over {LONG} lines, everywhere:")
        for function in sorted(long, key=lambda f: (f.file, f.line)):
            print(f"  {function.length:>4}  {function.name:<40} {function.file}:{function.line}")
    for source, target, why in KNOWN:
        print(f"known: {source} → {target}: {why}")


def main():
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    tree = Tree(top)
    if sys.argv[1:] == ["--files"]:
        for (source, target), line in sorted(tree.edges.items()):
            print(f"{source}:{line} {target}")
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    report(tree)
    found = list(problems(tree))
    for problem in found:
        print(f"rooms: {problem}", file=sys.stderr)
    print(f"rooms: {len(tree.rust)} Rust files, {len(tree.edges)} imports, {len(KNOWN)} known "
          f"exceptions, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
