"""What is known of a provider: its metadata (OpenID Connect Discovery 1.0) and its keys."""

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
# Where a provider says nothing (OpenID Connect Discovery 1.0 §3).
_DEFAULT_AUTH_METHODS: Final = ("client_secret_basic",)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the discovery document says; an endpoint is ``""`` where it names none that may be used."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str
    token_endpoint: str
    auth_methods: tuple[str, ...]
    sends_issuer: bool


class Provider:
    """An issuer, as it describes itself now; ``keys`` are another object only where they have changed."""

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
        self._known: tuple[dict[str, Any], ProviderKeys] | None = None

    async def metadata(self) -> Metadata:
        """The discovery document.

        Raises:
            ProviderUnavailableError: it cannot be had, or is somebody else's.
        """
        return await self._metadata.get()

    async def keys(self) -> ProviderKeys:
        """The keys at present.

        Raises:
            ProviderUnavailableError: they cannot be had.
        """
        return await self._keys.get()

    async def key_for(self, unverified: Unverified) -> ProviderKey:
        """The key that a token names; one that is unknown may be new, so the provider is asked now and then.

        Raises:
            InvalidTokenError: there is no such key.
            ProviderUnavailableError: nobody can tell.
        """
        if unverified.algorithm not in PROVIDER_ALGORITHMS:
            raise InvalidTokenError("the algorithm is not allowed")
        key = (await self._keys.get()).find(unverified)
        if key is None:
            key = (await self._keys.refresh()).find(unverified)
        if key is None:
            raise InvalidTokenError("the provider has no such key")
        return key

    async def close(self) -> None:
        """Gives up what is under way."""
        await asyncio.gather(self._metadata.close(), self._keys.close())

    async def _fetch_metadata(self) -> Metadata:
        document = await self._fetcher.json(self.issuer.rstrip("/") + _WELL_KNOWN)
        found = document.get("issuer")
        if found != self.issuer:
            raise ProviderUnavailableError(f"the document is about {found!r:.200}, not {self.issuer!r}")
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
            raise ProviderUnavailableError("the document has no usable jwks_uri")
        return metadata

    async def _fetch_keys(self) -> ProviderKeys:
        metadata = await self._metadata.get()
        document = await self._fetcher.json(metadata.jwks_uri)
        if self._known is None or self._known[0] != document:
            try:
                self._known = (document, read_keys(document))
            except ValueError as error:
                raise ProviderUnavailableError(f"{metadata.jwks_uri} is not a JWK Set: {error}") from None
        return self._known[1]

    def _url(self, document: dict[str, Any], name: str) -> str:
        """An endpoint; plain HTTP only where the issuer itself was allowed it."""
        value = document.get(name)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            return ""
        try:
            parts, issuer = urlsplit(value), urlsplit(self.issuer)
        except ValueError:
            return ""
        secure = parts.scheme == "https" and bool(parts.hostname)
        beside = parts.scheme == issuer.scheme == "http" and parts.hostname == issuer.hostname
        return value if secure or beside else ""


def _names(value: object, *, default: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list):
        return default
    return tuple(each for each in value if isinstance(each, str))
