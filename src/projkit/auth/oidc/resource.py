"""Access tokens of an external issuer: a third profile next to enhanced and legacy.

The ``iss`` of a Bearer token selects the profile: a token that claims to be from OIDC_RESOURCE_ISSUER is verified with
that issuer's keys only. The keys' location comes from the issuer's discovery document, never from a token.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError

from projkit.auth import jws
from projkit.auth.jws import Unverified, time_claim
from projkit.auth.oidc.jwks import ProviderKey, ProviderKeys
from projkit.auth.oidc.provider import Provider
from projkit.auth.tokens import LEEWAY_SECONDS, is_name, tenant_of
from projkit.bounded_cache import BoundedCache
from projkit.errors import InvalidTokenError
from projkit.identity import ADMIN, KNOWN_SCOPES, Principal
from projkit.settings import Settings

EXTERNAL: Final = "external"
CACHED_TOKENS: Final = 4096
_ACCESS_TYPES: Final = {"at+jwt", "application/at+jwt"}  # RFC 9068 §4
_TYPES: Final = {None, "jwt", *_ACCESS_TYPES}
# Claims by which providers without RFC 9068 state a token's purpose: typ in Keycloak, token_use in Amazon Cognito.
_PURPOSE_CLAIMS: Final = ("typ", "token_use", "token_type")
_ACCESS: Final = {"access", "bearer", "access_token", "at+jwt", "jwt"}
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
_GRANTABLE_SCOPES: Final = frozenset(KNOWN_SCOPES) - {ADMIN}


class ExternalTokens:
    """A verifier of external tokens; verified ones are cached until they expire or the issuer's keys change."""

    def __init__(
        self, provider: Provider, settings: Settings, *, now: Callable[[], float] = time.time
    ) -> None:
        self._provider = provider
        self._tenant_claim = settings.tenant_claim
        self._registry = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": provider.issuer},
            aud={"essential": True, "value": settings.oidc_resource_audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        self.verified: BoundedCache[str, Principal] = BoundedCache(CACHED_TOKENS, now)
        self._verified_with: ProviderKeys | None = None

    def owns(self, token: str) -> bool:
        """Return whether the token claims to be from the external issuer."""
        if token in self.verified:
            return True
        try:
            return jws.read(token).claims.get("iss") == self._provider.issuer
        except InvalidTokenError:
            return False

    async def verify(self, token: str) -> Principal:
        """Verify a token for which :meth:`owns` is true, and return its principal.

        Raises:
            InvalidTokenError: the token is invalid, for whatever reason.
            ProviderUnavailableError: the issuer's keys are unavailable.
        """
        keys = await self._provider.keys()  # checked each time, so that a withdrawn key is noticed
        if keys is not self._verified_with:
            self.verified.clear()
            self._verified_with = keys
        return self.verified.get(token) or await self._verify(jws.read(token))

    async def _verify(self, unverified: Unverified) -> Principal:
        if not _is_access_token(unverified):
            raise InvalidTokenError
        key = await self._provider.key_for(unverified)
        jws.verify(unverified, key.key, key.algorithm)
        claims = unverified.claims
        expires, *_ = (time_claim(claims, name) for name in ("exp", "iat", "nbf"))
        try:
            self._registry.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidTokenError from error
        subject = claims["sub"]
        if expires is None or not is_name(subject):
            raise InvalidTokenError
        principal = Principal(
            subject=subject,
            scopes=_scopes(claims),
            token_format=EXTERNAL,
            claims=claims,
            tenant_id=tenant_of(claims, self._tenant_claim),
        )
        self._cache(unverified.token, key, float(expires), principal)
        return principal

    def _cache(self, token: str, key: ProviderKey, expires: float, principal: Principal) -> None:
        # If the keys changed during the verification, the cache belongs to the earlier keys.
        if self._verified_with is None or not self._verified_with.has(key):
            return
        self.verified.put(token, principal, expires)


def _is_access_token(unverified: Unverified) -> bool:
    """Return whether a token is an access token: ID tokens have the issuer's signature too (RFC 8725 §2.8)."""
    type_, claims = unverified.header.get("typ"), unverified.claims
    type_ = None if type_ is None else type_.lower()
    if type_ not in _TYPES:
        return False
    purposes = [str(claims[name]).lower() for name in _PURPOSE_CLAIMS if name in claims]
    if not _ACCESS.issuperset(purposes):
        return False
    return bool(purposes) or type_ in _ACCESS_TYPES or not _ID_TOKEN_CLAIMS & claims.keys()


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return the kit's scopes in ``scope`` or ``scp``, a string or a list; never ``admin``."""
    named = claims["scope"] if "scope" in claims else claims.get("scp")
    names = named.split() if isinstance(named, str) else named if isinstance(named, list) else []
    return _GRANTABLE_SCOPES.intersection(each for each in names if isinstance(each, str))
