"""Access tokens in the enhanced format (RFC 9068), and the choice between the formats.

The header alone selects the format: ``typ: at+jwt`` is enhanced, everything else is legacy. A token that is invalid in
one format is never tried in the other, and the error does not tell the caller what is wrong. Tokens of the configured
external issuer are verified by :mod:`projkit.auth.oidc.resource` instead.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import uuid4

from joserfc import jwt
from joserfc.errors import JoseError

from projkit.auth import jws
from projkit.auth.jws import MAX_TOKEN_BYTES, Unverified, time_claim
from projkit.auth.keys import KeyList, KeyRing
from projkit.auth.legacy import LEGACY, LegacyProfile
from projkit.bounded_cache import BoundedCache
from projkit.errors import InvalidTokenError
from projkit.identity import KNOWN_SCOPES, MAX_SUBJECT_LENGTH, Principal
from projkit.settings import Settings

__all__ = ["MAX_TOKEN_BYTES", "TokenIssuer", "TokenVerifier"]

TOKEN_TYPE: Final = "at+jwt"  # noqa: S105  # a media type
ENHANCED: Final = "enhanced"
CLIENT_ID: Final = "projkit"
VERSION: Final = 1  # of the format
LEEWAY_SECONDS: Final = 30
CACHED_TOKENS: Final = 4096


class TokenIssuer:
    """An issuer of access tokens in the enhanced profile."""

    def __init__(
        self, keys: KeyRing | KeyList, settings: Settings, *, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._settings = settings
        self._now = now

    def issue(
        self,
        subject: str,
        scopes: Iterable[str],
        *,
        seconds: int | None = None,
        tenant_id: str = "",
        session_id: str | None = None,
    ) -> str:
        """Return a signed token for ``subject`` that is valid for ``seconds`` (default: ACCESS_TOKEN_SECONDS)."""
        key = (self._keys.current if isinstance(self._keys, KeyRing) else self._keys).newest
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
            "ver": VERSION,
        }
        if session_id is not None:
            claims["sid"] = session_id
        if tenant_id:
            claims[self._settings.tenant_claim] = tenant_id
        header = {"alg": key.algorithm, "typ": TOKEN_TYPE, "kid": key.kid}
        return jwt.encode(header, claims, key.key, registry=jws.REGISTRIES[key.algorithm])


class TokenVerifier:
    """A verifier of access tokens; verified ones are cached until they expire or the keys change."""

    def __init__(
        self,
        keys: KeyRing | KeyList,
        settings: Settings,
        *,
        legacy: LegacyProfile | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._legacy = legacy
        self._tenant_claim = settings.tenant_claim
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
        self.verified: BoundedCache[str, Principal] = BoundedCache(CACHED_TOKENS, now)
        self._verified_with: KeyList | None = None

    def verify(self, token: str) -> Principal:
        """Verify a token and return its principal.

        Raises:
            InvalidTokenError: the token is invalid, for whatever reason.
        """
        keys = self._keys.current if isinstance(self._keys, KeyRing) else self._keys
        if keys is not self._verified_with:
            self.verified.clear()
            self._verified_with = keys
        principal = self.verified.get(token)
        if principal is None:
            expires, principal = self._verify(jws.read(token), keys)
            self.verified.put(token, principal, expires)
        return principal

    def has_verified(self, token: str) -> bool:
        """Return whether the token is in the cache; :meth:`verify` checks whether it is still valid."""
        return token in self.verified

    @staticmethod
    def format_of(token: str) -> str:
        """Return the format that a token claims to have, for counting rejected ones."""
        try:
            return ENHANCED if jws.read(token).header.get("typ") == TOKEN_TYPE else LEGACY
        except InvalidTokenError:
            return "unknown"

    def _verify(self, unverified: Unverified, keys: KeyList) -> tuple[float, Principal]:
        if unverified.header.get("typ") != TOKEN_TYPE:
            if self._legacy is None:
                raise InvalidTokenError
            return self._legacy.verify(unverified)
        if unverified.kid is None:
            raise InvalidTokenError
        key = keys.get(unverified.kid)
        if key is None and isinstance(self._keys, KeyRing):
            # Another worker may have loaded a new key before this one.
            key = self._keys.check_file().get(unverified.kid)
        if key is None:
            raise InvalidTokenError
        jws.verify(unverified, key.key, key.algorithm)
        claims = unverified.claims
        moments = [time_claim(claims, name) for name in ("exp", "iat", "nbf")]
        try:
            self._registry.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidTokenError from error
        expires = float(moments[0] or 0)
        if key.expires is not None:
            expires = min(expires, key.expires)
        return expires, self._principal(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        subject, scope, session_id = claims["sub"], claims.get("scope", ""), claims.get("sid")
        names = [claims[name] for name in ("sub", "jti", "client_id", "sid") if name in claims]
        # True and 1.0 equal 1, but are not versions.
        version = claims.get("ver", VERSION)
        if not all(is_name(name) for name in names) or not isinstance(scope, str):
            raise InvalidTokenError
        if type(version) is not int or version != VERSION:
            raise InvalidTokenError
        return Principal(
            subject=subject,
            scopes=frozenset(scope.split()).intersection(KNOWN_SCOPES),
            session_id=session_id,
            token_format=ENHANCED,
            claims=claims,
            tenant_id=tenant_of(claims, self._tenant_claim),
        )


def tenant_of(claims: dict[str, Any], name: str) -> str:
    """Return the tenant in the claim ``name``; ``""`` with a single tenant.

    Raises:
        InvalidTokenError: the claim is missing, or is not a valid name.
    """
    if not name:
        return ""
    tenant_id = claims.get(name)
    if not is_name(tenant_id):
        raise InvalidTokenError
    return str(tenant_id)


def is_name(value: object) -> bool:
    """Return whether a claim is a valid name of a subject, a session or a tenant."""
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT_LENGTH and "\0" not in value
