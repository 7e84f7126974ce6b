"""Requests with two readings: framing_cases.json sent straight to the daemon, and through real proxies.

Each case is followed by the marker: a notification that Apple signed, which the daemon would commit. Who smuggles would
put it there. Straight, a case is refused and the marker is never read. Behind a proxy, the proxy may repair or refuse the
case as it likes; but it is told to let no request with the marker's header pass, so that a row can only come from a
request that the proxy did not see.

A case: name; why one would send it; bytes (Latin-1, with @PATH@, @MARKER@ and @MARKER_LENGTH@); expect:
    refused       one answer of 4xx or 505, then the end
    close         one answer of the service, then the end
    close-silent  the end (shut: after the client has shut its side)
    ok            the case and the marker are both answered
    hidden        what the library hides from the guard: only behind proxies, where nothing may come through
"""

import contextlib
import json
import pathlib
import re
import socket
import unittest

from harness import Apple, Daemon, Haproxy, Nginx, PATH, connect, need, wait_until

CASES = json.loads((pathlib.Path(__file__).parent / "framing_cases.json").read_text())
REFUSALS = {400, 411, 413, 414, 417, 431, 505}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def talk(address, data, shut=False):
    """Sends and reads to the end. Returns what came and whether it ended in order (neither reset nor silence)."""
    answer = b""
    with connect(address, 20) as stream:
        with contextlib.suppress(ConnectionError):
            stream.sendall(data)
            if shut:
                stream.shutdown(socket.SHUT_WR)
        try:
            while piece := stream.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            return answer, False
    return answer, True


class FramingCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        body = cls.apple.body(cls.apple.notification())
        cls.marker = (f"POST {PATH} HTTP/1.1\r\nHost: a\r\nX-Marker: 1\r\nConnection: close\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n{body}").encode()

    def bytes_of(self, case):
        """A case as it goes over the wire."""
        text = case["bytes"].replace("@PATH@", PATH).replace("@MARKER_LENGTH@", str(len(self.marker)))
        return text.encode("latin-1", errors="replace").replace(b"@MARKER@", self.marker)

    def daemon(self, **how):
        return Daemon(self.apple, settings={"limits": {"headers_s": 5, "request_s": 10, "idle_s": 10}}, **how)


class TestDirect(FramingCase):
    def check(self, case, answer, ended, daemon):
        statuses = [int(status) for status in STATUS.findall(answer)]
        self.assertTrue(ended, f"not closed in order: {answer[:300]!r}")
        if case["expect"] == "ok":
            self.assertEqual(statuses[-1], 200, answer)
            self.assertEqual(len(statuses), 2, answer)
            return
        self.assertNotIn(200, statuses, answer)
        self.assertEqual(daemon.rows(), [])
        if case["expect"] == "close-silent":
            self.assertEqual(statuses, [])
            return
        self.assertTrue(statuses, "no answer")
        if case["expect"] == "refused":
            self.assertIn(statuses[0], REFUSALS, answer)
            # The library answers some by itself, and a bad length with two heads; never with a second request's answer.
            self.assertEqual(set(statuses), {statuses[0]}, answer)
        else:
            self.assertIn(statuses[0], {400, 404, 405}, answer)
            self.assertEqual(len(statuses), 1, answer)
        self.assertIn(b"\r\nConnection: close\r\n", answer)

    def run_cases(self, tcp):
        with self.daemon(tcp=tcp) as daemon:
            cases = [case for case in CASES if case["expect"] != "hidden"]
            for case in sorted(cases, key=lambda case: case["expect"] == "ok"):
                with self.subTest(case["name"]):
                    answer, ended = talk(daemon.address, self.bytes_of(case), case.get("shut", False))
                    self.check(case, answer, ended, daemon)
                    daemon.require_running()
            honest = sum(case["expect"] == "ok" for case in CASES)
            outcomes = daemon.outcomes()
            self.assertEqual((outcomes.get("accepted"), outcomes.get("duplicate")), (1, honest - 1))

    def test_over_tcp(self):
        self.run_cases(tcp=True)

    def test_over_a_unix_socket(self):
        self.run_cases(tcp=False)

    def test_what_was_not_read_is_logged(self):
        with self.daemon() as daemon:
            for field, line in (("Transfer-Encoding: chunked", "outcome=bad_framing reason=framing"),
                                ("X-Nothing: of it", "outcome=bad_framing reason=no_length"),
                                ("Content-Length: 70000", "outcome=too_large reason=too_large")):
                with self.subTest(field):
                    talk(daemon.address, f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode())
                    wait_until(lambda line=line: f"level=warning msg=notification {line}\n" in daemon.log(), "the line")
            self.assertEqual(daemon.outcomes(), {"bad_framing": 2, "too_large": 1})

    def test_there_are_enough_cases(self):
        self.assertGreaterEqual(len(CASES), 90)
        self.assertEqual(len({case["name"] for case in CASES}), len(CASES))


class TestBehindProxies(FramingCase):
    # Without the second, nginx drops a request when it notices in time that the client has shut its side.
    NGINX = "if ($http_x_marker) { return 403; } proxy_ignore_client_abort on;"

    def run_cases(self, daemon, proxy):
        # The controls: alone the marker is live, and the proxy keeps it out where it sees it.
        answer, _ = talk(proxy.address, self.marker)
        self.assertEqual(STATUS.findall(answer), [b"403"], answer)
        for case in CASES:
            with self.subTest(case["name"]):
                talk(proxy.address, self.bytes_of(case) + b"", case.get("shut", True))
                self.assertEqual(len(daemon.rows()), 0, "the marker came through")
                daemon.require_running()
                proxy.require_running()
        answer, _ = talk(daemon.address, self.marker)
        self.assertEqual(STATUS.findall(answer), [b"200"], answer)
        # A daemon that takes nothing at all from the proxy would have passed so far; and a marker that came late.
        honest = self.apple.body(self.apple.notification())
        self.assertEqual(daemon.post(honest, address=proxy.address), (200, "accepted"), "an honest one behind the proxy")
        outcomes = daemon.outcomes()
        self.assertEqual((outcomes.get("accepted"), outcomes.get("duplicate")), (2, None), "the marker came through")

    def test_nginx(self):
        need("nginx")
        with self.daemon() as daemon, \
                Nginx(daemon.address, daemon.directory, location=self.NGINX) as proxy:
            self.run_cases(daemon, proxy)

    def test_haproxy(self):
        need("haproxy")
        with self.daemon() as daemon, \
                Haproxy(daemon.address, daemon.directory, rules="http-request deny if { req.hdr(x-marker) -m found }") as proxy:
            self.run_cases(daemon, proxy)


if __name__ == "__main__":
    unittest.main()
