"""Notifications and ID tokens that Apple really signed, against the real daemon at the time when each was new.

A sub, an address or a token of these is never printed: assertions name the file and the column only.
"""

import json
import pathlib
import tempfile
import unittest

import harness

LATER_S = 60  # how long after its signing a token arrives
KEEP = {"events": "3650d", "hard": "3650d", "raw": "3650d", "identities": "3650d"}  # the tokens are years apart


class Token:
    def __init__(self, path):
        self.name = path.name
        self.text = path.read_text().strip()
        self.claims = json.loads(harness.base64url_decode(self.text.split(".")[1]))
        self.arrival_s = self.claims["iat"] + LATER_S
        self.events = [json.loads(self.claims["events"])] if "events" in self.claims else []

    def personal(self):
        """What may stand nowhere but in the outbox."""
        texts = [self.text, self.text.split(".")[1], self.text.split(".")[2], self.claims.get("jti")]
        for part in [self.claims, *self.events]:
            texts += [part.get("sub"), part.get("email")]
        return [text for text in texts if text]

    def row(self):
        """The row that it has to become, without what the daemon chooses: id and received_at_ms."""
        event = self.events[0]
        return {
            "type": event["type"], "client_id": self.claims["aud"], "app": "App of " + self.claims["aud"],
            "team": "TEAM000001", "sub": event["sub"], "email": event.get("email"),
            "is_private_email": {"true": 1, "false": 0, None: None}[event.get("is_private_email")],
            "event_time_ms": event["event_time"], "issued_at_ms": self.claims["iat"] * 1000,
            "jti": self.claims["jti"], "raw_type": event["type"],
        }


def tokens(folder):
    """In the order of their time, which is the order in which one daemon could have met them."""
    found = [Token(path) for path in sorted(harness.vectors("apple", folder).glob("*.jwt"))]
    return sorted(found, key=lambda token: token.arrival_s)


class AppleTokens(unittest.TestCase):
    def setUp(self):
        harness.fake_time_library()
        self.notifications = tokens("s2s")
        self.id_tokens = tokens("idtokens")
        self.assertEqual((len(self.notifications), len(self.id_tokens)), (4, 4))
        directory = tempfile.TemporaryDirectory(prefix="siwa-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.said = ""  # everything that the daemon said anywhere but in the outbox

    def daemon(self, token):
        """The daemon at the time of a token, on the database that all share."""
        audiences = sorted({token.claims["aud"] for token in self.notifications + self.id_tokens})
        return harness.Daemon(
            harness.vectors("apple", "jwks", "apple-2019-2025-all.json"), directory=self.directory,
            fake_time=token.arrival_s, settings={"retain": KEEP},
            apps=[{"client_id": aud, "app": "App of " + aud, "team": "TEAM000001"} for aud in audiences])

    def deliver(self, token, expected, times=1, through=None):
        """POSTs a token to a daemon of its time; each answer and the outcome as the metrics have it."""
        with self.daemon(token) as daemon:
            for status, _ in expected[:times]:
                if through:
                    with through(daemon.address, self.directory) as proxy:
                        answer = daemon.post(harness.Apple.body(token.text), address=proxy.address)
                        self.said += proxy.log()
                else:
                    answer = daemon.post(harness.Apple.body(token.text))
                self.assertEqual(answer[0], status, token.name)
                self.said += answer[1]
            counted = {}
            for _, outcome in expected[:times]:
                counted[outcome] = counted.get(outcome, 0) + 1
            self.assertEqual(daemon.outcomes(), counted, token.name)
            self.said += daemon.metrics().text + daemon.get("/readyz").body
        self.said += daemon.log()
        return daemon

    def check_rows(self, daemon, expected):
        rows = daemon.rows()
        self.assertEqual(len(rows), len(expected))
        ids = [row["id"] for row in rows]
        self.assertEqual(ids, sorted(set(ids)))
        for row, token in zip(rows, expected):
            for column, value in token.row().items():
                self.assertTrue(row[column] == value, f"{token.name}: column {column} is not what Apple signed")
            late_ms = row["received_at_ms"] - token.arrival_s * 1000
            self.assertTrue(0 <= late_ms < harness.PATIENCE_S * 1000, f"{token.name}: received_at_ms")

    def check_silence(self):
        for token in self.notifications + self.id_tokens:
            for text in token.personal():
                self.assertTrue(text not in self.said, f"{token.name}: something personal was told")

    def story(self, through=None):
        for token in self.notifications:
            # The same again at once, and again by a daemon that has started anew.
            daemon = self.deliver(token, [(200, "accepted"), (200, "duplicate")], times=2, through=through)
            self.deliver(token, [(200, "duplicate")], through=through)
        self.check_rows(daemon, self.notifications)
        for token in self.id_tokens:
            daemon = self.deliver(token, [(400, "not_a_notification")], through=through)
        self.check_rows(daemon, self.notifications)
        self.check_silence()

    def test_four_notifications_are_four_rows_and_id_tokens_none(self):
        self.story()

    def test_the_same_through_nginx(self):
        harness.need("nginx")
        self.story(through=harness.Nginx)

    def test_a_day_later_they_are_not_accepted(self):
        """The control: the clock decides. What Apple signed a week ago is late, and a row only if it was one before."""
        token = self.notifications[0]
        token.arrival_s += 7 * 86400
        with self.daemon(token) as daemon:
            daemon.post(harness.Apple.body(token.text))
            self.assertNotIn("accepted", daemon.outcomes())
            self.assertEqual(daemon.rows(), [])
