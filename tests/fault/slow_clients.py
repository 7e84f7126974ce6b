#!/usr/bin/env python3
"""Slow and many clients do not stop the service: slowhttptest in its three modes, and thousands of connections that say
nothing, each for a while, while valid notifications arrive at a daemon with its default limits: every one of them is answered
200, and within LATEST_S.

    tests/fault/slow_clients.py [--count SECONDS] [--seed N]

SECONDS is for each of the four.
"""

import contextlib
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import harness_path  # noqa: F401
import harness
import ledger

CONNECTIONS = 2000
LATEST_S = 2.0
MODES = {"slow headers": ["-H"], "slow bodies": ["-B"], "slow reading": ["-X"]}


class Valid:
    """A notification every few milliseconds, each on a connection of its own, as a proxy without keep-alive would."""

    def __init__(self, apple, address):
        self.apple, self.address = apple, address
        self.stopping = threading.Event()
        self.times, self.failures = [], []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stopping.is_set():
            body = ledger.Pool(self.apple, 1).bodies[0]
            began = time.monotonic()
            client = ledger.Client(self.address, 20)
            try:
                answer = client.post(body.request)
                if answer != (200, "accepted"):
                    self.failures.append(str(answer))
            except OSError as error:
                self.failures.append(repr(error))
            client.close()
            self.times.append(time.monotonic() - began)
            time.sleep(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def idle(address, seconds):
    """Connections that say nothing, and come again when they are closed."""
    open_ones, made = [], 0
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        while len(open_ones) < CONNECTIONS and time.monotonic() < until:
            stream = socket.socket()
            stream.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                stream.connect((host, int(port)))
            open_ones.append(stream)
            made += 1
            if made % 200 == 0:
                time.sleep(0.02)
        time.sleep(0.2)
        still = []
        for stream in open_ones:
            try:
                if stream.recv(100) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                still.append(stream)
                continue
            except OSError:
                stream.close()
                continue
            stream.close()
        open_ones = still
    for stream in open_ones:
        stream.close()
    return made


def measure(seconds, seed):
    del seed
    program = shutil.which("slowhttptest")
    if not program:
        raise ledger.NotHere("slowhttptest is not installed")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], min(limit[1], 4 * CONNECTIONS)), limit[1]))
    apple = harness.Apple()
    counts = {}
    with tempfile.TemporaryDirectory(prefix="siwa-slow-") as folder, \
            harness.Daemon(apple, directory=folder, tcp=True) as daemon:
        url = f"http://{daemon.address}{harness.PATH}"
        evicted = 0
        for mode, options in {**MODES, "idle connections": None}.items():
            with Valid(apple, daemon.address) as valid:
                if options is None:
                    counts["idle connections made"] = idle(daemon.address, seconds)
                else:
                    subprocess.run([program, *options, "-u", url, "-c", str(CONNECTIONS), "-r", "400", "-l", str(seconds),
                                    "-i", "5", "-t", "POST", "-x", "10", "-p", "2"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   check=False, cwd=folder, start_new_session=True)
            gone = int(daemon.metrics().value("siwa_connections_evicted_total", listener="notify"))
            counts[f"had to make room ({mode})"], evicted = gone - evicted, gone
            times = sorted(valid.times)
            counts[f"valid notifications ({mode})"] = len(times)
            counts[f"ms, 99th percentile ({mode})"] = round(times[len(times) * 99 // 100] * 1000)
            if valid.failures:
                raise ledger.Broken(f"{mode}: {len(valid.failures)} of {len(times)} not accepted: {valid.failures[0]}")
            counts[f"ms, the latest ({mode})"] = round(times[-1] * 1000)
            if times[-1] > LATEST_S:
                raise ledger.Broken(f"{mode}: answered after {times[-1]:.1f} s")
            if len(times) < seconds * 2:
                raise ledger.Broken(f"{mode}: only {len(times)} in {seconds} s")
    return counts


if __name__ == "__main__":
    ledger.main(__doc__, measure, 8)
