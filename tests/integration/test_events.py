"""`siwa-notifyd events`: the outbox at a terminal or in a pipe, while the daemon writes it."""

import contextlib
import json
import os
import signal
import subprocess
import time
import unittest

import harness
from harness import Apple, Daemon, TYPES


class Events(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        cls.daemon = cls.enterClassContext(Daemon(cls.apple))
        for kind in TYPES:
            cls.post(kind)
        cls.rows = cls.daemon.rows()

    @classmethod
    def post(cls, kind="consent-revoked", **changes):
        status, _ = cls.daemon.post(cls.apple.body(cls.apple.notification(kind, **changes)))
        if status != 200:
            raise AssertionError(f"the daemon answered {status}")

    def objects(self, *options):
        done = self.daemon.command("events", "--json", *options, check=0)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def expected(self, rows):
        return [{**row, "is_private_email": None if row["is_private_email"] is None else bool(row["is_private_email"])}
                for row in rows]

    @contextlib.contextmanager
    def following(self, *options, **how):
        """A running `events --follow --json`."""
        command = [harness.PROGRAM, "events", "--config", self.daemon.config_file, "--follow", "--json", *map(str, options)]
        process = subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how})
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()

    def test_json_has_the_columns_of_the_view(self):
        found = self.objects("--limit", len(self.rows))
        self.assertEqual(found, self.expected(self.rows))
        self.assertEqual([list(row) for row in found], [list(row) for row in self.rows])

    def test_after_and_limit(self):
        ids = [row["id"] for row in self.rows]
        self.assertEqual([row["id"] for row in self.objects("--after", ids[1], "--limit", 2)], ids[2:4])
        self.assertEqual([row["id"] for row in self.objects("--limit", 1)], ids[:1])
        self.assertEqual(self.objects("--after", 2**63 - 1), [])

    def test_the_table_is_for_people(self):
        self.post("\x1b[31mred\nnext", event={"sub": "s\x07"})
        last = self.daemon.rows()[-1]
        self.assertEqual(last["raw_type"], "\x1b[31mred\nnext")
        done = self.daemon.command("events", check=0)
        head, *lines = done.stdout.splitlines()
        self.assertEqual(head.split(), ["ID", "EVENT", "TIME", "TYPE", "APP", "SUB", "EMAIL"])
        for row, line in zip(self.rows, lines):
            self.assertEqual(int(line.split()[0]), row["id"])
            for shown in ("type", "app", "sub"):
                self.assertIn(row[shown], line)
            self.assertIn(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["event_time_ms"] // 1000)), line)
        self.assertEqual(len(lines), len(self.daemon.rows()))  # a line break in a type makes no line
        self.assertTrue(done.stdout.replace("\n", "").isprintable(), "foreign text reaches the terminal as it came")

    def test_follow_shows_what_is_there_and_what_comes(self):
        after = self.rows[-2]["id"]
        with self.following("--after", after) as process:
            self.assertEqual(json.loads(process.stdout.readline())["id"], self.rows[-1]["id"])
            known = len(self.daemon.rows(self.rows[-1]["id"]))
            for _ in range(known):
                process.stdout.readline()
            for kind in TYPES:
                self.post(kind)
                line = json.loads(process.stdout.readline())
                self.assertEqual(line["type"], kind)
                self.assertEqual(line["id"], self.daemon.rows()[-1]["id"])

    def test_follow_with_a_limit_ends(self):
        with self.following("--after", self.rows[0]["id"], "--limit", 2) as process:
            self.assertEqual(len(process.stdout.readlines()), 2)
            self.assertEqual(process.wait(harness.PATIENCE_S), 0)

    def test_follow_ends_cleanly_when_told(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.following() as process:
                process.stdout.readline()
                process.send_signal(number)
                self.assertEqual(harness.end_of(process, number), 0)
                self.assertNotIn("cannot", process.stderr.read())

    def test_follow_ends_when_nobody_reads(self):
        """Also where there is nothing to write any more."""
        with self.following("--after", 2**63 - 1) as process:
            process.stdout.close()
            process.stdout = None
            self.assertEqual(process.wait(harness.PATIENCE_S), 0)

    def test_a_reader_that_has_had_enough_is_no_failure(self):
        read, write = os.pipe()
        os.close(read)
        with open(write, "wb") as closed:
            done = subprocess.run([harness.PROGRAM, "events", "--json", "--config", self.daemon.config_file], stdout=closed,
                                  stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("standard output", done.stderr)

    def test_an_output_that_cannot_be_written_is_a_failure(self):
        command = [harness.PROGRAM, "events", "--config", self.daemon.config_file]
        for option in ([], ["--json"], ["--raw"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([*command, *option], stdout=full, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"cannot write standard output: No space left on device\n", done.stderr)
            self.assertNotIn(b"outbox", done.stderr)  # which is not to blame
            done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command, *option], stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 1)

    def test_it_never_writes_to_the_database(self):
        """Neither the file nor its folder may change; a reader without the right to write must be able to run it."""
        prefix = ["strace", "-f", "-e", "trace=openat,open,creat,unlink,rename", "-o", self.daemon.directory / "trace"]
        harness.need("strace")
        if harness.sanitised():
            self.skipTest("a sanitised program cannot be traced")
        subprocess.run([*prefix, harness.PROGRAM, "events", "--config", self.daemon.config_file], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)
        calls = (self.daemon.directory / "trace").read_text().splitlines()
        opened = [call for call in calls if "outbox.db\"" in call]
        self.assertTrue(opened)
        for call in opened:
            self.assertIn("O_RDONLY", call)

    def test_wrong_usage(self):
        done = subprocess.run([harness.PROGRAM, "events", "--help"], capture_output=True, text=True, check=True)
        self.assertIn("--follow", done.stdout)
        for wrong in (["--after", "-1"], ["--after", "x"], ["--limit", "0"], ["operand"], ["--sub", "someone"]):
            done = self.daemon.command("events", *wrong, check=2)
            self.assertEqual(done.stdout, "")


class WithoutOutbox(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(Apple())
        self.addCleanup(self.daemon.release)

    def test_no_database(self):
        for options in ([], ["--follow"], ["--json"]):
            done = self.daemon.command("events", *options, check=1)
            self.assertEqual(done.stdout, "")
            self.assertIn("outbox.db", done.stderr)
        self.assertFalse(self.daemon.database.exists())

    def test_a_foreign_file(self):
        self.daemon.database.write_bytes(b"this is no database of anybody" * 100)
        before = self.daemon.database.read_bytes()
        done = self.daemon.command("events", check=1)
        self.assertEqual(done.stdout, "")
        self.assertIn("outbox.db", done.stderr)
        self.assertEqual(self.daemon.database.read_bytes(), before)

    def test_a_configuration_that_cannot_be_read(self):
        done = subprocess.run([harness.PROGRAM, "events", "--config", self.daemon.directory / "none.conf"], capture_output=True,
                              text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("none.conf", done.stderr)


class AfterTheDaemon(unittest.TestCase):
    def test_the_outbox_of_a_stopped_daemon(self):
        apple = Apple()
        with Daemon(apple) as daemon:
            for _ in range(3):
                daemon.post(apple.body(apple.notification()))
            for end in (daemon.stop, daemon.start, daemon.kill9):
                end()
                found = daemon.command("events", "--json", check=0).stdout.splitlines()
                self.assertEqual(len(found), 3)

    def test_follow_ends_where_the_database_was_replaced(self):
        """As by a restore: what it holds open is no outbox any more, and would stay silent for ever."""
        apple = Apple()
        with Daemon(apple) as daemon:
            daemon.post(apple.body(apple.notification()))
            command = [harness.PROGRAM, "events", "--config", daemon.config_file, "--follow", "--json"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                self.addCleanup(process.kill)
                process.stdout.readline()
                copy = daemon.directory / "copy.db"
                daemon.command("backup", copy, check=0)
                daemon.stop()
                for name in daemon.directory.glob("outbox.db*"):
                    name.unlink()
                copy.rename(daemon.database)
                daemon.start()
                self.assertEqual(process.wait(harness.PATIENCE_S), 1)
                self.assertIn("moved or replaced", process.stderr.read())

    def test_follow_survives_a_restart(self):
        apple = Apple()
        with Daemon(apple) as daemon:
            daemon.post(apple.body(apple.notification()))
            command = [harness.PROGRAM, "events", "--config", daemon.config_file, "--follow", "--json"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                first = json.loads(process.stdout.readline())
                daemon.restart()
                daemon.post(apple.body(apple.notification()))
                second = json.loads(process.stdout.readline())
                self.assertGreater(second["id"], first["id"])
                process.terminate()
                self.assertEqual(harness.end_of(process, signal.SIGTERM), 0)


if __name__ == "__main__":
    unittest.main()
