"""Tokens that must be rejected everywhere."""

import base64
import hmac
import json
from typing import Any

from joserfc.jwk import Key, RSAKey
from joserfc.jws import JWSRegistry


def unsigned(claims: dict[str, Any], algorithm: str) -> str:
    """A token without a signature."""
    return _body({"alg": algorithm, "typ": "JWT"}, claims).decode() + "."


def by_hmac(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Sign a token by HS256 with any secret; joserfc itself rejects a public key as a secret."""
    body = _body({"alg": "HS256", "typ": "JWT", **header}, claims)
    return (body + b"." + _encode(hmac.digest(secret, body, "sha256"))).decode()


def with_header(header: dict[str, Any], claims: dict[str, Any], key: Key) -> str:
    """A token by ES256 with any header at all."""
    body = _body(header, claims)
    signature = JWSRegistry(algorithms=["ES256"]).get_alg("ES256").sign(body, key)
    return (body + b"." + _encode(signature)).decode()


def encodings(key: Key) -> dict[str, bytes]:
    """A public key in every form that could be mistaken for an HMAC secret."""
    assert isinstance(key, RSAKey)
    pem = key.as_pem(private=False)
    return {
        "PEM": pem,
        "PEM without its last line end": pem.rstrip(b"\n"),
        "DER": key.as_der(private=False),
        "JWK": json.dumps(key.as_dict(private=False)).encode(),
        "modulus": str(key.as_dict(private=False)["n"]).encode(),
    }


def _body(header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    return b".".join(_encode(json.dumps(part).encode()) for part in (header, claims))


def _encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
