// SPDX-License-Identifier: MIT OR Apache-2.0

use std::io::ErrorKind;
use std::process::{Command, Output};
use std::sync::LazyLock;

use super::*;
use crate::api::{Api, Since};
use crate::cdecl::{Declarations, Member};
use crate::source::{Source, exported_by};

/// What the source declares, which takes seconds to read and is read once.
fn declarations() -> Declarations {
    static READ: LazyLock<Declarations> = LazyLock::new(|| Declarations::read(&project()).unwrap());
    READ.clone()
}

fn sources() -> Source {
    static READ: LazyLock<Source> = LazyLock::new(|| Source::read(&project()).unwrap());
    READ.clone()
}

fn combined(source: &Source, declared: Declarations) -> Result<Api, String> {
    let combined = combine::combine(source, declared, env!("CARGO_PKG_VERSION"));
    combined.map_err(|problems| problems.join("\n"))
}

fn api() -> Api {
    let source = sources();
    combined(&source, declarations()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What is wrong with the table after `change`, which is given each folder's part of it.
fn problems(change: impl Fn(String) -> String) -> String {
    let mut source = sources();
    let mut changed = 0;
    for folder in &mut source.folders {
        let table = change(folder.table.clone());
        changed += i32::from(folder.table != table);
        folder.table = table;
    }
    assert_ne!(changed, 0, "the change changed nothing");
    combined(&source, declarations()).err().expect("the table was accepted")
}

/// Changes a word in a function's row.
fn in_row(name: &str, from: &str, to: &str) -> impl Fn(String) -> String {
    let (name, from, to) = (format!("name = \"{name}\"\n"), from.to_owned(), to.to_owned());
    move |table| {
        let Some((before, rest)) = table.split_once(&name) else { return table };
        let (row, after) = rest.split_at(rest.find("[[function]]").unwrap_or(rest.len()));
        format!("{before}{name}{}{after}", row.replacen(&from, &to, 1))
    }
}

/// Runs a program that not every machine has.
fn run_if_there(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("not tried: there is no {}", command.get_program().to_string_lossy());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn succeed(output: &Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{what}: {text}");
}

#[test]
fn what_is_committed_is_what_would_be_made() {
    let root = project();
    let files = outputs(&root).unwrap_or_else(|problems| panic!("{}", problems.join("\n")));
    assert_eq!(differences(&root, &files), Vec::<String>::new(), "run `cargo run -p apigen`");
}

#[test]
fn a_changed_file_and_a_left_over_page_are_named() {
    let root = project();
    let mut files = outputs(&root).unwrap();
    let header = files.iter_mut().find(|(path, _)| path.ends_with("vfiomig.h")).unwrap();
    header.1 = header.1.replacen("\n", "\nint extra;\n", 1);
    files.retain(|(path, _)| !path.ends_with("vfiomig_version.3"));
    let found = differences(&root, &files);
    assert_eq!(
        found,
        [
            "include/vfiomig.h differs from line 2 on",
            "docs/man/man3/vfiomig_version.3 is no longer made"
        ]
    );
}

#[test]
fn a_function_stands_in_the_table_and_in_the_source_or_nothing_is_made() {
    let gone = problems(|table| table.replace("\"vfiomig_version\"", "\"vfiomig_nothing\""));
    assert!(gone.contains("vfiomig_nothing: in api.toml, but not in the source"), "{gone}");
    assert!(gone.contains("vfiomig_version: has no row in api.toml"), "{gone}");
    let twice = problems(|table| table.replace("\"vfiomig_version\"", "\"vfiomig_state_name\""));
    assert!(twice.contains("vfiomig_state_name: is in api.toml twice"), "{twice}");
}

#[test]
fn exported_functions_are_found_and_what_else_is_exported_is_too() {
    let source = "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn one(a: u8) {}\n\
                  #[unsafe(no_mangle)]\npub static TWO: u8 = 0;\nfn three() {}";
    assert_eq!(exported_by(source), ["one", "(not a function)"]);
}

#[test]
fn rows_that_contradict_the_source_or_themselves_are_refused() {
    let save_next = "vfiomig_save_next";
    for (row, from, to, expected) in [
        (save_next, "\"0.1\"", "\"0.2\"", "since is 0.2, and the version"),
        (save_next, "\"0.1\"", "\"soon\"", "since is \"soon\", which is not a version"),
        (save_next, "\"pre-copy\"", "\"precopy\"", "there is no state precopy"),
        (save_next, "\"EAGAIN\"", "\"EALREADY\"", "EALREADY is not in the closed set"),
        (save_next, "\"EAGAIN\"", "\"EIO\"", "EIO is listed twice"),
        (save_next, "\"EBUSY\", ", "", "a function is concurrent or gives EBUSY"),
        (save_next, "\"EBADF\", ", "", "does not list EBADF, which its save can cause"),
        (save_next, "ENOTTY, EOPNOTSUPP: ", "ENOTTY, EHUH: ", "EHUH is not in the closed set"),
        (save_next, "ENOTTY, EOPNOTSUPP: ", "ENOTTY, EIO: ", "EIO is listed twice"),
        (save_next, "\"EINVAL: ", "\"EPERM: ", "does not list EINVAL, its wrong_state"),
        (save_next, "\"ENOTRECOVERABLE\",", "", "which a panic causes"),
        (save_next, "\"buffer\"", "\"data\"", "parameter void *buf cannot be Data"),
        (save_next, ", \"ptr\"]", "]", "has 4 parameters in C and 3 in api.toml"),
        (save_next, "handle = \"save\"", "handle = \"load\"", "handle and the first argument"),
        (
            save_next,
            "handle = \"save\"",
            "handle = \"file\"",
            "handle is file, which is not an object",
        ),
        (save_next, "\"len\"", "\"size\"", "\"size\" is not a kind of argument"),
        (
            "vfiomig_save_begin",
            "\"E2BIG\",",
            "",
            "does not list E2BIG, which its options can cause",
        ),
        ("vfiomig_save_get_stats", "vfiomig_save_stats", "vfiomig_caps", "stats cannot be Struct"),
        ("vfiomig_dirty_map", "in:vfiomig_mapping", "in:vfiomig_caps", "*mapping cannot be In"),
        ("vfiomig_dirty_map", "in:vfiomig_mapping", "in:vfiomig_place", "not a structure with"),
        ("vfiomig_dirty_map", "\"E2BIG\",", "", "does not list E2BIG, which its mapping can cause"),
        ("vfiomig_dirty_sync", "\"words\"", "\"buffer\"", "uint64_t *bitmap cannot be Buffer"),
        ("vfiomig_dirty_sync", "\"len\"", "\"number:1\"", "memory without a length after it"),
        ("vfiomig_dirty_sync", "\"EFAULT\",", "", "does not list EFAULT, which its"),
        ("vfiomig_dirty_unmap", "\"unmap\"", "\"release\"", "unmap cannot be Release"),
        ("vfiomig_version", "args = []", "args = []\nmust_check = true", "returns no int"),
        ("vfiomig_state_name", "errors = []", "errors = [\"EIO\"]", "lists errors, but returns no"),
        ("vfiomig_save_cancel", "errors = [", "wrong_state = \"EHUH\"\nerrors = [", "is EHUH"),
    ] {
        let found = problems(in_row(row, from, to));
        let line = found.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{row}: {from} -> {to} gives: {found}"));
        assert!(line.starts_with(&format!("{row}: ")), "{line}");
    }
}

#[test]
fn codes_that_share_a_text_are_codes_of_their_own_with_one_entry_in_the_manual() {
    let api = api();
    let next = api.functions.iter().find(|f| f.name == "vfiomig_save_next").unwrap();
    let text = |errno: &str| &next.errors.iter().find(|(listed, _)| listed == errno).unwrap().1;
    assert!(text("ENOTTY").starts_with("The driver failed with this code."));
    assert_eq!(text("ENOTTY"), text("EOPNOTSUPP"));
    assert!(text("EAGAIN").starts_with("Nothing can be read without blocking."));
    let made = outputs(&project()).unwrap();
    let (_, page) = made.iter().find(|(path, _)| path.ends_with("vfiomig_save_next.3")).unwrap();
    assert!(page.contains(".TP\n.B \\-ENOTTY, \\-EOPNOTSUPP\nThe driver failed"), "{page}");
    assert!(page.contains(".TP\n.B \\-EAGAIN\nNothing can be read"), "{page}");
}

#[test]
fn the_guards_know_which_codes_a_function_may_leave() {
    let api = api();
    let left = |name: &str| {
        let function = api.functions.iter().find(|function| function.name == name).unwrap();
        let bits = function.may_leave(&api);
        assert!(table::make(&api).contains(&format!("errors: {bits:#b}")));
        let codes = api.codes.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
        codes.map(|(_, code)| code.errno.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(left("vfiomig_fsm_path"), ["EFAULT", "EINVAL", "ENOTRECOVERABLE"]);
    // It returns nothing, but leaves a text.
    assert_eq!(left("vfiomig_save_free"), ["EBADF", "EBUSY", "ENOTRECOVERABLE"]);
}

#[test]
fn the_guards_know_the_number_of_each_state() {
    let made = table::make(&api());
    let save = made.split_once("mod save_states {").unwrap().1;
    for line in ["PRE_COPY: u32 = 0;", "STOP_COPY: u32 = 2;", "FINISHED: u32 = 5;\n}"] {
        assert!(save.contains(line), "{line}");
    }
}

#[test]
fn codes_and_headings_are_complete() {
    let found = problems(|table| table.replace("EXDEV = ", "EDOM = "));
    assert!(found.contains("EXDEV: in src/error.rs, but not in api.toml"), "{found}");
    assert!(found.contains("EDOM: in api.toml, but not a code in src/error.rs"), "{found}");
    let found = problems(|table| table.replace("\"VFIOMIG_CAP_\"", "\"VFIOMIG_CUP_\""));
    assert!(found.contains("VFIOMIG_CAP_MIGRATE: no group of constants takes it"), "{found}");
    assert!(
        found.contains("\"Flags of struct vfiomig_caps.\": a group without constants"),
        "{found}"
    );
}

#[test]
fn a_folder_is_an_objects_own() {
    let found = problems(|table| table.replace("[object]\nnumber = 3", "[object]\nnumber = 2"));
    assert!(found.contains("its number is another object's too"), "{found}");
    let found = problems(|table| table.replace("[object]\nnumber = 3", "[object]\nnumber = 16"));
    assert!(found.contains("load: its number is not from 1 to 15"), "{found}");
    let found =
        problems(|table| table.replace("name = \"committed\"\ntext", "name = \"committed\"\n#"));
    assert!(found.contains("load: a state has no text"), "{found}");
    let mut source = sources();
    let load = source.folders.iter_mut().find(|folder| folder.name == "load").unwrap();
    load.name = "lode".into();
    let found = combined(&source, declarations()).err().unwrap();
    assert!(found.contains("vfiomig_load: a handle that no folder has an object for"), "{found}");
    assert!(found.contains("lode: an object that the source has no handle for"), "{found}");
    // A row in another folder than its function.
    let mut source = sources();
    let row = "\n[[function]]\nname = \"vfiomig_version_string\"";
    let version = source.folders.iter_mut().find(|folder| folder.name == "version").unwrap();
    let (rest, moved) = version.table.split_once(row).unwrap();
    let moved = format!("{row}{moved}");
    version.table = rest.to_owned();
    source.folders.iter_mut().find(|folder| folder.name == "fsm").unwrap().table += &moved;
    let found = combined(&source, declarations()).err().unwrap();
    assert!(
        found.contains("version_string: is in fsm/api.toml, but not in that folder's source"),
        "{found}"
    );
}

#[test]
fn callbacks_that_do_not_follow_the_rule_are_refused() {
    let refused = |change: &dyn Fn(&mut Declarations)| {
        let mut declared = declarations();
        change(&mut declared);
        let source = sources();
        combined(&source, declared).err().unwrap_or_default()
    };
    let members = |declared: &mut Declarations, name: &str, change: &dyn Fn(&mut Vec<Member>)| {
        let found = declared.structs.iter_mut().find(|found| found.name == name).unwrap();
        change(&mut found.members);
    };
    assert_eq!(refused(&|_| {}), "");
    let found = refused(&|d| members(d, "vfiomig_device_options", &|all| all.swap(7, 8)));
    assert!(
        found.contains("vfiomig_device_options: void *event_opaque does not follow"),
        "{found}"
    );
    let found = refused(&|d| {
        members(d, "vfiomig_load_options", &|all| all.retain(|m| m.name() != "policy_release"))
    });
    assert!(found.contains("vfiomig_release_fn policy_release does not follow"), "{found}");
    let found = refused(&|d| members(d, "vfiomig_tracker_ops", &|all| drop(all.pop())));
    assert!(
        found.contains("vfiomig_tracker_ops: a table has a member vfiomig_release_fn"),
        "{found}"
    );
    let found = refused(&|d| members(d, "vfiomig_dirty_writer", &|all| drop(all.remove(5))));
    assert!(found.contains("void *tracker_opaque does not follow tracker"), "{found}");
    let found = refused(&|d| {
        let callback =
            &mut d.callbacks.iter_mut().find(|c| c.name == "vfiomig_unmap_fn").unwrap().decl;
        *callback = callback.replace("opaque", "context");
    });
    assert!(found.contains("a callback's first parameter is void *opaque"), "{found}");
    let found = refused(&|d| {
        let unmap = d.functions.iter_mut().find(|f| f.name == "vfiomig_dirty_unmap").unwrap();
        unmap.params.last_mut().unwrap().name = "data".into();
    });
    assert!(found.contains("vfiomig_dirty_unmap: no opaque follows unmap"), "{found}");
}

#[test]
fn a_later_version_gets_a_node_that_inherits() {
    let mut api = api();
    for function in &mut api.functions {
        if function.name == "vfiomig_fsm_path" {
            function.since = Since(0, 10);
        }
    }
    let made = map::make(&api);
    assert!(made.contains("VFIOMIG_0.1 {\nglobal:\n"), "{made}");
    assert!(made.ends_with("\n\nVFIOMIG_0.10 {\nglobal:\n    vfiomig_fsm_path;\n} VFIOMIG_0.1;\n"));
    assert_eq!(made.matches("    vfiomig_fsm_path;").count(), 1);
    assert_eq!(made.matches("local:\n    *;").count(), 1);
}

#[test]
fn the_header_defines_nothing_but_its_own_names_and_is_plain_ascii() {
    let header = header::make(&api());
    for line in header.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("#define ") {
            assert!(rest.starts_with("VFIOMIG_"), "{line}");
        }
        assert!(line.len() <= 100 && line.is_ascii() && line.trim_end() == line, "{line}");
    }
    assert!(!header.contains("linux/vfio.h>"));
}

#[test]
fn the_header_compiles_alone_in_c_and_cxx_without_a_warning() {
    let dir = std::env::temp_dir().join(format!("apigen-header-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let api = api();
    std::fs::write(dir.join("vfiomig.h"), header::make(&api)).unwrap();
    let mut users = String::from("#include <vfiomig.h>\n#include <vfiomig.h>\n");
    for (i, found) in api.decls.structs.iter().enumerate() {
        if let Some(init) = found.init() {
            users += &format!(
                "int user{i}(void);\nint user{i}(void)\n{{\n    struct {} s = {init};\n    \
                 return s.struct_size == sizeof s;\n}}\n",
                found.name
            );
        }
    }
    users += "int newer(void);\nint newer(void) { return vfiomig_version() > VFIOMIG_VERSION; }\n";
    for (file, compiler, standards) in [
        ("user.c", "cc", &["c99", "c11", "c17"][..]),
        ("user.cc", "c++", &["c++11", "c++17", "c++20"][..]),
    ] {
        std::fs::write(dir.join(file), &users).unwrap();
        for standard in standards {
            let mut command = Command::new(compiler);
            command.current_dir(&dir).args([
                "-I.",
                "-fsyntax-only",
                "-pedantic",
                "-Werror",
                "-Wall",
            ]);
            command.args(["-Wextra", "-Wconversion", "-Wshadow", "-Wundef", "-Wredundant-decls"]);
            if compiler == "cc" {
                command.args(["-Wmissing-prototypes", "-Wstrict-prototypes", "-Wcast-qual"]);
            }
            command.arg(format!("-std={standard}")).arg(file);
            if let Some(output) = run_if_there(&mut command) {
                succeed(&output, standard);
            }
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn every_page_has_its_example_and_the_overview_has_both_sides() {
    let (root, api) = (project(), api());
    let examples =
        examples_of(&examples::files(&root).unwrap()).unwrap_or_else(|found| panic!("{found:?}"));
    for function in &api.functions {
        let page = man::page(&api, &examples, function);
        let (_, example) = page.split_once("\n.SH EXAMPLE\n").expect(&function.name);
        let (code, rest) = example.split_once("\n.EE\n").unwrap();
        assert!(code.contains(&format!("{}(", function.name)), "{}: {code}", function.name);
        let file = &examples.of(&function.name).unwrap().file;
        assert!(rest.contains(&format!(".IR c\\-tests/examples/{file} ,\n")), "{rest}");
    }
    let page = man::overview(&api, &examples);
    for part in ["enum guest migrate_out(", "start_vcpus();", "enum guest migrate_in("] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("\n@") && !page.contains("EXAMPLE source"));
}

fn examples_of(files: &[(String, String)]) -> Result<Examples, Vec<String>> {
    Examples::new(files, &api(), &man::examples_of_overview())
}

/// What is wrong with the examples after a change of one file.
fn wrong_examples(file: &str, from: &str, to: &str) -> String {
    let mut files = examples::files(&project()).unwrap();
    let text = &mut files.iter_mut().find(|(name, _)| name == file).unwrap().1;
    assert!(text.contains(from), "{file} has no {from}");
    *text = text.replacen(from, to, 1);
    examples_of(&files).err().expect("the examples were accepted").join("\n")
}

#[test]
fn wrong_examples_are_refused() {
    let next = "/* EXAMPLE vfiomig_save_next */\n";
    let long = format!("{next}{}", "\n".repeat(31));
    let wide = format!("{next}/*{}*/\n", " ".repeat(66));
    let stop = "/* EXAMPLE vfiomig_save_stop */\n";
    for (file, from, to, expected) in [
        ("save.c", next, "/* EXAMPLE vfiomig_save_nxt */\n", "vfiomig_save_nxt is no function"),
        ("save.c", next, "", "vfiomig_save_next: has no example in c-tests/examples"),
        ("save.c", next, "/* EXAMPLE vfiomig_save_free */\n", "vfiomig_save_free is not called"),
        ("save.c", next, stop, "vfiomig_save_stop has an example, c-tests/examples/save.c:"),
        ("save.c", next, "/* EXAMPLE */\n", "an example of nothing"),
        ("save.c", next, &long, "lines, and 30 are allowed"),
        ("save.c", next, &wide, ": over 69 columns"),
        ("save.c", "/* END */\n", "", "an example within another one"),
        ("save.c", "/* END */\n", "/* END */\n/* END */\n", "the end of no example"),
        ("save.c", next, &format!("/* END */\n{next}"), "the end of no example"),
        ("overview.c", "EXAMPLE source", "EXAMPLE sauce", "source: has no example"),
        ("overview.c", "EXAMPLE source", "EXAMPLE sauce", "sauce is no function"),
    ] {
        let found = wrong_examples(file, from, to);
        let line = found.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{from} -> {to} gives: {found}"));
        assert!(line.starts_with("c-tests/examples/") || line.contains("has no example"), "{line}");
    }
    let mut files = examples::files(&project()).unwrap();
    files[0].1.push_str("/* EXAMPLE vfiomig_version */\nvfiomig_version();\n");
    let found = examples_of(&files).err().unwrap().join("\n");
    assert!(found.contains("an example without an end"), "{found}");
}

#[test]
fn a_page_is_out_of_date_when_its_example_has_changed() {
    let (root, api) = (project(), api());
    let mut files = examples::files(&root).unwrap();
    let text = &mut files.iter_mut().find(|(name, _)| name == "save.c").unwrap().1;
    *text = text.replacen("    } while (r == VFIOMIG_NEXT_MORE);", "    } while (r == 0);", 1);
    let changed = examples_of(&files).unwrap_or_else(|found| panic!("{found:?}"));
    let page = |name: &str| {
        let function = api.functions.iter().find(|function| function.name == name).unwrap();
        (format!("docs/man/man3/{name}.3").into(), man::page(&api, &changed, function))
    };
    let found = differences(&root, &[page("vfiomig_save_next"), page("vfiomig_save_stop")]);
    let changed = found.iter().filter(|line| line.contains("differs")).collect::<Vec<_>>();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert!(changed[0].starts_with("docs/man/man3/vfiomig_save_next.3 differs from line "));
}

#[test]
fn man_has_nothing_to_say_about_the_pages() {
    let root = project();
    for (path, _) in outputs(&root).unwrap().iter().filter(|(path, _)| path.starts_with("docs/man"))
    {
        let mut command = Command::new("man");
        command.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").args(["--warnings", "-l"]);
        if let Some(output) = run_if_there(command.arg(root.join(path))) {
            succeed(&output, &path.display().to_string());
        }
    }
}

#[test]
fn rustfmt_leaves_the_table_alone() {
    let root = project();
    let mut command = Command::new("rustfmt");
    command.args(["--check", "--edition", "2024"]).arg(root.join("src/capi/table.rs"));
    if let Some(output) = run_if_there(&mut command) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
