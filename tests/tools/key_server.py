#!/usr/bin/env python3
"""A key server that misbehaves in every way a key server can, on loopback, with certificates of its own authority.

How it misbehaves over HTTP is chosen by the path, how it misbehaves below by the port. As a program it makes everything
in the directory it is given, prints `NAME VALUE` lines (ports, then files) and one `ready`, and serves until its
standard input ends. As a module it is KeyServer.

Only the standard library and the `openssl` command.
"""

import base64
import contextlib
import http.server
import json
import pathlib
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import warnings

PIECE = b" " * 65536
LARGE_BYTES = 10 * 1024 * 1024
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")  # made in no time, as an RSA key is not


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Authority:
    """A certificate authority of openssl commands."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.key = self.directory / f"{name}.key"
        self.certificate = self.directory / f"{name}.pem"
        openssl("req", "-x509", *NEW_KEY, "-nodes", "-keyout", self.key, "-out", self.certificate,
                "-days", "2", "-subj", f"/CN={name}")

    def issue(self, name, subject_alt_name, days=1):
        """The path of a chain file: key and certificate."""
        key, request, chain = (self.directory / f"{name}{end}" for end in (".key", ".csr", ".chain"))
        openssl("req", *NEW_KEY, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}",
                "-addext", f"subjectAltName={subject_alt_name}")
        certificate = openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
                              "-set_serial", str(abs(hash(name))), "-days", str(days), "-copy_extensions", "copy")
        chain.write_bytes(key.read_bytes() + certificate)
        return chain


def make_jwk(directory, kid, bits=2048):
    """A public key as a key set names it."""
    key = pathlib.Path(directory) / f"jwk-{kid}.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-out", key)
    modulus = openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().partition("=")[2]
    return {"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": base64url(bytes.fromhex(modulus)),
            "e": "AQAB"}


class Handler(http.server.BaseHTTPRequestHandler):
    """One way to misbehave for each path. protocol_version is HTTP/1.0's close at the end, always."""

    timeout = 60

    def log_message(self, *arguments):
        pass

    def do_GET(self):  # the library's spelling
        self.server.owner.asked.append((self.path, dict(self.headers)))
        self.behave(self.path)

    def behave(self, path):
        name = "live" if path.startswith("/live/") else path.strip("/").replace("-", "_")
        behaviour = getattr(self, f"get_{name}", None)
        if behaviour is None:
            self.answer(404, self.server.owner.good)
        else:
            behaviour()

    def answer(self, status, body, length=None, **headers):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def start(self, **headers):
        """An answer without a length."""
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    # Well-behaved in unusual ways.

    def get_good(self):
        self.answer(200, self.server.owner.good)

    def get_live(self):
        owner = self.server.owner
        behaviour = owner.live_paths.get(self.path, owner.live_path)
        if behaviour is None:
            self.answer(200, owner.live)
        else:
            self.behave(behaviour)

    def get_unannounced(self):
        self.start()
        self.wfile.write(self.server.owner.good.encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def chunked(self, *pieces):
        self.protocol_version = "HTTP/1.1"
        self.start(Transfer_Encoding="chunked", Connection="close")
        for piece in pieces:
            self.chunk(piece)

    def get_chunked(self):
        good = self.server.owner.good.encode()
        self.chunked(good[:10], good[10:])
        self.chunk(b"")

    # Slow.

    def hang(self):
        self.wfile.flush()
        self.server.owner.over.wait(60)

    def get_hang(self):
        self.hang()

    def get_hang_after_headers(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.hang()

    def drip(self, data, seconds):
        for place in range(len(data)):
            self.wfile.write(data[place:place + 1])
            self.wfile.flush()
            if self.server.owner.over.wait(seconds):
                return

    def get_drip(self):
        self.start()
        self.drip(self.server.owner.good.encode(), 1)

    def get_drip_fast(self):
        self.start()
        self.drip(self.server.owner.good.encode() * 1000, 0.01)

    def get_drip_headers(self):
        self.send_response(200)
        self.flush_headers()
        self.drip(b"X-Slow: y\r\n" * 10000, 0.01)

    # Large.

    def get_large(self):
        self.answer(200, PIECE * (LARGE_BYTES // len(PIECE)))

    def get_large_unannounced(self):
        self.start()
        for _ in range(LARGE_BYTES // len(PIECE)):
            self.wfile.write(PIECE)

    def get_large_chunked(self):
        self.chunked(*[PIECE] * (LARGE_BYTES // len(PIECE)))

    def get_large_headers(self):
        self.send_response(200)
        self.flush_headers()
        for _ in range(LARGE_BYTES // 1024):
            self.wfile.write(b"X-Large: " + b"y" * 1013 + b"\r\n")
        self.end_headers()
        self.wfile.write(self.server.owner.good.encode())

    # Cut short.

    def get_truncated(self):
        good = self.server.owner.good.encode()
        self.answer(200, good[:-1], length=len(good))

    def get_truncated_blanks(self):
        """What is missing is white space: the part that came is a whole set."""
        good = self.server.owner.good.encode()
        self.answer(200, good, length=len(good) + 1)

    def get_truncated_chunks(self):
        self.chunked(self.server.owner.good.encode())

    def get_nothing(self):
        pass

    # Not a set.

    def get_garbage(self):
        self.answer(200, bytes(range(256)))

    def get_html(self):
        self.answer(200, "<html><body>Sign in to the hotel's network</body></html>")

    def get_empty(self):
        self.answer(200, b"")

    def get_empty_set(self):
        self.answer(200, '{"keys":[]}')

    def get_duplicate_kid(self):
        first, second = self.server.owner.jwks[:2]
        self.answer(200, json.dumps({"keys": [first, {**second, "kid": first["kid"]}]}))

    def get_weak(self):
        self.answer(200, json.dumps({"keys": [self.server.owner.weak]}))

    # Not a 200.

    def get_redirect(self):
        self.answer(302, "", Location="/good")

    def get_redirect_with_set(self):
        self.answer(301, self.server.owner.good, Location="/good")

    def get_partial(self):
        self.answer(206, self.server.owner.good)

    def get_not_found(self):
        self.answer(404, self.server.owner.good)

    def get_broken(self):
        self.answer(500, self.server.owner.good)

    def get_no_http(self):
        self.wfile.write(self.server.owner.good.encode())

    def get_http09(self):
        self.wfile.write(b"hello\r\n" + self.server.owner.good.encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, owner, context):
        self.owner = owner
        self.context = context
        super().__init__(("127.0.0.1", 0), Handler)

    def finish_request(self, request, client_address):
        """In the thread of the connection: the handshake may hang or fail like the rest."""
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as stream:
            super().finish_request(stream, client_address)
            with contextlib.suppress(OSError):
                stream.unwrap()

    def handle_error(self, request, client_address):
        pass  # a client that leaves early is what is wanted


def tls(chain):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def tls_1_1(chain):
    """A context that speaks no more than TLS 1.1, or None where this OpenSSL cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server = tls(chain)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        for context in (server, client):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
    here, there = socket.socketpair()
    with here, there:
        def answer():
            with contextlib.suppress(OSError), server.wrap_socket(there, server_side=True) as stream:
                stream.recv(1)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            with client.wrap_socket(here) as stream:
                speaks = stream.version() == "TLSv1.1"
                stream.send(b"x")
        except OSError:
            speaks = False
    return server if speaks else None


class KeyServer:
    """All of it. ports: good, expired, other_host, wrong_ca, plain, silent, down, and tls_1_1 where that can be served.
    good is the key set it publishes at /good. /live and whatever is below it give `live`, which may be set at will, or
    behave as the path `live_path`; one path below /live as live_paths says of it. asked lists (path, headers)."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.over = threading.Event()
        self.asked = []
        self.live_path = None
        self.live_paths = {}
        self.jwks = [make_jwk(directory, kid) for kid in ("NEWKEY0001", "NEWKEY0002")]
        self.weak = make_jwk(directory, "WEAKKEY001", bits=1024)
        self.good = self.live = json.dumps({"keys": self.jwks})
        authority, stranger = Authority(directory, "authority"), Authority(directory, "stranger")
        self.ca_file = authority.certificate
        here = authority.issue("here", "IP:127.0.0.1,DNS:localhost")
        contexts = {
            "good": tls(here),
            "expired": tls(authority.issue("expired", "IP:127.0.0.1", days=-1)),
            "other_host": tls(authority.issue("other", "DNS:other.example,IP:127.0.0.2")),
            "wrong_ca": tls(stranger.issue("strange", "IP:127.0.0.1")),
            "tls_1_1": tls_1_1(here),
            "plain": None,
        }
        if contexts["tls_1_1"] is None:
            del contexts["tls_1_1"]
        self.servers = {name: Server(self, context) for name, context in contexts.items()}
        self.ports = {name: server.server_address[1] for name, server in self.servers.items()}
        # Accepts (the kernel does) and never says a word.
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.ports["silent"] = self.silent.getsockname()[1]
        # Bound, so that nobody else gets the port, and not listening.
        self.down = socket.socket()
        self.down.bind(("127.0.0.1", 0))
        self.ports["down"] = self.down.getsockname()[1]
        for server in self.servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path="/good", port="good"):
        return f"https://127.0.0.1:{self.ports[port]}{path}"

    def asked_for(self, path):
        return sum(asked == path for asked, _ in list(self.asked))

    def close(self):
        self.over.set()
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
        self.silent.close()
        self.down.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def main():
    if len(sys.argv) != 2 or not pathlib.Path(sys.argv[1]).is_dir():
        sys.exit("usage: key_server.py DIRECTORY")
    with KeyServer(sys.argv[1]) as server:
        (server.directory / "good.json").write_text(server.good)
        for name, port in server.ports.items():
            print(name, port)
        print("ca_file", server.ca_file)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
