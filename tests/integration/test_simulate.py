"""`siwa-notifyd simulate`: signs as Apple does. Its signatures are checked by the openssl command, its requests by a server
of Python's, so that signer and verifier of one house cannot agree on a mistake."""

import http.server
import json
import os
import pathlib
import re
import socketserver
import ssl
import stat
import subprocess
import tempfile
import threading
import time
import unittest

import harness
from harness import CLIENT_ID, Daemon, ISSUER, TYPES


def simulate(*options, data="", check=None):
    done = subprocess.run([str(harness.PROGRAM), "simulate", *map(str, options)], input=data, capture_output=True, text=True,
                          timeout=harness.PATIENCE_S, check=False)
    if check is not None and done.returncode != check:
        raise AssertionError(f"simulate {options} ended with {done.returncode}, not {check}:\n{done.stdout}{done.stderr}")
    return done


class Receiver:
    """An HTTP server that answers each POST with the next of the given statuses, and remembers what came."""

    def __init__(self, *statuses, unix=None, certificate=None):
        receiver = self
        self.requests = []
        self.statuses = list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body.decode()))
                status = receiver.statuses.pop(0)
                word = {200: b"accepted\n", 503: b"busy \x1b[31m"}.get(status, b"")
                self.send_response(status)
                self.send_header("Content-Length", str(len(word)))
                self.end_headers()
                self.wfile.write(word)

            def log_message(self, *_):
                pass

            def address_string(self):
                return "client"

        if unix:
            self.server = socketserver.ThreadingUnixStreamServer(str(unix), Handler)
        else:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.port = self.server.server_address[1]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="siwa-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


class NewKey(Folder):
    def test_a_key_pair_and_its_set(self):
        keys = self.folder / "keys"
        done = simulate("--new-key", keys, check=0)
        self.assertIn(str(keys / "jwks.json"), done.stdout)
        self.assertEqual(stat.S_IMODE((keys / "key.pem").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE((keys / "jwks.json").stat().st_mode), 0o644)
        (jwk,) = json.loads((keys / "jwks.json").read_text())["keys"]
        self.assertEqual((jwk["kty"], jwk["use"], jwk["alg"], jwk["e"], len(jwk["kid"])), ("RSA", "sig", "RS256", "AQAB", 10))
        modulus = harness.openssl("rsa", "-in", keys / "key.pem", "-noout", "-modulus").decode().strip().partition("=")[2]
        self.assertEqual(harness.base64url_decode(jwk["n"]), bytes.fromhex(modulus))
        self.assertEqual(len(modulus) * 4, 2048)

    def test_an_old_key_is_never_overwritten(self):
        simulate("--new-key", self.folder, check=0)
        before = [(self.folder / name).read_bytes() for name in ("key.pem", "jwks.json")]
        done = simulate("--new-key", self.folder, check=1)
        self.assertIn("key.pem", done.stderr)
        self.assertEqual([(self.folder / name).read_bytes() for name in ("key.pem", "jwks.json")], before)

    def test_where_it_cannot_be_written(self):
        done = simulate("--new-key", "/proc/keys/here", check=1)
        self.assertIn("/proc/keys/here", done.stderr)

    def test_keys_that_cannot_be_used(self):
        self.assertIn("key.pem", simulate("--key", self.folder, "--print", "--client-id", "x", check=1).stderr)
        harness.openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", self.folder / "key.pem")
        self.assertIn("2048", simulate("--key", self.folder, "--print", "--client-id", "x", check=1).stderr)


class Signed(Folder):
    """What --print shows."""

    @classmethod
    def setUpClass(cls):
        cls.keys = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="siwa-")))
        simulate("--new-key", cls.keys, check=0)
        cls.kid = json.loads((cls.keys / "jwks.json").read_text())["keys"][0]["kid"]
        harness.openssl("pkey", "-in", cls.keys / "key.pem", "-pubout", "-out", cls.keys / "public.pem")

    def signed(self, *options, data=""):
        """The claims of each body that is printed, its signature verified and its header compared."""
        done = simulate("--key", self.keys, "--client-id", CLIENT_ID, "--print", *options, data=data, check=0)
        found = []
        for body in done.stdout.splitlines():
            match = re.fullmatch(r'\{"payload":"([\w-]+)\.([\w-]+)\.([\w-]+)"\}', body, re.ASCII)
            self.assertTrue(match, "the body has not the shape of Apple's")
            header, payload, signature = match.groups()
            self.assertEqual(harness.base64url_decode(header).decode(), f'{{"kid":"{self.kid}","alg":"RS256"}}')
            (self.folder / "signature").write_bytes(harness.base64url_decode(signature))
            harness.openssl("dgst", "-sha256", "-verify", self.keys / "public.pem", "-signature", self.folder / "signature",
                            data=f"{header}.{payload}".encode())
            found.append(json.loads(harness.base64url_decode(payload)))
        return found

    def test_each_type_as_apple_writes_it(self):
        before = int(time.time())
        found = self.signed("--type", "all")
        self.assertEqual([json.loads(claims["events"])["type"] for claims in found], list(TYPES))
        for claims in found:
            self.assertEqual(list(claims), ["iss", "aud", "exp", "iat", "jti", "events"])
            self.assertEqual((claims["iss"], claims["aud"]), (ISSUER, CLIENT_ID))
            self.assertTrue(before <= claims["iat"] <= time.time())
            self.assertEqual(claims["exp"], claims["iat"] + 86400)
            self.assertRegex(claims["jti"], r"\A[\w-]{22}\Z")
            event = json.loads(claims["events"])
            of_email = event["type"].startswith("email-")
            self.assertEqual(list(event), ["type", "sub", "event_time"] + ["email", "is_private_email"] * of_email)
            self.assertRegex(event["sub"], r"\A[0-9a-f]{6}\.[0-9a-f]{32}\.[0-9a-f]{4}\Z")
            self.assertTrue(6000 <= claims["iat"] * 1000 - event["event_time"] <= 30000)
            if of_email:
                self.assertTrue(event["email"].endswith("@privaterelay.appleid.com"))
                self.assertEqual(event["is_private_email"], "true")

    def test_one_of_each_type(self):
        for kind in TYPES:
            (claims,) = self.signed("--type", kind)
            self.assertEqual(json.loads(claims["events"])["type"], kind)

    def test_shapes_of_events(self):
        (claims,) = self.signed("--events-as", "object")
        self.assertEqual(claims["events"]["type"], "consent-revoked")
        (claims,) = self.signed("--events-as", "array")
        self.assertEqual(claims["events"][0]["type"], "consent-revoked")

    def test_other_spelling_issuer_and_time(self):
        (claims,) = self.signed("--type", "account-delete", "--spelling", "account-deleted", "--issuer", "https://example.org",
                                "--at", "2025-07-15T09:50:00Z")
        self.assertEqual((json.loads(claims["events"])["type"], claims["iss"]), ("account-deleted", "https://example.org"))
        self.assertEqual((claims["iat"], claims["exp"]), (1752573000, 1752659400))
        (claims,) = self.signed("--at", "1752573000")
        self.assertEqual(claims["iat"], 1752573000)

    def test_many_are_all_different(self):
        found = self.signed("--count", "3", "--type", "all")
        events = [json.loads(claims["events"]) for claims in found]
        self.assertEqual(len(found), 12)
        self.assertEqual(len({claims["jti"] for claims in found}), 12)
        self.assertEqual(len({event["sub"] for event in events}), 12)
        self.assertEqual(len({event["event_time"] for event in events}), 12)

    def test_the_sub_comes_from_standard_input(self):
        found = self.signed("--sub-stdin", "--type", "all", data="a person's sub\n")
        self.assertEqual({json.loads(claims["events"])["sub"] for claims in found}, {"a person's sub"})
        for wrong in ("", "\n", "two\nlines\n", "x" * 256):
            done = simulate("--key", self.keys, "--client-id", CLIENT_ID, "--print", "--sub-stdin", data=wrong, check=1)
            self.assertEqual(done.stdout, "")
            self.assertIn("--sub-stdin", done.stderr)

    def test_what_the_configuration_leaves_out(self):
        daemon = Daemon(self.keys / "jwks.json", apps=[{"client_id": "first.app", "app": "First", "team": "ABCDE12345"},
                                                       {"client_id": "second.app", "app": "Second", "team": "ABCDE12345"}])
        self.addCleanup(daemon.release)
        body = daemon.command("simulate", "--key", self.keys, "--print", check=0).stdout
        claims = json.loads(harness.base64url_decode(json.loads(body)["payload"].split(".")[1]))
        self.assertEqual(claims["aud"], "first.app")

    def test_it_is_what_verify_accepts(self):
        daemon = Daemon(self.keys / "jwks.json")
        self.addCleanup(daemon.release)
        for kind in TYPES:
            body = daemon.command("simulate", "--key", self.keys, "--print", "--type", kind, check=0).stdout
            line = json.loads(daemon.command("verify", data=body, check=0).stdout)
            self.assertEqual((line["outcome"], line["type"], line["kid"]), ("accepted", kind, self.kid))

    def test_an_output_that_cannot_be_written_is_a_failure(self):
        command = [harness.PROGRAM, "simulate", "--key", self.keys, "--client-id", CLIENT_ID, "--print"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              check=False)
        self.assertEqual(done.returncode, 1)


class Sent(Folder):
    @classmethod
    def setUpClass(cls):
        cls.keys = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="siwa-")))
        simulate("--new-key", cls.keys, check=0)

    def send(self, *options, code):
        return simulate("--key", self.keys, "--client-id", CLIENT_ID, *options, check=code)

    def test_over_tcp(self):
        with Receiver(200) as receiver:
            done = self.send("--url", f"http://127.0.0.1:{receiver.port}/some/path", code=0)
        self.assertEqual(done.stdout, "consent-revoked: 200 accepted\n")
        ((path, headers, body),) = receiver.requests
        self.assertEqual((path, headers["Content-Type"]), ("/some/path", "application/json"))
        self.assertEqual(list(json.loads(body)), ["payload"])
        self.assertNotIn("Expect", headers)

    def test_over_a_unix_socket(self):
        with Receiver(200, 200, unix=self.folder / "s") as receiver:
            self.send("--url", f"unix:{self.folder}/s", code=0)
            self.send("--url", f"unix:{self.folder}/s", "--path", "/else", code=0)
        self.assertEqual([path for path, _, _ in receiver.requests], ["/apple/notifications", "/else"])

    def test_to_the_listener_of_the_configuration(self):
        daemon = Daemon(self.keys / "jwks.json", settings={"path": "/the/path"})
        self.addCleanup(daemon.release)
        with Receiver(200, unix=daemon.directory / "notify.sock") as receiver:
            daemon.command("simulate", "--key", self.keys, check=0)
        self.assertEqual(receiver.requests[0][0], "/the/path")

    def test_over_tls_with_its_certificate_checked(self):
        certificate = self.folder / "certificate.pem"
        harness.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost", "-keyout", self.folder / "tls.pem", "-out", certificate)
        (self.folder / "both.pem").write_bytes(certificate.read_bytes() + (self.folder / "tls.pem").read_bytes())
        with Receiver(200, certificate=self.folder / "both.pem") as receiver:
            url = f"https://localhost:{receiver.port}/"
            done = self.send("--url", url, code=1)
            self.assertEqual(done.stdout, "")
            self.assertIn("certificate", done.stderr)
            self.assertEqual(receiver.requests, [])
            self.send("--url", url, "--ca-file", certificate, code=0)
        self.assertEqual(len(receiver.requests), 1)

    def test_any_other_answer_is_a_failure(self):
        with Receiver(200, 503, 200, 400) as receiver:
            done = self.send("--url", f"http://127.0.0.1:{receiver.port}/", "--type", "all", code=1)
        self.assertEqual(done.stdout.splitlines(), ["email-enabled: 200 accepted", "email-disabled: 503 busy",
                                                    "consent-revoked: 200 accepted", "account-delete: 400"])
        with Receiver(204) as receiver:
            self.send("--url", f"http://127.0.0.1:{receiver.port}/", code=1)
        with Receiver(302) as receiver:
            self.send("--url", f"http://127.0.0.1:{receiver.port}/", code=1)

    def test_json(self):
        with Receiver(200, 503) as receiver:
            done = self.send("--url", f"http://127.0.0.1:{receiver.port}/", "--count", "2", "--json", code=1)
        self.assertEqual([json.loads(line) for line in done.stdout.splitlines()],
                         [{"type": "consent-revoked", "status": 200, "answer": "accepted"},
                          {"type": "consent-revoked", "status": 503, "answer": "busy"}])

    def test_nobody_there(self):
        done = self.send("--url", f"unix:{self.folder}/nobody", "--count", "1000", code=1)
        self.assertEqual((done.stdout, len(done.stderr.splitlines())), ("", 1))
        self.assertIn(f"{self.folder}/nobody", done.stderr)

    def test_wrong_usage(self):
        help_text = simulate("--help", check=0).stdout
        self.assertIn("--new-key", help_text)
        key, target = ["--key", self.keys], ["--client-id", CLIENT_ID, "--print"]
        for wrong in ([], target, [*key, "--new-key", self.folder, *target], [*key, *target, "--type", "account-deletd"],
                      [*key, *target, "--events-as", "text"], [*key, *target, "--at", "noon"], [*key, *target, "--count", "0"],
                      [*key, *target, "--url", "http://127.0.0.1/"], [*key, "--client-id", "x", "--url", "ftp://x/"],
                      [*key, "--client-id", "x", "--url", "unix:relative"], [*key, *target, "--path", "relative"],
                      [*key, *target, "--spelling", ""], [*key, *target, "--sub", "someone"], [*key, *target, "operand"]):
            with self.subTest(wrong=wrong):
                done = simulate(*wrong, check=2)
                self.assertEqual(done.stdout, "")
        self.assertEqual(os.listdir(self.folder), [])

    def test_to_the_real_daemon(self):
        with Daemon(self.keys / "jwks.json") as daemon:
            done = daemon.command("simulate", "--key", self.keys, "--type", "all", check=0)
            self.assertEqual([line.split()[1] for line in done.stdout.splitlines()], ["200"] * 4)
            self.assertEqual([row["type"] for row in daemon.rows()], list(TYPES))
            # The same person, act and time under another jti: the daemon knows it again.
            at = int(time.time()) - 60
            for _ in range(2):
                daemon.command("simulate", "--key", self.keys, "--sub-stdin", "--at", at, data="someone", check=0)
            self.assertEqual([row["sub"] for row in daemon.rows(4)], ["someone"])
            self.assertNotIn("someone", daemon.log())
            daemon.command("simulate", "--key", self.keys, "--client-id", "com.example.other", check=1)
            self.assertEqual(daemon.outcomes(), {"accepted": 5, "duplicate": 1, "wrong_audience": 1})

    def test_without_a_configuration(self):
        done = simulate("--key", self.keys, "--config", self.folder / "none.conf", "--print", check=1)
        self.assertIn("none.conf", done.stderr)
        self.assertIn("--client-id", done.stderr)


if __name__ == "__main__":
    unittest.main()
