"""The legacy token profile: verified, never issued.

Legacy tokens are HS256 with keys of their own, a subject in ``sub`` or ``user_id``, and an ``exp``. They carry no
administrative scope, have a maximum age, and are rejected from the configured sunset on.
"""

import time
from collections.abc import Callable
from datetime import UTC
from email.utils import format_datetime
from typing import Any, Final

from joserfc.jwk import OctKey

from projkit.auth import jws
from projkit.auth.jws import Unverified, time_claim
from projkit.errors import InvalidTokenError
from projkit.identity import DEFAULT_SCOPES, MAX_SUBJECT_LENGTH, Principal
from projkit.settings import Settings

LEGACY: Final = "legacy"
LEEWAY_SECONDS: Final = 30
_TYPES: Final = {None, "JWT", "jwt"}
# Claims by which other libraries mark tokens that are not access tokens.
_PURPOSE_CLAIMS: Final = ("type", "typ", "token_type", "token_use", "purpose", "use")
_ACCESS: Final = {"access", "access_token", "bearer", "at+jwt", "jwt"}
# Claims that only ID tokens have (OpenID Connect Core 1.0 §2).
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "acr", "amr"})


class LegacyProfile:
    """A verifier of legacy tokens."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._keys = [
            OctKey.import_key(secret.get_secret_value().encode())
            for secret in reversed(settings.legacy_secret)
        ]
        self._max_age = settings.legacy_max_age_seconds
        self._sunset = None if settings.legacy_sunset is None else settings.legacy_sunset.timestamp()
        deprecated = b"@%d" % int(settings.legacy_deprecated_at.timestamp())
        self._response_headers: tuple[tuple[bytes, bytes], ...] = ((b"deprecation", deprecated),)
        if settings.legacy_sunset is not None:
            sunset = format_datetime(settings.legacy_sunset.astimezone(UTC), usegmt=True).encode()
            self._response_headers += ((b"sunset", sunset),)
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._tenant_claim = settings.tenant_claim
        self._now = now

    @property
    def response_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The ``Deprecation`` (RFC 9745) and ``Sunset`` (RFC 8594) headers of responses to legacy tokens."""
        return self._response_headers

    def verify(self, unverified: Unverified) -> tuple[float, Principal]:
        """Return the expiry in seconds since 1970 and the principal.

        Raises:
            InvalidTokenError: the token is invalid, or legacy tokens are not accepted (any more).
        """
        now = self._now()
        if not self._keys or unverified.header.get("typ") not in _TYPES:
            raise InvalidTokenError
        if self._sunset is not None and now >= self._sunset:
            raise InvalidTokenError
        self._verify_signature(unverified)
        claims = unverified.claims
        self._check_purpose(claims)
        expires = self._lifetime(claims, now)
        if self._sunset is not None:
            expires = min(expires, self._sunset)
        return expires, Principal(
            subject=_subject(claims),
            scopes=_scopes(claims),
            token_format=LEGACY,
            claims=claims,
            tenant_id=self._tenant(claims),
        )

    def _verify_signature(self, unverified: Unverified) -> None:
        for key in self._keys:
            try:
                jws.verify(unverified, key, "HS256")
            except InvalidTokenError:
                continue
            return
        raise InvalidTokenError

    def _check_purpose(self, claims: dict[str, Any]) -> None:
        for name in _PURPOSE_CLAIMS:
            if name in claims and str(claims[name]).lower() not in _ACCESS:
                raise InvalidTokenError
        if _ID_TOKEN_CLAIMS & claims.keys():
            raise InvalidTokenError
        if claims.get("iss", self._issuer) != self._issuer:
            raise InvalidTokenError
        audience = claims.get("aud", self._audience)
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise InvalidTokenError

    def _lifetime(self, claims: dict[str, Any], now: float) -> float:
        expires, issued, not_before = (time_claim(claims, name) for name in ("exp", "iat", "nbf"))
        if expires is None or now > expires + LEEWAY_SECONDS:
            raise InvalidTokenError
        if not_before is not None and not_before > now + LEEWAY_SECONDS:
            raise InvalidTokenError
        if issued is None:
            # Its age is unknown, so its remaining lifetime is limited instead.
            if expires - now > self._max_age:
                raise InvalidTokenError
            return expires
        if issued > now + LEEWAY_SECONDS or now - issued > self._max_age:
            raise InvalidTokenError
        return min(expires, issued + self._max_age)

    def _tenant(self, claims: dict[str, Any]) -> str:
        if not self._tenant_claim:
            return ""
        tenant_id = claims.get(self._tenant_claim)
        if not isinstance(tenant_id, str) or not 0 < len(tenant_id) <= MAX_SUBJECT_LENGTH:
            raise InvalidTokenError
        return tenant_id


def _subject(claims: dict[str, Any]) -> str:
    subject = claims["sub"] if "sub" in claims else claims.get("user_id")
    if isinstance(subject, int) and not isinstance(subject, bool):
        subject = str(subject)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_LENGTH or "\0" in subject:
        raise InvalidTokenError
    return subject


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return the default scopes, or those of them that the token names; never an administrative one."""
    scope = claims.get("scope")
    named = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
    narrowed = frozenset(DEFAULT_SCOPES).intersection(each for each in named if isinstance(each, str))
    return narrowed or frozenset(DEFAULT_SCOPES)
