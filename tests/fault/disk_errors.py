#!/usr/bin/env python3
"""200 means stored, once, through errors of the disk.

Every open, write, truncate, sync, rename and link of a run of the real daemon (start, notifications, clean stop) fails in
its turn: once, and from then on, with EIO and with ENOSPC; writes are cut short; and the process is killed at it. Each sync
fails in its turn, too: then the daemon ends, whatever the reason, for nobody knows what is on the disk. Each time the daemon must answer or end, never hang; say why it ends; and start again once the disk is well, with everything
that was answered 200, once.

    tests/fault/disk_errors.py [--count EVERY] [--seed N]

EVERY 5 takes each fifth call of a first start, and of a start on what a killed daemon left; and of a run that is long
enough to move its write-ahead log into the file, each 3000th.
"""

import collections
import contextlib
import errno
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import disk as fault_disk
import harness_path  # noqa: F401
import harness
import ledger

END_S = 25   # a daemon that is told to stop, or cannot go on, has ended by then
ANSWER_S = 5  # a commit that takes 3 s is answered; a busy machine gets a little more

Fault = collections.namedtuple("Fault", "word action error lasting kinds", defaults=((),))
FAULTS = [
    Fault("EIO once", fault_disk.FAIL, errno.EIO, False),
    Fault("EIO from then on", fault_disk.FAIL, errno.EIO, True),
    Fault("ENOSPC once", fault_disk.FAIL, errno.ENOSPC, False),
    Fault("ENOSPC from then on", fault_disk.FAIL, errno.ENOSPC, True),
    Fault("half a write", fault_disk.SHORTEN, 0, False, ("write",)),
    Fault("a sync ends with EIO", fault_disk.FAIL, errno.EIO, False, ("sync",)),
    Fault("a sync ends with ENOSPC", fault_disk.FAIL, errno.ENOSPC, False, ("sync",)),
    Fault("kill -9", fault_disk.KILL, 0, False),
]
# How many notifications, how far each is padded, and whether a killed daemon left something to recover.
LONG = 600  # the long one takes so many times fewer calls
SCENARIOS = {"new": (8, 0, False), "old": (8, 0, True), "long": (240, 63000, True)}


class Run:
    def __init__(self, scenario, seed):
        self.scenario = scenario
        self.count, padding, self.recovers = SCENARIOS[scenario]
        self.seed, self.random = ledger.seeded(seed)
        self.apple = harness.Apple()
        self.pool = ledger.Pool(self.apple, self.count, padding=padding)
        self.before = ledger.Pool(self.apple, 5)
        self.home = tempfile.TemporaryDirectory(prefix="siwa-disk-")
        self.template = pathlib.Path(self.home.name) / "template"
        (self.template / "data").mkdir(parents=True)
        self.outcomes = collections.Counter()
        if self.recovers:
            self.prepare()

    def daemon(self, folder, **how):
        """Its files stand in a folder of their own: the faults are for what must survive, not for the configuration."""
        database = pathlib.Path(folder) / "data" / "outbox.db"
        daemon = harness.Daemon(self.apple, directory=folder, settings={"database": str(database)}, **how)
        daemon.database = database
        return daemon

    def prepare(self):
        daemon = self.daemon(self.template)
        daemon.start()
        client = ledger.Client(daemon.address)
        for body in self.before.bodies:
            assert client.post(body.request)[0] == 200
        client.close()
        daemon.kill9()
        daemon.release()

    @contextlib.contextmanager
    def folder(self):
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.home.name) as name:
            folder = pathlib.Path(name)
            shutil.copytree(self.template / "data", folder / "data")
            yield folder

    def ended(self, daemon, what):
        try:
            return daemon.process.wait(END_S)
        except subprocess.TimeoutExpired:
            daemon.kill9()
            raise ledger.Broken(f"{what}: the daemon hangs:\n{daemon.log()[-3000:]}") from None

    def started(self, daemon, what):
        """Whether it is ready; False when it ended instead."""
        deadline = time.monotonic() + END_S
        while not daemon.notified("READY=1"):
            if not daemon.running():
                return False
            if time.monotonic() > deadline:
                daemon.kill9()
                raise ledger.Broken(f"{what}: neither ready nor ended:\n{daemon.log()[-3000:]}")
            time.sleep(0.005)
        return True

    def live(self, daemon, book, what, disk, fault=None):
        """Start, notifications, stop; under whatever faults are ordered."""
        daemon.spawn_daemon()
        unsynced = False
        if self.started(daemon, what):
            client = ledger.Client(daemon.address, ANSWER_S)
            with contextlib.closing(client):
                for body in self.pool.bodies:
                    book.sent(body.jti)
                    struck = disk.struck
                    try:
                        status, word = client.post(body.request)
                        book.answered(body.jti, status, word)
                        unsynced = fault and fault.kinds == ("sync",) and disk.struck > struck
                        if unsynced:  # this one's, or that of a task of the writer just behind it
                            break
                    except TimeoutError:
                        raise ledger.Broken(f"{what}: no answer within {ANSWER_S} s:\n{daemon.log()[-3000:]}") from None
                    except OSError:
                        break  # it ended
            if daemon.running() and not unsynced:
                daemon.process.send_signal(signal.SIGTERM)
        status = self.ended(daemon, f"{what}: a sync failed, and it goes on" if unsynced else what)
        if status not in (0, -signal.SIGKILL) and not self.says_why(daemon):
            raise ledger.Broken(f"{what}: ended with {status} and did not say why:\n{daemon.log()[-3000:]}")
        if status not in (0, 1, -signal.SIGKILL):
            raise ledger.Broken(f"{what}: ended with {status}:\n{daemon.log()[-3000:]}")
        return status

    @staticmethod
    def says_why(daemon):
        return any("level=error" in line and "why=" in line for line in daemon.log().splitlines())

    def recover(self, daemon, book, what):
        daemon.log_file.write_text("")
        daemon.spawn_daemon()
        if not self.started(daemon, what):
            raise ledger.Broken(f"{what}: does not start when the disk is well again:\n{daemon.log()[-3000:]}")
        before = {body.jti for body in self.before.bodies} if self.recovers else set()
        rows = lambda: [jti for jti, in ledger.reader(daemon.database, "SELECT jti FROM outbox ORDER BY id")]
        there = rows()
        if before - set(there):
            raise ledger.Broken(f"{what}: what was there before is gone")
        book.settle([jti for jti in there if jti not in before])
        client = ledger.Client(daemon.address)
        with contextlib.closing(client):
            for body in self.pool.bodies:  # as Apple would
                status, word = client.post(body.request)
                if status != 200 or (body.jti in book.ok and word != "duplicate"):
                    raise ledger.Broken(f"{what}: then {status} {word}")
                book.answered(body.jti, status, word)
        book.settle([jti for jti in rows() if jti not in before])
        daemon.stop()
        if ledger.reader(daemon.database, "PRAGMA integrity_check") != [("ok",)]:
            raise ledger.Broken(f"{what}: integrity_check")

    def one(self, fault, at):
        what = f"{self.scenario}: call {at}: {fault.word}"
        with self.folder() as folder:
            disk = fault_disk.Disk(folder / "data", folder / "faults")
            disk.strike(*fault.kinds, error=fault.error, at=at, lasting=fault.lasting, action=fault.action)
            daemon = self.daemon(folder, environment=disk.environment)
            book = ledger.Ledger()
            try:
                status = self.live(daemon, book, what, disk, fault)
                struck = disk.struck > 0
                disk.heal()
                self.recover(daemon, book, what)
            finally:
                daemon.kill9()
                daemon.release()
        if struck:
            self.outcomes[f"{fault.word}: " + {0: "went on", 1: "ended and said why"}.get(status, "killed")] += 1
        return struck

    def calls(self, kinds=()):
        with self.folder() as folder:
            disk = fault_disk.Disk(folder / "data", folder / "faults")
            disk.count(*kinds)
            daemon = self.daemon(folder, environment=disk.environment)
            try:
                self.live(daemon, ledger.Ledger(), "without a fault", disk)
            finally:
                daemon.kill9()
                daemon.release()
            return disk.seen, disk.seen_of()

    def all(self, every, on_step=lambda: None):
        total, of_kind = self.calls()
        tried = 0
        for fault in FAULTS:
            calls = self.calls(fault.kinds)[0] if fault.kinds else total
            step = min(every, calls)
            for at in range(1 + self.random.randrange(step), calls + 1, step):
                tried += self.one(fault, at)
                on_step()
        return total, of_kind, tried


def measure(every, seed, scenarios=tuple(SCENARIOS)):
    counts = {}
    for scenario in scenarios:
        run = Run(scenario, seed)
        with run.home:
            total, _, tried = run.all(every * LONG if scenario == "long" else every)
        counts[f"calls in a run ({scenario})"] = total
        counts[f"faults tried ({scenario})"] = tried
        for word, count in sorted(run.outcomes.items()):
            counts[word] = counts.get(word, 0) + count
    return counts


if __name__ == "__main__":
    ledger.main(__doc__, measure, 5)
