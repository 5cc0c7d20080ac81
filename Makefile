# SPDX-License-Identifier: MIT OR Apache-2.0
#
# libvfiomig: GNU make, cargo and cc. `make help` lists the targets.
#
# Nothing here uses the network by itself. cargo does if its configuration allows it and a crate is
# missing (CARGO_FLAGS=--offline forbids that), and so do the targets whose description in
# `make help` says so.

# What packagers set.
CARGO ?= cargo
RUSTC ?= rustc
CARGO_FLAGS ?=
CARGO_TARGET_DIR ?= target
# A target triple for cross compilation; empty: the host.
RUST_TARGET ?=
# 0: without the crate env_logger; vfiomig_log_init_env() then returns -EOPNOTSUPP.
ENABLE_ENV_LOGGER ?= 1
# Further Cargo features of the library.
FEATURES ?=
CPPFLAGS ?=
CFLAGS ?= -O2 -g
CXXFLAGS ?= -O2 -g
# For cc, and for what rustc links, which is the tool.
LDFLAGS ?=
# Runs programs that were built for RUST_TARGET: qemu-s390x -L /usr/s390x-linux-gnu
EMULATOR ?=
INSTALL ?= install
PKG_CONFIG ?= pkg-config

PREFIX ?= /usr/local
EXEC_PREFIX ?= $(PREFIX)
BINDIR ?= $(EXEC_PREFIX)/bin
LIBDIR ?= $(EXEC_PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/libvfiomig
# Where shells look for completions of commands.
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/site-functions
FISHCOMPDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# Where the host's policy is: SYSCONFDIR/vfiomig/policy.conf. Built into the library and the tool.
SYSCONFDIR ?= /etc
DESTDIR ?=
# 0: do not install the static libraries
ENABLE_STATIC ?= 1

# Warnings are errors in the tests only; a compiler that knows more of them: WERROR=
WERROR ?= -Werror

# The version is written down in one place only.
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))
SONAME := libvfiomig.so.$(SOVERSION)
REALNAME := libvfiomig.so.$(VERSION)

B := build
MAP := src/libvfiomig.map
export CARGO_TARGET_DIR := $(abspath $(CARGO_TARGET_DIR))
ifdef RUSTFLAGS
export RUSTFLAGS
endif
# For another machine, rustc links with CC, unless cargo was told something else. CC may be several words,
# which cargo does not take.
ifneq ($(RUST_TARGET),)
CARGO_TARGET := CARGO_TARGET_$(shell echo '$(RUST_TARGET)' | tr a-z- A-Z_)
$(CARGO_TARGET)_LINKER ?= $(abspath $(B))/cc
export $(CARGO_TARGET)_LINKER
ifneq ($(EMULATOR),)
$(CARGO_TARGET)_RUNNER ?= $(EMULATOR)
export $(CARGO_TARGET)_RUNNER
endif
endif
PROFILE = release
BUILT = $(CARGO_TARGET_DIR)/$(if $(RUST_TARGET),$(RUST_TARGET)/)$(PROFILE)
CARGO_ARGS = $(CARGO_FLAGS) $(if $(RUST_TARGET),--target $(RUST_TARGET))
# No path of this machine in what is built: the same tree gives the same library everywhere.
REMAP = --remap-path-prefix=$(CURDIR)=libvfiomig \
	--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo
RUST_LDFLAGS = $(foreach flag,$(LDFLAGS),-C link-arg=$(flag))
# The same for what crates compile from assembler and C.
REMAP_C = -ffile-prefix-map=$(CURDIR)=libvfiomig -ffile-prefix-map=$${CARGO_HOME:-$$HOME/.cargo}=cargo
CARGO_BUILD = CFLAGS="$(CFLAGS) $(REMAP_C)" RUSTFLAGS="$(RUSTFLAGS) $(RUST_LDFLAGS) $(REMAP)" VFIOMIG_SYSCONFDIR='$(SYSCONFDIR)' \
	$(CARGO) build --profile $(PROFILE) $(CARGO_ARGS)
FEATURE_ARGS = $(if $(filter 1,$(ENABLE_ENV_LOGGER)),,--no-default-features) \
	$(if $(FEATURES),--features '$(FEATURES)')

.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: all
all: $(B)/$(REALNAME) $(B)/libvfiomig.a $(B)/vfiomig.pc $(B)/vfiomig ## build the libraries, vfiomig.pc and the vfiomig tool

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{ printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: FORCE
FORCE: $(if $(RUST_TARGET),linker)

.PHONY: linker
linker: | $(B)
	@printf '#!/bin/sh\nexec %s "$$@"\n' '$(CC)' >$(B)/cc && chmod 755 $(B)/cc

# --- the library ------------------------------------------------------------------------------

# Cargo knows what is out of date; a file that did not change is not touched, and nothing that is
# made from it is made again.
refresh = cmp -s $(1) $(2) || cp -f $(1) $(2)

$(B)/libvfiomig.a: FORCE | $(B)
	@$(CARGO_BUILD) $(FEATURE_ARGS) --package vfiomig-c --lib
	@$(call refresh,$(BUILT)/libvfiomig_c.a,$@)

# What else a program that links the static library needs, as rustc says for this target. Without what cc
# adds by itself: the C library, and an unwinder, which is another one in a program without shared libraries.
$(B)/native-libs: $(B)/libvfiomig.a Makefile
	@echo 'pub fn f() {}' | $(RUSTC) --crate-type staticlib --print native-static-libs \
		$(if $(RUST_TARGET),--target $(RUST_TARGET)) -o $(B)/empty.a - 2>&1 \
		| sed -n '/^note: native-static-libs: /{s///; s/-lgcc_[a-z]*\|-lc\b//g; s/  */ /g; s/^ //; s/ $$//; p}' >$@
	@rm -f $(B)/empty.a
	@test -s $@ || { echo "rustc does not say which native libraries are needed" >&2; exit 1; }

# Linked by cc and not by rustc: rustc's own cdylib leaves every symbol without a version
# (docs/abi.md).
SO_LDFLAGS = -Wl,-soname,$(SONAME) -Wl,--version-script=$(MAP) \
	-Wl,--no-undefined-version -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -Wl,--gc-sections

$(B)/$(REALNAME): $(B)/libvfiomig.a $(B)/native-libs $(MAP)
	$(CC) -shared $(CFLAGS) $(SO_LDFLAGS) $(LDFLAGS) -o $@ \
		-Wl,--whole-archive $(B)/libvfiomig.a -Wl,--no-whole-archive $$(cat $(B)/native-libs)
	@ln -sf $(REALNAME) $(B)/$(SONAME)
	@ln -sf $(SONAME) $(B)/libvfiomig.so

# In terms of the prefixes, where they are below them, so that --define-variable=prefix= moves them.
make_pc = sed -e 's|@PREFIX@|$(PREFIX)|' \
	-e 's|@EXEC_PREFIX@|$(patsubst $(PREFIX),$${prefix},$(EXEC_PREFIX:$(PREFIX)/%=$${prefix}/%))|' \
	-e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR:$(EXEC_PREFIX)/%=$${exec_prefix}/%))|' \
	-e 's|@INCLUDEDIR@|$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)|' -e 's|@VERSION@|$(VERSION)|' \
	-e "s|@NATIVE_LIBS@|$$(cat $(B)/native-libs)|" pkgconfig/$(1).pc.in

$(B)/vfiomig.pc: pkgconfig/vfiomig.pc.in $(B)/native-libs FORCE
	@$(call make_pc,vfiomig) >$@

# --- the tool and the simulator ---------------------------------------------------------------

# In a profile of its own, which Cargo.toml explains.
$(B)/vfiomig: PROFILE = tool
$(B)/vfiomig: FORCE | $(B)
	@$(CARGO_BUILD) --manifest-path cli/Cargo.toml --bins
	@$(call refresh,$(BUILT)/vfiomig,$@)

$(B)/sim-whole.a: FORCE | $(B)
	@$(CARGO_BUILD) --manifest-path sim/Cargo.toml --lib
	@$(call refresh,$(BUILT)/libvfiomig_sim.a,$@)

# Rust's standard library and all else that libvfiomig.a has as well becomes private, so that a program can
# link both.
OBJCOPY ?= $(shell $(CC) -print-prog-name=objcopy)

$(B)/libvfiomig-sim.a: $(B)/sim-whole.a
	@$(CC) -r -nostdlib -o $(B)/sim.o -Wl,--gc-sections -Wl,--force-group-allocation \
		$$(sed -n 's/.*[ *]\(vfiomig_sim_[a-z_]*\)(.*/-Wl,-u,\1/p' sim/include/vfiomig-sim.h) $<
	@$(OBJCOPY) --wildcard --keep-global-symbol='vfiomig_sim_*' --strip-unneeded \
		--remove-section=.llvmbc --remove-section=.llvmcmd $(B)/sim.o
	@rm -f $@
	$(AR) rcsD $@ $(B)/sim.o

# Exports vfiomig_sim_* only: the library's own functions come from the library.
$(B)/libvfiomig-sim.so: $(B)/sim-whole.a $(B)/native-libs sim/libvfiomig-sim.map
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -Wl,-soname,libvfiomig-sim.so \
		-Wl,--version-script=sim/libvfiomig-sim.map -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -Wl,--gc-sections -o $@ \
		-Wl,--whole-archive $(B)/sim-whole.a -Wl,--no-whole-archive $$(cat $(B)/native-libs)

.PHONY: sim
sim: $(B)/$(REALNAME) $(B)/libvfiomig-sim.so $(B)/libvfiomig-sim.a ## build the simulated device, a library for tests of VMMs

# Not installed: who wants it on a test machine copies it there, or starts it from a program of its own.
$(B)/vfiomig-sim-server: PROFILE = tool
$(B)/vfiomig-sim-server: FORCE | $(B)
	@$(CARGO_BUILD) --manifest-path sim/server/Cargo.toml --bins
	@$(call refresh,$(BUILT)/vfiomig-sim-server,$@)

.PHONY: sim-server
sim-server: $(B)/vfiomig-sim-server ## build the program that serves a simulated device over vfio-user

$(B) $(B)/demo $(B)/c-tests/plain $(B)/c-tests/sanitized $(B)/lab/tests $(B)/lab/decoders:
	@mkdir -p $@

# --- the demo ---------------------------------------------------------------------------------

# Relative run paths: programs find the library wherever the tree is moved to.
TEST_CPPFLAGS = -D_GNU_SOURCE -Iinclude -Isim/include $(CPPFLAGS)
TEST_CFLAGS = $(CFLAGS) -std=c11 -Wall -Wextra -Wpedantic -Wshadow $(WERROR)
TEST_LIBS = -L$(B) -lvfiomig-sim -lvfiomig -pthread
TEST_SOS = $(B)/$(REALNAME) $(B)/libvfiomig-sim.so
DEMO_SRC = $(wildcard c-tests/demo/*.c)
DEMO_HDR = $(wildcard c-tests/demo/*.h)

$(B)/demo/demo: $(DEMO_SRC) $(DEMO_HDR) include/vfiomig.h $(TEST_SOS) | $(B)/demo
	$(CC) $(TEST_CPPFLAGS) $(TEST_CFLAGS) $(LDFLAGS) -o $@ $(DEMO_SRC) $(TEST_LIBS) -Wl,-rpath,'$$ORIGIN/..'

$(B)/demo/sanitized: $(DEMO_SRC) $(DEMO_HDR) include/vfiomig.h $(TEST_SOS) | $(B)/demo
	@$(CC) $(TEST_CPPFLAGS) $(TEST_CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $(DEMO_SRC) $(TEST_LIBS) \
		-Wl,-rpath,'$$ORIGIN/../checked' -Wl,-rpath,'$$ORIGIN/..'

# make demo DEVICES=4 CHANNELS=4. What one run measures, the next one of the same size predicts.
DEVICES ?= 1
CHANNELS ?= 1
.PHONY: demo
demo: $(B)/demo/demo ## migrate memory and simulated devices (DEVICES, CHANNELS) between two processes
	$(B)/demo/demo --devices $(DEVICES) --channels $(CHANNELS) --remember $(B)/demo/measured-$(DEVICES)-$(CHANNELS)

# --- tests ------------------------------------------------------------------------------------

# check-c builds what runs in the lab.
CHECK_GROUPS = lint check-rust check-c beside:lab,lab-syscalls,check-handover-quick check-dirty check-valgrind \
	check-sanitizers check-v3 check-miri check-abi check-installed

.PHONY: check
check: ## all fast tests (installs missing packages as root: VFIOMIG_NO_INSTALL=1 forbids it)
	+@MAKE='$(MAKE)' B='$(B)' scripts/check.sh $(CHECK_GROUPS)

.PHONY: deps
deps: ## install what check needs on a Debian machine (as root; uses the network)
	scripts/deps.sh

.PHONY: lint
lint: rooms words ## formatting, clippy, shellcheck, documentation, who calls whom
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy $(CARGO_ARGS) --workspace --all-targets --all-features -- -D warnings
	@$(CARGO) clippy $(CARGO_ARGS) --package vfiomig-c -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --no-deps $(CARGO_ARGS) --workspace --all-features
	@scripts/lint-shell.sh
	@if command -v python3 >/dev/null 2>&1; then \
		scripts/lint-docs.py . include/vfiomig.h sim/include/vfiomig-sim.h; \
	else echo "lint: python3 is not installed: the documentation was not checked" >&2; fi
	@echo "lint: passed"

# Python and nothing else, not even cargo.
.PHONY: rooms
rooms: ## who calls whom in src/ and whether it may, unsafe code, the longest functions
	@if command -v python3 >/dev/null 2>&1; then scripts/rooms-test.py --quiet && scripts/rooms.py; \
	else echo "rooms: python3 is not installed: not checked" >&2; fi

.PHONY: words
words: ## phrases that must not come back, in documentation, comments and messages
	@if command -v python3 >/dev/null 2>&1; then scripts/words.py --self-test && scripts/words.py; \
	else echo "words: python3 is not installed: not checked" >&2; fi

.PHONY: check-rust
check-rust: FORCE ## the Rust tests
	@CARGO='$(CARGO)' scripts/rust-tests.sh $(CARGO_ARGS) $(TESTED_PACKAGES)

TESTED_PACKAGES ?= --workspace

.PHONY: tool-files
tool-files: ## write again what is made from the tool: its completions, and the output in docs/tool.md
	@VFIOMIG_BLESS=1 $(CARGO) test --quiet $(CARGO_ARGS) --package vfiomig-cli --bins tests::

# What a package's build can run: no network, no lint, no lab, and no compiler but the one that built it.
.PHONY: check-build
check-build: ## the Rust, C, ABI and installation tests, and nothing else, for packagers
	+@MAKE='$(MAKE)' B='$(B)' VFIOMIG_NO_INSTALL=1 VFIOMIG_CHECK_BUILD=1 \
		TESTED_PACKAGES='$(addprefix --package=,vfiomig vfiomig-sim vfiomig-cli)' \
		scripts/check.sh --no-deps check-rust check-c check-abi check-installed

.PHONY: check-msrv
check-msrv: ## compile with the oldest Rust and the oldest crates that Cargo.toml allows
	@CARGO='$(CARGO)' CARGO_FLAGS='$(CARGO_FLAGS)' scripts/msrv.sh $(CARGO_ARGS)

.PHONY: check-publish
check-publish: ## whether crates.io would take the library's crate (asks the registry, if it is there)
	@CARGO='$(CARGO)' CARGO_FLAGS='$(CARGO_FLAGS)' scripts/publish-check.sh

MODEL_CASES ?= 50000

.PHONY: check-model
check-model: MODEL_CASES = 400000
check-model: check-dirty check-handover ## both models at large: dirty tracking (400,000 runs), and the handover

.PHONY: check-dirty
check-dirty: ## dirty tracking against a model: 50,000 new random runs (MODEL_CASES, VFIOMIG_MODEL_SEED)
	@VFIOMIG_MODEL_CASES='$(MODEL_CASES)' $(CARGO) test --profile checked $(CARGO_ARGS) \
		--package vfiomig --test dirty_model -- --nocapture

HANDOVER_MODEL = $(CARGO) run --quiet --profile checked $(CARGO_ARGS) --package vfiomig-model --
HANDOVER_REPLAY = NAME=check-replay CARGO='$(CARGO)' scripts/rust-tests.sh --profile checked $(CARGO_ARGS) \
	--package vfiomig-model --test replay -- --nocapture

.PHONY: check-handover-quick
check-handover-quick: ## all that can happen to a handover, within narrow bounds; planted mistakes; replays
	@$(HANDOVER_MODEL) quick
	@$(HANDOVER_REPLAY)

.PHONY: check-handover
check-handover: ## the same within wider bounds: minutes
	@$(HANDOVER_MODEL) large
	@VFIOMIG_REPLAYS=2000 $(HANDOVER_REPLAY)

# Not part of check: hours.
.PHONY: check-mutants
check-mutants: ## find small changes of the library that no test notices (MUTANTS_FILES, MUTANTS_SHARD; hours)
	@B='$(B)' scripts/mutants.sh

C_TESTS = $(patsubst c-tests/%.c,%,$(wildcard c-tests/*.c))
# What the manual shows.
EXAMPLES = $(patsubst c-tests/examples/%.c,example-%,$(wildcard c-tests/examples/*.c))
CXX_TESTS = $(patsubst c-tests/%.cpp,%,$(wildcard c-tests/*.cpp))
# What takes longest starts first.
ALL_C_TESTS = misuse $(filter-out misuse,$(C_TESTS)) $(CXX_TESTS) $(EXAMPLES)
# valgrind and the sanitizers have a malloc of their own, and so do these.
OWN_MALLOC = out-of-memory unmap-without-memory fork-without-memory
C_TEST_HDR = $(wildcard c-tests/*.h c-tests/examples/*.h) include/vfiomig.h sim/include/vfiomig-sim.h
PLAIN = $(addprefix $(B)/c-tests/plain/,$(ALL_C_TESTS))
SANITIZED = $(addprefix $(B)/c-tests/sanitized/,$(filter-out $(OWN_MALLOC),$(ALL_C_TESTS)))
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TEST_RPATH = -Wl,-rpath,'$$ORIGIN/../..'
$(B)/c-tests/sanitized/%: TEST_RPATH = -Wl,-rpath,'$$ORIGIN/../../checked' -Wl,-rpath,'$$ORIGIN/../..'

# These test the header, and say themselves how it is to be compiled.
std_of = $(if $(filter header-c99,$(1)),-std=c99 -pedantic-errors,-std=c11 -Wpedantic)

$(B)/c-tests/plain/%: c-tests/%.c $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/plain
	@$(CC) $(TEST_CPPFLAGS) -DVERSION='"$(VERSION)"' $(TEST_CFLAGS) $(call std_of,$*) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

$(B)/c-tests/plain/example-%: c-tests/examples/%.c $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/plain
	@$(CC) $(TEST_CPPFLAGS) $(TEST_CFLAGS) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

$(B)/c-tests/plain/%: c-tests/%.cpp $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/plain
	@$(CXX) $(TEST_CPPFLAGS) $(CXXFLAGS) -std=c++17 -pedantic-errors -Wall -Wextra $(WERROR) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

$(B)/c-tests/sanitized/%: c-tests/%.c $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/sanitized
	@$(CC) $(TEST_CPPFLAGS) -DVERSION='"$(VERSION)"' $(TEST_CFLAGS) $(call std_of,$*) $(SANITIZE) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

$(B)/c-tests/sanitized/example-%: c-tests/examples/%.c $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/sanitized
	@$(CC) $(TEST_CPPFLAGS) $(TEST_CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

$(B)/c-tests/sanitized/%: c-tests/%.cpp $(C_TEST_HDR) $(TEST_SOS) | $(B)/c-tests/sanitized
	@$(CXX) $(TEST_CPPFLAGS) $(CXXFLAGS) -std=c++17 -pedantic-errors -Wall -Wextra $(WERROR) $(SANITIZE) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_RPATH)

# Opens the library itself.
$(B)/c-tests/plain/dlopen $(B)/c-tests/sanitized/dlopen: TEST_LIBS = -ldl -pthread

# Made of the C examples in the documentation.
EXAMPLE_DOCS = README.md $(addprefix docs/,migration-guide.md dirty-tracking.md qemu-format.md security.md \
	checkpointing.md) \
	sim/include/vfiomig-sim.h
DOC_EXAMPLES = $(B)/c-tests/plain/doc-examples $(B)/c-tests/sanitized/doc-examples
$(DOC_EXAMPLES): $(B)/doc-examples/README-1.c
$(DOC_EXAMPLES): TEST_CPPFLAGS += -I$(B)/doc-examples
$(B)/doc-examples/README-1.c: $(EXAMPLE_DOCS) c-tests/doc-examples.c c-tests/doc-examples.sh
	@c-tests/doc-examples.sh c-tests/doc-examples.c $(@D) $(EXAMPLE_DOCS)

# A library that checks itself: debug assertions, among them that a function returns no error that its
# row in an api.toml does not list. Without env_logger: most of it is what other groups build as well.
$(B)/checked/libvfiomig.so: $(B)/native-libs $(MAP) FORCE
	@mkdir -p $(B)/checked
	@$(CARGO) build --profile checked $(CARGO_ARGS) --package vfiomig-c --lib --no-default-features
	@$(call refresh,$(CARGO_TARGET_DIR)/$(if $(RUST_TARGET),$(RUST_TARGET)/)checked/libvfiomig_c.a,$(B)/checked/libvfiomig.a)
	@test $@ -nt $(B)/checked/libvfiomig.a && test $@ -nt $(MAP) || $(CC) -shared $(CFLAGS) $(SO_LDFLAGS) $(LDFLAGS) -o $@ \
		-Wl,--whole-archive $(B)/checked/libvfiomig.a -Wl,--no-whole-archive $$(cat $(B)/native-libs)
	@ln -sf libvfiomig.so $(B)/checked/$(SONAME)

.PHONY: check-c
check-c: $(PLAIN) $(B)/demo/demo ## the C tests and the demo's failures
	@EXPECT_ENV_LOGGER=$(ENABLE_ENV_LOGGER) EMULATOR='$(EMULATOR)' c-tests/run.sh check-c $(PLAIN)
	@EMULATOR='$(EMULATOR)' c-tests/demo/failures.sh $(B)/demo/demo
	@$(if $(EMULATOR),:,EXPECT_ENV_LOGGER=$(ENABLE_ENV_LOGGER) c-tests/syscalls.sh $(B)/c-tests/plain)

.PHONY: check-valgrind
check-valgrind: $(PLAIN) ## the C tests under valgrind
	@c-tests/run.sh --valgrind check-valgrind $(filter-out $(addprefix %/,$(OWN_MALLOC)),$(PLAIN))

.PHONY: check-sanitizers
check-sanitizers: $(SANITIZED) $(B)/demo/sanitized $(B)/checked/libvfiomig.so ## the C tests and the demo under sanitizers, with a library that checks itself
	@CC='$(CC)' SANITIZE='$(SANITIZE)' c-tests/sanitizers-active.sh $(B)
	@EXPECT_ENV_LOGGER=0 c-tests/run.sh check-sanitizers $(SANITIZED)
	@c-tests/demo/failures.sh $(B)/demo/sanitized

.PHONY: check-v3
check-v3: ## the Rust tests of the library itself, optimised for x86-64-v3
	@CARGO='$(CARGO)' scripts/v3.sh

.PHONY: check-miri
check-miri: ## the Rust tests that need no system call, under Miri
	@if $(CARGO) miri --version >/dev/null 2>&1; then scripts/miri.sh; \
	else echo "check-miri: skipped: this toolchain has no cargo miri (a nightly one has)"; fi

.PHONY: check-abi
check-abi: $(B)/$(REALNAME) ## exported symbols, their versions, SONAME
	@CC='$(CC)' c-tests/abi.sh $(B) $(REALNAME) $(SONAME)

.PHONY: abi-lists
abi-lists: $(B)/$(REALNAME) ## write docs/abi/ after something was added (ABI_MAY_BREAK=1 before the first release)
	@CC='$(CC)' c-tests/abi-lists.sh write $(B)/$(REALNAME) $(B)/abi
	@CC='$(CC)' c-tests/abi-lists.sh compare docs/abi $(B)/abi >$(B)/abi/breaks
	@if [ -s $(B)/abi/breaks ] && [ '$(ABI_MAY_BREAK)' != 1 ]; then cat $(B)/abi/breaks >&2; \
		echo "abi-lists: programs that were built before would break: docs/abi.md says how to add instead" >&2; exit 1; fi
	@mkdir -p docs/abi && cp $(addprefix $(B)/abi/,symbols.txt layout.txt constants.txt) docs/abi/

.PHONY: check-installed
check-installed: all sim ## install into a temporary directory and use the result
	@MAKE='$(MAKE)' B='$(B)' CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' c-tests/installed.sh $(VERSION)
	@MAKE='$(MAKE)' B='$(B)' CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' PREFIX=/opt/vmm EXEC_PREFIX=/opt/vmm/exec \
		LIBDIR=/opt/vmm/exec/lib64 BINDIR=/opt/bin INCLUDEDIR=/opt/vmm/include/some \
		PKGCONFIGDIR=/opt/pc MANDIR=/opt/man DOCDIR=/opt/doc c-tests/installed.sh $(VERSION) --elsewhere

LAB_COMMON = c-tests/lab/lab-common.c c-tests/lab/iommu.c
LAB_SRC = $(filter-out $(LAB_COMMON),$(wildcard c-tests/lab/*.c))
LAB_HDR = $(wildcard c-tests/lab/*.h)
LAB_TESTS = $(patsubst c-tests/lab/%.c,$(B)/lab/tests/%.test,$(LAB_SRC))
LAB_CONF = $(patsubst c-tests/lab/%.conf,$(B)/lab/tests/%.conf,$(wildcard c-tests/lab/*.conf))

$(B)/lab/tests/%.test: c-tests/lab/%.c $(LAB_COMMON) $(LAB_HDR) $(C_TEST_HDR) $(TEST_SOS) | $(B)/lab/tests
	@$(CC) $(TEST_CPPFLAGS) -Ic-tests $(TEST_CFLAGS) $(LDFLAGS) -o $@ $< $(LAB_COMMON) -L$(B) -lvfiomig -pthread $(TEST_RPATH)

$(B)/lab/tests/%.conf: c-tests/lab/%.conf | $(B)/lab/tests
	@cp $< $@

# Given to the tool there.
LAB_DECODERS = $(patsubst c-tests/lab/decoders/%.c,$(B)/lab/decoders/%.so,$(wildcard c-tests/lab/decoders/*.c))
$(B)/lab/decoders/%.so: c-tests/lab/decoders/%.c include/vfiomig.h | $(B)/lab/decoders
	@$(CC) $(TEST_CPPFLAGS) $(TEST_CFLAGS) -shared -fPIC $(LDFLAGS) -o $@ $<

.PHONY: lab-programs
lab-programs: $(LAB_TESTS) $(LAB_CONF) $(LAB_DECODERS) $(B)/vfiomig $(B)/demo/demo | $(B)/lab/tests
	@cp -f $(B)/vfiomig $(B)/demo/demo $(B)/lab/

.PHONY: lab
lab: lab-programs ## the C tests on real kernels, in machines of their own (uses the network once)
	@lab/iommufd-layout.sh
	@lab/run.sh --programs $(B)/lab

# Not part of check: minutes for each kernel.
.PHONY: lab-checkpoints
lab-checkpoints: $(TEST_SOS) ## 1000 checkpoints and restores on real devices, and a writer killed in each system call
	@mkdir -p $(B)/lab-checkpoints/tests
	@{ cat c-tests/lab/checkpoint.conf && echo TIMEOUT=1800; } >$(B)/lab-checkpoints/tests/checkpoint.conf
	@$(CC) $(TEST_CPPFLAGS) -Ic-tests $(TEST_CFLAGS) -DROUNDS=1000 $(LDFLAGS) -o $(B)/lab-checkpoints/tests/checkpoint.test \
		c-tests/lab/checkpoint.c $(LAB_COMMON) -L$(B) -lvfiomig -pthread $(TEST_RPATH)
	@lab/run.sh --no-sanity --programs $(B)/lab-checkpoints

.PHONY: lab-syscalls
lab-syscalls: lab-programs ## compare docs/syscalls.json with the calls made on a real device
	@rm -rf $(B)/lab-strace
	@lab/strace.sh --programs $(B)/lab $(B)/lab-strace
	@c-tests/syscalls.sh --log $(B)/lab-strace/*.strace

# Not part of check: it takes a quarter of an hour, and twice that the first time.
.PHONY: check-qemu
check-qemu: ## migrate VFIO devices between QEMUs in the lab's machine (long; uses the network once)
	@CARGO='$(CARGO)' integrations/qemu/check.sh $(B)/qemu

.PHONY: bench-qemu
bench-qemu: ## compare QEMU_A with QEMU_B: downtime, system calls, memory (long)
	@CARGO='$(CARGO)' integrations/qemu/bench.sh $(B)/qemu

.PHONY: bench
bench: $(TEST_SOS) $(B)/vfiomig ## measure against bare loops
	@if [ -x benches/run.sh ]; then benches/run.sh; else echo "bench: there is none yet" >&2; exit 1; fi

# There, the library has other locks, because std's come without the sanitizer.
CHECK_GROUPS += check-tsan
.PHONY: check-tsan
check-tsan: ## C programs with several threads under the thread sanitizer, if there is one
	@CC='$(CC)' CARGO='$(CARGO)' RUSTC='$(RUSTC)' B='$(abspath $(B))' tests/tsan/run.sh \
		$(addprefix c-tests/,threads.c threads-packets.c dirty-threads.c qemu-format.c group.c channels.c history.c \
			event-queue.c checkpoint-auth.c checkpoint-file.c)

# With a driver of our own, any stable compiler will do.
SMOKE_SECONDS ?= 6
# The same inputs every time, so that a check says something about the change. `make fuzz` looks for
# what is new.
SMOKE_SEED ?= 1

CHECK_GROUPS += fuzz-smoke
.PHONY: fuzz-smoke
fuzz-smoke: | $(B) ## each fuzz target for 6 seconds (SMOKE_SECONDS), without libFuzzer
	@mkdir -p $(B)/fuzz
	@VFIOMIG_FUZZ_OUT=$(B)/fuzz $(CARGO) run --quiet $(CARGO_ARGS) --profile checked \
		--package vfiomig-fuzz -- --seconds '$(SMOKE_SECONDS)' --seed '$(SMOKE_SEED)'

# `make fuzz SECONDS=600` is the same.
FUZZ_SECONDS ?= $(or $(SECONDS),60)

.PHONY: fuzz
fuzz: ## each fuzz target for a minute (FUZZ_SECONDS, FUZZ_JOBS, FUZZ_TARGETS) under libFuzzer
	@CARGO='$(CARGO)' B='$(abspath $(B))' FUZZ_SECONDS='$(FUZZ_SECONDS)' fuzz/run.sh $(FUZZ_TARGETS)

# --- installing -------------------------------------------------------------------------------

# Takes what `make` built, and builds nothing: another user, without cargo, may run it.
.PHONY: install
install: ## install what `make` built
	@for f in $(REALNAME) $(if $(filter 1,$(ENABLE_STATIC)),libvfiomig.a) native-libs vfiomig; do \
		test -e $(B)/$$f || { echo "$(B)/$$f is not there: run make first" >&2; exit 1; }; done
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR) \
		$(DESTDIR)$(PKGCONFIGDIR) $(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(MANDIR)/man7
	$(INSTALL) -m 755 $(B)/vfiomig $(DESTDIR)$(BINDIR)/vfiomig
	$(INSTALL) -m 755 $(B)/$(REALNAME) $(DESTDIR)$(LIBDIR)/$(REALNAME)
	ln -sf $(REALNAME) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libvfiomig.so
ifeq ($(ENABLE_STATIC),1)
	$(INSTALL) -m 644 $(B)/libvfiomig.a $(DESTDIR)$(LIBDIR)/libvfiomig.a
endif
	$(INSTALL) -m 644 include/vfiomig.h $(DESTDIR)$(INCLUDEDIR)/vfiomig.h
	@$(call make_pc,vfiomig) >$(B)/installed.pc
	$(INSTALL) -m 644 $(B)/installed.pc $(DESTDIR)$(PKGCONFIGDIR)/vfiomig.pc
	$(INSTALL) -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(DOCDIR)
	@for f in cli/vfiomig.1 $(MAN5); do \
		sed 's~/etc/vfiomig~$(SYSCONFDIR)/vfiomig~g' $$f >$(B)/installed.man && \
		$(INSTALL) -m 644 $(B)/installed.man $(DESTDIR)$(MANDIR)/man$${f##*.}/$${f##*/} || exit 1; done
	$(INSTALL) -d $(DESTDIR)$(DOCDIR)/docs/abi
	@for f in $(DOCS); do \
		sed -E '$(UNLINK)' $$f >$(B)/installed.doc && \
		$(INSTALL) -m 644 $(B)/installed.doc $(DESTDIR)$(DOCDIR)/$$f || exit 1; done
	$(INSTALL) -d $(DESTDIR)$(DOCDIR)/docs/schema $(DESTDIR)$(BASHCOMPDIR) $(DESTDIR)$(ZSHCOMPDIR) \
		$(DESTDIR)$(FISHCOMPDIR)
	$(INSTALL) -m 644 docs/schema/*.json $(DESTDIR)$(DOCDIR)/docs/schema
	$(INSTALL) -m 644 cli/completions/vfiomig.bash $(DESTDIR)$(BASHCOMPDIR)/vfiomig
	$(INSTALL) -m 644 cli/completions/_vfiomig $(DESTDIR)$(ZSHCOMPDIR)/_vfiomig
	$(INSTALL) -m 644 cli/completions/vfiomig.fish $(DESTDIR)$(FISHCOMPDIR)/vfiomig.fish
	$(INSTALL) -m 644 $(MAN3) $(DESTDIR)$(MANDIR)/man3
	$(INSTALL) -m 644 $(MAN7) $(DESTDIR)$(MANDIR)/man7

MAN3 = $(wildcard docs/man/man3/*.3)
MAN5 = $(wildcard docs/man/man5/*.5)
MAN7 = $(wildcard docs/man/man7/*.7)
DOCS = LICENSE-MIT LICENSE-APACHE CHANGELOG.md README.md SECURITY.md $(wildcard docs/*.md docs/abi/*.txt) docs/syscalls.json
# Links to what stays in the source tree.
UNLINK = s~\[([^]]+)\]\((\.\./)?(c-tests|integrations|lab|packaging|sim|CONTRIBUTING)[^)]*\)~\1 (in the source tree)~g

# Separate from install: a VMM needs it only for its tests, and its ABI is not promised.
.PHONY: install-sim
install-sim: ## install the simulator, which `make sim` built, for tests of VMMs
	@for f in libvfiomig-sim.so $(if $(filter 1,$(ENABLE_STATIC)),libvfiomig-sim.a); do \
		test -e $(B)/$$f || { echo "$(B)/$$f is not there: run make sim first" >&2; exit 1; }; done
	$(INSTALL) -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(PKGCONFIGDIR)
	$(INSTALL) -m 755 $(B)/libvfiomig-sim.so $(DESTDIR)$(LIBDIR)/libvfiomig-sim.so
ifeq ($(ENABLE_STATIC),1)
	$(INSTALL) -m 644 $(B)/libvfiomig-sim.a $(DESTDIR)$(LIBDIR)/libvfiomig-sim.a
endif
	$(INSTALL) -m 644 sim/include/vfiomig-sim.h $(DESTDIR)$(INCLUDEDIR)/vfiomig-sim.h
	@$(call make_pc,vfiomig-sim) >$(B)/installed.pc
	$(INSTALL) -m 644 $(B)/installed.pc $(DESTDIR)$(PKGCONFIGDIR)/vfiomig-sim.pc

.PHONY: uninstall
uninstall: ## remove what install and install-sim installed
	rm -f $(DESTDIR)$(BINDIR)/vfiomig \
		$(addprefix $(DESTDIR)$(LIBDIR)/,$(REALNAME) $(SONAME) libvfiomig.so libvfiomig.a libvfiomig-sim.so libvfiomig-sim.a) \
		$(addprefix $(DESTDIR)$(INCLUDEDIR)/,vfiomig.h vfiomig-sim.h) \
		$(addprefix $(DESTDIR)$(PKGCONFIGDIR)/,vfiomig.pc vfiomig-sim.pc) \
		$(addprefix $(DESTDIR)$(MANDIR)/man3/,$(notdir $(MAN3))) \
		$(addprefix $(DESTDIR)$(MANDIR)/man5/,$(notdir $(MAN5))) \
		$(addprefix $(DESTDIR)$(MANDIR)/man7/,$(notdir $(MAN7))) \
		$(DESTDIR)$(MANDIR)/man1/vfiomig.1 $(addprefix $(DESTDIR)$(DOCDIR)/,$(DOCS) $(wildcard docs/schema/*.json)) \
		$(DESTDIR)$(BASHCOMPDIR)/vfiomig $(DESTDIR)$(ZSHCOMPDIR)/_vfiomig $(DESTDIR)$(FISHCOMPDIR)/vfiomig.fish
	-rmdir $(DESTDIR)$(DOCDIR)/docs/abi $(DESTDIR)$(DOCDIR)/docs/schema $(DESTDIR)$(DOCDIR)/docs $(DESTDIR)$(DOCDIR) 2>/dev/null

.PHONY: dist
dist: ## source and vendor tarballs with checksums in build/dist (uses the network)
	@CARGO='$(CARGO)' CARGO_FLAGS='$(CARGO_FLAGS)' scripts/dist.sh $(VERSION) $(B)/dist

.PHONY: dist-check
dist-check: dist ## build from the tarballs alone, without network
	@MAKE='$(MAKE)' scripts/dist-check.sh $(VERSION) $(B)/dist

# What is in the vendor tarball decides, so that is made first.
.PHONY: debian-copyright
debian-copyright: dist ## write packaging/debian/copyright after the crates have changed (uses the network)
	@rm -rf $(B)/crates && mkdir $(B)/crates
	@tar -xzf $(B)/dist/libvfiomig-$(VERSION)-vendor.tar.gz -C $(B)/crates --strip-components=1
	@packaging/copyright.py $(B)/crates/vendor >$(B)/crates/copyright
	@cp $(B)/crates/copyright packaging/debian/copyright
	@rm -rf $(B)/crates

# Not part of check: it builds everything six times.
.PHONY: check-packages
check-packages: ## build, install and use packages in roots of Debian 13, as root (long; uses the network)
	@MAKE='$(MAKE)' packaging/check/run.sh $(VERSION) $(PACKAGE_STEPS)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(B)
	$(CARGO) clean
