"""The `keys` command, with and without a running daemon, and the control socket behind it."""

import fcntl
import json
import os
import stat
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
        self.daemon.command("keys", "--distrust", "a", check=0)
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


if __name__ == "__main__":
    unittest.main()
