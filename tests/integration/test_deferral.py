"""Deferral: what arrives before its key is kept, and delivered once when the key comes."""

import concurrent.futures
import json
import time
import unittest

from harness import CLIENT_ID, OMIT, Apple, Daemon, base64url, base64url_decode, wait_until

DAY_S = 86400
HOUR_S = 3600


def forged(token):
    """The same with a signature that nobody made."""
    signing_input, _, signature = token.rpartition(".")
    data = bytearray(base64url_decode(signature))
    data[100] ^= 1
    return signing_input + "." + base64url(data)


class DeferralCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple("TESTKEY001", "NEWKEY0001")
        cls.old, cls.new = cls.apple.keys

    def body(self, key=None, **changes):
        return self.apple.body(self.apple.notification(key=key or self.new, **changes))

    def unsigned(self, kid, **changes):
        """The body of a token of that kid that looks like one of Apple's."""
        token = self.apple.mint(self.apple.claims(**changes), {"kid": kid, "alg": "RS256"}, self.old)
        return self.apple.body(token)

    def daemon(self, **how):
        """A daemon that knows the old key, and whose key server is down from then on."""
        daemon = Daemon(self.apple, **how)
        daemon.publish(self.apple.key_set([self.old]))
        return daemon

    def outage(self, daemon):
        """From now on the key server is down; the budget of fetches on demand is used up."""
        wait_until(lambda: daemon.metrics().value("siwa_keys_current") == 1, "the old key")
        daemon.key_file.unlink()
        body = self.body()
        self.assertEqual(daemon.post(body), (503, "deferred"))
        return body

    def refresh(self, daemon, keys=None, wait=True):
        """The key server is up, has been asked, and what is kept was looked at."""
        counted = self.refreshes(daemon)
        daemon.publish(self.apple.key_set(keys))
        self.assertEqual(daemon.control("POST", "/v1/keys/refresh").status, 200)
        if wait:
            wait_until(lambda: self.refreshes(daemon) > counted, "the refresh to be counted")

    def refreshes(self, daemon):
        return daemon.query("SELECT coalesce(max(number), 0) AS number FROM refreshes")[0]["number"]

    def kept(self, daemon):
        return daemon.metrics().value("siwa_deferred_events")

    def results(self, daemon):
        return {dict(labels)["result"]: int(value) for (name, labels), value in daemon.metrics().samples.items()
                if name == "siwa_deferred_total" and value}


class Arrival(DeferralCase):
    def test_a_rotation_while_the_key_server_is_down(self):
        with self.daemon() as daemon:
            first = self.outage(daemon)
            second, third = self.body(kind="email-disabled"), self.body(kind="account-delete")
            imitation = self.apple.body(forged(self.apple.notification(key=self.new)))
            for body in (second, third, imitation, second, first):
                self.assertEqual(daemon.post(body), (503, "deferred"))
            self.assertEqual(self.kept(daemon), 4)
            self.assertEqual(daemon.metrics().value("siwa_deferred_bytes"),
                             sum(map(len, (first, second, third, imitation))))
            self.assertEqual(daemon.post(self.body(self.old)), (200, "accepted"))
            self.assertEqual(len(daemon.rows()), 1)
            arrived_ms = time.time() * 1000
            last = daemon.metrics().value("siwa_last_accepted_timestamp_seconds", client_id=CLIENT_ID)
            apps = daemon.query("SELECT * FROM apps")

            self.refresh(daemon)
            wait_until(lambda: self.kept(daemon) == 0, "all of them to be judged")
            self.assertEqual(self.results(daemon), {"kept": 4, "delivered": 3, "dropped_bad_signature": 1})
            rows = daemon.rows(after=1)
            self.assertEqual([row["type"] for row in rows], ["consent-revoked", "email-disabled", "account-delete"])
            self.assertTrue(all(row["received_at_ms"] < arrived_ms for row in rows))
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_last_accepted_timestamp_seconds", client_id=CLIENT_ID), last)
            self.assertEqual(daemon.query("SELECT * FROM apps"), apps)
            self.assertEqual(metrics.value("siwa_events_total", type="account-delete", client_id=CLIENT_ID), 1)
            self.assertEqual(metrics.value("siwa_notifications_total", outcome="deferred", client_id=""), 6)
            self.assertEqual(metrics.total("siwa_notifications_total", outcome="deferred"), 6)
            for body in (first, second, third):
                self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.assertEqual(daemon.post(imitation), (400, "bad_signature"))
            self.assertEqual(len(daemon.rows()), 4)

    def test_what_does_not_look_like_one_for_us_is_not_kept(self):
        strangers = {
            "another app": self.body(aud="com.example.stranger"),
            "another issuer": self.body(iss="https://issuer.example"),
            "an ID token": self.body(events=OMIT),
            "no claims": self.apple.body(self.apple.mint({"a": 1}, key=self.new)),
        }
        with self.daemon() as daemon:
            self.outage(daemon)
            for what, body in strangers.items():
                with self.subTest(what):
                    self.assertEqual(daemon.post(body), (503, "kid_unknown"))
            self.assertEqual(self.results(daemon), {"kept": 1})
            # A key that was given up by hand is known, and stays given up.
            daemon.command("keys", "--distrust", self.old.kid, check=0)
            self.assertIn(daemon.post(self.body(self.old)), [(503, "no_keys"), (503, "deferred")])

    def test_nothing_of_it_is_told(self):
        claims = self.apple.claims("email-enabled")
        event = json.loads(claims["events"])
        token = self.apple.mint(claims, key=self.new)
        with self.daemon() as daemon:
            self.outage(daemon)
            self.assertEqual(daemon.post(self.apple.body(token)), (503, "deferred"))
            told = daemon.log() + daemon.metrics().text + daemon.get("/readyz").body
            self.assertNotIn("com.example", "".join(line for line in daemon.log().splitlines() if "deferred" in line))
            self.refresh(daemon)
            wait_until(lambda: self.kept(daemon) == 0, "the key")
            told += daemon.log() + daemon.metrics().text
            for secret in (event["sub"], event["email"], claims["jti"], token[-40:], token.split(".")[1][:40]):
                self.assertNotIn(secret, told)
            self.assertIn('msg="deferred notification" outcome=delivered type=email-enabled', told)

    def test_no_keys_at_all(self):
        daemon = Daemon(self.apple)
        daemon.key_file.unlink()
        with daemon:
            bodies = [self.body(self.old) for _ in range(3)]
            for body in bodies:
                self.assertEqual(daemon.post(body), (503, "deferred"))
            self.assertEqual(daemon.post(self.body(aud="com.example.stranger")), (503, "no_keys"))
            self.refresh(daemon)
            wait_until(lambda: len(daemon.rows()) == 3, "all of them")
            self.assertEqual(daemon.post(bodies[0]), (200, "duplicate"))

    def test_an_app_that_was_taken_away_meanwhile(self):
        apps = [{"client_id": name, "app": "Example", "team": "ABCDE12345"} for name in (CLIENT_ID, "com.example.two")]
        with self.daemon(apps=apps) as daemon:
            self.outage(daemon)
            self.assertEqual(daemon.post(self.body(aud="com.example.two")), (503, "deferred"))
            daemon.stop()
            daemon.settings["apps"] = apps[:1]
            daemon.start()
            self.refresh(daemon)
            wait_until(lambda: self.kept(daemon) == 0, "both to be judged")
            self.assertEqual(self.results(daemon), {"delivered": 1, "dropped_wrong_audience": 1})


class Restarts(DeferralCase):
    def test_killed_and_started_again_each_stands_once(self):
        with self.daemon() as daemon:
            bodies = [self.outage(daemon)] + [self.body() for _ in range(5)]
            for body in bodies[1:4]:
                self.assertEqual(daemon.post(body), (503, "deferred"))
            daemon.kill9()
            daemon.start()
            self.assertEqual(self.kept(daemon), 4)
            for body in bodies[3:]:
                self.assertEqual(daemon.post(body), (503, "deferred"))
            self.assertEqual(self.kept(daemon), 6)
            daemon.kill9()
            # The keys are there when it starts: nothing else has to happen, though the saved set is minutes old only.
            daemon.publish(self.apple.key_set())
            daemon.start()
            wait_until(lambda: len(daemon.rows()) == 6, "all of them")
            self.assertEqual(self.kept(daemon), 0)
            for body in bodies:
                self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.assertEqual(len(daemon.rows()), 6)

    def test_killed_while_they_are_judged(self):
        """Wherever the kill falls, each of them is an event or still kept, and at the end an event."""
        with self.daemon() as daemon:
            self.outage(daemon)
            bodies = [self.body() for _ in range(150)]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = set(pool.map(daemon.post, bodies))
            self.assertEqual(answers, {(503, "deferred")})
            for _ in range(4):
                self.refresh(daemon, wait=False)
                daemon.kill9()
                before = daemon.query("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deferred)")
                self.assertEqual(sum(before[0].values()), 151)
                daemon.start()
            wait_until(lambda: self.kept(daemon) == 0, "all of them")
            self.assertEqual(len({row["jti"] for row in daemon.rows()}), 151)
            self.assertEqual(len(daemon.rows()), 151)

    def test_exp_is_judged_at_receipt(self):
        start_s = int(time.time())
        with self.daemon(fake_time=start_s) as daemon:
            in_time = self.outage(daemon)
            late = self.body(now=start_s - 3 * DAY_S)
            self.assertEqual(daemon.post(late), (503, "deferred"))
            daemon.stop()
            daemon.publish(self.apple.key_set())
            daemon.fake_time = start_s + 2 * DAY_S
            daemon.start()
            wait_until(lambda: self.kept(daemon) == 0, "both to be judged")
            self.assertEqual(self.results(daemon), {"delivered": 1, "quarantined": 1})
            self.assertEqual(len(daemon.rows()), 1)
            self.assertEqual(daemon.post(in_time), (200, "duplicate"))
            self.assertEqual(daemon.metrics().value("siwa_quarantined_events"), 1)

    def test_given_up_after_three_refreshes_over_an_hour(self):
        start_s = int(time.time())
        with self.daemon(fake_time=start_s) as daemon:
            self.outage(daemon)
            for _ in range(4):  # many, but not over an hour
                self.refresh(daemon, [self.old])
            self.assertEqual(self.kept(daemon), 1)
            daemon.restart(fake_time=start_s + HOUR_S - 300)
            self.refresh(daemon, [self.old])
            self.assertEqual(self.kept(daemon), 1)
            daemon.restart(fake_time=start_s + HOUR_S + 60)
            self.refresh(daemon, [self.old])
            wait_until(lambda: self.kept(daemon) == 0, "it to be given up")
            self.assertEqual(self.results(daemon), {"dropped_unknown_kid": 1})
            self.assertEqual(daemon.rows(), [])


class Flood(DeferralCase):
    def test_what_was_kept_before_stays(self):
        with self.daemon(settings={"limits": {"deferred_events": 5}}) as daemon:
            bodies = [self.outage(daemon)] + [self.body() for _ in range(4)]
            for body in bodies[1:]:
                self.assertEqual(daemon.post(body), (503, "deferred"))
            demanded = daemon.metrics().value("siwa_key_demand_refreshes_total")
            flood = [self.unsigned(f"FORGED{number:04}") for number in range(40)]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = set(pool.map(daemon.post, flood))
            self.assertEqual(answers, {(503, "kid_unknown")})
            self.assertEqual(daemon.post(bodies[0]), (503, "deferred"))
            self.assertEqual(self.results(daemon), {"kept": 5, "full": 40})
            self.assertLessEqual(daemon.metrics().value("siwa_key_demand_refreshes_total"), demanded + 1)
            self.assertEqual(daemon.post(self.body(self.old)), (200, "accepted"))

            self.refresh(daemon)
            wait_until(lambda: self.kept(daemon) == 0, "the keys")
            self.assertEqual(len(daemon.rows()), 6)
            # Now they cannot even be held against what comes later.
            for body in flood[:5]:
                self.assertEqual(daemon.post(body), (503, "deferred"))
            self.assertEqual(daemon.post(flood[5]), (503, "kid_unknown"))
            self.refresh(daemon)
            self.assertEqual(daemon.post(flood[5]), (503, "deferred"))
            self.assertEqual(self.results(daemon)["displaced"], 1)
            self.assertEqual(self.kept(daemon), 5)

    def test_bytes_are_bounded(self):
        body = self.body()
        with self.daemon(settings={"limits": {"deferred_bytes": 3 * len(body) + 100}}) as daemon:
            self.outage(daemon)
            self.assertEqual(daemon.post(body), (503, "deferred"))
            padded = body[:-1] + ',"x":"' + "y" * 2 * len(body) + '"}'
            other = self.apple.body(self.apple.notification(key=self.new))
            self.assertEqual(daemon.post(other[:-1] + padded[len(body) - 1:]), (503, "kid_unknown"))
            self.assertEqual(daemon.post(other), (503, "deferred"))
            self.assertEqual(daemon.post(padded), (503, "deferred"))  # the same token in another wrapping
            self.assertEqual(self.kept(daemon), 3)

    def test_none_where_none_are_wanted(self):
        with self.daemon(settings={"limits": {"deferred_events": 0}}) as daemon:
            wait_until(lambda: daemon.metrics().value("siwa_keys_current") == 1, "the old key")
            daemon.key_file.unlink()
            self.assertEqual(daemon.post(self.body()), (503, "kid_unknown"))
            self.assertEqual(self.kept(daemon), 0)


if __name__ == "__main__":
    unittest.main()
