"""Retention: rows, bodies and identities go when their time has come, and not before a consumer had them."""

import contextlib
import pathlib
import signal
import sqlite3
import subprocess
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

DAY = 86400


def acknowledge(daemon, name, through):
    """While the daemon is stopped."""
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
        connection.execute("UPDATE consumers SET position = ? WHERE name = ?", (through, name))


class TestRetention(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need("faketime")
        cls.apple = Apple()

    def body(self, kind, **how):
        return self.apple.body(self.apple.notification(kind, **how))

    def state(self, daemon):
        return daemon.query("SELECT pruned_through, last_id FROM outbox_state")[0]

    def test_a_row_goes_when_the_slowest_consumer_had_it_and_past_hard_anyway(self):
        now = time.time()
        settings = {"consumers": [{"name": "accounts"}, {"name": "mailer"}]}
        bodies = [self.body(kind) for kind in ("account-delete", "email-disabled")]
        with Daemon(self.apple, settings=settings) as daemon:
            self.assertEqual([daemon.post(body)[0] for body in bodies], [200, 200])
            gone = daemon.rows()[0]["sub"]
            daemon.stop()
            acknowledge(daemon, "accounts", 2)
            acknowledge(daemon, "mailer", 1)

            daemon.restart(fake_time=now + 91 * DAY)
            wait_until(lambda: self.state(daemon)["pruned_through"] == 1, "the first row goes")
            wait_until(lambda: "what is old was removed" in daemon.log(), "the sweep is told")
            self.assertEqual([row["id"] for row in daemon.rows()], [2])
            self.assertEqual(daemon.query("SELECT id FROM raw"), [{"id": 2}])
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_pruned_total", what="rows"), 1)
            self.assertEqual(metrics.value("siwa_pruned_unacknowledged_total"), 0)
            # the WAL is emptied after a sweep, so that what was removed is gone from the disk
            wait_until(lambda: not any(gone.encode() in pathlib.Path(f"{daemon.database}{suffix}").read_bytes()
                                       for suffix in ("", "-wal")), "its text is gone")
            # a repeat is known for longer than its row is kept
            self.assertEqual(daemon.post(bodies[0]), (200, "duplicate"))
            # and the audit tells of it
            self.assertEqual(daemon.query("SELECT id, type FROM facts"), [{"id": 1, "type": "account-delete"}])

            daemon.restart(fake_time=now + 366 * DAY)
            wait_until(lambda: self.state(daemon)["pruned_through"] == 2, "the second row goes")
            wait_until(lambda: "past retain.hard" in daemon.log(), "it is said")
            self.assertEqual(daemon.rows(), [])
            self.assertEqual(daemon.metrics().value("siwa_pruned_unacknowledged_total"), 1)

            # ids go on
            daemon.restart(fake_time=None)
            self.assertEqual(daemon.post(self.body("email-enabled"))[0], 200)
            self.assertEqual([row["id"] for row in daemon.rows()], [3])

    def test_other_times_count_after_a_reload(self):
        with Daemon(self.apple, fake_time=time.time() - 2 * DAY) as daemon:
            self.assertEqual(daemon.post(self.body("email-enabled", now=time.time() - 2 * DAY))[0], 200)
            daemon.restart(fake_time=None)
            self.assertEqual(daemon.post(self.body("email-enabled"))[0], 200)
            self.assertEqual(len(daemon.query("SELECT id FROM raw")), 2)
            daemon.settings["retain"] = {"events": "1d", "raw": "0s"}
            daemon.write_config()
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: self.state(daemon)["pruned_through"] == 1, "the old row goes")
            wait_until(lambda: daemon.query("SELECT id FROM raw") == [], "no body is kept")
            self.assertEqual(daemon.post(self.body("email-enabled"))[0], 200)
            self.assertEqual([row["id"] for row in daemon.rows()], [2, 3])
            self.assertEqual(daemon.query("SELECT id FROM raw"), [])

    def test_what_a_reader_kept_goes_when_the_reader_does(self):
        """The sweep itself finds the log in use, and nothing else is written after it."""
        with Daemon(self.apple, fake_time=time.time() - 2 * DAY) as daemon:
            self.assertEqual(daemon.post(self.body("account-delete", now=time.time() - 2 * DAY))[0], 200)
            daemon.restart(fake_time=None)
            gone = daemon.rows()[0]["sub"]

            def on_disk():
                # by another process: one that closes a file lets go of its own locks on it, and here is the reader
                return gone.encode() in subprocess.run(["cat", daemon.database, f"{daemon.database}-wal"], capture_output=True,
                                                       check=True).stdout

            with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM outbox").fetchall()
                daemon.settings["retain"] = {"events": "1d", "raw": "1d"}
                daemon.write_config()
                daemon.process.send_signal(signal.SIGHUP)
                wait_until(lambda: "what is old was removed" in daemon.log(), "the sweep is told")
                self.assertEqual(self.state(daemon)["pruned_through"], 1)
                self.assertTrue(on_disk())
            wait_until(lambda: not on_disk(), "its text is gone")


if __name__ == "__main__":
    unittest.main()
