"""`make install` and `make uninstall`, into a DESTDIR of the test."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import harness


class Install(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="siwa-install-")
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def make(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        # What is installed is the build under test; -o keeps make from bringing it up to date first.
        done = subprocess.run(["make", "-s", "-o", "all", f"BUILD={harness.BUILD}", f"DESTDIR={self.root}", *arguments],
                              cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def files(self):
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}

    def test_uninstall_takes_away_what_install_put_and_nothing_else(self):
        stranger = self.root / "usr/local/lib/systemd/system/other.service"
        stranger.parent.mkdir(parents=True)
        stranger.write_text("")
        self.make("install")
        files = self.files()
        for path in ("usr/local/bin/siwa-notifyd", "etc/siwa-notifyd/siwa-notifyd.conf",
                     "usr/local/share/doc/siwa-notifyd/siwa-notifyd.conf",
                     "usr/local/share/doc/siwa-notifyd/nginx.conf", "usr/local/share/doc/siwa-notifyd/Caddyfile",
                     "usr/local/share/bash-completion/completions/siwa-notifyd",
                     "usr/local/lib/systemd/system/siwa-notifyd.service",
                     "usr/local/lib/systemd/system/siwa-notifyd-keys@.service",
                     "usr/local/lib/sysusers.d/siwa-notifyd.conf", "usr/local/lib/tmpfiles.d/siwa-notifyd.conf"):
            self.assertIn(path, files)
        for example in harness.ROOT.glob("doc/consumers/*"):
            self.assertIn(f"usr/local/share/doc/siwa-notifyd/consumers/{example.name}", files)
        for page in harness.ROOT.glob("doc/man/*.[1-8]"):
            self.assertIn(f"usr/local/share/man/man{page.suffix[1:]}/{page.name}", files)
        self.assertTrue(os.access(self.root / "usr/local/bin/siwa-notifyd", os.X_OK))
        for unit in self.root.glob("usr/local/lib/systemd/system/siwa-notifyd*.service"):
            self.assertIn("ExecStart=/usr/local/bin/siwa-notifyd ", unit.read_text())

        self.make("uninstall")
        self.assertEqual(self.files(), {str(stranger.relative_to(self.root))})
        self.assertFalse((self.root / "etc/siwa-notifyd").exists())
        self.assertFalse((self.root / "usr/local/share/doc/siwa-notifyd").exists())

    def test_prefix_is_honoured_and_the_configuration_stays_in_etc(self):
        self.make("install", "PREFIX=/usr")
        self.assertIn("usr/bin/siwa-notifyd", self.files())
        self.assertIn("usr/lib/systemd/system/siwa-notifyd.service", self.files())
        self.assertIn("etc/siwa-notifyd/siwa-notifyd.conf", self.files())
        self.make("uninstall", "PREFIX=/usr")
        self.assertEqual(self.files(), set())

    def test_a_configuration_of_the_operator_is_neither_replaced_nor_removed(self):
        mine = self.root / "etc/siwa-notifyd/siwa-notifyd.conf"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine\n")
        self.make("install")
        self.assertEqual(mine.read_text(), "mine\n")
        self.make("uninstall")
        self.assertEqual(self.files(), {"etc/siwa-notifyd/siwa-notifyd.conf"})
        self.assertEqual(mine.read_text(), "mine\n")
