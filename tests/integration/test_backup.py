"""`siwa-notifyd backup`: a copy that is whole, made while notifications arrive, and what becomes of it when it is used."""

import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

sys.path.insert(0, str(harness.ROOT / "tests" / "fault"))
from disk import Disk  # noqa: E402

STEP = 1 << 32


class BackupCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="siwa-backup-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "copy.db"

    def body(self, kind="consent-revoked", **how):
        return self.apple.body(self.apple.notification(kind, **how))

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def restore(self, daemon, file=None):
        """As the manual says: stop, put the files in their places, start."""
        file = file or self.file
        for name in daemon.directory.glob("outbox*"):
            name.unlink()
        shutil.copy2(file, daemon.database)
        shutil.copy2(file.with_suffix(".key"), daemon.directory / "outbox.key")
        shutil.copy2(file.with_suffix(".keys.json"), daemon.directory / "keys.json")


class TestBackup(BackupCase):
    def test_a_copy_made_while_notifications_arrive(self):
        bodies = [self.body() for _ in range(60)]
        with Daemon(self.apple) as daemon:
            for body in bodies[:20]:
                self.assertEqual(daemon.post(body)[0], 200)
            answers, copies = [], []
            sender = threading.Thread(target=lambda: answers.extend(daemon.post(body) for body in bodies[20:]))
            sender.start()
            while sender.is_alive() or not copies:
                file = self.folder / f"copy-{len(copies)}.db"
                before = len(answers)
                done = json.loads(daemon.command("backup", "--json", file, check=0).stdout)
                copies.append((file, before, done))
            sender.join()
            self.assertEqual(set(answers), {(200, "accepted")})
            everything = daemon.rows()
            self.assertEqual(len(everything), 60)
            for file, before, done in copies:
                self.assertEqual(done["file"], str(file))
                self.assertEqual(done["bytes"], file.stat().st_size)
                self.assertGreaterEqual(done["last_id"], 20 + before)  # what was answered before it began is in it
                with sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True) as copy:
                    self.assertEqual(copy.execute("PRAGMA integrity_check").fetchone(), ("ok",))
                    ids = [row[0] for row in copy.execute("SELECT id FROM outbox ORDER BY id")]
                    self.assertEqual(ids, list(range(1, done["last_id"] + 1)))
                copy.close()
            # nothing beside the copies, and each open to nobody to whom the original is not
            self.assertEqual(len(self.names()), 3 * len(copies))
            for file, *_ in copies:
                self.assertEqual([file.with_suffix(suffix).stat().st_mode & 0o777
                                  for suffix in (".db", ".key", ".keys.json")], [0o640, 0o600, 0o600])
                self.assertEqual(file.with_suffix(".key").read_bytes(), (daemon.directory / "outbox.key").read_bytes())
            self.assertEqual(daemon.database.stat().st_mode & 0o777, 0o640)

    def test_a_restored_copy_passes_no_consumer_over(self):
        """A consumer that was ahead of the backup sees everything that comes after the restore."""
        old, lost, repeat, new = ([self.body() for _ in range(3)] for _ in range(4))
        with Daemon(self.apple) as daemon:
            for body in old:
                self.assertEqual(daemon.post(body), (200, "accepted"))
            daemon.command("backup", self.file, check=0)
            for body in lost + repeat:
                self.assertEqual(daemon.post(body), (200, "accepted"))
            position = daemon.rows()[-1]["id"]
            self.assertEqual(position, 9)
            before, = daemon.query("SELECT * FROM outbox_state")
            daemon.stop()
            self.restore(daemon)
            daemon.start()
            after, = daemon.query("SELECT * FROM outbox_state")
            self.assertGreater(after["generation"], before["generation"])
            self.assertEqual(after["pruned_through"], before["pruned_through"])
            self.assertGreaterEqual(after["last_id"], 3 + STEP)
            # what is in the copy is known, what came after it is new again, and all of it above the position
            for body in old:
                self.assertEqual(daemon.post(body), (200, "duplicate"))
            for body in repeat + new:
                self.assertEqual(daemon.post(body), (200, "accepted"))
            self.assertEqual(len(daemon.rows(after=position)), 6)
            self.assertEqual(len(daemon.rows()), 9)
            # only the first start does that
            daemon.restart()
            again, = daemon.query("SELECT * FROM outbox_state")
            self.assertEqual(again["generation"], after["generation"])
            self.assertEqual(again["last_id"], after["last_id"] + 6)
            last = daemon.rows()[-1]["id"]
            # and the same copy once more stays clear of what the first restore gave
            daemon.stop()
            wait_until(lambda: time.time() >= self.file.stat().st_mtime + 2, "a second of its own")
            self.restore(daemon)
            daemon.start()
            third, = daemon.query("SELECT * FROM outbox_state")
            self.assertGreater(third["generation"], after["generation"])
            self.assertGreater(third["last_id"], last)

    def test_the_log_of_a_crashed_outbox_is_not_mixed_into_a_restored_copy(self):
        old, lost = [self.body() for _ in range(3)], []
        with Daemon(self.apple) as daemon:
            self.assertEqual([daemon.post(body) for body in old], [(200, "accepted")] * 3)
            daemon.command("backup", self.file, check=0)

            def crashed():
                lost.append(self.body())
                self.assertEqual(daemon.post(lost[-1]), (200, "accepted"))
                return daemon.killed_with_a_log(1)
            wait_until(crashed, "a log that a crash left")
            # without removing what belongs to the database that is replaced
            shutil.copy2(self.file, daemon.database)
            log = pathlib.Path(f"{daemon.database}-wal")
            before = log.read_bytes(), daemon.database.read_bytes()
            self.assertEqual(daemon.run_to_end(), 1)
            self.assertIn("a copy, beside the -wal of the database that it replaces", daemon.log())
            self.assertEqual((log.read_bytes(), daemon.database.read_bytes()), before)
            log.unlink()
            pathlib.Path(f"{daemon.database}-shm").unlink()
            daemon.start()
            self.assertEqual([daemon.post(body) for body in old], [(200, "duplicate")] * 3)
            self.assertEqual([daemon.post(body) for body in lost], [(200, "accepted")] * len(lost))
            self.assertGreater(daemon.rows()[3]["id"], STEP)
            # what it leaves when it is killed is its own
            daemon.kill9()
            daemon.start()
            self.assertEqual(len(daemon.rows()), 3 + len(lost))

    def test_a_plain_copy_of_a_stopped_outbox_goes_on_as_it_was(self):
        with Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            daemon.stop()
            shutil.copy2(daemon.database, self.file)
            shutil.copy2(daemon.directory / "outbox.key", self.file.with_suffix(".key"))
            daemon.settings["database"] = str(self.file)
            daemon.database = self.file
            daemon.start()
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertEqual([row["id"] for row in daemon.rows()], [1, 2])

    def test_nothing_is_overwritten_unless_told_and_the_outbox_never(self):
        with Daemon(self.apple) as daemon:
            daemon.post(self.body())
            daemon.command("backup", self.file, check=0)
            first = self.file.read_bytes()
            daemon.post(self.body())
            refused = daemon.command("backup", self.file, check=1)
            self.assertIn("--force", refused.stderr)
            self.assertEqual(self.file.read_bytes(), first)
            daemon.command("backup", "--force", self.file, check=0)
            self.assertNotEqual(self.file.read_bytes(), first)
            self.assertEqual(self.names(), ["copy.db", "copy.key", "copy.keys.json"])
            link = self.folder / "link.db"
            link.symlink_to(daemon.database)
            beside = [daemon.directory / f"outbox.db{end}" for end in ("-wal", "-shm", "-journal", ".lock", ".failed")]
            beside.append(daemon.directory / "." / ".." / daemon.directory.name / "outbox.db-wal")
            inodes = [place.stat().st_ino for place in beside if place.exists()]
            for place in (daemon.database, daemon.directory / "outbox", daemon.directory / "outbox.key", link, *beside):
                for force in (("--force",), ()):
                    with self.subTest(place=place.name, force=force):
                        refused = daemon.command("backup", *force, place, check=1)
                        self.assertIn("belongs to the outbox itself", refused.stderr)
            self.assertEqual([place.stat().st_ino for place in beside if place.exists()], inodes)
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            (self.folder / "folder").mkdir()
            os.mkfifo(self.folder / "pipe")
            names = self.names()
            for place in ("folder", "pipe"):
                self.assertIn("is no file", daemon.command("backup", "--force", self.folder / place, check=1).stderr)
            self.assertEqual(self.names(), names)
            with open(f"{self.file}-wal", "w") as wal:
                wal.write("of another database")
            self.assertIn("-wal", daemon.command("backup", "--force", self.file, check=1).stderr)
            self.assertEqual(daemon.command("backup", check=2).stdout, "")
            refused = daemon.command("backup", self.folder / "nowhere" / "copy.db", check=1)
            self.assertIn("nowhere", refused.stderr)

    def test_no_temporary_file_is_one_of_the_outbox(self):
        """It is emptied first, whatever it was."""
        with Daemon(self.apple) as daemon:
            daemon.stop()
            daemon.database = daemon.directory / "copy.new"
            daemon.settings["database"] = str(daemon.database)
            daemon.start()
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            (self.folder / "link.db.new").hardlink_to(daemon.database)
            (self.folder / "other.key.new").hardlink_to(daemon.directory / "copy.new.key")
            key = (daemon.directory / "copy.new.key").read_bytes()
            for place in (daemon.directory / "copy", self.folder / "link.db", self.folder / "other.db"):
                with self.subTest(place=place.name):
                    refused = daemon.command("backup", place, check=1)
                    self.assertIn(".new: belongs to the outbox itself", refused.stderr)
                    self.assertEqual(daemon.database.read_bytes()[:15], b"SQLite format 3")
                    self.assertEqual((daemon.directory / "copy.new.key").read_bytes(), key)
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertEqual(len(daemon.rows()), 2)

    def test_without_a_daemon_also_after_kill_9(self):
        with Daemon(self.apple) as daemon:
            for _ in range(3):
                self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            daemon.kill9()
            done = json.loads(daemon.command("backup", "--json", self.file, check=0).stdout)
            self.assertEqual(done["last_id"], 3)
            daemon.start()
            daemon.stop()
            daemon.command("backup", "--force", self.file, check=0)

    def test_a_damaged_outbox_gives_no_copy(self):
        with Daemon(self.apple) as daemon:
            for _ in range(12):
                daemon.post(self.body() + " " * 20000)
            daemon.stop()
            pages = daemon.database.stat().st_size // 4096
            with open(daemon.database, "r+b") as file:
                for page in range(pages // 2, pages):
                    file.seek(page * 4096)
                    file.write(b"\xa5" * 4096)
            refused = daemon.command("backup", self.file, check=1)
            self.assertIn("damaged", refused.stderr)
            self.assertEqual(self.names(), [])

    def test_another_key_gives_no_copy(self):
        with Daemon(self.apple) as daemon:
            daemon.post(self.body())
            daemon.stop()
            (daemon.directory / "outbox.key").write_bytes(os.urandom(32))
            refused = daemon.command("backup", self.file, check=1)
            self.assertIn("not the identity key", refused.stderr)
            self.assertEqual(self.names(), [])

    def test_a_full_disk_or_a_signal_leaves_nothing(self):
        faults = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="siwa-backup-")))
        disk = Disk(faults)
        disk.folder = self.folder
        with Daemon(self.apple) as daemon:
            daemon.post(self.body())
            for kind in ("write", "truncate", "sync", "move"):
                disk.count(kind)
                daemon.command("backup", "--force", self.file, check=0, environment=disk.environment)
                calls = disk.seen
                self.assertGreater(calls, 0, kind)
                earlier = self.file.read_bytes()
                for at in range(1, calls + 1, 4 if kind == "write" else 1):
                    with self.subTest(kind, at=at):
                        disk.strike(kind, error=28, at=at)
                        done = daemon.command("backup", "--force", self.file, environment=disk.environment)
                        self.assertEqual(disk.struck, 1)
                        self.assertEqual(self.names(), ["copy.db", "copy.key", "copy.keys.json"])
                        if done.returncode:
                            self.assertIn("siwa-notifyd backup: ", done.stderr)
                            self.assertEqual(done.stdout, "")
                            if (kind, at) != ("sync", calls):  # the folder, when all is in its place
                                self.assertEqual(self.file.read_bytes(), earlier)
                        earlier = self.file.read_bytes()
            # told to stop while the disk is slow
            disk.strike("write", delay_ms=150)
            command = subprocess.Popen([harness.PROGRAM, "backup", "--config", daemon.config_file, "--force", self.file],
                                       env={**os.environ, **disk.environment}, stderr=subprocess.PIPE, text=True)
            wait_until(lambda: disk.struck, "it writes")
            command.send_signal(signal.SIGTERM)
            with command.stderr:
                self.assertEqual(harness.end_of(command, signal.SIGTERM), 1)
                self.assertIn("stopped", command.stderr.read())
            self.assertEqual(self.names(), ["copy.db", "copy.key", "copy.keys.json"])
            self.assertEqual(self.file.read_bytes(), earlier)


if __name__ == "__main__":
    unittest.main()
