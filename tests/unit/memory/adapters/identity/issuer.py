"""An issuer on this machine: signs tokens, and tells its keys over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "stratamem"


class Issuer:
    """`paths` is what it answers, by path; `asked` counts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = 0
        self.paths: dict[str, Any] = {}
        self.keys: dict[str, Any] = {}
        self.add("k1", rsa.generate_private_key(65_537, 2_048), "RS256")

    def add(self, key_id: str, key: Any, algorithm: str) -> None:
        self.keys[key_id] = key
        public = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
        known = self.paths.get("/keys", {"keys": []})["keys"]
        self.paths["/keys"] = {"keys": [*known, {**public, "kid": key_id, "use": "sig", "alg": algorithm}]}
        self.paths["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good token says; None leaves a claim out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "user-1", "exp": now + 60, "iat": now}
        meant = {"tenant_id": "acme", "scope": "openid stratamem:read stratamem:write"}
        return {name: value for name, value in (good | meant | changes).items() if value is not None}

    def token(self, algorithm: str = "RS256", key_id: str = "k1", key: Any = None, **changes: Any) -> str:
        headers = {"kid": key_id}
        return jwt.encode(self.claims(**changes), key or self.keys[key_id], algorithm=algorithm, headers=headers)

    def public_pem(self, key_id: str = "k1") -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.keys[key_id].public_key().public_bytes(serialization.Encoding.PEM, form))


@contextmanager
def issuing() -> Iterator[Issuer]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            answer = issuer.paths.get(self.path)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield issuer
        server.shutdown()


def elliptic() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
