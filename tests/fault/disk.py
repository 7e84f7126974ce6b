"""A disk that is slow, full or broken on demand: the orders for preload_disk.so, in memory that is shared with the program.

    disk = Disk(folder)                     # the folder whose files are meant
    with Daemon(apple, environment=disk.environment) as daemon:
        disk.strike("sync", error=errno.EIO)
        …
        disk.heal()
"""

import mmap
import os
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))

import harness  # noqa: E402

KINDS = ("open", "write", "truncate", "sync", "move")
FAIL, SHORTEN, KILL = range(3)
HEAD = struct.Struct("<6I Q")  # armed, kinds, error, action, lasting, delay_ms; at
COUNTS = struct.Struct("<7Q")  # seen, struck, seen of each kind


class Disk:
    """See above. The file of the orders is made in the folder unless another is named."""

    def __init__(self, folder, file=None):
        self.folder = pathlib.Path(folder)
        self.file = pathlib.Path(file or self.folder / "faults")
        self.file.write_bytes(bytes(HEAD.size + COUNTS.size))
        with open(self.file, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), HEAD.size + COUNTS.size)

    @property
    def environment(self):
        library = harness.BUILD / "tests" / "fault" / "preload_disk.so"
        environment = {"LD_PRELOAD": str(library), "FAULT_CONTROL": str(self.file), "FAULT_FOLDER": str(self.folder)}
        environment["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return environment

    def strike(self, *kinds, error=0, at=0, lasting=False, action=FAIL, delay_ms=0):
        """From now on: call number `at` of these kinds (0: every one) fails; with lasting all after it, too."""
        self.heal()
        self.memory[HEAD.size:] = bytes(COUNTS.size)
        mask = sum(1 << KINDS.index(kind) for kind in kinds or KINDS)
        orders = HEAD.pack(0, mask, error, action, lasting, delay_ms, at)
        self.memory[4:HEAD.size] = orders[4:]
        self.memory[0:4] = struct.pack("<I", 1)

    def count(self, *kinds):
        """Only counts from now on."""
        self.strike(*kinds, at=1 << 62)

    def heal(self):
        self.memory[0:4] = struct.pack("<I", 0)

    @property
    def seen(self):
        return COUNTS.unpack(self.memory[HEAD.size:])[0]

    @property
    def struck(self):
        return COUNTS.unpack(self.memory[HEAD.size:])[1]

    def seen_of(self):
        return dict(zip(KINDS, COUNTS.unpack(self.memory[HEAD.size:])[2:]))
