"""Storage that is slow, full, read-only, locked, broken or damaged: what is answered, what is said, and how it ends."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest

import harness
from harness import Apple, Daemon, wait_until

sys.path.insert(0, str(harness.ROOT / "tests" / "fault"))
from disk import Disk  # noqa: E402


class StorageCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="siwa-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.disk = Disk(self.folder)

    def daemon(self, **how):
        environment = {**self.disk.environment, **how.pop("environment", {})}
        return Daemon(self.apple, directory=self.folder, environment=environment, **how)

    def body(self, kind="consent-revoked", **how):
        return self.apple.body(self.apple.notification(kind, **how))

    def check(self, daemon, name):
        return json.loads(daemon.get("/readyz").body)["checks"][name]

    def timed_post(self, daemon, body):
        began = harness.running_s()
        return daemon.post(body), harness.running_s() - began


class TestSlow(StorageCase):
    def test_a_slow_commit_is_answered_503_and_lands_all_the_same(self):
        with self.daemon(environment={"WATCHDOG_USEC": "3000000"}) as daemon:
            first, second = self.body(), self.body()
            self.disk.strike("sync", delay_ms=12000, at=1)
            answers = []
            sender = threading.Thread(target=lambda: answers.append(self.timed_post(daemon, first)))
            sender.start()
            wait_until(lambda: self.disk.struck, "the commit is under way")
            answer, seconds = self.timed_post(daemon, second)  # behind it in the queue
            sender.join()
            answer_first, seconds_first = answers[0]
            self.assertEqual((answer_first, answer), ((503, "store_failed"), (503, "store_failed")))
            self.assertLess(max(seconds_first, seconds), 10)  # long before the commit is through
            self.assertEqual(daemon.get("/readyz").status, 503)
            self.assertIn("disk is slow", self.check(daemon, "commit")["why"])
            self.assertEqual(daemon.get("/healthz").status, 200)
            fed = daemon.notify_states().count("WATCHDOG=1")
            wait_until(lambda: daemon.notify_states().count("WATCHDOG=1") > fed, "the watchdog is fed meanwhile")
            self.assertTrue(self.check(daemon, "commit")["running_ms"] > 0, "the commit is still under way")
            # they belong to the writer, and land; their repeats are duplicates
            wait_until(lambda: len(daemon.rows()) == 2, "both rows")
            self.assertEqual([daemon.post(body) for body in (first, second)], [(200, "duplicate")] * 2)
            self.assertEqual(daemon.get("/readyz").status, 200)
            self.assertEqual(daemon.outcomes(), {"store_failed": 2, "duplicate": 2})


    def test_what_comes_while_the_counts_of_the_day_are_stored_is_counted_at_the_stop(self):
        with self.daemon() as daemon:
            # what a start has to do on the disk is done
            self.assertIn("done", daemon.command("erase", "--json", "--team", "ABCDE12345", data="nobody\n", check=0).stdout)
            self.disk.strike("sync", delay_ms=2000, at=1)
            refused = 0

            def storing():
                nonlocal refused
                self.assertEqual(daemon.post("{}")[0], 400)  # which is counted, and no commit of its own
                refused += 1
                return self.disk.struck

            wait_until(storing, "the counts are on their way")
            self.assertEqual(daemon.post("{}")[0], 400)
            daemon.stop()
            self.assertEqual(daemon.query("SELECT sum(count) AS n FROM days WHERE name = 'bad_body'"), [{"n": refused + 1}])


class TestPassing(StorageCase):
    """What passes by itself: 503 within 3 s and the reason meanwhile, the first 200 within 5 s of relief."""

    def passes(self, daemon, relieve, why, ready=True):
        stored = len(daemon.rows())
        body = self.body() + (" " * 60000 if not ready else "")
        tries = []
        while not tries or (len(tries) < 3 and tries[-1] >= 3.5):  # the machine may be busy
            answer, seconds = self.timed_post(daemon, body)
            self.assertEqual(answer, (503, "store_failed"))
            tries.append(seconds)
        self.assertLess(min(tries), 3.5)
        # whoever waits may be answered a moment before the writer has given up
        self.assertRegex(wait_until(lambda: self.check(daemon, "database").get("why"), "the health says something"), why)
        self.assertEqual(daemon.get("/readyz").status, 503)
        self.assertEqual(daemon.get("/healthz").status, 200)
        wait_until(lambda: any(state.startswith("STATUS=cannot store") for state in daemon.notify_states()),
                   "the service manager is told")
        self.assertEqual(len(daemon.rows()), stored)
        relieve()
        answer, seconds = self.timed_post(daemon, body)
        self.assertEqual(answer, (200, "accepted"))
        self.assertLess(seconds, 5)
        self.assertEqual(daemon.get("/readyz").status, 200 if ready else 503)
        self.assertEqual(len(daemon.rows()), stored + 1)

    def test_full_read_only_and_locked(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            with self.subTest("full"):
                self.disk.strike("write", error=errno.ENOSPC)
                self.passes(daemon, self.disk.heal, "full")
            with self.subTest("over quota"):
                self.disk.strike("write", error=errno.EDQUOT)
                self.passes(daemon, self.disk.heal, "quota")
            with self.subTest("read-only"):
                self.disk.strike("write", "truncate", error=errno.EROFS)
                self.passes(daemon, self.disk.heal, "[Rr]ead-only")
            with self.subTest("locked"):
                other = sqlite3.connect(daemon.database, isolation_level=None)
                with contextlib.closing(other):
                    other.execute("BEGIN IMMEDIATE")
                    self.passes(daemon, lambda: other.execute("ROLLBACK"), "locked")


    @contextlib.contextmanager
    def small_disk(self, size):
        place = self.folder / "small"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", place],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest(f"mount: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place], check=True)

    def test_a_start_on_a_full_disk(self):
        """It starts, says so, and stores as soon as there is room."""
        with self.small_disk("8m") as place:
            daemon = Daemon(self.apple, settings={"database": f"{place}/outbox.db", "consumers": [{"name": "accounts"}]})
            daemon.database = place / "outbox.db"
            with daemon:
                ballast = place / "ballast"
                reader = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, isolation_level=None)
                with contextlib.closing(reader):
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM outbox").fetchone()
                    for _ in range(8):  # which the reader keeps in the log, and then there is no room to move them
                        self.assertEqual(daemon.post(self.body() + " " * 60000), (200, "accepted"))
                    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(4096))
                    daemon.kill9()
                daemon.start()
                self.assertEqual(len(daemon.rows()), 8)
                for _ in range(200):  # what the log has room for is stored
                    if daemon.post(self.body() + " " * 60000)[0] != 200:
                        break
                rows = len(daemon.rows())
                self.passes(daemon, ballast.unlink, "full", ready=False)  # few MiB are free all the same
                self.assertEqual(len(daemon.rows()), rows + 1)


class TestFatal(StorageCase):
    """What does not: no 200 for anything in the batch, an end with the reason, and the next start decides."""

    def ends(self, daemon, body):
        with contextlib.suppress(OSError, harness.http.client.HTTPException):
            self.assertEqual(daemon.post(body), (503, "store_failed"))
        self.assertEqual(daemon.process.wait(harness.PATIENCE_S), 1)
        self.assertTrue((self.folder / "outbox.db.failed").exists())

    def test_a_failed_sync_or_write_is_the_end_until_the_next_start(self):
        for kind, name in (("sync", "SQLITE_IOERR_FSYNC"), ("write", "SQLITE_IOERR_WRITE")):
            with self.subTest(kind):
                daemon = self.daemon()
                with daemon:
                    before = self.body()
                    self.assertEqual(daemon.post(before), (200, "accepted"))
                    body = self.body()
                    self.disk.strike(kind, error=errno.EIO)
                    self.ends(daemon, body)
                    self.assertIn(name, daemon.log())
                    self.disk.heal()
                    daemon.start()
                    self.assertFalse((self.folder / "outbox.db.failed").exists())
                    self.assertEqual(daemon.post(before), (200, "duplicate"))
                    # it may have landed or not, but it is there once
                    self.assertIn(daemon.post(body), ((200, "accepted"), (200, "duplicate")))
                    self.assertEqual(len({row["id"] for row in daemon.rows()}), len(daemon.rows()))
                    rows = len(daemon.rows())
                    self.assertEqual(daemon.post(body), (200, "duplicate"))
                    self.assertEqual(len(daemon.rows()), rows)

    def test_a_damaged_file_is_left_byte_for_byte(self):
        with self.daemon() as daemon:
            for _ in range(12):
                self.assertEqual(daemon.post(self.body() + " " * 20000), (200, "accepted"))
            roots = daemon.query("SELECT max(rootpage) AS last FROM sqlite_schema")[0]["last"]
            daemon.stop()
            pages = daemon.database.stat().st_size // 4096
            self.assertGreater(pages, roots + 12)
            with open(daemon.database, "r+b") as file:
                for page in range(roots, pages):  # beyond the schema and the first page of each table
                    file.seek(page * 4096)
                    file.write(b"\xa5" * 4096)
            digest = lambda: hashlib.sha256(daemon.database.read_bytes()).hexdigest()
            damaged = digest()
            # the whole-file check beside the work finds it
            daemon.spawn_daemon()
            self.assertEqual(daemon.process.wait(harness.PATIENCE_S), 1)
            self.assertIn("damaged", daemon.log())
            self.assertTrue((self.folder / "outbox.db.failed").exists())
            self.assertEqual(digest(), damaged)
            # and from then on a start checks first
            self.assertEqual(daemon.run_to_end(), 1)
            self.assertIn("restore it from a backup", daemon.log())
            self.assertEqual(digest(), damaged)


    def test_a_file_that_was_cut_off_is_left_as_it_is(self):
        with self.daemon() as daemon:
            for _ in range(60):
                self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            daemon.stop()
            whole = daemon.database.read_bytes()
            for missing in (1, 100, 4095):
                with self.subTest(missing=missing):
                    daemon.database.write_bytes(whole[:-missing])
                    self.assertEqual(daemon.run_to_end(), 1)
                    self.assertIn("restore it from a backup", daemon.log().splitlines()[-1])
                    self.assertEqual(daemon.database.read_bytes(), whole[:-missing])
            daemon.database.write_bytes(whole)
            daemon.start()
            self.assertEqual(len(daemon.rows()), 60)

    def test_a_log_that_is_none_is_left_as_it_is(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            daemon.kill9()
            log = pathlib.Path(f"{daemon.database}-wal")
            whole, database = log.read_bytes(), daemon.database.read_bytes()
            damaged = b"\xa5" * 8192  # what is there may have been moved into the database, and be empty
            log.write_bytes(damaged)
            self.assertEqual(daemon.run_to_end(), 1)
            self.assertIn("outbox.db-wal: damaged", daemon.log())
            self.assertEqual((log.read_bytes(), daemon.database.read_bytes()), (damaged, database))
            log.write_bytes(whole)
            daemon.start()
            self.assertEqual(len(daemon.rows()), 1)
            daemon.kill9()
            # what a full disk can leave of a new one holds nothing, and is no damage
            for left in (b"", bytes(4096), b"\x37\x7f" + bytes(4094)):
                log.write_bytes(left)
                daemon.start()
                self.assertEqual(len(daemon.rows()), 1)
                daemon.kill9()
            daemon.start()


    def test_a_log_that_is_damaged_before_its_end_is_left_as_it_is(self):
        with self.daemon() as daemon:
            rows = 0

            def crashed():
                nonlocal rows
                for _ in range(6):
                    self.assertEqual(daemon.post(self.body()), (200, "accepted"))
                    rows += 1
                return daemon.killed_with_a_log(3)
            wait_until(crashed, "a log that a crash left")
            log = pathlib.Path(f"{daemon.database}-wal")
            whole, database = log.read_bytes(), daemon.database.read_bytes()
            damaged = bytearray(whole)
            damaged[32 + 24 + 100] ^= 0x55  # in the first page of the first commit
            log.write_bytes(damaged)
            self.assertEqual(daemon.run_to_end(), 1)
            self.assertIn("outbox.db-wal: damaged: ", daemon.log())
            self.assertEqual((log.read_bytes(), daemon.database.read_bytes()), (damaged, database))
            log.write_bytes(whole)
            daemon.start()
            self.assertEqual(len(daemon.rows()), rows)


class TestLostLog(StorageCase):
    """The write-ahead log holds what was committed last, also of a daemon that was killed."""

    def test_one_that_was_taken_away_after_a_kill_is_told(self):
        with self.daemon() as daemon:
            for _ in range(3):
                self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            before, = daemon.query("SELECT * FROM outbox_state")
            daemon.kill9()
            pathlib.Path(f"{daemon.database}-wal").unlink()
            daemon.start()
            line, = [line for line in daemon.log().splitlines() if "the write-ahead log is missing" in line]
            self.assertIn("level=warning", line)
            self.assertIn(f"file={daemon.database}-wal", line)
            # what comes now is not passed over by who had seen the lost ones
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertEqual(len(daemon.rows(after=before["last_id"])), 1)
            after, = daemon.query("SELECT * FROM outbox_state")
            self.assertGreater(after["generation"], before["generation"])
            self.assertEqual(daemon.get("/readyz").status, 200)
            daemon.restart()
            self.assertEqual(daemon.log().count("the write-ahead log is missing"), 1)

    def test_one_that_is_taken_away_from_a_running_daemon_loses_nothing(self):
        with self.daemon() as daemon:
            for end in ("-wal", "-shm"):
                with self.subTest(end):
                    bodies = [self.body() for _ in range(3)]
                    self.assertEqual([daemon.post(body) for body in bodies[:2]], [(200, "accepted")] * 2)
                    pathlib.Path(f"{daemon.database}-wal").unlink()
                    pathlib.Path(f"{daemon.database}{end}").unlink(missing_ok=True)
                    with contextlib.suppress(OSError, harness.http.client.HTTPException):
                        self.assertEqual(daemon.post(bodies[2])[0], 503)
                    self.assertEqual(daemon.process.wait(harness.PATIENCE_S), 1)
                    self.assertIn("-wal was moved or deleted while the daemon ran", daemon.log())
                    daemon.start()
                    self.assertEqual([daemon.post(body) for body in bodies],
                                     [(200, "duplicate"), (200, "duplicate"), (200, "accepted")])
            self.assertNotIn("the write-ahead log is missing", daemon.log())
            self.assertEqual(len(daemon.rows()), 6)

    def test_one_that_may_be_missing_is_not(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            copy = self.folder / "copy.db"
            daemon.command("backup", copy, check=0)
            daemon.kill9()
            daemon.start()  # with its log
            daemon.stop()
            for end in ("-wal", "-shm"):  # of a clean stop
                pathlib.Path(f"{daemon.database}{end}").unlink()
            daemon.start()
            daemon.kill9()
            for end in ("", "-wal", "-shm"):  # restored as the manual says
                pathlib.Path(f"{daemon.database}{end}").unlink()
            copy.rename(daemon.database)
            daemon.start()
            self.assertNotIn("the write-ahead log is missing", daemon.log())
            self.assertEqual(len(daemon.rows()), 1)


class TestReader(StorageCase):
    def test_a_long_write_ahead_log_is_shown(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertEqual(self.check(daemon, "database")["state"], "ok")

            def lengthened():
                """Zeros beyond the last commit mean nothing to SQLite. Whoever starts the log anew cuts them off again."""
                os.truncate(f"{daemon.database}-wal", 65 << 20)
                return True
            wait_until(lambda: lengthened() and "a reader stays in one transaction" in daemon.log(), "the warning in the log")
            wait_until(lambda: lengthened() and self.check(daemon, "database")["state"] == "warn", "the check warns")
            wait_until(lambda: lengthened() and "a reader stays in one transaction" in
                       self.check(daemon, "database").get("why", ""), "the check says why")
            self.assertEqual(daemon.get("/readyz").status, 200)
            wait_until(lambda: lengthened() and daemon.metrics().value("siwa_database_bytes", file="wal") == 65 << 20,
                       "the metric shows it")
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))


if __name__ == "__main__":
    unittest.main()
