#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""That rooms.py fails where it should: small trees, each of which breaks one rule."""

import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import rooms  # noqa: E402
import sources  # noqa: E402

SPDX = "// SPDX-License-Identifier: MIT OR Apache-2.0\n"
TABLE = """
| room | unsafe | calls | knows nothing of |
|---|---|---|---|
| top | yes | {top} | a |
| middle | no | {middle} | b |
| ground | no | none | c |

More.
"""
# A tree that is right. Tests change a file or add one.
GOOD = {
    "Cargo.toml": "[workspace]\nmembers = [\".\"]\n",
    "src/lib.rs": "pub mod error;\npub mod middle;\npub mod top;\npub use middle::Thing;\n",
    "src/error.rs": "pub struct Error;\npub fn text() {}\n",
    "src/middle/mod.rs": "mod inner;\npub use inner::Thing;\nuse crate::error::Error;\n",
    "src/middle/inner.rs": "use crate::error;\npub struct Thing;\nfn f() { error::text() }\n",
    "src/top/mod.rs": "use crate::middle::Thing;\nfn f(t: &Thing) { unsafe { g(t) } }\n",
    "docs/architecture.md": TABLE.format(top="middle", middle="none"),
}


class Rules(unittest.TestCase):
    def setUp(self):
        self.kept = {name: getattr(rooms, name) for name in
                     ("ROOMS", "NAMES", "KNOWN", "UNSAFE_ELSEWHERE", "C_ROOMS", "C_PROGRAMS")}
        rooms.ROOMS = [("top", True), ("middle", False), ("ground", False)]
        rooms.NAMES = ["top", "middle", "ground"]
        rooms.KNOWN, rooms.UNSAFE_ELSEWHERE = [], []
        rooms.C_ROOMS, rooms.C_PROGRAMS = ["kmod"], []

    def tearDown(self):
        for name, value in self.kept.items():
            setattr(rooms, name, value)

    def tree(self, changes):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name, text in {**GOOD, **changes}.items():
            path = os.path.join(folder.name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if name.endswith((".rs", ".c", ".h")) and not text.startswith("!"):
                text = SPDX + text
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.removeprefix("!").replace("[workspace]", f"# {SPDX}[workspace]"))
        return rooms.Tree(folder.name)

    def found(self, changes=()):
        return list(rooms.problems(self.tree(dict(changes))))

    def one(self, changes, *words):
        found = self.found(changes)
        self.assertEqual(len(found), 1, found)
        for word in words:
            self.assertIn(word, found[0])

    def none(self, changes=()):
        self.assertEqual(self.found(changes), [])

    def test_a_tree_that_is_right_has_no_problems(self):
        self.none()

    # -- loops --------------------------------------------------------------------------------

    def two(self, a, b):
        """Two files of a room next to each other, and a parent that only declares them."""
        return {"src/middle/mod.rs": "mod inner;\nmod a;\nmod b;\npub use inner::Thing;\n",
                "src/middle/a.rs": a, "src/middle/b.rs": b}

    def test_two_files_that_import_each_other_are_a_loop(self):
        self.one(self.two("use super::b::B;\npub struct A;\n", "use super::a::A;\npub struct B;\n"),
                 "in a loop", "src/middle/a.rs:2 imports src/middle/b.rs", "src/middle/b.rs:2")

    def test_imports_one_way_are_no_loop(self):
        self.none(self.two("use super::b::B;\npub struct A;\n", "pub struct B;\n"))

    def test_a_path_in_an_expression_is_an_import(self):
        self.one(self.two("pub fn a() { super::b::b() }\n", "pub fn b() { crate::middle::a::a() }\n"),
                 "in a loop")

    def test_a_module_by_its_name_is_followed(self):
        self.one(self.two("use super::b;\npub fn a(x: b::B) {}\n",
                          "use crate::middle::{self, inner::Thing};\npub struct B;\n"
                          "fn f(t: Thing) { middle::a::a(B) }\n"), "in a loop")

    def test_a_loop_through_nested_braces_and_a_new_name_is_seen(self):
        self.one(self.two("use crate::{error::Error, middle::{b::{B as C, *}, inner::Thing}};\n"
                          "pub struct A;\n",
                          "use super::a::A as D;\npub struct B;\n"), "in a loop")

    def test_a_module_with_another_name_is_followed(self):
        self.one(self.two("use super::b as other;\npub fn a() { other::b() }\n",
                          "use super::a as more;\npub fn b() { more::a() }\n"), "in a loop")

    def test_a_function_of_a_type_belongs_to_the_file_that_has_it(self):
        self.one({"src/middle/mod.rs": "mod inner;\nmod a;\npub use inner::Thing;\n",
                  "src/middle/inner.rs": "pub struct Thing;\nfn f() { Thing::new() }\n",
                  "src/middle/a.rs": "use super::Thing;\nimpl Thing { pub fn new() {} }\n"},
                 "in a loop")

    def test_what_comes_through_a_glob_is_an_import_where_it_is_used(self):
        used = self.two("use super::b::*;\npub fn a(x: B) {}\n", "use super::a::a;\npub struct B;\n")
        self.one(used, "in a loop")
        unused = self.two("use super::b::*;\npub fn a() {}\n", "use super::a::a;\npub struct B;\n")
        self.none(unused)

    def test_a_loop_of_three_is_one(self):
        found = self.found({
            "src/middle/mod.rs": "mod inner;\npub use inner::Thing;\nmod a;\nmod b;\nmod c;\n",
            "src/middle/a.rs": "use super::b::b;\npub fn a() {}\n",
            "src/middle/b.rs": "use super::c::c;\npub fn b() {}\n",
            "src/middle/c.rs": "use super::a::a;\npub fn c() {}\n"})
        self.assertEqual(len(found), 1, found)

    def test_a_reexport_leads_to_the_file_that_defines(self):
        # top imports middle's Thing, which inner defines: what mod.rs imports does not matter.
        edges = self.tree({}).edges
        self.assertIn(("src/top/mod.rs", "src/middle/inner.rs"), edges)
        self.assertNotIn(("src/top/mod.rs", "src/middle/mod.rs"), edges)

    def test_a_parent_that_only_declares_and_reexports_is_in_no_loop(self):
        self.none({"src/middle/mod.rs": "mod inner;\npub use inner::Thing;\npub struct Own;\n",
                   "src/middle/inner.rs": "use super::Own;\npub struct Thing;\n"})

    def test_a_parent_that_uses_what_it_reexports_is_in_a_loop_with_its_child(self):
        self.one({"src/middle/mod.rs": "mod inner;\npub use inner::Thing;\npub struct Own(Thing);\n",
                  "src/middle/inner.rs": "use super::Own;\npub struct Thing;\n"}, "in a loop")

    def test_methods_on_self_in_another_file_are_an_import(self):
        self.one({"src/middle/mod.rs": "mod inner;\npub use inner::Thing;\n"
                                       "impl Own { fn f(&self) { self.other(); } }\n"
                                       "pub struct Own;\n",
                  "src/middle/inner.rs": "use super::Own;\npub struct Thing;\n"
                                         "impl Own { pub fn other(&self) {} }\n"}, "in a loop")

    def test_tests_import_what_they_like(self):
        self.none(self.two("use super::b::B;\npub struct A;\n",
                           "pub struct B;\n#[cfg(test)]\nmod tests { use super::super::a::A; }\n"
                           "#[cfg(test)]\nuse super::a::A;\n#[test]\nfn t() { super::a::f() }\n"))

    def test_what_is_compiled_without_tests_too_is_no_test(self):
        for always in ("not(test)", "any(test, unix)", "all(any(test, unix))", "all(unix, not(test))",
                       "all(unix, any(unix, test))", "feature = \"test\""):
            with self.subTest(always):
                self.one(self.two("use super::b::B;\npub struct A;\n",
                                  f"#[cfg({always})]\nuse super::a::A;\npub struct B;\n"), "in a loop")
        for never in ("test", "test,", "all(test)", "all(unix, test)", "all(any(a, b), test)",
                      "all(test, not(unix))"):
            with self.subTest(never):
                self.none(self.two("use super::b::B;\npub struct A;\n",
                                   f"#[cfg({never})]\nuse super::a::A;\npub struct B;\n"))

    def test_comments_and_texts_import_nothing(self):
        self.none(self.two("use super::b::B;\npub struct A;\n",
                           "/* crate::middle::a::A /* nested */ super::a::A */\n"
                           "// super::a::A\npub struct B;\nconst X: &str = \"\\\"super::a::A\";\n"
                           "const Y: &str = r#\"\"super::a::A\"#;\nfn f<'a>(c: char) { '\"'; }\n"))

    def test_a_macros_items_belong_to_the_file_that_invokes_it(self):
        self.one(self.two("use super::b::Made;\npub struct A;\n",
                          "use super::a::A;\nmake! { pub enum Made { One } }\n"), "in a loop")

    # -- rooms --------------------------------------------------------------------------------

    def test_a_call_upwards_fails(self):
        found = self.found({"src/error.rs": "pub struct Error;\nfn f(t: crate::middle::Thing) {}\n"
                                            "pub fn text() {}\n"})
        self.assertTrue(any("ground calls upwards" in f for f in found), found)

    def test_the_ground_must_not_reexport_what_is_above(self):
        found = self.found({"src/error.rs": "pub use crate::middle::Thing;\npub struct Error;\n"
                                            "pub fn text() {}\n"})
        self.assertTrue(any("ground calls upwards" in f for f in found), found)

    def test_nothing_is_defined_in_the_face(self):
        self.one({"src/lib.rs": GOOD["src/lib.rs"] + "pub struct Own;\n",
                  "src/middle/inner.rs": "pub struct Thing(crate::Own);\n"},
                 "imports what src/lib.rs defines")

    def test_a_file_of_no_room_fails(self):
        self.one({"src/lib.rs": GOOD["src/lib.rs"] + "mod cellar;\n",
                  "src/cellar/mod.rs": ""}, "src/cellar/mod.rs", "no room")

    def test_a_file_that_no_module_declares_fails(self):
        self.one({"src/middle/left.rs": ""}, "no module declares it")

    def test_the_document_must_name_what_is_called(self):
        self.one({"docs/architecture.md": TABLE.format(top="none", middle="none")},
                 "should say", "| top | yes | middle |")
        self.one({"docs/architecture.md": "No table."}, "no table")

    # -- known exceptions ---------------------------------------------------------------------

    LOOP = ("use super::b::B;\npub struct A;\n", "use super::a::A;\npub struct B;\n")

    def test_a_known_exception_is_let_through(self):
        rooms.KNOWN = [("src/middle/b.rs", "src/middle/a.rs", "why")]
        self.none(self.two(*self.LOOP))

    def test_a_known_exception_lets_nothing_else_through(self):
        rooms.KNOWN = [("src/middle/inner.rs", "src/middle/a.rs", "why")]
        found = self.found(self.two(*self.LOOP))
        self.assertTrue(any("in a loop" in f for f in found), found)

    def test_a_known_exception_that_is_not_needed_any_more_fails(self):
        rooms.KNOWN = [("src/middle/b.rs", "src/middle/a.rs", "why")]
        self.one(self.two("pub struct A;\n", "pub struct B;\n"), "KNOWN", "take it out")
        # The import is still there, and no loop.
        self.one(self.two("pub struct A;\n", "use super::a::A;\npub struct B;\n"), "KNOWN")

    # -- unsafe -------------------------------------------------------------------------------

    def test_unsafe_code_outside_the_rooms_that_may_fails(self):
        for code in ("fn f() { unsafe { g() } }", "pub unsafe fn f() {}", "unsafe impl Send for T {}",
                     "#[allow(unsafe_code)]\nfn f() {}", "#![allow(unsafe_code)]\nfn f() {}"):
            with self.subTest(code):
                self.one({"src/middle/inner.rs": f"pub struct Thing;\n{code}\n"},
                         "src/middle/inner.rs", "unsafe")

    def test_what_only_speaks_of_unsafe_code_does_not(self):
        self.none({"src/middle/inner.rs": "pub struct Thing;\n// unsafe { }\n"
                                          "type F = unsafe extern \"C\" fn(u8);\n"
                                          "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }\n"})

    def test_what_hides_code_is_refused(self):
        for code, what in (("extern crate self as me;\nuse me::top::f;", "extern crate"),
                           ("include!(\"other.in\");", "include!"),
                           ("fn f() { std::include!(\"other.in\") }", "include!"),
                           ("use std::{include as other};\nother!(\"other.in\");", "include!")):
            with self.subTest(code):
                self.one({"src/middle/inner.rs": f"pub struct Thing;\n{code}\n"},
                         "src/middle/inner.rs:3", what)
        self.none({"src/middle/inner.rs": "pub struct Thing;\nconst X: &str = include_str!(\"x\");\n"
                                          "extern \"C\" fn f(crate_: u8) {}\n// include!\n"
                                          "#[cfg(test)]\nmod tests { include!(\"x\"); }\n"})

    def test_unsafe_code_is_counted_by_kind(self):
        tree = self.tree({"src/top/mod.rs": "use crate::middle::Thing;\nunsafe fn f() {}\n"
                                            "unsafe impl Send for T {}\nfn g() { unsafe { f() } }\n"})
        self.assertEqual([kind for _, _, kind in tree.unsafe], ["function", "impl", "block"])

    def test_a_member_of_the_workspace_is_held_to_it_too(self):
        member = {"Cargo.toml": "[workspace]\nmembers = [\".\", \"tool\"]\n",
                  "tool/src/main.rs": "fn main() { unsafe { f() } }\n"}
        self.one(member, "tool/src/main.rs", "unsafe")
        rooms.UNSAFE_ELSEWHERE = ["tool/src/main.rs"]
        self.none(member)
        self.one({}, "UNSAFE_ELSEWHERE", "has no unsafe code")

    # -- heads and lengths --------------------------------------------------------------------

    def test_a_file_without_a_licence_fails(self):
        self.one({"src/middle/inner.rs": "!pub struct Thing;\n"}, "no SPDX line")
        self.one({"scripts/x": "#!/bin/sh\n"}, "scripts/x", "no SPDX line")

    def body(self, lines):
        return {"src/middle/inner.rs": "pub struct Thing;\nfn f() {\n" + "x();\n" * lines + "}\n"}

    def test_format_args_that_is_kept_fails_as_rust_1_85_does(self):
        for kept in ['let text = format_args!("{x}");', 'let text: A<\'_> =\n    format_args!(\n"a {x}"\n);',
                     'let text = match x {\n A => format_args!("{x}"),\n };']:
            self.one({"src/error.rs": f"pub struct Error;\npub fn text() {{\n{kept}\n}}\n"}, "error.rs:4", "E0716")
        for passed in ['let text = format_args!("no word");', 'call(format_args!("{x}"));',
                       'let e = call(format_args!("{x}"));']:
            self.none({"src/error.rs": f"pub struct Error;\npub fn text() {{\n{passed}\n}}\n"})

    def test_a_function_that_is_too_long_fails(self):
        self.none(self.body(rooms.LONGEST - 2))
        self.one(self.body(rooms.LONGEST - 1), "f has 111 lines")

    # -- C ------------------------------------------------------------------------------------

    C_A = "#include \"both.h\"\nint a(void)\n{\n\treturn b();\n}\n"

    def test_c_files_that_call_each_other_are_a_loop(self):
        self.one({"kmod/both.h": "int a(void);\nint b(void);\n", "kmod/a.c": self.C_A,
                  "kmod/b.c": "#include \"both.h\"\nint b(void)\n{\n\treturn a();\n}\n"},
                 "in a loop", "kmod/a.c", "kmod/b.c")

    def test_c_files_that_call_one_way_are_none(self):
        self.none({"kmod/both.h": "int a(void);\nint b(void);\n", "kmod/a.c": self.C_A,
                   "kmod/b.c": "#include \"both.h\"\n/* a() */\nstatic int a2;\nint b(void)\n{\n"
                               "\treturn s->a;\n}\n"})

    def test_a_variable_of_another_c_file_is_a_call_too(self):
        self.one({"kmod/both.h": "", "kmod/a.c": self.C_A,
                  "kmod/b.c": "int b(void)\n{\n\treturn table.x;\n}\n",
                  "kmod/c.c": "struct t table = {\n\t.x = a,\n};\n"}, "in a loop")

    def test_a_c_function_that_is_too_long_fails(self):
        self.one({"kmod/a.c": "static int f(int x,\n\t     int y)\n{\n" + "\tx++;\n" * 110 + "}\n"},
                 "f has 114 lines")


class Reading(unittest.TestCase):
    def test_loops_are_found_in_any_graph(self):
        edges = {("a", "b"): 1, ("b", "a"): 1, ("b", "c"): 1, ("c", "d"): 1, ("d", "c"): 1}
        self.assertEqual(sorted(map(sorted, sources.loops(edges))), [["a", "b"], ["c", "d"]])
        self.assertEqual(sources.loops({("a", "b"): 1, ("b", "c"): 1, ("a", "c"): 1}), [])

    def test_a_module_whose_file_is_missing_is_an_error(self):
        with tempfile.TemporaryDirectory() as top:
            os.mkdir(f"{top}/src")
            with open(f"{top}/src/lib.rs", "w", encoding="utf-8") as file:
                file.write("mod lost;\n")
            with self.assertRaises(ValueError):
                sources.Crate(top, "src/lib.rs")


if __name__ == "__main__":
    unittest.main()
