#!/usr/bin/env python3
"""200 means stored, once, when memory is out.

Every allocation that the real daemon makes from a request to its answer (its own code, OpenSSL, jansson, SQLite,
libmicrohttpd) fails in its turn: once, and from then on. What is valid must be answered 200 or 503 or not at all, never 4xx;
what is answered 200 must be there, once; the daemon must not end; and as soon as there is memory the next one is accepted.

    tests/fault/memory_errors.py [--count EVERY] [--seed N]

EVERY 5 takes each fifth allocation.
"""

import collections
import contextlib
import json
import mmap
import pathlib
import struct
import tempfile
import time

import harness_path  # noqa: F401
import harness
import ledger

CONTROL = struct.Struct("<2I 3Q")  # armed, lasting; at, seen, struck
NEVER = 1 << 62
ANSWER_S = 8


class Memory:
    def __init__(self, file):
        self.file = pathlib.Path(file)
        self.file.write_bytes(bytes(CONTROL.size))
        with open(self.file, "r+b") as opened:
            self.memory = mmap.mmap(opened.fileno(), CONTROL.size)

    @property
    def environment(self):
        return {"LD_PRELOAD": str(harness.BUILD / "tests/fault/preload_memory.so"), "FAULT_MEMORY": str(self.file)}

    def strike(self, at, lasting=False):
        self.memory[:] = CONTROL.pack(0, lasting, at, 0, 0)
        self.memory[0:4] = struct.pack("<I", 1)

    def heal(self):
        self.memory[0:4] = struct.pack("<I", 0)
        _, _, _, seen, struck = CONTROL.unpack(self.memory[:])
        return seen, struck


class Run:
    # what is sent while memory is out, each with a body of its own every time
    KINDS = {"as Apple sends it": "", "in another spelling": " ", "expired": ""}

    def __init__(self, seed):
        self.seed, self.random = ledger.seeded(seed)
        self.apple = harness.Apple()
        self.outcomes = collections.Counter()
        self.book = ledger.Ledger()

    def body(self, kind="as Apple sends it"):
        now = time.time() - (3 * 86400 if kind == "expired" else 0)
        claims = self.apple.claims(harness.TYPES[self.random.randrange(4)], now=now)
        token = self.apple.mint(claims)
        text = self.apple.body(token)
        if self.KINDS[kind]:
            text = '{ "payload" : ' + json.dumps(token).replace("/", "\\/") + ' , "more": [1, {"a": null}] }'
        request = (f"POST {harness.PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}").encode()
        return ledger.Body(claims["jti"], request)

    def post(self, body):
        """What a client sees on a new connection; "" for no whole answer."""
        client = ledger.Client(self.daemon.address, ANSWER_S)
        self.book.sent(body.jti)
        with contextlib.closing(client):
            try:
                status, word = client.post(body.request)
            except TimeoutError:
                raise ledger.Broken(f"no answer within {ANSWER_S} s:\n{self.daemon.log()[-2000:]}") from None
            except OSError:
                return 0, ""
        if word != "quarantined":  # which is stored apart
            self.book.answered(body.jti, status, word)
        else:
            self.book.open.discard(body.jti)
        return status, word

    def require_running(self, what):
        if not self.daemon.running():
            raise ledger.Broken(f"{what}: the daemon ended:\n{self.daemon.log()[-2000:]}")

    def one(self, kind, at, lasting):
        what = f"{kind}: allocation {at}{' and all after it' if lasting else ''}"
        body = self.body(kind)
        self.memory.strike(at, lasting)
        status, word = self.post(body)
        struck = self.memory.heal()[1]
        if status not in (0, 200, 503):
            raise ledger.Broken(f"{what}: {status} {word} for what is valid")
        self.require_running(what)
        began = time.monotonic()
        after = self.post(self.body())
        while after[0] != 200:
            if time.monotonic() - began > 5:
                raise ledger.Broken(f"{what}: afterwards {after}:\n{self.daemon.log()[-2000:]}")
            time.sleep(0.05)
            self.require_running(what)
            after = self.post(self.body())
        again = self.post(body)  # as Apple would
        wanted = ("quarantined",) if kind == "expired" else ("duplicate",) if status == 200 else ("accepted", "duplicate")
        if again[1] not in wanted:
            raise ledger.Broken(f"{what}: {status} {word}, and then {again[1]}")
        if struck:
            self.outcomes[f"answered {word}" if word else "connection closed"] += 1
        return struck > 0

    def settle(self):
        self.book.settle([jti for jti, in ledger.reader(self.daemon.database, "SELECT jti FROM outbox ORDER BY id")])

    def run(self, every):
        counts = {}
        with tempfile.TemporaryDirectory(prefix="siwa-memory-") as folder:
            self.memory = Memory(pathlib.Path(folder) / "memory")
            self.daemon = harness.Daemon(self.apple, directory=folder, environment=self.memory.environment)
            self.daemon.start()
            try:
                self.post(self.body())
                for kind in self.KINDS:
                    self.memory.strike(NEVER)
                    self.post(self.body(kind))
                    calls = self.memory.heal()[0]
                    counts[f"allocations ({kind})"] = calls
                    for lasting in (False, True):
                        for at in range(1 + self.random.randrange(every), calls + 1, every):
                            counts["failures tried"] = counts.get("failures tried", 0) + self.one(kind, at, lasting)
                    self.settle()
                self.daemon.stop()
                self.settle()
            finally:
                self.daemon.kill9()
                self.daemon.release()
        return {**counts, **dict(self.outcomes)}


def measure(every, seed):
    return Run(seed).run(every)


if __name__ == "__main__":
    ledger.main(__doc__, measure, 5)
