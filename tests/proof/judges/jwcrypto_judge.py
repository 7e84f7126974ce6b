#!/usr/bin/python3
"""Debian's python3-jwcrypto in the differential run: jwcrypto_judge.py KEY_SET NOW AUDIENCE < CASES

Each line of CASES is a token in hexadecimal; each line of the output is `SIGNATURE CLAIMS`, 1 or 0."""

import pathlib
import sys
import time

from jwcrypto import jwk, jws, jwt

keys = jwk.JWKSet.from_json(pathlib.Path(sys.argv[1]).read_text())
now, audience = int(sys.argv[2]), sys.argv[3]
time.time = lambda: now  # it does not take the time as a parameter


def signature(token):
    parsed = jws.JWS()
    parsed.allowed_algs = ["RS256"]
    parsed.deserialize(token)
    kid = parsed.jose_header.get("kid")  # a set is for JWTs only: the same choice as there
    for key in [keys.get_key(kid)] if kid is not None else list(keys["keys"]):
        try:
            return parsed.verify(key)
        except jws.InvalidJWSSignature:
            pass
    raise ValueError("no key verifies it")


def whole(token):
    """Twice: where claims are named it looks at these alone, else at the times."""
    for claims in (None, {"iss": "https://appleid.apple.com", "aud": audience}):
        parsed = jwt.JWT(algs=["RS256"], check_claims=claims)
        parsed.leeway = 300
        parsed.deserialize(token, keys)


def verifies(function, token):
    try:
        function(token)
        return 1
    except Exception:  # pylint: disable=broad-except  (whatever it says, it is a no)
        return 0


for line in sys.stdin:
    text = bytes.fromhex(line).decode("latin1")
    print(verifies(signature, text), verifies(whole, text))
