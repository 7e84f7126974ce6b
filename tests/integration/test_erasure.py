"""Erasure: the text of a person leaves the database and its write-ahead log, byte for byte, and nothing else does."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import termios
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

DAY = 86400
TEAM, OTHER_TEAM = "ABCDE12345", "ZYXWV98765"
APPS = [{"client_id": "com.example.app", "app": "Example", "team": TEAM},
        {"client_id": "com.example.web", "app": "Example web", "team": TEAM},
        {"client_id": "com.example.other", "app": "Other", "team": OTHER_TEAM}]
KEPT = ("id", "type", "client_id", "app", "team", "event_time_ms", "issued_at_ms", "received_at_ms", "raw_type")


@contextlib.contextmanager
def reading(daemon):
    """A reader in the midst of its transaction, which keeps the write-ahead log as it is."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM outbox").fetchall()
        yield


class Person:
    """Somebody, and every text about them that was sent."""

    def __init__(self, apple):
        self.apple = apple
        self.sub = f"000123.{secrets.token_hex(16)}.0456"
        self.texts = [self.sub]

    def event(self, kind, **more):
        event = {"sub": self.sub, **more}
        if kind.startswith("email-"):
            event["email"] = f"{secrets.token_hex(8)}@relay.invalid"
            self.texts.append(event["email"])
        return event

    def body(self, kind, client_id="com.example.app", now=None, events=None, key=None):
        claims = Apple.claims(kind, event=self.event(kind), aud=client_id, now=now)
        if events:
            claims["events"] = json.dumps(events)
        token = self.apple.mint(claims, key=key)
        _, payload, signature = token.split(".")
        data = harness.base64url_decode(payload)
        at = data.index(self.sub.encode()) + 2
        at += -at % 3  # three bytes are four characters
        self.texts += [claims["jti"], harness.base64url(data[at:at + 24]), signature[:40]]
        return Apple.body(token)


def on_disk(daemon, text):
    """The files of the database in which a text stands. Read by another process: one that closes a file lets go of its
    own locks on it, and here is the reader that must keep them."""
    return [suffix for suffix in ("", "-wal", "-shm")
            if text.encode() in subprocess.run(["cat", f"{daemon.database}{suffix}"], capture_output=True,
                                               check=True).stdout]


class TestErasure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()

    def require_on_disk(self, daemon, person):
        for text in person.texts:
            self.assertNotEqual(on_disk(daemon, text), [], text)

    def require_gone(self, daemon, person):
        for text in person.texts:
            self.assertEqual(on_disk(daemon, text), [], text)
            self.assertNotIn(text, daemon.log())

    def erase(self, daemon, sub, *arguments, check=0):
        return json.loads(daemon.command("erase", "--json", *arguments, data=f"{sub}\n", check=check).stdout)

    def ack(self, daemon, name, through):
        reply = daemon.control("POST", f"/v1/consumers/{name}/ack", json.dumps({"through": through}))
        self.assertEqual(reply.status, 200, reply.body)

    def test_what_was_known_of_a_person_is_nowhere_any_more(self):
        person, neighbour = Person(self.apple), Person(self.apple)
        with Daemon(self.apple, apps=APPS) as daemon:
            bodies = [person.body("email-enabled"), neighbour.body("email-disabled"),
                      person.body("account-delete", client_id="com.example.web")]
            for body in bodies:
                self.assertEqual(daemon.post(body), (200, "accepted"))
            # expired on arrival: in quarantine
            self.assertEqual(daemon.post(person.body("consent-revoked", now=time.time() - 3 * DAY)),
                             (200, "quarantined"))
            del person.texts[-3]  # its jti stands nowhere but within the token
            # signed by a key that is not published yet: among the deferred
            unpublished = self.apple.add_key("UNPUBLISHED")
            self.addCleanup(self.apple.keys.remove, unpublished)
            self.assertEqual(daemon.post(person.body("consent-revoked", key=unpublished)), (503, "deferred"))
            del person.texts[-3]
            # a body about two people, in which this one's part was stored before: no row leads to it
            again = {"type": "consent-revoked", **person.event("consent-revoked", event_time=1700000000000)}
            self.assertEqual(daemon.post(person.body("consent-revoked", events=[again])), (200, "accepted"))
            both = person.body("consent-revoked", events=[again, {
                "type": "consent-revoked", **neighbour.event("consent-revoked", event_time=1700000000000)}])
            self.assertEqual(daemon.post(both), (200, "accepted"))
            neighbour.texts.append(person.texts.pop(-3))  # its jti is that of the neighbour's row
            self.require_on_disk(daemon, neighbour)
            self.require_on_disk(daemon, person)
            before = daemon.rows()

            answer = self.erase(daemon, person.sub, "--client-id", "com.example.app")
            self.assertEqual(answer, {"rows": 3, "raw": 4, "deferred": 1, "quarantined": 1, "state": "done"})
            self.require_gone(daemon, person)
            self.require_on_disk(daemon, neighbour)
            self.assertEqual(daemon.query("SELECT * FROM erasing"), [])  # nobody is looked for any more

            # the facts stay, and so do the neighbour's rows
            after = daemon.rows()
            self.assertEqual([[row[name] for name in KEPT] for row in after],
                             [[row[name] for name in KEPT] for row in before])
            for old, new in zip(before, after):
                if old["sub"] == person.sub:
                    self.assertEqual([new[name] for name in ("sub", "email", "is_private_email", "jti")], [None] * 4)
                else:
                    self.assertEqual(new, old)

            # a repeat is known, and brings nothing back
            for body in bodies:
                self.assertEqual(daemon.post(body), (200, "duplicate"))
            self.require_gone(daemon, person)

            # once more, and somebody unknown: nothing to do is no error
            nothing = {"rows": 0, "raw": 0, "deferred": 0, "quarantined": 0, "state": "done"}
            self.assertEqual(self.erase(daemon, person.sub, "--team", TEAM), nothing)
            self.assertEqual(self.erase(daemon, "000000.nobody.0000", "--team", OTHER_TEAM), nothing)
            self.assertEqual(daemon.metrics().value("siwa_erased_rows_total"), 3)

            # the same sub of another team is somebody else
            self.erase(daemon, neighbour.sub, "--team", OTHER_TEAM)
            self.require_on_disk(daemon, neighbour)

            # what the command refuses
            for arguments, data, status in ((["--team", TEAM], "", 1), (["--team", TEAM], "a\nb\n", 1),
                                            (["--team", TEAM], " a\n", 1), (["--team", TEAM], "a\t\n", 1),
                                            (["--team", TEAM], "a ", 1), (["--team", TEAM], "\ufeffa\n", 1),
                                            ([], "a\n", 2), (["--team", "abc"], "a\n", 1),
                                            (["--client-id", "com.example.none"], "a\n", 1),
                                            (["--team", TEAM, "--client-id", "x"], "a\n", 2)):
                self.assertEqual(daemon.command("erase", *arguments, data=data).returncode, status, arguments)

    def test_a_row_that_was_stored_under_another_team_is_of_its_apps_team_as_well(self):
        """The team of an app was wrong and was corrected, or the app was transferred: its rows keep what they were given."""
        earlier = [{**app, "team": OTHER_TEAM} if app["client_id"] == "com.example.app" else app for app in APPS]
        for named in (["--client-id", "com.example.app"], ["--team", TEAM]):
            person, neighbour = Person(self.apple), Person(self.apple)
            again = {"type": "consent-revoked", **person.event("consent-revoked", event_time=1700000000000)}
            other = {"type": "email-enabled", **neighbour.event("email-enabled")}
            # the last is about two people, of whom this one's part was stored before
            bodies = [person.body("consent-revoked", events=[again]), person.body("email-enabled", "com.example.other"),
                      person.body("consent-revoked", events=[again, other])]
            del person.texts[-3]  # its jti is that of the neighbour's row
            with self.subTest(named=named), Daemon(self.apple, apps=earlier) as daemon:
                for body in bodies:
                    self.assertEqual(daemon.post(body), (200, "accepted"))
                daemon.settings["apps"] = APPS
                daemon.restart()
                self.assertEqual(daemon.post(person.body("email-disabled")), (200, "accepted"))
                self.assertEqual([row["team"] for row in daemon.rows()], [OTHER_TEAM] * 3 + [TEAM])
                answer = self.erase(daemon, person.sub, *named)
                self.assertEqual(answer, {"rows": 2, "raw": 3, "deferred": 0, "quarantined": 0, "state": "done"})
                # an app that stays in the other team is not of this one
                self.assertEqual([row["sub"] for row in daemon.rows()], [None, person.sub, neighbour.sub, None])
                self.assertEqual(self.erase(daemon, person.sub, "--team", OTHER_TEAM)["rows"], 1)
                self.require_gone(daemon, person)

    def test_a_copy_goes_unless_it_is_for_an_app_of_another_team(self):
        """A copy has no team: that of its app counts, where there is no doubt of it."""
        person = Person(self.apple)
        gone = {"client_id": "com.example.gone", "app": "Gone", "team": OTHER_TEAM}
        with Daemon(self.apple, apps=[*APPS, gone]) as daemon:
            unpublished = self.apple.add_key("UNPUBLISHED")
            self.addCleanup(self.apple.keys.remove, unpublished)

            def copies():
                return [[row["client_id"].rpartition(".")[2] for row in daemon.query(f"SELECT client_id FROM {table} ORDER BY id")]
                        for table in ("quarantine", "deferred")]

            for app in daemon.settings["apps"]:
                self.assertEqual(daemon.post(person.body("email-enabled", app["client_id"], now=time.time() - 3 * DAY)),
                                 (200, "quarantined"))
                self.assertEqual(daemon.post(person.body("email-enabled", app["client_id"], key=unpublished)),
                                 (503, "deferred"))
            # an app that is not configured any more, and one that has rows of the team that it left
            self.assertEqual(daemon.post(person.body("consent-revoked", "com.example.web")), (200, "accepted"))
            daemon.settings["apps"] = [APPS[0], {**APPS[1], "team": OTHER_TEAM}, APPS[2]]
            daemon.restart()
            self.assertEqual(copies(), [["app", "web", "other", "gone"]] * 2)
            answer = self.erase(daemon, person.sub, "--team", TEAM)
            self.assertEqual(answer, {"rows": 1, "raw": 1, "deferred": 3, "quarantined": 3, "state": "done"})
            self.assertEqual(copies(), [["other"]] * 2)
            answer = self.erase(daemon, person.sub, "--client-id", "com.example.other")
            self.assertEqual(answer, {"rows": 0, "raw": 0, "deferred": 1, "quarantined": 1, "state": "done"})
            self.require_gone(daemon, person)

    def test_an_open_reader_delays_nobody_and_the_bytes_go_when_it_ends(self):
        person, other = Person(self.apple), Person(self.apple)
        with Daemon(self.apple, apps=APPS) as daemon:
            self.assertEqual(daemon.post(person.body("account-delete"))[0], 200)
            with reading(daemon):
                answer = self.erase(daemon, person.sub, "--team", TEAM, "--wait", "3", check=1)
                self.assertEqual((answer["rows"], answer["state"]), (1, "pending"))
                self.assertEqual(daemon.rows()[0]["sub"], None)
                self.assertNotEqual(on_disk(daemon, person.sub), [])
                self.assertEqual(daemon.metrics().value("siwa_erasures_pending"), 1)
                wait_until(lambda: "a reader keeps the text" in daemon.log(), "it is said")
                # commits go on meanwhile, past several attempts. SQLite would wait two seconds for a reader at each of
                # them; one good series is enough, since the machine may be busy.
                def slowest():
                    until, longest = time.monotonic() + 5, 0
                    while (began := time.monotonic()) < until:
                        self.assertEqual(daemon.post(other.body("consent-revoked"))[0], 200)
                        longest = max(longest, time.monotonic() - began)
                        time.sleep(0.05)
                    return longest

                self.assertTrue(any(slowest() < 1.5 for _ in range(4)))
                # which stays through a restart that nobody announced
                daemon.kill9()
                daemon.start()
                self.assertEqual(daemon.rows()[0]["sub"], None)
                self.assertEqual(self.erase(daemon, other.sub, "--team", TEAM, "--wait", "0", check=1)["state"],
                                 "pending")
            wait_until(lambda: daemon.metrics().value("siwa_erasures_pending") == 0, "the log is emptied")
            wait_until(lambda: "nowhere any more" in daemon.log(), "it is said")
            self.require_gone(daemon, person)
            self.require_gone(daemon, other)

    def test_what_prints_waits_for_its_reader_outside_of_transactions(self):
        """A pager that is left open keeps no text in the write-ahead log."""
        with Daemon(self.apple) as daemon:
            for _ in range(120):
                self.assertEqual(daemon.post(self.apple.body(self.apple.notification("account-delete")))[0], 200)
            for command in (["events"], ["events", "--raw"], ["events", "--json", "--follow"], ["audit"], ["audit", "--json"]):
                read, write = os.pipe()
                size = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
                with self.subTest(command=command), open(read, "rb"), subprocess.Popen(
                        [harness.PROGRAM, *command, "--config", daemon.config_file], stdout=write,
                        stderr=subprocess.DEVNULL) as process:
                    os.close(write)

                    def waiting():
                        held = fcntl.ioctl(read, termios.FIONREAD, bytes(4))
                        return int.from_bytes(held, sys.byteorder) > size - 1024 and process.poll() is None

                    try:
                        wait_until(waiting, "nobody reads on")
                        self.assertEqual(self.erase(daemon, "nobody", "--team", TEAM)["state"], "done")
                        process.terminate()
                        self.assertEqual(harness.end_of(process, signal.SIGTERM),
                                         0 if "--follow" in command else -signal.SIGTERM)
                    finally:
                        process.kill()

    def test_what_is_pending_is_known_after_a_restart(self):
        """Nobody asks again: the metric and the log tell all the same."""
        person = Person(self.apple)
        pending = lambda: daemon.metrics().value("siwa_erasures_pending")
        with Daemon(self.apple, apps=APPS) as daemon:
            self.assertEqual(daemon.post(person.body("account-delete"))[0], 200)
            with reading(daemon):
                self.assertEqual(self.erase(daemon, person.sub, "--team", TEAM, "--wait", "1", check=1)["state"],
                                 "pending")
                for end in (daemon.kill9, daemon.stop):
                    end()
                    before = len(daemon.log())
                    daemon.start()
                    wait_until(lambda: pending() == 1, "it is still pending")
                    wait_until(lambda: "keeps what was erased before the start" in daemon.log()[before:], "it is said")
                    self.assertNotIn("nowhere any more", daemon.log())
            wait_until(lambda: pending() == 0, "the log is emptied")
            wait_until(lambda: "erased before the start stands nowhere" in daemon.log(), "it is said")
            self.require_gone(daemon, person)
            before = len(daemon.log())
            daemon.restart()  # and after that there is nothing to tell
            self.assertEqual(self.erase(daemon, person.sub, "--team", TEAM)["state"], "done")
            self.assertNotIn("before the start", daemon.log()[before:])

    def test_after_an_account_delete_was_acknowledged_by_all(self):
        person, neighbour = Person(self.apple), Person(self.apple)
        settings = {"consumers": [{"name": "accounts"}, {"name": "mailer"}], "erase_after_account_delete": "acked"}
        with Daemon(self.apple, apps=APPS, settings=settings) as daemon:
            for body in (person.body("email-enabled"), neighbour.body("email-enabled"),
                         person.body("account-delete"), person.body("email-disabled", client_id="com.example.web")):
                self.assertEqual(daemon.post(body), (200, "accepted"))
            self.ack(daemon, "accounts", 4)
            self.ack(daemon, "mailer", 2)
            daemon.restart()
            time.sleep(0.3)  # a sweeper that does not wait for the slowest would have erased by now
            self.assertEqual([bool(row["sub"]) for row in daemon.rows()], [True] * 4)
            self.ack(daemon, "mailer", 3)
            wait_until(lambda: daemon.rows()[2]["sub"] is None, "the account-delete is erased")
            # what is not acknowledged yet is not erased yet
            self.assertEqual([bool(row["sub"]) for row in daemon.rows()], [False, True, False, True])
            self.ack(daemon, "mailer", 4)
            wait_until(lambda: daemon.rows()[3]["sub"] is None, "the later row follows")
            self.require_on_disk(daemon, neighbour)
            # what comes later follows, once acknowledged, also after a restart
            self.assertEqual(daemon.post(person.body("consent-revoked")), (200, "accepted"))
            daemon.kill9()
            daemon.start()
            self.assertEqual(daemon.rows()[4]["sub"], person.sub)
            for name in ("accounts", "mailer"):
                self.ack(daemon, name, 5)
            wait_until(lambda: daemon.rows()[4]["sub"] is None, "the latest row follows")
            wait_until(lambda: daemon.metrics().value("siwa_erasures_pending") == 0, "the log is emptied")
            self.require_gone(daemon, person)
            self.assertEqual(len(daemon.query("SELECT * FROM erased")), 1)

    def test_what_comes_later_and_becomes_no_row_follows_as_well(self):
        person, neighbour = Person(self.apple), Person(self.apple)
        settings = {"consumers": [{"name": "accounts"}], "erase_after_account_delete": "acked"}
        again = {"type": "consent-revoked", **person.event("consent-revoked", event_time=1700000000000)}
        with Daemon(self.apple, apps=APPS, settings=settings) as daemon:

            def ids(table):
                return [row["id"] for row in daemon.query(f"SELECT id FROM {table} ORDER BY id")]

            for body in (person.body("consent-revoked", events=[again]), person.body("account-delete")):
                self.assertEqual(daemon.post(body), (200, "accepted"))
            self.ack(daemon, "accounts", 2)
            wait_until(lambda: daemon.query("SELECT * FROM erased"), "the person is erased")
            daemon.kill9()
            daemon.start()
            # expired on arrival, and nobody acknowledges what is in quarantine
            for client_id in ("com.example.app", "com.example.web"):
                self.assertEqual(daemon.post(person.body("email-enabled", client_id, now=time.time() - 3 * DAY)),
                                 (200, "quarantined"))
                del person.texts[-3]  # its jti stands nowhere but within the token
            self.assertEqual(daemon.post(neighbour.body("email-enabled", now=time.time() - 3 * DAY)), (200, "quarantined"))
            del neighbour.texts[-3]
            gone = list(person.texts)
            # the same sub of another team is somebody else
            self.assertEqual(daemon.post(person.body("email-enabled", "com.example.other", now=time.time() - 3 * DAY)),
                             (200, "quarantined"))
            wait_until(lambda: ids("quarantine") == [3, 4], "quarantine follows")
            wait_until(lambda: daemon.metrics().value("siwa_erasures_pending") == 0, "the log is emptied")
            self.assertEqual([text for text in gone if on_disk(daemon, text)], [])
            # a body about two people, in which this one's part was stored before: it goes when the other's is acknowledged
            both = person.body("consent-revoked", events=[again] + [
                {"type": "consent-revoked", **neighbour.event("consent-revoked", event_time=1700000000000 + number)}
                for number in range(2)])
            self.assertEqual(daemon.post(both), (200, "accepted"))
            alone = {"type": "email-disabled", **neighbour.event("email-disabled")}
            self.assertEqual(daemon.post(neighbour.body("email-disabled", events=[alone])), (200, "accepted"))
            self.assertEqual(ids("raw"), [3, 5])
            self.ack(daemon, "accounts", 3)  # not all of it
            daemon.restart()  # a new process looks through all there is
            probe = Person(self.apple)
            self.assertEqual(self.erase(daemon, probe.sub, "--team", TEAM)["state"], "done")  # it has looked
            self.assertEqual(ids("raw"), [3, 5])
            self.ack(daemon, "accounts", 4)
            wait_until(lambda: ids("raw") == [5], "the body follows")
            self.assertEqual([bool(row["sub"]) for row in daemon.rows()], [False, False, True, True, True])

    def test_a_body_whose_first_row_was_removed_follows_as_well(self):
        harness.need("faketime")
        person, neighbour = Person(self.apple), Person(self.apple)
        later = time.time() + 91 * DAY
        settings = {"consumers": [{"name": "accounts"}], "erase_after_account_delete": "acked",
                    "retain": {"raw": "300d"}}
        again = {"type": "consent-revoked", **person.event("consent-revoked", event_time=1700000000000)}
        with Daemon(self.apple, apps=APPS, settings=settings) as daemon:
            for body in (person.body("consent-revoked", events=[again]), person.body("account-delete")):
                self.assertEqual(daemon.post(body), (200, "accepted"))
            self.ack(daemon, "accounts", 2)
            wait_until(lambda: daemon.query("SELECT * FROM erased"), "the person is erased")
            both = person.body("consent-revoked", events=[again] + [
                {"type": "consent-revoked", **neighbour.event("consent-revoked", event_time=1700000000000 + number)}
                for number in range(2)])
            self.assertEqual(daemon.post(both), (200, "accepted"))
            self.ack(daemon, "accounts", 3)  # not all of it
            daemon.restart(fake_time=later)
            wait_until(lambda: [row["id"] for row in daemon.rows()] == [4], "the others go")
            self.assertEqual(daemon.query("SELECT id FROM raw"), [{"id": 3}])
            self.ack(daemon, "accounts", 4)
            wait_until(lambda: not daemon.query("SELECT id FROM raw"), "the body follows")

    def test_a_duration_counts_from_the_last_acknowledgement(self):
        harness.need("faketime")
        person = Person(self.apple)
        now = time.time()
        settings = {"consumers": [{"name": "accounts"}], "erase_after_account_delete": "30d"}
        with Daemon(self.apple, apps=APPS, settings=settings) as daemon:
            self.assertEqual(daemon.post(person.body("account-delete")), (200, "accepted"))
            self.ack(daemon, "accounts", 1)
            daemon.restart(fake_time=now + 29 * DAY)
            self.assertEqual(self.erase(daemon, "nobody", "--team", TEAM)["state"], "done")  # it has looked
            self.assertEqual(daemon.rows()[0]["sub"], person.sub)
            daemon.restart(fake_time=now + 30 * DAY + 3600)
            wait_until(lambda: daemon.rows()[0]["sub"] is None, "it is erased")
            wait_until(lambda: daemon.metrics().value("siwa_erasures_pending") == 0, "the log is emptied")
            self.require_gone(daemon, person)

    def test_a_duration_that_ends_after_the_row_was_to_be_removed(self):
        """The acknowledgement comes after the arrival: retention must not take away what names the person to erase."""
        harness.need("faketime")
        person = Person(self.apple)
        now = time.time()
        settings = {"consumers": [{"name": "accounts"}], "erase_after_account_delete": "30d", "retain": {"events": "30d"}}
        with Daemon(self.apple, apps=APPS, settings=settings) as daemon:
            self.assertEqual(daemon.post(person.body("account-delete")), (200, "accepted"))
            daemon.restart(fake_time=now + DAY)
            self.ack(daemon, "accounts", 1)
            daemon.restart(fake_time=now + 20 * DAY)
            self.assertEqual(daemon.post(person.body("consent-revoked", now=now + 20 * DAY)), (200, "accepted"))
            self.assertEqual(daemon.post(person.body("email-enabled", now=now + 15 * DAY)), (200, "quarantined"))
            del person.texts[-3]  # its jti stands nowhere but within the token
            self.ack(daemon, "accounts", 2)
            daemon.restart(fake_time=now + 30 * DAY + 60)
            wait_until(lambda: [row["id"] for row in daemon.rows()] == [2], "the account-delete is removed")
            wait_until(lambda: daemon.rows()[0]["sub"] is None, "what came later is erased")
            wait_until(lambda: not daemon.query("SELECT id FROM quarantine"), "quarantine too")
            wait_until(lambda: daemon.metrics().value("siwa_erasures_pending") == 0, "the log is emptied")
            self.require_gone(daemon, person)

    def test_it_needs_somebody_who_acknowledges(self):
        daemon = Daemon(self.apple, settings={"erase_after_account_delete": "acked"})
        self.addCleanup(daemon.release)
        done = daemon.command("check-config")
        self.assertEqual(done.returncode, 1)
        self.assertIn("erase_after_account_delete", done.stdout + done.stderr)
        self.assertNotEqual(daemon.run_to_end(), 0)

    def test_only_the_daemons_own_user_may_ask(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to be somebody else")
        with Daemon(self.apple) as daemon:
            os.chmod(daemon.directory, 0o755)
            os.chmod(f"{daemon.directory}/control.sock", 0o666)
            done = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "--unix-socket",
                 f"{daemon.directory}/control.sock", "-d", '{"team": "ABCDE12345", "sub": "x"}',
                 "http://daemon/v1/erase"], capture_output=True, text=True, check=False)
            self.assertEqual(json.loads(done.stdout)["status"], 403)


if __name__ == "__main__":
    unittest.main()
