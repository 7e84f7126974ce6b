"""The units, judged by systemd itself: without an offence, and with little that the services could still do."""

import configparser
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import harness

UNITS = harness.ROOT / "systemd"


class Units(unittest.TestCase):
    def setUp(self):
        harness.need("systemd-analyze")
        directory = tempfile.TemporaryDirectory(prefix="siwa-units-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.names = []
        for unit in sorted([*UNITS.glob("*.service"), *UNITS.glob("*.socket")]):
            # verify asks for the program itself; the tests' build stands in for the installed one
            text = unit.read_text().replace("=/usr/bin/siwa-notifyd", f"={harness.PROGRAM}")
            (self.directory / unit.name).write_text(text)
            self.names.append(unit.name)

    def analyze(self, *arguments):
        return subprocess.run(["systemd-analyze", *arguments], cwd=self.directory, capture_output=True, text=True,
                              check=False)

    def test_verify_has_nothing_to_say(self):
        # an instance stands for the template
        shutil.copy(self.directory / "siwa-notifyd-keys@.service", self.directory / "siwa-notifyd-keys@1.service")
        units = [f"./{name}" for name in self.names if "@." not in name] + ["./siwa-notifyd-keys@1.service"]
        done = self.analyze("verify", "--man=no", *units)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_verify_would_notice(self):
        unit = self.directory / "siwa-notifyd.service"
        unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=perhaps"))
        self.assertIn("protect system", self.analyze("verify", "--man=no", "./siwa-notifyd.service").stderr)

    def exposure(self, unit, threshold):
        """Whether the exposure is at most threshold, in tenths."""
        return self.analyze("security", "--offline=yes", "--no-pager", f"--threshold={threshold}", f"./{unit}").returncode == 0

    def test_the_receiver_is_exposed_by_at_most_half_a_point(self):
        self.assertTrue(self.exposure("siwa-notifyd.service", 5))
        unit = self.directory / "siwa-notifyd.service"
        unit.write_text(unit.read_text().replace("PrivateNetwork=yes\n", ""))
        self.assertFalse(self.exposure("siwa-notifyd.service", 5), "with a network it has to be more")

    def test_the_key_fetcher_is_exposed_by_at_most_one_and_a_half(self):
        self.assertTrue(self.exposure("siwa-notifyd-keys@.service", 15))

    def test_the_units_fit_together(self):
        def unit(name):
            parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
            parser.optionxform = str
            parser.read(UNITS / name)
            return parser

        service = unit("siwa-notifyd.service")
        self.assertEqual(service["Service"]["Type"], "notify")
        self.assertNotIn("RuntimeDirectory", service["Service"])  # stopping would delete the sockets
        self.assertNotIn("PrivateUsers", service["Service"])  # it would blind SO_PEERCRED
        for name in ("notify", "monitor", "control"):
            parser = unit(f"siwa-notifyd-{name}.socket")
            self.assertEqual(parser["Socket"]["FileDescriptorName"], name)
            self.assertEqual(parser["Socket"]["Service"], "siwa-notifyd.service")
            self.assertIn(f"siwa-notifyd-{name}.socket", service["Service"]["Sockets"].split())
        self.assertEqual(unit("siwa-notifyd-notify.socket")["Socket"]["SocketMode"], "0666")
        self.assertEqual(unit("siwa-notifyd-control.socket")["Socket"]["SocketMode"], "0660")
        self.assertEqual(unit("siwa-notifyd-keys.socket")["Socket"]["SocketMode"], "0600")
        self.assertEqual(unit("siwa-notifyd-keys.socket")["Socket"]["SocketUser"], service["Service"]["User"])
        self.assertEqual(unit("siwa-notifyd-keys@.service")["Unit"]["CollectMode"], "inactive-or-failed")
