#!/usr/bin/env python3
"""Memory is flat: good, repeated, bad, late and slow requests, mixed and for long, leave resident memory and descriptors where
they were.

    tests/fault/flat_memory.py [--count SECONDS] [--seed N]
"""

import contextlib
import os
import pathlib
import random
import tempfile
import threading
import time

import harness_path  # noqa: F401
import harness
import ledger

POOL = 3000
WARM_S = 10          # buffers, caches and the arenas of malloc find their size
GROWTH_KIB = 1024    # allowed between the first and the last part of the run: noise of a page cache within
GROWTH_PER_MILLE = 20
DESCRIPTORS = 400     # six clients, what they left behind half-way, and some forty of the daemon's own


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ledger.Broken("the daemon is gone")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Mix:
    """What one thread sends until told to stop: all kinds in turn, now and then one that never ends its request."""

    def __init__(self, daemon, pool, seed, counts):
        self.daemon, self.pool, self.counts = daemon, pool, counts
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.failure = None

    def request(self, text):
        return f"POST {harness.PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()

    def one(self, client):
        kind = self.random.choice(("good", "good", "repeated", "bad", "refused", "framing", "late", "slow"))
        if kind in ("good", "repeated"):
            body = self.random.choice(self.pool)
            client.post(body.request)
        elif kind == "bad":
            client.post(self.request('{"payload": ' + "x" * self.random.randint(0, 9000)))
        elif kind == "refused":
            body = self.random.choice(self.pool).request
            client.post(body[:-8] + bytes(self.random.choice(b"ABCDEFGH") for _ in range(6)) + body[-2:])
        elif kind == "late":
            client.post(self.random.choice(self.late).request)
        elif kind == "framing":
            with contextlib.closing(ledger.Client(self.daemon.address)) as other:
                with contextlib.suppress(OSError):
                    other.post(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")
        else:
            with harness.connect(self.daemon.address) as stream:
                stream.sendall(b"POST /apple/notifications HTTP/1.1\r\nHost: x\r\nContent-Le")
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def run(self):
        client = ledger.Client(self.daemon.address)
        while not self.stopping.is_set():
            try:
                self.one(client)
                if self.random.random() < 0.01:
                    client.close()
            except OSError as error:
                client.close()
                self.failure = error
        client.close()


def measure(seconds, seed):
    seed = ledger.seeded(seed)[0]
    apple = harness.Apple()
    pool = ledger.Pool(apple, POOL).bodies
    Mix.late = ledger.Pool(apple, 50, now=time.time() - 3 * 86400).bodies
    counts, samples = {}, []
    with tempfile.TemporaryDirectory(prefix="siwa-flat-") as folder, \
            harness.Daemon(apple, directory=folder) as daemon:
        mixes = [Mix(daemon, pool, seed + number, counts) for number in range(6)]
        began = time.monotonic()
        for mix in mixes:
            mix.thread.start()
        while time.monotonic() - began < WARM_S + seconds:
            time.sleep(0.25)
            if descriptors(daemon.pid) > DESCRIPTORS:
                raise ledger.Broken(f"{descriptors(daemon.pid)} descriptors are open")
            if time.monotonic() - began >= WARM_S:
                samples.append((resident_kib(daemon.pid), descriptors(daemon.pid)))
        for mix in mixes:
            mix.stopping.set()
        for mix in mixes:
            mix.thread.join()
        idle = descriptors(daemon.pid)
        harness.wait_until(lambda: descriptors(daemon.pid) < 40, "the connections that were left are closed")
    third = max(1, len(samples) // 3)
    first = sorted(rss for rss, _ in samples[:third])[third // 2]
    last = sorted(rss for rss, _ in samples[-third:])[third // 2]
    if last - first > GROWTH_KIB + first * GROWTH_PER_MILLE // 1000:
        raise ledger.Broken(f"resident memory grew from {first} KiB to {last} KiB in {seconds} s")
    total = sum(counts.values())
    return {"requests": total, **{f"of them {kind}": count for kind, count in sorted(counts.items())},
            "KiB resident, median of the first third": first, "KiB resident, median of the last third": last,
            "descriptors at the most": max(fds for _, fds in samples), "descriptors at the end": idle}


if __name__ == "__main__":
    ledger.main(__doc__, measure, 60)
