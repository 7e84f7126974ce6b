"""The `keys` command, with and without a running daemon, and the control socket behind it."""

import fcntl
import json
import os
import shutil
import sqlite3
import ssl
import stat
import subprocess
import time
import unittest

import harness

DAY_S = 86400


class Keys(unittest.TestCase):
    """What works where no daemon runs."""

    @classmethod
    def setUpClass(cls):
        cls.apple = harness.Apple()
        cls.moduli = {}

    def setUp(self):
        self.daemon = harness.Daemon(self.apple)
        self.addCleanup(self.daemon.release)
        self.keys_file = self.daemon.directory / "keys.json"

    def modulus(self, kid):
        """Of a key for this kid, made once: that takes its time."""
        if kid not in self.moduli:
            self.moduli[kid] = harness.base64url(self.apple.add_key(kid).modulus)
        return self.moduli[kid]

    def remember(self, *records, distrusted=(), refreshed_s=None):
        """Writes keys.json as the daemon would; a record is (kid, first seen, last seen, left or None)."""
        keys = []
        for kid, first_seen_s, last_seen_s, left_s in records:
            key = {"kid": kid, "n": self.modulus(kid), "first_seen_s": first_seen_s, "last_seen_s": last_seen_s}
            if left_s is not None:
                key["left_s"] = left_s
            keys.append(key)
        self.keys_file.write_text(json.dumps({
            "version": 1, "refreshed_s": int(time.time()) if refreshed_s is None else refreshed_s,
            "distrusted": list(distrusted), "keys": keys}))
        self.keys_file.chmod(0o600)

    def states(self):
        listed = json.loads(self.daemon.command("keys", "--json", check=0).stdout)
        states = {key["kid"]: key["state"] for key in listed["keys"]}
        states.update({kid: "distrusted" for kid in listed["distrusted_unknown"]})
        return states

    def test_nothing_is_known_yet(self):
        done = self.daemon.command("keys", check=0)
        self.assertEqual(done.stdout, "")
        self.assertIn(f"{self.keys_file} holds no keys yet", done.stderr)
        listed = json.loads(self.daemon.command("keys", "--json", check=0).stdout)
        self.assertEqual(listed, {"refreshed_s": None, "usable": False, "keys": [], "distrusted_unknown": []})
        self.assertFalse(self.keys_file.exists())

    def test_the_table_shows_how_each_key_stands(self):
        now = int(time.time())
        self.remember(("a-current", now - 9 * DAY_S, now, None),
                      ("b-grace", now - 20 * DAY_S, now - 3600, now - 3600),
                      ("c-old", 1700000000, now - 4 * DAY_S, now - 3 * DAY_S),
                      ("d-bad", now - 9 * DAY_S, now, None), distrusted=("d-bad", "e-unseen"))
        self.assertEqual(self.states(), {"a-current": "current", "b-grace": "grace", "c-old": "old",
                                         "d-bad": "distrusted", "e-unseen": "distrusted"})
        lines = self.daemon.command("keys", check=0).stdout.splitlines()
        self.assertEqual(lines[0].split("  ")[0], "KID")
        table = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
        self.assertEqual(table["a-current"][0], "current")
        self.assertEqual(table["c-old"][:2], ["old", "2023-11-14T22:13:20Z"])
        self.assertEqual(table["e-unseen"], ["distrusted", "-", "-"])
        self.assertEqual(len(table), 5)
        self.assertRegex(lines[-1], r"^last refresh  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  usable$")

    def test_old_keys_are_not_usable(self):
        self.remember(("a", 1700000000, 1700000000, None), refreshed_s=1700000000)
        self.assertRegex(self.daemon.command("keys", check=0).stdout.splitlines()[-1], r"  not usable$")

    def test_refresh_needs_the_daemon(self):
        done = self.daemon.command("keys", "--refresh", check=1)
        self.assertEqual(done.stdout, "")
        self.assertIn("the daemon is not running", done.stderr)
        self.assertIn(f"{self.daemon.directory}/control.sock", done.stderr)
        self.daemon.settings["control"] = harness.OMIT
        self.daemon.command("keys", "--refresh", check=1)

    def test_distrust_without_a_daemon_changes_the_file(self):
        now = int(time.time())
        self.remember(("a", now, now, None), ("b", now, now, None))
        done = self.daemon.command("keys", "--distrust", "a", check=0)
        self.assertEqual(done.stdout, "a is distrusted from now on\n")
        self.assertNotIn("no usable key", done.stderr)
        self.assertEqual(self.states(), {"a": "distrusted", "b": "current"})
        self.assertEqual(stat.S_IMODE(self.keys_file.stat().st_mode), 0o600)
        done = self.daemon.command("keys", "--distrust", "b", check=0)
        self.assertIn("no usable key is left", done.stderr)
        answer = json.loads(self.daemon.command("keys", "--distrust", "c", "--json", check=0).stdout)
        self.assertEqual(answer, {"kid": "c", "known": False, "keys_usable": False})
        self.assertEqual(self.states(), {"a": "distrusted", "b": "distrusted", "c": "distrusted"})

    def test_distrust_works_where_no_daemon_can_be_asked(self):
        now = int(time.time())
        self.remember(("a", now, now, None))
        self.daemon.settings["control"] = ""
        self.daemon.command("keys", "--distrust", "a", check=0)
        self.assertEqual(self.states(), {"a": "distrusted"})
        self.assertIn("set `control`", self.daemon.command("keys", "--refresh", check=1).stderr)

    def test_a_kid_that_never_was_seen(self):
        done = self.daemon.command("keys", "--distrust", "later", check=0)
        self.assertIn("it was never seen so far", done.stdout)
        self.assertEqual(self.states(), {"later": "distrusted"})

    def test_what_root_distrusts_the_daemon_can_read(self):
        """A file that belongs to root would be refused by the daemon: the distrust would be lost."""
        if os.geteuid() != 0:
            self.skipTest("needs root")
        now = int(time.time())
        self.remember(("a", now, now, None))
        os.chown(self.daemon.directory, 65534, 65534)
        os.chown(self.keys_file, 65534, 65534)
        # the search for leaks does not get along with a process that changes its user
        self.daemon.command("keys", "--distrust", "a", check=0, environment={"ASAN_OPTIONS": "detect_leaks=0"})
        self.assertEqual(self.keys_file.stat().st_uid, 65534)
        self.assertEqual(self.states(), {"a": "distrusted"})

    def test_a_daemon_that_cannot_be_asked_is_not_written_behind(self):
        """Two writers of keys.json: the daemon's next save would bring the key back."""
        now = int(time.time())
        self.remember(("a", now, now, None))
        before = self.keys_file.read_bytes()
        with open(f"{self.daemon.database}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = self.daemon.command("keys", "--distrust", "a", check=1)
        self.assertIn("a daemon has", done.stderr)
        self.assertEqual(self.keys_file.read_bytes(), before)
        self.daemon.command("keys", "--distrust", "a", check=0)

    def test_a_damaged_file_is_left_alone(self):
        self.keys_file.write_text('{"version": 1, "keys": [')
        self.keys_file.chmod(0o600)
        for arguments in (), ("--json",), ("--distrust", "a"):
            done = self.daemon.command("keys", *arguments, check=1)
            self.assertEqual(done.stdout, "")
            self.assertIn(str(self.keys_file), done.stderr)
        self.assertEqual(self.keys_file.read_text(), '{"version": 1, "keys": [')

    def test_what_is_no_kid(self):
        for kid in "", "x" * 65, "line\nbreak", "\u00e4":
            done = self.daemon.command("keys", "--distrust", kid, check=1)
            self.assertIn("1 to 64 printable", done.stderr)
        self.assertFalse(self.keys_file.exists())

    def test_wrong_command_lines(self):
        self.daemon.command("keys", "--refresh", "--distrust", "a", check=2)
        self.daemon.command("keys", "--distrust", check=2)
        self.daemon.command("keys", "operand", check=2)
        self.assertIn("--distrust KID", self.daemon.command("keys", "--help", check=0).stdout)


class TestDaemon(unittest.TestCase):
    """What the running daemon is asked for."""

    @classmethod
    def setUpClass(cls):
        cls.apple = harness.Apple("kid-one", "kid-two")

    def body(self, key):
        return self.apple.body(self.apple.notification(key=self.apple.keys[key]))

    def only(self, *keys):
        """The key set with these alone."""
        return self.apple.key_set([self.apple.keys[key] for key in keys])

    @staticmethod
    def await_first_refresh(daemon):
        """Keys are usable before the attempt is over that brought them, which a refresh that is asked for would share."""
        harness.wait_until(lambda: json.loads(daemon.control("GET", "/v1/state").body)["refresh"]["attempts"] > 0, "the first refresh")

    def states(self, daemon):
        return {key["kid"]: key["state"] for key in json.loads(daemon.control("GET", "/v1/keys").body)["keys"]}

    def test_refresh_takes_what_is_published_now(self):
        with harness.Daemon(self.apple) as daemon:
            daemon.publish(self.only(0))
            done = daemon.command("keys", "--refresh", check=0)
            self.assertRegex(done.stdout, r"(?m)^kid-one +current ")
            self.assertRegex(done.stdout, r"(?m)^kid-two +grace ")
            daemon.publish(self.only(1))
            answer = json.loads(daemon.command("keys", "--refresh", "--json", check=0).stdout)
            self.assertEqual(answer["result"], "ok")
            self.assertEqual({key["kid"]: key["state"] for key in answer["keys"]["keys"]},
                             {"kid-one": "grace", "kid-two": "current"})
            self.assertEqual(daemon.post(self.body(0)), (200, "accepted"))

    def test_a_refresh_that_fails_says_why_and_changes_nothing(self):
        with harness.Daemon(self.apple) as daemon:
            self.await_first_refresh(daemon)
            daemon.publish("no key set")
            done = daemon.command("keys", "--refresh", check=1)
            self.assertEqual(done.stdout, "")
            self.assertIn("could not be fetched: bad_set", done.stderr)
            self.assertEqual(daemon.post(self.body(0)), (200, "accepted"))
            state = json.loads(daemon.control("GET", "/v1/state").body)
            self.assertEqual(state["refresh"]["result"], "bad_set")
            self.assertTrue(state["refresh"]["why"])
            self.assertTrue(state["health"]["ready"])

    def test_a_first_refresh_that_fails_promises_no_keys(self):
        with harness.Daemon(self.apple) as daemon:
            daemon.stop()
            daemon.key_file.unlink()
            (daemon.directory / "keys.json").unlink()
            daemon.start()
            done = daemon.command("keys", "--refresh")
            self.assertEqual(done.returncode, 1)
            self.assertIn("no usable key is known, and notifications are answered 503", done.stderr)
            self.assertNotIn("go on serving", daemon.log() + done.stderr)
            self.assertIn("without a usable key notifications are answered 503", daemon.log())
            daemon.publish(self.apple.key_set())
            harness.wait_until(lambda: daemon.command("keys", "--refresh").returncode == 0, "an attempt that began later")
            daemon.key_file.unlink()
            self.assertIn("go on serving", daemon.command("keys", "--refresh").stderr)
            self.assertIn("the keys at hand go on serving", daemon.log())

    def test_distrust_works_at_once_and_survives_a_restart(self):
        with harness.Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.body(0)), (200, "accepted"))
            self.assertEqual(daemon.post(self.body(1)), (200, "accepted"))
            done = daemon.command("keys", "--distrust", "kid-one", check=0)
            self.assertEqual(done.stdout, "kid-one is distrusted from now on\n")
            for _ in range(2):
                self.assertNotEqual(daemon.post(self.body(0))[0], 200)
                self.assertEqual(daemon.post(self.body(1)), (200, "accepted"))
                daemon.command("keys", "--refresh", check=0)  # it is still published
                self.assertEqual(self.states(daemon), {"kid-one": "distrusted", "kid-two": "current"})
                self.assertNotEqual(daemon.post(self.body(0))[0], 200)
                daemon.restart()
            self.assertEqual(len(daemon.rows()), 4)

    def test_the_file_is_not_changed_behind_a_running_daemon(self):
        with harness.Daemon(self.apple) as daemon:
            daemon.command("keys", "--refresh", check=0)  # its answer comes after the file
            before = (daemon.directory / "keys.json").read_bytes()
            elsewhere = daemon.settings.pop("control")
            done = daemon.command("keys", "--distrust", "kid-one", check=1)
            self.assertIn("a daemon has", done.stderr)
            self.assertEqual((daemon.directory / "keys.json").read_bytes(), before)
            daemon.settings["control"] = elsewhere

    def test_another_user_may_not(self):
        """The socket's mode keeps others out; who is let in to read may still change nothing."""
        if os.geteuid() != 0:
            self.skipTest("becoming another user needs root")
        with harness.Daemon(self.apple) as daemon:
            self.await_first_refresh(daemon)
            control = daemon.directory / "control.sock"
            self.assertEqual(stat.S_IMODE(control.stat().st_mode), 0o660)
            program = shutil.copy(harness.PROGRAM, daemon.directory / "program")
            os.chmod(daemon.directory, 0o755)
            os.chmod(daemon.config_file, 0o644)

            def as_nobody(*arguments):
                return subprocess.run([program, "keys", "--config", daemon.config_file, *arguments], user=65534,
                                      group=65534, extra_groups=[], capture_output=True, text=True, check=False,
                                      cwd="/", timeout=harness.PATIENCE_S)

            done = as_nobody("--distrust", "kid-one")
            self.assertEqual(done.returncode, 1)
            self.assertIn("may not be opened by this user: its group may", done.stderr)
            os.chmod(control, 0o666)
            for arguments in ("--distrust", "kid-one"), ("--refresh",):
                done = as_nobody(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertIn("Only root and the user of the daemon", done.stderr)
            self.assertEqual(self.states(daemon), {"kid-one": "current", "kid-two": "current"})

    def test_state_tells_about_the_process(self):
        with harness.Daemon(self.apple) as daemon:
            self.assertEqual(daemon.post(self.body(0)), (200, "accepted"))
            state = json.loads(daemon.control("GET", "/v1/state").body)
            self.assertEqual(state["pid"], daemon.pid)
            self.assertIn(f" {state['version']}", daemon_version())
            self.assertGreaterEqual(state["uptime_s"], 0)
            self.assertEqual((state["writer"]["rows"], state["writer"]["queued_events"]), (1, 0))

    def test_errors_are_problems(self):
        with harness.Daemon(self.apple) as daemon:
            for method, path, body, status, kind in (
                    ("GET", "/v1/none", None, 404, "not-found"),
                    ("GET", "/v1/keys/refresh", None, 405, "method-not-allowed"),
                    ("POST", "/v1/keys/distrust", "{}", 400, "bad-request")):
                reply = daemon.control(method, path, body)
                self.assertEqual((reply.status, reply.headers["Content-Type"]), (status, "application/problem+json"))
                problem = json.loads(reply.body)
                self.assertEqual((problem["status"], problem["type"]), (status, f"/problems/{kind}"))
                self.assertEqual(set(problem), {"type", "title", "status", "detail"})


class Version(unittest.TestCase):
    def test_names_every_library_as_it_runs(self):
        done = subprocess.run([harness.PROGRAM, "version", "--json"], capture_output=True, text=True, check=True)
        libraries = json.loads(done.stdout)["libraries"]
        self.assertEqual(list(libraries), ["libmicrohttpd", "sqlite", "libcurl", "openssl", "jansson", "libconfig"])
        self.assertEqual(libraries["sqlite"]["running"], sqlite3.sqlite_version)
        self.assertIn(f" {libraries['openssl']['running']} ", ssl.OPENSSL_VERSION)
        for name, versions in libraries.items():
            self.assertRegex(versions["running"], r"^[0-9]+\.[0-9.]+", name)
            self.assertIn(f"{name} {versions['running']}", daemon_version())


def daemon_version():
    return subprocess.run([harness.PROGRAM, "version"], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    unittest.main()
