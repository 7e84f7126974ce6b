"""From the POST to the committed row: the main path, its answers, its limits, its life and its end."""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import threading
import unittest

import harness
from harness import Apple, CLIENT_ID, Daemon, OMIT, PATH, TYPES, request, wait_until

COLUMNS = ["id", "type", "client_id", "app", "team", "sub", "email", "is_private_email", "event_time_ms",
           "issued_at_ms", "received_at_ms", "jti", "raw_type"]


class ServeCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def body(self, kind="consent-revoked", **how):
        return self.apple.body(self.apple.notification(kind, **how))


class TestMainPath(ServeCase):
    def test_each_type_is_one_row_and_its_repeat_a_duplicate(self):
        with Daemon(self.apple) as daemon:
            for number, kind in enumerate(TYPES, 1):
                claims = self.apple.claims(kind)
                body = self.apple.body(self.apple.mint(claims))
                self.assertEqual(daemon.post(body), (200, "accepted"))
                # 200 was said: the row is there for a reader that opens the file only now
                row = daemon.rows(number - 1)[0]
                event = json.loads(claims["events"])
                self.assertEqual(list(row), COLUMNS)
                self.assertEqual(row["id"], number)
                self.assertEqual((row["type"], row["raw_type"]), (kind, kind))
                self.assertEqual((row["client_id"], row["app"], row["team"]), (CLIENT_ID, "Example", "ABCDE12345"))
                self.assertEqual((row["sub"], row["email"]), (event["sub"], event.get("email")))
                self.assertEqual(row["is_private_email"], 1 if "email" in event else None)
                self.assertEqual(row["event_time_ms"], event["event_time"])
                self.assertEqual(row["issued_at_ms"], claims["iat"] * 1000)
                self.assertEqual(row["jti"], claims["jti"])
                self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.assertEqual(len(daemon.rows()), 4)
            self.assertEqual(daemon.outcomes(), {"accepted": 4, "duplicate": 4})

    def test_todays_spelling_of_deletion_is_the_same_event(self):
        with Daemon(self.apple) as daemon:
            event = {"sub": "000000.aaaa.0000", "event_time": 1700000000000}
            self.assertEqual(daemon.post(self.body("account-deleted", event=event)), (200, "accepted"))
            self.assertEqual(daemon.post(self.body("account-delete", event=event)), (200, "duplicate"))
            row, = daemon.rows()
            self.assertEqual((row["type"], row["raw_type"]), ("account-delete", "account-deleted"))

    def test_an_array_is_all_or_nothing_and_an_unknown_type_is_stored_as_it_came(self):
        events = [{"type": "consent-revoked", "sub": "a", "event_time": 1700000000},
                  {"type": "something-new", "sub": "b", "event_time": 1700000000001}]
        with Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.body(events=events)), (200, "accepted"))
            self.assertEqual([(row["type"], row["event_time_ms"]) for row in daemon.rows()],
                             [("consent-revoked", 1700000000000), ("something-new", 1700000000001)])
            # of a mixed array the strongest counts
            self.assertEqual(daemon.post(self.body(events=events + [dict(events[0], sub="c")])), (200, "accepted"))
            self.assertEqual(daemon.post(self.body(events=events)), (200, "duplicate"))
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_events_total", type="consent-revoked", client_id=CLIENT_ID), 2)
            self.assertEqual(metrics.value("siwa_events_total", type="other", client_id=CLIENT_ID), 1)

    def test_an_ignored_type_leaves_nothing(self):
        apps = [{"client_id": CLIENT_ID, "app": "Example", "team": "ABCDE12345", "ignore": ["email-enabled"]}]
        with Daemon(self.apple, apps=apps) as daemon:
            self.assertEqual(daemon.post(self.body("email-enabled")), (200, "ignored"))
            self.assertEqual(daemon.post(self.body("email-disabled")), (200, "accepted"))
            self.assertEqual([row["type"] for row in daemon.rows()], ["email-disabled"])

    def test_an_app_that_is_not_configured_may_be_tomorrow(self):
        with Daemon(self.apple) as daemon:
            for _ in range(2):
                self.assertEqual(daemon.post(self.body(aud="com.example.forgotten")), (503, "wrong_audience"))
            for number in range(40):
                self.assertEqual(daemon.post(self.body(aud=f"com.stranger.n{number}"))[0], 503)
            self.assertEqual(daemon.rows(), [])
            metrics = daemon.metrics()
            count = lambda name: metrics.value("siwa_notifications_total", outcome="wrong_audience", client_id=name)
            self.assertEqual(count("com.example.forgotten"), 2)
            self.assertEqual(count("other"), 40 - 31)
            names = {dict(labels)["client_id"] for name, labels in metrics.samples if name == "siwa_notifications_total"}
            self.assertEqual(len(names), 32 + 1 + 1 + 1)  # bounded: those, "other", the app, and ""

    def test_what_never_becomes_valid_is_4xx_and_what_may_is_503(self):
        other = Apple("ANOTHERKEY")
        cases = [
            (400, "bad_body", "{}"),
            (400, "bad_body", ""),
            (400, "bad_body", '{"payload":"a.b.c","payload":"a.b.c"}'),
            (400, "jws_malformed", '{"payload":"a.b.c"}'),
            (400, "alg_refused", self.body(header={"kid": "TESTKEY001", "alg": "none"})),
            (400, "crit_refused", self.body(header={"kid": "TESTKEY001", "alg": "RS256", "crit": ["exp"]})),
            (400, "bad_signature", self.body(key=other.keys[0], header={"kid": "TESTKEY001", "alg": "RS256"})),
            (400, "claims_malformed", self.body(aud=[CLIENT_ID])),
            (400, "not_a_notification", self.body(events=OMIT)),
            (503, "from_future", self.body(now=4000000000)),
            (503, "deferred", other.body(other.notification())),
            (503, "kid_unknown", other.body(other.notification(aud="com.example.stranger"))),
        ]
        with Daemon(self.apple) as daemon:
            for status, outcome, body in cases:
                with self.subTest(outcome):
                    reply = request(daemon.address, "POST", PATH, body)
                    self.assertEqual((reply.status, reply.body), (status, outcome))
                    self.assertEqual("Retry-After" in reply.headers, status == 503)
            self.assertEqual(daemon.rows(), [])

    def test_a_clock_that_is_not_set(self):
        with Daemon(self.apple, fake_time="2018-12-31 23:00:00") as daemon:
            self.assertEqual(daemon.post(self.body()), (503, "clock_unset"))
            self.assertEqual(daemon.get("/readyz").status, 503)

    def test_path_method_length_and_size(self):
        with Daemon(self.apple) as daemon:
            self.assertEqual(request(daemon.address, "POST", "/other", self.body()).status, 404)
            self.assertEqual(request(daemon.address, "POST", PATH + "/", self.body()).status, 404)
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                reply = request(daemon.address, method, PATH)
                self.assertEqual((reply.status, reply.headers["Allow"]), (405, "POST"), method)
            reply = harness.exchange(daemon.address, f"POST {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            self.assertTrue(reply.startswith(b"HTTP/1.1 411 "), reply)
            self.assertEqual(daemon.post(" " * 65537)[0], 413)
            self.assertEqual(daemon.post(" " * 65536), (400, "bad_body"))
            padded = self.body()
            self.assertEqual(daemon.post(padded + " " * (65536 - len(padded))), (200, "accepted"))

    def test_the_content_type_is_not_looked_at(self):
        with Daemon(self.apple) as daemon:
            for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
                self.assertEqual(daemon.post(self.body(), headers={"Content-Type": kind}), (200, "accepted"))

    def test_what_is_expired_but_signed(self):
        for late, expected in ((OMIT, (200, "quarantined")), ("reject", (400, "expired")), ("deliver", (200, "accepted"))):
            with self.subTest(late=late), Daemon(self.apple, settings={"late": late}) as daemon:
                self.assertEqual(daemon.post(self.body(now=1700000000)), expected)
                self.assertEqual(len(daemon.rows()), 1 if expected[1] == "accepted" else 0)

    def test_an_expired_repeat_is_a_duplicate(self):
        with Daemon(self.apple, fake_time=1700000060, settings={"late": "reject"}) as daemon:
            body = self.body(now=1700000000)
            self.assertEqual(daemon.post(body), (200, "accepted"))
            daemon.restart(fake_time=1700000000 + 3 * 86400)  # expired, and its identity not yet let go by retention
            self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.assertEqual(daemon.post(self.body(now=1700000000)), (400, "expired"))


class TestPrivacy(ServeCase):
    def test_nothing_personal_leaves_the_outbox(self):
        """Every sub, e-mail, jti and token of a run is searched in the log, the replies and the metrics."""
        secrets = []
        with Daemon(self.apple) as daemon:
            replies = []
            for kind in TYPES:
                for how in ({}, {"aud": "com.example.forgotten"}, {"now": 1700000000}, {"now": 4000000000}, {"iss": "https://x.invalid"}):
                    claims = self.apple.claims(kind, **how)
                    token = self.apple.mint(claims)
                    event = json.loads(claims["events"])
                    secrets += [claims["jti"], event["sub"], event.get("email"), token, token.split(".")[1], token.split(".")[2]]
                    for body in (self.apple.body(token), self.apple.body(token)[:-1], self.apple.body(token[:-8] + "AAAAAAAA")):
                        reply = request(daemon.address, "POST", PATH, body)
                        replies.append(f"{reply.headers}{reply.body}")
            places = {"log": daemon.log(), "replies": "".join(replies), "metrics": daemon.get("/metrics").body,
                      "readyz": daemon.get("/readyz").body, "state": daemon.control("GET", "/v1/state").body}
            self.assertIn("outcome=accepted", places["log"])
            for place, text in places.items():
                for secret in filter(None, secrets):
                    self.assertNotIn(secret, text, place)
            # the control: the search would find them where they belong
            self.assertIn(secrets[1], json.dumps(daemon.rows()))

    def test_no_core_file_and_no_other_process_may_look(self):
        with Daemon(self.apple) as daemon:
            status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
            self.assertIn("NoNewPrivs:\t1", status)
            limits = pathlib.Path(f"/proc/{daemon.pid}/limits").read_text()
            self.assertRegex(limits, r"Max core file size +0 +0")
            if os.getuid() != 0:  # what belongs to a process that is not dumpable belongs to root
                self.assertEqual(os.stat(f"/proc/{daemon.pid}/mem").st_uid, 0)
            self.assertEqual(os.stat(daemon.database).st_mode & 0o777, 0o640)


class TestLife(ServeCase):
    def test_metrics_show_silence_as_zero_and_remember_over_a_restart(self):
        apps = [{"client_id": CLIENT_ID, "app": "Example", "team": "ABCDE12345"},
                {"client_id": "com.example.quiet", "app": "Quiet", "team": "ABCDE12345"}]
        last = "siwa_last_accepted_timestamp_seconds"
        with Daemon(self.apple, apps=apps) as daemon:
            metrics = daemon.metrics()
            for client_id in (CLIENT_ID, "com.example.quiet"):
                self.assertEqual(metrics.value(last, client_id=client_id), 0)
                for kind in TYPES:
                    self.assertEqual(metrics.value("siwa_events_total", type=kind, client_id=client_id), 0)
                self.assertEqual(metrics.value("siwa_notifications_total", outcome="accepted", client_id=client_id), 0)
            daemon.post(self.body())
            before = daemon.metrics().value(last, client_id=CLIENT_ID)
            self.assertGreater(before, 1.7e9)
            daemon.restart()
            self.assertAlmostEqual(daemon.metrics().value(last, client_id=CLIENT_ID), before, places=2)
            self.assertEqual(daemon.metrics().value(last, client_id="com.example.quiet"), 0)

    def test_killed_while_it_writes_nothing_acknowledged_is_missing(self):
        bodies = [self.body() for _ in range(60)]
        with Daemon(self.apple) as daemon:
            acknowledged = 0
            for start in range(0, 60, 20):
                done = []

                def post_all(part=bodies[start:start + 20]):
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        for body in part:
                            if daemon.post(body)[0] == 200:
                                done.append(body)

                sender = threading.Thread(target=post_all)
                sender.start()
                wait_until(lambda: len(done) >= 5, "five answers")
                daemon.kill9()
                sender.join()
                daemon.start()
                acknowledged += len(done)
                for body in done:
                    self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.assertGreaterEqual(len(daemon.rows()), acknowledged)

    def test_sigterm_answers_what_was_accepted(self):
        bodies = [self.body() for _ in range(40)]
        with Daemon(self.apple) as daemon:
            answers = []

            def post(body):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    answers.append((body, daemon.post(body)))

            senders = [threading.Thread(target=post, args=(body,)) for body in bodies]
            for sender in senders:
                sender.start()
            wait_until(lambda: answers, "a first answer")
            daemon.stop()
            for sender in senders:
                sender.join()
            self.assertTrue(daemon.notified("STOPPING=1"))
            self.assertIn("msg=stopped", daemon.log())
            daemon.start()
            for body, answer in answers:
                if answer[0] == 200:
                    self.assertEqual(daemon.post(body), (200, "duplicate"))

    def test_socket_activation_restarts_without_a_refused_connection(self):
        """The manager keeps the socket: whoever connects while nobody listens waits in the backlog."""
        directory = self.apple.directory
        listening = socket.socket(socket.AF_UNIX)
        path = directory / "handed.sock"
        listening.bind(str(path))
        listening.listen(512)
        with contextlib.closing(listening), Daemon(self.apple, handed={"notify": listening}) as daemon:
            answers, failures, stop = [], [], threading.Event()

            def post_on():
                while not stop.is_set():
                    try:
                        answers.append(daemon.post(self.bodies.pop(), address=f"unix:{path}"))
                    except IndexError:
                        return
                    except OSError as error:
                        failures.append(repr(error))

            self.bodies = [self.body() for _ in range(120)]
            senders = [threading.Thread(target=post_on) for _ in range(4)]
            for sender in senders:
                sender.start()
            for round_ in range(3):
                seen = len(answers)
                wait_until(lambda: len(answers) > seen + 5 or not self.bodies, "answers go on")
                daemon.restart()
            stop.set()
            for sender in senders:
                sender.join()
            self.assertEqual(failures, [])
            self.assertTrue(answers)
            self.assertEqual({answer for answer in answers}, {(200, "accepted")})
            self.assertEqual(len(daemon.rows()), len(answers))

    def test_a_service_manager_that_does_not_read_holds_nothing_up(self):
        """Its queue is full after some ten states; the daemon must still hear SIGTERM, and answer until then."""
        with Daemon(self.apple, environment={"WATCHDOG_USEC": "30000"}) as daemon:
            daemon.manager.stop_reading()
            wait_until(lambda: self.queue_is_full(daemon), "the queue is full")
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertEqual(daemon.end(signal.SIGTERM, 30), 0)

    @staticmethod
    def queue_is_full(daemon):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
            other.setblocking(False)
            try:
                other.sendto(b"X=1", str(daemon.directory / "manager.sock"))
            except BlockingIOError:
                return True
            return False

    def test_sighup_adds_and_removes_apps_without_a_lost_request(self):
        new = [{"client_id": "com.example.new", "app": "New", "team": "ABCDE12345"}]
        with Daemon(self.apple, settings={"limits": {"body_bytes": 4096}}) as daemon:
            bodies = [self.body() for _ in range(60)]
            self.assertEqual(daemon.post(self.body(aud="com.example.new")), (503, "wrong_audience"))
            self.assertEqual(daemon.post(" " * 5000)[0], 413)
            answers = []
            sender = threading.Thread(target=lambda: answers.extend(daemon.post(body) for body in bodies))
            sender.start()
            both = daemon.settings["apps"] + new
            for apps in (both, daemon.settings["apps"], both):
                self.reload(daemon, apps=apps, limits={"body_bytes": 8192})
            sender.join()
            self.assertEqual(set(answers), {(200, "accepted")})
            self.assertEqual(daemon.post(self.body(aud="com.example.new")), (200, "accepted"))
            self.assertEqual(daemon.post(" " * 5000), (400, "bad_body"))
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_events_total", type="account-delete", client_id="com.example.new"), 0)
            self.assertEqual(metrics.value("siwa_events_total", type="consent-revoked", client_id="com.example.new"), 1)
            # an app that was taken away is not ours any more
            self.reload(daemon, apps=new)
            self.assertEqual(daemon.post(self.body()), (503, "wrong_audience"))
            self.reload(daemon, apps=both)
            self.assertEqual(daemon.post(bodies[0]), (200, "duplicate"))

    def reload(self, daemon, **settings):
        daemon.settings.update(settings)
        daemon.write_config()
        seen = daemon.log().count("the new configuration is in force")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: daemon.log().count("the new configuration is in force") > seen, "the new configuration")

    def test_sighup_with_a_bad_file_changes_nothing_and_says_so(self):
        with Daemon(self.apple) as daemon:
            good = daemon.settings
            daemon.settings = {**good, "apps": [], "late": "perhaps"}
            daemon.write_config()
            os.kill(daemon.pid, signal.SIGHUP)
            wait_until(lambda: "the one in force stays" in daemon.log(), "the refusal")
            self.assertIn("late", daemon.log())
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            daemon.settings = good

    def test_sighup_names_what_needs_a_restart(self):
        with Daemon(self.apple) as daemon:
            good = dict(daemon.settings)
            self.reload(daemon, database=f"{daemon.directory}/other.db", path="/elsewhere")
            for setting in ("database", "path"):
                self.assertIn(f"setting={setting}", daemon.log())
            daemon.settings = good
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))

    def test_a_second_daemon_on_the_same_file_is_refused(self):
        with Daemon(self.apple) as daemon:
            second = Daemon(self.apple, settings={"database": str(daemon.database)})
            self.assertEqual(second.run_to_end(), 1)
            self.assertIn("cannot open the outbox", second.log())
            second.release()
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))

    def test_an_outbox_that_is_gone_is_not_made_anew_in_silence(self):
        with Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.body()), (200, "accepted"))
            self.assertIn('level=notice msg="a new outbox was made"', daemon.log())
            daemon.restart()
            self.assertEqual(daemon.log().count("a new outbox was made"), 1)
            daemon.stop()
            daemon.database.unlink()
            daemon.start()
            self.assertIn('level=warning msg="a new outbox was made, though', daemon.log())
            self.assertEqual(daemon.rows(), [])

    def test_a_wrong_configuration_does_not_start(self):
        for settings, word in (({"apps": []}, "apps"), ({"unknown_setting": 1}, "unknown_setting"),
                               ({"listen": "nowhere"}, "listen")):
            with self.subTest(word):
                daemon = Daemon(self.apple, settings=settings)
                self.assertEqual(daemon.run_to_end(), 1)
                self.assertIn(word, daemon.log())
                daemon.release()

    def test_watchdog_and_status(self):
        environment = {"WATCHDOG_USEC": "900000"}
        with Daemon(self.apple, environment=environment) as daemon:
            wait_until(lambda: daemon.notify_states().count("WATCHDOG=1") >= 2, "the watchdog is fed")
            self.assertTrue(any(state.startswith("STATUS=") for state in daemon.notify_states()))
            good = daemon.config_file.read_text()
            for text in (good, "nonsense", good):
                counted = daemon.notify_states().count("STATUS=reading the configuration anew")
                daemon.config_file.write_text(text)
                os.kill(daemon.pid, signal.SIGHUP)
                wait_until(lambda: daemon.notify_states().count("STATUS=reading the configuration anew") > counted,
                           "the reload is told")
                wait_until(lambda: [state for state in daemon.notify_states()
                                    if state.startswith("STATUS=")][-1] == "STATUS=serving", "and that it is over", 15)


if __name__ == "__main__":
    unittest.main()
