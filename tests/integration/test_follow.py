"""`events --consumer` and `--exec`, `ack`, `seek`, `consumers`: a consumer from the command line."""

import contextlib
import http.server
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import threading
import unittest

import harness
from harness import Apple, Daemon, TYPES, wait_until
from test_consumers import expected

CONSUMERS = [{"name": "accounts"}, {"name": "staging"}]


class Command(unittest.TestCase):
    def setUp(self):
        self.apple = Apple() if not hasattr(type(self), "apple_of_class") else type(self).apple_of_class
        type(self).apple_of_class = self.apple
        self.daemon = self.enterContext(Daemon(self.apple, settings={"consumers": CONSUMERS}))
        self.folder = self.daemon.directory

    def post(self, kind="consent-revoked", **changes):
        body = self.apple.body(self.apple.notification(kind, **changes))
        self.assertEqual(self.daemon.post(body)[0], 200)
        return body

    def position(self, name="accounts"):
        return self.daemon.query("SELECT position FROM consumers WHERE name = ?", name)[0]["position"]

    def file(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    @contextlib.contextmanager
    def following(self, *options, consumer="accounts", command=None):
        """A running `events --follow --consumer`."""
        arguments = [harness.PROGRAM, "events", "--config", self.daemon.config_file, "--follow", "--consumer", consumer]
        if command:
            arguments += ["--exec", command]
        with open(self.folder / "follower.log", "ab") as log:
            process = subprocess.Popen([*map(str, arguments), *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=log, cwd=self.folder, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def end(self, process):
        process.send_signal(signal.SIGTERM)
        return harness.end_of(process, signal.SIGTERM)


class Exec(Command):
    def test_one_event_after_the_other_each_acknowledged(self):
        for kind in TYPES[:2]:
            self.post(kind)
        with self.following(command="cat >> given; echo $SIWA_EVENT_ID >> ids") as process:
            wait_until(lambda: self.position() == 2, "the first two are acknowledged")
            for kind in TYPES[2:]:
                self.post(kind)
            wait_until(lambda: self.position() == 4, "the others too")
            self.assertEqual(self.end(process), 0)
        given = [json.loads(line) for line in self.file("given").splitlines()]
        self.assertEqual(given, expected(self.daemon.rows()))
        self.assertEqual(self.file("ids").split(), ["1", "2", "3", "4"])
        self.assertNotIn("siwa-notifyd events:", self.file("follower.log"))

    def test_a_failure_is_tried_again_before_the_next(self):
        self.post()
        self.post()
        with self.following(command="echo $SIWA_EVENT_ID >> ids; [ -e well ] || exit 7") as process:
            wait_until(lambda: self.file("ids").split() >= ["1", "1"], "the first is tried again")
            self.assertEqual(self.position(), 0)
            (self.folder / "well").touch()
            wait_until(lambda: self.position() == 2, "both are acknowledged")
            self.assertEqual(self.end(process), 0)
        self.assertEqual(self.file("ids").split(), ["1"] * (len(self.file("ids").split()) - 1) + ["2"])
        self.assertIn("event 1: the command ended with 7; again in 1 s", self.file("follower.log"))

    def test_a_signal_waits_for_the_command_and_goes_no_further(self):
        self.post()
        self.post()
        for number in (signal.SIGTERM, signal.SIGINT):
            (self.folder / "go").unlink(missing_ok=True)
            before = self.file("log").count("end")
            with self.following(command="echo begin >> log; until [ -e go ]; do sleep 0.02; done; echo end >> log") as process:
                wait_until(lambda: self.file("log").count("begin") == before + 1, "the command runs")
                process.send_signal(number)
                with self.assertRaises(subprocess.TimeoutExpired):
                    process.wait(0.5)
                (self.folder / "go").touch()
                self.assertEqual(harness.end_of(process, number), 0)
            self.assertEqual(self.file("log").count("end"), before + 1)
            self.assertEqual(self.position(), before + 1)

    def test_what_was_not_acknowledged_comes_again(self):
        """The follower is killed while the command runs; the daemon is killed and comes back."""
        self.post()
        with self.following(command="cat >> first; touch begun; until [ -e go ]; do sleep 0.05; done") as process:
            wait_until(lambda: (self.folder / "begun").exists(), "the command runs")
            process.kill()
            process.wait()
        (self.folder / "go").touch()
        self.assertEqual(self.position(), 0)
        with self.following(command="cat >> second") as process:
            wait_until(lambda: self.position() == 1, "it comes again")
            self.assertEqual(self.file("first"), self.file("second"))
            self.daemon.kill9()
            wait_until(lambda: "trying again until it answers" in self.file("follower.log"), "the daemon is missed")
            self.daemon.start()
            self.post()
            wait_until(lambda: self.position() == 2, "it goes on")
            self.assertEqual(self.end(process), 0)

    def test_a_seek_while_the_command_runs_is_heeded(self):
        for _ in range(3):
            self.post()
        command = "echo $SIWA_EVENT_ID >> ids; [ $SIWA_EVENT_ID != 3 ] || until [ -e go ]; do sleep 0.02; done"
        with self.following(command=command) as process:
            wait_until(lambda: self.file("ids").split() == ["1", "2", "3"], "the third is under way")
            self.daemon.command("seek", "--consumer", "accounts", "--to", 1, check=0)
            (self.folder / "go").touch()
            wait_until(lambda: self.position() == 3, "it is through")
            self.assertEqual(self.end(process), 0)
        self.assertEqual(self.file("ids").split(), ["1", "2", "3", "2", "3"])
        self.assertIn("somebody else moves accounts as well; going on from its position", self.file("follower.log"))

    def test_a_stop_while_the_daemon_is_away_says_what_comes_again(self):
        self.post()
        with self.following(command="echo $SIWA_EVENT_ID >> ids; until [ -e go ]; do sleep 0.02; done") as process:
            wait_until(lambda: self.file("ids") == "1\n", "the command runs")
            self.daemon.kill9()
            (self.folder / "go").touch()
            wait_until(lambda: "trying again until it answers" in self.file("follower.log"), "the daemon is missed")
            self.assertEqual(self.end(process), 0)
        self.assertIn("event 1: done, and not acknowledged; it comes again", self.file("follower.log"))

    def test_without_follow_it_ends_when_all_are_done(self):
        self.post()
        self.post()
        done = self.daemon.command("events", "--consumer", "accounts", "--limit", 1, "--exec", "cat >/dev/null", check=0)
        self.assertEqual((done.stdout, self.position()), ("", 1))
        self.daemon.command("events", "--consumer", "accounts", "--exec", "true", check=0)
        self.assertEqual(self.position(), 2)

    def test_a_wait_is_ended_by_a_signal(self):
        with self.following(command="true") as process:
            wait_until(lambda: self.daemon.metrics().value("siwa_connections", listener="control") == 1, "it waits")
            self.assertEqual(self.end(process), 0)

    def test_what_cannot_go_on_says_so(self):
        self.post()
        done = self.daemon.command("events", "--consumer", "no-such", "--exec", "true", "--follow", check=1)
        self.assertIn("No consumer of this name is configured", done.stderr)
        for options in (["--exec", "true"], ["--consumer", "accounts", "--after", "1"], ["--raw", "--json"],
                        ["--consumer", "a/../b"], ["--consumer", "accounts", "--exec", "true", "--json"],
                        ["--consumer", "accounts", "--exec", ""], ["--consumer", "accounts", "--exec", " "]):
            with self.subTest(options=options):
                self.assertEqual(self.daemon.command("events", *options).returncode, 2)
        self.assertEqual(self.position(), 0)  # `--exec "$UNSET"` acknowledges nothing
        self.daemon.stop()
        done = self.daemon.command("events", "--consumer", "accounts", check=1)
        self.assertIn("the daemon is not running", done.stderr)


class Raw(Command):
    def two_events(self):
        """One notification with two events."""
        claims = self.apple.claims()
        events = [json.loads(self.apple.claims(kind)["events"]) for kind in ("consent-revoked", "account-delete")]
        body = self.apple.body(self.apple.mint({**claims, "events": events}))
        self.assertEqual(self.daemon.post(body)[0], 200)
        return body

    def test_a_second_receiver_gets_every_notification_once(self):
        """The daemon in front of a handler that a team already has: here a second daemon."""
        harness.need("curl")
        bodies = [self.post(kind) for kind in TYPES]
        bodies.append(self.two_events())
        with Daemon(self.apple) as second:
            address = second.address.removeprefix("unix:")
            command = ("tee -a bodies | curl -sS --fail-with-body -H 'Content-Type: application/json' --unix-socket "
                       f"{shlex.quote(address)} --data-binary @- http://staging{harness.PATH} >/dev/null")
            with self.following("--raw", consumer="staging", command=command) as process:
                wait_until(lambda: self.position("staging") == 6, "all are forwarded")
                bodies.append(self.post())
                wait_until(lambda: self.position("staging") == 7, "and the next")
                self.assertEqual(self.end(process), 0)

            def content(daemon):
                return [{name: row[name] for name in row if name != "received_at_ms"} for row in daemon.rows()]

            self.assertEqual(content(second), content(self.daemon))
            self.assertEqual(second.outcomes(), {"accepted": 6})
        self.assertEqual(self.file("bodies"), "".join(bodies))

    def test_the_command_in_readme_sends_what_a_handler_takes(self):
        """A handler may look at the type of the content before it reads any."""
        harness.need("curl")
        body, got = self.post(), []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                got.append((self.rfile.read(int(self.headers["Content-Length"])).decode(), self.headers["Content-Type"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        forward = re.search(r"(?m)^FORWARD='(.*)'$", (harness.ROOT / "README.md").read_text())[1]
        command = forward.replace("https://staging/", f"http://127.0.0.1:{server.server_port}/")
        self.daemon.command("events", "--consumer", "staging", "--raw", "--exec", command, check=0,
                            environment={"http_proxy": ""})
        self.assertEqual(got, [(body, "application/json")])

    def test_bodies_are_shown_once_each(self):
        bodies = [self.post(), self.two_events(), self.post()]
        shown = "".join(body + "\n" for body in bodies)
        self.assertEqual(self.daemon.command("events", "--raw", check=0).stdout, shown)
        self.assertEqual(self.daemon.command("events", "--raw", "--consumer", "accounts", check=0).stdout, shown)

    def test_a_body_of_several_events_is_acknowledged_where_a_limit_or_a_signal_ends_it(self):
        bodies = [self.two_events()]
        command = "echo begin >> log; until [ -e go ]; do sleep 0.02; done; echo end >> log"
        with self.following("--raw", consumer="staging", command=command) as process:
            wait_until(lambda: self.file("log") == "begin\n", "the command runs")
            process.send_signal(signal.SIGTERM)
            (self.folder / "go").touch()
            self.assertEqual(harness.end_of(process, signal.SIGTERM), 0)
        self.assertEqual((self.position("staging"), self.file("log")), (2, "begin\nend\n"))

        bodies += [self.two_events(), self.post()]
        limited = ["events", "--consumer", "accounts", "--raw", "--limit", 1,
                   "--exec", f"cat >> {shlex.quote(str(self.folder / 'given'))}"]
        for position, given in ((2, bodies[:1]), (4, bodies[:2]), (5, bodies), (5, bodies)):
            self.daemon.command(*limited, check=0)
            self.assertEqual((self.position(), self.file("given")), (position, "".join(given)))

    def test_a_body_that_is_gone_is_not_passed_over_in_silence(self):
        for _ in range(4):
            self.post()
        self.daemon.stop()
        with contextlib.closing(sqlite3.connect(self.daemon.database)) as connection, connection:
            connection.execute("DELETE FROM raw WHERE id IN (2, 3)")
            connection.execute("UPDATE events SET sub = NULL, email = NULL, jti = NULL WHERE id = 2")
        self.daemon.start()
        command = ["events", "--consumer", "accounts", "--raw", "--exec", "cat >/dev/null"]
        done = self.daemon.command(*command, check=1)
        self.assertIn("event 2: erased; passed over", done.stderr)
        self.assertIn("seek --consumer accounts --to 3", done.stderr)
        self.assertEqual(self.position(), 2)
        self.daemon.command("seek", "--consumer", "accounts", "--to", 3, check=0)
        self.daemon.command(*command, check=0)
        self.assertEqual(self.position(), 4)
        done = self.daemon.command("events", "--raw", check=1)
        self.assertEqual(len(done.stdout.splitlines()), 2)
        self.assertIn("event 3: its body was removed", done.stderr)

    def test_a_body_without_a_sub_and_one_that_told_of_an_erased_person_are_not_passed_over(self):
        self.post(event={"sub": harness.OMIT})
        self.two_events()
        self.daemon.stop()
        with contextlib.closing(sqlite3.connect(self.daemon.database)) as connection, connection:
            connection.execute("DELETE FROM raw WHERE id = 1")
        self.daemon.start()
        command = ["events", "--consumer", "accounts", "--raw", "--exec", "cat >/dev/null"]
        self.assertIn("event 1: its body was removed", self.daemon.command(*command, check=1).stderr)
        self.daemon.command("seek", "--consumer", "accounts", "--to", 1, check=0)
        first = self.daemon.rows()[1]
        self.daemon.command("erase", "--team", first["team"], data=first["sub"], check=0)
        done = self.daemon.command(*command, check=1)
        self.assertIn("event 2: erased; passed over", done.stderr)
        self.assertIn("event 3: its body was removed, by `retain` or with", done.stderr)


class Commands(Command):
    def test_the_three_commands_of_a_consumer(self):
        for kind in TYPES:
            self.post(kind)
        shown = self.daemon.command("events", "--consumer", "accounts", "--json", check=0).stdout
        self.assertEqual([json.loads(line) for line in shown.splitlines()], expected(self.daemon.rows()))
        self.assertEqual(self.position(), 0)

        done = self.daemon.command("ack", "--consumer", "accounts", "--through", 3, check=0)
        self.assertEqual(done.stdout, "accounts: acknowledged through 3\n")
        self.assertEqual(self.position(), 3)
        done = self.daemon.command("ack", "--consumer", "accounts", "--through", 2, check=1)
        self.assertIn("accounts is at 3 already", done.stderr)
        done = self.daemon.command("seek", "--consumer", "accounts", "--to", 1, "--json", check=0)
        self.assertEqual(json.loads(done.stdout), {"consumer": "accounts", "position": 1, "last_id": 4})
        table = self.daemon.command("events", "--consumer", "accounts", check=0).stdout
        self.assertEqual([line.split()[0] for line in table.splitlines()], ["ID", "2", "3", "4"])

        listed = json.loads(self.daemon.command("consumers", "--json", check=0).stdout)
        self.assertEqual([(one["name"], one["position"], one["lag_rows"]) for one in listed["consumers"]],
                         [("accounts", 1, 3), ("staging", 0, 4)])
        self.assertEqual(listed["last_id"], 4)
        head, accounts, staging = self.daemon.command("consumers", check=0).stdout.splitlines()
        self.assertEqual(accounts.split()[:3], ["accounts", "1", "3"])
        self.assertEqual(staging.split()[-1], "never")

        for arguments in (["ack", "--consumer", "accounts"], ["ack", "--through", 1], ["seek", "--to", 1],
                          ["ack", "--consumer", "A", "--through", 1]):
            self.assertEqual(self.daemon.command(*arguments).returncode, 2)
        for arguments in (["ack", "--through", 1], ["seek", "--to", 1], ["events"]):
            done = self.daemon.command(*arguments, "--consumer", "no_such", check=2)
            self.assertIn("1 to 32 small letters, digits and -", done.stderr)
        self.daemon.settings["consumers"] = CONSUMERS[1:]
        self.daemon.restart()
        self.assertIn("*accounts", self.daemon.command("consumers", check=0).stdout)
        control, self.daemon.settings["control"] = self.daemon.settings["control"], ""
        self.daemon.restart()
        for arguments in (["ack", "--through", 1], ["seek", "--to", 1], ["events"], ["events", "--follow"],
                          ["events", "--follow", "--exec", "true"]):
            done = self.daemon.command(*arguments, "--consumer", "staging", check=1)
            self.assertIn(": the configuration has no control socket\n", done.stderr)
            self.assertNotIn("not running", done.stderr)  # it is
        self.daemon.settings["control"] = control
        self.daemon.stop()
        self.assertIn("staging", self.daemon.command("consumers", check=0).stdout)
        done = self.daemon.command("ack", "--consumer", "accounts", "--through", 3, check=1)
        self.assertIn("the daemon is not running", done.stderr)

    def test_an_output_that_cannot_be_written_is_told_with_its_cause(self):
        self.post()
        self.daemon.write_config()
        read, write = os.pipe()
        os.close(read)
        with open("/dev/full", "wb") as full, open(write, "wb") as closed:
            for subcommand, *options in (["consumers", "--json"], ["ack", "--through", 1, "--consumer", "accounts", "--json"],
                                         ["seek", "--to", 0, "--consumer", "accounts", "--json"],
                                         ["events", "--consumer", "accounts", "--json"], ["events", "--consumer", "accounts"]):
                command = [harness.PROGRAM, subcommand, "--config", self.daemon.config_file, *map(str, options)]
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn(b"cannot write standard output: No space left on device\n", done.stderr)
                done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
                self.assertNotIn(b"standard output", done.stderr)  # who stops reading knows

    def test_a_name_that_is_too_long_is_not_that_of_another(self):
        longest = "a" * 32
        self.post()
        self.daemon.settings["consumers"] = [{"name": longest}]
        self.daemon.restart()
        for arguments in (["ack", "--through", 1], ["seek", "--to", 1], ["events"]):
            done = self.daemon.command(*arguments, "--consumer", longest + "a", check=2)
            self.assertEqual(done.stdout, "")
        self.assertEqual(self.position(longest), 0)
        self.daemon.command("ack", "--through", 1, "--consumer", longest, check=0)
        self.assertEqual(self.position(longest), 1)

    def test_lines_are_flushed_as_they_come(self):
        with self.following("--json") as process:
            for kind in TYPES:
                self.post(kind)
                self.assertEqual(json.loads(process.stdout.readline())["type"], kind)
            self.assertEqual(self.end(process), 0)


if __name__ == "__main__":
    unittest.main()
