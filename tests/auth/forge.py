"""Tokens with any header, claims and signature, and the keys that they are made with."""

import base64
import hmac
import json
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import ECKey, Key, KeyParameters, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

LEGACY_SECRET: Final = "an old secret of the tests, long enough as well"
NEWEST: Final = "EdDSA"  # the algorithm and the kid of the key that signs
ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")


@cache
def key(kid: str) -> Key:
    """Return a key by its kid, which begins with its algorithm."""
    algorithm = kid.partition("-")[0]
    parameters: KeyParameters = {"kid": kid, "alg": algorithm, "use": "sig"}
    if algorithm == "HS256":
        return OctKey.generate_key(256, parameters)
    if algorithm == "RS256":
        return RSAKey.generate_key(2048, parameters)
    if algorithm == "ES256":
        return ECKey.generate_key("P-256", parameters)
    assert algorithm == "EdDSA"
    return OKPKey.generate_key("Ed25519", parameters)


def private(kid: str, **members: Any) -> dict[str, Any]:
    """A key as an entry of KEYS_FILE."""
    return {**key(kid).as_dict(private=True), "kid": kid, **members}


def public(kid: str, **members: Any) -> dict[str, Any]:
    """The public part of a key as an entry of KEYS_FILE."""
    return {**key(kid).as_dict(private=False), "kid": kid, **members}


def write_keys(path: Path, *keys: dict[str, Any]) -> Path:
    """Writes a JWK Set in one step, newest last."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"keys": list(keys)}))
    temporary.replace(path)
    return path


def b64(value: Any) -> str:
    """Base64url without padding: of bytes, of text, or of anything else as JSON."""
    raw = value if isinstance(value, bytes) else value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(raw if isinstance(raw, bytes) else raw.encode()).rstrip(b"=").decode()


def header(name: str = NEWEST, /, **members: Any) -> dict[str, Any]:
    """The header that tokens of a key have."""
    return {"alg": name.partition("-")[0], "typ": "at+jwt", "kid": name, **members}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, changed; a claim that is to be absent is ``...``."""
    now = int(time.time())
    good: dict[str, Any] = {
        "iss": "projkit", "sub": "alice", "aud": "projkit", "iat": now, "exp": now + 900, "jti": "1",
        "client_id": "projkit", "scope": "projects:read projects:write", "ver": 1,
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def signature(signing_input: str, kid: str = NEWEST, *, algorithm: str | None = None) -> bytes:
    """Return the signature of a signing input."""
    model = JWSRegistry.algorithms[algorithm or kid.partition("-")[0]]
    return model.sign(signing_input.encode(), key(kid))


def token(head: Any = None, payload: Any = None, *, kid: str = NEWEST) -> str:
    """Return a token with a valid signature by the key, whatever its header and payload."""
    parts = f"{b64(header(kid) if head is None else head)}.{b64(claims() if payload is None else payload)}"
    return f"{parts}.{b64(signature(parts, kid))}"


def mac(head: Any, payload: Any, secret: bytes) -> str:
    """A token with an HMAC by any bytes at all."""
    parts = f"{b64(head)}.{b64(payload)}"
    return f"{parts}.{b64(hmac.digest(secret, parts.encode(), 'sha256'))}"


def legacy(secret: str = LEGACY_SECRET, *, head: Any = None, **changes: Any) -> str:
    """A legacy token, with changed claims; a claim that is to be absent is ``...``."""
    now = int(time.time())
    good = {"sub": "alice", "iat": now, "exp": now + 900}
    chosen = {name: value for name, value in {**good, **changes}.items() if value is not ...}
    return mac({"alg": "HS256", "typ": "JWT"} if head is None else head, chosen, secret.encode())
