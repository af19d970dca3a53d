"""Verifying an id token (OpenID Connect Core 1.0 §3.1.3.7)."""

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

MAX_ID_TOKEN_BYTES: Final = (
    16_384  # it comes from the provider itself, at times with all of somebody's groups
)
_TYPES: Final = {None, "JWT", "jwt"}
# The hash of at_hash is the one of the signature's algorithm; that of Ed25519 is SHA-512 (RFC 8032 §5.1).
_SHA512: Final = {"RS512", "PS512", "ES512", "EdDSA", "Ed25519"}
_SHA384: Final = {"RS384", "PS384", "ES384"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What an id token must say of the login that it belongs to."""

    client_id: str
    nonce: str
    access_token: str | None


class IdTokens:
    """Verifies the id tokens of one provider."""

    def __init__(self, provider: Provider, *, now: Callable[[], float] = time.time) -> None:
        self._provider = provider
        self._now = now

    async def verify(self, token: str, expected: Expected) -> dict[str, Any]:
        """The token's claims.

        Raises:
            InvalidTokenError: whatever is wrong with it; the detail is for the log.
            ProviderUnavailableError: the keys cannot be had.
        """
        unverified = jws.read(token, limit=MAX_ID_TOKEN_BYTES)
        if unverified.header.get("typ") not in _TYPES:
            raise InvalidTokenError("the token is of another type")
        key = await self._provider.key_for(unverified)
        jws.verify(unverified, key.key, key.algorithm)
        claims = unverified.claims
        self._check_times(claims)
        _require(claims.get("iss") == self._provider.issuer, "the token is from another issuer")
        _check_audience(claims, expected.client_id)
        nonce = claims.get("nonce")
        _require(isinstance(nonce, str) and _same(nonce, expected.nonce), "the nonce is another one")
        _require(is_name(claims.get("sub")), "there is no usable subject")
        if "at_hash" in claims:
            wanted = "" if expected.access_token is None else _half_hash(expected.access_token, key.algorithm)
            found = claims["at_hash"]
            _require(isinstance(found, str) and _same(found, wanted), "the access token is another one")
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        expires, issued, not_before = (time_claim(claims, name) for name in ("exp", "iat", "nbf"))
        now = self._now()
        _require(expires is not None and now < expires + LEEWAY_SECONDS, "the token has expired")
        _require(issued is not None and issued <= now + LEEWAY_SECONDS, "the token is from the future")
        _require(not_before is None or not_before <= now + LEEWAY_SECONDS, "the token is not good yet")


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    _require(client_id in audiences, "the token is for another client")
    _require(
        party == client_id if len(audiences) > 1 else party in (None, client_id), "azp is another client"
    )


def _half_hash(access_token: str, algorithm: str) -> str:
    """The left half of the access token's hash (OpenID Connect Core 1.0 §3.1.3.6)."""
    name = "sha512" if algorithm in _SHA512 else "sha384" if algorithm in _SHA384 else "sha256"
    digest = hashlib.new(name, access_token.encode()).digest()
    return encode(digest[: len(digest) // 2])


def _same(found: str, wanted: str) -> bool:
    return hmac.compare_digest(found.encode(), wanted.encode())


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvalidTokenError(detail)
