#!/usr/bin/env python3
"""A disk that is full, read-only or locked, a commit that takes long, a reader that stays: 503 within 3 s, the reason in the
health, life all the while, and the first 200 within 5 s of relief.

The seconds are those in which the machine ran. On real file systems where root can mount them: a tmpfs that is full, one that is
read-only at a start.

    tests/fault/storage.py [--count SECONDS] [--seed N]

SECONDS is how long one commit hangs and a reader stays in its transaction.
"""

import contextlib
import errno
import json
import os
import pathlib
import sqlite3
import subprocess
import tempfile
import threading
import time

import disk as fault_disk
import harness_path  # noqa: F401
import harness
import ledger

WAL_MIB = 64
WATCHDOG_S = 3


def check(condition, what):
    if not condition:
        raise ledger.Broken(what)


class Run:
    def __init__(self, seconds):
        self.seconds = seconds
        self.apple = harness.Apple()
        self.facts = {}
        self.slowest = self.relief = 0.0

    def body(self, padding=0):
        return self.apple.body(self.apple.notification()) + " " * padding

    def post(self, daemon, body):
        began = harness.running_s()
        return daemon.post(body), harness.running_s() - began

    @staticmethod
    def health(daemon, name):
        return json.loads(daemon.get("/readyz").body)["checks"][name]

    @contextlib.contextmanager
    def daemon(self, folder, database=None, **how):
        settings = {"database": str(database)} if database else {}
        daemon = harness.Daemon(self.apple, directory=folder, settings=settings, **how)
        daemon.database = database or daemon.database
        try:
            yield daemon
        finally:
            daemon.kill9()
            daemon.release()

    def passes(self, daemon, what, why, relieve):
        """What is wrong is wrong now: 503 in time, told why, and over as soon as it is over."""
        body = self.body()
        answer, seconds = self.post(daemon, body)
        self.slowest = max(self.slowest, seconds)
        check(answer == (503, "store_failed"), f"{what}: {answer}")
        check(seconds < 3.6, f"{what}: answered after {seconds:.1f} s")
        # whoever waits may be answered a moment before the writer has given up
        said = harness.wait_until(lambda: self.health(daemon, "database").get("why"), f"{what}: the health says something")
        check(any(word in said for word in why), f"{what}: the health says: {said}")
        check(daemon.get("/readyz").status == 503, f"{what}: ready")
        check(daemon.get("/healthz").status == 200, f"{what}: no life")
        relieve()
        began = harness.running_s()
        while (answer := self.post(daemon, body)[0]) != (200, "accepted"):
            check(harness.running_s() - began < 5, f"{what}: {answer} 5 s after the relief")
            time.sleep(0.05)
        self.relief = max(self.relief, harness.running_s() - began)
        check(daemon.get("/readyz").status == 200, f"{what}: not ready after the relief")
        self.facts[f"{what}: told, answered 503, and over with its cause"] = 1

    def injected(self, folder):
        data = folder / "data"
        data.mkdir()
        disk = fault_disk.Disk(data, folder / "faults")
        environment = {**disk.environment, "WATCHDOG_USEC": str(WATCHDOG_S * 1000000)}
        with self.daemon(folder, data / "outbox.db", environment=environment) as daemon:
            daemon.start()
            for what, error, why in (("full", errno.ENOSPC, ["full"]), ("over quota", errno.EDQUOT, ["quota"]),
                                     ("read-only while it runs", errno.EROFS, ["ead-only"])):
                disk.strike("write", "truncate", error=error)
                self.passes(daemon, what, why, disk.heal)
            with contextlib.closing(sqlite3.connect(daemon.database, isolation_level=None)) as other:
                for lock in ("IMMEDIATE", "EXCLUSIVE"):
                    other.execute(f"BEGIN {lock}")
                    self.passes(daemon, f"locked ({lock.lower()})", ["locked"], lambda: other.execute("ROLLBACK"))
            self.hanging(daemon, disk)
            daemon.stop()

    @staticmethod
    def fed(daemon):
        return daemon.notify_states().count("WATCHDOG=1")

    def hanging(self, daemon, disk):
        """One commit takes long: whoever waits is answered, the watchdog fed, and the event lands."""
        body = self.body()
        disk.strike("sync", delay_ms=self.seconds * 1000, at=1)
        at_first, until = self.fed(daemon), time.monotonic() + self.seconds
        answer, seconds = self.post(daemon, body)
        self.slowest = max(self.slowest, seconds)
        check(answer == (503, "store_failed") and seconds < 4, f"a hanging commit: {answer} after {seconds:.1f} s")
        at_last = self.fed(daemon)
        # The watchdog would fire after WATCHDOG_S without a feed. The last look must end while the commit still hangs.
        while time.monotonic() < until - WATCHDOG_S - 0.5:
            before = at_last
            give_up = harness.running_s() + WATCHDOG_S
            while (at_last := self.fed(daemon)) == before:
                check(harness.running_s() < give_up, "the watchdog starves while a commit hangs")
                time.sleep(0.05)
            check("slow" in self.health(daemon, "commit").get("why", ""), "the health says nothing of a hanging commit")
            check(daemon.get("/healthz").status == 200, "a hanging commit counts as a hanging daemon")
        check(at_last > at_first, "the watchdog was not seen to be fed while a commit hung")
        harness.wait_until(lambda: self.post(daemon, body)[0] == (200, "duplicate"), "the event lands")
        self.facts["seconds that one commit hung"] = self.seconds
        self.facts["times that the watchdog was fed meanwhile"] = at_last - at_first

    def staying(self, folder):
        """A reader stays in one transaction: the write-ahead log grows, which is told; it ends, and so does that."""
        with self.daemon(folder) as daemon:
            daemon.start()
            self.post(daemon, self.body())
            with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True,
                                                    isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM outbox").fetchone()
                began, sent = time.monotonic(), 1
                wal = pathlib.Path(f"{daemon.database}-wal")
                while wal.stat().st_size <= (WAL_MIB + 2) << 20 or time.monotonic() - began < self.seconds:
                    answer, seconds = self.post(daemon, self.body(63000))
                    self.slowest = max(self.slowest, seconds)
                    check(answer == (200, "accepted"), f"with a reader that stays: {answer}")
                    sent += 1
                    if wal.stat().st_size > (WAL_MIB + 2) << 20:
                        time.sleep(0.05)
                check(self.health(daemon, "database")["state"] == "warn", "no warning of a long write-ahead log")
                harness.wait_until(lambda: "the write-ahead log grows" in daemon.log(), "the log warns")
                check(daemon.metrics().value("siwa_database_bytes", file="wal") > WAL_MIB << 20, "the metric")
                self.facts["MiB of write-ahead log behind a reader"] = wal.stat().st_size >> 20
                reader.execute("ROLLBACK")
            for _ in range(400):  # the next commits move it into the file
                self.post(daemon, self.body(63000))
                if self.health(daemon, "database")["state"] == "ok":
                    break
            check(self.health(daemon, "database")["state"] == "ok", "the warning stays when the reader is gone")
            daemon.stop()
            check(len(ledger.reader(daemon.database, "SELECT 1 FROM outbox")) >= sent, "rows are missing")

    def mounted(self, folder):
        """The same on a tmpfs: full while it runs, full and read-only at a start."""
        place = folder / "tmpfs"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=700", "none", place], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise ledger.NotHere(f"mount: {done.stderr.strip()}")
        try:
            with self.daemon(folder, place / "outbox.db") as daemon:
                daemon.start()
                ballast = place / "ballast"
                with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                # what the log of the database still has room for is stored; then it is full
                for _ in range(200):
                    if self.post(daemon, self.body(60000))[0] != (200, "accepted"):
                        break
                self.passes(daemon, "tmpfs full", ["full"], ballast.unlink)
                daemon.stop()
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
                check(daemon.run_to_end() == 1 and "why=" in daemon.log(), "a start on a read-only file system")
                subprocess.run(["mount", "-o", "remount,rw", place], check=True)
                daemon.start()
                check(self.post(daemon, self.body())[0] == (200, "accepted"), "after the read-only file system")
                self.facts["tmpfs read-only at a start: refused with the reason"] = 1
                daemon.stop()
        finally:
            for _ in range(50):
                if subprocess.run(["umount", place], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)

    def run(self):
        for part in (self.injected, self.staying, self.mounted):
            if part == self.mounted and os.geteuid() != 0:  # pylint: disable=comparison-with-callable
                raise ledger.NotHere("only root mounts a tmpfs")
            with tempfile.TemporaryDirectory(prefix="siwa-storage-") as folder:
                part(pathlib.Path(folder))
        return {**self.facts, "ms until the slowest answer": round(self.slowest * 1000),
                "ms until the first 200 after relief, at the most": round(self.relief * 1000)}


def measure(seconds, seed):
    del seed  # nothing here is random
    return Run(seconds).run()


if __name__ == "__main__":
    ledger.main(__doc__, measure, 8)
