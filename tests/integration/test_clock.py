"""A wall clock that is not set, or jumps while the daemon runs: nothing valid is refused, nothing accepted beyond its time."""

import json
import pathlib
import tempfile
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

NOW = 1750000000
HOUR = 3600
DAY = 24 * HOUR


class TestClock(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="siwa-")
        self.addCleanup(folder.cleanup)
        self.time_file = pathlib.Path(folder.name) / "time"

    def daemon(self, start=NOW, **how):
        """A daemon whose wall clock jumps when jump says so; its monotonic clock does not."""
        daemon = Daemon(self.apple, fake_time=start, **how)
        environment = daemon.full_environment()
        del environment["FAKETIME"]
        daemon.environment = {name: environment[name] for name in
                              ("LD_PRELOAD", "TZ", "DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT",
                               "ASAN_OPTIONS")}
        daemon.environment.update(FAKETIME_TIMESTAMP_FILE=str(self.time_file), FAKETIME_NO_CACHE="1")
        daemon.fake_time = None
        self.jump(start - time.time())
        return daemon

    def jump(self, offset):
        """The wall clock is that of this machine and offset seconds more."""
        fresh = self.time_file.with_suffix(".new")
        fresh.write_text(f"{offset:+.3f}s\n")
        fresh.rename(self.time_file)

    def set_clock(self, seconds):
        self.jump(seconds - time.time())

    def body(self, **how):
        return self.apple.body(self.apple.notification(**how))

    def check(self, daemon):
        return json.loads(daemon.get("/readyz").body)["checks"]["clock"]

    def test_back(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.post(self.body(now=NOW)), (200, "accepted"))
            fresh, over = self.body(now=NOW), self.body(now=NOW - 2 * DAY)
            self.set_clock(NOW - 3 * HOUR)
            # valid: put off, not refused
            self.assertEqual(daemon.post(fresh), (503, "from_future"))
            # over for two hours by the clock as it was, valid for another by the clock as it is
            self.assertEqual(daemon.post(self.body(now=NOW - DAY - 2 * HOUR)), (503, "from_future"))
            # valid, and over, by both
            self.assertEqual(daemon.post(self.body(now=NOW - 4 * HOUR)), (200, "accepted"))
            self.assertEqual(daemon.post(over), (200, "quarantined"))
            self.assertEqual(self.check(daemon)["state"], "warn")
            self.assertIn("the clock jumped", daemon.log())
            # and right again
            self.set_clock(NOW + 60)
            self.assertEqual(daemon.post(fresh), (200, "accepted"))
            self.assertEqual(daemon.post(self.body(now=NOW - DAY - 2 * HOUR)), (200, "quarantined"))
            self.assertEqual(daemon.get("/healthz").status, 200)
            self.assertEqual(len(daemon.rows()), 3)

    def test_forward(self):
        with self.daemon(settings={"late": "reject"}) as daemon:
            valid = self.body(now=NOW)
            self.set_clock(NOW + 3 * DAY)
            # the strictest setting refuses for good what is over: not while that is in doubt
            self.assertEqual(daemon.post(valid), (503, "from_future"))
            self.assertEqual(daemon.post(self.body(now=NOW - 2 * DAY)), (400, "expired"))
            self.set_clock(NOW + 60)
            self.assertEqual(daemon.post(valid), (200, "accepted"))
            self.assertEqual(daemon.get("/healthz").status, 200)

    def test_far_away_and_unset(self):
        with self.daemon() as daemon:
            valid = self.body(now=NOW)
            for clock in (0, NOW - 2000 * DAY, NOW + 40 * DAY, NOW + 5000 * DAY):
                self.set_clock(clock)
                status, word = daemon.post(valid)
                self.assertEqual(status, 503, (clock, word))
                self.assertEqual(daemon.rows(), [])
            self.set_clock(NOW + 60)
            # a refresh of the keys may have been dated by the wrong clock; it is dated anew soon
            wait_until(lambda: daemon.post(valid) == (200, "accepted"), "the first 200")

    def test_what_was_deferred_by_a_clock_that_was_ahead(self):
        """No key is usable then, so it is deferred, with a time of receipt that was none."""
        with self.daemon(settings={"late": "reject"}) as daemon:
            valid, over = self.body(now=NOW), self.body(now=NOW - 2 * DAY)
            wait_until(lambda: daemon.metrics().value("siwa_keys_current") == 1, "the key")
            daemon.key_file.unlink()
            self.set_clock(NOW + 40 * DAY)
            for body in (valid, over):
                self.assertEqual(daemon.post(body), (503, "deferred"))
            self.set_clock(NOW + 60)
            daemon.publish(self.apple.key_set())
            self.assertEqual(daemon.control("POST", "/v1/keys/refresh").status, 200)
            wait_until(lambda: daemon.metrics().value("siwa_deferred_events") == 0, "both to be judged")
            self.assertEqual(daemon.post(valid), (200, "duplicate"))
            row, = daemon.rows()
            self.assertLess(row["received_at_ms"], (NOW + DAY) * 1000)
            self.assertEqual(daemon.metrics().value("siwa_deferred_total", result="expired"), 1)

    def test_time_outs_do_not_follow_it(self):
        with self.daemon(settings={"limits": {"request_s": 5, "headers_s": 5, "idle_s": 60}}) as daemon:
            with harness.connect(daemon.address) as stream:
                stream.sendall(b"POST /apple/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
                self.set_clock(NOW + 10 * DAY)
                self.assertEqual(daemon.post(self.body(now=NOW + 10 * DAY))[0], 200)
                self.set_clock(NOW - 10 * DAY)
                stream.settimeout(1)
                with self.assertRaises(TimeoutError):
                    stream.recv(1)  # still waited for
                stream.settimeout(harness.PATIENCE_S)
                began = time.monotonic()
                self.assertNotEqual(stream.recv(1000), b"x")
                self.assertLess(time.monotonic() - began, 10)


if __name__ == "__main__":
    unittest.main()
