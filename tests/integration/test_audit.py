"""The audit: what became of each account-delete and consent-revoked, without a word about who it was."""

import json
import os
import subprocess
import time
import unittest

from harness import Apple, Daemon, wait_until

DAY = 86400
SUB = "000777.0123456789abcdef0123456789abcdef.0888"
OTHER = "000778.fedcba9876543210fedcba9876543210.0889"


class TestAudit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def post(self, daemon, kind, sub, now=None):
        event = {"sub": sub}
        if kind.startswith("email"):
            event["email"] = "someone@relay.invalid"
        claims = Apple.claims(kind, event=event, now=now)
        self.assertEqual(daemon.post(Apple.body(self.apple.mint(claims)))[0], 200)
        return claims

    def audit(self, daemon, *arguments):
        done = daemon.command("audit", "--json", *arguments, check=0)
        for personal in (SUB, OTHER, "someone@relay.invalid"):
            self.assertNotIn(personal, done.stdout)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_from_the_signature_to_the_erasure(self):
        settings = {"consumers": [{"name": "accounts"}, {"name": "mailer"}]}
        with Daemon(self.apple, settings=settings) as daemon:
            claims = self.post(daemon, "account-delete", SUB)
            self.post(daemon, "email-enabled", SUB)
            self.post(daemon, "consent-revoked", SUB)
            self.post(daemon, "account-delete", OTHER)
            rows = daemon.rows()
            told = self.audit(daemon)
            self.assertEqual([row["id"] for row in told], [1, 3, 4])
            first = told[0]
            self.assertEqual(first["type"], "account-delete")
            self.assertEqual(first["client_id"], "com.example.app")
            self.assertEqual(first["signed_ms"], claims["iat"] * 1000)
            self.assertEqual(first["committed_ms"], rows[0]["received_at_ms"])
            self.assertEqual(first["acknowledged_ms"], {})
            self.assertIsNone(first["erased_ms"])
            self.assertIsNone(first["removed_ms"])
            # one person, one hash; another person, another
            self.assertRegex(first["person"], r"^[0-9a-f]{32}$")
            self.assertEqual(first["person"], told[1]["person"])
            self.assertNotEqual(first["person"], told[2]["person"])

            before_ms = time.time_ns() // 1_000_000
            daemon.command("ack", "--consumer", "accounts", "--through", "3", check=0)
            daemon.command("ack", "--consumer", "mailer", "--through", "1", check=0)
            told = self.audit(daemon)
            self.assertEqual([sorted(row["acknowledged_ms"]) for row in told], [["accounts", "mailer"], ["accounts"], []])
            self.assertGreaterEqual(told[0]["acknowledged_ms"]["accounts"], before_ms - 1)

            daemon.command("erase", "--team", "ABCDE12345", data=SUB + "\n", check=0)
            erased = self.audit(daemon)
            self.assertEqual([row["erased_ms"] is not None for row in erased], [True, True, False])
            self.assertEqual(erased[0]["person"], first["person"])

            text = daemon.command("audit", check=0).stdout
            self.assertRegex(text, r"(?m)^1  account-delete  com\.example\.app  person [0-9a-f]{32}$")
            self.assertRegex(text, r"(?m)^    done by accounts +20\d\d-")
            self.assertRegex(text, r"(?m)^    erased +20\d\d-")
            self.assertNotIn(SUB, text)
            # also while nothing runs
            daemon.stop()
            self.assertEqual(self.audit(daemon), erased)

    def test_rows_that_retention_removed_are_still_told(self):
        settings = {"retain": {"events": "1d", "hard": "2d", "raw": "1d", "audit": "400d"}}
        with Daemon(self.apple, settings=settings, fake_time=time.time() - 3 * DAY) as daemon:
            self.post(daemon, "account-delete", SUB, now=int(time.time()) - 3 * DAY)
            self.post(daemon, "email-enabled", SUB, now=int(time.time()) - 3 * DAY)
            daemon.stop()
            daemon.fake_time = None
            daemon.start()
            self.post(daemon, "consent-revoked", OTHER)
            wait_until(lambda: [row["id"] for row in daemon.rows()] == [3], "retention removes the old rows", 120)
            told = self.audit(daemon)
            self.assertEqual([(row["id"], row["removed_ms"] is not None) for row in told], [(1, True), (3, False)])
            self.assertEqual([row["id"] for row in self.audit(daemon, "--since", str(int(time.time()) - DAY))], [3])

    def test_a_reader_that_has_had_enough_is_no_failure(self):
        with Daemon(self.apple) as daemon:
            self.post(daemon, "account-delete", SUB)
            for json_too in ([], ["--json"]):
                read, write = os.pipe()
                os.close(read)
                with open(write, "wb") as closed:
                    done = subprocess.run([daemon.program, "audit", *json_too, "--config", daemon.config_file], stdout=closed,
                                          stderr=subprocess.PIPE, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotIn("siwa-notifyd audit:", done.stderr)

    def test_what_cannot_be_told(self):
        with Daemon(self.apple) as daemon:
            self.assertEqual(self.audit(daemon), [])
            self.assertEqual(daemon.command("audit", "--since", "yesterday").returncode, 2)
            self.assertEqual(daemon.command("audit", "--since", "2099-01-01T00:00:00Z", check=0).stdout, "")
        done = subprocess.run([daemon.program, "audit", "--config", "/nonexistent"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
