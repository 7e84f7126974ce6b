"""The file as its readers see it: another user of the group reads while the daemon writes, after a stop, after a kill."""

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
import unittest

import harness
from harness import Apple, Daemon

GROUP = "games"  # of the daemon here; nobody is in it unless told so
POLL = "SELECT id, type, sub FROM outbox WHERE id > ? ORDER BY id LIMIT 500"


class OtherUser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if os.getuid() != 0:
            raise unittest.SkipTest("only root can be another user")
        harness.need("setpriv", "sqlite3")
        cls.apple = Apple()

    def setUp(self):
        self.daemon = Daemon(self.apple, prefix=["setpriv", "--regid", GROUP, "--clear-groups"])
        self.addCleanup(self.daemon.release)
        self.addCleanup(self.daemon.kill9)
        os.chmod(self.daemon.directory, 0o711)
        self.daemon.start()

    def post(self):
        status, _ = self.daemon.post(self.apple.body(self.apple.notification()))
        self.assertEqual(status, 200)

    def read(self, statement="SELECT count(*) FROM outbox", groups=(GROUP,)):
        user = pwd.getpwnam("nobody")
        return subprocess.run(["sqlite3", f"file:{self.daemon.database}?mode=ro", statement], user=user.pw_uid,
                              group=user.pw_gid, extra_groups=[grp.getgrnam(name).gr_gid for name in groups],
                              capture_output=True, text=True, check=False, cwd="/")

    def count(self):
        done = self.read()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return int(done.stdout)

    def test_who_is_in_the_group_reads_at_any_time(self):
        self.assertEqual(self.count(), 0)
        for number in range(1, 6):
            self.post()
            self.assertEqual(self.count(), number)
        for beside in ("", "-wal", "-shm"):
            status = os.stat(f"{self.daemon.database}{beside}")
            self.assertEqual((status.st_mode & 0o777, grp.getgrgid(status.st_gid).gr_name), (0o640, GROUP), beside)
        self.daemon.stop()
        self.assertEqual(self.count(), 5)  # after a clean stop
        self.daemon.start()
        self.post()
        self.daemon.kill9()
        self.assertEqual(self.count(), 6)  # with a WAL that nobody moved into the file
        self.daemon.start()
        self.post()
        self.assertEqual(self.count(), 7)

    def test_a_reader_cannot_write(self):
        self.post()
        for statement in ("DELETE FROM events", "UPDATE state SET last_id = 0", "DROP VIEW outbox", "PRAGMA user_version = 9"):
            self.assertIn("readonly", self.read(statement).stderr)
        self.assertEqual(self.count(), 1)

    def test_who_is_not_in_it_reads_nothing(self):
        self.post()
        done = self.read(groups=())
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, "")
        self.assertIn("unable to open database file", done.stderr)

    def test_a_command_says_who_may_read(self):
        """And not that a database that is in order be restored from a backup."""
        elsewhere = self.enterContext(tempfile.TemporaryDirectory(prefix="siwa-"))
        os.chmod(elsewhere, 0o755)
        program = shutil.copy(harness.PROGRAM, elsewhere)
        config = shutil.copy(self.daemon.config_file, elsewhere)
        os.chmod(config, 0o644)
        user = pwd.getpwnam("nobody")
        for mode in (0o711, 0o700):  # of the folder: what is refused first is the file, then that
            os.chmod(self.daemon.directory, mode)
            for subcommand in ("consumers", "events", "audit"):
                done = subprocess.run([program, subcommand, "--config", config], user=user.pw_uid, group=user.pw_gid,
                                      extra_groups=[], capture_output=True, text=True, check=False, cwd="/")
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn("Permission denied", done.stderr)
                self.assertIn("the members of its group", done.stderr)

    def test_the_poll_is_a_search_by_rowid(self):
        """Neither a scan nor a sort, however many rows lie before the cursor."""
        plan = self.daemon.query(f"EXPLAIN QUERY PLAN {POLL}", 0)
        self.assertEqual([step["detail"] for step in plan], ["SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"])


if __name__ == "__main__":
    unittest.main()
