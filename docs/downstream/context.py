"""Verifies the signed header Bailiwick-Context: see docs/security/downstream.md. Needs `cryptography`.

    verifier = ContextVerifier("https://bailiwick.example.com", "https://finance.internal/mcp")
    claims = verifier.verify(request.headers.getlist("bailiwick-context"), body, "POST", "/mcp")

The audience is this service's URL as its manifest at the gateway has it. Safe to use from several threads.
"""

import base64
import hashlib
import json
import threading
import time
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEEWAY, LIFETIME, KEYS_LAST, FETCH_EVERY, BYTES_MAX, JWKS_BYTES_MAX = 5, 60, 300, 5, 6 * 1024, 256 * 1024


class NotBelieved(Exception):
    """The request is not what the gateway decided; refuse it (401)."""


def digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _decode(part):
    data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != part:
        raise ValueError("not base64url")
    return data


class ContextVerifier:
    def __init__(self, issuer, audience, jwks=None, replays_max=100_000):
        """`jwks`: the key set, where it is not to be fetched from the issuer. `replays_max`: how many contexts are
        remembered, each for its minute, so that none counts twice in this process; 0 remembers none."""
        self.issuer, self.audience, self.replays_max = issuer, audience, replays_max
        self.url = None if jwks else issuer.rstrip("/") + "/.well-known/context-jwks.json"
        self.fetched = self.asked = float("-inf")
        self.seen, self.lock = {}, threading.Lock()
        self.keys = self._read(jwks) if jwks else {}

    def verify(self, contexts, body, method, target, now=None):
        """The claims, if these header values are exactly one context, and it is of this request."""
        now = time.time() if now is None else now
        if len(contexts) != 1 or not 0 < len(contexts[0]) <= BYTES_MAX:
            raise NotBelieved("not exactly one context")
        try:
            said, signature = contexts[0].rsplit(".", 1)
            header, claims = (json.loads(_decode(part)) for part in said.split("."))
            if header != {"alg": "EdDSA", "typ": "bailiwick-context+jwt", "kid": header["kid"]}:
                raise NotBelieved("not a context")
            self._key(str(header["kid"])).verify(_decode(signature), said.encode())
            issued, expires, jti = int(claims["iat"]), int(claims["exp"]), str(claims["jti"])
        except (ValueError, TypeError, KeyError, InvalidSignature) as why:
            raise NotBelieved("not signed by a known key") from why
        if claims.get("iss") != self.issuer or claims.get("aud") != self.audience:
            raise NotBelieved("from another issuer, or for another service")
        if issued > now + LEEWAY or expires <= now - LEEWAY or expires - issued > LIFETIME:
            raise NotBelieved("expired, or from the future")
        of_request = digest(body), method, digest(target.encode())
        if (claims.get("body"), claims.get("htm"), claims.get("target")) != of_request:
            raise NotBelieved("of another request")
        with self.lock:
            self._once(jti, expires + LEEWAY, now)
        return claims

    def _once(self, jti, until, now):
        if not self.replays_max:
            return
        if len(self.seen) >= self.replays_max:
            self.seen = {known: end for known, end in self.seen.items() if end > now}
        if jti in self.seen or len(self.seen) >= self.replays_max:
            raise NotBelieved("seen before, or too many to remember")
        self.seen[jti] = until

    def _key(self, kid):
        now = time.monotonic()
        with self.lock:
            old = now - self.fetched > KEYS_LAST
            if self.url and (old or kid not in self.keys) and now - self.asked > FETCH_EVERY:
                self.asked = now
                try:
                    with urllib.request.urlopen(self.url, timeout=3) as answer:
                        self.keys, self.fetched = self._read(json.loads(answer.read(JWKS_BYTES_MAX))), now
                except OSError as why:
                    raise NotBelieved("the keys cannot be fetched") from why
            if self.url and now - self.fetched > KEYS_LAST:
                raise NotBelieved("the keys are too old")
            return self.keys[kid]

    @staticmethod
    def _read(jwks):
        ours = [key for key in jwks["keys"] if (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")]
        return {key["kid"]: Ed25519PublicKey.from_public_bytes(_decode(key["x"])) for key in ours}
