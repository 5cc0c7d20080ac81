// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--decoder FILE`: the decoder that docs/inspect.md shows, and everything that is not one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use vfiomig::identity::Identity;
use vfiomig::stream::{Encoder, FrameType, encode_identity};

const TOOL: &str = env!("CARGO_BIN_EXE_vfiomig");
const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs the tool in a directory.
fn vfiomig(here: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(TOOL).args(arguments).current_dir(here).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Makes a shared object of a C program.
fn compile(here: &Path, name: &str, program: &str) {
    let source = here.join("decoder.c");
    fs::write(&source, program).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut words = compiler.split_whitespace();
    let status = Command::new(words.next().unwrap())
        .args(words)
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(TOP).join("include"))
        .arg("-o")
        .arg(here.join(name))
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success(), "{name}");
    fs::remove_file(source).unwrap();
}

/// The one in the documentation.
fn documented() -> String {
    let text = fs::read_to_string(Path::new(TOP).join("docs/inspect.md")).unwrap();
    let (_, rest) = text.split_once("```c\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// A stream of a device with this driver, in frames of a few bytes each.
fn stream(driver: &str) -> Vec<u8> {
    let mut encoder = Encoder::new([3; 16], 0);
    let (mut out, mut buf) = (Vec::new(), vec![0; 8192]);
    let mut put = |buf: &[u8]| out.extend_from_slice(buf);
    let len = encoder.preamble(&mut buf).unwrap();
    put(&buf[..len]);
    let identity = encode_identity(&Identity { driver: driver.into(), ..Identity::default() });
    let len = encoder.frame(&mut buf, FrameType::Identity, &[&identity]).unwrap();
    put(&buf[..len]);
    for piece in (0..20).collect::<Vec<u8>>().chunks(3) {
        let len = encoder.frame(&mut buf, FrameType::Data, &[piece]).unwrap();
        put(&buf[..len]);
    }
    let len = encoder.end(&mut buf).unwrap();
    put(&buf[..len]);
    out
}

#[test]
fn the_decoder_of_the_documentation_names_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    compile(here, "version.so", &documented());
    fs::write(here.join("stream"), stream("other")).unwrap();
    // Without a slash it is a file as well, and nothing else.
    for name in ["version.so", "./version.so", here.join("version.so").to_str().unwrap()] {
        let (status, out, err) = vfiomig(here, &["inspect", "--decoder", name, "stream"]);
        assert_eq!((status, err.as_str()), (0, ""), "{name}: {out}");
        assert!(out.contains("version = 0001020304050607  what the state begins with"), "{out}");
    }
    let (_, out, _) = vfiomig(here, &["inspect", "stream"]);
    assert!(!out.contains("version ="), "{out}");
    let more = ["diff", "--decoder", "version.so", "stream", "stream"];
    assert_eq!(vfiomig(here, &more).0, 0);
    // Nothing is found in a directory that a loader searches.
    fs::create_dir(here.join("empty")).unwrap();
    let output = Command::new(TOOL)
        .args(["inspect", "--decoder", "version.so", "../stream"])
        .current_dir(here.join("empty"))
        .env("LD_LIBRARY_PATH", here)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

const TABLE: &str = "#include <vfiomig.h>
static int data(void *o, const void *d, size_t n, uint64_t at, vfiomig_decoded_fn p, void *q)
{ (void)o, (void)d, (void)n, (void)at, (void)p, (void)q; return RETURNS; }
static struct { struct vfiomig_decoder_ops ops; uint64_t more; } table =
    { { .struct_size = SIZE, .driver = DRIVER, .data = DATA }, MORE };
const struct vfiomig_decoder_ops *decoder_for_vfiomig(void **opaque);
const struct vfiomig_decoder_ops *decoder_for_vfiomig(void **opaque)
{ (void)opaque, (void)data, (void)table; return RESULT; }
";

/// A decoder with one thing in it that is otherwise.
fn with(change: (&str, &str)) -> String {
    let mut defines = String::new();
    for (name, value) in [
        ("RETURNS", "0"),
        ("SIZE", "sizeof(struct vfiomig_decoder_ops)"),
        ("DRIVER", "\"\""),
        ("DATA", "data"),
        ("MORE", "0"),
        ("RESULT", "&table.ops"),
    ] {
        let value = if name == change.0 { change.1 } else { value };
        defines.push_str(&format!("#define {name} {value}\n"));
    }
    defines + TABLE
}

#[test]
fn what_is_not_a_decoder_for_this_version_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    fs::write(here.join("stream"), stream("mtty")).unwrap();
    fs::write(here.join("text"), "no shared object").unwrap();
    fs::create_dir(here.join("folder")).unwrap();
    assert!(Command::new("mkfifo").arg(here.join("fifo")).status().unwrap().success());
    let size = "sizeof(struct vfiomig_decoder_ops)";
    let (larger, smaller) = (format!("{size} + 8"), format!("{size} / 2"));
    for (name, program) in [
        ("no-function.so", "int something_else;".to_owned()),
        (
            "no-symbol.so",
            "int nowhere(void); int decoder_for_vfiomig(void);
             int decoder_for_vfiomig(void) { return nowhere(); }"
                .to_owned(),
        ),
        ("null.so", with(("RESULT", "NULL"))),
        ("size-0.so", with(("SIZE", "0"))),
        ("size-4.so", with(("SIZE", "4"))),
        ("size-huge.so", with(("SIZE", "0xffffffff"))),
        ("no-data.so", with(("DATA", "NULL"))),
        ("half.so", with(("SIZE", &smaller))),
        ("newer.so", with(("SIZE", &larger)).replace("MORE 0", "MORE 7")),
        ("larger.so", with(("SIZE", &larger))),
        ("fails.so", with(("RETURNS", "-71"))),
        ("other.so", with(("DRIVER", "\"another\""))),
    ] {
        compile(here, name, &program);
    }
    for (name, status, text) in [
        ("text", 3, "not a shared object that can be loaded"),
        ("folder", 3, "is a directory"),
        ("fifo", 3, "is not a file"),
        ("/dev/zero", 3, "is a device node"),
        ("nowhere.so", 3, "No such file"),
        ("libc.so.6", 3, "No such file"),
        ("no-function.so", 3, "it has no function decoder_for_vfiomig"),
        ("no-symbol.so", 3, "nowhere"),
        ("null.so", 7, "has refused to begin"),
        ("size-0.so", 3, "struct_size"),
        ("size-4.so", 3, "not a decoder for this libvfiomig"),
        ("size-huge.so", 3, "struct_size"),
        ("no-data.so", 3, "data of the decoder is NULL"),
        ("half.so", 3, "struct_size"),
        ("newer.so", 3, "for a newer libvfiomig"),
    ] {
        let (code, out, err) = vfiomig(here, &["inspect", "--decoder", name, "stream"]);
        assert_eq!((code, out.as_str()), (status, ""), "{name}: {err}");
        assert!(err.contains(text) && err.lines().count() == 1, "{name}: {err}");
    }
    // A table that has grown by what is zero is what it was.
    assert_eq!(vfiomig(here, &["inspect", "--decoder", "larger.so", "stream"]).0, 0);
    // One that gives up says nothing of the stream.
    let (code, out, _) = vfiomig(here, &["inspect", "--decoder", "fails.so", "stream"]);
    assert!(code == 0 && out.contains("the decoder ends with"), "{out}");
    let (code, out, _) = vfiomig(here, &["inspect", "--decoder", "other.so", "stream"]);
    assert!(code == 0 && out.contains("is for data of another, and this is of mtty"), "{out}");
}
