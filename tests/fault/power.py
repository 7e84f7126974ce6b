#!/usr/bin/env python3
"""200 means stored, once, through loss of power.

The database lies on a file system of its own, ext4 and xfs in turn, on a loop device. In the middle of the load that file
system is shut down (FS_IOC_SHUTDOWN, nothing that is not synced is written any more), the daemon killed, the file system
mounted again, and what had been answered before the cut is held against the outbox.

    tests/fault/power.py [--count CUTS] [--seed N]          as root
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time

import harness_path  # noqa: F401
import harness
import ledger

SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
FILE_SYSTEMS = {"ext4": (96, ["mkfs.ext4", "-q", "-F"]), "xfs": (320, ["mkfs.xfs", "-q", "-f"])}
CUTS_A_FILE_SYSTEM = 10
POOL = 3000


def call(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ledger.NotHere(f"{command[0]}: {done.stderr.strip()}")


class FileSystem:
    def __init__(self, kind, folder):
        mib, make = FILE_SYSTEMS[kind]
        self.image, self.place = folder / "image", folder / "mounted"
        self.place.mkdir(exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(mib << 20)
        call(*make, str(self.image))
        self.mount()

    def mount(self):
        call("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self):
        for _ in range(100):
            if subprocess.run(["umount", self.place], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)

    def cut(self):
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        except OSError as error:
            raise ledger.NotHere(f"FS_IOC_SHUTDOWN: {error}") from None
        finally:
            os.close(handle)


class Run:
    def __init__(self, cuts, seed):
        self.cuts_wanted = cuts
        self.seed, self.random = ledger.seeded(seed)
        self.apple = harness.Apple()
        self.pool = ledger.Pool(self.apple, POOL)
        self.cuts = {kind: 0 for kind in FILE_SYSTEMS}
        self.acknowledged = self.durable_unanswered = self.first_starts = 0

    def one_cut(self, daemon, disk, book):
        """Load, cut, and what had been answered by then."""
        with ledger.Load(daemon.address, self.pool.take(self.random.randint(50, 400)), book, 8, patience=10) as load:
            load.join(self.random.uniform(0.02, 0.4))
            with book.lock:
                answered = dict(book.ok)
            disk.cut()
            daemon.kill9()
        with book.lock:  # what was answered after the cut began was promised by a machine that is gone
            for jti in set(book.ok) - set(answered):
                book.open.add(jti)
            book.ok = answered

    def one_file_system(self, kind):
        book = ledger.Ledger()
        self.pool.rewind()
        with tempfile.TemporaryDirectory(prefix="siwa-power-") as name:
            folder = pathlib.Path(name)
            disk = FileSystem(kind, folder)
            (folder / "run").mkdir()
            daemon = harness.Daemon(self.apple, directory=folder / "run",
                                    settings={"database": str(disk.place / "outbox.db")})
            daemon.database = disk.place / "outbox.db"
            before = 0
            try:
                if self.random.random() < 0.5:  # the power fails while the first start makes the database
                    daemon.spawn_daemon()
                    time.sleep(self.random.uniform(0, 0.1))
                    disk.cut()
                    daemon.kill9()
                    disk.unmount()
                    disk.mount()
                    self.first_starts += 1
                for _ in range(CUTS_A_FILE_SYSTEM):
                    daemon.start()
                    self.one_cut(daemon, disk, book)
                    disk.unmount()
                    disk.mount()
                    self.cuts[kind] += 1
                    daemon.start()
                    self.durable_unanswered = book.settle([jti for jti, in ledger.reader(
                        daemon.database, "SELECT jti FROM outbox ORDER BY id")])
                    self.acknowledged += len(book.ok) - before
                    before = len(book.ok)
                    daemon.stop()
                    if sum(self.cuts.values()) >= self.cuts_wanted:
                        break
            finally:
                daemon.kill9()
                daemon.release()
                disk.unmount()

    def run(self):
        if os.geteuid() != 0:
            raise ledger.NotHere("only root mounts file systems")
        for _, (_, make) in FILE_SYSTEMS.items():
            if not shutil.which(make[0], path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin"):
                raise ledger.NotHere(f"{make[0]} is not installed")
        while sum(self.cuts.values()) < self.cuts_wanted:
            for kind in FILE_SYSTEMS:
                if sum(self.cuts.values()) < self.cuts_wanted:
                    self.one_file_system(kind)


def measure(cuts, seed):
    run = Run(cuts, seed)
    run.run()
    return {**{f"power cuts on {kind}": count for kind, count in run.cuts.items()},
            "power cuts in a first start": run.first_starts, "answers of 200 before a cut, each stored once": run.acknowledged}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ledger.main(__doc__, measure, 40)
