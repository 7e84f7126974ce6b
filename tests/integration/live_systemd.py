"""Inside the machine that test_live_systemd boots: the installed units under a real systemd, as the README has them.

Not found by the runner: it is a program of that machine, which is thrown away afterwards. `live_systemd.py DIRECTORY` leaves
`results.json` there, {name: {"verdict": "ok", "failed" or "skipped", "text": …, "seconds": …}}.
"""

import contextlib
import grp
import http.client
import json
import os
import pathlib
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

import harness
from harness import Apple, wait_until

sys.path.insert(0, str(harness.ROOT / "tests" / "tools"))
from key_server import KeyServer  # noqa: E402  (it is a tool of its own, not a module of this folder)

RESTARTS = int(os.environ.get("SIWA_RESTARTS", "6"))
KILLS = int(os.environ.get("SIWA_KILLS", "4"))

SERVICE = "siwa-notifyd.service"
SOCKETS = tuple(f"siwa-notifyd-{name}.socket" for name in ("notify", "monitor", "control", "keys"))
NOTIFY = "unix:/run/siwa-notifyd/notify.sock"
MONITOR = "127.0.0.1:9180"
CONTROL = "unix:/run/siwa-notifyd/control.sock"
CONFIG = pathlib.Path("/etc/siwa-notifyd/siwa-notifyd.conf")
STATE = pathlib.Path("/var/lib/siwa-notifyd")
PROGRAM = "/usr/local/bin/siwa-notifyd"
UNITS = pathlib.Path("/usr/local/lib/systemd/system")
PYTHON = "/usr/bin/python3"  # the machine's: another one may lie where ProtectHome hides it

# What a process finds it can do, as JSON. Runs in the sandbox of a unit.
PROBE = """
import ctypes, errno, json, mmap, os, resource, socket, sys

libc = ctypes.CDLL(None, use_errno=True)

def attempt(function):
    try:
        function()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]

def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)

def write(folder):
    with open(os.path.join(folder, "probe"), "w"):
        pass
    os.unlink(os.path.join(folder, "probe"))

def set_uid_bit():
    with open("/tmp/program", "w"):
        pass
    os.chmod("/tmp/program", 0o4755)

status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found = {
    "write": {folder: attempt(lambda: write(folder)) for folder in sys.argv[1].split(",")},
    "read": {path: attempt(lambda: open(path, "rb").close()) for path in sys.argv[2].split(",")},
    "socket": {name: attempt(lambda: socket.socket(getattr(socket, name), socket.SOCK_DGRAM if name != "AF_NETLINK" else
                                                   socket.SOCK_RAW).close())
               for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET")},
    "net": os.readlink("/proc/self/ns/net"),
    "namespaces": attempt(lambda: call("unshare", 0x10000000)),
    "mount": attempt(lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)),
    "code": attempt(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "set_uid": attempt(set_uid_bit),
    "strangers": [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "capabilities": [status[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
}
print("PROBE " + json.dumps(found), flush=True)
"""


def run(*arguments, check=True, **how):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=120,
                          stdin=subprocess.DEVNULL, **how)
    if check and done.returncode:
        raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def systemctl(*arguments, check=True):
    return run("systemctl", *arguments, check=check).stdout.strip()


def show(name, unit=SERVICE):
    return systemctl("show", "--value", "-p", name, unit)


def active(unit=SERVICE):
    return systemctl("is-active", unit, check=False)


def journal(*arguments):
    run("journalctl", "--sync")
    return run("journalctl", "--no-pager", "-o", "cat", *arguments).stdout


def rows():
    with contextlib.closing(sqlite3.connect(f"file:{STATE}/outbox.db?mode=ro", uri=True)) as connection:
        return [jti for jti, in connection.execute("SELECT jti FROM outbox ORDER BY id")]


def as_user(name, *arguments):
    user = pwd.getpwnam(name)
    return run(*arguments, check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=os.getgrouplist(name, user.pw_gid))


class Load:
    """Senders that go on until they are stopped: each notification on a connection of its own, repeated until it is
    answered 200."""

    def __init__(self, apple, senders=4):
        self.apple = apple
        self.over = threading.Event()
        self.acknowledged = []
        self.refused = []  # connections that could not be made
        self.cut = []  # connections that ended without an answer
        self.other = []  # answers but 200
        self.threads = [threading.Thread(target=self.send_all) for _ in range(senders)]

    def send_all(self):
        while not self.over.is_set():
            jti = harness.secrets.token_hex(16)
            body = self.apple.body(self.apple.notification(jti=jti))
            wait_until(lambda: self.send_once(body), "an answer of 200")
            self.acknowledged.append(jti)

    def send_once(self, body):
        try:
            reply = harness.request(NOTIFY, "POST", harness.PATH, body, {"Content-Type": "application/json"})
        except (ConnectionRefusedError, FileNotFoundError, PermissionError, BlockingIOError) as error:
            self.refused.append(repr(error))
            return False
        except (OSError, http.client.HTTPException) as error:
            self.cut.append(repr(error))
            return False
        if reply.status != 200:
            self.other.append((reply.status, reply.body))
        return reply.status == 200

    def more(self, count=20):
        """Waits until that many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, "the answers to go on")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


class LiveSystemd(unittest.TestCase):
    """Runs in the order in which it is written here."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="siwa-live-")
        cls.server = KeyServer(cls.folder)
        cls.apple = Apple("FIRSTKEY01", "SECONDKEY1")
        cls.server.live = cls.apple.key_set(cls.apple.keys[:1])
        cls.configure()
        for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"], ["systemctl", "daemon-reload"]):
            run(*command)
        run("useradd", "--system", "--no-create-home", "--groups", "siwa-notifyd", "reader")
        run("useradd", "--system", "--no-create-home", "--groups", "siwa-notifyd-control", "controller")
        run("useradd", "--system", "--no-create-home", "stranger")

    @classmethod
    def configure(cls):
        """The configuration as it was installed, with one app, and Apple's address replaced by our server's."""
        text = (harness.ROOT / "conf/siwa-notifyd.conf").read_text()
        authority = CONFIG.parent / "authority.pem"
        shutil.copy(cls.server.ca_file, authority)
        for old, new in (
                ('//  { client_id = "com.example.app"; app = "Example"; team = "ABCDE12345"; },',
                 '{ client_id = "com.example.app"; app = "Example"; team = "ABCDE12345"; }'),
                ('// key_url = "https://appleid.apple.com/auth/keys";', f'key_url = "{cls.server.url("/live")}";'),
                ('// ca_file = "";', f'ca_file = "{authority}";')):
            if text.count(old) != 1:
                raise AssertionError(f"the configuration does not have {old!r} once")
            text = text.replace(old, new)
        CONFIG.write_text(text)

    def body(self, **changes):
        return self.apple.body(self.apple.notification(**changes))

    def post(self, body):
        reply = harness.request(NOTIFY, "POST", harness.PATH, body, {"Content-Type": "application/json"})
        return reply.status, reply.body.strip()

    def serves(self):
        return wait_until(lambda: self.post(self.body())[0] == 200, "a notification is accepted")

    def test_the_configuration_as_shipped_says_what_is_missing(self):
        shipped = harness.ROOT / "conf/siwa-notifyd.conf"
        done = run(PROGRAM, "check-config", "--config", shipped, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("apps", done.stderr)
        run(PROGRAM, "check-config")

    def test_the_first_connection_starts_the_service(self):
        systemctl("start", *SOCKETS)
        self.assertEqual(active(), "inactive")
        self.assertIn(self.post(self.body())[0], (200, 503))  # 503: the keys may still be on their way
        self.assertEqual(active(), "active")
        self.serves()

    def test_enable_now_as_the_readme_says(self):
        systemctl("stop", SERVICE, *SOCKETS)
        self.assertEqual([unit for unit in (SERVICE, *SOCKETS) if active(unit) == "active"], [])
        systemctl("enable", "--now", "siwa-notifyd")
        self.assertEqual({systemctl("is-enabled", unit) for unit in (SERVICE, *SOCKETS)}, {"enabled"})
        self.assertEqual({active(unit) for unit in (SERVICE, *SOCKETS)}, {"active"})
        self.serves()

    def test_owners_and_modes(self):
        def of(path):
            status = os.stat(path)
            return (pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name, stat.S_IMODE(status.st_mode))

        self.assertEqual(of("/run/siwa-notifyd"), ("root", "root", 0o755))
        self.assertEqual(of("/run/siwa-notifyd/notify.sock")[2], 0o666)
        self.assertEqual(of("/run/siwa-notifyd/control.sock"), ("root", "siwa-notifyd-control", 0o660))
        self.assertEqual(of("/run/siwa-notifyd/keys.sock"), ("siwa-notifyd", "siwa-notifyd", 0o600))
        self.assertEqual(of(STATE), ("siwa-notifyd", "siwa-notifyd", 0o750))
        for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
            self.assertEqual(of(STATE / name), ("siwa-notifyd", "siwa-notifyd", 0o640), name)
        for name in ("outbox.key", "keys.json"):
            self.assertEqual(of(STATE / name), ("siwa-notifyd", "siwa-notifyd", 0o600), name)

    def test_keys_come_through_the_fetch_unit(self):
        self.assertIn('msg="key set fetched" keys=1', journal("-u", "siwa-notifyd-keys@*"))
        self.assertIn('msg="key set refreshed" keys=1', journal("-u", SERVICE))
        before = len(journal("-u", "siwa-notifyd-keys@*").splitlines())
        self.server.live = self.apple.key_set(self.apple.keys[1:])
        # all keys changed, unannounced: the first that carries the new one is held for the fetch, and accepted
        wait_until(lambda: self.post(self.body(key=self.apple.keys[1]))[0] == 200, "the new key")
        self.assertGreater(len(journal("-u", "siwa-notifyd-keys@*").splitlines()), before)
        self.assertEqual(self.post(self.body())[0], 200)  # signed before the change

    def test_a_fetch_that_fails_is_told_and_leaves_no_failed_unit(self):
        self.server.live_path = "/redirect"
        done = run(PROGRAM, "keys", "--refresh", check=False)
        self.server.live_path = None
        self.assertEqual(done.returncode, 1)
        self.assertIn("redirects are never followed", done.stderr)
        wait_until(lambda: not systemctl("list-units", "--all", "--plain", "--no-legend", "siwa-notifyd-keys@*"),
                   "the fetch unit to be gone")
        run(PROGRAM, "keys", "--refresh")
        self.serves()

    def test_the_manager_is_told(self):
        self.assertEqual(show("StatusText"), "serving")
        fed = show("WatchdogTimestampMonotonic")
        wait_until(lambda: show("WatchdogTimestampMonotonic") != fed, "the watchdog to be fed again")
        self.assertEqual(show("NRestarts"), "0")

    def doctor(self, check):
        """(state, cause) of its finding."""
        report = json.loads(run(PROGRAM, "doctor", "--json", check=False).stdout)
        finding, = [finding for finding in report["checks"] if finding["check"] == check]
        return finding["state"], finding["cause"]

    def test_the_doctor_sees_the_unit(self):
        self.assertEqual(self.doctor("unit.state"), ("ok", "siwa-notifyd.service runs"))
        os.kill(int(show("MainPID")), signal.SIGKILL)
        wait_until(lambda: show("NRestarts") == "1", "the restart")
        self.serves()
        self.assertEqual(self.doctor("unit.state"), ("warn", "siwa-notifyd.service runs, but was restarted 1 times"))
        systemctl("stop", SERVICE, *SOCKETS)
        self.assertEqual(self.doctor("unit.state"), ("fail", "siwa-notifyd.service is not running"))
        self.assertEqual(self.doctor("daemon.ready")[0], "fail")
        systemctl("start", *SOCKETS, SERVICE)
        self.serves()
        self.assertEqual(self.doctor("unit.state")[0], "ok")

    def test_the_doctor_sees_a_weaker_sandbox(self):
        self.assertEqual(self.doctor("unit.sandbox")[0], "ok")
        weaker = pathlib.Path("/run/systemd/system", f"{SERVICE}.d/weaker.conf")
        weaker.parent.mkdir(parents=True)
        for setting in ("PrivateNetwork=no", "ProtectSystem=full"):
            with self.subTest(setting):
                weaker.write_text(f"[Service]\n{setting}\n")
                systemctl("daemon-reload")
                self.assertEqual(self.doctor("unit.sandbox"), ("warn", "the unit's sandbox is wider than the one that is shipped"))
        shutil.rmtree(weaker.parent)
        systemctl("daemon-reload")
        self.assertEqual(self.doctor("unit.sandbox")[0], "ok")

    def test_health_and_metrics_come_through_the_monitor_socket(self):
        """IPAddressDeny=any does not cut off a socket that was handed over."""
        self.assertEqual(set(show("IPAddressDeny").split()), {"::/0", "0.0.0.0/0"})
        self.assertEqual(harness.request(MONITOR, "GET", "/readyz").status, 200)
        metrics = harness.Metrics(harness.request(MONITOR, "GET", "/metrics").body)
        self.assertGreater(metrics.total("siwa_notifications_total", outcome="accepted"), 0)
        # Whether this machine enforces the setting at all, shown by a connection that it has to stop.
        code = 'import socket; socket.create_connection(("127.0.0.1", 9180), 2)'
        run("systemd-run", "--quiet", "--wait", "--collect", PYTHON, "-c", code)
        if run("systemd-run", "--quiet", "--wait", "--collect", "-p", "IPAddressDeny=any", PYTHON, "-c", code,
               check=False).returncode == 0:
            self.skipTest("/readyz answers, but this kernel does not enforce IPAddressDeny=")

    def test_who_may_read(self):
        for state in ("running", "stopped"):
            with self.subTest(state):
                if state == "stopped":
                    systemctl("stop", SERVICE)
                done = as_user("reader", PROGRAM, "events", "--json", "--limit", "3")
                self.assertEqual((done.returncode, len(done.stdout.splitlines())), (0, 3), done.stderr)
                done = as_user("stranger", PROGRAM, "events", "--json")
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "")
                for name in ("reader", "stranger"):  # who could test a guess, or choose the keys
                    for secret in ("outbox.key", "keys.json"):
                        self.assertNotEqual(as_user(name, "cat", STATE / secret).returncode, 0)
                    self.assertNotEqual(as_user(name, "touch", STATE / "mine").returncode, 0)
        self.serves()

    def test_who_may_use_the_control_socket(self):
        self.serves()
        look = f"import sys; sys.path.insert(0, {str(harness.ROOT / 'tests/integration')!r}); import harness; " \
               f"print(harness.request({CONTROL!r}, 'GET', '/v1/state').status)"
        self.assertEqual(as_user("controller", PYTHON, "-c", look).stdout.strip(), "200")
        for name in ("reader", "stranger"):
            self.assertIn("PermissionError", as_user(name, PYTHON, "-c", look).stderr)
        # to look is not to change
        done = as_user("controller", PROGRAM, "keys", "--refresh")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Only root and the user of the daemon", done.stderr)

    def test_a_stop_leaves_the_sockets_to_the_next_caller(self):
        systemctl("stop", SERVICE)
        self.assertEqual(active(), "inactive")
        for name in ("notify", "control", "keys"):
            self.assertTrue(stat.S_ISSOCK(os.stat(f"/run/siwa-notifyd/{name}.sock").st_mode), name)
        self.assertEqual(self.post(self.body())[0], 200)
        self.assertEqual(active(), "active")

    def test_a_reload_takes_a_new_app_and_refuses_a_bad_file(self):
        good = CONFIG.read_text()
        body = self.body(aud="com.example.new")
        pid = show("MainPID")
        self.assertEqual(self.post(body)[0], 503)
        try:
            with Load(self.apple) as load:
                CONFIG.write_text(good.replace('{ client_id = "com.example.app";',
                                               '{ client_id = "com.example.new"; app = "New"; team = "ABCDE12345"; },\n'
                                               '{ client_id = "com.example.app";', 1))
                systemctl("reload", SERVICE)
                wait_until(lambda: self.post(body)[0] == 200, "the new app")
                CONFIG.write_text("nonsense")
                systemctl("reload", SERVICE)
                wait_until(lambda: "the one in force stays" in journal("-u", SERVICE), "the refusal")
                load.more()
        finally:
            CONFIG.write_text(good)
        self.assertEqual((load.refused, load.cut, load.other), ([], [], []))
        self.assertEqual((show("MainPID"), active()), (pid, "active"))
        systemctl("reload", SERVICE)

    def check_rows(self, load, before):
        """Every acknowledged notification is a row, once, and no other is one."""
        new = rows()[before:]
        self.assertEqual(len(new), len(set(new)))
        self.assertEqual(set(new), set(load.acknowledged))

    def test_restarts_under_load_refuse_and_fail_nobody(self):
        self.serves()
        before = len(rows())
        with Load(self.apple) as load:
            for _ in range(RESTARTS):
                load.more()
                pid = show("MainPID")
                systemctl("restart", SERVICE)
                self.assertNotEqual(show("MainPID"), pid)
            load.more()
        self.assertEqual((load.refused, load.cut, load.other), ([], [], []))
        self.check_rows(load, before)
        print(f"{RESTARTS} restarts: {len(load.acknowledged)} acknowledged, 0 refused, 0 failed", flush=True)

    def test_kills_under_load_lose_nothing_that_was_acknowledged(self):
        self.serves()
        before = len(rows())
        with Load(self.apple) as load:
            for _ in range(KILLS):
                load.more()
                pid = show("MainPID")
                systemctl("kill", "--kill-who=main", "--signal=KILL", SERVICE)
                wait_until(lambda: active() == "active" and show("MainPID") not in (pid, "0"), "a new process")
            load.more()
        self.assertEqual((load.refused, load.other), ([], []))  # only what was under way is cut off
        self.assertLessEqual(len(load.cut), KILLS * len(load.threads))
        self.check_rows(load, before)
        print(f"{KILLS} kills: {len(load.acknowledged)} acknowledged, 0 refused, {len(load.cut)} cut off and repeated", flush=True)

    def test_a_process_that_hangs_is_replaced(self):
        drop_in = pathlib.Path("/run/systemd/system/siwa-notifyd.service.d/watchdog.conf")
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Service]\nWatchdogSec=4\n")
        try:
            systemctl("daemon-reload")
            systemctl("restart", SERVICE)
            pid = int(show("MainPID"))
            os.kill(pid, signal.SIGSTOP)
            load, body = Load(self.apple, 0), self.body()
            wait_until(lambda: load.send_once(body), "an answer")  # of the next one, to what waits in the backlog
            self.assertEqual((load.refused, load.other), ([], []))
            self.assertNotEqual(int(show("MainPID")), pid)
            self.assertIn("Watchdog timeout", journal("-u", SERVICE))
        finally:
            shutil.rmtree(drop_in.parent)
            systemctl("daemon-reload")
            systemctl("restart", SERVICE)

    # the sandbox

    def probe(self, unit, writes, reads):
        """What a process can do under the settings of an installed unit."""
        keep, section = [], ""
        for line in (UNITS / unit).read_text().splitlines():
            if line.startswith("["):
                section = line
            drop = line.partition("=")[0] in ("Type", "ExecStart", "ExecReload", "Sockets", "Restart", "RestartSec",
                                              "WatchdogSec", "StandardInput", "StandardOutput", "StandardError")
            if section == "[Service]" and not drop:
                keep.append(line)
        script = pathlib.Path("/opt/probe.py")
        script.write_text(PROBE)
        name = f"probe-{unit.partition('.')[0].strip('@')}.service"
        pathlib.Path("/run/systemd/system", name).write_text("\n".join(
            [*keep, "Type=oneshot", f"ExecStart={PYTHON} {script} {','.join(map(str, writes))} {','.join(map(str, reads))}", ""]))
        systemctl("daemon-reload")
        systemctl("start", name)
        found, = [line for line in journal("-u", name).splitlines() if line.startswith("PROBE ")]
        return json.loads(found[len("PROBE "):])

    def check_sandbox(self, found):
        for name, expected in {"namespaces": "EPERM", "mount": "EPERM", "code": "EPERM", "set_uid": "EPERM",
                               "strangers": [], "core": 0, "capabilities": [""] * 5, "no_new_privileges": "1",
                               "seccomp": "2"}.items():
            self.assertEqual(found[name], expected, name)
        self.assertEqual((found["socket"]["AF_NETLINK"], found["socket"]["AF_PACKET"]), ("EAFNOSUPPORT",) * 2)
        self.assertEqual(found["socket"]["AF_UNIX"], "done")

    FOLDERS = ("/", "/etc", "/etc/siwa-notifyd", "/usr/local", "/opt", "/srv", "/var/lib", "/var/log", "/var/cache", "/run",
               "/run/siwa-notifyd", "/dev", "/proc", "/sys/fs/cgroup")

    def test_the_receiver_can_write_nowhere_else_and_has_no_network(self):
        found = self.probe(SERVICE, [*self.FOLDERS, STATE], ["/etc/shadow", "/root/.profile", CONFIG])
        self.check_sandbox(found)
        self.assertEqual(found["write"].pop(str(STATE)), "done")
        self.assertEqual({folder for folder, result in found["write"].items() if result == "done"}, set())
        self.assertEqual((found["socket"]["AF_INET"], found["socket"]["AF_INET6"]), ("EAFNOSUPPORT",) * 2)
        self.assertNotEqual(found["net"], os.readlink("/proc/1/ns/net"))
        self.assertEqual(found["read"].pop(str(CONFIG)), "done")
        self.assertNotIn("done", found["read"].values())

    def test_the_running_receiver_is_in_it(self):
        pid = show("MainPID")
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        self.assertEqual((status["NoNewPrivs"].strip(), status["Seccomp"].strip()), ("1", "2"))
        self.assertEqual({status[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, {""})
        self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/net"), os.readlink("/proc/1/ns/net"))
        user = pwd.getpwnam("siwa-notifyd")
        self.assertEqual((set(status["Uid"].split()), set(status["Gid"].split())), ({str(user.pw_uid)}, {str(user.pw_gid)}))

    def test_the_fetcher_has_the_network_and_nothing_else(self):
        found = self.probe("siwa-notifyd-keys@.service", [*self.FOLDERS, STATE],
                           [STATE / "outbox.db", STATE / "keys.json", "/etc/shadow", CONFIG])
        self.check_sandbox(found)
        self.assertEqual({folder for folder, result in found["write"].items() if result == "done"}, set())
        self.assertEqual((found["socket"]["AF_INET"], found["socket"]["AF_INET6"]), ("done",) * 2)
        self.assertEqual(found["net"], os.readlink("/proc/1/ns/net"))
        self.assertEqual(found["read"].pop(str(CONFIG)), "done")
        self.assertNotIn("done", found["read"].values())

    # in the end

    def test_nothing_personal_is_in_the_journal(self):
        with contextlib.closing(sqlite3.connect(f"file:{STATE}/outbox.db?mode=ro", uri=True)) as connection:
            personal = [text for row in connection.execute("SELECT sub, jti FROM outbox") for text in row]
        self.assertGreater(len(personal), 100)
        said = journal()
        self.assertIn("outcome=accepted", said)
        self.assertEqual([text for text in personal if text in said], [])

    def test_no_unit_failed(self):
        failed = systemctl("list-units", "--state=failed", "--plain", "--no-legend")
        self.assertEqual([line for line in failed.splitlines() if "siwa" in line], [])


def tests():
    """The names in their order."""
    return [name for name in vars(LiveSystemd) if name.startswith("test_")]


class Outcome(unittest.TestResult):
    """A verdict for each test, and all that it had to say against it."""

    def __init__(self, results):
        super().__init__()
        self.results = results

    def startTest(self, test):
        super().startTest(test)
        self.entry = {"verdict": "ok", "text": ""}
        self.began = time.monotonic()

    def stopTest(self, test):
        self.entry["seconds"] = time.monotonic() - self.began
        self.results[test._testMethodName] = self.entry

    def addFailure(self, test, error):
        self.entry["verdict"] = "failed"
        self.entry["text"] += "".join(traceback.format_exception(*error))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(subtest, error)

    def addSkip(self, test, reason):
        if self.entry["verdict"] == "ok":
            self.entry.update(verdict="skipped", text=reason)


def main(case, names):
    out = pathlib.Path(sys.argv[1])
    (out / "started").write_text("")
    results = {}
    try:
        case.setUpClass()
        for name in names:
            case(name).run(Outcome(results))
            (out / "results.json").write_text(json.dumps(results))
    finally:
        lines = journal("-u", "siwa-notifyd*").splitlines()
        (out / "journal.log").write_text("\n".join(line for line in lines if "msg=notification" not in line) + "\n")


if __name__ == "__main__":
    main(LiveSystemd, tests())
