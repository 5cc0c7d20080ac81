#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Takes out of a directory of `cargo vendor` what a distribution must not or need not ship.

A crate that no Linux target compiles is left with its manifest and its licences: cargo reads the manifests
of all that Cargo.lock names. Of the others, files that are not text go: libraries and programs that
somebody else has built, and test data. What is left of each crate is in its checksum file.

usage: vendor-prune.py MANIFEST VENDOR-DIRECTORY      (CARGO in the environment; prints what is left)
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

# Whatever a distribution builds for; musl for those who link statically.
TARGETS = [f"{machine}-unknown-linux-{libc}" for machine, libc in [
    ("x86_64", "gnu"), ("i686", "gnu"), ("aarch64", "gnu"), ("armv7", "gnueabihf"), ("loongarch64", "gnu"),
    ("powerpc64le", "gnu"), ("riscv64gc", "gnu"), ("s390x", "gnu"), ("x86_64", "musl"), ("aarch64", "musl")]]
LICENCE = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|UNLICENSE|NOTICE)", re.I)


def compiled(manifest):
    """Names and versions of what any of the targets compiles."""
    found = set()
    for target in TARGETS:
        metadata = json.loads(subprocess.run(
            [os.environ.get("CARGO", "cargo"), "metadata", "--format-version=1", "--all-features", "--locked",
             "--offline", f"--manifest-path={manifest}", f"--filter-platform={target}"],
            check=True, stdout=subprocess.PIPE).stdout)
        used = {node["id"] for node in metadata["resolve"]["nodes"]}
        found |= {(p["name"], p["version"]) for p in metadata["packages"] if p["id"] in used}
    return found


def is_text(path):
    with open(path, "rb") as file:
        data = file.read()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        # Old sources are in Latin-1; nothing that was built lacks a zero.
        return b"\0" not in data and path.endswith((".rs", ".c", ".h", ".txt", ".md"))
    return b"\0" not in data


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def files_of(crate):
    for directory, _, names in os.walk(crate):
        for name in names:
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, crate)


def stub(crate, manifest):
    for path, name in list(files_of(crate)):
        if name not in ("Cargo.toml", ".cargo-checksum.json") and not LICENCE.match(name):
            os.remove(path)
    for entry in os.scandir(crate):
        if entry.is_dir():
            shutil.rmtree(entry.path)
    # Without a target, it is no package for cargo.
    lib = os.path.join(crate, manifest.get("lib", {}).get("path", "src/lib.rs"))
    os.makedirs(os.path.dirname(lib), exist_ok=True)
    with open(lib, "w", encoding="utf-8") as file:
        file.write("// Not compiled on Linux, and left out here: scripts/vendor-prune.py\n")


def main():
    manifest, vendor = sys.argv[1:]
    needed = compiled(manifest)
    kept = stubs = 0
    removed = []
    for name in sorted(os.listdir(vendor)):
        crate = os.path.join(vendor, name)
        with open(os.path.join(crate, "Cargo.toml"), "rb") as file:
            crate_manifest = tomllib.load(file)
        package = crate_manifest["package"]
        if (package["name"], package["version"]) in needed:
            kept += 1
            for path, relative in list(files_of(crate)):
                if not is_text(path):
                    os.remove(path)
                    removed.append(f"{name}/{relative}")
        else:
            stubs += 1
            stub(crate, crate_manifest)
        checksums = os.path.join(crate, ".cargo-checksum.json")
        with open(checksums, encoding="utf-8") as file:
            sums = json.load(file)
        sums["files"] = {path: digest_of(os.path.join(crate, path)) for path in sums["files"]
                         if os.path.exists(os.path.join(crate, path))}
        with open(checksums, "w", encoding="utf-8") as file:
            json.dump(sums, file, sort_keys=True, separators=(",", ":"))
    print(f"vendor-prune: {kept} crates, {stubs} more as manifests alone, {len(removed)} files removed that are no text")
    for path in removed:
        print(f"vendor-prune: removed {path}")


main()
