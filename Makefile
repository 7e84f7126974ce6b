# siwa-notifyd: `make` builds build/siwa-notifyd, `make demo` shows it at work, `make check` runs every test, `make help` lists the rest.
# New files in src/ROOM/, tests/unit/ and tests/fuzz/ are found by name; nothing here has to change for them.
#
#: make            build build/siwa-notifyd
#: make demo       install what is missing, build, and show one notification of each type arriving
#: make check      install what is missing, build, run every test
#: make unit       the unit tests;  make integration: those against the real daemon
#: make controls   break the daemon in known ways, and see the tests notice
#: make lint       format, static analysis, shellcheck, the rules of the house
#: make asan       every test with AddressSanitizer and UBSan;  make tsan: with ThreadSanitizer
#: make cov        every test, then the coverage of lines and branches (COV_TESTS=unit: the unit tests alone)
#: make fuzz       fuzz every parser (FUZZ_RUNS or FUZZ_SECONDS);  make fuzz-NAME: one
#: make proof      try every promise, and whether a broken daemon would be noticed (SIZE=ci or full)
#: make bench      measure the daemon against its ceilings
#: make deb        the Debian package, into build/deb;  make check-package: try it (minutes)
#: make check-examples  the consumers of doc/consumers, with Go and Node installed for them
#: make check-container  build the image of Containerfile, and try it (minutes, as root)
#: make install    into DESTDIR/PREFIX;  make uninstall: take the same away
#: make deps       install what the build needs (deps-all: everything above)

VERSION := 0.1.0

BUILD   ?= build
CC      ?= cc
PKG     := libmicrohttpd openssl jansson sqlite3 libcurl libconfig

# What Debian 12 calls what we need.
DEPS_BUILD := gcc libc6-dev pkg-config libmicrohttpd-dev libssl-dev libjansson-dev libsqlite3-dev \
              libcurl4-openssl-dev libconfig-dev
DEPS_DEMO  := openssl ca-certificates
DEPS_TEST  := check python3 openssl ca-certificates curl sqlite3 faketime nginx haproxy caddy prometheus strace systemd \
              systemd-container
DEPS_LINT  := clang-format-14 cppcheck shellcheck mandoc python3 check
DEPS_COV   := gcovr
DEPS_SHOW  := chromium
DEPS_DEB   := build-essential debhelper check
DEPS_FUZZ  := clang-14 libclang-rt-14-dev
DEPS_PROOF := python3-jwcrypto slowhttptest xfsprogs e2fsprogs # and node with npm: tests/tools/install-node

# Asked once, when the first file is compiled: `make check` may have to install pkg-config first.
PKG_CFLAGS  = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKG)))$(PKG_CFLAGS)
PKG_LIBS    = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKG)))$(PKG_LIBS)
CHECK_LIBS  = $(eval CHECK_LIBS := $(shell pkg-config --libs check))$(CHECK_LIBS)

WARN     := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
            -Wpointer-arith -Wcast-qual -Wwrite-strings -Wformat=2 -Wundef -Wvla
HARDEN   ?= -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE -fstack-clash-protection -fcf-protection
OPT      ?= -O2 -g
WERROR   ?=
# No path of the machine that builds gets into what is built.
PREFIX_MAP ?= -ffile-prefix-map=$(CURDIR)=.
CPPFLAGS += -D_GNU_SOURCE -DSIWA_VERSION='"$(VERSION)"' -Iinclude
CFLAGS   += -std=c17 $(OPT) $(WARN) $(WERROR) $(HARDEN) $(PREFIX_MAP) $(PKG_CFLAGS) -pthread
LDFLAGS  += -pie -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS   += $(PKG_LIBS) -pthread
# V=1 shows the commands themselves.
V        ?= 0
say       = $(if $(filter 0,$(V)),@printf '  %-4s %s\n' $(1) $@ &&)
COMPILE   = $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP

SRC      := $(filter-out src/main.c,$(sort $(wildcard src/*/*.c)))
OBJ      := $(SRC:src/%.c=$(BUILD)/obj/%.o)
LIB      := $(BUILD)/libsiwa.a
PROGRAM  := $(BUILD)/siwa-notifyd
UNIT     := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/unit/test_*.c)))
TOOLS    := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/tools/*.c)))
PRELOAD  := $(patsubst %.c,$(BUILD)/%.so,$(sort $(wildcard tests/fault/preload_*.c)))
PROOF    := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/proof/*.c)))
FUZZ     := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

all: $(PROGRAM)

$(BUILD)/siwa-notifyd: $(BUILD)/obj/main.o $(LIB)
	$(call say,LINK) $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Made anew each time: an archive would keep the members whose source is gone.
$(LIB): $(OBJ)
	$(call say,AR) rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/obj/%.o: src/%.c Makefile | have-deps
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -c -o $@ $<

# Programs of the tests, one file each: unit tests, tools, and what fault and bench bring along.
$(BUILD)/tests/%: tests/%.c $(LIB) Makefile | have-deps
	@mkdir -p $(@D)
	$(call say,TEST) $(COMPILE) -I$(<D) $(LDFLAGS) -o $@ $< $(LIB) $(TEST_LIBS) $(LDLIBS)

$(UNIT): TEST_LIBS = $(CHECK_LIBS)

have-deps:
	@pkg-config --exists $(PKG) 2>/dev/null || { \
	echo "siwa-notifyd: missing to build: pkg-config, or one of $(PKG). Run: make deps" >&2; exit 1; }

# Libraries that are preloaded into the daemon to break what it stands on; never sanitised, whatever the daemon is.
$(BUILD)/tests/fault/preload_%.so: tests/fault/preload_%.c Makefile
	@mkdir -p $(@D)
	$(call say,TEST) $(CC) $(CPPFLAGS) -std=c17 -O2 -g $(WARN) $(WERROR) -fPIC -shared -MMD -MP -MT $@ -o $@ $< -ldl -pthread

fault-programs: $(PRELOAD)

tests: $(UNIT) $(TOOLS) $(PRELOAD)

deps:
	tests/tools/install-deps $(DEPS_BUILD)

deps-all:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST) $(DEPS_LINT) $(DEPS_COV) $(DEPS_FUZZ) $(DEPS_PROOF) $(DEPS_SHOW)
	tests/tools/install-node
	tests/tools/install-examples

demo:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_DEMO)
	$(MAKE) all
	tests/tools/demo $(BUILD)/siwa-notifyd

check:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST)
	$(MAKE) check-run

TESTS ?= all

check-run: all tests
	tests/tools/check $(BUILD) $(TESTS)

unit: all tests
	tests/tools/check $(BUILD) unit

integration: all tests
	tests/tools/check $(BUILD) integration

# The same tests against builds that watch themselves.
ASAN := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
TSAN := -O1 -g -fno-omit-frame-pointer -fsanitize=thread

asan:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST)
	$(MAKE) check-run BUILD=build-asan OPT='$(ASAN)' HARDEN=-fPIE

tsan:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST)
	$(MAKE) check-run BUILD=build-tsan OPT='$(TSAN)' HARDEN=-fPIE

COV_TESTS ?= all

cov:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST) $(DEPS_COV)
	find build-cov -name '*.gcda' -delete 2>/dev/null || true
	$(MAKE) check-run TESTS=$(COV_TESTS) BUILD=build-cov OPT='-O0 -g --coverage -fprofile-update=atomic' HARDEN=-fPIE PREFIX_MAP=
	tests/tools/cov build-cov

# Breaks a copy of the tree in each way of a list, and demands that a test notices. CONTROLS picks some by name.
controls: all tests
	SIWA_BUILD=$(BUILD) tests/tools/controls $(CONTROLS)

lint:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_LINT)
	tests/tools/lint build-lint '$(MAKE)'

# gcc 12 loses sight of an owner that is a member of an array or stands before a flexible one, and then reports leaks that are
# none. Here they are left to `make asan`, which sees them as they are.
LEAKS_UNSEEN := dispatcher/history_summary dispatcher/policy listener/control_events support/config

lint-analyzer:
	$(MAKE) all BUILD=build-lint OPT='-O1 -g -fanalyzer' WERROR=-Werror

$(LEAKS_UNSEEN:%=build-lint/obj/%.o): CFLAGS += -Wno-analyzer-malloc-leak

# `make fuzz` runs every target, `make fuzz-NAME` one. FUZZ_RUNS executions each, or FUZZ_SECONDS.
FUZZ_RUNS    ?= 1000000
FUZZ_SECONDS ?=
FUZZ_BUILD   := BUILD=build-fuzz CC=clang-14 HARDEN=-fPIE

fuzz: $(FUZZ:%=fuzz-%)

$(FUZZ:%=fuzz-%): fuzz-%: fuzz-build
	FUZZ_RUNS='$(FUZZ_RUNS)' FUZZ_SECONDS='$(FUZZ_SECONDS)' tests/tools/fuzz build-fuzz $*

fuzz-build:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_FUZZ)
	$(MAKE) fuzz-programs $(FUZZ_BUILD) \
	    OPT='-O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all'

fuzz-programs: $(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%)

$(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%): TEST_LIBS = -fsanitize=fuzzer

bench: all tests
	SIWA_BUILD=$(BUILD) tests/bench/run

# SIZE=ci takes minutes, SIZE=full days; PROOF_ARGS goes to tests/proof/run, which tells more.
SIZE       ?= ci
PROOF_ARGS ?=

proof:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST) $(DEPS_FUZZ) $(DEPS_PROOF)
	tests/tools/install-node
	$(MAKE) all tests proof-programs
	SIWA_BUILD=$(BUILD) tests/proof/run --size $(SIZE) $(PROOF_ARGS)

proof-programs: $(PROOF)

deb:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_DEB)
	tests/tools/deb $(BUILD)/deb

check-package:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_DEB) $(DEPS_TEST) lintian systemd-container
	tests/tools/check-package

check-examples:
	tests/tools/install-deps $(DEPS_BUILD) $(DEPS_TEST)
	tests/tools/install-node
	tests/tools/install-examples
	$(MAKE) all tests
	tests/integration/run test_consumer_examples

check-container:
	tests/tools/install-deps $(DEPS_TEST) buildah debootstrap
	tests/tools/check-container

# Where things go. The configuration is in /etc whatever PREFIX is: that is where the daemon looks.
DESTDIR     ?=
PREFIX      ?= /usr/local
bindir      ?= $(PREFIX)/bin
mandir      ?= $(PREFIX)/share/man
docdir      ?= $(PREFIX)/share/doc/siwa-notifyd
completiondir ?= $(PREFIX)/share/bash-completion/completions
sysconfdir  ?= /etc
unitdir     ?= $(PREFIX)/lib/systemd/system
sysusersdir ?= $(PREFIX)/lib/sysusers.d
tmpfilesdir ?= $(PREFIX)/lib/tmpfiles.d
INSTALL     ?= install

UNITS := $(sort $(wildcard systemd/*.service systemd/*.socket))
MAN   := $(sort $(wildcard doc/man/*.[1-8]))
DOC   := siwa-notifyd.conf nginx.conf haproxy.cfg Caddyfile
CONSUMERS := $(wildcard doc/consumers/*)
CONF  := $(DESTDIR)$(sysconfdir)/siwa-notifyd/siwa-notifyd.conf

install: all
	$(INSTALL) -D -m 755 $(BUILD)/siwa-notifyd $(DESTDIR)$(bindir)/siwa-notifyd
	set -e; for file in $(DOC); do $(INSTALL) -D -m 644 conf/$$file $(DESTDIR)$(docdir)/$$file; done
	set -e; for file in $(CONSUMERS); do $(INSTALL) -D -m 644 $$file $(DESTDIR)$(docdir)/consumers/$${file##*/}; done
	$(INSTALL) -D -m 644 conf/bash-completion $(DESTDIR)$(completiondir)/siwa-notifyd
	[ -e $(CONF) ] || $(INSTALL) -D -m 644 conf/siwa-notifyd.conf $(CONF)
	set -e; for page in $(MAN); do \
	    $(INSTALL) -D -m 644 $$page $(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/}; done
	set -e; for unit in $(UNITS); do \
	    $(INSTALL) -D -m 644 $$unit $(DESTDIR)$(unitdir)/$${unit##*/}; \
	    sed -i 's|=/usr/bin/siwa-notifyd|=$(bindir)/siwa-notifyd|' $(DESTDIR)$(unitdir)/$${unit##*/}; done
	$(INSTALL) -D -m 644 systemd/siwa-notifyd.sysusers $(DESTDIR)$(sysusersdir)/siwa-notifyd.conf
	$(INSTALL) -D -m 644 systemd/siwa-notifyd.tmpfiles $(DESTDIR)$(tmpfilesdir)/siwa-notifyd.conf

# What install put there and nothing else: a configuration that was changed stays, and so does the database.
uninstall:
	rm -f $(DESTDIR)$(bindir)/siwa-notifyd
	! cmp -s conf/siwa-notifyd.conf $(CONF) || rm -f $(CONF)
	rm -f $(DOC:%=$(DESTDIR)$(docdir)/%) $(CONSUMERS:doc/%=$(DESTDIR)$(docdir)/%)
	rm -f $(DESTDIR)$(completiondir)/siwa-notifyd
	set -e; for page in $(MAN); do rm -f $(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/}; done
	rm -f $(UNITS:systemd/%=$(DESTDIR)$(unitdir)/%)
	rm -f $(DESTDIR)$(sysusersdir)/siwa-notifyd.conf $(DESTDIR)$(tmpfilesdir)/siwa-notifyd.conf
	for folder in $(dir $(CONF)) $(DESTDIR)$(docdir)/consumers $(DESTDIR)$(docdir); do \
	    [ ! -d $$folder ] || rmdir --ignore-fail-on-non-empty $$folder; done

help:
	@sed -n 's/^#: //p' Makefile

clean:
	rm -rf $(BUILD) build-asan build-tsan build-cov build-lint build-fuzz

.PHONY: all have-deps tests deps deps-all demo check check-run controls unit integration asan tsan cov lint lint-analyzer \
        fuzz fuzz-build fuzz-programs $(FUZZ:%=fuzz-%) bench proof proof-programs fault-programs deb check-package check-examples check-container install uninstall help clean

-include $(wildcard $(BUILD)/obj/*.d $(BUILD)/obj/*/*.d $(BUILD)/tests/*/*.d)
