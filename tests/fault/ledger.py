"""What was sent, what was answered, and what must therefore stand in the outbox.

    pool = Pool(apple, 5000)                       # signed bodies, each with a jti of its own
    ledger = Ledger()
    with Load(daemon.address, pool.take(400), ledger, connections=4) as load:
        …                                          # kill it, cut its power
    ledger.settle(rows)                            # what it promises: ok is there once, unsent is not, nothing twice

A body is `ok` (200 was read), `no` (another status was read), `open` (sent, at least in part, and no answer: it may be
there or not), or was never sent.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import socket
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))

import harness  # noqa: E402

Body = collections.namedtuple("Body", "jti request")


class Pool:
    """Signed notifications of every type, handed out once each."""

    def __init__(self, apple, count, now=None, padding=0):
        self.bodies = []
        for number in range(count):
            claims = apple.claims(harness.TYPES[number % 4], now=now)
            body = apple.body(apple.mint(claims)) + " " * padding
            request = (f"POST {harness.PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n{body}").encode()
            self.bodies.append(Body(claims["jti"], request))
        self.place = 0

    def left(self):
        return len(self.bodies) - self.place

    def take(self, count):
        taken = self.bodies[self.place:self.place + count]
        self.place += len(taken)
        return taken

    def rewind(self):
        self.place = 0


class NotHere(Exception):
    """This machine cannot try it."""


class Broken(Exception):
    """A promise that was not kept."""


class Ledger:
    def __init__(self):
        self.lock = threading.Lock()
        self.ok, self.no, self.open = {}, {}, set()
        self.statuses = collections.Counter()

    def sent(self, jti):
        with self.lock:
            if jti not in self.ok:
                self.open.add(jti)

    def answered(self, jti, status, word):
        with self.lock:
            self.open.discard(jti)
            self.statuses[f"{status} {word}"] += 1
            (self.ok if status == 200 else self.no)[jti] = word

    def settle(self, jtis):
        """Holds the rows (their jti, in the order of their ids) against the ledger. Returns how many that were never
        acknowledged are there all the same."""
        counts = collections.Counter(jtis)
        twice = [jti for jti, count in counts.items() if count > 1]
        if twice:
            raise Broken(f"{len(twice)} stored twice")
        missing = [jti for jti in self.ok if jti not in counts]
        if missing:
            raise Broken(f"{len(missing)} of {len(self.ok)} that were answered 200 are not there")
        known = len(self.ok) + sum(1 for jti in counts if jti in self.open or (jti in self.no and jti not in self.ok))
        if known != len(counts):
            raise Broken(f"{len(counts) - known} rows of what was never sent")
        return len(counts) - len(self.ok)


class Client:
    """One connection that is kept; raw, since http.client is most of the time otherwise."""

    def __init__(self, address, timeout=30):
        self.address, self.timeout, self.stream, self.rest = address, timeout, None, b""

    def close(self):
        if self.stream:
            self.stream.close()
        self.stream, self.rest = None, b""

    def post(self, request):
        """(status, word). OSError when there is no whole answer."""
        if not self.stream:
            self.stream, self.rest = harness.connect(self.address, self.timeout), b""
        try:
            self.stream.sendall(request)
            return self.answer()
        except OSError:
            self.close()
            raise

    def more(self):
        piece = self.stream.recv(65536)
        if not piece:
            raise ConnectionResetError("closed in the middle of an answer")
        self.rest += piece

    def answer(self):
        while b"\r\n\r\n" not in self.rest:
            self.more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        length, close = 0, False
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
            if name.lower() == "connection" and value.strip().lower() == "close":
                close = True
        while len(self.rest) < length:
            self.more()
        word, self.rest = self.rest[:length].decode(), self.rest[length:]
        if close:
            self.close()
        return int(lines[0].split(" ")[1]), word.strip()


class Load:
    """Posts bodies from several threads until they are used up, or until stop."""

    def __init__(self, address, bodies, ledger, connections=4, patience=30, on_error=None):
        self.address, self.ledger, self.patience, self.on_error = address, ledger, patience, on_error
        self.bodies = list(reversed(bodies))
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(connections)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        self.join()

    def join(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self.threads:
            thread.join(None if deadline is None else max(0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def run(self):
        client = Client(self.address, self.patience)
        with contextlib.closing(client):
            while not self.stopping.is_set():
                try:
                    body = self.bodies.pop()
                except IndexError:
                    return
                self.ledger.sent(body.jti)
                try:
                    self.ledger.answered(body.jti, *client.post(body.request))
                except OSError as error:
                    if self.on_error and not self.stopping.is_set():
                        self.on_error(error)
                        continue
                    return  # whoever it was is gone


def main(about, measure, count):
    """Of a program that tries one promise: measure(count, seed) gives what it counted, or raises."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    seed = seeded(given.seed)[0]
    began = time.monotonic()
    counts = measure(given.count, seed)
    print(json.dumps({"seed": seed, "seconds": round(time.monotonic() - began, 1), "counts": counts}))


def row(proof, measure):
    """The same as a row of the proof (tests/proof/proof.py)."""
    def measured(run):
        try:
            return measure(run.count, run.seed)
        except NotHere as why:
            raise proof.NotHere(str(why)) from None
    return measured


def seeded(seed):
    """A random source that the report can name."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    return seed, random.Random(seed)


def reader(database, statement, *parameters):
    """Reads rows as tuples, as a consumer would."""
    import sqlite3
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(statement, parameters).fetchall()
