"""Consumers: the read API on the control socket, acknowledgements, and who may do what."""

import contextlib
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import time
import unittest

import harness
from harness import Apple, Daemon, TYPES, wait_until

CONSUMERS = [{"name": "accounts", "user": "nobody"}, {"name": "mailer", "user": "daemon", "start": "now"}, {"name": "ops"}]

def expected(rows):
    """Rows of the view as the API and the commands show them."""
    return [{**row, "is_private_email": None if row["is_private_email"] is None else bool(row["is_private_email"])}
            for row in rows]


class Served(unittest.TestCase):
    """Tests with a daemon of their own class that has one notification of each type."""

    settings = {"consumers": CONSUMERS}

    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        cls.daemon = cls.enterClassContext(Daemon(cls.apple, settings=cls.settings))
        cls.bodies = {}
        for kind in TYPES:
            cls.post(kind)

    @classmethod
    def post(cls, kind="consent-revoked", **changes):
        """Sends a notification; returns the id of its row."""
        body = cls.apple.body(cls.apple.notification(kind, **changes))
        status, _ = cls.daemon.post(body)
        if status != 200:
            raise AssertionError(f"the daemon answered {status}")
        row = cls.daemon.query("SELECT max(id) AS id FROM outbox")[0]["id"]
        cls.bodies[row] = body
        return row

    def last_id(self):
        return self.daemon.query("SELECT last_id FROM outbox_state")[0]["last_id"]

    def ask(self, method, path, body=None, status=200):
        reply = self.daemon.control(method, path, None if body is None else json.dumps(body))
        self.assertEqual(reply.status, status, reply.body)
        kind = "application/json" if status == 200 else "application/problem+json"
        self.assertEqual(reply.headers["Content-Type"], kind)
        answer = json.loads(reply.body)
        if status != 200:
            self.assertEqual(answer["status"], status)
            self.assertTrue(answer["title"] and answer["detail"])
        return answer

    def ack(self, name, through, status=200):
        return self.ask("POST", f"/v1/consumers/{name}/ack", {"through": through}, status)

    def seek(self, name, to, status=200):
        return self.ask("POST", f"/v1/consumers/{name}/seek", {"to": to}, status)

    def position(self, name):
        listed = self.ask("GET", "/v1/consumers")["consumers"]
        return next(consumer["position"] for consumer in listed if consumer["name"] == name)

    def as_user(self, user, method, path, body=""):
        """One request as another user; (status, answer)."""
        if os.getuid() != 0:
            raise unittest.SkipTest("only root can be another user")
        address = self.daemon.settings["control"].removeprefix("unix:")
        os.chmod(address, 0o666)  # by the mode of the file they all may
        os.chmod(self.daemon.directory, 0o711)
        command = [harness.command_path("curl"), "-sS", "-w", "\\n%{http_code}", "--unix-socket", address, "-X", method,
                   f"http://daemon{path}"] + (["--data-binary", body] if body else [])
        done = subprocess.run(command, user=user, group="nogroup", extra_groups=[], capture_output=True, text=True,
                              check=False, cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(answer)


class Events(Served):
    def test_all_columns_after_a_cursor(self):
        rows = self.daemon.rows()
        answer = self.ask("GET", "/v1/events?after=0")
        self.assertEqual(answer["events"], expected(rows))
        self.assertEqual([list(event) for event in answer["events"]], [list(row) for row in rows])
        self.assertEqual({name: answer[name] for name in ("last_id", "pruned_through", "generation")},
                         self.daemon.query("SELECT * FROM outbox_state")[0])
        part = self.ask("GET", f"/v1/events?after={rows[0]['id']}&limit=2")
        self.assertEqual(part["events"], expected(rows[1:3]))
        self.assertEqual(part["after"], rows[0]["id"])
        self.assertEqual(self.ask("GET", f"/v1/events?after={rows[-1]['id']}")["events"], [])
        self.assertEqual(self.ask("GET", "/v1/events")["events"][0]["id"], rows[0]["id"])

    def test_the_position_of_a_consumer(self):
        rows = self.daemon.rows()
        self.seek("ops", rows[1]["id"])
        self.assertEqual(self.ask("GET", "/v1/events?consumer=ops")["events"], expected(rows[2:]))
        problem = self.ask("GET", "/v1/events?consumer=nobody-knows", status=404)
        self.assertEqual(problem["type"], "/problems/no-such-consumer")

    def test_the_body_as_apple_sent_it(self):
        odd = '{ "payload" : "' + self.apple.notification("email-enabled") + '", "x": "\\u00e4é\\"" }'
        self.assertEqual(self.daemon.post(odd.encode())[0], 200)
        last = self.last_id()
        self.bodies[last] = odd
        events, after = [], 0
        while page := self.ask("GET", f"/v1/events?after={after}&raw=1&limit=1000")["events"]:
            events += page
            after = page[-1]["id"]
        self.assertEqual({event["id"]: event["raw"] for event in events if event["id"] in self.bodies}, self.bodies)
        self.assertEqual([event["raw_id"] for event in events if event["id"] == last], [last])
        self.assertNotIn("raw", self.ask("GET", "/v1/events?raw=0&limit=1")["events"][0])

    def test_a_large_answer_ends_early_and_loses_nothing(self):
        """1 MiB is the bound; padding makes bodies of 60 kB."""
        before = self.last_id()
        for _ in range(20):
            token = self.apple.notification("account-delete")
            self.assertEqual(self.daemon.post('{"payload":"' + token + '","pad":"' + "x" * 60000 + '"}')[0], 200)
        first = self.ask("GET", f"/v1/events?after={before}&raw=1")["events"]
        self.assertTrue(1 < len(first) < 20, len(first))
        rest = self.ask("GET", f"/v1/events?after={first[-1]['id']}&raw=1")["events"]
        self.assertEqual([event["id"] for event in first + rest], list(range(before + 1, before + 21)))

    def test_a_query_is_read_strictly(self):
        for query, name in (("after=-1", "after"), ("after=1x", "after"), ("after=", "after"), ("after=+1", "after"),
                            ("after=9223372036854775808", "after"), ("limit=0", "limit"), ("limit=1001", "limit"),
                            ("wait=61", "wait"), ("wait=1.5", "wait"), ("raw=2", "raw"), ("after=1&after=1", "after"),
                            ("limit=1&wait=0&limit=2", "limit"), ("Limit=1", "Limit"), ("from=1", "from"), ("", '""'),
                            ("consumer=", "consumer"), ("consumer=" + "x" * 40, "consumer"),
                            ("after=1&consumer=ops", "consumer"), ("%00=1", None), ("%C3%28=1", r'"\xc3("'),
                            ("x%0Ay=1", r'"x\x0ay"'), ("&", '""')):
            with self.subTest(query=query):
                reply = self.daemon.control("GET", f"/v1/events?{query}")
                self.assertEqual(reply.status, 400, reply.body)
                if name is None:  # the framing guard turned it away
                    continue
                problem = json.loads(reply.body)
                self.assertEqual(problem["type"], "/problems/bad-parameter")
                self.assertTrue(problem["detail"].startswith(f"{name}: "), problem["detail"])

    def test_a_cursor_beyond_the_end_is_told_so(self):
        problem = self.ask("GET", f"/v1/events?after={self.last_id() + 1}", status=409)
        self.assertEqual(problem["last_id"], self.last_id())

    def test_the_routes_know_their_methods(self):
        for method, path, status in (("POST", "/v1/events", 405), ("POST", "/v1/consumers", 405),
                                     ("GET", "/v1/consumers/ops/ack", 405), ("GET", "/v1/consumers/ops", 404),
                                     ("GET", "/v1/consumers/", 404), ("POST", "/v1/consumers//ack", 404),
                                     ("POST", "/v1/consumers/a/b/ack", 404), ("POST", "/v1/consumers/ops/ack/x", 404),
                                     ("GET", "/v1/events/", 404)):
            with self.subTest(path=path, method=method):
                self.ask(method, path, {} if method == "POST" else None, status)


    def test_what_is_no_good_http_is_a_problem_too(self):
        """It is turned away before its path is looked at."""
        post = "POST /v1/consumers/ops/ack HTTP/1.1\r\nHost: daemon\r\n"
        for sent, status, kind in ((post + "\r\n", 411, "length-required"),
                                   (post + "Content-Length: 4097\r\n\r\n" + "x" * 4097, 413, "body-too-large"),
                                   (post + f"Content-Length: {10 ** 9}\r\n\r\n{{", 413, "body-too-large"),
                                   (post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad-http"),
                                   (post + "Expect: tea\r\nContent-Length: 1\r\n\r\n1", 417, "expectation-failed"),
                                   ("GET /v1/events?after=%00 HTTP/1.1\r\nHost: daemon\r\n\r\n", 400, "bad-http")):
            with self.subTest(sent=sent[:120]):
                head, _, body = harness.exchange(self.daemon.settings["control"], sent.encode()).decode().partition("\r\n\r\n")
                self.assertIn(f" {status} ", head.splitlines()[0])
                self.assertIn("Content-Type: application/problem+json", head)
                self.assertIn("Connection: close", head)
                problem = json.loads(body)
                self.assertEqual((problem["status"], problem["type"]), (status, f"/problems/{kind}"))
                self.assertTrue(problem["title"] and problem["detail"])


class LongPolls(Served):
    def start(self, query):
        """A request that waits; its connection."""
        connection = harness.Connection(self.daemon.settings["control"])
        self.addCleanup(connection.close)
        connection.request("GET", f"/v1/events?{query}")
        return connection

    def connections(self):
        return self.daemon.metrics().value("siwa_connections", listener="control")

    def waiting(self, count):
        wait_until(lambda: self.connections() == count, f"{count} connections")

    def events(self, connection):
        reply = connection.getresponse()
        self.assertEqual(reply.status, 200)
        return json.loads(reply.read())["events"]

    def test_sixty_four_wait_without_threads_and_are_answered_at_once(self):
        last = self.last_id()
        threads = len(os.listdir(f"/proc/{self.daemon.pid}/task"))
        polls = [self.start(f"after={last}&wait=60") for _ in range(64)]
        self.waiting(64)
        self.assertEqual(len(os.listdir(f"/proc/{self.daemon.pid}/task")), threads)
        began = time.monotonic()
        row = self.post("account-delete")
        for poll in polls:
            self.assertEqual([event["id"] for event in self.events(poll)], [row])
        self.assertLess(time.monotonic() - began, 30)  # not the 60 s of the wait

    def test_different_questions_get_different_answers(self):
        first = self.daemon.rows()[0]["id"]
        last = self.last_id()
        polls = [self.start(f"after={last}&wait=60"), self.start(f"after={last}&wait=60&raw=1"),
                 self.start(f"after={last}&limit=1&wait=60")]
        self.assertEqual(self.events(self.start(f"after={first}&limit=1&wait=60"))[0]["id"], first + 1)
        row = self.post()
        plain, raw, limited = map(self.events, polls)
        self.assertEqual([event["id"] for event in plain + raw + limited], [row] * 3)
        self.assertNotIn("raw", plain[0])
        self.assertEqual(raw[0]["raw"], self.bodies[row])

    def test_the_end_of_the_wait_is_an_empty_list(self):
        self.assertEqual(self.events(self.start(f"after={self.last_id()}&wait=1")), [])

    def test_a_connection_serves_one_wait_after_the_other(self):
        connection = self.start(f"after={self.last_id()}&wait=60")
        for _ in range(3):
            row = self.post()
            self.assertEqual([event["id"] for event in self.events(connection)], [row])
            connection.request("GET", f"/v1/events?after={row}&wait=60")

    def test_a_commit_wakes_who_waits(self):
        """Without that they are looked at four times a second: half of all answers would take longer than 100 ms. One
        good batch of five is enough, since the machine may be busy."""
        def latency_s():
            connection = self.start(f"after={self.last_id()}&wait=60")
            self.waiting(1)
            row = self.post()
            began = time.monotonic()
            self.assertEqual([event["id"] for event in self.events(connection)], [row])
            took = time.monotonic() - began
            connection.close()
            self.waiting(0)
            return took

        medians = []
        while not medians or (len(medians) < 5 and medians[-1] > 0.03):
            medians.append(sorted(latency_s() for _ in range(9))[4])
        self.assertLess(min(medians), 0.03, medians)

    def test_a_seek_is_heeded_by_who_waits(self):
        """One that went on from where it waited would pass over what it was sent back to, and acknowledge that."""
        last = self.last_id()
        self.ack("accounts", last)
        connections = [self.start("consumer=accounts&wait=60"), self.start(f"after={last}&wait=60")]
        self.waiting(2)
        self.seek("accounts", last - 2)
        self.assertEqual([event["id"] for event in self.events(connections[0])], [last - 1, last])
        row = self.post()
        self.assertEqual([event["id"] for event in self.events(connections[1])], [row])  # it has a cursor of its own

    def test_who_goes_away_frees_the_place(self):
        polls = [self.start(f"after={self.last_id()}&wait=60") for _ in range(100)]
        self.waiting(100)
        for poll in polls:
            poll.close()
        self.waiting(0)
        self.post()  # and nobody is answered who is gone

    def test_who_waits_leaves_room_for_who_does_not(self):
        """Else an acknowledgement would stand in the queue of the socket until a wait is over."""
        last = self.last_id()
        polls = {poll.sock.fileno(): poll for poll in (self.start(f"after={last}&wait=60") for _ in range(120))}
        refused = wait_until(lambda: (ready := select.select(list(polls), [], [], 0)[0])[7:] and ready, "8 are answered")
        for number in refused:
            with contextlib.closing(polls.pop(number)) as poll:
                reply = poll.getresponse()
                problem = json.loads(reply.read())
            self.assertEqual((reply.status, problem.get("type")), (503, "/problems/too-many-wait"))
            self.assertEqual((reply.headers["Content-Type"], reply.headers["Retry-After"]), ("application/problem+json", "5"))
        self.assertEqual(len(polls), 112)
        rows = self.ask("GET", f"/v1/events?after={last - 1}&wait=60")["events"]  # what is there need not be waited for
        self.assertEqual([event["id"] for event in rows], [last])
        self.assertEqual(self.ack("accounts", last)["position"], last)
        row = self.post()
        for poll in polls.values():
            self.assertEqual([event["id"] for event in self.events(poll)], [row])
        self.assertEqual(self.events(self.start(f"after={row}&wait=1")), [])  # and others may wait

    def test_a_stop_releases_all_who_wait(self):
        with Daemon(self.apple, settings=self.settings) as daemon:
            connections = [harness.Connection(daemon.settings["control"]) for _ in range(3)]
            for connection in connections:
                connection.request("GET", "/v1/events?wait=60")
            wait_until(lambda: daemon.metrics().value("siwa_connections", listener="control") == 3, "three wait")
            began = time.monotonic()
            daemon.process.send_signal(signal.SIGTERM)
            for connection in connections:
                with contextlib.closing(connection):
                    reply = connection.getresponse()
                    self.assertEqual((reply.status, json.loads(reply.read())["events"]), (200, []))
            daemon.stop()
            self.assertLess(time.monotonic() - began, 30)


class Positions(Served):
    def test_an_acknowledgement_moves_forward_and_stays(self):
        rows = [row["id"] for row in self.daemon.rows()]
        self.seek("ops", 0)
        answer = self.ack("ops", rows[1])
        self.assertEqual(answer, {"consumer": "ops", "position": rows[1], "last_id": self.last_id()})
        self.assertEqual(self.ack("ops", rows[1])["position"], rows[1])
        problem = self.ack("ops", rows[0], 409)
        self.assertEqual((problem["type"], problem["position"]), ("/problems/ack-backwards", rows[1]))
        problem = self.ack("ops", self.last_id() + 1, 409)
        self.assertEqual((problem["type"], problem["last_id"]), ("/problems/beyond-last", self.last_id()))
        self.assertEqual(self.ack("no-such", 1, 404)["type"], "/problems/no-such-consumer")
        self.daemon.kill9()
        self.daemon.start()
        self.assertEqual(self.position("ops"), rows[1])
        self.assertEqual(self.seek("ops", rows[0])["position"], rows[0])

    def test_an_acknowledgement_may_say_where_it_begins(self):
        """Rows that were given before a seek are not acknowledged after it."""
        rows = [row["id"] for row in self.daemon.rows()]
        self.seek("ops", rows[1])
        body = {"from": rows[1], "through": rows[2]}
        for _ in range(2):  # the first answer may have been lost
            self.assertEqual(self.ask("POST", "/v1/consumers/ops/ack", body)["position"], rows[2])
        self.seek("ops", rows[0])
        problem = self.ask("POST", "/v1/consumers/ops/ack", {"from": rows[2], "through": rows[3]}, 409)
        self.assertEqual((problem["type"], problem["position"]), ("/problems/position-moved", rows[0]))
        self.assertEqual(self.position("ops"), rows[0])

    def test_a_name_that_nobody_has_is_told(self):
        before = self.ask("GET", "/v1/consumers")
        for name, code in (("nobody-here", 1), ("Accounts", 2), ("accounts ", 2), ("account_s", 2), ("x" * 33, 2), ("", 2)):
            for command in (["ack", "--through", 1], ["seek", "--to", 1], ["events"], ["events", "--follow"]):
                with self.subTest(name=name, command=command):
                    done = self.daemon.command(*command, "--consumer", name)
                    self.assertEqual(done.returncode, code, done.stderr)
                    self.assertIn(f'"{name}"' if code == 1 else f"'{name}'", done.stderr)
        self.assertEqual([(who["name"], who["position"]) for who in self.ask("GET", "/v1/consumers")["consumers"]],
                         [(who["name"], who["position"]) for who in before["consumers"]])
        for path in ("/v1/events?consumer=nobody-here", "/v1/consumers/nobody-here/ack"):
            method = "POST" if path.endswith("ack") else "GET"
            problem = self.ask(method, path, {"through": 1} if method == "POST" else None, status=404)
            self.assertEqual(problem["type"], "/problems/no-such-consumer")
            self.assertIn('"nobody-here"', problem["detail"])

    def test_the_body_is_read_strictly(self):
        for body in ("", "{}", '{"through": "1"}', '{"through": 1.0}', '{"through": -1}', '{"through": 1, "x": 1}', "[1]",
                     '{"through": 1, "through": 2}', '{"to": 1}', "1", '{"from": 1}', '{"through": 1, "from": -1}',
                     '{"through": 1, "from": "0"}', '{"through": 1, "from": null}', '{"through": 1, "from": 0, "x": 1}'):
            with self.subTest(body=body):
                reply = self.daemon.control("POST", "/v1/consumers/ops/ack", body)
                self.assertEqual(reply.status, 400, reply.body)
                self.assertEqual(json.loads(reply.body)["type"], "/problems/bad-request")

    def test_a_consumer_acknowledges_only_for_itself(self):
        self.seek("accounts", 0)
        self.seek("mailer", 0)
        for user, name, status in (("nobody", "accounts", 200), ("nobody", "mailer", 403), ("nobody", "ops", 403),
                                   ("daemon", "accounts", 403), ("daemon", "mailer", 200), ("root", "ops", 200)):
            with self.subTest(user=user, consumer=name):
                given, answer = self.as_user(user, "POST", f"/v1/consumers/{name}/ack", '{"through": 1}')
                self.assertEqual(given, status, answer)
                if status == 403:
                    self.assertEqual(answer["type"], "/problems/not-your-consumer")
        self.assertEqual(self.as_user("nobody", "GET", "/v1/consumers")[0], 200)
        self.assertEqual(self.as_user("nobody", "GET", "/v1/events?limit=1")[0], 200)

    def test_only_the_operator_seeks(self):
        self.assertEqual(self.as_user("nobody", "POST", "/v1/consumers/accounts/seek", '{"to": 0}')[0], 403)
        self.assertEqual(self.as_user("root", "POST", "/v1/consumers/accounts/seek", '{"to": 0}')[0], 200)

    def test_metrics_tell_who_is_behind(self):
        last = self.last_id()
        self.seek("accounts", last - 1)
        self.seek("mailer", last)
        self.seek("ops", last)
        metrics = self.daemon.metrics()
        self.assertEqual(metrics.value("siwa_consumer_lag_rows", consumer="accounts"), 1)
        self.assertGreater(metrics.value("siwa_consumer_lag_seconds", consumer="accounts"), 0)
        self.assertEqual(metrics.value("siwa_consumer_lag_rows", consumer="ops"), 0)
        self.assertEqual(metrics.value("siwa_consumer_lag_seconds", consumer="ops"), 0)
        oldest = "siwa_oldest_unacknowledged_account_delete_seconds"
        self.assertGreater(metrics.value(oldest), 0)  # the last row is one
        self.ack("accounts", last)
        self.assertEqual(self.daemon.metrics().value(oldest), 0)
        harness.need("promtool")
        checked = subprocess.run([harness.command_path("promtool"), "check", "metrics"], input=metrics.text,
                                 capture_output=True, text=True, check=False)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))

    def test_where_each_is(self):
        last = self.last_id()
        self.seek("accounts", last - 3)
        self.seek("mailer", last)
        listed = self.ask("GET", "/v1/consumers")
        self.assertEqual(listed["last_id"], last)
        by_name = {consumer["name"]: consumer for consumer in listed["consumers"]}
        self.assertEqual(list(by_name)[:3], ["accounts", "mailer", "ops"])
        self.assertEqual((by_name["accounts"]["lag_rows"], by_name["mailer"]["lag_rows"]), (3, 0))
        self.assertEqual(by_name["mailer"]["lag_s"], 0)
        self.assertGreaterEqual(by_name["accounts"]["lag_s"], 0)


class Configured(unittest.TestCase):
    def test_a_reload_adds_and_takes_out(self):
        apple = Apple()
        with Daemon(apple, settings={"consumers": CONSUMERS[:1]}) as daemon:
            def names(configured=True):
                listed = json.loads(daemon.control("GET", "/v1/consumers").body)["consumers"]
                return {consumer["name"]: consumer["position"] for consumer in listed
                        if consumer["configured"] == configured}

            def ack(name, through):
                return daemon.control("POST", f"/v1/consumers/{name}/ack", json.dumps({"through": through})).status

            def measured():
                return set(re.findall(r'^siwa_consumer_lag_\w+{consumer="([a-z]+)"}', daemon.metrics().text, re.M))

            for _ in range(2):
                daemon.post(apple.body(apple.notification()))
            self.assertEqual(names(), {"accounts": 0})
            self.assertEqual(measured(), {"accounts"})
            self.assertEqual(ack("accounts", 1), 200)
            daemon.settings["consumers"] = CONSUMERS[1:] + [{"name": "ghost", "user": "no-such-user"}]
            daemon.write_config()
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: daemon.query("SELECT count(*) AS n FROM consumers")[0]["n"] == 4, "the new ones are stored")
            self.assertEqual(names(), {"mailer": 2, "ops": 0, "ghost": 0})
            self.assertEqual(names(False), {"accounts": 1})
            self.assertEqual(measured(), {"mailer", "ops", "ghost"})
            self.assertEqual(ack("accounts", 2), 404)
            self.assertIn("consumer=ghost user=no-such-user", daemon.log())
            daemon.settings["consumers"] = CONSUMERS
            daemon.restart()
            self.assertEqual(names()["accounts"], 1)
            self.assertEqual(ack("accounts", 2), 200)

    def test_a_name_is_never_cut_off(self):
        """The longest that there can be, and one that begins so."""
        name = "x" * 32
        apple = Apple()
        with Daemon(apple, settings={"consumers": [{"name": name}]}) as daemon:
            for _ in range(2):
                self.assertEqual(daemon.post(apple.body(apple.notification())), (200, "accepted"))
            daemon.command("ack", "--consumer", name, "--through", 1, check=0)
            done = daemon.command("ack", "--consumer", name + "y", "--through", 2)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(json.loads(daemon.control("GET", f"/v1/events?consumer={name}").body)["after"], 1)

    def test_a_cursor_below_what_was_pruned_is_gone(self):
        apple = Apple()
        with Daemon(apple, settings={"consumers": CONSUMERS}) as daemon:
            for _ in range(4):
                daemon.post(apple.body(apple.notification()))
            daemon.control("POST", "/v1/consumers/accounts/ack", '{"through": 1}')
            self.assertEqual(daemon.control("POST", "/v1/consumers/mailer/ack", '{"through": 3}').status, 200)
            daemon.stop()
            with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
                connection.execute("DELETE FROM events WHERE id <= 3")
                connection.execute("UPDATE state SET pruned_through = 3")
            daemon.start()
            for path in ("/v1/events?after=0", "/v1/events?after=2&wait=60", "/v1/events?consumer=accounts"):
                reply = daemon.control("GET", path)
                self.assertEqual((reply.status, json.loads(reply.body)["pruned_through"]), (410, 3), reply.body)
            for action, body in (("ack", '{"through": 2}'), ("seek", '{"to": 2}')):
                reply = daemon.control("POST", f"/v1/consumers/accounts/{action}", body)
                self.assertEqual((reply.status, json.loads(reply.body)["pruned_through"]), (410, 3), reply.body)
            # `consumers` tells it of the one that lost rows, with the cure, and of none that did not
            lost = "accounts: events up to 3 were removed"
            listed = daemon.command("consumers", check=0).stdout
            self.assertIn(lost, listed)
            self.assertNotIn("mailer: events", listed)
            self.assertIn("siwa-notifyd seek --consumer accounts --to 3\n", listed)
            daemon.command("seek", "--consumer", "accounts", "--to", "3", check=0)
            self.assertNotIn(lost, daemon.command("consumers", check=0).stdout)
            self.assertEqual([event["id"] for event in json.loads(daemon.control("GET", "/v1/events?after=3").body)["events"]],
                             [4])
            self.assertEqual(daemon.control("POST", "/v1/consumers/accounts/ack", '{"through": 3}').status, 200)
            self.assertEqual(daemon.control("GET", "/v1/events?consumer=accounts").status, 200)

    def test_events_does_not_pass_over_rows_that_were_pruned(self):
        """The command says of a cursor of one's own what the control socket answers with 410."""
        apple = Apple()
        with Daemon(apple) as daemon:
            for _ in range(4):
                daemon.post(apple.body(apple.notification()))
            daemon.stop()
            with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
                connection.execute("DELETE FROM events WHERE id <= 3")
                connection.execute("UPDATE state SET pruned_through = 3")

            def shown(*options, check=0):
                done = daemon.command("events", "--json", *options, check=check)
                return [json.loads(line)["id"] for line in done.stdout.splitlines()], done.stderr

            for options in (["--after", 0], ["--after", 2], ["--after", 2, "--limit", 1], ["--after", 2, "--follow"]):
                ids, error = shown(*options, check=1)
                self.assertEqual(ids, [], options)
                self.assertIn("rows up to 3 are gone", error)
            self.assertEqual(shown("--after", 3)[0], [4])
            self.assertEqual(shown()[0], [4])  # without a cursor the oldest comes first
            self.assertEqual(shown("--limit", 1, "--follow")[0], [4])
            with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
                connection.execute("DELETE FROM events")
                connection.execute("UPDATE state SET pruned_through = 4")
            self.assertIn("rows up to 4 are gone", shown("--after", 3, check=1)[1])  # where none is left, too
            self.assertEqual(shown("--after", 4)[0], [])
            self.assertEqual(shown()[0], [])


if __name__ == "__main__":
    unittest.main()
