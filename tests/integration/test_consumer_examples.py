"""doc/consumers: each example at work on one outbox, run again, given everything twice, and with rows missing."""

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import harness
from harness import Apple, Daemon, wait_until

EXAMPLES = harness.ROOT / "doc" / "consumers"
DAY_MS = 86400_000


def setUpModule():
    """One daemon for all: an example that reads changes nothing."""
    global apple, daemon, now_ms
    apple = Apple()
    now_ms = int(time.time()) * 1000
    daemon = unittest.enterModuleContext(Daemon(apple, settings={"consumers": [{"name": "accounts"}]}))
    for kind, who, hours in (("account-delete", "deleted", 2), ("consent-revoked", "revoked", 2), ("email-disabled", "mute", 2),
                             ("email-disabled", "loud", 3), ("email-enabled", "loud", 2), ("account-delete", "came back", 2),
                             ("consent-revoked", "agreed again", 2), ("email-disabled", "new address", 2),
                             ("something-new", "untouched", 2), ("account-delete", "never seen", 2)):
        post(kind, who, hours)


def post(kind, who, hours):
    """An event about a person, so many hours ago."""
    event = {"sub": who, "event_time": now_ms - int(hours * 3600_000)}
    status, _ = daemon.post(apple.body(apple.notification(kind, event=event)))
    if status != 200:
        raise AssertionError(f"the daemon answered {status}")


# Who signed in a day ago, and who an hour ago.
EARLY = ("deleted", "revoked", "mute", "loud", "untouched")
LATE = ("came back", "agreed again", "new address")

# (linked, mail) of those who are left.
WANTED = {"revoked": (0, 1), "mute": (1, 0), "loud": (1, 1), "untouched": (1, 1), "came back": (1, 1),
          "agreed again": (1, 1), "new address": (1, 1)}


class Example:
    """What every example must do; command() is how it is started."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="siwa-consumer-")))
        self.accounts = self.folder / "accounts.db"
        self.change((EXAMPLES / "accounts.sql").read_text())
        self.mine = f"of {self.id()}"  # somebody whom no other test knows
        for names, hours in (((*EARLY, self.mine), 24), (LATE, 1)):
            for name in names:
                self.change(f"INSERT INTO person (sub, signed_in_ms) VALUES ('{name}', {now_ms - hours * DAY_MS // 24})")

    def change(self, script):
        with contextlib.closing(sqlite3.connect(self.accounts)) as connection, connection:
            connection.executescript(script)

    def query(self, statement):
        with contextlib.closing(sqlite3.connect(self.accounts)) as connection:
            return connection.execute(statement).fetchall()

    def people(self):
        return {sub: (linked, mail) for sub, linked, mail in self.query("SELECT sub, linked, mail FROM person")}

    def cursor(self):
        return self.query("SELECT last FROM cursor")[0][0]

    def last_id(self):
        return daemon.query("SELECT last_id FROM outbox_state")[0]["last_id"]

    def run_once(self, outbox=None, code=0):
        done = subprocess.run([*self.command(outbox or daemon.database), self.accounts, "once"], capture_output=True,
                              text=True, timeout=harness.PATIENCE_S, check=False, cwd=self.folder)
        if code is None:
            self.assertNotEqual(done.returncode, 0, done.stdout)
        else:
            self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_does_what_apple_asks_once_and_again(self):
        self.run_once()
        self.assertEqual(self.people(), WANTED | {self.mine: (1, 1)})
        self.assertEqual(self.cursor(), self.last_id())
        self.run_once()  # restarted, with nothing to do
        self.assertEqual(self.cursor(), self.last_id())

        post("consent-revoked", self.mine, 0)
        self.run_once()  # restarted, with one to do
        self.assertEqual(self.people(), WANTED | {self.mine: (0, 1)})

        # Everything comes a second time, and two people have signed in meanwhile.
        self.change(f"UPDATE cursor SET last = 0; UPDATE person SET linked = 1, mail = 1, signed_in_ms = {now_ms + DAY_MS} "
                    "WHERE sub IN ('revoked', 'mute')")
        self.run_once()
        self.assertEqual(self.people(), WANTED | {self.mine: (0, 1), "revoked": (1, 1), "mute": (1, 1)})
        self.assertEqual(self.cursor(), self.last_id())

    def test_goes_on_by_itself(self):
        post("email-disabled", self.mine, 0)
        with subprocess.Popen([*self.command(daemon.database), self.accounts], cwd=self.folder, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                wait_until(lambda: self.people()[self.mine] == (1, 0), "the first event")
                post("email-enabled", self.mine, -0.01)
                wait_until(lambda: self.people()[self.mine] == (1, 1), "the next event")
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.stderr.read()  # ends when the last of those that it started is gone


class File(Example):
    """Those that read the file."""

    def test_rows_that_were_pruned_unread_are_an_error(self):
        outbox = self.folder / "outbox.db"
        with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as source, \
                contextlib.closing(sqlite3.connect(outbox)) as copy:
            source.backup(copy)
            copy.executescript("DELETE FROM events WHERE id <= 2; UPDATE state SET pruned_through = 2")
        self.change("UPDATE cursor SET last = 1")
        before = self.people()
        self.run_once(outbox, code=None)
        self.assertEqual((self.people(), self.cursor()), (before, 1))
        self.change("UPDATE cursor SET last = 2")
        self.run_once(outbox)
        self.assertIn("deleted", self.people())
        self.assertEqual(self.people()["mute"], (1, 0))


class Python(File, unittest.TestCase):
    def command(self, outbox):
        return [sys.executable, EXAMPLES / "consumer.py", outbox]


class Shell(File, unittest.TestCase):
    def command(self, outbox):
        harness.need("sqlite3")
        return ["/bin/sh", EXAMPLES / "consumer.sh", outbox]


class C(File, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="siwa-consumer-c-")))
        cls.program = folder / "consumer"
        subprocess.run([os.environ.get("CC", "cc"), "-std=c17", "-Wall", "-Wextra", "-Werror", "-o", cls.program,
                        EXAMPLES / "consumer.c", "-lsqlite3"], check=True)

    def command(self, outbox):
        return [self.program, outbox]


class Go(File, unittest.TestCase):
    """With the driver that Debian has. It is large, and so not among what `make check` installs: see `make check-examples`."""

    @classmethod
    def setUpClass(cls):
        harness.need("go")
        if not pathlib.Path("/usr/share/gocode/src/github.com/mattn/go-sqlite3").is_dir():
            raise unittest.SkipTest("golang-github-mattn-go-sqlite3-dev is not installed")
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="siwa-consumer-go-")))
        cls.program = folder / "consumer"
        subprocess.run(["go", "build", "-tags", "libsqlite3", "-o", cls.program, EXAMPLES / "consumer.go"], check=True, env={
            **os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(harness.ROOT / "build" / "go-cache")})

    def command(self, outbox):
        return [self.program, outbox]


class Node(File, unittest.TestCase):
    """better-sqlite3 is compiled when npm installs it: run where it is there, as `make check-examples` installs it."""

    @classmethod
    def setUpClass(cls):
        harness.need("node")
        cls.enterClassContext(unittest.mock.patch.dict(
            os.environ, {"NODE_PATH": f"{harness.ROOT / 'build' / 'node' / 'node_modules'}:{os.environ.get('NODE_PATH', '')}"}))
        found = subprocess.run(["node", "-e", "new (require('better-sqlite3'))(':memory:')"], capture_output=True, check=False)
        if found.returncode:
            raise unittest.SkipTest("better-sqlite3 is not installed: make check-examples")

    def command(self, outbox):
        return ["node", EXAMPLES / "consumer.js", outbox]


class ControlSocket(Example, unittest.TestCase):
    def setUp(self):
        super().setUp()
        daemon.command("seek", "--consumer", "accounts", "--to", 0, check=0)

    def command(self, _):
        return [sys.executable, EXAMPLES / "consumer_socket.py", daemon.settings["control"].removeprefix("unix:"), "accounts"]

    def test_acknowledges_what_it_did(self):
        self.run_once()
        self.assertEqual(daemon.query("SELECT position FROM consumers")[0]["position"], self.last_id())


class Readme(unittest.TestCase):
    def test_from_an_empty_folder_to_a_consumer_that_reacts(self):
        """The commands of README, as they stand there; only make has been run."""
        harness.need("bash", "sqlite3")
        block = (harness.ROOT / "README.md").read_text().partition("\nmake && mkdir try")[2].partition("\n```")[0]
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="siwa-readme-")))
        (folder / "build").symlink_to(harness.BUILD)
        (folder / "doc").symlink_to(harness.ROOT / "doc")
        # The time that a reader gives the daemon to start is here as long as it takes.
        self.assertEqual(block.count(" & sleep 2\n"), 1)
        until = ("sleep() { until build/siwa-notifyd keys --config try/conf | grep -q ' current ' && [ -S try/notify.sock ]; "
                 "do command sleep 0.1; done; }\n")
        done = subprocess.run(["bash", "-ec", until + "mkdir try" + block + "\nwait"], cwd=folder, capture_output=True, text=True,
                              timeout=harness.PATIENCE_S, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-2:], ["account-delete: 200 accepted", "0"], done.stderr)
        self.assertEqual(sorted(path.name for path in folder.iterdir()), ["build", "doc"])


if __name__ == "__main__":
    unittest.main()
