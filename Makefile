# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Builds and tests sluice; `make help` lists the targets. Everything that is
# made lands in $(O). V=1 shows the commands, WERROR=1 makes warnings errors.

VERSION := 1.0.0
# Of the release: manual pages and packages say so.
DATE := 2026-11-25
# Of the packages: who builds them, as Debian's tools know him. Nobody publishes them,
# so that otherwise there is no address to write to.
MAINTAINER ?= $(or $(DEBFULLNAME),the sluice authors) <$(or $(DEBEMAIL),nobody@sluice.invalid)>
# Its number is that of the package libsluice0, and goes up when programs that were
# linked before could not run any more (selftests/abi).
SONAME := libsluice.so.0

O ?= build
CC ?= cc
AR ?= ar
OBJCOPY ?= objcopy
INSTALL ?= install
CLANG ?= clang
BPFTOOL ?= $(or $(shell command -v bpftool),/usr/sbin/bpftool)
CLANG_FORMAT ?= clang-format
SHELLCHECK ?= shellcheck
JOBS ?= $(shell nproc)

CFLAGS ?= -O2 -g -Wall -Wextra
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
# Below /usr where this Debian's linker looks; elsewhere as everybody does it.
LIBDIR ?= $(PREFIX)/lib$(if $(filter /usr,$(PREFIX)),$(addprefix /,$(shell $(CC) -print-multiarch)))
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/sluice
SBINDIR ?= $(PREFIX)/sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
BPFDIR ?= $(PREFIX)/lib/sluice

# Set by the asan and tsan targets only.
SANITIZER ?=
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer
# TSan cannot follow fences; what it says about each of them is no news.
SANITIZE_tsan := -fsanitize=thread -Wno-tsan
SANITIZE := $(SANITIZE_$(SANITIZER))

# What a fresh Debian 12 may lack. diffutils, sed and the like are essential.
PACKAGES := gcc make libc6-dev g++ binutils libjansson-dev liburing-dev \
	libbpf-dev libelf-dev libinih-dev libcap-ng-dev libsystemd-dev systemtap-sdt-dev \
	pkg-config clang bpftool bpftrace spin gnuplot-nox clang-format shellcheck \
	python3 perl strace curl socat nginx-light mandoc abigail-tools \
	dwarves
# Of check-vm only.
VM_PACKAGES := qemu-system-x86 busybox-static cpio
# Of deb, and of the test that installs what it makes.
DEB_PACKAGES := debhelper fakeroot lintian mmdebstrap

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-8s %s\n' '$1' '$2')
quote = $(subst ','\'',$1)
# A make of our own that uses every CPU unless a -j was given.
SUBMAKE = $(MAKE) --no-print-directory \
	$(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))

# Sources -----------------------------------------------------------------

LIB_SRC := $(wildcard user/lib/*.c)
BENCH_SRC := $(wildcard user/bench/*.c)
DAEMON_SRC := $(wildcard user/daemon/*.c)
CAT_SRC := $(wildcard user/examples/sluicecat*.c)
CTL_SRC := $(wildcard user/ctl/*.c)
EXAMPLE_SRC := $(filter-out $(CAT_SRC),$(wildcard user/examples/*.c))
# Its C files are in it, and are installed as files too.
TUTORIAL := user/examples/TUTORIAL.md
# A C file with cases is a test, X-tool.c a program that a test script uses. What
# the others have is linked to every test.
TEST_SRC := $(shell grep -lE '^TAP_(TEST|EACH)' selftests/*.c)
TEST_TOOL_SRC := $(wildcard selftests/*-tool.c)
HELPER_SRC := $(filter-out $(TEST_SRC) $(TEST_TOOL_SRC) selftests/redirects.c, \
	$(wildcard selftests/*.c))
BPF_SRC := $(wildcard bpf/*.bpf.c)
MAN := $(wildcard user/man/*.[1-8])
HEADERS := $(wildcard include/sluice/*.h)
BPFTRACE_SCRIPTS := $(wildcard bpf/trace/*.bt)

obj = $(patsubst %.c,$(O)/obj/%.o,$1)
LIB := $(O)/lib/libsluice.a
SHARED := $(O)/lib/$(SONAME).$(VERSION)
SHARED_LINKS := $(O)/lib/$(SONAME) $(O)/lib/libsluice.so
TOOLS := $(if $(BENCH_SRC),$(O)/bin/sluice-bench) \
	$(if $(CAT_SRC),$(O)/bin/sluicecat) \
	$(if $(CTL_SRC),$(O)/bin/sluicectl)
DAEMON := $(O)/bin/sluiced
EXAMPLES := $(patsubst user/examples/%.c,$(O)/examples/%,$(EXAMPLE_SRC))
BPF_OBJECTS := $(patsubst bpf/%.c,$(O)/bpf/%.o,$(BPF_SRC))
SKELETONS := $(patsubst bpf/%.bpf.c,$(O)/gen/%.skel.h,$(BPF_SRC))
TESTS_BUILT := $(patsubst selftests/%.c,$(O)/selftests/%,$(TEST_SRC))
TEST_TOOLS := $(patsubst selftests/%.c,$(O)/selftests/%,$(TEST_TOOL_SRC))

# Parts of sluiced that are tested without it, by selftests/redirect-*.c.
REDIRECT_SRC := selftests/redirects.c $(addprefix user/daemon/,redirect.c redirect-pair.c fence.c \
	flow.c move.c hold.c sockmap.c maps.c pins.c log.c)
REDIRECT_TESTS := $(filter $(O)/selftests/redirect-%,$(TESTS_BUILT))

# What tests and scripts need to know.
export SLUICE_BUILD := $(abspath $(O))
export SLUICE_SANITIZER := $(SANITIZER)
export CC

.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
.PHONY: all tests demo check suite check-vm vm-shell vm-record bench asan tsan soak lint format deps \
	man deb deps-deb abi-record load unload install uninstall clean help FORCE

## all: the library, the BPF programs, the tools and the examples (default)
all: $(LIB) $(SHARED) $(SHARED_LINKS) $(BPF_OBJECTS) $(TOOLS) $(DAEMON) \
	$(EXAMPLES) man

tests: all $(TESTS_BUILT) $(TEST_TOOLS)

# Compiling ---------------------------------------------------------------

SLUICE_CFLAGS := -std=gnu11 -D_GNU_SOURCE= -pthread $(if $(filter 1,$(WERROR)),-Werror) \
	$(SANITIZE)
OWN_LIB := -fPIC -fvisibility=hidden -fno-semantic-interposition \
	-DSLUICE_VERSION='"$(VERSION)"'
OWN_TEST := -Iselftests -Iuser/lib -Ibpf -I$(O)/gen
OWN_DAEMON := -I$(O)/gen -Ibpf -DSLUICE_VERSION='"$(VERSION)"'
$(O)/obj/user/lib/%.o: OWN = $(OWN_LIB)
$(O)/obj/user/daemon/%.o: OWN = $(OWN_DAEMON)
OWN_CTL := -I$(O)/gen -Ibpf -Iuser/daemon -DSLUICE_LIBRARY='"$(LIBDIR)/$(SONAME)"'
$(O)/obj/user/ctl/%.o: OWN = $(OWN_CTL)
$(O)/obj/selftests/%.o: OWN = $(OWN_TEST)
$(O)/obj/selftests/redirect%.o: OWN = $(OWN_TEST) -Iuser/daemon

COMPILE = $(CC) $(SLUICE_CFLAGS) -Iinclude $(OWN) $(CPPFLAGS) $(CFLAGS)
LINK = $(CC) -pthread $(SANITIZE) $(CFLAGS) $(LDFLAGS)

# None of the distribution's CFLAGS: they are not for this target.
BPF_FLAGS := --target=bpf -mcpu=v3 -std=gnu11 -O2 -g -Wall -Wextra \
	$(if $(filter 1,$(WERROR)),-Werror) -ffile-prefix-map=$(CURDIR)=. \
	-Iinclude -Ivmlinux -idirafter /usr/include/$(shell $(CC) -print-multiarch)

# Every object depends on the flags, every link on the list of sources: each is
# a file that is written anew only when its contents change.
FLAGS := $(CC) $(SLUICE_CFLAGS) $(OWN_LIB) $(OWN_DAEMON) $(OWN_CTL) $(OWN_TEST) $(CPPFLAGS) $(CFLAGS) \
	$(LDFLAGS) $(CLANG) $(BPF_FLAGS)
SOURCES := $(LIB_SRC) $(BENCH_SRC) $(DAEMON_SRC) $(CAT_SRC) \
	$(CTL_SRC) $(HELPER_SRC)
ifneq ($(file <$(O)/flags),$(strip $(FLAGS)))
$(O)/flags: FORCE
endif
ifneq ($(file <$(O)/sources),$(strip $(SOURCES)))
$(O)/sources: FORCE
endif
$(O)/flags: | $(O)
	@printf '%s\n' '$(call quote,$(strip $(FLAGS)))' >$@
$(O)/sources: | $(O)
	@printf '%s\n' '$(call quote,$(strip $(SOURCES)))' >$@

# Says which package is missing before the compiler says which header is.
$(O)/ready: Makefile | $(O)
	@missing=; \
	command -v $(firstword $(CC)) >/dev/null || missing=gcc; \
	command -v $(firstword $(CLANG)) >/dev/null || missing=clang; \
	command -v $(firstword $(BPFTOOL)) >/dev/null || missing=bpftool; \
	for need in stdio.h:libc6-dev linux/types.h:linux-libc-dev \
			jansson.h:libjansson-dev liburing.h:liburing-dev \
			bpf/libbpf.h:libbpf-dev ini.h:libinih-dev \
			cap-ng.h:libcap-ng-dev gelf.h:libelf-dev sys/sdt.h:systemtap-sdt-dev \
			systemd/sd-daemon.h:libsystemd-dev; do \
		test -n "$$missing" && break; \
		echo "#include <$${need%:*}>" | \
			$(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 || \
			missing="$${need#*:}"; \
	done; \
	if test -n "$$missing"; then \
		echo "sluice: the package $$missing is missing;" \
			"run 'make deps' (or apt-get install $$missing)" >&2; \
		exit 1; \
	fi
	@touch $@

# Who loads programs; later the .d files say so.
$(call obj,$(HELPER_SRC) selftests/redirects.c): | $(SKELETONS)

$(O)/obj/%.o: %.c $(O)/flags | $(O)/ready
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -MMD -MP -c -o $@ $<

-include $(patsubst %.o,%.d,$(call obj,$(LIB_SRC) $(BENCH_SRC) $(DAEMON_SRC) \
	$(CAT_SRC) $(CTL_SRC) $(EXAMPLE_SRC) $(HELPER_SRC) $(TEST_SRC) $(TEST_TOOL_SRC) \
	selftests/redirects.c))

# The objects are the same wherever they are built: gen object drops what is
# there for debuggers. A program says #include "NAME.skel.h" to load one.
$(O)/bpf/%.bpf.o: bpf/%.bpf.c $(O)/flags | $(O)/ready $(O)/bpf
	$(call say,BPF,$<)
	$(Q)$(CLANG) $(BPF_FLAGS) -MMD -MP -MT $@ -MF $(@:.o=.d) \
		-c -o $(@:.o=.tmp.o) $<
	$(Q)$(BPFTOOL) gen object $@ $(@:.o=.tmp.o)

$(O)/gen/%.skel.h: $(O)/bpf/%.bpf.o | $(O)/gen
	$(Q)$(BPFTOOL) gen skeleton $< name $*_bpf >$@

-include $(BPF_OBJECTS:.o=.d)

# Skeletons are there before the first dependency files say who needs them.
$(call obj,$(DAEMON_SRC) $(CTL_SRC)): | $(SKELETONS)

# Linking -----------------------------------------------------------------

# One object with every internal name made local: they are as invisible in the
# static library as in the shared one, and cannot meet a program's own.
$(O)/obj/libsluice.o: $(call obj,$(LIB_SRC)) $(O)/sources
	$(Q)$(CC) $(CFLAGS) -r -nostdlib -o $@ $(filter %.o,$^)
	$(Q)$(OBJCOPY) --localize-hidden $@

$(LIB): $(O)/obj/libsluice.o | $(O)/lib
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $<

$(SHARED): $(call obj,$(LIB_SRC)) user/lib/libsluice.map $(O)/sources | $(O)/lib
	$(call say,LINK,$@)
	$(Q)$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,-z,relro \
		$(if $(SANITIZE),,-Wl,-z,defs) \
		-Wl,--version-script,user/lib/libsluice.map \
		-o $@ $(filter %.o,$^)

$(O)/lib/$(SONAME): $(SHARED)
	$(Q)ln -sf $(<F) $@
$(O)/lib/libsluice.so: $(O)/lib/$(SONAME)
	$(Q)ln -sf $(<F) $@

define LINK_PROGRAM
$(call say,LINK,$@)
$(Q)$(LINK) -o $@ $(filter %.o,$^) $(LIB) -Wl,--as-needed $(LIBS)
endef

$(O)/bin/sluice-bench: LIBS = -ljansson -luring -lm
$(O)/bin/sluice-bench: $(call obj,$(BENCH_SRC)) $(LIB) $(O)/sources | $(O)/bin
	$(LINK_PROGRAM)

$(O)/bin/sluicecat: LIBS = -ljansson -luring
$(O)/bin/sluicecat: $(call obj,$(CAT_SRC)) $(LIB) $(O)/sources | $(O)/bin
	$(LINK_PROGRAM)

$(O)/bin/sluicectl: LIBS = -ljansson -lbpf -lelf -luring
$(O)/bin/sluicectl: $(call obj,$(CTL_SRC) user/daemon/counts.c) $(LIB) $(O)/sources | $(O)/bin
	$(LINK_PROGRAM)

# Not linked to the library, which does not need sluiced either.
$(DAEMON): $(call obj,$(DAEMON_SRC)) $(O)/sources | $(O)/bin
	$(call say,LINK,$@)
	$(Q)$(LINK) -o $@ $(filter %.o,$^) -Wl,--as-needed -lbpf -luring -linih -lcap-ng \
		-lsystemd

$(EXAMPLES): LIBS = -luring
$(EXAMPLES): $(O)/examples/%: $(O)/obj/user/examples/%.o $(LIB) | $(O)/examples
	$(LINK_PROGRAM)

$(REDIRECT_TESTS): $(call obj,$(REDIRECT_SRC))
$(TESTS_BUILT): LIBS = -luring -lbpf
$(TESTS_BUILT): $(O)/selftests/%: $(O)/obj/selftests/%.o \
		$(call obj,$(HELPER_SRC)) $(LIB) $(O)/sources | $(O)/selftests
	$(LINK_PROGRAM)

$(TEST_TOOLS): LIBS = -lbpf
$(TEST_TOOLS): $(O)/selftests/%: $(O)/obj/selftests/%.o $(LIB) | $(O)/selftests
	$(LINK_PROGRAM)

$(O) $(addprefix $(O)/,bin lib bpf gen examples selftests):
	@mkdir -p $@

# Running -----------------------------------------------------------------

## demo: a real directory tree through sluice, then copy against zero copy
demo: deps
	+$(Q)$(SUBMAKE) all
	$(Q)PATH="$(SLUICE_BUILD)/bin:$$PATH" user/examples/demo.sh

## check: build, lint and every test; TESTS="a b" chooses some
check: deps
	+$(Q)$(SUBMAKE) tests
	+$(Q)$(MAKE) --no-print-directory lint
	+$(Q)$(MAKE) --no-print-directory suite

# The tests alone.
suite: tests
	$(Q)selftests/run $(TESTS)

KERNELS := 6.1 6.12 7.2
KERNEL ?= $(KERNELS)
## check-vm: every test in guests, see selftests/vm; KERNEL=6.12 TESTS="a b"
check-vm: deps $(O)/deps-vm
	+$(Q)$(SUBMAKE) tests
	$(Q)status=0; \
	VM_TESTS="$(or $(TESTS),all)" \
		selftests/run $(addprefix vm-,$(KERNEL)) || status=$$?; \
	selftests/vm/table $(KERNEL); \
	exit $$status

## vm-shell: a shell in a guest; KERNEL=6.12
vm-shell: tests $(O)/deps-vm
	$(Q)selftests/vm/initramfs $(O)/vm
	$(Q)selftests/vm/boot $(lastword $(KERNEL)) shell $(O)/vm

## vm-record: writes down what guests find, verifier.txt and probe.txt
vm-record: tests $(O)/deps-vm
	$(Q)for kernel in $(KERNEL); do \
		selftests/vm/run --record $$kernel || exit; \
	done

## bench: a short standard benchmark; BENCH_ARGS="..." are more options
bench: deps
	+$(Q)$(SUBMAKE) all
	$(Q)$(O)/bin/sluice-bench --json $(O)/bench.json \
		--plot $(O)/bench.svg $(BENCH_ARGS)

## asan: every test under AddressSanitizer and UBSan, in $(O)/asan
## tsan: every test under ThreadSanitizer, in $(O)/tsan
asan tsan: deps
	+$(Q)$(SUBMAKE) O=$(O)/$@ SANITIZER=$@ tests
	+$(Q)$(MAKE) --no-print-directory O=$(O)/$@ SANITIZER=$@ suite

MINUTES ?= 60
## soak: one long test; MINUTES=60
soak: tests
	$(Q)MINUTES=$(MINUTES) $(O)/selftests/soak

PINS ?= /sys/fs/bpf/sluice
# How conns.bpf.c, loaded by bpftool, finds the map.
CONNS_PIN := /sys/fs/bpf/sluice_conns
## load: the BPF programs, by bpftool alone; maps and programs in PINS
load: $(BPF_OBJECTS)
	$(Q)$(BPFTOOL) prog loadall $(O)/bpf/steer.bpf.o $(PINS) pinmaps $(PINS)
	$(Q)$(BPFTOOL) prog loadall $(O)/bpf/sockmap.bpf.o $(PINS) pinmaps $(PINS)
	$(Q)$(BPFTOOL) prog attach pinned $(PINS)/redirect sk_skb_verdict \
		pinned $(PINS)/sources
	$(Q)if $(BPFTOOL) prog help 2>&1 | grep -q cgroup/connect_unix; then \
		$(BPFTOOL) prog loadall $(O)/bpf/connect.bpf.o $(PINS) \
			pinmaps $(PINS); \
	else \
		echo 'connect.bpf.o: this bpftool does not know its type;' \
			'sluiced sets that by hand'; \
	fi
	$(Q)trap 'rm -f $(CONNS_PIN)' EXIT && \
		$(BPFTOOL) map pin pinned $(PINS)/conns $(CONNS_PIN) && \
		$(BPFTOOL) iter pin $(O)/bpf/conns.bpf.o $(PINS)/connections
	@echo "loaded; 'cat $(PINS)/connections' lists the connections"

## unload: removes PINS; programs go when the last socket that has them does
unload:
	$(Q)rm -rf $(PINS)

## lint: format, include direction, licences, symbols, headers, shell scripts
lint: $(LIB) $(SHARED)
	$(Q)CLANG_FORMAT="$(CLANG_FORMAT)" SHELLCHECK="$(SHELLCHECK)" \
		selftests/lint.sh

## format: applies clang-format
format:
	$(Q)CLANG_FORMAT="$(CLANG_FORMAT)" selftests/lint.sh --format

## deps: installs the Debian packages that are missing
deps: $(O)/deps $(if $(shell command -v promtool),,$(O)/tools/promtool) \
	$(O)/tools/bpftrace

$(O)/deps: NEEDED = $(PACKAGES)
$(O)/deps-vm: NEEDED = $(VM_PACKAGES)
$(O)/deps-deb: NEEDED = $(DEB_PACKAGES)
$(O)/deps $(O)/deps-vm $(O)/deps-deb: Makefile | $(O)
	@missing=; \
	for package in $(NEEDED); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | \
			grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	as_root=; \
	if test -n "$$missing" && test "$$(id -u)" != 0; then \
		as_root=sudo; \
		command -v sudo >/dev/null || { \
			echo "sluice: these packages are missing:$$missing;" \
				"install them as root" >&2; \
			exit 1; \
		}; \
	fi; \
	if test -n "$$missing"; then \
		echo "  DEPS    $$missing"; \
		$$as_root selftests/install.sh $$missing >$@.log || \
			{ cat $@.log >&2; exit 1; }; \
	fi
	@touch $@

# One program of a package whose server nobody wants here.
$(O)/tools/promtool: | $(O)/deps
	$(call say,DEPS,$(@F))
	@selftests/unpack.sh prometheus usr/bin/promtool $(@D) || \
		echo 'sluice: no promtool: the test that needs it is skipped' >&2

# A newer one than this Debian's, beside it.
$(O)/tools/bpftrace: | $(O)/deps
	$(call say,DEPS,$@)
	@mkdir -p $(@D); \
	found=$$(selftests/vm/fetch bpftrace) && ln -sfn "$$found/bpftrace" $@ || \
		echo "sluice: $$found: the newer bpftrace is not tested" >&2

# Manual pages ------------------------------------------------------------

# All of them: those of user/man, and those that it makes of the headers' comments
# and of PROTOCOL.md.
man: $(O)/man/made

$(O)/man/made: $(MAN) $(wildcard user/man/*.py) $(HEADERS) include/PROTOCOL.md \
		user/lib/libsluice.map Makefile
	$(call say,MAN,$(@D))
	@rm -rf $(@D) && mkdir -p $(@D)
	$(Q)cp $(MAN) $(@D)
	$(Q)user/man/pages.py $(DATE) $(@D)
	@touch $@

# Installing --------------------------------------------------------------

COMMANDS := $(notdir $(TOOLS) $(DAEMON))
# What is made of FILE.in.
substitute = sed $(foreach name,PREFIX LIBDIR INCLUDEDIR SBINDIR VERSION DATE, \
	-e 's|@$(name)@|$($(name))|')

## install: to PREFIX, BINDIR, LIBDIR, INCLUDEDIR, MANDIR under DESTDIR
install: all
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(SBINDIR) $(LIBDIR)/pkgconfig \
		$(INCLUDEDIR)/sluice $(DOCDIR) $(UNITDIR) $(COMPLETIONDIR) $(BPFDIR))
	$(INSTALL) -m 755 $(TOOLS) $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 755 $(DAEMON) $(DESTDIR)$(SBINDIR)
	$(substitute) user/daemon/sluiced.service.in \
		>$(DESTDIR)$(UNITDIR)/sluiced.service
	$(INSTALL) -m 644 user/daemon/sluiced.socket $(DESTDIR)$(UNITDIR)
	$(INSTALL) -D -m 644 user/daemon/sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/sluice.conf
	$(INSTALL) -D -m 644 user/daemon/tmpfiles.conf $(DESTDIR)$(TMPFILESDIR)/sluice.conf
	$(INSTALL) -m 644 user/ctl/completion.bash $(DESTDIR)$(COMPLETIONDIR)/sluicectl
	for command in $(filter-out sluicectl,$(COMMANDS)); do \
		ln -sf sluicectl $(DESTDIR)$(COMPLETIONDIR)/$$command || exit; \
	done
	$(INSTALL) -m 644 user/daemon/sluiced.conf $(DESTDIR)$(DOCDIR)
	$(INSTALL) -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)/sluice
	$(INSTALL) -m 644 include/PROTOCOL.md LICENSE $(wildcard LICENSES/*) \
		$(DESTDIR)$(DOCDIR)
	$(INSTALL) -d $(DESTDIR)$(DOCDIR)/examples/tutorial
	$(INSTALL) -m 644 $(TUTORIAL) $(EXAMPLE_SRC) $(DESTDIR)$(DOCDIR)/examples
	awk '/^```c / { out = "$(DESTDIR)$(DOCDIR)/examples/tutorial/" $$2; next } \
		/^```/ { out = "" } out { print >out }' $(TUTORIAL)
	$(INSTALL) -m 644 $(BPF_OBJECTS) $(DESTDIR)$(BPFDIR)
	$(INSTALL) -d $(DESTDIR)$(DATADIR)/sluice/trace
	$(INSTALL) -m 755 $(BPFTRACE_SCRIPTS) $(DESTDIR)$(DATADIR)/sluice/trace
	$(INSTALL) -m 644 user/daemon/grafana.json $(DESTDIR)$(DATADIR)/sluice
	$(INSTALL) -m 644 $(LIB) $(DESTDIR)$(LIBDIR)
	$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(LIBDIR)
	cp -P $(SHARED_LINKS) $(DESTDIR)$(LIBDIR)
	$(substitute) user/lib/libsluice.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/libsluice.pc
	for page in $(O)/man/*.[1-8]; do \
		$(INSTALL) -D -m 644 $$page \
			$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/} || exit; \
	done
	$(if $(DESTDIR),,-ldconfig)

## uninstall: removes what install put there
uninstall: man
	rm -f $(addprefix $(DESTDIR)$(UNITDIR)/,sluiced.service sluiced.socket) \
		$(DESTDIR)$(SYSUSERSDIR)/sluice.conf $(DESTDIR)$(TMPFILESDIR)/sluice.conf \
		$(DESTDIR)$(SBINDIR)/sluiced \
		$(addprefix $(DESTDIR)$(BINDIR)/,$(notdir $(TOOLS))) \
		$(addprefix $(DESTDIR)$(COMPLETIONDIR)/,$(COMMANDS)) \
		$(addprefix $(DESTDIR)$(LIBDIR)/,$(notdir $(LIB) $(SHARED) \
		$(SHARED_LINKS)) pkgconfig/libsluice.pc)
	for page in $(O)/man/*.[1-8]; do \
		rm -f $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}; \
	done
	rm -rf $(addprefix $(DESTDIR),$(INCLUDEDIR)/sluice $(DOCDIR) $(BPFDIR) \
		$(DATADIR)/sluice)

# Packages ----------------------------------------------------------------

## deps-deb: what deb needs besides
deps-deb: deps $(O)/deps-deb

## deb: Debian packages in $(O)/deb
deb: $(O)/deb/made

# Built by debhelper in a copy, so that this tree stays as it is.
$(O)/deb/made: $(O)/deb/sluice/made
	$(call say,DEB,$(@D))
	$(Q)cd $(@D)/sluice && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL \
		DEB_BUILD_OPTIONS="nocheck parallel=$(JOBS) $(DEB_BUILD_OPTIONS)" \
		dpkg-buildpackage -b -us -uc >../log 2>&1 || { tail -30 ../log >&2; exit 1; }
	@touch $@

$(O)/deb/sluice/made: $(shell find Makefile LICENSE LICENSES README.md bpf include \
		user vmlinux -type f 2>/dev/null)
	@rm -rf $(O)/deb/sluice && mkdir -p $(@D)
	$(Q)cp -a Makefile LICENSE LICENSES README.md bpf include user vmlinux $(@D)
	$(Q)mv $(@D)/user/debian $(@D)/debian
	$(Q)date=$$(date -u -R -d $(DATE)) && sed -e 's|@VERSION@|$(VERSION)|' \
		-e "s|@DATE@|$$date|" -e 's|@MAINTAINER@|$(call quote,$(subst &,\&,$(MAINTAINER)))|' \
		user/debian/changelog.in >$(@D)/debian/changelog
	$(Q)sed -i 's|@MAINTAINER@|$(call quote,$(subst &,\&,$(MAINTAINER)))|' $(@D)/debian/control
	$(Q){ cat user/debian/copyright.in; echo 'License: BSD-2-clause'; \
		sed -e '1,2d' -e 's/^$$/./' -e 's/^/ /' LICENSES/BSD-2-Clause.txt; } \
		>$(@D)/debian/copyright
	@touch $@

## abi-record: writes down the library's ABI and the layouts of uapi.h
abi-record: $(SHARED)
	$(Q)selftests/abi/record selftests/abi

## clean: removes $(O)
clean:
	rm -rf $(O)

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' Makefile | \
		while IFS="$$(printf '\t')" read -r target text; do \
			printf '  make %-10s %s\n' "$$target" "$$text"; done
	@echo 'O=$(O) V=1 WERROR=1 CC= CFLAGS= CPPFLAGS= LDFLAGS= DESTDIR= PREFIX='
