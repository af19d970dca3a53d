"""A provider's metadata (OpenID Connect Discovery 1.0) and keys, cached."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from projkit.auth.jws import PROVIDER_ALGORITHMS, Unverified
from projkit.auth.oidc.cached_document import CachedDocument
from projkit.auth.oidc.jwks import ProviderKey, ProviderKeys, read_keys
from projkit.errors import InvalidTokenError, ProviderUnavailableError

if TYPE_CHECKING:
    from projkit.auth.oidc.fetch import Fetcher

_WELL_KNOWN: Final = "/.well-known/openid-configuration"
METADATA_SECONDS: Final = 3600.0
KEYS_SECONDS: Final = 300.0
# The default if the metadata name none (OpenID Connect Discovery 1.0 §3).
_DEFAULT_AUTH_METHODS: Final = ("client_secret_basic",)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The discovery document; an endpoint is ``""`` if the document has no usable URL for it."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str
    token_endpoint: str
    auth_methods: tuple[str, ...]
    sends_issuer: bool


class Provider:
    """An issuer; ``keys()`` returns a different object only when the keys have changed."""

    def __init__(
        self, issuer: str, fetcher: "Fetcher", *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.issuer = issuer
        self._fetcher = fetcher
        self._metadata = CachedDocument(
            self._fetch_metadata,
            name=f"the metadata of OIDC provider {issuer}",
            fresh_seconds=METADATA_SECONDS,
            monotonic=monotonic,
        )
        self._keys = CachedDocument(
            self._fetch_keys,
            name=f"the JWK Set of OIDC provider {issuer}",
            fresh_seconds=KEYS_SECONDS,
            monotonic=monotonic,
        )
        self._last_keys: tuple[dict[str, Any], ProviderKeys] | None = None

    async def metadata(self) -> Metadata:
        """Return the metadata.

        Raises:
            ProviderUnavailableError: they are unavailable, or belong to another issuer.
        """
        return await self._metadata.get()

    async def keys(self) -> ProviderKeys:
        """Return the current keys.

        Raises:
            ProviderUnavailableError: they are unavailable.
        """
        return await self._keys.get()

    async def key_for(self, unverified: Unverified) -> ProviderKey:
        """Return the key that a token names; an unknown key triggers a refresh, once per cooldown.

        Raises:
            InvalidTokenError: there is no such key.
            ProviderUnavailableError: the keys are unavailable.
        """
        if unverified.algorithm not in PROVIDER_ALGORITHMS:
            raise InvalidTokenError("alg is not allowed")
        key = (await self._keys.get()).find(unverified)
        if key is None:
            key = (await self._keys.refresh()).find(unverified)
        if key is None:
            raise InvalidTokenError("unknown kid")
        return key

    async def close(self) -> None:
        """Cancel fetches that are in progress."""
        await asyncio.gather(self._metadata.close(), self._keys.close())

    async def _fetch_metadata(self) -> Metadata:
        document = await self._fetcher.json(self.issuer.rstrip("/") + _WELL_KNOWN)
        issuer = document.get("issuer")
        if issuer != self.issuer:
            raise ProviderUnavailableError(f"issuer is {issuer!r:.200} instead of {self.issuer!r}")
        metadata = Metadata(
            issuer=self.issuer,
            jwks_uri=self._url(document, "jwks_uri"),
            authorization_endpoint=self._url(document, "authorization_endpoint"),
            token_endpoint=self._url(document, "token_endpoint"),
            auth_methods=_names(
                document.get("token_endpoint_auth_methods_supported"), default=_DEFAULT_AUTH_METHODS
            ),
            sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        )
        if not metadata.jwks_uri:
            raise ProviderUnavailableError("no usable jwks_uri")
        return metadata

    async def _fetch_keys(self) -> ProviderKeys:
        metadata = await self._metadata.get()
        document = await self._fetcher.json(metadata.jwks_uri)
        if self._last_keys is None or self._last_keys[0] != document:
            try:
                self._last_keys = (document, read_keys(document))
            except ValueError as error:
                raise ProviderUnavailableError(f"{metadata.jwks_uri} is not a JWK Set: {error}") from None
        return self._last_keys[1]

    def _url(self, document: dict[str, Any], name: str) -> str:
        """Return a URL of the document, or ``""``; plain HTTP only if the issuer itself uses it."""
        value = document.get(name)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            return ""
        try:
            parts, issuer = urlsplit(value), urlsplit(self.issuer)
        except ValueError:
            return ""
        secure = parts.scheme == "https" and bool(parts.hostname)
        same_host = parts.scheme == issuer.scheme == "http" and parts.hostname == issuer.hostname
        return value if secure or same_host else ""


def _names(value: object, *, default: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list):
        return default
    return tuple(each for each in value if isinstance(each, str))
