"""Inside the machine that check-package boots: the life of the Debian package under a real systemd, from its installation to
its purge.

`live_package.py DIRECTORY`, where the directory holds old.deb and new.deb; leaves results as live_systemd.py does.
"""

import pathlib
import sys
import tempfile

import harness
import live_systemd
from live_systemd import CONFIG, NOTIFY, SERVICE, SOCKETS, STATE, Load, active, journal, rows, run, systemctl

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None


class LivePackage(live_systemd.LiveSystemd):
    """Runs in the order in which it is written here."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="siwa-live-")
        cls.server = live_systemd.KeyServer(cls.folder)
        cls.apple = harness.Apple("FIRSTKEY01")
        cls.server.live = cls.apple.key_set()

    def install(self, name):
        return run("dpkg", "--install", OUT / name, env={"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def test_1_it_is_installed_disabled_and_starts_nothing(self):
        self.install("old.deb")
        self.assertEqual({systemctl("is-enabled", unit, check=False) for unit in (SERVICE, *SOCKETS)}, {"disabled"})
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"inactive"})
        self.assertIn("siwa-notifyd", run("getent", "passwd", "siwa-notifyd").stdout)
        self.assertIn("siwa-notifyd-control", run("getent", "group", "siwa-notifyd-control").stdout)
        self.assertTrue(pathlib.Path("/run/siwa-notifyd").is_dir())
        self.assertIn("apps", run("/usr/bin/siwa-notifyd", "check-config", check=False).stderr)

    def test_2_it_serves_once_an_app_is_configured(self):
        self.configure()
        run("/usr/bin/siwa-notifyd", "check-config")
        systemctl("enable", "--now", "siwa-notifyd")
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"active"})
        self.serves()

    def test_3_an_upgrade_under_load_refuses_nothing_and_keeps_the_configuration(self):
        self.serves()
        before, mine, pid = len(rows()), CONFIG.read_text(), live_systemd.show("MainPID")
        sockets = [live_systemd.show("ActiveEnterTimestampMonotonic", unit) for unit in SOCKETS]
        with Load(self.apple) as load:
            load.more()
            self.install("new.deb")
            load.more()
        self.assertEqual((load.refused, load.cut, load.other), ([], [], []))
        self.assertNotEqual(live_systemd.show("MainPID"), pid, "the new version does not run")
        self.assertIn("9.0", run("dpkg-query", "-W", "-f", "${Version}", "siwa-notifyd").stdout)
        self.assertEqual([live_systemd.show("ActiveEnterTimestampMonotonic", unit) for unit in SOCKETS], sockets)
        self.assertEqual(CONFIG.read_text(), mine)
        self.assertEqual(sorted(rows()[before:]), sorted(load.acknowledged))
        print(f"upgrade: {len(load.acknowledged)} acknowledged, 0 refused, 0 failed", flush=True)

    def test_4_a_service_that_is_stopped_stays_so_over_an_upgrade(self):
        systemctl("stop", SERVICE, *SOCKETS)
        self.install("new.deb")
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"inactive"})
        self.assertEqual(systemctl("is-enabled", SERVICE), "enabled")
        systemctl("start", SERVICE)
        self.serves()

    def test_5_removing_it_stops_it_and_keeps_the_data(self):
        count = len(rows())
        run("dpkg", "--remove", "siwa-notifyd")
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"inactive"})
        self.assertFalse(pathlib.Path("/usr/bin/siwa-notifyd").exists())
        self.assertEqual(len(rows()), count)
        self.assertTrue(CONFIG.exists())

    def test_6_installed_again_it_goes_on(self):
        count = len(rows())
        self.install("new.deb")
        systemctl("enable", "--now", "siwa-notifyd")
        self.serves()
        self.assertEqual(len(rows()), count + 1)

    def test_7_purging_it_leaves_nothing_personal(self):
        run("dpkg", "--purge", "siwa-notifyd")
        self.assertFalse(STATE.exists())
        self.assertFalse(CONFIG.exists())
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"inactive"})
        left = [line for line in run("systemctl", "list-unit-files", "--no-legend", check=False).stdout.splitlines()
                if "siwa-notifyd" in line]
        self.assertEqual(left, [])
        self.assertEqual(list(pathlib.Path("/etc/systemd").rglob("siwa-notifyd*")), [])


def tests():
    """The names in their order."""
    return [name for name in vars(LivePackage) if name.startswith("test_")]


if __name__ == "__main__":
    live_systemd.main(LivePackage, tests())
