"""The armed probe: one test notification, signed with a key that the operator armed, is committed apart from everything that
tells of Apple's; and its key opens no other door."""

import json
import re
import unittest

import harness
from harness import Apple, Daemon, wait_until

KID = "siwa-notifyd.probe."  # how the kids of such keys begin
ISSUER = "urn:siwa-notifyd:probe"
AUDIENCE = "siwa-notifyd.probe"

# What tells of the machine, and what grows as time goes by.
OF_THE_MACHINE = re.compile(r"process_\w+|siwa_(connections|database_bytes|disk_free_bytes)")
OF_TIME = re.compile(r"siwa_(consumer_lag|oldest_unacknowledged_account_delete|key_age)_seconds")


def those(metrics, pattern, fits):
    return {sample: value for sample, value in metrics.samples.items() if bool(pattern.fullmatch(sample[0])) == fits}


def traffic(metrics):
    return {sample: value for sample, value in those(metrics, OF_THE_MACHINE, False).items() if not OF_TIME.fullmatch(sample[0])}


class TestProbe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        cls.prober = Apple(f"{KID}one", f"{KID}two")

    def arm(self, daemon, key=0, status=200):
        reply = daemon.control("POST", "/v1/probe", self.prober.key_set([self.prober.keys[key]]))
        self.assertEqual(reply.status, status, reply.body)
        return json.loads(reply.body)

    def probe(self, key=0, **changes):
        """A test notification: its body and its jti."""
        claims = Apple.claims("test", **{"iss": ISSUER, "aud": AUDIENCE, **changes})
        return Apple.body(self.prober.mint(claims, key=self.prober.keys[key])), claims.get("jti")

    def look(self, daemon, jti):
        return json.loads(daemon.control("GET", f"/v1/probe/{jti}").body)

    def daemon(self, **changes):
        return Daemon(self.apple, settings={"consumers": [{"name": "accounts", "user": "root"}], **changes})

    @staticmethod
    def has_keys(daemon):
        """The first refresh, which comes with the start, is over."""
        wait_until(lambda: json.loads(daemon.control("GET", "/v1/state").body)["refresh"]["attempts"] > 0, "the first refresh")

    def send(self, daemon):
        status, _ = daemon.post(self.apple.body(self.apple.notification("account-delete")))
        self.assertEqual(status, 200)

    def test_it_is_committed_and_nothing_that_tells_of_apple_moves(self):
        with self.daemon() as daemon:
            self.has_keys(daemon)
            self.send(daemon)
            before, state, rows = daemon.metrics(), daemon.query("SELECT * FROM outbox_state"), daemon.rows()
            consumers = json.loads(daemon.control("GET", "/v1/consumers").body)
            told = self.arm(daemon)
            self.assertEqual((told["issuer"], told["client_id"], told["armed_ms"]), (ISSUER, AUDIENCE, 60000))
            body, jti = self.probe()
            self.assertEqual(self.look(daemon, jti), {"stored": False, "received_at_ms": None, "armed": True})
            self.assertEqual(daemon.post(body), (200, "accepted"))
            found = self.look(daemon, jti)
            self.assertEqual((found["stored"], found["armed"]), (True, False))

            after = daemon.metrics()
            self.assertEqual(before.value("siwa_probes_total", outcome="accepted"), 0)
            moved = {sample for sample, value in traffic(after).items() if traffic(before).get(sample) != value}
            self.assertEqual(moved, {("siwa_probes_total", frozenset({("outcome", "accepted")}))})
            self.assertEqual(set(after.samples), set(before.samples))
            for sample, value in those(after, OF_TIME, True).items():
                self.assertGreaterEqual(value, before.samples[sample], sample)
            self.assertIn(("siwa_commit_seconds_count", frozenset()), traffic(before))

            self.assertEqual(daemon.query("SELECT * FROM outbox_state"), state)
            self.assertEqual(daemon.rows(), rows)
            now = json.loads(daemon.control("GET", "/v1/consumers").body)
            for one in (consumers, now):
                one["consumers"][0].pop("lag_s")
            self.assertEqual(now, consumers)
            row, = daemon.query("SELECT * FROM events WHERE test = 1")
            self.assertEqual((row["jti"], row["type"], row["client_id"], row["sub"], row["person"]),
                             (jti, "test", AUDIENCE, None, None))
            events = json.loads(daemon.control("GET", "/v1/events?after=0").body)["events"]
            self.assertEqual([event["type"] for event in events], ["account-delete"])
            self.send(daemon)
            self.assertEqual([row["id"] for row in daemon.rows()], [1, 2])
            log = daemon.log()
            self.assertIn('msg="test notification" outcome=accepted', log)
            daemon.stop()
            days = {(day["what"], day["name"], day["client_id"]): day["count"] for day in daemon.query("SELECT * FROM days")}
            self.assertEqual(days, {("outcome", "accepted", harness.CLIENT_ID): 2,
                                    ("event", "account-delete", harness.CLIENT_ID): 2})
            self.assertEqual([row["client_id"] for row in daemon.query("SELECT * FROM apps")], [harness.CLIENT_ID])

    def test_its_key_serves_once_and_an_unarmed_one_causes_no_refresh(self):
        with self.daemon() as daemon:
            body, jti = self.probe()
            self.has_keys(daemon)
            attempts = json.loads(daemon.control("GET", "/v1/state").body)["refresh"]["attempts"]
            self.assertEqual(daemon.post(body), (503, "kid_unknown"))
            self.arm(daemon)
            self.assertEqual(daemon.post(body), (200, "accepted"))
            self.assertEqual(daemon.post(body), (503, "kid_unknown"))
            self.assertTrue(self.look(daemon, jti)["stored"])
            self.assertEqual(len(daemon.query("SELECT * FROM events")), 1)
            self.assertEqual(daemon.query("SELECT * FROM deferred"), [])
            state = json.loads(daemon.control("GET", "/v1/state").body)
            self.assertEqual(state["refresh"]["attempts"], attempts)

    def test_one_key_at_a_time_and_none_after_a_restart(self):
        with self.daemon() as daemon:
            self.has_keys(daemon)
            self.arm(daemon, 0)
            self.arm(daemon, 1)
            self.assertEqual(daemon.post(self.probe(0)[0]), (503, "kid_unknown"))
            self.assertEqual(daemon.post(self.probe(1)[0]), (200, "accepted"))
            self.arm(daemon, 0)
            daemon.restart()
            self.assertEqual(daemon.post(self.probe(0)[0]), (503, "kid_unknown"))

    def test_its_key_signs_nothing_else(self):
        """Attack: who may arm a key forges what only Apple may sign. Whatever he tries, the key stays armed and useless."""
        with self.daemon() as daemon:
            self.has_keys(daemon)
            self.arm(daemon)
            for changes in ({"iss": harness.ISSUER, "aud": harness.CLIENT_ID}, {"aud": harness.CLIENT_ID},
                            {"iss": harness.ISSUER}, {"iss": ISSUER + "/"}, {"aud": AUDIENCE + ".x"}):
                with self.subTest(**changes):
                    self.assertEqual(daemon.post(self.probe(**changes)[0]), (400, "bad_signature"))
            for changes in ({"jti": harness.OMIT}, {"event": {"type": harness.OMIT}}):
                with self.subTest(**changes):
                    self.arm(daemon)
                    self.assertEqual(daemon.post(self.probe(**changes)[0]), (400, "claims_malformed"))
            self.assertEqual(daemon.query("SELECT * FROM events"), [])
            self.assertEqual(daemon.query("SELECT * FROM quarantine"), [])
            self.assertEqual(daemon.metrics().value("siwa_probes_total", outcome="claims_malformed"), 2)
            self.assertEqual(daemon.outcomes(), {"bad_signature": 5})

    def test_apples_keys_are_no_keys_for_it(self):
        """Attack: whoever holds a key that is trusted marks a row as the test that doctor looks for."""
        with self.daemon() as daemon:
            self.has_keys(daemon)
            self.arm(daemon)
            for changes, answer in (({"iss": ISSUER, "aud": AUDIENCE}, (503, "wrong_audience")),
                                    ({"aud": AUDIENCE}, (503, "wrong_audience")),
                                    ({"iss": ISSUER}, (200, "quarantined"))):
                with self.subTest(**changes):
                    self.assertEqual(daemon.post(self.apple.body(self.apple.notification(**changes))), answer)
            self.assertEqual(daemon.query("SELECT * FROM events"), [])
            self.assertIsNone(daemon.metrics().value("siwa_probes_total", outcome="quarantined"))
            self.assertEqual(daemon.post(self.probe()[0]), (200, "accepted"))

    def test_without_keys_of_apple_the_way_can_still_be_tried(self):
        with self.daemon() as daemon:
            daemon.stop()
            daemon.publish('{"keys": []}')
            (daemon.directory / "keys.json").unlink()
            daemon.start()
            self.assertEqual(daemon.get("/readyz").status, 503)
            self.arm(daemon)
            self.assertEqual(daemon.post(self.probe()[0]), (200, "accepted"))
            self.assertEqual(daemon.post(self.probe()[0]), (503, "no_keys"))
            wait_until(lambda: daemon.query("SELECT * FROM deferred") == [], "nothing is deferred", 5)


if __name__ == "__main__":
    unittest.main()
