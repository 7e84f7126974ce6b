"""Where keys come from: the real daemon and `fetch-keys` against a key server that rotates, fails and lies."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

sys.path.insert(0, str(harness.ROOT / "tests" / "tools"))
from key_server import KeyServer  # noqa: E402  (it is a tool of its own, not a module of this folder)

# What the daemon calls each way to misbehave: (port, path, result).
HOSTILE = [
    ("down", "/live", "unreachable"),
    ("expired", "/live", "tls"),
    ("other_host", "/live", "tls"),
    ("wrong_ca", "/live", "tls"),
    ("tls_1_1", "/live", "tls"),
    ("plain", "/live", "tls"),
]
HOSTILE_PATHS = {
    "/large": "too_large", "/large-unannounced": "too_large",
    "/garbage": "bad_set", "/empty": "bad_set", "/empty-set": "bad_set", "/duplicate-kid": "bad_set",
    "/weak": "bad_set", "/truncated": "cut_short", "/truncated-blanks": "cut_short", "/redirect": "status",
    "/redirect-with-set": "status", "/not-found": "status", "/broken": "status",
}

# These take all the time that an attempt has, and run side by side.
SLOW = [("good", "/hang", "timeout"), ("good", "/drip", "timeout"), ("silent", None, "unreachable")]
# How many kids are made up in each state of the key server.
KIDS = int(os.environ.get("SIWA_KIDS", "300"))


def side_by_side(function, *arguments):
    """Calls function with each of the arguments, all at once; the first failure is the caller's."""
    with concurrent.futures.ThreadPoolExecutor(len(arguments)) as pool:
        for done in [pool.submit(function, argument) for argument in arguments]:
            done.result()


class FetchUnit:
    """The fetch unit as systemd runs it: a socket, and `fetch-keys` with each connection as its standard output."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.path = daemon.directory / "keys.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(8)
        self.log_file = daemon.directory / "fetch-keys.log"
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self.listener.accept()
                with stream, open(self.log_file, "ab") as log:
                    subprocess.run([str(self.daemon.program), "fetch-keys", "--config", str(self.daemon.config_file)],
                                   stdin=stream, stdout=stream, stderr=log, check=False)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(harness.PATIENCE_S)


def setUpModule():
    """One key server for all: its certificates take longer to make than most tests to run."""
    folder = tempfile.TemporaryDirectory(prefix="siwa-keys-")
    unittest.addModuleCleanup(folder.cleanup)
    KeyServerCase.folder = folder
    KeyServerCase.server = KeyServer(folder.name)
    unittest.addModuleCleanup(KeyServerCase.server.close)
    KeyServerCase.apple = Apple("FIRSTKEY01")
    KeyServerCase.second = KeyServerCase.apple.add_key("SECONDKEY1")


class KeyServerCase(unittest.TestCase):

    def setUp(self):
        self.publish(self.apple.keys[:1])
        self.server.asked.clear()

    def publish(self, keys):
        self.server.live_path = None
        self.server.live_paths.clear()
        self.server.live = self.apple.key_set(keys)

    def daemon(self, port="good", path="/live", **how):
        settings = {"keys": "url", "key_url": self.server.url(path, port), "ca_file": str(self.server.ca_file),
                    **how.pop("settings", {})}
        return Daemon(self.apple, settings=settings, **how)

    def accept(self, daemon, key=None):
        self.assertEqual(daemon.post(self.apple.body(self.apple.notification(key=key)))[0], 200)

    def until_fetched(self, daemon, times=1):
        """Until the attempt is over, too: whoever asks for another in its last moment would share it."""
        def over():
            return (daemon.metrics().value("siwa_key_refreshes_total", result="ok") >= times
                    and not json.loads(daemon.control("GET", "/v1/state").body)["refresh"]["in_flight"])

        wait_until(over, "a key set")


class Rotation(KeyServerCase):
    def test_the_first_notification_after_a_rotation_is_accepted(self):
        with self.daemon() as daemon:
            self.until_fetched(daemon)
            self.accept(daemon)
            self.publish([self.second])  # all keys change at once, unannounced
            self.accept(daemon, self.second)
            self.accept(daemon)  # signed before the rotation, on its way since
            self.assertEqual(len(daemon.rows()), 3)
            self.assertEqual(self.server.asked_for("/live"), 2)
            metrics = daemon.metrics()
            self.assertEqual(metrics.value("siwa_key_demand_refreshes_total"), 1)
            self.assertEqual(metrics.value("siwa_keys_current"), 1)
            self.assertLess(metrics.value("siwa_key_age_seconds"), harness.PATIENCE_S)
            self.assertIn('msg="key set refreshed" keys=1 new=1', daemon.log())

    def test_what_the_server_is_asked(self):
        environment = {"https_proxy": f"http://127.0.0.1:{self.server.ports['down']}", "HOME": self.folder.name}
        pathlib.Path(self.folder.name, ".netrc").write_text("machine 127.0.0.1 login joe password secret\n")
        with self.daemon(environment=environment) as daemon:
            self.until_fetched(daemon)
        (_, headers), = self.server.asked
        self.assertRegex(headers.pop("User-Agent"), r"^siwa-notifyd/[0-9.]+$")
        self.assertEqual(headers, {"Host": f"127.0.0.1:{self.server.ports['good']}", "Accept": "application/json"})

    def test_made_up_kids_cause_one_fetch(self):
        """At most one fetch in 30 s, whatever is sent, while the key server is up, down, and hanging."""
        side_by_side(self.make_up_kids, None, "/broken", "/hang")
        if KIDS > 1000:
            print(f"{KIDS} kids made up in each of three states", flush=True)

    def make_up_kids(self, behaviour):
        path = "/live" + (behaviour or "/good")
        with self.daemon(path=path) as daemon:
            self.until_fetched(daemon)
            before = self.server.asked_for(path)
            self.server.live_paths[path] = behaviour
            token = self.apple.notification()
            forged = [self.raw(self.apple.mint(self.apple.claims(), header={"kid": f"MADEUP{number}", "alg": "RS256"}))
                      for number in range(100)]
            begin = time.monotonic()
            for number in range(KIDS):
                # The signature is never looked at, nor may it be waited for.
                harness.exchange(daemon.address, forged[number % 100], timeout=0.01)
                if number % 10 == 0:
                    self.assertEqual(daemon.post(self.apple.body(token))[0], 200)  # the rest goes on
            took = time.monotonic() - begin
            self.assertLessEqual(self.server.asked_for(path) - before, 1 + took / 30)
            self.assertGreaterEqual(self.server.asked_for(path) - before, 1)
            self.assertEqual(daemon.outcomes()["accepted"], 1)

    @staticmethod
    def raw(token):
        body = Apple.body(token).encode()
        return (f"POST {harness.PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body


class Persistence(KeyServerCase):
    def test_a_start_without_network_serves_with_the_persisted_keys(self):
        daemon = self.daemon()
        with daemon:
            self.until_fetched(daemon)
            daemon.stop()
            self.assertEqual((daemon.directory / "keys.json").stat().st_mode & 0o7777, 0o600)
            daemon.settings["key_url"] = self.server.url("/live", "down")
            daemon.start()
            self.accept(daemon)
            daemon.kill9()
            daemon.start()
            self.accept(daemon)

    def test_no_keys_at_all_is_503_until_they_come(self):
        self.server.live_path = "/broken"
        with self.daemon() as daemon:
            body = self.apple.body(self.apple.notification())
            self.assertEqual(daemon.post(body), (503, "deferred"))
            self.publish(self.apple.keys[:1])
            wait_until(lambda: daemon.post(body)[0] == 200, "the backoff to end")

    def test_a_damaged_file_is_kept_and_the_keys_are_fetched_anew(self):
        daemon = self.daemon()
        with daemon:
            self.until_fetched(daemon)
            daemon.stop()
            (daemon.directory / "keys.json").write_text("{")
            daemon.start()
            self.until_fetched(daemon)
            self.accept(daemon)
            self.assertEqual((daemon.directory / "keys.json.refused").read_text(), "{")
            self.assertIn("the persisted keys are not used", daemon.log())

    def test_a_file_that_others_can_write_is_not_believed(self):
        daemon = self.daemon()
        with daemon:
            self.until_fetched(daemon)
            daemon.stop()
            (daemon.directory / "keys.json").chmod(0o666)
            daemon.settings["key_url"] = self.server.url("/live", "down")
            daemon.start()
            self.assertEqual(daemon.post(self.apple.body(self.apple.notification())), (503, "deferred"))

    def test_distrust_works_at_once_and_survives_restarts(self):
        self.publish(self.apple.keys)
        daemon = self.daemon()
        with daemon:
            self.until_fetched(daemon)
            self.accept(daemon, self.second)
            daemon.command("keys", "--distrust", self.second.kid, check=0)
            refused = self.apple.body(self.apple.notification(key=self.second))
            self.assertEqual(daemon.post(refused), (503, "kid_unknown"))
            self.accept(daemon)
            daemon.command("keys", "--refresh", check=0)  # it is published still
            self.assertEqual(daemon.post(refused), (503, "kid_unknown"))
            daemon.restart()
            self.assertEqual(daemon.post(refused), (503, "kid_unknown"))
            self.accept(daemon)


class Hostile(KeyServerCase):
    """In each case the old keys go on serving."""

    def refresh_fails(self, daemon, result):
        before = daemon.metrics().value("siwa_key_refreshes_total", result=result)
        self.assertNotEqual(daemon.command("keys", "--refresh").returncode, 0)
        self.assertEqual(daemon.metrics().value("siwa_key_refreshes_total", result=result), before + 1)
        self.accept(daemon)
        self.assertEqual(self.server.asked_for("/good"), 0)  # where the redirects lead

    def test_over_http(self):
        with self.daemon() as daemon:
            self.until_fetched(daemon)
            for path, result in HOSTILE_PATHS.items():
                with self.subTest(path):
                    self.server.live_path = path
                    self.refresh_fails(daemon, result)
            self.publish([self.second])
            daemon.command("keys", "--refresh", check=0)
            self.accept(daemon, self.second)

    def test_slow(self):
        side_by_side(self.slow, *SLOW)

    def slow(self, case):
        port, behaviour, result = case
        path = f"/live/slow{behaviour or ''}"
        daemon = self.daemon(path=path)
        with daemon:
            self.until_fetched(daemon)
            if behaviour is None:
                daemon.stop()
                daemon.settings["key_url"] = self.server.url(path, port)
                daemon.start()
            else:
                self.server.live_paths[path] = behaviour
            self.refresh_fails(daemon, result)

    def test_below_http(self):
        daemon = self.daemon()
        with daemon:
            self.until_fetched(daemon)
            for port, path, result in HOSTILE:
                if port not in self.server.ports:
                    print(f"this OpenSSL cannot serve {port}: not tried", flush=True)
                    continue
                with self.subTest(port):
                    daemon.stop()
                    daemon.settings["key_url"] = self.server.url(path, port)
                    daemon.start()
                    self.refresh_fails(daemon, result)

    def test_http_is_refused_by_the_configuration(self):
        daemon = self.daemon(settings={"key_url": "http://127.0.0.1/keys"})
        self.addCleanup(daemon.release)
        self.assertNotEqual(daemon.run_to_end(), 0)
        self.assertIn("https", daemon.log())

    def test_a_stop_does_not_wait_for_a_server_that_hangs(self):
        tries = []
        while not tries or (len(tries) < 3 and tries[-1] >= 4):  # the machine may be busy
            with self.daemon(port="silent") as daemon:
                begin = time.monotonic()
                wait_until(lambda: json.loads(daemon.control("GET", "/v1/state").body)["refresh"]["in_flight"], "an attempt")
                daemon.stop()
                tries.append(time.monotonic() - begin)
        self.assertLess(min(tries), 4)  # of the 5 that the attempt has


class FetchKeys(KeyServerCase):
    """`fetch-keys`, alone and as the daemon's only way out."""

    def fetch(self, code, **settings):
        daemon = self.daemon(settings=settings)
        self.addCleanup(daemon.release)
        done = daemon.command("fetch-keys", check=code)
        return json.loads(done.stdout), done.stderr

    def test_prints_the_key_set(self):
        answer, log = self.fetch(0)
        self.assertEqual(answer, json.loads(self.server.live))
        self.assertIn('msg="key set fetched" keys=1', log)

    def test_prints_why_there_is_none(self):
        self.server.live_path = "/redirect"
        answer, log = self.fetch(1)
        self.assertEqual(list(answer), ["error"])
        self.assertRegex(answer["error"], "^status: .*302; redirects are never followed")
        self.assertIn("302", log)
        self.server.live_path = "/weak"
        self.assertRegex(self.fetch(1)[0]["error"], "^bad_set: ")
        self.assertRegex(self.fetch(1, key_url=self.server.url("/live", "expired"))[0]["error"], "^tls: .*expired")
        self.assertRegex(self.fetch(1, key_url="http://127.0.0.1/")[0]["error"], "^configuration: ")

    def test_goes_to_the_url_whatever_keys_says(self):
        """`keys` names the socket that fetch-keys itself stands behind: asking there would never end."""
        daemon = self.daemon()
        self.addCleanup(daemon.release)
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
            listener.bind(str(daemon.directory / "keys.sock"))
            listener.listen()
            listener.setblocking(False)
            daemon.settings["keys"] = f"unix:{daemon.directory}/keys.sock"
            for options in [], ["--json"]:
                self.assertEqual(json.loads(daemon.command("fetch-keys", *options, check=0).stdout), json.loads(self.server.live))
            self.assertRaises(BlockingIOError, listener.accept)

    def test_behind_the_socket(self):
        daemon = self.daemon()
        daemon.settings["keys"] = f"unix:{daemon.directory}/keys.sock"
        with contextlib.closing(FetchUnit(daemon)), daemon:
            self.until_fetched(daemon)
            self.accept(daemon)
            self.publish([self.second])
            self.accept(daemon, self.second)
            self.server.live_path = "/truncated"
            self.assertNotEqual(daemon.command("keys", "--refresh").returncode, 0)
            self.assertEqual(daemon.metrics().value("siwa_key_refreshes_total", result="helper"), 1)
            self.assertIn("the fetch unit says: cut_short: 127.0.0.1", daemon.log())
            # The daemon hears the reason also where it took all the time there is (and again, where the machine took
            # longer than the half second that is left to start the fetch unit).
            self.server.live_path = "/hang"

            def told():
                self.assertNotEqual(daemon.command("keys", "--refresh").returncode, 0)
                return "the fetch unit says: timeout: 127.0.0.1" in daemon.log()

            wait_until(told, "the reason")
            self.accept(daemon, self.second)


if __name__ == "__main__":
    unittest.main()
