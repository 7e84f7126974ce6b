"""Quarantine: what Apple signed and nobody may see yet, and what an operator does with it."""

import contextlib
import json
import os
import sqlite3
import time
import unittest

from harness import CLIENT_ID, ISSUER, Apple, Daemon

DAY_S = 86400
STRANGE = "https://issuer.example"


class QuarantineCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def body(self, **changes):
        return self.apple.body(self.apple.notification(**changes))

    def late(self, **changes):
        return self.body(now=time.time() - 3 * DAY_S, **changes)

    def listed(self, daemon):
        done = daemon.command("quarantine", "list", "--json", check=0)
        return json.loads(done.stdout)["quarantine"]

    def change(self, daemon, verb, row, check=0):
        return daemon.command("quarantine", verb, row, check=check)


class Commands(QuarantineCase):
    def test_each_reason_is_listed_and_released(self):
        claims = self.apple.claims(iss=STRANGE)
        with Daemon(self.apple) as daemon:
            self.assertIn("nothing is in quarantine", daemon.command("quarantine", "list", check=0).stdout)
            before_ms = int(time.time() * 1000)
            bodies = [self.late(kind="account-delete"), self.apple.body(self.apple.mint(claims)),
                      self.body(events="surprise")]
            for body in bodies:
                self.assertEqual(daemon.post(body), (200, "quarantined"))
            rows = self.listed(daemon)
            self.assertEqual([row["reason"] for row in rows], ["expired", "unknown_issuer", "events_unclear"])
            for row, body in zip(rows, bodies):
                self.assertEqual(set(row), {"id", "reason", "client_id", "received_at_ms", "bytes"})
                self.assertEqual((row["client_id"], row["bytes"]), (CLIENT_ID, len(body)))
                self.assertLessEqual(before_ms, row["received_at_ms"])
            shown = daemon.command("quarantine", "list", check=0).stdout
            for secret in (claims["jti"], json.loads(claims["events"])["sub"], bodies[0][40:80]):
                self.assertNotIn(secret, shown + daemon.log())
            self.assertEqual(len(shown.splitlines()), 4)
            self.assertEqual(daemon.rows(), [])
            self.assertEqual(daemon.metrics().value("siwa_quarantined_events"), 3)

            expired, stranger, unclear = (row["id"] for row in rows)
            self.assertEqual(self.change(daemon, "release", expired).stdout,
                             f"{expired}: accepted, row 1 of the outbox\n")
            self.assertIn("accepted", self.change(daemon, "release", stranger).stdout)
            refused = self.change(daemon, "release", unclear, check=1)
            self.assertIn("again after an upgrade", refused.stderr)
            self.assertEqual([row["type"] for row in daemon.rows()], ["account-delete", "consent-revoked"])
            self.assertEqual(daemon.rows()[1]["jti"], claims["jti"])
            self.assertEqual([row["id"] for row in self.listed(daemon)], [unclear])
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_events_total", type="account-delete", client_id=CLIENT_ID), 1)
            self.assertEqual(metrics.value("siwa_quarantined_events"), 1)
            self.assertEqual(metrics.value("siwa_quarantined_bytes"), len(bodies[2]))
            # Its repeat, expired as it is, is known now.
            self.assertEqual(daemon.post(bodies[0]), (200, "duplicate"))

            self.assertEqual(self.change(daemon, "drop", unclear).stdout, f"{unclear}: dropped\n")
            for verb in ("drop", "release"):
                gone = self.change(daemon, verb, unclear, check=1)
                self.assertIn(f"no such notification in quarantine: {unclear} is not there", gone.stderr)
            self.assertEqual(self.listed(daemon), [])
            self.assertIn('msg="quarantined notification released by hand"', daemon.log())

    def test_what_was_stored_meanwhile_is_a_duplicate(self):
        event = {"sub": "000123.abc.0001", "event_time": int(time.time() * 1000) - 60000}
        with Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.late(event=event)), (200, "quarantined"))
            self.assertEqual(daemon.post(self.body(event=event)), (200, "accepted"))
            row = self.listed(daemon)[0]["id"]
            done = daemon.command("quarantine", "release", "--json", row, check=0)
            self.assertEqual(json.loads(done.stdout), {"id": row, "outcome": "duplicate", "first_row": 0, "rows": 0})
            self.assertEqual(self.listed(daemon), [])
            self.assertEqual(len(daemon.rows()), 1)

    def test_a_release_does_not_move_the_last_accepted_back(self):
        def last():
            return daemon.metrics().value("siwa_last_accepted_timestamp_seconds", client_id=CLIENT_ID)

        with Daemon(self.apple) as daemon:
            for _ in range(2):
                self.assertEqual(daemon.post(self.late()), (200, "quarantined"))
            first, second = (row["id"] for row in self.listed(daemon))
            self.assertIn("accepted", self.change(daemon, "release", first).stdout)
            self.assertGreater(last(), 0)
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            before = last()
            self.assertIn("accepted", self.change(daemon, "release", second).stdout)
            self.assertEqual(last(), before)
            daemon.restart()
            self.assertEqual(last(), before)

    def test_what_the_database_was_changed_to_is_not_released(self):
        """Who can write into the file, but has no key of Apple's, makes no event."""
        with Daemon(self.apple) as daemon:
            good = self.late()
            self.assertEqual(daemon.post(good), (200, "quarantined"))
            self.assertEqual(daemon.post(self.late()), (200, "quarantined"))
            first, second = (row["id"] for row in self.listed(daemon))
            daemon.stop()
            imitation = Apple("TESTKEY001")
            forged = [imitation.body(imitation.notification()), Apple.body(imitation.mint(Apple.claims(), {
                "kid": "NOSUCHKID1", "alg": "RS256"}))]
            with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
                for row, body in zip((first, second), forged):
                    connection.execute("UPDATE quarantine SET body = ? WHERE id = ?", (body.encode(), row))
            daemon.start()
            self.assertIn("the database was changed", self.change(daemon, "release", first, check=1).stderr)
            self.assertIn("its key is distrusted, or was forgotten",
                          self.change(daemon, "release", second, check=1).stderr)
            self.assertEqual(daemon.rows(), [])
            self.assertEqual(len(self.listed(daemon)), 2)

    def test_an_app_that_was_taken_away_and_came_back(self):
        apps = [{"client_id": name, "app": "Example", "team": "ABCDE12345"} for name in (CLIENT_ID, "com.example.two")]
        with Daemon(self.apple, apps=apps) as daemon:
            self.assertEqual(daemon.post(self.late(aud="com.example.two")), (200, "quarantined"))
            row = self.listed(daemon)[0]["id"]
            daemon.stop()
            daemon.settings["apps"] = apps[:1]
            daemon.start()
            self.assertIn("add that to `apps`", self.change(daemon, "release", row, check=1).stderr)
            daemon.stop()
            daemon.settings["apps"] = apps
            daemon.start()
            self.assertIn("accepted", self.change(daemon, "release", row).stdout)
            self.assertEqual(daemon.rows()[0]["client_id"], "com.example.two")

    def test_the_command_line(self):
        with Daemon(self.apple) as daemon:
            for operands in (["shred"], ["release"], ["drop", "x"], ["list", "1"], ["drop", "-1"], []):
                self.assertEqual(daemon.command("quarantine", *operands).returncode, 2, operands)
            self.assertEqual(daemon.control("POST", "/v1/quarantine/x/drop").status, 404)
            self.assertEqual(daemon.control("POST", "/v1/quarantine/99999999999999999999/release").status, 404)
            daemon.stop()
            self.assertIn("the daemon is not running", daemon.command("quarantine", "list", check=1).stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become somebody else")
    def test_only_the_operator_may(self):
        with Daemon(self.apple) as daemon:
            daemon.directory.chmod(0o755)
            (daemon.directory / "control.sock").chmod(0o666)
            for method, path in (("GET", "/v1/quarantine"), ("POST", "/v1/quarantine/1/drop"),
                                 ("POST", "/v1/quarantine/1/release")):
                os.seteuid(65534)
                try:
                    status = daemon.control(method, path).status
                finally:
                    os.seteuid(0)
                self.assertEqual(status, 403)


class Late(QuarantineCase):
    def test_deliver_and_reject(self):
        for setting, answer, rows in (("deliver", (200, "accepted"), 1), ("reject", (400, "expired"), 0)):
            with self.subTest(setting), Daemon(self.apple, settings={"late": setting}) as daemon:
                self.assertEqual(daemon.post(self.late()), answer)
                self.assertEqual(len(daemon.rows()), rows)
                # What casts more doubt than lateness goes apart all the same.
                self.assertEqual(daemon.post(self.late(iss=STRANGE)), (200, "quarantined"))
                in_time = self.apple.claims(exp=int(time.time()) + 86400)
                self.assertEqual(daemon.post(self.apple.body(self.apple.mint(in_time))), (200, "accepted"))
                in_time["exp"] = int(time.time()) - DAY_S
                self.assertEqual(daemon.post(self.apple.body(self.apple.mint(in_time))), (200, "duplicate"))

    def test_it_is_bounded_and_a_full_one_is_said(self):
        """16 MiB: what came first stays, and what no longer fits is answered 503."""
        padding = " " * 60000
        with Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.late()), (200, "quarantined"))
            daemon.stop()
            with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
                connection.execute("UPDATE quarantine SET body = zeroblob(16 * 1024 * 1024 - 60000)")
            daemon.start()
            self.assertEqual(daemon.post(self.late() + padding), (503, "busy"))
            quarantine = json.loads(daemon.get("/readyz").body)["checks"]["quarantine"]
            self.assertEqual((quarantine["state"], quarantine["count"]), ("warn", 1))
            row = self.listed(daemon)[0]["id"]
            self.change(daemon, "drop", row)
            self.assertEqual(daemon.post(self.late() + padding), (200, "quarantined"))


if __name__ == "__main__":
    unittest.main()
