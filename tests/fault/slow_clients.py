#!/usr/bin/env python3
"""Slow and many clients do not stop the service: slowhttptest in its three modes, thousands of connections that say nothing,
and many that send half a head and come again at once when they are closed, each for a while, while valid notifications arrive
at a daemon with its default limits: every one of them is answered 200, and within LATEST_S in which the machine ran.

    tests/fault/slow_clients.py [--count SECONDS] [--seed N]

SECONDS is for each of them.
"""

import contextlib
import errno
import multiprocessing
import resource
import select
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
CROWDS = (600, 1000, CONNECTIONS, 4000)  # of half heads; of what is beyond CONNECTIONS it is only told
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
            began = harness.running_s()
            client = ledger.Client(self.address, 20)
            try:
                answer = client.post(body.request)
                if answer != (200, "accepted"):
                    self.failures.append(str(answer))
            except OSError as error:
                self.failures.append(repr(error))
            client.close()
            self.times.append(harness.running_s() - began)
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


class HalfHeads:
    """A crowd that sends half a head, and comes again at once, each time it is closed: the longest that one can stay at the
    limit of connections, and never gone. In a process of its own, so that it takes no time from who measures."""

    HEAD = f"POST {harness.PATH} HTTP/1.1\r\nHost: x\r\nContent-Le".encode()

    def __init__(self, address, crowd):
        host, _, port = address.rpartition(":")
        self.address, self.crowd = (host, int(port)), crowd
        self.made = multiprocessing.Value("Q", 0, lock=False)
        self.process = multiprocessing.get_context("fork").Process(target=self.run, daemon=True)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def come(self):
        stream = socket.socket()
        stream.setblocking(False)
        if stream.connect_ex(self.address) not in (0, errno.EINPROGRESS):
            stream.close()
            return
        self.streams[stream.fileno()] = stream
        self.poll.register(stream, select.EPOLLOUT)
        self.made.value += 1

    def turn(self, fd):
        """It is connected, or closed."""
        stream = self.streams[fd]
        try:
            if fd in self.said:
                stream.recv(4096)  # whatever it is, it was no request
                raise ConnectionResetError
            stream.send(self.HEAD)
            self.said.add(fd)
            self.poll.modify(fd, select.EPOLLIN)
        except OSError:
            self.said.discard(fd)
            self.poll.unregister(fd)
            self.streams.pop(fd).close()

    def run(self):
        self.poll, self.streams, self.said = select.epoll(), {}, set()
        while True:
            while len(self.streams) < self.crowd:
                self.come()
            for fd, _ in self.poll.poll(0.1):
                self.turn(fd)


def settle(counts, mode, valid, least, promised=True):
    """Holds what came of the valid ones against what is promised."""
    times = sorted(valid.times)
    counts[f"valid notifications ({mode})"] = len(times)
    counts[f"ms, 99th percentile ({mode})"] = round(times[len(times) * 99 // 100] * 1000)
    if valid.failures:
        raise ledger.Broken(f"{mode}: {len(valid.failures)} of {len(times)} not accepted: {valid.failures[0]}")
    counts[f"ms, the latest ({mode})"] = round(times[-1] * 1000)
    if promised and times[-1] > LATEST_S:
        raise ledger.Broken(f"{mode}: answered after {times[-1]:.1f} s")
    if promised and len(times) < least:
        raise ledger.Broken(f"{mode}: only {len(times)}")


def half_heads(counts, apple, daemon, seconds):
    """At the limit, each of the crowd is spared for a while, so who comes waits for all before it."""
    for crowd in CROWDS:
        with HalfHeads(daemon.address, crowd) as heads:
            harness.wait_until(lambda: heads.made.value >= crowd, "the crowd is there")
            with Valid(apple, daemon.address) as valid:
                time.sleep(seconds)
        mode = f"{crowd:,} half heads that come again" + (", not promised" if crowd > CONNECTIONS else "")
        counts[f"of them made ({mode})"] = heads.made.value
        settle(counts, mode, valid, seconds / LATEST_S, crowd <= CONNECTIONS)


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
            settle(counts, mode, valid, seconds * 2)
        half_heads(counts, apple, daemon, seconds)
    return counts


if __name__ == "__main__":
    ledger.main(__doc__, measure, 8)
