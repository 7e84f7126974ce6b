"""What the integration tests share: someone who signs as Apple does, the real daemon, and the proxies in front of it.

Only the standard library, the `openssl` command and its library: nothing of the daemon's own code, so that a mistake of
ours cannot hide in both. Every part lives in a directory of its own and listens on unix sockets in it (or on a port that the kernel
chose), so that test runs can go side by side.

    apple = Apple()
    with Daemon(apple) as daemon:
        status, word = daemon.post(apple.body(apple.notification("consent-revoked")))
        rows = daemon.rows()

Environment: SIWA_BUILD is the build directory (default `build`), VECTORS_DIR the test vectors (default
`../shared/vectors`).
"""

import base64
import collections
import contextlib
import ctypes
import functools
import glob
import http.client
import json
import os
import pathlib
import re
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = (ROOT / os.environ.get("SIWA_BUILD", "build")).resolve()
PROGRAM = BUILD / "siwa-notifyd"
VECTORS = (ROOT / os.environ.get("VECTORS_DIR", "../shared/vectors")).resolve()

# A sanitised daemon on a busy machine is slow; this only bounds how long a broken one can hold a run up.
PATIENCE_S = 60

CLIENT_ID = "com.example.app"
ISSUER = "https://appleid.apple.com"
PATH = "/apple/notifications"
TYPES = ("email-enabled", "email-disabled", "consent-revoked", "account-delete")

OMIT = object()  # as the value of a claim or setting: leave it out
SANITISER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:")


def vectors(*parts):
    """A file or folder of the test vectors; skips the test where they are absent."""
    if not VECTORS.is_dir():
        raise unittest.SkipTest("the test vectors are not here (VECTORS_DIR)")
    return VECTORS.joinpath(*parts)


def need(*commands):
    """Skips the test where a command is missing."""
    for command in commands:
        if not shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            raise unittest.SkipTest(f"{command} is not installed")


def command_path(command):
    need(command)
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def wait_until(condition, what, seconds=PATIENCE_S):
    """Waits until condition() is true (and returns what it gave), or fails the test. Never a bare sleep."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


class Running:
    """A clock that stands still when the machine does: seconds as time.monotonic() counts them, but for pauses in which not even
    a thread that only looks at the clock came to run. What takes long while the machine runs takes as long by it."""

    LOOK_S = 0.02
    PAUSE_S = 0.25  # less is a busy machine, and counts

    def __init__(self):
        self.lock = threading.Lock()
        self.looked = time.monotonic()
        self.stood = 0.0
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while True:
            time.sleep(self.LOOK_S)
            self.seconds()

    def seconds(self):
        with self.lock:
            now = time.monotonic()
            pause = now - self.looked - self.LOOK_S
            if pause > self.PAUSE_S:
                self.stood += pause
            self.looked = now
            return now - self.stood

    @classmethod
    @functools.cache
    def clock(cls):
        """The one for all, which looks from the first time on that somebody asks."""
        return cls()


def running_s():
    return Running.clock().seconds()


reserved = []


def free_port():
    """A TCP port that is given to nobody else while this process lives: it stays bound here, without listening. Whoever listens
    on it says SO_REUSEADDR, as every server does. Prefer unix sockets."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    reserved.append(probe)
    return probe.getsockname()[1]


# ---------------------------------------------------------------------------------------------------------- Apple


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def base64url_decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def openssl(*arguments, data=None):
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout


class Signer:
    """Signs RS256 with a private key. OpenSSL's library itself: thousands of `openssl dgst` would take minutes."""

    library = None

    @classmethod
    def load(cls):
        library = ctypes.CDLL("libcrypto.so.3")
        pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for name, result, arguments in (
                ("BIO_new_mem_buf", pointer, [ctypes.c_char_p, integer]),
                ("BIO_free", integer, [pointer]),
                ("PEM_read_bio_PrivateKey", pointer, [pointer] * 4),
                ("EVP_PKEY_free", None, [pointer]),
                ("EVP_sha256", pointer, []),
                ("EVP_MD_CTX_new", pointer, []),
                ("EVP_MD_CTX_free", None, [pointer]),
                ("EVP_DigestSignInit", integer, [pointer] * 5),
                ("EVP_DigestSign", integer, [pointer, ctypes.c_char_p, ctypes.POINTER(size), ctypes.c_char_p, size])):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        return library

    def __init__(self, pem):
        if Signer.library is None:
            Signer.library = self.load()
        stream = self.library.BIO_new_mem_buf(pem, len(pem))
        self.key = self.library.PEM_read_bio_PrivateKey(stream, None, None, None)
        self.library.BIO_free(stream)
        if not self.key:
            raise AssertionError("not a private key")

    def __del__(self):
        if getattr(self, "key", None):
            self.library.EVP_PKEY_free(self.key)

    def sign(self, data):
        signature = ctypes.create_string_buffer(1024)
        length = ctypes.c_size_t(len(signature))
        context = self.library.EVP_MD_CTX_new()
        done = self.library.EVP_DigestSignInit(context, None, self.library.EVP_sha256(), None, self.key) == 1 and \
            self.library.EVP_DigestSign(context, signature, ctypes.byref(length), data, len(data)) == 1
        self.library.EVP_MD_CTX_free(context)
        if not done:
            raise AssertionError("OpenSSL does not sign")
        return signature.raw[:length.value]


class Key:
    """A key pair that signs RS256."""

    def __init__(self, kid, directory, bits=2048, exponent=65537):
        self.kid = kid
        self.file = pathlib.Path(directory) / f"key-{secrets.token_hex(8)}.pem"
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}",
                "-pkeyopt", f"rsa_keygen_pubexp:{exponent}", "-out", self.file)
        modulus = openssl("rsa", "-in", self.file, "-noout", "-modulus").decode().strip().partition("=")[2]
        self.modulus = bytes.fromhex(modulus)
        self.exponent = exponent
        self.signer = Signer(self.file.read_bytes())

    def sign(self, data):
        return self.signer.sign(data)

    def jwk(self, **changes):
        exponent = self.exponent.to_bytes((self.exponent.bit_length() + 7) // 8, "big")
        jwk = {"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256",
               "n": base64url(self.modulus), "e": base64url(exponent), **changes}
        return {name: value for name, value in jwk.items() if value is not OMIT}


class Apple:
    """Signs notifications the way Apple does, with keys of its own. apple.keys[0] signs unless told otherwise."""

    def __init__(self, *kids, directory=None):
        self._directory = None
        if directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="siwa-apple-")
            directory = self._directory.name
        self.directory = pathlib.Path(directory)
        self.keys = []
        for kid in kids or ("TESTKEY001",):
            self.add_key(kid)

    def add_key(self, kid, **how):
        key = Key(kid, self.directory, **how)
        self.keys.append(key)
        return key

    def key_set(self, keys=None):
        """The key set as published: a JSON text."""
        return json.dumps({"keys": [key.jwk() for key in (self.keys if keys is None else keys)]})

    def mint(self, claims, header=None, key=None):
        """A compact JWS. claims and header are objects, or texts and bytes that are signed as they are."""
        key = key or self.keys[0]
        if header is None:
            header = {"kid": key.kid, "alg": "RS256"}
        parts = []
        for part in (header, claims):
            if not isinstance(part, (str, bytes)):
                part = json.dumps(part, separators=(",", ":"))
            parts.append(base64url(part.encode() if isinstance(part, str) else part))
        signing_input = ".".join(parts)
        return signing_input + "." + base64url(key.sign(signing_input.encode()))

    @staticmethod
    def claims(kind="consent-revoked", event=None, shape="string", now=None, **changes):
        """The claims of one notification as Apple writes them. event changes members of the event, changes those of
        the claims; OMIT leaves one out. shape is that of `events`: "string" (what Apple sends), "object", "array"."""
        now = int(time.time()) if now is None else int(now)
        members = {"type": kind, "sub": f"000000.{secrets.token_hex(16)}.0000", "event_time": (now - 10) * 1000}
        if kind.startswith("email-"):
            members.update(email=f"{secrets.token_hex(5)}@relay.invalid", is_private_email="true")
        members.update(event or {})
        members = {name: value for name, value in members.items() if value is not OMIT}
        events = {"string": json.dumps(members), "object": members, "array": [members]}[shape]
        claims = {"iss": ISSUER, "aud": CLIENT_ID, "exp": now + 86400, "iat": now,
                  "jti": base64url(secrets.token_bytes(16)), "events": events}
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not OMIT}

    def notification(self, kind="consent-revoked", *, header=None, key=None, **changes):
        """A signed notification: a token. See claims."""
        return self.mint(self.claims(kind, **changes), header=header, key=key)

    @staticmethod
    def body(token):
        """The body of Apple's POST, byte for byte its shape."""
        return '{"payload":"' + token + '"}'


# --------------------------------------------------------------------------------------------------- configuration


def setting(value):
    """A value in the syntax of libconfig."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}L" if abs(value) > 0x7FFFFFFF else str(value)
    if isinstance(value, dict):
        return "{ " + " ".join(f"{name} = {setting(item)};" for name, item in value.items() if item is not OMIT) + " }"
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, dict) for item in value):
            return "( " + ", ".join(map(setting, value)) + " )"
        return "[ " + ", ".join(map(setting, value)) + " ]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def configuration(settings):
    return "".join(f"{name} = {setting(value)};\n" for name, value in settings.items() if value is not OMIT)


# ------------------------------------------------------------------------------------------------------------ HTTP


class Connection(http.client.HTTPConnection):
    """http.client to an address as the configuration writes it: unix:/path or 127.0.0.1:8080."""

    def __init__(self, address, timeout=PATIENCE_S):
        self.address = address
        super().__init__("localhost", timeout=timeout)

    def connect(self):
        self.sock = connect(self.address, self.timeout)


def connect(address, timeout=PATIENCE_S):
    """A connected stream socket."""
    if address.startswith("unix:"):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target = address[len("unix:"):]
    else:
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        host, _, port = address.rpartition(":")
        target = (host, int(port))
    stream.settimeout(timeout)
    try:
        stream.connect(target)
    except OSError:
        stream.close()
        raise
    return stream


Reply = collections.namedtuple("Reply", "status body headers")


def request(address, method, path, body=None, headers=None, timeout=PATIENCE_S):
    """One request on a connection of its own."""
    with contextlib.closing(Connection(address, timeout)) as connection:
        connection.request(method, path, body=body.encode() if isinstance(body, str) else body, headers=headers or {})
        reply = connection.getresponse()
        return Reply(reply.status, reply.read().decode(errors="replace"), reply.headers)


def exchange(address, data, timeout=10, shut=False):
    """Sends bytes as they are and reads until the other side closes (or timeout seconds pass without a byte)."""
    answer = b""
    with connect(address, timeout) as stream:
        with contextlib.suppress(ConnectionError):  # it may have closed already, with its answer on the way
            stream.sendall(data)
            if shut:
                stream.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                piece = stream.recv(65536)
                if not piece:
                    break
                answer += piece
    return answer


# ---------------------------------------------------------------------------------------------------------- metrics


class Metrics:
    """A parsed Prometheus text."""

    LINE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.text = text
        self.samples = {}
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = self.LINE.match(line)
            if not match:
                raise AssertionError(f"not a line of metrics: {line!r}")
            name, labels, value = match.groups()
            self.samples[name, frozenset(self.LABEL.findall(labels or ""))] = float(value)

    def value(self, name, **labels):
        """The sample with exactly these labels, or None."""
        return self.samples.get((name, frozenset(labels.items())))

    def total(self, name, **labels):
        """The sum over all samples that have at least these labels."""
        wanted = set(labels.items())
        return sum(value for (sample, have), value in self.samples.items() if sample == name and wanted <= have)


def outcomes_of(metrics):
    """How many notifications ended how: {"accepted": 3, …}, zeros left out."""
    outcomes = collections.Counter()
    for (name, labels), value in metrics.samples.items():
        if name == "siwa_notifications_total" and value:
            outcomes[dict(labels)["outcome"]] += int(value)
    return dict(outcomes)


# --------------------------------------------------------------------------------------------------------- processes


def fake_time_library():
    if sanitised() == "thread":
        raise unittest.SkipTest("the fake clock hides waits from ThreadSanitizer, which then sees races that are none")
    for pattern in ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1"):
        for path in glob.glob(pattern):
            return path
    raise unittest.SkipTest("faketime is not installed")


def sanitised():
    """Which sanitiser the build carries: "address", "thread" or None."""
    with open(PROGRAM, "rb") as program:
        data = program.read()
    if b"__asan_init" in data:
        return "address"
    if b"__tsan_init" in data:
        return "thread"
    return None


def end_of(process, number):
    """The exit code of a command that was sent the signal. ThreadSanitizer's runtime loses one now and then (3 of 400 with a
    program of ten lines), so that under it the signal is sent again until the command ends."""
    lossy = sanitised() == "thread"
    for _ in range(PATIENCE_S - 1 if lossy else 0):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1)
        process.send_signal(number)
    return process.wait(1 if lossy else PATIENCE_S)


# Gives descriptors to the program in its arguments as the service manager does (sd_listen_fds(3)).
HAND_OVER = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 64) for fd in sys.argv[1].split(",")]
for place, fd in enumerate(high, 3):
    os.dup2(fd, place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """The service manager's end of NOTIFY_SOCKET. It reads all the time, as the real one does: whom nobody hears has to
    wait."""

    def __init__(self, path):
        self.lines = []
        self.lock = threading.Lock()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path.unlink(missing_ok=True)  # of another Daemon in this directory
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.end = os.eventfd(0)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self.end, select.POLLIN)
        while not any(fd == self.end for fd, _ in poll.poll()):
            self.states()

    def states(self):
        """All lines that were sent so far."""
        with self.lock, contextlib.suppress(BlockingIOError):
            while True:
                self.lines += self.socket.recv(65536).decode().splitlines()
        return list(self.lines)

    def stop_reading(self):
        os.eventfd_write(self.end, 1)
        self.thread.join(PATIENCE_S)

    def close(self):
        self.stop_reading()
        self.socket.close()
        os.close(self.end)


class Process:
    """A program under test in the foreground of a directory: its standard error goes to a file."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.name = name
        self.process = None
        self.log_file = self.directory / f"{name}.log"

    def spawn(self, arguments, **how):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(list(map(str, arguments)), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.directory, **how)

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def require_running(self):
        if not self.running():
            code = self.process.returncode if self.process else None
            raise AssertionError(f"{self.name} ended with {code}:\n{self.log()[-4000:]}")

    def end(self, signal_number, seconds=PATIENCE_S):
        """Sends a signal, waits, returns the exit status."""
        if self.running():
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.log()[-4000:]}") from None


class Daemon(Process):
    """The real daemon with a configuration, a database and sockets of its own.

    apple      whose keys it trusts: an Apple, or a path of a key set
    apps       the `apps` setting; default: CLIENT_ID
    settings   changes to the configuration: {"late": "reject", "limits": {"leeway_s": 0}, "control": OMIT, …}
    tcp        listen on a TCP port as well chosen by the kernel instead of a unix socket
    fake_time  "2020-12-23 10:00:00" (UTC) or seconds since 1970: where its wall clock starts; it goes on from there
    directory  of another Daemon: go on with its database
    handed     listening sockets to hand over as systemd would, by name: {"notify": socket, …}
    program, prefix, environment   another build, a command in front (strace …), more environment
    """

    def __init__(self, apple, *, apps=None, settings=None, tcp=False, fake_time=None, directory=None, handed=None,
                 environment=None, prefix=(), program=None):
        self._directory = None
        if directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="siwa-", ignore_cleanup_errors=True)
            directory = self._directory.name
        super().__init__(directory, "daemon")
        self.program = pathlib.Path(program or PROGRAM)
        self.prefix = list(prefix)
        self.environment = dict(environment or {})
        self.handed = dict(handed or {})
        self.fake_time = fake_time
        self.database = self.directory / "outbox.db"
        self.config_file = self.directory / "siwa-notifyd.conf"
        self.key_file = self.directory / "key-set.json"
        if isinstance(apple, Apple):
            self.publish(apple.key_set())
        else:
            self.key_file = pathlib.Path(apple)
        self.settings = {
            "listen": f"127.0.0.1:{free_port()}" if tcp else f"unix:{self.directory}/notify.sock",
            "path": PATH,
            "monitor": f"unix:{self.directory}/monitor.sock",
            "control": f"unix:{self.directory}/control.sock",
            "database": str(self.database),
            "keys": f"file:{self.key_file}",
            "apps": [{"client_id": CLIENT_ID, "app": "Example", "team": "ABCDE12345"}] if apps is None else apps,
            **(settings or {}),
        }
        self.manager = None

    # configuration and keys

    def publish(self, key_set):
        """Replaces the key set that `keys = "file:…"` reads, in one step."""
        fresh = self.key_file.with_suffix(".new")
        fresh.write_text(key_set)
        fresh.rename(self.key_file)

    def write_config(self):
        self.config_file.write_text(configuration(self.settings))

    # life

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        try:
            if self.running():
                if kind is None:
                    self.stop()
                else:
                    self.kill9()
                    print(f"log of the daemon:\n{self.log()[-4000:]}")
        finally:
            self.release()

    def release(self):
        if self.manager:
            self.manager.close()
            self.manager = None
        if self._directory:
            self._directory.cleanup()

    def full_environment(self):
        environment = {**os.environ, **self.environment}
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"):
            if name not in self.environment:
                environment.pop(name, None)
        if self.fake_time is not None:
            start = self.fake_time
            if not isinstance(start, str):
                start = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(start))
            environment.update(LD_PRELOAD=fake_time_library(), FAKETIME=f"@{start}", TZ="UTC", DONT_FAKE_MONOTONIC="1",
                               FAKETIME_DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1")
            environment["ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return environment

    def spawn_daemon(self, write_config=True):
        """Starts without waiting for READY."""
        if write_config:
            self.write_config()
        notify = self.directory / "manager.sock"
        if self.manager:
            self.manager.close()
        self.manager = Manager(notify)
        environment = self.full_environment()
        environment["NOTIFY_SOCKET"] = str(notify)
        command = [*self.prefix, self.program, "serve", "--config", self.config_file]
        descriptors = [handed.fileno() for handed in self.handed.values()]
        if descriptors:
            environment.update(LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=":".join(self.handed))
            command = [sys.executable, "-c", HAND_OVER, ",".join(map(str, descriptors)), *command]
        self.spawn(command, env=environment, pass_fds=descriptors)

    def start(self, seconds=PATIENCE_S):
        """Starts and waits for READY=1 to the service manager; where the keys are in a file, also for the first look into it, which
        may come after that, and which whoever asks for a refresh would share."""
        self.spawn_daemon()

        def ready():
            if self.notified("READY=1"):
                return True
            self.require_running()
            return False

        try:
            wait_until(ready, "READY=1", seconds)
        except AssertionError:
            if self.running():
                self.kill9()
            raise
        keys, control = (str(self.settings.get(name)) for name in ("keys", "control"))
        if keys.startswith("file:") and control.startswith("unix:"):
            wait_until(self.looked_for_keys, "the first look into the file of keys", seconds)
        return self

    def looked_for_keys(self):
        """Whether no attempt to refresh is under way or still to begin: what was saved may do for now."""
        state = json.loads(self.control("GET", "/v1/state").body)
        return state["refresh"]["attempts"] > 0 or (state["keys"]["usable"] and not state["refresh"]["in_flight"])

    def notify_states(self):
        """All lines that the daemon has sent to its service manager since its last start."""
        return self.manager.states()

    def notified(self, line):
        return line in self.notify_states()

    def run_to_end(self, seconds=PATIENCE_S):
        """Starts a daemon that should refuse to run; returns its exit status. What it said is in log()."""
        self.spawn_daemon()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the daemon runs, but should have refused:\n{self.log()[-4000:]}") from None

    def stop(self):
        """SIGTERM: the daemon must end with 0, and a sanitiser must have had nothing to say."""
        status = self.end(signal.SIGTERM)
        log = self.log()
        if status != 0:
            raise AssertionError(f"the daemon stopped with {status}:\n{log[-4000:]}")
        if SANITISER.search(log):
            raise AssertionError(f"the sanitiser reports:\n{log[-8000:]}")

    def kill9(self):
        if self.running():
            self.end(signal.SIGKILL)

    def restart(self, **changes):
        """Stops and starts again; changes are attributes (fake_time=…) set in between."""
        if self.running():
            self.stop()
        for name, value in changes.items():
            setattr(self, name, value)
        return self.start()

    # Apple's path

    @property
    def address(self):
        return self.settings["listen"]

    def post(self, body, path=PATH, headers=None, address=None):
        """POSTs a body; (status, text of the reply)."""
        reply = request(address or self.address, "POST", path, body,
                        {"Content-Type": "application/json", **(headers or {})})
        return reply.status, reply.body.strip()

    # the monitor and the control socket

    def get(self, path, listener="monitor"):
        return request(self.settings[listener], "GET", path)

    def control(self, method, path, body=None, headers=None):
        return request(self.settings["control"], method, path, body, headers)

    def metrics(self):
        reply = self.get("/metrics")
        if reply.status != 200:
            raise AssertionError(f"/metrics: {reply.status}")
        return Metrics(reply.body)

    def outcomes(self):
        return outcomes_of(self.metrics())

    # the outbox, as a consumer sees it

    def query(self, statement, *parameters):
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, parameters)]

    def rows(self, after=0):
        """The rows of the view `outbox`."""
        return self.query("SELECT * FROM outbox WHERE id > ? ORDER BY id", after)

    def killed_with_a_log(self, commits):
        """Kills it; whether that left so many commits in the write-ahead log, which is emptied soon after a start. If not it runs
        again."""
        self.kill9()
        log = pathlib.Path(f"{self.database}-wal").read_bytes()
        frames = (log[at:at + 24] for at in range(32, len(log), 24 + 4096))
        if sum(1 for frame in frames if frame[8:16] == log[16:24] and any(frame[4:8])) >= commits:
            return True
        self.start()
        return False

    # the other subcommands

    def command(self, *arguments, data=None, check=None, environment=None):
        """Runs `siwa-notifyd SUBCOMMAND --config … …` and returns what subprocess.run returns, as text."""
        self.write_config()
        subcommand, *rest = arguments
        done = subprocess.run([str(self.program), subcommand, "--config", str(self.config_file), *map(str, rest)],
                              input=data, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
                              env={**self.full_environment(), **(environment or {})})
        if check is not None and done.returncode != check:
            raise AssertionError(f"{subcommand} ended with {done.returncode}, not {check}:\n{done.stdout}{done.stderr}")
        return done


class Proxy(Process):
    """A proxy in front of an address, on a unix socket of its own."""

    def __init__(self, name, upstream, directory):
        super().__init__(directory, name)
        self.upstream = upstream
        self.socket = self.directory / f"{name}.sock"
        self.address = f"unix:{self.socket}"

    def __enter__(self):
        self.launch()

        def listening():
            self.require_running()
            with contextlib.suppress(OSError):
                connect(self.address).close()
                return True
            return False

        wait_until(listening, f"{self.name} listens")
        return self

    def __exit__(self, *_):
        self.end(signal.SIGTERM)


class Nginx(Proxy):
    """The real nginx."""

    def __init__(self, upstream, directory, location=""):
        super().__init__("nginx", upstream, directory)
        self.location = location

    def launch(self):
        program = command_path("nginx")
        upstream = self.upstream + ":" if self.upstream.startswith("unix:") else self.upstream
        config = self.directory / "nginx.conf"
        user = "user root;\n" if os.getuid() == 0 else ""  # the workers must reach sockets in our directory
        config.write_text(f"""{user}daemon off;
pid {self.directory}/nginx.pid;
error_log {self.directory}/nginx-error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {self.directory}/nginx-body;
    proxy_temp_path {self.directory}/nginx-proxy;
    fastcgi_temp_path {self.directory}/nginx-fastcgi;
    uwsgi_temp_path {self.directory}/nginx-uwsgi;
    scgi_temp_path {self.directory}/nginx-scgi;
    server {{
        listen unix:{self.socket};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {self.location}
        }}
    }}
}}
""")
        self.spawn([program, "-p", self.directory, "-c", config, "-e", self.directory / "nginx-error.log"])


class Haproxy(Proxy):
    """The real HAProxy."""

    def __init__(self, upstream, directory, rules=""):
        super().__init__("haproxy", upstream, directory)
        self.rules = rules

    def launch(self):
        program = command_path("haproxy")
        upstream = self.upstream.replace("unix:", "unix@", 1)
        config = self.directory / "haproxy.cfg"
        config.write_text(f"""global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen front
    bind unix@{self.socket}
    {self.rules}
    server daemon {upstream}
""")
        self.spawn([program, "-f", config])
