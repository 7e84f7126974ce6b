"""The doctor: every check is seen in order, and every check is seen to fail for the fault it is there for."""

import contextlib
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import harness
from harness import Apple, Daemon, wait_until

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))
from key_server import Authority, KeyServer, openssl  # noqa: E402

PATH = harness.PATH


def host():
    """What the certificates are for. A root made by debootstrap has no /etc/hosts, and knows no localhost."""
    try:
        socket.getaddrinfo("localhost", None)
        return "localhost"
    except OSError:
        return "127.0.0.1"


HOST = host()


def fake_time():
    """For FAKETIME to count. What is preloaded comes before AddressSanitizer, which takes that for a mistake unless told."""
    return {"LD_PRELOAD": harness.fake_time_library(), "ASAN_OPTIONS": "verify_asan_link_order=0"}


class Edge(harness.Process):
    """The real nginx with TLS, one server on a port of its own for each fault."""

    FAULTS = {
        "good": {},
        "incomplete": {"chain": "leaf_only"},
        "expired": {"chain": "expired"},
        "stranger": {"chain": "stranger"},
        "sha1": {"chain": "sha1"},
        "other_host": {"chain": "other_host"},
        "old": {"tls": "ssl_protocols TLSv1.1; ssl_ciphers DEFAULT:@SECLEVEL=0;"},
        "too_old": {"tls": "ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3; ssl_ciphers DEFAULT:@SECLEVEL=0;"},
        "redirect": {"location": "return 301 https://elsewhere.example$request_uri;"},
        "small": {"location": "client_max_body_size 100; PASS"},
        "password": {"location": "return 401;"},
        "changed": {"location": "proxy_set_body '{}'; PASS"},
        "stripped": {"location": "proxy_pass_request_body off; proxy_set_header Content-Length 0; PASS"},
        "announced": {"location": "proxy_pass_request_body off; PASS"},
        "no_post": {"location": "limit_except GET { deny all; } PASS"},
        "nobody": {"location": "proxy_pass http://unix:/nonexistent/notify.sock:;"},
        "somebody": {"location": "return 200 'hello';"},
        "pretender": {"location": "return 200 'accepted';"},
        "only_elsewhere": {"path": "/somewhere/else"},
    }

    def __init__(self, directory, upstream):
        super().__init__(directory, "nginx")
        self.upstream = upstream
        self.ports = {name: harness.free_port() for name in self.FAULTS}
        self.make_certificates()

    def make_certificates(self):
        root, stranger = Authority(self.directory, "root"), Authority(self.directory, "stranger-root")
        self.ca_file = root.certificate
        middle = Authority(self.directory, "middle")  # its key; its certificate is issued by the root
        extensions = self.directory / "ca.ext"
        extensions.write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
        openssl("req", "-new", "-key", middle.key, "-out", self.directory / "middle.csr", "-subj", "/CN=middle")
        openssl("x509", "-req", "-in", self.directory / "middle.csr", "-CA", root.certificate, "-CAkey", root.key,
                "-set_serial", "7", "-days", "30", "-extfile", extensions, "-out", middle.certificate)
        here = "DNS:localhost,IP:127.0.0.1"
        intermediate = middle.certificate.read_bytes()
        self.chains = {}
        for name, authority, names, days, more in (
                ("good", middle, here, 30, intermediate), ("leaf_only", middle, here, 30, b""),
                ("expired", root, here, -1, b""), ("stranger", stranger, here, 30, b""),
                ("other_host", root, "DNS:other.example", 30, b"")):
            chain = authority.issue(name, names, days=days)
            chain.write_bytes(chain.read_bytes() + more)
            self.chains[name] = chain
        weak = root.issue("sha1", here, days=30)  # again, with a digest that nobody should use any more
        signed = openssl("x509", "-req", "-in", self.directory / "sha1.csr", "-CA", root.certificate, "-CAkey", root.key,
                         "-sha1", "-set_serial", "9", "-days", "30", "-copy_extensions", "copy")
        weak.write_bytes((self.directory / "sha1.key").read_bytes() + signed)
        self.chains["sha1"] = weak

    def server(self, name, fault):
        to_daemon = f"proxy_pass http://{self.upstream}:;"
        location = fault.get("location", "PASS").replace("PASS", to_daemon)
        chain = self.chains[fault.get("chain", "good")]
        tls = fault.get("tls", "ssl_protocols TLSv1.2 TLSv1.3;")
        if fault.get("chain") == "sha1":
            tls += " ssl_ciphers DEFAULT:@SECLEVEL=0;"
        return (f"server {{ listen 127.0.0.1:{self.ports[name]} ssl; ssl_certificate {chain}; ssl_certificate_key {chain};"
                f" {tls} client_max_body_size 64k; location = {fault.get('path', PATH)} {{ {location} }}"
                f" location / {{ return 404; }} }}\n")

    def launch(self):
        config = self.directory / "nginx.conf"
        temporary = "".join(f"{kind}_temp_path {self.directory}/{kind};\n"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;\n" if os.getuid() == 0 else ""
        config.write_text(f"{user}daemon off; worker_processes 1; pid {self.directory}/nginx.pid;\n"
                          f"error_log {self.directory}/error.log;\nevents {{ worker_connections 128; }}\n"
                          f"http {{ access_log off;\n{temporary}"
                          + "".join(self.server(name, fault) for name, fault in self.FAULTS.items()) + "}\n")
        self.spawn([harness.command_path("nginx"), "-p", self.directory, "-c", config,
                    "-e", self.directory / "error.log"])
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", self.ports["good"])), "nginx listens")

    def url(self, name, path=PATH):
        return f"https://{HOST}:{self.ports[name]}{path}"


class Between:
    """A proxy with TLS that may do what no real one is made to do: before(body) is called ahead of the daemon,
    after(status, text) gives the answer."""

    def __init__(self, edge, daemon, before=None, after=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if before:
                    before(body)
                status, text = daemon.post(body)
                status, text = after(status, text) if after else (status, text)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self):
                self.send_error(405)

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(edge.chains["good"])
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.server.handle_error = lambda *_: None  # who only looks at TLS goes away in its midst
        self.url = f"https://{HOST}:{self.server.server_address[1]}{PATH}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class DoctorCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="siwa-doctor-")
        cls.addClassCleanup(folder.cleanup)
        cls.key_server = KeyServer(folder.name)
        cls.addClassCleanup(cls.key_server.close)
        cls.apple = Apple()
        cls.key_server.live = cls.apple.key_set()

    def settings(self, **changes):
        return {"keys": "url", "key_url": self.key_server.url("/live"), "ca_file": str(self.key_server.ca_file), **changes}

    def findings(self, daemon, *arguments, code=None, environment=None):
        done = daemon.command("doctor", "--json", *arguments, environment=environment)
        report = json.loads(done.stdout)
        failed = [finding for finding in report["checks"] if finding["state"] == "fail"]
        self.assertEqual(report["fail"], len(failed))
        self.assertEqual(done.returncode, 1 if failed else 0)
        if code is not None:
            self.assertEqual(done.returncode, code, done.stdout)
        for finding in report["checks"]:
            self.assertTrue(finding["cause"], finding)
            if finding["state"] == "fail" and finding["check"] != "daemon.check":
                self.assertTrue(finding["cure"], finding)
        return report["checks"]

    def expect(self, findings, check, state, *parts):
        """A finding of this check with this state whose cause or cure says each part."""
        of_check = [finding for finding in findings if finding["check"] == check]
        for finding in of_check:
            text = finding["cause"] + " " + finding["cure"]
            if finding["state"] == state and all(part in text for part in parts):
                return finding
        self.fail(f"{check} does not say {state} {parts}: {of_check or [f['check'] for f in findings]}")


class TestInOrder(DoctorCase):
    def test_a_daemon_that_is_well_and_text_for_people(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            wait_until(lambda: daemon.get("/readyz").status == 200, "ready")
            self.assertEqual(daemon.post(self.apple.body(self.apple.notification()))[0], 200)
            wait_until(lambda: self.expect_quietly(daemon, "history.outcome", "accepted: 1 today"), "the count", 40)
            findings = self.findings(daemon, code=0)
            for check in ("local.configuration", "database.file", "database.mode", "database.content", "database.wal",
                          "database.disk", "socket.listen", "socket.control", "keys.source", "keys.age", "keys.fetch",
                          "keyserver.tls", "keyserver.chain", "keyserver.certificate", "daemon.ready", "daemon.version",
                          "history.app"):
                state = "warn" if check == "keyserver.certificate" else "ok"  # it has a day left
                self.expect(findings, check, state)
            self.expect(findings, "clock.server", "ok")
            self.expect(findings, "outside.url", "skip", "--url")
            self.expect(findings, "apple.portal", "skip", "cannot be seen", "Stop Using")
            done = daemon.command("doctor")
            self.assertRegex(done.stdout, r"(?m)^ok    keys\.fetch ")
            self.assertRegex(done.stdout, r"\n\n\d+ ok, \d+ warn, 0 fail, \d+ skip\n$")
            self.assertNotIn("\033", done.stdout)

    def expect_quietly(self, daemon, check, part):
        return any(finding["check"] == check and part in finding["cause"] for finding in self.findings(daemon))

    def test_a_wait_ends_with_a_real_event(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            wait_until(lambda: daemon.get("/readyz").status == 200, "ready")
            over = threading.Event()

            def send():
                """Again and again: what comes before doctor waits is none of those that it waits for."""
                while not over.wait(1):
                    daemon.post(self.apple.body(self.apple.notification("account-delete")))
            sender = threading.Thread(target=send)
            sender.start()
            try:
                findings = self.findings(daemon, "--wait", "30")
            finally:
                over.set()
                sender.join()
            self.expect(findings, "apple.event", "ok", "account-delete for com.example.app")
            self.expect(self.findings(daemon, "--wait", "1"), "apple.event", "fail", "no notification arrived")


class TestHere(DoctorCase):
    def test_configuration(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            text = daemon.config_file.read_text()
            broken = daemon.directory / "broken.conf"
            broken.write_text(text + "\nlisten2 = 5;\n")
            for file, part in ((broken, "listen2"), (daemon.directory / "absent.conf", "No such file")):
                done = subprocess.run([daemon.program, "doctor", "--json", "--config", file], capture_output=True, text=True,
                                      check=False)
                self.assertEqual(done.returncode, 1)
                self.expect(json.loads(done.stdout)["checks"], "local.configuration", "fail", part, "check-config")

    def test_database_sockets_and_daemon(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            listen = daemon.directory / "notify.sock"
            os.chmod(listen, 0o600)
            self.expect(self.findings(daemon), "socket.listen", "warn", "another user cannot connect")
            os.chmod(daemon.database, 0o644)
            self.expect(self.findings(daemon), "database.mode", "fail", "every user may read")
            os.chmod(daemon.database, 0o660)
            self.expect(self.findings(daemon), "database.mode", "warn", "the group may write")
            os.chmod(daemon.database, 0o640)
            if os.getuid() == 0:
                os.chown(daemon.database, 1, -1)
                self.expect(self.findings(daemon), "database.mode", "fail", "belongs to user 1")
                os.chown(daemon.database, 0, -1)
            key = daemon.directory / "outbox.key"
            key.rename(daemon.directory / "away")
            missing = [finding["cause"] for finding in self.findings(daemon, code=1) if finding["state"] == "fail"]
            self.assertIn(f"{key} is missing: the next start will be refused", missing[0])
            (daemon.directory / "away").rename(key)
            daemon.stop()
            findings = self.findings(daemon)
            self.expect(findings, "daemon.ready", "fail", "systemctl")
            self.expect(findings, "socket.listen", "fail", "start the daemon")
            failed = pathlib.Path(f"{daemon.database}.failed")
            failed.touch()
            self.expect(self.findings(daemon), "database.file", "fail", "stopped for a storage error")
            failed.unlink()
            wal = pathlib.Path(f"{daemon.database}-wal")
            with open(wal, "ab") as file:
                file.truncate(65 << 20)
            self.expect(self.findings(daemon), "database.wal", "warn", "a reader keeps it")
            wal.unlink()
            with open(daemon.database, "r+b") as file:
                file.seek(4096)
                file.write(os.urandom(8192))
            self.expect(self.findings(daemon), "database.content", "fail")
            daemon.database.unlink()
            self.expect(self.findings(daemon), "database.file", "fail", "No such file")

    def test_a_full_disk(self):
        if os.getuid() != 0:
            self.skipTest("needs root to mount")
        with tempfile.TemporaryDirectory(prefix="siwa-small-") as small:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=False).returncode:
                self.skipTest("cannot mount a tmpfs here")
            try:
                settings = self.settings(database=f"{small}/outbox.db")
                with Daemon(self.apple, settings=settings) as daemon:
                    self.expect(self.findings(daemon), "database.disk", "fail", "make room")
                    self.expect(self.findings(daemon), "daemon.check", "fail", "disk")
                    daemon.stop()  # a file that is open for writing keeps its mount from turning
                    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
                    self.expect(self.findings(daemon), "database.disk", "fail", "read-only")
            finally:
                subprocess.run(["umount", "-l", small], check=True)

    def test_clock(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            wait_until(lambda: daemon.get("/readyz").status == 200, "ready")
            fake = fake_time()
            for moved, check, state, part in (("@2018-06-01 00:00:00", "clock.set", "fail", "before 2019"),
                                              ("+30s", "clock.server", "warn", "ahead"),
                                              ("+2h", "clock.server", "fail", "ahead")):
                findings = self.findings(daemon, environment={**fake, "FAKETIME": moved})
                self.expect(findings, check, state, part)
            findings = self.findings(daemon, environment={**fake, "FAKETIME": "+15d"})
            self.expect(findings, "keys.age", "fail", "days old")
            findings = self.findings(daemon, environment={**fake, "FAKETIME": "+30h"})
            self.expect(findings, "keys.age", "warn", "hours ago")

    def test_keys(self):
        for changes, check, part in (
                ({"key_url": self.key_server.url("/live", "down")}, "keys.fetch", "unreachable"),
                ({"key_url": self.key_server.url("/live", "other_host")}, "keyserver.certificate", "not for 127.0.0.1"),
                ({"key_url": self.key_server.url("/live", "wrong_ca")}, "keyserver.chain", "does not trust"),
                ({"key_url": self.key_server.url("/live", "expired")}, "keyserver.certificate", "expired"),
                ({"key_url": self.key_server.url("/html")}, "keys.fetch", "no key set")):
            with Daemon(self.apple, settings=self.settings(**changes)) as daemon:
                findings = self.findings(daemon)
                self.expect(findings, check, "fail", part)
                self.expect(findings, "keys.age", "fail", "ever fetched")
                self.expect(findings, "daemon.check", "fail", "keys")
                self.expect(findings, "daemon.ready", "fail", "not ready")
        with Daemon(self.apple) as daemon:  # keys = "file:…"
            settings = {"key_url": self.key_server.url("/live"), "ca_file": str(self.key_server.ca_file)}
            daemon.settings.update(settings)
            self.expect(self.findings(daemon), "keys.source", "fail", "whoever may write it")
            self.expect(self.findings(daemon, "--test-setup"), "keys.source", "warn", "whoever may write it")

    def test_a_daemon_that_was_started_a_moment_ago(self):
        """Its first fetch is under way, and no fault yet."""
        server, release = socket.create_server(("127.0.0.1", 0)), threading.Event()

        def pass_on(source, target):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def hold():
            with contextlib.suppress(OSError):
                while True:
                    near = server.accept()[0]
                    release.wait()
                    far = socket.create_connection(("127.0.0.1", self.key_server.ports["good"]))
                    for ends in (near, far), (far, near):
                        threading.Thread(target=pass_on, args=ends, daemon=True).start()
        threading.Thread(target=hold, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/live"
        with Daemon(self.apple, settings=self.settings(key_url=url)) as daemon:
            timer = threading.Timer(1, release.set)
            timer.start()
            findings = self.findings(daemon)
            timer.join()
            self.expect(findings, "keys.age", "ok", "1 known")
            self.expect(findings, "daemon.ready", "ok")
        server.close()

    @contextlib.contextmanager
    def another_control(self, *states):
        """A control socket that answers with these in turn, then always with the last: its address, and what was asked."""
        with tempfile.TemporaryDirectory(prefix="siwa-skew-") as folder, socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{folder}/control.sock")
            other.listen(8)
            asked, stop = [], threading.Event()

            def answer():
                while not stop.is_set():
                    with contextlib.suppress(OSError):
                        connection = other.accept()[0]
                        with connection:
                            if request := connection.recv(4096):
                                body = json.dumps(states[min(len(asked), len(states) - 1)])
                                asked.append(request.split(b" ")[1].decode())
                                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
                                                   f"Connection: close\r\n\r\n{body}".encode())
            threading.Thread(target=answer, daemon=True).start()
            yield f"unix:{folder}/control.sock", asked
            stop.set()

    def test_version_skew(self):
        state = {"version": "99.9.9", "refresh": {"why": "no route to Apple"}}
        with self.another_control(state) as (address, _), Daemon(self.apple, settings=self.settings()) as daemon:
            daemon.settings["control"] = address
            findings = self.findings(daemon)
            self.expect(findings, "daemon.version", "warn", "99.9.9", "restart")
            self.expect(findings, "daemon.refresh", "warn", "no route to Apple")

    def test_a_daemon_that_remembers_its_keys_is_not_waited_for(self):
        """After a restart it fetches none for up to an hour."""
        state = {"version": "99.9.9", "keys": {"usable": True}, "refresh": {"attempts": 0}}
        with self.another_control(state) as (address, asked), Daemon(self.apple, settings=self.settings()) as daemon:
            daemon.settings["control"] = address
            self.findings(daemon)
            self.assertEqual(asked, ["/v1/state"] * 2)  # for its keys, for its version

    def test_keys_that_are_not_in_their_file_yet_are_waited_for(self):
        """Fresh keys are usable a moment before the attempt that fetched them is over."""
        under_way = {"version": "99.9.9", "keys": {"usable": True}, "refresh": {"attempts": 0, "in_flight": True}}
        over = {**under_way, "refresh": {"attempts": 1, "in_flight": False}}
        with self.another_control(under_way, under_way, over) as (address, asked), \
                Daemon(self.apple, settings=self.settings()) as daemon:
            daemon.settings["control"] = address
            self.findings(daemon)
            self.assertEqual(asked, ["/v1/state"] * 4)  # three times for its keys, once for its version

    def test_history(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            findings = self.findings(daemon)
            self.expect(findings, "history.app", "skip", "nothing for com.example.app was ever accepted", "less than a day")
            self.expect(findings, "history.outcome", "skip", "no request reached the daemon", "less than a day")
            for hours, state in (("+23h", "skip"), ("+25h", "warn")):  # a new one may be silent for a day
                findings = self.findings(daemon, environment={**fake_time(), "FAKETIME": hours})
                self.expect(findings, "history.app", state, "nothing for com.example.app was ever accepted", "--url")
                self.expect(findings, "history.outcome", state, "no request reached the daemon")
            wait_until(lambda: daemon.get("/readyz").status == 200, "ready")
            for _ in range(3):
                daemon.post(self.apple.body(self.apple.notification(aud="com.example.forgotten")))
            daemon.post("{}")
            daemon.stop()
            findings = self.findings(daemon)
            today = time.strftime("%Y-%m-%d", time.gmtime())
            self.expect(findings, "history.audience", "warn", f"3 notifications for com.example.forgotten since {today}",
                        "add it to `apps`")
            self.expect(findings, "history.outcome", "warn", "bad_body: 1 today", "proxy")
            daemon.settings["apps"].append({"client_id": "com.example.forgotten", "app": "F", "team": "ABCDE12345"})
            self.assertNotIn("history.audience", [finding["check"] for finding in self.findings(daemon)])

    def test_what_came_a_moment_ago_is_no_silence(self):
        """The counts by day are brought up to date every ten seconds only."""
        with Daemon(self.apple, settings=self.settings()) as daemon:
            self.assertEqual(daemon.post(self.apple.body(self.apple.notification())), (200, "accepted"))
            findings = self.findings(daemon)
            self.expect(findings, "history.app", "ok", "com.example.app: last accepted ")
            self.assertNotIn("no request reached", json.dumps(findings))
            self.assertNotIn(" 0 events", json.dumps(findings))

    def test_what_doctor_sends_is_no_warning_on_the_first_day(self):
        with Daemon(self.apple, settings=self.settings()) as daemon:
            daemon.post('{"payload":"siwa-notifyd-doctor"}')
            daemon.stop()
            self.expect(self.findings(daemon), "history.outcome", "ok", "jws_malformed: 1 today", "or doctor's")
            findings = self.findings(daemon, environment={**fake_time(), "FAKETIME": "+25h"})
            self.expect(findings, "history.outcome", "warn", "jws_malformed: 0 today, 1 in 7 days")


class TestUnit(DoctorCase):
    """Before a stand-in for systemctl, on a machine that systemd seems to run, or seems not to."""

    WELL = {"LoadState": "loaded", "ActiveState": "active", "NRestarts": "0", "UnitFileState": "enabled",
            "PrivateNetwork": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
    APART = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--propagation", "private"]
    MOUNT = "run=/run; [ ! -d /run/systemd ] || run=/run/systemd; mount -t tmpfs tmpfs $run"

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="siwa-unit-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        if subprocess.run([*self.APART, "sh", "-c", self.MOUNT], capture_output=True, check=False).returncode:
            self.skipTest("cannot mount a /run of its own here")
        self.put("systemctl", 'echo "$@" >> "$0.asked"\ncat "$0.says"\nexit "$(cat "$0.status")"')

    def put(self, name, script):
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def doctor(self, daemon, status=0, systemd=True, **changes):
        """Its findings where systemctl says that all is well but for these."""
        (self.folder / "systemctl.says").write_text("".join(f"{name}={value}\n" for name, value in {**self.WELL, **changes}.items()))
        (self.folder / "systemctl.status").write_text(str(status))
        machine = self.MOUNT + (" && mkdir -p /run/systemd/system" if systemd else "")
        self.put("doctor", f"exec {' '.join(self.APART)} sh -c '{machine} && exec \"$@\"' sh {harness.PROGRAM} \"$@\"")
        daemon.program = self.folder / "doctor"
        path = f"{self.folder}:{os.environ['PATH']}"
        return self.findings(daemon, environment={"PATH": path})

    def expect_unit(self, findings, **states):
        """These findings about the unit, each with its state and a part of what it says, and no others."""
        self.assertEqual({finding["check"] for finding in findings if finding["check"].startswith("unit.")},
                         {f"unit.{name}" for name in states})
        for name, expected in states.items():
            self.expect(findings, f"unit.{name}", *expected)

    def test_the_unit(self):
        in_order = ("ok", "no new privileges")
        wider = ("warn", "wider than the one that is shipped", "systemctl cat")
        unknown = ("warn", "knows no siwa-notifyd.service", "make install")
        with Daemon(self.apple, settings=self.settings()) as daemon:
            self.expect_unit(self.doctor(daemon), state=("ok", "runs"), sandbox=in_order)
            asked = (self.folder / "systemctl.asked").read_text().split()
            self.assertEqual(asked[:2], ["show", "siwa-notifyd.service"])
            self.assertEqual(set(asked[2].removeprefix("--property=").split(",")), set(self.WELL))
            for changes in ({"NoNewPrivileges": "no"}, {"PrivateNetwork": "no"}, {"ProtectSystem": "full"}):
                with self.subTest(**changes):
                    self.expect_unit(self.doctor(daemon, **changes), state=("ok", "runs"), sandbox=wider)
            with self.subTest("not found"):  # as systemctl says it, with status 0
                nothing = {"LoadState": "not-found", "ActiveState": "inactive", "NoNewPrivileges": "no"}
                self.expect_unit(self.doctor(daemon, **nothing), state=unknown)
            with self.subTest("systemctl fails"):
                self.expect_unit(self.doctor(daemon, status=1), state=unknown)
            with self.subTest("not running"):
                self.expect_unit(self.doctor(daemon, ActiveState="failed"),
                                 state=("fail", "is not running", "enable --now"), sandbox=in_order)
            with self.subTest("restarts"):
                self.expect_unit(self.doctor(daemon, NRestarts="3"), state=("warn", "restarted 3 times"), sandbox=in_order)
            with self.subTest("without systemd"):
                self.expect_unit(self.doctor(daemon, systemd=False), state=("skip", "systemd does not run here"))


class TestOutside(DoctorCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        harness.need("nginx")
        cls.daemon = Daemon(cls.apple, settings={"keys": "url", "key_url": cls.key_server.url("/live"),
                                                 "ca_file": str(cls.key_server.ca_file)})
        cls.daemon.__enter__()
        cls.addClassCleanup(cls.daemon.__exit__, None, None, None)
        folder = tempfile.TemporaryDirectory(prefix="siwa-edge-")
        cls.addClassCleanup(folder.cleanup)
        cls.edge = Edge(folder.name, cls.daemon.address)
        cls.edge.launch()
        cls.addClassCleanup(cls.edge.end, 15)

    def outside(self, fault, path=PATH, url=None):
        return self.findings(self.daemon, "--ca-file", str(self.edge.ca_file), "--url", url or self.edge.url(fault, path))

    def test_all_in_order(self):
        findings = self.outside("good")
        for check in ("outside.path", "outside.tls", "outside.chain", "outside.certificate", "outside.tls12",
                      "outside.old_tls", "outside.get", "outside.post", "outside.time", "outside.large_body"):
            self.expect(findings, check, "ok")
        self.expect(findings, "outside.ipv4", "warn", "127.0.0.1 answers", "public address")

    def test_the_probe_in_order(self):
        """The real nginx with TLS, all the way into the database."""
        before = len(self.probes())
        rows, accepted = self.daemon.rows(), self.daemon.outcomes().get("accepted")
        self.expect(self.outside("good"), "outside.probe", "ok", "committed", "apart from the outbox")
        self.assertEqual(len(self.probes()), before + 1)
        self.assertEqual((self.daemon.rows(), self.daemon.outcomes().get("accepted")), (rows, accepted))

    def probes(self):
        return self.daemon.query("SELECT * FROM events WHERE test = 1")

    def test_faults_that_the_probe_sees(self):
        before = len(self.probes())
        for fault, part, cure in (("changed", "another body", "without filters"),
                                  ("stripped", "another body", "pass the body as it is"),
                                  ("redirect", "301 to https://elsewhere.example", "must not be redirected"),
                                  ("password", "the answer was 401", "authentication"),
                                  ("nobody", "the answer was 502", "start the daemon"),
                                  ("somebody", "the answer was 200", "who gave this answer"),
                                  ("only_elsewhere", "the answer was 404", "correct the path"),
                                  ("stranger", "certificate", "checks above"),
                                  ("announced", "no whole answer within 10000 ms", "proxy_pass_request_body"),
                                  ("pretender", "200 by another server", "nobody here will see")):
            with self.subTest(fault=fault):
                self.expect(self.outside(fault), "outside.probe", "fail", part, cure)
        with self.subTest(fault="wrong path"):
            self.expect(self.outside("good", "/wrong"), "outside.probe", "fail", "404", "correct the path")
        self.assertEqual(len(self.probes()), before)

    def test_a_url_that_leads_to_another_daemon(self):
        """Another siwa-notifyd refuses it as any stranger's, and only the test notification tells the two apart."""
        with Daemon(self.apple) as other, Between(self.edge, other) as between:
            findings = self.outside(None, url=between.url)
            self.expect(findings, "outside.post", "ok")
            self.expect(findings, "outside.probe", "fail", "another siwa-notifyd", "point the name or the proxy")
            self.assertEqual(other.query("SELECT * FROM events"), [])

    def test_a_key_that_is_not_armed_any_more(self):
        prober = Apple("siwa-notifyd.probe.another")

        def arm_another(body):
            if "siwa-notifyd-doctor" not in body and len(body) < 4096:
                self.assertEqual(self.daemon.control("POST", "/v1/probe", prober.key_set()).status, 200)
                claims = Apple.claims("test", iss="urn:siwa-notifyd:probe", aud="siwa-notifyd.probe")
                self.assertEqual(self.daemon.post(Apple.body(prober.mint(claims)))[0], 200)

        with Between(self.edge, self.daemon, before=arm_another) as between:
            self.expect(self.outside(None, url=between.url), "outside.probe", "fail", "had expired", "one doctor at a time")

    def test_an_answer_that_is_changed_on_its_way_back(self):
        def pretend(status, text):
            return (202, "fine") if status == 200 else (status, text)

        with Between(self.edge, self.daemon, after=pretend) as between:
            self.expect(self.outside(None, url=between.url), "outside.probe", "fail", "was committed", "202, not 200")

    def test_without_the_control_socket_no_probe_is_sent(self):
        before = len(self.probes())
        with Daemon(self.apple, settings={**self.settings(), "control": ""}) as other:
            findings = self.findings(other, "--ca-file", str(self.edge.ca_file), "--url", self.edge.url("good"))
            self.expect(findings, "outside.probe", "skip", "no control socket", "set `control`")
            other.stop()
            other.settings["control"] = f"unix:{other.directory}/control.sock"
            findings = self.findings(other, "--ca-file", str(self.edge.ca_file), "--url", self.edge.url("good"))
            self.expect(findings, "outside.probe", "skip", "start the daemon")
        self.assertEqual(len(self.probes()), before)

    def test_faults_of_tls(self):
        for fault, check, state, part in (
                ("incomplete", "outside.chain", "fail", "fullchain.pem"),
                ("expired", "outside.certificate", "fail", "expired"),
                ("expired", "outside.chain", "fail", "expired"),
                ("stranger", "outside.chain", "fail", "does not trust"),
                ("sha1", "outside.chain", "fail", "SHA-2"),
                ("other_host", "outside.certificate", "fail", f"not for {HOST}"),
                ("old", "outside.tls", "fail", "TLS 1.2 and 1.3"),
                ("too_old", "outside.old_tls", "warn", "TLSv1.1")):
            with self.subTest(fault=fault, check=check):
                self.expect(self.outside(fault), check, state, part)

    def test_authorities_that_cannot_be_read(self):
        for name, text in (("nothing.pem", None), ("no.pem", "no certificate")):
            with self.subTest(name):
                file = self.daemon.directory / name
                if text:
                    file.write_text(text)
                findings = self.findings(self.daemon, "--ca-file", str(file), "--url", self.edge.url("good"))
                self.expect(findings, "outside.tls", "fail", f"{file}: no authorities can be read", "name a file of certificates")

    def test_tls_12_refused(self):
        """A server that speaks 1.3 only, below nginx's floor of configuration."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.edge.chains["good"])
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                with contextlib.suppress(OSError, ssl.SSLError), connection, \
                        context.wrap_socket(connection, server_side=True) as stream:
                    stream.recv(4096)
                    stream.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        threading.Thread(target=serve, daemon=True).start()
        findings = self.outside(None, url=f"https://{HOST}:{listener.getsockname()[1]}{PATH}")
        listener.close()
        self.expect(findings, "outside.tls12", "fail", "TLS 1.2 is refused")

    def test_faults_of_http(self):
        for fault, check, state, part in (
                ("redirect", "outside.get", "fail", "redirected"),
                ("redirect", "outside.post", "fail", "elsewhere.example"),
                ("small", "outside.large_body", "fail", "client_max_body_size"),
                ("password", "outside.post", "fail", "authentication"),
                ("changed", "outside.post", "fail", "another body"),
                ("no_post", "outside.post", "fail", "403"),
                ("nobody", "outside.post", "fail", "502"),
                ("somebody", "outside.get", "warn", "who answers"),
                ("only_elsewhere", "outside.post", "fail", "404")):
            with self.subTest(fault=fault, check=check):
                self.expect(self.outside(fault), check, state, part)

    def test_wrong_addresses(self):
        self.expect(self.outside("good", "/wrong"), "outside.path", "warn", "/wrong", PATH)
        self.expect(self.outside("good", "/wrong"), "outside.post", "fail", "404")
        for url, check, part in (("http://localhost/x", "outside.url", "https:// only"),
                                 ("nonsense", "outside.url", "https://HOST/PATH"),
                                 (f"https://name.invalid{PATH}", "outside.name", "has no address"),
                                 (f"https://127.0.0.1:{self.key_server.ports['down']}{PATH}", "outside.ipv4",
                                  "cannot be reached")):
            with self.subTest(url=url):
                self.expect(self.outside(None, url=url), check, "fail", part)


if __name__ == "__main__":
    unittest.main()
