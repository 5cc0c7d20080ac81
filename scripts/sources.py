#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What Rust and C sources say about themselves: who imports whom, functions, unsafe code.

A reader, not a compiler. It follows modules, use-declarations (nested, renamed, with globs),
re-exports and paths to the file that defines the item. Of method calls it follows those on `self`
and `Self`, whose type it knows; other values have types that only a compiler sees. Code under
`#[cfg(test)]` and `#[test]` is left out. rooms.py has the rules.
"""

import os
import re

TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<block>/\*)
  | (?P<text>b?c?r(?P<hash>\#*)".*?"(?P=hash) | [bc]?"(?:\\.|[^"\\])*"
            | b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\])')
  | (?P<life>'\w+)
  | (?P<word>(?:r\#)?[A-Za-z_]\w*)
  | (?P<number>\d\w*(?:\.\d\w*)?)
  | (?P<sign>::|->|=>|.)
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENT = re.compile(r"/\*|\*/")
OPEN = {"(": ")", "[": "]", "{": "}"}
CLOSE = set(OPEN.values())
PATH_HEADS = {"crate", "self", "super", "Self"}
KEYWORDS = set(
    "as async await break const continue dyn else enum extern false fn for if impl in let loop match "
    "mod move mut pub ref return static struct trait true type union unsafe use where while".split()
) - {"union"}


class Token:
    __slots__ = ("kind", "text", "line")

    def __init__(self, kind, text, line):
        self.kind, self.text, self.line = kind, text, line


def tokens(source):
    """The tokens of a Rust source, without comments."""
    out, at, line = [], 0, 1
    while at < len(source):
        match = TOKEN.match(source, at)
        kind, end = match.lastgroup, match.end()
        if kind == "hash":
            kind = "text"
        if kind == "block":
            depth = 1
            while depth:
                mark = COMMENT.search(source, end)
                if not mark:
                    raise ValueError(f"line {line}: a comment that does not end")
                depth += 1 if mark.group() == "/*" else -1
                end = mark.end()
        elif kind != "space":
            out.append(Token(kind, match.group(), line))
        line += source.count("\n", at, end)
        at = end
    return out


def matching(toks, at):
    """The index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(toks)):
        if toks[i].kind == "sign":
            if toks[i].text in OPEN:
                depth += 1
            elif toks[i].text in CLOSE:
                depth -= 1
                if depth == 0:
                    return i
    raise ValueError(f"line {toks[at].line}: `{toks[at].text}` is not closed")


def attribute(toks, at):
    """The end of the attribute at `at`, past its bracket, and its words; None where there is none."""
    if toks[at].text != "#" or at + 1 >= len(toks):
        return None
    start = at + 2 if toks[at + 1].text == "!" else at + 1
    if start >= len(toks) or toks[start].text != "[":
        return None
    end = matching(toks, start)
    return end + 1, [t.text for t in toks[start + 1 : end]]


def arguments(words):
    """What stands between the commas of a list, each as its words."""
    out, depth = [[]], 0
    for word in words:
        depth += (word in OPEN) - (word in CLOSE)
        if word == "," and depth == 0:
            out.append([])
        else:
            out[-1].append(word)
    return out


def is_test(words):
    """`#[test]`, or a `#[cfg]` that only tests meet: `test` alone, or as an argument of `all`."""
    if words[:2] == ["cfg", "("]:
        words = arguments(words[2:-1])[0]
        if words[:2] == ["all", "("]:
            return ["test"] in arguments(words[2:-1])
    return words == ["test"]


def without_tests(toks):
    """The tokens without attributes and without what stands behind `#[cfg(test)]`."""
    out, at = [], 0
    while at < len(toks):
        found = attribute(toks, at)
        if not found:
            out.append(toks[at])
            at += 1
            continue
        test, path = False, None
        while found:
            at, words = found
            test = test or is_test(words)
            path = words[2] if words[:2] == ["path", "="] else path
            found = attribute(toks, at) if at < len(toks) else None
        if test:
            at = thing_end(toks, at)
        elif path:
            out.append(Token("path", path.strip('"'), toks[at].line))
    return out


def thing_end(toks, at):
    """The end of the item, statement, field or arm that begins at `at`."""
    item = any(t.text in ("fn", "mod", "use", "impl", "struct", "enum", "const", "static", "trait",
                          "type", "macro_rules", "extern", "let") for t in toks[at : at + 6])
    whole = toks[at].text in ("let", "use") or any(
        a.text in ("const", "static", "type") and b.kind == "word" and b.text not in KEYWORDS
        for a, b in zip(toks[at : at + 4], toks[at + 1 : at + 5]))
    while at < len(toks):
        text = toks[at].text if toks[at].kind == "sign" else ""
        if text in OPEN:
            at = matching(toks, at)
            if text == "{" and not whole:
                return at + 1
        elif text == ";" or text == "," and not item:
            return at + 1
        elif text in CLOSE:
            return at
        at += 1
    return at


class Module:
    """What the names of one module stand for."""

    def __init__(self, crate, path, file):
        self.crate, self.path, self.file = crate, path, file
        self.children = {}
        self.items = set()
        self.uses = {}  # name -> path
        self.globs = []
        self.parent = None

    def root(self):
        module = self
        while module.parent:
            module = module.parent
        return module


class Function:
    def __init__(self, file, name, line, length):
        self.file, self.name, self.line, self.length = file, name, line, length


class Crate:
    """A Rust crate, from its root file on."""

    def __init__(self, top, root):
        self.top = top
        self.files = {}  # path -> tokens without tests
        self.modules = []
        self.methods = {}  # (module, type) -> {method: file}
        self.functions = []
        self.unsafe = []  # (file, line, what)
        self.lifted = []  # (file, line): allow(unsafe_code)
        self.hiding = []  # (file, line, what): code, or names for it, that is not found from here
        self.mentions = []  # (file, module, path, line, how)
        self.impls = []
        self.root = self.load(root, None, "crate")
        for module, name, methods, file in self.impls:
            found = self.resolve(module, name)
            if found and found[0] == "item":
                self.methods.setdefault(found[1:3], {}).update({m: file for m in methods})

    # -- reading ------------------------------------------------------------------------------

    def load(self, file, parent, name):
        with open(os.path.join(self.top, file), encoding="utf-8") as source:
            every = tokens(source.read())
        module = Module(self, name, file)
        module.parent = parent
        self.modules.append(module)
        toks = without_tests(every)
        self.files[file] = toks
        self.note_lifted(file, every)
        self.note_hiding(file, toks)
        Reader(self, file, toks).run(module)
        return module

    def note_lifted(self, file, toks):
        at = 0
        while at < len(toks):
            found = attribute(toks, at)
            if found and "unsafe_code" in found[1] and found[1][0] in ("allow", "expect", "warn"):
                self.lifted.append((file, toks[at].line))
            at = found[0] if found else at + 1

    def note_hiding(self, file, toks):
        for tok, after in zip(toks, [*toks[1:], Token("end", "", 0)]):
            if tok.text == "extern" and after.text == "crate":
                self.hiding.append((file, tok.line, "extern crate"))
            if tok.kind == "word" and tok.text.removeprefix("r#") == "include":
                self.hiding.append((file, tok.line, "include!"))

    # -- names --------------------------------------------------------------------------------

    def resolve(self, module, path, seen=()):
        """("mod", module), ("item", module that defines it, name, rest of the path), or None."""
        at, path = module, list(path)
        if path[0] == "crate":
            at, path = module.root(), path[1:]
        elif path[0] in ("self", "super"):
            while path and path[0] in ("self", "super"):
                if path[0] == "super":
                    at = at.parent or at
                path = path[1:]
        while path:
            found = self.lookup(at, path[0], seen)
            if not found:
                return None
            if found[0] != "mod":
                return found[0], found[1], found[2], path[1:] or found[3]
            at, path = found[1], path[1:]
        return "mod", at

    def lookup(self, module, name, seen):
        if name in module.children:
            return "mod", module.children[name]
        if name in module.items:
            return "item", module, name, []
        if (module, name) in seen:
            return None
        seen = (*seen, (module, name))
        if name in module.uses:
            return self.resolve(module, module.uses[name], seen)
        for path in module.globs:
            found = self.resolve(module, path, seen)
            if found and found[0] == "mod" and found[1] is not module:
                inner = self.lookup(found[1], name, seen)
                if inner:
                    return inner
        return None

    # -- who imports whom ---------------------------------------------------------------------

    def imports(self):
        """{(file, file): line of the first mention}, without what is only re-exported."""
        edges = {}
        for file, module, path, line, how in self.mentions:
            for target in self.targets(module, path, how):
                if target != file:
                    edges[file, target] = min(line, edges.get((file, target), line))
        return edges

    def targets(self, module, path, how):
        if path[0] == "Self":  # a method of the type whose impl we are in
            kind = self.resolve(module, how)
            methods = self.methods.get(kind[1:3], {}) if kind and kind[0] == "item" else {}
            return [methods[path[1]]] if path[1] in methods else []
        if how == "name" and path[0] in module.items:
            return []
        found = self.resolve(module, path)
        if not found:
            return []
        if found[0] == "mod":
            # A module that is only named gives nothing yet; the path that goes on from it does.
            return []
        out = [found[1].file] if found[1].file else []
        if how == "reexport" and self.below(found[1], module):
            return []
        if found[3]:
            method = self.methods.get(found[1:3], {}).get(found[3][0])
            out += [method] if method else []
        return out

    @staticmethod
    def below(inner, outer):
        while inner:
            if inner is outer:
                return True
            inner = inner.parent
        return False


class Reader:
    """Walks one file's tokens and notes what they define and mention."""

    def __init__(self, crate, file, toks):
        self.crate, self.file, self.toks = crate, file, toks

    def run(self, module):
        self.block(0, len(self.toks), module, None, True)

    def text(self, at):
        return self.toks[at].text if 0 <= at < len(self.toks) else ""

    def word(self, at):
        return 0 <= at < len(self.toks) and self.toks[at].kind == "word"

    def block(self, at, end, module, owner, items):
        """Tokens at..end; `owner`: the type of the impl; `items`: they are the module's own."""
        while at < end:
            at = self.step(at, module, owner, items)

    def step(self, at, module, owner, items):
        tok = self.toks[at]
        if tok.kind == "sign" and tok.text in OPEN:
            # Items that a macro makes at the top of a module are the module's.
            macro = items and (self.text(at - 1) == "!" or self.text(at - 2) == "!")
            close = matching(self.toks, at)
            self.block(at + 1, close, module, owner, items and macro)
            return close + 1
        if tok.kind != "word":
            return at + 1
        if tok.text == "unsafe":
            self.note_unsafe(at)
            return at + 1
        if tok.text == "mod" and self.word(at + 1) and self.text(at + 2) in (";", "{"):
            return self.submodule(at, module)
        if tok.text == "use" and self.text(at - 1) in ("", ";", "{", "}", ")", "pub"):
            return self.use(at, module)
        if tok.text == "impl" and self.text(at - 1) in ("", ";", "{", "}", "unsafe"):
            return self.impl(at, module)
        if tok.text == "macro_rules" and self.text(at + 1) == "!":
            module.items.add(self.text(at + 2))
            return at + 3
        if tok.text == "fn" and self.word(at + 1):
            self.function(at)
        if tok.text in ("fn", "struct", "enum", "union", "trait", "type", "const", "static"):
            return self.definition(at, module, items)
        if tok.text in KEYWORDS or self.text(at - 1) == ".":
            return at + 1
        return self.path(at, module, owner)

    def definition(self, at, module, items):
        name = at + 1
        while self.text(name) in ("mut", "ref"):
            name += 1
        if not self.word(name) or self.text(name) in KEYWORDS:
            return at + 1  # fn(u8), *const T, const fn
        if self.text(at) == "union" and self.text(name + 1) not in ("{", "<"):
            return at + 1
        if items:
            module.items.add(self.text(name))
        return name + 1

    def submodule(self, at, module):
        name = self.text(at + 1)
        if self.text(at + 2) == "{":
            child = Module(self.crate, f"{module.path}::{name}", self.file)
            child.parent = module
            self.crate.modules.append(child)
            module.children[name] = child
            close = matching(self.toks, at + 2)
            self.block(at + 3, close, child, None, True)
            return close + 1
        here, base = os.path.split(self.file)
        before = at - 1
        while self.text(before) in ("pub", "(", ")", "crate", "super"):
            before -= 1
        if before >= 0 and self.toks[before].kind == "path":
            places = [self.text(before)]
            if self.text(before).startswith(".."):  # another crate's file: not read
                module.children[name] = Module(self.crate, f"{module.path}::{name}", None)
                return at + 3
        else:
            if base not in ("mod.rs", "lib.rs", "main.rs"):
                here = os.path.join(here, base[: -len(".rs")])
            places = [f"{name}.rs", f"{name}/mod.rs"]
        for path in places:
            file = os.path.normpath(os.path.join(here, path))
            if os.path.exists(os.path.join(self.crate.top, file)):
                module.children[name] = self.crate.load(file, module, f"{module.path}::{name}")
                break
        else:
            raise ValueError(f"{self.file}:{self.toks[at].line}: no file for `mod {name}`")
        return at + 3

    def use(self, at, module):
        end = at
        while self.text(end) != ";":
            end += 1
        how = "reexport" if self.text(at - 1) in ("pub", ")") else "use"
        line = self.toks[at].line
        for path, name in self.use_tree(at + 1, end, []):
            if name == "*":
                module.globs.append(path)
                continue
            if name != "_":
                module.uses[name] = path
            self.mention(module, path, line, how)
        return end + 1

    def use_tree(self, at, end, prefix):
        """(path, name) of each leaf of the use-declaration's tree at..end."""
        path = list(prefix)
        while at < end:
            text = self.text(at)
            if text == "{":
                start, depth = at + 1, 0
                close = matching(self.toks, at)
                for i in range(at + 1, close + 1):
                    depth += (self.text(i) == "{") - (self.text(i) == "}" and i < close)
                    if i == close or self.text(i) == "," and depth == 0:
                        if i > start:
                            yield from self.use_tree(start, i, path)
                        start = i + 1
                return
            if text == "*":
                yield path, "*"
                return
            if text == "as":
                yield path, self.text(at + 1)
                return
            if text == "self" and path:
                pass  # a::{self}: `a` itself
            elif text != "::":
                path.append(text)
            at += 1
        if path:
            yield path, path[-1]

    def impl(self, at, module):
        """`impl … {`: its inherent methods belong to the type."""
        body = at
        while self.text(body) not in ("{", ";"):
            body += 1
        head, trait = self.type_of_impl(at + 1, body)
        self.block(at + 1, body, module, head, False)
        if self.text(body) == ";":
            return body + 1
        close = matching(self.toks, body)
        if not trait and head:
            names, i = [], body + 1
            while i < close:
                if self.text(i) == "fn" and self.word(i + 1):
                    names.append(self.text(i + 1))
                i = matching(self.toks, i) + 1 if self.text(i) == "{" else i + 1
            self.crate.impls.append((module, head, names, self.file))
        self.block(body + 1, close, module, head, False)
        return close + 1

    def type_of_impl(self, at, end):
        """The path of the type that an impl is for, and whether it is a trait's impl."""
        depth, trait, path = 0, False, []
        for i in range(at, end):
            text = self.text(i)
            if text == "<":
                depth += 1
            elif text == ">":
                depth -= 1
            elif depth == 0:
                if text == "for":
                    trait, path = True, []
                elif text == "where":
                    break
                elif self.toks[i].kind == "word" and text not in ("mut", "dyn", "const"):
                    path.append(text)
        return path, trait

    def path(self, at, module, owner):
        """A path in an expression, a type or a pattern."""
        line, path = self.toks[at].line, [self.text(at)]
        if self.text(at - 1) == "::":
            return at + 1
        dollar = self.text(at - 1) == "$"
        if dollar and path != ["crate"]:
            return at + 1
        at += 1
        if path == ["self"] and self.text(at) == ".":
            if owner and self.word(at + 1) and self.text(at + 2) in ("(", "::"):
                self.mention(module, ["Self", self.text(at + 1)], line, owner)
            return at + 1
        while self.text(at) == "::" and self.word(at + 1):
            path.append(self.text(at + 1))
            at += 2
        if path[0] == "Self":
            if owner and len(path) > 1:
                self.mention(module, path[:2], line, owner)
        elif path[0] in PATH_HEADS and len(path) == 1:
            pass
        else:
            self.mention(module, path, line, "name" if len(path) == 1 else "path")
        return at

    def mention(self, module, path, line, how):
        self.crate.mentions.append((self.file, module, path, line, how))

    def function(self, at):
        i = at + 1
        while self.text(i) not in ("{", ";"):
            i = matching(self.toks, i) + 1 if self.text(i) in OPEN else i + 1
        if self.text(i) == "{":
            length = self.toks[matching(self.toks, i)].line - self.toks[at].line + 1
            self.crate.functions.append(
                Function(self.file, self.text(at + 1), self.toks[at].line, length))

    def note_unsafe(self, at):
        after = self.text(at + 1)
        what = {"{": "block", "impl": "impl", "trait": "trait"}.get(after, "function")
        if after == "extern" and self.text(at + 3) == "{" or after == "extern" and (
                self.text(at + 2) == "{"):
            what = "extern"
        if what == "function" and not self.named_function(at):
            return  # a type: unsafe extern "C" fn(u8)
        self.crate.unsafe.append((self.file, self.toks[at].line, what))

    def named_function(self, at):
        while self.text(at) != "fn" and at < len(self.toks):
            at += 1
        return self.word(at + 1)


# ---- C ---------------------------------------------------------------------------------------

C_NOISE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
C_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
C_DEFINED = re.compile(
    r"^(?!static\b|typedef\b|extern\b|struct \w+\s*\{|enum\b|#|\}|\s)"
    r"[\w \t*]*?\b(\w+)\s*(?:\([^;{}]*\)\s*\{|(?:\[[^\]]*\])*\s*(?:=|;))",
    re.MULTILINE,
)
C_FUNCTION = re.compile(r"^(?!#|typedef\b|struct \w+\s*\{|\s)[^\n;={}]*?\b(\w+)\([^;{}]*\)\s*\n?\{",
                        re.MULTILINE)


def blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def c_sources(top, files):
    """({(file, file): line}, functions) of C sources that are linked together."""
    raw, defined, edges, functions = {}, {}, {}, []
    for file in files:
        with open(os.path.join(top, file), encoding="utf-8") as source:
            raw[file] = source.read()
    clean = {file: C_NOISE.sub(blank, text) for file, text in raw.items()}
    for file, text in clean.items():
        if file.endswith(".c"):
            for match in C_DEFINED.finditer(text):
                defined.setdefault(match.group(1), file)
        functions += c_functions(file, text)
    for file, text in clean.items():
        for match in C_INCLUDE.finditer(raw[file]):
            target = os.path.normpath(os.path.join(os.path.dirname(file), match.group(1)))
            if target in raw:
                edges[file, target] = raw[file].count("\n", 0, match.start()) + 1
        if file.endswith(".c"):
            for match in re.finditer(r"(?<![\w.>])[A-Za-z_]\w*", text):
                target = defined.get(match.group(), file)
                if target != file:
                    edges.setdefault((file, target), text.count("\n", 0, match.start()) + 1)
    return edges, functions


def c_functions(file, text):
    for match in C_FUNCTION.finditer(text):
        end = text.find("\n}", match.end() - 1)
        if end >= 0:
            # From the line with the name: a return type or attributes may stand before it.
            line = text.count("\n", 0, match.start(1)) + 1
            yield Function(file, match.group(1), line, text.count("\n", 0, end + 1) + 1 - line + 1)


# ---- graphs ----------------------------------------------------------------------------------

def loops(edges):
    """The sets of files that reach each other, largest first."""
    graph = {}
    for source, target in edges:
        graph.setdefault(source, []).append(target)
        graph.setdefault(target, [])
    # Tarjan, with a stack of our own: chains of imports may be longer than Python's.
    index, low, stack, on, out = {}, {}, [], set(), []
    for start in sorted(graph):
        if start in index:
            continue
        work = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on.add(start)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on.add(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in on:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = set()
                    while node not in group:
                        group.add(stack.pop())
                    on -= group
                    if len(group) > 1:
                        out.append(group)
    return sorted(out, key=lambda g: (-len(g), min(g)))
