"""Test vectors that nobody of this project wrote, over HTTP: each has the result that its README names.

The same files go through the verifier alone in tests/unit; here the whole way is walked: a body, a key set on disk, an
answer, a counter, and no row.
"""

import collections
import json
import pathlib
import tempfile
import unittest

import harness

REFUSED = {"bad_body", "jws_malformed", "alg_refused", "crit_refused", "bad_signature", "kid_unknown", "no_keys"}


def body_of(token):
    return json.dumps({"payload": token}).encode()


class Meter:
    """POSTs to a daemon over one connection, and asks its metrics over another what became of each."""

    def __init__(self, daemon):
        self.notify = harness.Connection(daemon.address)
        self.monitor = harness.Connection(daemon.settings["monitor"])
        self.before = self.counted()

    def counted(self):
        self.monitor.request("GET", "/metrics")
        return harness.outcomes_of(harness.Metrics(self.monitor.getresponse().read().decode()))

    def outcome(self, body):
        """(status, the outcome whose counter moved)"""
        self.notify.request("POST", harness.PATH, body, {"Content-Type": "application/json"})
        reply = self.notify.getresponse()
        reply.read()
        after = self.counted()
        moved = collections.Counter(after) - collections.Counter(self.before)
        self.before = after
        if list(moved.values()) != [1]:
            raise AssertionError(f"one notification moved {dict(moved)}")
        return reply.status, next(iter(moved))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.notify.close()
        self.monitor.close()


def keys_of(folder, name):
    """The keys in a file; one that holds the name of another file stands for that one (links, as they were stored)."""
    text = (folder / name).read_text().strip()
    if not text.startswith("{"):
        return keys_of(folder, text)
    value = json.loads(text)
    # The private half stands beside the public one there; a set that shows it is refused.
    private = {"d", "p", "q", "dp", "dq", "qi"}
    return [{name: member for name, member in key.items() if name not in private or key["kty"] != "RSA"}
            for key in value.get("keys", [value])]


class Signatures(unittest.TestCase):
    """Whatever the signature layer accepts here carries no claims: it ends as claims_malformed, the rest before."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="siwa-")
        self.addCleanup(directory.cleanup)
        self.key_set = pathlib.Path(directory.name, "keys-of-the-vectors.json")

    def drive(self, key_set, tokens):
        """POSTs tokens to a daemon that trusts this key set and has known no other; their outcomes."""
        self.key_set.write_text(json.dumps(key_set))
        with harness.Daemon(self.key_set) as daemon:
            with Meter(daemon) as meter:
                outcomes = [meter.outcome(body_of(token)) for token in tokens]
            self.assertEqual(daemon.rows(), [])
        for status, _ in outcomes:
            self.assertNotEqual(status, 200)
        return [outcome for _, outcome in outcomes]

    def test_wycheproof_expectations(self):
        tests = json.loads(harness.vectors("wycheproof", "rs256_only_expectations.json").read_text())["tests"]
        groups = collections.defaultdict(list)
        for test in tests:
            groups[json.dumps(test["jwks"], sort_keys=True)].append(test)
        accepted = refused = 0
        for key_set, group in groups.items():
            outcomes = self.drive(json.loads(key_set), [test["jws"] for test in group])
            for test, outcome in zip(group, outcomes):
                what = f"{test['source']} {test['tcId']} {test['comment']}: {test['why']}"
                if test["rs256_only_signature_layer"] == "accept" and "roca" not in key_set:
                    self.assertEqual(outcome, "claims_malformed", what)
                    accepted += 1
                elif test["rs256_only_signature_layer"] == "accept":
                    self.assertIn(outcome, REFUSED | {"claims_malformed"}, what)
                    accepted += 1
                else:
                    self.assertIn(outcome, REFUSED, what)
                    refused += 1
        self.assertEqual((accepted, refused), (12, 464))

    def test_wycheproof_pkcs1(self):
        """A signature over something else, valid or not, is none for this token; a key with e = 3 is no key."""
        data = json.loads(harness.vectors("wycheproof", "rsa_signature_2048_sha256_test.json").read_text())
        header = harness.base64url(b'{"kid":"none","alg":"RS256"}')
        for group in data["testGroups"]:
            tokens = [f"{header}.e30.{harness.base64url(bytes.fromhex(test['sig']))}" for test in group["tests"]]
            outcomes = set(self.drive({"keys": [group["keyJwk"]]}, tokens))
            if group["keyJwk"]["e"] == "AQAB":
                # a signature of another length than the modulus has may fall to the shape already
                self.assertLessEqual(outcomes, {"bad_signature", "jws_malformed"})
                self.assertIn("bad_signature", outcomes)
            else:
                self.assertLessEqual(outcomes, {"no_keys", "jws_malformed"})

    def test_rfc_examples(self):
        folder = harness.vectors("rfc")
        verified = []
        for path in sorted(folder.glob("*.jws[cfg]")):
            stem = path.stem
            keys = []
            for name in (f"{stem}.jwkset", f"{stem}.jwk", f"{stem}.1.jwk"):
                if (folder / name).exists():
                    keys += keys_of(folder, name)
            text = path.read_text().strip()
            # the JSON serialisations both as the text of `payload` and as the body itself, which has a `payload` too
            outcomes = self.drive({"keys": keys}, [text] if path.suffix == ".jwsc" else [text, json.loads(text)])
            for outcome in outcomes:
                if outcome == "claims_malformed":
                    verified.append(stem)
                else:
                    self.assertIn(outcome, REFUSED, path.name)
        # A.2 is RS256 too, but names no key (kid), and so do Apple's never
        self.assertEqual(verified, ["rfc7520_4.1"])


class JsonGrammar(unittest.TestCase):
    """JSONTestSuite: each text as the value of a further member of something that would be accepted. So a text that has
    to be accepted (y_) is a row, and one that has to be refused (n_) is not; i_ is free, but never harms."""

    # Members twice and \\u0000 are JSON, but not for us: two readers could see two things in them.
    STRICTER = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json", "y_string_null_escape.json",
                "y_object_escaped_null_in_key.json"}

    def setUp(self):
        self.files = sorted(harness.vectors("JSONTestSuite", "test_parsing").glob("*.json"))
        self.assertGreater(len(self.files), 300)
        self.apple = harness.Apple()

    def drive(self, make, refusals):
        """make(text) gives a body with the text in it, or None where it cannot stand there."""
        tried = collections.Counter()
        with harness.Daemon(self.apple) as daemon, Meter(daemon) as meter:
            for path in self.files:
                body = make(path.read_bytes())
                if body is None:
                    continue
                kind = path.name[0]
                tried[kind] += 1
                status, outcome = meter.outcome(body)
                if kind == "y" and path.name not in self.STRICTER:
                    self.assertEqual((status, outcome), (200, "accepted"), path.name)
                elif kind != "i":
                    self.assertIn(outcome, refusals, path.name)
            self.assertEqual(len(daemon.rows()), daemon.outcomes()["accepted"])
        self.assertGreater(tried["y"], 80)
        self.assertGreater(tried["n"], 150)

    @staticmethod
    def with_member(value, text):
        """An object with one member more at its end, whose value is the text as it is."""
        return json.dumps(value, separators=(",", ":")).encode()[:-1] + b',"x":' + text + b"}"

    def test_as_body(self):
        self.drive(lambda text: self.with_member({"payload": self.apple.notification()}, text),
                   {"bad_body", "too_large"})

    def test_as_header(self):
        def make(text):
            header = self.with_member({"kid": "TESTKEY001", "alg": "RS256"}, text)
            if len(header) > 1024:  # the limit of a header
                return None
            return self.apple.body(self.apple.notification(header=header))

        self.drive(make, {"jws_malformed"})

    def test_as_claims(self):
        self.drive(lambda text: self.apple.body(self.apple.mint(self.with_member(self.apple.claims(), text))),
                   {"claims_malformed", "too_large"})

    def test_as_events(self):
        """In the JSON text that Apple puts into the string `events`: signed, so what is not understood is kept apart
        or asked for again, but is no row."""

        def make(text):
            claims = self.apple.claims()
            try:
                claims["events"] = self.with_member(json.loads(claims["events"]), text).decode()
            except UnicodeDecodeError:
                return None
            return self.apple.body(self.apple.mint(claims))

        self.drive(make, {"quarantined", "internal", "claims_malformed", "too_large"})
