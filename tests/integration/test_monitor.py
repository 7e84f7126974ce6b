"""The monitor of the real daemon: every reason for not being ready is brought about, told, and gone when it is mended."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

MIB = 1 << 20


class MonitorCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def body(self, kind="consent-revoked", **how):
        return self.apple.body(self.apple.notification(kind, **how))

    def ready(self, daemon):
        """Status and checks of /readyz; the two must agree."""
        reply = daemon.get("/readyz")
        answer = json.loads(reply.body)
        self.assertEqual(reply.status, 200 if answer["ready"] else 503)
        self.assertEqual(answer["ready"], all(check["state"] != "fail" for check in answer["checks"].values()))
        for check in answer["checks"].values():
            self.assertEqual("why" in check, check["state"] != "ok")
        return reply.status, answer["checks"]

    def await_ready(self, daemon, status):
        wait_until(lambda: self.ready(daemon)[0] == status, f"/readyz answers {status}")


class TestHealth(MonitorCase):
    def test_a_daemon_that_is_well(self):
        with Daemon(self.apple) as daemon:
            self.await_ready(daemon, 200)
            reply = daemon.get("/healthz")
            self.assertEqual((reply.status, reply.body), (200, "ok\n"))
            checks = self.ready(daemon)[1]
            self.assertEqual(set(checks), {"threads", "keys", "database", "commit", "queue", "disk", "clock", "quarantine", "deferred",
                                           "draining"})
            self.assertEqual(checks["keys"]["count"], 1)
            self.assertGreaterEqual(checks["keys"]["age_s"], 0)
            for path in "/index.html", "/v1/state", "/apple/notifications":
                self.assertEqual(daemon.get(path).status, 404)

    def test_head_is_get_without_the_body(self):
        """What watches from outside often asks so."""
        with Daemon(self.apple) as daemon:
            connection = harness.Connection(daemon.settings["monitor"])
            self.addCleanup(connection.close)
            for path in ("/healthz", "/readyz", "/metrics", "/", "/no-such"):
                with self.subTest(path=path):
                    connection.request("GET", path)
                    got = connection.getresponse()
                    body = got.read()
                    connection.request("HEAD", path)
                    head = connection.getresponse()
                    self.assertEqual((head.status, head.read()), (got.status, b""))
                    self.assertEqual(head.headers["Content-Type"], got.headers["Content-Type"])
                    if path == "/healthz":
                        self.assertEqual(head.headers["Content-Length"], str(len(body)))
            head = harness.exchange(daemon.settings["monitor"], b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.assertTrue(head.endswith(b"\r\n\r\n"), head)  # read bare: a client would leave a body for the next answer

    def test_days_are_counted_across_restarts(self):
        with Daemon(self.apple) as daemon:
            for _ in range(2):
                self.assertEqual(daemon.post(self.body("account-delete"))[0], 200)
                self.assertEqual(daemon.post("{}")[0], 400)
                daemon.stop()  # what was counted since the last flush is flushed here
                daemon.start()
            counts = {(row["what"], row["name"]): row["n"] for row in
                      daemon.query("SELECT what, name, sum(count) AS n FROM days GROUP BY 1, 2")}
            self.assertEqual(counts, {("outcome", "accepted"): 2, ("event", "account-delete"): 2,
                                      ("outcome", "bad_body"): 2})

    def test_no_keys(self):
        with Daemon(self.apple) as daemon:
            daemon.key_file.unlink()
            daemon.stop()
            (daemon.directory / "keys.json").unlink(missing_ok=True)
            daemon.start()
            self.assertEqual(daemon.get("/healthz").status, 200)
            status, checks = self.ready(daemon)
            self.assertEqual((status, checks["keys"]["state"]), (503, "fail"))
            self.assertEqual(daemon.post(self.body())[0], 503)
            daemon.publish(self.apple.key_set())
            daemon.command("keys", "--refresh", check=0)
            self.assertEqual(self.ready(daemon)[0], 200)
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))

    def test_a_clock_that_is_not_set(self):
        with Daemon(self.apple, fake_time="2018-06-01 00:00:00") as daemon:
            status, checks = self.ready(daemon)
            self.assertEqual((status, checks["clock"]["state"]), (503, "fail"))
            self.assertIn("not set", checks["clock"]["why"])

    def test_a_clock_that_jumps(self):
        with tempfile.NamedTemporaryFile("w", suffix=".time") as offset:

            def move(text):
                offset.seek(0)
                offset.write(f"{text:<10}\n")
                offset.flush()

            move("+0")
            environment = {"LD_PRELOAD": harness.fake_time_library(), "FAKETIME_TIMESTAMP_FILE": offset.name,
                           "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                           "NO_FAKE_STAT": "1",
                           "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}
            with Daemon(self.apple, environment=environment) as daemon:
                self.await_ready(daemon, 200)
                self.assertEqual(self.ready(daemon)[1]["clock"]["state"], "ok")
                for shift, word in ("+7200", "forward"), ("+0", "back"):
                    move(shift)
                    wait_until(lambda word=word: word in self.ready(daemon)[1]["clock"].get("why", ""),
                               f"the jump {word} is told")
                    status, checks = self.ready(daemon)
                    self.assertEqual((status, checks["clock"]["state"]), (200, "warn"))
                    self.assertAlmostEqual(abs(checks["clock"]["jump_s"]), 7200, delta=60)

    def test_the_database_file_goes_away(self):
        """/readyz says so (tests/unit/test_monitor.c) until the first commit, of whatever, ends the daemon."""
        with Daemon(self.apple) as daemon:
            self.await_ready(daemon, 200)
            aside = daemon.database.with_name("aside.db")
            daemon.database.rename(aside)
            with contextlib.suppress(OSError, harness.http.client.HTTPException):
                self.assertEqual(daemon.post(self.body())[0], 503)
            self.assertEqual(daemon.process.wait(harness.PATIENCE_S), 1)
            self.assertIn("moved or deleted", daemon.log())
            aside.rename(daemon.database)
            daemon.start()
            self.assertEqual(daemon.rows(), [])
            self.assertEqual(daemon.post(self.body())[0], 200)


class TestDisk(MonitorCase):
    def mount(self, size_mib):
        """A file system of that size for a daemon's directory."""
        harness.need("mount", "umount")
        directory = tempfile.mkdtemp(prefix="siwa-disk-")
        self.addCleanup(os.rmdir, directory)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0755", "tmpfs", directory],
                              capture_output=True, check=False)
        if done.returncode:
            self.skipTest("mounting a small file system needs root and its rights")
        self.addCleanup(subprocess.run, ["umount", "--lazy", directory], check=False)
        return directory

    def test_little_space(self):
        with Daemon(self.apple, directory=self.mount(80)) as daemon:
            self.await_ready(daemon, 200)
            self.assertEqual(self.ready(daemon)[1]["disk"]["state"], "warn")
            filler = daemon.directory / "filler"
            filler.write_bytes(b"x" * (24 * MIB))
            status, checks = self.ready(daemon)
            self.assertEqual((status, checks["disk"]["state"]), (503, "fail"))
            self.assertLess(checks["disk"]["free_bytes"], 64 * MIB)
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))  # there is still room for it
            filler.unlink()
            self.assertEqual(self.ready(daemon)[0], 200)

    def test_a_read_only_file_system(self):
        """What is seen at the database's path; the files that are open keep their own view of it."""
        directory = self.mount(200)
        with Daemon(self.apple, directory=directory) as daemon:
            self.await_ready(daemon, 200)
            subprocess.run(["mount", "--bind", directory, directory], check=True)
            try:
                subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
                status, checks = self.ready(daemon)
                self.assertEqual((status, checks["database"]["state"]), (503, "fail"))
                self.assertIn("read-only", checks["database"]["why"])
            finally:
                subprocess.run(["umount", "--lazy", directory], check=True)
            self.assertEqual(self.ready(daemon)[0], 200)

    def test_no_space(self):
        with Daemon(self.apple, directory=self.mount(80)) as daemon:
            self.await_ready(daemon, 200)
            filler = daemon.directory / "filler"
            with open(filler, "wb", buffering=0) as file:
                with self.assertRaises(OSError):
                    while True:
                        file.write(b"x" * 4096)

            def refused():
                return daemon.post(self.body())[0] == 503

            wait_until(refused, "a commit fails")  # the log has some room of its own at first
            status, checks = self.ready(daemon)
            self.assertEqual((status, checks["database"]["state"]), (503, "fail"))
            self.assertIn("full", checks["database"]["why"])
            self.assertEqual(daemon.get("/healthz").status, 200)  # a full disk is no hang
            self.assertGreater(daemon.metrics().total("siwa_database_errors_total"), 0)
            filler.unlink()
            wait_until(lambda: daemon.post(self.body())[0] == 200, "a commit succeeds again")
            self.await_ready(daemon, 200)


class TestMetrics(MonitorCase):
    def test_promtool_has_nothing_to_say(self):
        promtool = harness.command_path("promtool")
        with Daemon(self.apple) as daemon:
            for kind in harness.TYPES:
                self.assertEqual(daemon.post(self.body(kind))[0], 200)
            daemon.post(self.body(aud="com.example.unknown"))
            daemon.post("no body")
            reply = daemon.get("/metrics")
            self.assertEqual(reply.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            done = subprocess.run([promtool, "check", "metrics"], input=reply.body, capture_output=True, text=True,
                                  check=False)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_the_numbers_are_those_of_now(self):
        started_s = time.time()
        with Daemon(self.apple) as daemon:
            self.await_ready(daemon, 200)
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_ready"), 1)
            self.assertEqual(metrics.total("siwa_build_info"), 1)
            self.assertEqual(metrics.value("siwa_keys_current"), 1)
            self.assertLess(metrics.value("siwa_key_age_seconds"), harness.PATIENCE_S * 2)
            self.assertGreaterEqual(metrics.value("siwa_start_time_seconds"), started_s - 1)
            self.assertLessEqual(metrics.value("siwa_start_time_seconds"), time.time() + 1)
            self.assertEqual(metrics.value("siwa_database_bytes", file="main"), daemon.database.stat().st_size)
            self.assertGreater(metrics.value("siwa_disk_free_bytes"), 0)
            self.assertGreater(metrics.value("process_resident_memory_bytes"), MIB)
            self.assertGreater(metrics.value("process_open_fds"), 5)
            self.assertEqual(metrics.value("siwa_queue_events"), 0)

    def test_connections_are_counted_by_listener(self):
        with Daemon(self.apple) as daemon:
            path = daemon.address.removeprefix("unix:")
            clients = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            for client in clients:
                client.connect(path)
            wait_until(lambda: daemon.metrics().value("siwa_connections", listener="notify") == 5, "five are open")
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_connections", listener="monitor"), 1)  # the one that asks
            self.assertEqual(metrics.value("siwa_connections", listener="control"), 0)
            for client in clients:
                client.close()
            wait_until(lambda: daemon.metrics().value("siwa_connections", listener="notify") == 0, "all are closed")

    def test_nothing_personal_is_shown(self):
        event = {"sub": "001234.personal.5678", "email": "personal@privaterelay.example", "event_time": 1700000000000}
        with Daemon(self.apple) as daemon:
            token = self.apple.notification("email-enabled", event=event, jti="jtiPersonal01234567890")
            self.assertEqual(daemon.post(self.apple.body(token)), (200, "accepted"))
            shown = "".join([daemon.get("/metrics").body, daemon.get("/readyz").body, daemon.get("/healthz").body,
                             daemon.control("GET", "/v1/state").body, daemon.control("GET", "/v1/keys").body])
            for secret in "personal", "jtiPersonal", token.split(".")[2][:16]:
                self.assertNotIn(secret, shown)


if __name__ == "__main__":
    unittest.main()
