"""A client of Bailiwick whose token is of no use to a thief: a bound token, and a proof for each call.

    python proof.py vectors ../reference/proof-vectors.json    checks this file against the published vectors
    python proof.py call URL TOOL [ARGUMENTS]                  calls a tool, with ACCESS_TOKEN and BINDING_KEY, or with a
                                                               token that TOKEN_URL gives for CLIENT_ASSERTION

Needs Python 3.9 and `cryptography`. The protocol: docs/security/binding.md.
"""
import base64, hashlib, json, os, sys, time, urllib.error, urllib.parse, urllib.request
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = "2026-07-28"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def prove(key: bytes, token: str, unix_ms: int, nonce: bytes, method: str, path: str, body: bytes) -> str:
    """The value of `Bailiwick-Proof`. `nonce`: 12 fresh random bytes; `path`: of the resource's public URL."""
    about = ["bailiwick-proof-v1", hashlib.sha256(token.encode()).hexdigest(), str(unix_ms), method, path,
             hashlib.sha256(body).hexdigest()]
    tag = AESGCM(key).encrypt(nonce, b"", "\n".join(about).encode())
    return f"v1.{unix_ms}.{encode(nonce)}.{encode(tag)}"


def bound_token(token_url: str, assertion: str, resource: str):
    """A token by client credentials, with what the client or its platform signed, and the key that comes this once."""
    form = {"grant_type": "client_credentials", "client_assertion": assertion, "resource": resource,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "binding_alg": "aes-256-gcm"}
    with urllib.request.urlopen(token_url, urllib.parse.urlencode(form).encode()) as answer:
        given = json.load(answer)
    if given.get("binding_alg") != "aes-256-gcm":
        raise SystemExit("the token is not bound")
    return given["access_token"], decode(given["binding_key"])


class Client:
    """Of one resource. What it corrects its clock by lasts as long as it does."""

    def __init__(self, url: str, token: str, key: bytes):
        self.url, self.token, self.key, self.ahead_ms = url, token, key, 0
        # The path of the public URL, which is the token's audience: a data plane may be asked under another one.
        claims = json.loads(decode(token.split(".")[1]))
        self.path = urllib.parse.urlsplit(claims["aud"]).path

    def post(self, body: bytes, headers: dict):
        unix_ms = int(time.time() * 1000) + self.ahead_ms
        proof = prove(self.key, self.token, unix_ms, os.urandom(12), "POST", self.path, body)
        headers = {**headers, "Authorization": "Bearer " + self.token, "Bailiwick-Proof": proof,
                   "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, body, headers)) as answer:
                # All of it, or the last event of a stream.
                return answer.status, json.loads(("\n" + answer.read().decode()).rpartition("\ndata:")[2])
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def call(self, tool: str, arguments: dict):
        meta = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "proof.py", "version": "1"}}
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        headers = {"Mcp-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        status, answer = self.post(body, headers)
        told = answer.get("error", {}).get("data") or {}
        if status == 401 and told.get("reason") == "proof_stale" and "serverTime" in told:
            self.ahead_ms = told["serverTime"] - int(time.time() * 1000)
            status, answer = self.post(body, headers)
        return status, answer


def check(path: str):
    with open(path) as file:
        vectors = json.load(file)["vectors"]
    for one in vectors:
        made = prove(decode(one["key"]), one["token"], one["unix_ms"], decode(one["nonce"]), one["method"],
                     one["path"], one["body"].encode())
        if made != one["proof"]:
            raise SystemExit(f"{one['name']}: {made} instead of {one['proof']}")
    print(json.dumps({"checked": len(vectors)}))


if __name__ == "__main__":
    if sys.argv[1] == "vectors":
        check(sys.argv[2])
    else:
        url, tool, arguments = sys.argv[2], sys.argv[3], json.loads(sys.argv[4] if len(sys.argv) > 4 else "{}")
        env = os.environ
        given = (env["ACCESS_TOKEN"], decode(env["BINDING_KEY"])) if "ACCESS_TOKEN" in env else bound_token(
            env["TOKEN_URL"], env["CLIENT_ASSERTION"], env.get("RESOURCE", url))
        status, answer = Client(url, *given).call(tool, arguments)
        print(json.dumps({"status": status, "answer": answer}))
