# siwa-notifyd. `make` builds build/siwa-notifyd; `make check` runs every test.

BUILD   ?= build
CC      ?= cc
PKG      = libmicrohttpd openssl jansson sqlite3 libcurl libconfig

WARN     = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
           -Wpointer-arith -Wcast-qual -Wwrite-strings -Wformat=2 -Wundef -Wvla
HARDEN   = -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE -fstack-clash-protection -fcf-protection
OPT     ?= -O2 -g
WERROR  ?=
CPPFLAGS += -D_GNU_SOURCE -Iinclude
CFLAGS   += -std=c17 $(OPT) $(WARN) $(WERROR) $(HARDEN) $(shell pkg-config --cflags $(PKG)) -pthread
LDFLAGS  += -pie -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS   += $(shell pkg-config --libs $(PKG)) -pthread

SRC      := $(filter-out src/main.c,$(sort $(wildcard src/*/*.c)))
OBJ      := $(SRC:src/%.c=$(BUILD)/obj/%.o)
LIB      := $(BUILD)/libsiwa.a
UNIT     := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(sort $(wildcard tests/unit/test_*.c)))

all: $(BUILD)/siwa-notifyd

$(BUILD)/siwa-notifyd: $(BUILD)/obj/main.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(OBJ)
	rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/unit/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests/unit $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(LIB) $(LDLIBS) $(shell pkg-config --libs check)

unit: $(UNIT)
	@set -e; for test in $(UNIT); do echo "== $$test"; $$test; done

clean:
	rm -rf $(BUILD)

.PHONY: all unit clean
-include $(wildcard $(BUILD)/obj/*.d $(BUILD)/obj/*/*.d $(BUILD)/tests/unit/*.d)
