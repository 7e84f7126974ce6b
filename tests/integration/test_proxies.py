"""The proxies in conf/, as they are shipped: nginx, HAProxy and Caddy, in front of the real daemon, over TLS and HTTP/2.

Only paths, ports, users, the name of the host and its certificate are put in; what else stands in a file is what runs.
"""

import contextlib
import os
import pathlib
import re
import secrets
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest

import harness

HOST = "notify.example.com"
LIMIT_BYTES = 65536
RESET = "reset"


def certificates(directory):
    """A root, an intermediate and the certificate of a host, as a public authority issues them; fullchain.pem holds the
    last two, pair.pem the key as well."""

    def issue(name, subject, extensions, issuer):
        key, request, text, result = (directory / f"{name}.{end}" for end in ("key", "csr", "ext", "pem"))
        harness.openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", subject)
        text.write_text(extensions)
        signer = ["-signkey", key] if issuer == name else ["-CA", directory / f"{issuer}.pem", "-CAkey",
                                                           directory / f"{issuer}.key", "-CAcreateserial"]
        harness.openssl("x509", "-req", "-days", "30", "-sha256", "-in", request, "-extfile", text, *signer, "-out", result)

    authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
    issue("root", "/CN=Test root", authority, "root")
    issue("intermediate", "/CN=Test intermediate", authority, "root")
    issue("leaf", f"/CN={HOST}", f"basicConstraints=CA:FALSE\nsubjectAltName=DNS:{HOST}\n", "intermediate")
    chain = (directory / "leaf.pem").read_text() + (directory / "intermediate.pem").read_text()
    (directory / "fullchain.pem").write_text(chain)
    (directory / "pair.pem").write_text(chain + (directory / "leaf.key").read_text())


class LogSocket:
    """What a proxy sends to /dev/log."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        os.chmod(path, 0o666)
        self.lines = []
        threading.Thread(target=self.receive, daemon=True).start()

    def receive(self):
        with contextlib.suppress(OSError):
            while line := self.socket.recv(65536):
                self.lines.append(line.decode(errors="replace"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Checks:
    """What each of the three has to do."""

    program = None
    file = None
    too_large = (413,)  # or RESET
    limits = {}

    @classmethod
    def setUpClass(cls):
        harness.need(cls.program, "curl", "strace")
        cls.directory = pathlib.Path(cls.enterClassContext(
            tempfile.TemporaryDirectory(prefix="siwa-proxy-", ignore_cleanup_errors=True)))
        cls.directory.chmod(0o755)
        (cls.directory / "logs").mkdir(mode=0o777)
        (cls.directory / "logs").chmod(0o777)
        certificates(cls.directory)
        cls.apple = harness.Apple()
        cls.addClassCleanup(cls.apple._directory.cleanup)
        cls.port = harness.free_port()
        cls.daemon = cls.enterClassContext(harness.Daemon(
            cls.apple, settings={"monitor": f"127.0.0.1:{harness.free_port()}", "limits": cls.limits}))
        cls.daemon.directory.chmod(0o755)  # the proxy is another user
        cls.proxy = harness.Process(cls.directory, cls.program)
        cls.trace = cls.directory / "trace"
        # Every file that is made, by whichever process or thread of the proxy. -D: the proxy is our child, not strace.
        cls.proxy.spawn(["strace", "-D", "-f", "-qq", "-o", cls.trace, "-e", "trace=open,openat,creat,memfd_create,mkdir,mkdirat",
                         *cls.command()], env={**os.environ, "HOME": str(cls.directory), "XDG_DATA_HOME": str(cls.directory),
                                               "XDG_CONFIG_HOME": str(cls.directory)})
        cls.addClassCleanup(cls.proxy.end, 15)

        def listening():
            cls.proxy.require_running()
            with contextlib.suppress(OSError):
                harness.connect(f"127.0.0.1:{cls.port}").close()
                return True
            return False

        harness.wait_until(listening, f"{cls.program} listens")
        cls.made_before = len(cls.made())

    @classmethod
    def command(cls):
        raise NotImplementedError

    @classmethod
    def shipped(cls, *changes):
        """The file in conf/, with (what stands there, how often, what is put in) each replaced exactly so often."""
        text = (harness.ROOT / "conf" / cls.file).read_text()
        for old, count, new in changes:
            if text.count(old) != count:
                raise AssertionError(f"conf/{cls.file}: {old!r} stands there {text.count(old)} times, not {count}")
            text = text.replace(old, str(new))
        path = cls.directory / cls.file
        path.write_text(text)
        return path

    @classmethod
    def made(cls):
        """The files that the proxy has made so far, but for those that it keeps about itself, which it may make late."""
        own = re.compile(r'/logs/|/caddy/autosave\.json"|/nginx\.pid"|mkdir.*/caddy"')
        making = re.compile(r"O_CREAT|O_TMPFILE|creat\(|memfd_create\(|mkdir")
        return [line for line in cls.trace.read_text().splitlines() if making.search(line) and not own.search(line)]

    def curl(self, *arguments, path=harness.PATH, data=None):
        """(status, HTTP version) of a request as a strict client makes it."""
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "30", "--cacert", self.directory / "root.pem", "--resolve",
             f"{HOST}:{self.port}:127.0.0.1", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "-H", "Expect:",
             *arguments, *(["--data-binary", "@-"] if data is not None else []), f"https://{HOST}:{self.port}{path}"],
            input=data, capture_output=True, text=True, check=False)
        status, _, version = done.stdout.partition(" ")
        if done.returncode in (18, 55, 56, 92) and status == "000":  # closed before the answer could be read
            return RESET, version
        if status == "000":
            raise AssertionError(f"curl: {done.stderr}\n{self.proxy.log()[-2000:]}")
        return int(status), version

    def notification(self):
        return self.apple.body(self.apple.notification("consent-revoked"))

    def logs(self):
        return "\n".join(path.read_text(errors="replace") for path in (self.directory / "logs").iterdir())

    def refused(self):
        return self.daemon.metrics().total("siwa_http_refused_total")

    def test_a_notification_goes_through(self):
        for version, option in (("2", "--http2"), ("1.1", "--http1.1")):
            with self.subTest(http=version):
                rows = len(self.daemon.rows())
                self.assertEqual(self.curl(option, "-H", "Content-Type: application/json", data=self.notification()),
                                 (200, version))
                self.assertEqual(len(self.daemon.rows()), rows + 1)

    def test_only_the_one_path(self):
        refused = self.refused()
        for path in ("/", "/apple", harness.PATH + "/", harness.PATH + "s", harness.PATH.upper(), "/x" + harness.PATH,
                     "/metrics", "/readyz", "/v1/state"):
            with self.subTest(path=path):
                self.assertEqual(self.curl("--http2", "-X", "POST", path=path)[0], 404)
        self.assertEqual(self.refused(), refused, "the daemon was asked")

    def test_a_browser_is_told_that_only_post_is_for_it(self):
        self.assertEqual(self.curl("--http2")[0], 405)

    def test_a_large_body_stops_in_front(self):
        for version in ("--http2", "--http1.1"):
            with self.subTest(version):
                before = self.daemon.outcomes(), self.refused()
                self.assertIn(self.curl(version, data="x" * (LIMIT_BYTES + 1))[0], self.too_large)
                self.assertEqual((self.daemon.outcomes(), self.refused()), before, "the daemon was asked")

    def test_a_body_of_the_size_that_is_allowed_is_judged_and_leaves_no_file(self):
        before = self.daemon.outcomes().get("bad_body", 0)
        self.assertEqual(self.curl("--http2", data="x" * LIMIT_BYTES)[0], 400)
        self.assertEqual(self.curl("--http1.1", data=f'{{"payload":"{"x" * (LIMIT_BYTES - 20)}"}}')[0], 400)
        self.assertEqual(self.daemon.outcomes().get("bad_body", 0), before + 1)
        self.assertEqual(self.made()[self.made_before:], [])

    def test_half_a_body_is_given_up_and_never_acknowledged(self):
        """(The time that the proxy allows is shortened for this.)"""
        with self.connected() as stream:
            stream.sendall(f"POST {harness.PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 800\r\n\r\nx".encode())
            stream.settimeout(25)
            answer = stream.recv(65536)
        # nginx closes without a word
        self.assertIn(answer.split(b" ")[1:2], ([], [b"408"]))

    def test_without_the_daemon_apple_is_asked_to_come_again(self):
        def told():
            """One that answers before it has read the body may reset the stream: nobody takes that for an answer."""
            status = self.curl("--http2", data=self.notification())[0]
            self.assertIn(status, (502, 503, "reset"))
            return status != "reset"

        self.daemon.stop()
        try:
            harness.wait_until(told, "it is told so")
        finally:
            self.daemon.start()
        self.assertEqual(harness.wait_until(lambda: self.curl("--http2", data=self.notification()) == (200, "2"),
                                            "the proxy has found the daemon again"), True)

    @contextlib.contextmanager
    def connected(self):
        context = ssl.create_default_context(cafile=str(self.directory / "root.pem"))
        with contextlib.closing(harness.connect(f"127.0.0.1:{self.port}")) as plain:
            with context.wrap_socket(plain, server_hostname=HOST) as stream:
                yield stream

    def test_tls_1_2_or_later(self):
        def handshake(version):
            return subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-servername", HOST, "-CAfile",
                 self.directory / "root.pem", "-verify_return_error", f"-{version}", "-cipher", "DEFAULT:@SECLEVEL=0"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

        for version in ("tls1_2", "tls1_3"):
            with self.subTest(version=version):
                self.assertEqual(handshake(version).returncode, 0)
        old = handshake("tls1_1")
        self.assertNotEqual(old.returncode, 0)
        self.assertIn("alert protocol version", old.stderr)  # it is the server that refused

    def test_health_for_this_machine(self):
        self.assertEqual(self.curl(path="/healthz")[0], 200)

    def test_no_log_holds_a_body(self):
        body, marker = self.notification(), secrets.token_hex(12)
        self.assertEqual(self.curl("--http2", data=body)[0], 200)
        self.assertEqual(self.curl("--http2", data=f'{{"payload":"{marker}"}}')[0], 400)
        self.assertIn(self.curl("--http2", data=marker * 6000)[0], self.too_large)
        harness.wait_until(lambda: harness.PATH in self.logs() and "413" in self.logs(), "the log tells of the requests")
        for text in (body, marker, body[40:80]):
            self.assertNotIn(text, self.logs() + self.proxy.log())


class Nginx(Checks, unittest.TestCase):
    program, file = "nginx", "nginx.conf"

    @classmethod
    def command(cls):
        site = cls.shipped(("unix:/run/siwa-notifyd/notify.sock", 1, cls.daemon.address),
                           ("listen 443 ", 1, f"listen 127.0.0.1:{cls.port} "),
                           ("listen [::]:443 ", 1, f"listen unix:{cls.directory}/other.sock "),
                           ("/etc/letsencrypt/live/YOUR-HOST/fullchain.pem", 1, cls.directory / "fullchain.pem"),
                           ("/etc/letsencrypt/live/YOUR-HOST/privkey.pem", 1, cls.directory / "leaf.key"),
                           ("YOUR-HOST", 1, HOST), ("client_body_timeout 10s", 1, "client_body_timeout 2s"), ("/var/log/nginx/", 1, f"{cls.directory}/logs/"),
                           ("127.0.0.1:9180", 1, cls.daemon.settings["monitor"]))
        # what Debian's nginx.conf has around it, where it matters
        whole = cls.directory / "whole.conf"
        temporary = "".join(f"{kind}_temp_path {cls.directory}/{kind};\n"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user www-data;\n" if os.getuid() == 0 else ""
        whole.write_text(f"{user}daemon off;\npid {cls.directory}/nginx.pid;\nworker_processes 1;\n"
                         f"events {{ worker_connections 768; }}\nhttp {{\n{temporary}\ninclude {site};\n}}\n")
        return [harness.command_path("nginx"), "-p", cls.directory, "-c", whole, "-e", cls.directory / "logs/error.log"]

    def test_a_chunked_body_gets_a_length(self):
        self.assertEqual(self.curl("--http1.1", "-H", "Transfer-Encoding: chunked", data=self.notification())[0], 200)


class Readme(unittest.TestCase):
    """The location that README.md gives to those who have an nginx."""

    def test_it_takes_a_notification(self):
        text = (harness.ROOT / "README.md").read_text()
        location = re.search(r"^ *(location = /apple/notifications \{.*?\})", text, re.M | re.S).group(1)
        apple = harness.Apple()
        with harness.Daemon(apple) as daemon:
            self.assertIn("unix:/run/siwa-notifyd/notify.sock", location)
            location = location.replace("unix:/run/siwa-notifyd/notify.sock", daemon.address)
            with harness.Nginx(daemon.address, daemon.directory, location=f"return 404; }}\n{location}\nlocation /x {{") as proxy:
                body = apple.body(apple.notification("account-delete"))
                self.assertEqual(daemon.post(body, address=proxy.address)[0], 200)
                self.assertEqual(len(daemon.rows()), 1)
                self.assertEqual(daemon.post(body, path="/other", address=proxy.address)[0], 404)


class Haproxy(Checks, unittest.TestCase):
    program, file = "haproxy", "haproxy.cfg"
    too_large = (413, RESET)  # over HTTP/2 it resets the stream instead of waiting for the rest of the body

    @classmethod
    def command(cls):
        cls.socket = cls.enterClassContext(LogSocket(cls.directory / "log.sock"))
        whom = [("    user haproxy\n", 1, ""), ("    group haproxy\n", 1, "")] if os.getuid() else []
        config = cls.shipped(("unix@/run/siwa-notifyd/notify.sock", 1, cls.daemon.address.replace("unix:", "unix@")),
                             ("bind :443,[::]:443 v6only ", 1, f"bind 127.0.0.1:{cls.port} "),
                             ("/etc/haproxy/certs/YOUR-HOST.pem", 1, cls.directory / "pair.pem"),
                             ("wait-for-body time 10s", 1, "wait-for-body time 2s"), ("log /dev/log ", 1, f"log {cls.directory}/log.sock "),
                             ("check addr 127.0.0.1 port 9180", 1,
                              f"check addr 127.0.0.1 port {cls.daemon.settings['monitor'].split(':')[1]}"),
                             ("127.0.0.1:9180", 1, cls.daemon.settings["monitor"]), *whom)
        return [harness.command_path("haproxy"), "-f", config]

    def logs(self):
        return "\n".join(self.socket.lines)

    def test_a_chunked_body_is_told_to_have_a_length(self):
        before = self.refused()  # HAProxy says so
        self.assertEqual(self.curl("--http1.1", "-H", "Transfer-Encoding: chunked", data=self.notification())[0], 411)
        self.assertEqual(self.refused(), before)


class Caddy(Checks, unittest.TestCase):
    program, file = "caddy", "Caddyfile"
    too_large = (413, RESET)
    limits = {"request_s": 4, "headers_s": 4}

    @classmethod
    def command(cls):
        config = cls.shipped(("unix//run/siwa-notifyd/notify.sock", 1, cls.daemon.address.replace("unix:", "unix/")),
                             ("{\n\tservers {", 1, f"{{\n\tadmin unix/{cls.directory}/admin.sock\n\thttp_port "
                                                   f"{harness.free_port()}\n\tauto_https disable_redirects\n\tservers {{"),
                             ("\nYOUR-HOST {", 1, f"\nhttps://{HOST}:{cls.port} {{\n\ttls {cls.directory}/fullchain.pem "
                                                  f"{cls.directory}/leaf.key\n\tbind 127.0.0.1\n"),
                             ("/var/log/caddy/", 1, f"{cls.directory}/logs/"),
                             ("127.0.0.1:9180", 1, cls.daemon.settings["monitor"]))
        return [harness.command_path("caddy"), "run", "--config", config, "--adapter", "caddyfile"]

    def test_a_chunked_body_is_refused(self):
        self.assertIn(self.curl("--http1.1", "-H", "Transfer-Encoding: chunked", data=self.notification())[0], (400, 411))

    def test_half_a_body_is_given_up_and_never_acknowledged(self):
        """The daemon gives it up; Caddy waits on, for the client to end it, and must not have said 200 by then."""
        with self.connected() as stream:
            stream.sendall(f"POST {harness.PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 800\r\n\r\nx".encode())
            refused = self.refused()
            harness.wait_until(lambda: self.refused() > refused, "the daemon gives it up")
            stream.settimeout(1)
            with contextlib.suppress(TimeoutError):
                self.assertIn(stream.recv(65536).split(b" ")[1:2], ([], [b"502"]))
