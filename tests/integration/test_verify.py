"""`siwa-notifyd verify`: the daemon's judgement at a terminal, without its database."""

import json
import os
import pathlib
import subprocess
import time
import unittest

import harness
from harness import Apple, CLIENT_ID, Daemon, OMIT, TYPES


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def setUp(self):
        self.daemon = Daemon(self.apple)  # its configuration and folder; it is not started
        self.addCleanup(self.daemon.release)

    def verify(self, text, *options, code):
        return lines(self.daemon.command("verify", *options, data=text, check=code))

    def outcome(self, text, *options, code=1):
        """The outcome of what is refused as a whole, which is one line."""
        (line,) = self.verify(text, *options, code=code)
        return line["outcome"]

    def test_each_type_is_accepted_with_all_that_it_says(self):
        now = int(time.time())
        for kind in TYPES:
            with self.subTest(kind):
                claims = self.apple.claims(kind, now=now)
                event = json.loads(claims["events"])
                (line,) = self.verify(self.apple.body(self.apple.mint(claims)), code=0)
                self.assertEqual(line, {
                    "outcome": "accepted", "kid": self.apple.keys[0].kid, "type": kind, "client_id": CLIENT_ID,
                    "app": "Example", "team": "ABCDE12345", "sub": event["sub"], "email": event.get("email"),
                    "is_private_email": True if "email" in event else None, "event_time_ms": event["event_time"],
                    "issued_at_ms": now * 1000, "jti": claims["jti"], "raw_type": kind})

    def test_todays_spelling_is_shown_as_stored_and_as_sent(self):
        (line,) = self.verify(self.apple.notification("account-deleted"), code=0)
        self.assertEqual((line["type"], line["raw_type"]), ("account-delete", "account-deleted"))

    def test_what_is_missing_is_null(self):
        (line,) = self.verify(self.apple.notification(event={"sub": OMIT, "event_time": OMIT}), code=0)
        self.assertEqual((line["sub"], line["event_time_ms"], line["is_private_email"]), (None,) * 3)
        (line,) = self.verify(self.apple.notification(jti=OMIT), code=0)
        self.assertIsNone(line["jti"])

    def test_a_bare_token_and_the_white_space_around_it(self):
        token = self.apple.notification()
        for text in (token, token + "\n", f"  {token}\r\n\n", f"\n {self.apple.body(token)} \n"):
            (line,) = self.verify(text, code=0)
            self.assertEqual(line["outcome"], "accepted")

    def test_one_line_for_each_event(self):
        now = int(time.time())
        members = [{"type": kind, "sub": f"person {kind}", "event_time": now * 1000} for kind in TYPES]
        found = self.verify(self.apple.mint(self.apple.claims(events=members)), code=0)
        self.assertEqual([line["sub"] for line in found], [member["sub"] for member in members])

    def test_ignored_by_the_apps_policy(self):
        self.daemon.settings["apps"][0]["ignore"] = ["email-enabled", "account-deleted"]
        for kind in ("email-enabled", "account-delete"):
            (line,) = self.verify(self.apple.notification(kind), code=0)
            self.assertEqual((line["outcome"], line["type"]), ("ignored", kind))
        events = [{"type": kind, "sub": "x", "event_time": 1} for kind in ("email-enabled", "future-type")]
        mixed = self.verify(self.apple.mint(self.apple.claims(events=events)), code=0)
        self.assertEqual([line["outcome"] for line in mixed], ["ignored", "accepted"])

    def test_refusals(self):
        apple = self.apple
        token = apple.notification()
        header, payload, signature = token.split(".")
        stranger = Apple(apple.keys[0].kid)
        hmac_header = harness.base64url(json.dumps({"kid": apple.keys[0].kid, "alg": "HS256"}).encode())
        cases = {
            "jws_malformed": ["", "  \n", "hello", "a.b", "a.b.c.d", f"{header}.{payload}", f"{token}=", f"{header}..{signature}="],
            "bad_body": ["{", "{}", '{"payload":1}', '{"payload":"a","payload":"b"}', '{"signedPayload":"x"}'],
            "alg_refused": [f"{hmac_header}.{payload}.{signature}", apple.mint(apple.claims(), {"kid": "K", "alg": "none"})],
            "crit_refused": [apple.mint(apple.claims(), {"kid": apple.keys[0].kid, "alg": "RS256", "crit": ["b64"]})],
            "kid_unknown": [apple.mint(apple.claims(), {"kid": "NOSUCHKID1", "alg": "RS256"})],
            "bad_signature": [stranger.notification(), f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"],
            "claims_malformed": [apple.notification(aud=[CLIENT_ID]), apple.notification(iat="now")],
            "not_a_notification": [apple.notification(events=OMIT)],
            "wrong_audience": [apple.notification(aud="com.example.other")],
            "from_future": [apple.notification(now=time.time() + 4000)],
        }
        for expected, texts in cases.items():
            for number, text in enumerate(texts):
                with self.subTest(expected, number=number):
                    self.assertEqual(self.outcome(text), expected)

    def test_too_large(self):
        self.assertEqual(self.outcome("x" * 65537), "too_large")
        self.assertEqual(self.outcome("x" * 65536), "jws_malformed")

    def test_too_large_for_this_daemon(self):
        self.daemon.settings["limits"] = {"body_bytes": 1024}
        token = self.apple.notification()
        token = self.apple.notification(padding="x" * ((1024 - len(self.apple.body(token))) * 3 // 4 - 20))
        body = self.apple.body(token)
        self.assertLess(len(body), 1024)
        body += " " * (1024 - len(body))
        with self.daemon:
            for text, outcome, status in ((body, "accepted", 200), (body + " ", "too_large", 413)):
                self.assertEqual(self.outcome(text, code=status != 200), outcome)
                self.assertEqual(self.daemon.post(text)[0], status)
            token = self.apple.notification(padding="x" * 1024)
            for text, outcome in ((token, "too_large"), (self.apple.body(token), "too_large"),
                                  (self.apple.notification() + "\n" * 1024, "accepted")):
                self.assertEqual(self.outcome(text, code=outcome == "too_large"), outcome)

    def test_claims_that_nobody_signed_are_not_shown(self):
        stranger = Apple(self.apple.keys[0].kid)
        (line,) = self.verify(stranger.notification(), code=1)
        self.assertEqual(line, {"outcome": "bad_signature", "kid": self.apple.keys[0].kid})
        (line,) = self.verify(self.apple.notification(aud="com.example.other", jti="J"), code=1)
        self.assertEqual((line["client_id"], line["jti"]), ("com.example.other", "J"))

    def test_late_ones_follow_the_setting(self):
        token = self.apple.notification(now=time.time() - 3 * 86400)
        for late, expected, code in (("quarantine", "quarantined", 1), ("deliver", "accepted", 0), ("reject", "expired", 1)):
            self.daemon.settings["late"] = late
            (line,) = self.verify(token, code=code)
            self.assertEqual((line["outcome"], line.get("reason")), (expected, "expired" if late == "quarantine" else None))

    def test_quarantined_with_its_reason(self):
        self.daemon.settings["late"] = "deliver"  # which is for late ones alone
        for reason, token in (("unknown_issuer", self.apple.notification(iss="https://account.apple.com")),
                              ("events_unclear", self.apple.notification(events="[]"))):
            (line,) = self.verify(token, code=1)
            self.assertEqual((line["outcome"], line["reason"], line["client_id"]), ("quarantined", reason, CLIENT_ID))

    def test_at_another_time(self):
        token = self.apple.notification(now=1752573000)
        for at in ("2025-07-15T09:50:00Z", "1752573060"):
            self.assertEqual(self.outcome(token, "--at", at, code=0), "accepted")
        self.assertEqual(self.outcome(token, "--at", "2025-07-15T08:00:00Z"), "from_future")
        self.assertEqual(self.outcome(token, "--at", "2018-12-31T23:59:59Z"), "clock_unset")
        for wrong in ("", "yesterday", "2025-07-15", "2025-02-30T00:00:00Z", "-5", "1752573060.5"):
            done = self.daemon.command("verify", f"--at={wrong}", data=token, check=2)
            self.assertEqual(done.stdout, "")
            self.assertIn("--at", done.stderr)

    def test_nothing_is_made_or_changed(self):
        before = set(os.listdir(self.daemon.directory)) | {"siwa-notifyd.conf"}
        self.verify(self.apple.notification(), code=0)
        self.assertEqual(set(os.listdir(self.daemon.directory)), before)
        self.daemon.database.write_bytes(b"no database at all")
        self.verify(self.apple.notification(), code=0)
        self.assertEqual(self.daemon.database.read_bytes(), b"no database at all")

    def test_without_keys(self):
        self.daemon.settings["keys"] = "unix:/nonexistent/keys.sock"
        done = self.daemon.command("verify", data=self.apple.notification(), check=1)
        self.assertEqual(lines(done)[0]["outcome"], "no_keys")
        self.assertIn("no keys", done.stderr)

    def test_what_cannot_be_used_says_so_and_prints_no_json(self):
        (self.daemon.directory / "keys.json").write_text("{")
        done = self.daemon.command("verify", data=self.apple.notification(), check=1)
        self.assertEqual(done.stdout, "")
        self.assertIn("keys.json", done.stderr)
        (self.daemon.directory / "keys.json").unlink()
        self.daemon.publish('{"keys": []}')
        done = self.daemon.command("verify", data=self.apple.notification(), check=1)
        self.assertEqual(done.stdout, "")
        self.assertIn(self.daemon.key_file.name, done.stderr)
        self.daemon.settings["apps"] = []
        self.daemon.publish(self.apple.key_set())
        done = self.daemon.command("verify", data=self.apple.notification(), check=1)
        self.assertEqual(done.stdout, "")
        self.assertIn("apps", done.stderr)

    def test_an_output_that_cannot_be_written_is_a_failure(self):
        self.daemon.write_config()
        command = [harness.PROGRAM, "verify", "--config", self.daemon.config_file]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, input=self.apple.notification().encode(), stdout=full, stderr=subprocess.PIPE,
                                  check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], input=self.apple.notification().encode(),
                              stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)

    def test_help_and_wrong_usage(self):
        done = subprocess.run([harness.PROGRAM, "verify", "--help"], capture_output=True, text=True, check=True)
        self.assertIn("keys.json", done.stdout)
        for wrong in (["--nonsense"], ["operand"], ["--at"]):
            done = subprocess.run([harness.PROGRAM, "verify", *wrong], input="", capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""))


class KeysOfTheDaemon(unittest.TestCase):
    def test_what_the_daemon_remembers_goes_first(self):
        """Verified with keys.json beside the database, although the published file has gone bad since."""
        apple = Apple()
        token = apple.notification()
        with Daemon(apple) as daemon:
            daemon.stop()
            daemon.publish("no key set")
            done = daemon.command("verify", data=token, check=0)
            self.assertEqual(lines(done)[0]["outcome"], "accepted")
            self.assertEqual(daemon.rows(), [])
            daemon.start()
            self.assertEqual(lines(daemon.command("verify", data=token, check=0))[0]["outcome"], "accepted")
            self.assertEqual(daemon.post(apple.body(token))[0], 200)
            # It does not look into the outbox, as --help says.
            self.assertEqual(lines(daemon.command("verify", data=token, check=0))[0]["outcome"], "accepted")
            self.assertEqual(len(daemon.rows()), 1)


class RealTokens(unittest.TestCase):
    """What Apple really signed, with the keys that Apple published. Nothing of it may be printed."""

    def verify_all(self, folder, check):
        tokens = sorted(harness.vectors("apple", folder).glob("*.jwt"))
        self.assertTrue(tokens)
        for path in tokens:
            token = path.read_text().strip()
            claims = json.loads(harness.base64url_decode(token.split(".")[1]))
            daemon = Daemon(harness.vectors("apple", "jwks", "apple-2019-2025-all.json"),
                            apps=[{"client_id": claims["aud"], "app": "Real", "team": "ABCDE12345"}])
            self.addCleanup(daemon.release)
            done = daemon.command("verify", "--at", int(claims["iat"]) + 60, data=token)
            with self.subTest(pathlib.Path(path).name):
                check(done.returncode, lines(done)[0])

    def test_notifications_are_accepted(self):
        def check(code, line):
            self.assertEqual((code, line["outcome"], line["app"]), (0, "accepted", "Real"))
            self.assertIn(line["type"], TYPES)
            self.assertTrue(len(line["sub"]) == 44 and line["event_time_ms"] > 10**12)

        self.verify_all("s2s", check)

    def test_id_tokens_are_refused(self):
        self.verify_all("idtokens", lambda code, line: self.assertEqual((code, line["outcome"]), (1, "not_a_notification")))


if __name__ == "__main__":
    unittest.main()
