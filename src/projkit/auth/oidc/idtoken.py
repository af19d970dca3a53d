"""Verification of ID tokens (OpenID Connect Core 1.0 §3.1.3.7)."""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from projkit.auth import jws
from projkit.auth.jws import time_claim
from projkit.auth.oidc.provider import Provider
from projkit.auth.tokens import LEEWAY_SECONDS, is_name
from projkit.errors import InvalidTokenError
from projkit.signing import encode

MAX_ID_TOKEN_BYTES: Final = 16_384  # ID tokens may list all groups of a user
_TYPES: Final = {None, "JWT", "jwt"}
# at_hash uses the hash of the signature algorithm; Ed25519 uses SHA-512 (RFC 8032 §5.1).
_SHA512: Final = {"RS512", "PS512", "ES512", "EdDSA", "Ed25519"}
_SHA384: Final = {"RS384", "PS384", "ES384"}


@dataclass(frozen=True, slots=True)
class Expected:
    """The values that the ID token of a login must have."""

    client_id: str
    nonce: str
    access_token: str | None


class IdTokens:
    """A verifier of the ID tokens of one provider."""

    def __init__(self, provider: Provider, *, now: Callable[[], float] = time.time) -> None:
        self._provider = provider
        self._now = now

    async def verify(self, token: str, expected: Expected) -> dict[str, Any]:
        """Verify a token and return its claims.

        Raises:
            InvalidTokenError: the token is invalid; the detail gives the reason, for the log.
            ProviderUnavailableError: the provider's keys are unavailable.
        """
        unverified = jws.read(token, limit=MAX_ID_TOKEN_BYTES)
        if unverified.header.get("typ") not in _TYPES:
            raise InvalidTokenError("wrong typ")
        key = await self._provider.key_for(unverified)
        jws.verify(unverified, key.key, key.algorithm)
        claims = unverified.claims
        self._check_times(claims)
        _require(claims.get("iss") == self._provider.issuer, "wrong iss")
        _check_audience(claims, expected.client_id)
        nonce = claims.get("nonce")
        _require(isinstance(nonce, str) and _same(nonce, expected.nonce), "wrong nonce")
        _require(is_name(claims.get("sub")), "missing or invalid sub")
        if "at_hash" in claims:
            wanted = "" if expected.access_token is None else _half_hash(expected.access_token, key.algorithm)
            at_hash = claims["at_hash"]
            _require(isinstance(at_hash, str) and _same(at_hash, wanted), "wrong at_hash")
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        expires, issued, not_before = (time_claim(claims, name) for name in ("exp", "iat", "nbf"))
        now = self._now()
        _require(expires is not None and now < expires + LEEWAY_SECONDS, "the token has expired")
        _require(issued is not None and issued <= now + LEEWAY_SECONDS, "iat is missing or in the future")
        _require(not_before is None or not_before <= now + LEEWAY_SECONDS, "nbf is in the future")


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    _require(client_id in audiences, "wrong aud")
    _require(party == client_id if len(audiences) > 1 else party in (None, client_id), "wrong azp")


def _half_hash(access_token: str, algorithm: str) -> str:
    """Return the encoded left half of the access token's hash (OpenID Connect Core 1.0 §3.1.3.6)."""
    name = "sha512" if algorithm in _SHA512 else "sha384" if algorithm in _SHA384 else "sha256"
    digest = hashlib.new(name, access_token.encode()).digest()
    return encode(digest[: len(digest) // 2])


def _same(value: str, expected: str) -> bool:
    return hmac.compare_digest(value.encode(), expected.encode())


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvalidTokenError(detail)
