"""HTTP requests to providers: with a timeout, a size limit, and without redirects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypedDict

import httpx2

from projkit.errors import ProviderUnavailableError
from projkit.http import strict_json

SECONDS: Final = 3.0  # for one request, from name resolution to the last byte of the response
MAX_RESPONSE_BYTES: Final = 262_144
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "projkit"}


class ClientOptions(TypedDict):
    """The options of every HTTP client for providers."""

    verify: Any
    timeout: float
    follow_redirects: bool
    headers: dict[str, str]
    event_hooks: dict[str, list[Callable[..., Awaitable[None]]]]


class Fetcher:
    """A reader of JSON documents; the CA certificates are loaded once."""

    def __init__(self) -> None:
        self.seconds = SECONDS
        self._tls = httpx2.create_ssl_context()

    @property
    def options(self) -> ClientOptions:
        """The options for an HTTP client."""
        return {
            "verify": self._tls,
            "timeout": self.seconds,
            "follow_redirects": False,
            "headers": _HEADERS,
            "event_hooks": {"response": [_bound]},
        }

    async def json(self, url: str) -> dict[str, Any]:
        """Return the JSON object at ``url``.

        Raises:
            ProviderUnavailableError: the request failed; the detail gives the reason, for the log.
        """
        try:
            async with asyncio.timeout(self.seconds), httpx2.AsyncClient(**self.options) as client:
                response = await client.get(url)
            if response.status_code != 200:
                raise ProviderUnavailableError(f"{url} returned status {response.status_code}")
            document = strict_json.loads(response.content)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:  # OSError: timeouts
            raise ProviderUnavailableError(f"{url}: {str(error) or type(error).__name__}") from error
        if not isinstance(document, dict):
            raise ProviderUnavailableError(f"{url} is not a JSON object")
        return document


class _Bounded(httpx2.AsyncByteStream):
    """A response body that raises an error when it exceeds the size limit."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                raise httpx2.RemoteProtocolError(f"the response has more than {MAX_RESPONSE_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    # A compressed body could decompress to any size.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.RemoteProtocolError("the response is compressed, although Accept-Encoding is identity")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)
