"""The status page of the real daemon: as HTML, and as a browser shows it under its own policy."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest
from html.parser import HTMLParser

import harness
from harness import Apple, Daemon

BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync",
           "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]


class Outline(HTMLParser):
    """Elements that are opened and closed, and what a page would run or load."""

    VOID = {"meta", "rect", "br"}

    def __init__(self, html):
        super().__init__()
        self.open, self.active, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "img", "link", "iframe", "object", "form"):
            self.active.append(tag)
        self.active += [name for name, value in attributes
                        if name.startswith("on") or name in ("src", "style") or "javascript:" in (value or "")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


class TestStatusPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.apple = Apple()
        cls.directory = tempfile.TemporaryDirectory(prefix="siwa-status-")
        cls.daemon = Daemon(cls.apple, settings={"monitor": f"127.0.0.1:{harness.free_port()}", "apps": [
            {"client_id": "com.example.app", "app": "Example", "team": "ABCDE12345"},
            {"client_id": "com.example.<b>&quiet", "app": "Quiet", "team": "ABCDE12345"}]})
        cls.daemon.__enter__()
        daemon, apple = cls.daemon, cls.apple
        for kind in "email-enabled", "email-disabled", "consent-revoked", "account-delete", "account-delete":
            assert daemon.post(apple.body(apple.notification(kind)))[0] == 200
        assert daemon.post(apple.body(apple.notification(aud="com.example.forgotten")))[0] == 503
        assert daemon.post("{}")[0] == 400
        daemon.restart()  # what was counted is in the database now

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__(None, None, None)
        cls.directory.cleanup()

    def page(self, path="/"):
        reply = self.daemon.get(path)
        self.assertEqual(reply.status, 200)
        return reply

    def test_what_it_says(self):
        outline = Outline(self.page().body)
        self.assertEqual(outline.open, [])
        self.assertEqual(outline.active, [])
        text = re.sub(r"\s+", " ", "".join(outline.text))
        for part in ("Ready", "com.example.app", "com.example.<b>&quiet", "com.example.forgotten: 1 since",
                     "account-delete 2", "No event in the last 30 days.", "bad_body", "wrong_audience", "current"):
            self.assertIn(part, text)

    def test_it_follows_the_configuration(self):
        """What came before an app was added makes no stranger of it; one that was taken away is no app any more."""
        with Daemon(self.apple) as daemon:
            def reload():
                daemon.write_config()
                daemon.process.send_signal(signal.SIGHUP)

            self.assertEqual(daemon.post(self.apple.body(self.apple.notification(aud="com.example.forgotten")))[0], 503)
            daemon.restart()
            self.assertIn("Not configured here", daemon.get("/").body)
            daemon.settings["apps"].append({"client_id": "com.example.forgotten", "app": "F", "team": "ABCDE12345"})
            reload()
            harness.wait_until(lambda: "Not configured here" not in daemon.get("/").body, "it is no stranger", 20)
            self.assertIn("com.example.forgotten", daemon.get("/").body)
            daemon.settings["apps"].pop()
            reload()
            harness.wait_until(lambda: "Not configured here" in daemon.get("/").body, "it is one again", 20)
            self.assertNotIn("com.example.forgotten", daemon.get("/").body.partition("Not configured here")[0])

    def test_headers(self):
        reply = self.page()
        headers = {name.lower(): value for name, value in reply.headers.items()}
        self.assertTrue(headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-"))
        self.assertEqual(headers["refresh"], "30")
        self.assertEqual(headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        still = self.page("/?refresh=off")
        self.assertNotIn("refresh", {name.lower() for name in still.headers})

    def test_nothing_personal(self):
        personal = [row[name] for row in self.daemon.rows() for name in ("sub", "email", "jti") if row[name]]
        self.assertTrue(personal)
        html = self.page().body
        for text in personal:
            self.assertNotIn(text, html)

    def shoot(self, name, *options):
        picture = pathlib.Path(os.environ.get("SIWA_SCREENSHOTS", self.directory.name)) / name
        with tempfile.TemporaryDirectory(prefix="siwa-browser-") as profile:
            done = subprocess.run([*BROWSER, f"--user-data-dir={profile}", f"--screenshot={picture}", *options,
                                   f"http://{self.daemon.settings['monitor']}/?refresh=off"],
                                  capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
        return done.stderr

    def test_in_a_browser(self):
        harness.need("chromium")
        for name, options in (("light.png", ["--window-size=1000,1700"]),
                              ("dark.png", ["--window-size=1000,1700", "--blink-settings=preferredColorScheme=0"]),
                              ("phone.png", ["--window-size=500,2000"])):
            console = self.shoot(name, *options)
            # a browser complains here of what the policy forbids: the style, were its hash wrong
            self.assertNotIn("Content Security Policy", console)
            self.assertNotIn("CONSOLE", console)


if __name__ == "__main__":
    unittest.main()
