#!/usr/bin/env python3
"""200 means stored, once, through kill -9.

The real daemon is killed at random moments under concurrent load, also while it starts and recovers; what had no answer is
sent again, as Apple would, and some of what had one. Every so often, and at the end, all that was answered is held against
the outbox.

    tests/fault/kill9.py [--count KILLS] [--seed N]
"""

import contextlib
import pathlib
import tempfile
import time

import harness_path  # noqa: F401
import harness
import ledger

POOL = 4000  # bodies signed once, and used again on a new database
CONNECTIONS = 8


def fresh(folder):
    for path in pathlib.Path(folder).glob("outbox*"):
        path.unlink()


class Run:
    def __init__(self, kills, seed):
        self.seed, self.random = ledger.seeded(seed)
        self.wanted = kills
        self.kills = self.acknowledged = self.unacknowledged = self.early = self.databases = 0

    def enough(self):
        return self.kills >= self.wanted

    def one_database(self, daemon, pool):
        """Kills over and over on one database, until the bodies are used up."""
        book = ledger.Ledger()
        pool.rewind()
        fresh(daemon.directory)
        self.databases += 1
        before = 0
        while pool.left() and not self.enough():
            self.one_kill(daemon, pool, book)
            self.acknowledged += len(book.ok) - before
            before = len(book.ok)
        daemon.start()
        daemon.stop()
        self.unacknowledged += book.settle(self.rows(daemon))
        check, = ledger.reader(daemon.database, "PRAGMA integrity_check")[0]
        if check != "ok":
            raise ledger.Broken(f"integrity_check: {check}")

    @staticmethod
    def rows(daemon):
        return [jti for jti, in ledger.reader(daemon.database, "SELECT jti FROM outbox ORDER BY id")]

    def again(self, pool, book):
        sent = pool.bodies[max(0, pool.place - 800):pool.place]
        return [body for body in sent if body.jti in book.open or (body.jti in book.ok and self.random.random() < 0.05)]

    def one_kill(self, daemon, pool, book):
        if self.random.random() < 0.1:  # while it starts and recovers
            daemon.spawn_daemon()
            time.sleep(self.random.uniform(0, 0.15))
            daemon.kill9()
            self.kills += 1
            self.early += 1
        daemon.start()
        bodies = pool.take(self.random.randint(1, 400))
        bodies += self.again(pool, book)
        self.random.shuffle(bodies)
        with ledger.Load(daemon.address, bodies, book, CONNECTIONS) as load:
            load.join(self.random.uniform(0.0, 0.25))
            daemon.kill9()
        self.kills += 1
        if self.kills % 20 == 0:  # each time would cost most of the run; what is lost stays lost
            book.settle(self.rows(daemon))

    def run(self):
        apple = harness.Apple()
        pool = ledger.Pool(apple, POOL)
        with tempfile.TemporaryDirectory(prefix="siwa-kill9-") as folder:
            daemon = harness.Daemon(apple, directory=folder)
            try:
                while not self.enough():
                    self.one_database(daemon, pool)
            finally:
                daemon.kill9()
                daemon.release()


def measure(kills, seed):
    run = Run(kills, seed)
    run.run()
    return {"kills": run.kills, "of them while it started": run.early, "databases": run.databases,
            "answers of 200, each stored once": run.acknowledged, "stored without an answer": run.unacknowledged}


if __name__ == "__main__":
    ledger.main(__doc__, measure, 200)
