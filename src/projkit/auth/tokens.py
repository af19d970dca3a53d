"""Access tokens in the enhanced format (RFC 9068): issued with the newest key, verified with any.

Before the library sees a token, a gate of our own has looked at its form; what passes is verified by joserfc and
its claims are checked by joserfc's registry. Whatever is wrong, the caller learns only that the token is invalid.
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import uuid4

from joserfc import jwt
from joserfc.errors import JoseError

from projkit.auth.keys import KeyList, SigningKey
from projkit.errors import InvalidTokenError
from projkit.http import strict_json
from projkit.identity import KNOWN_SCOPES, Principal
from projkit.settings import Settings

TOKEN_TYPE: Final = "at+jwt"  # noqa: S105  # a media type
CLIENT_ID: Final = "projkit"
MAX_TOKEN_BYTES: Final = 4096
MAX_SUBJECT_LENGTH: Final = 255
LEEWAY_SECONDS: Final = 30
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER_NAMES: Final = frozenset({"alg", "typ", "kid"})
_MAX_TIME: Final = 253_402_300_799  # the last second of the year 9999
_CACHED_TOKENS: Final = 4096


class TokenIssuer:
    """Makes access tokens."""

    def __init__(self, keys: KeyList, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._settings = settings
        self._now = now

    def issue(self, subject: str, scopes: Iterable[str], *, seconds: int | None = None, tenant_id: str = "") -> str:
        """A signed token for ``subject`` that is good for ``seconds`` (default: ACCESS_TOKEN_SECONDS)."""
        key = self._keys.newest
        now = int(self._now())
        claims: dict[str, Any] = {
            "iss": self._settings.issuer,
            "sub": subject,
            "aud": self._settings.audience,
            "iat": now,
            "exp": now + (seconds or self._settings.access_token_seconds),
            "jti": str(uuid4()),
            "client_id": CLIENT_ID,
            "scope": " ".join(scopes),
            "ver": 1,
        }
        if tenant_id:
            claims[self._settings.tenant_claim] = tenant_id
        header = {"alg": key.algorithm, "typ": TOKEN_TYPE, "kid": key.kid}
        return jwt.encode(header, claims, key.key, algorithms=[key.algorithm])


class TokenVerifier:
    """Turns access tokens into principals; remembers those it has verified until they expire."""

    def __init__(self, keys: KeyList, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._tenant_claim = settings.tenant_claim
        self._now = now
        self._registry = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            jti={"essential": True},
            client_id={"essential": True},
        )
        self._verified: dict[str, tuple[float, Principal]] = {}

    def verify(self, token: str) -> Principal:
        """The principal that a token speaks for.

        Raises:
            InvalidTokenError: whatever is wrong with it.
        """
        known = self._verified.get(token)
        if known is not None:
            if self._now() < known[0]:
                return known[1]
            del self._verified[token]
        expires, principal = self._verify(token)
        if len(self._verified) >= _CACHED_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = (expires, principal)
        return principal

    def _verify(self, token: str) -> tuple[float, Principal]:
        try:
            key = self._gate(token)
            claims = jwt.decode(token, key.key, algorithms=[key.algorithm]).claims
            self._registry.validate(claims)
            return self._principal(claims)
        except (JoseError, ValueError, TypeError, KeyError, OverflowError, binascii.Error) as error:
            raise InvalidTokenError from error

    def _gate(self, token: str) -> SigningKey:
        """Refuses what the library need not see, and names the one key that may verify the rest."""
        if len(token) > MAX_TOKEN_BYTES or not _FORM.fullmatch(token):
            raise InvalidTokenError
        encoded_header, encoded_claims, _ = token.split(".")
        header = _object(encoded_header)
        _object(encoded_claims)  # duplicate names and odd numbers are refused before anything reads them
        if header.keys() != _HEADER_NAMES or header["typ"] != TOKEN_TYPE or not isinstance(header["kid"], str):
            raise InvalidTokenError
        key = self._keys.get(header["kid"])
        if key is None or key.algorithm != header["alg"]:
            raise InvalidTokenError
        return key

    def _principal(self, claims: dict[str, Any]) -> tuple[float, Principal]:
        expires, issued, not_before = claims["exp"], claims["iat"], claims.get("nbf", 0)
        for moment in (expires, issued, not_before):
            if not isinstance(moment, int) or isinstance(moment, bool) or not 0 <= moment <= _MAX_TIME:
                raise InvalidTokenError
        subject, scope = claims["sub"], claims.get("scope", "")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_LENGTH or not isinstance(scope, str):
            raise InvalidTokenError
        tenant_id = ""
        if self._tenant_claim:
            tenant_id = claims[self._tenant_claim]
            if not isinstance(tenant_id, str) or not 0 < len(tenant_id) <= MAX_SUBJECT_LENGTH:
                raise InvalidTokenError
        principal = Principal(
            subject=subject,
            scopes=frozenset(scope.split()).intersection(KNOWN_SCOPES),
            token_format="enhanced",  # noqa: S106  # the name of a format
            claims=claims,
            tenant_id=tenant_id,
        )
        return expires, principal


def _object(part: str) -> dict[str, Any]:
    decoded = strict_json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    if not isinstance(decoded, dict):
        raise InvalidTokenError
    return decoded
