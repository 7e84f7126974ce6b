"""At the default limit of connections, a crowd that never comes to a whole request does not keep out who does.

The deadlines are far away here: whoever is answered while the crowd stands was let in by the eviction, not by the reaper.
"""

import contextlib
import resource
import unittest

from harness import Apple, Daemon, PATH, connect, wait_until

CROWD = 800  # beyond the 512 of the default, and within the backlog
FAR = {"headers_s": 300, "request_s": 300, "idle_s": 3600}
OPENINGS = {
    "say nothing": b"",
    "drip headers": f"POST {PATH} HTTP/1.1\r\nHost: a\r\nX: y".encode(),
    "drip a body": f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{{".encode(),
    "keep alive": f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
}


class TestCrowd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))

    @staticmethod
    def evicted(daemon):
        return daemon.metrics().value("siwa_connections_evicted_total", listener="notify")

    def test_a_crowd_makes_room(self):
        for name, opening in OPENINGS.items():
            with self.subTest(name), Daemon(self.apple, settings={"limits": FAR}) as daemon, contextlib.ExitStack() as stack:
                self.assertEqual(self.evicted(daemon), 0)
                for _ in range(CROWD):
                    client = stack.enter_context(connect(daemon.address))
                    with contextlib.suppress(ConnectionError):  # it may have had to go already
                        client.sendall(opening)
                for number in range(20):
                    self.assertEqual(daemon.post(self.apple.body(self.apple.notification()))[0], 200, number)
                # All of the crowd was let in, so so many had to go.
                wait_until(lambda: self.evicted(daemon) >= CROWD - 512, "who waited longest is gone")
                self.assertEqual(len(daemon.rows()), 20)
                self.assertLessEqual(daemon.metrics().value("siwa_connections", listener="notify"), 512)

    def test_who_waits_for_an_answer_stays(self):
        """As many as there may be wait for their commit; what comes then waits, and all are answered."""
        with Daemon(self.apple, settings={"limits": {**FAR, "connections": 4}}) as daemon, contextlib.ExitStack() as stack:
            body = self.apple.body(self.apple.notification())
            whole = (f"POST {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
            clients = []
            for _ in range(64):  # each says all at once: who is silent while others wait may have to go
                clients.append(stack.enter_context(connect(daemon.address)))
                clients[-1].sendall(whole)
            for client in clients:
                self.assertIn(b" 200 ", client.recv(4096).partition(b"\r\n")[0])
            self.assertEqual(self.evicted(daemon), 0)


if __name__ == "__main__":
    unittest.main()
