"""Asking a provider over HTTP: in bounded time, for a bounded answer, and never where it redirects to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypedDict

import httpx2

from projkit.errors import ProviderUnavailableError
from projkit.http import strict_json

SECONDS: Final = 3.0  # for one question, from the look-up of the name to the answer's last byte
MAX_ANSWER_BYTES: Final = 262_144
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "projkit"}


class ClientOptions(TypedDict):
    """How every HTTP client towards a provider is set up."""

    verify: Any
    timeout: float
    follow_redirects: bool
    headers: dict[str, str]
    event_hooks: dict[str, list[Callable[..., Awaitable[None]]]]


class Fetcher:
    """Reads JSON documents; the certificates are loaded once for all of them."""

    def __init__(self) -> None:
        self.seconds = SECONDS
        self._tls = httpx2.create_ssl_context()

    @property
    def options(self) -> ClientOptions:
        """For whoever makes an HTTP client of their own."""
        return {
            "verify": self._tls,
            "timeout": self.seconds,
            "follow_redirects": False,
            "headers": _HEADERS,
            "event_hooks": {"response": [_bound]},
        }

    async def json(self, url: str) -> dict[str, Any]:
        """The JSON object at ``url``.

        Raises:
            ProviderUnavailableError: there is no such answer; the detail says why, for the log.
        """
        try:
            async with asyncio.timeout(self.seconds), httpx2.AsyncClient(**self.options) as client:
                response = await client.get(url)
            if response.status_code != 200:
                raise ProviderUnavailableError(f"{url} answered {response.status_code}")
            document = strict_json.loads(response.content)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:  # OSError: too late
            raise ProviderUnavailableError(f"{url}: {str(error) or type(error).__name__}") from error
        if not isinstance(document, dict):
            raise ProviderUnavailableError(f"{url} is not a JSON object")
        return document


class _Bounded(httpx2.AsyncByteStream):
    """Stops reading where an answer grows too large."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.RemoteProtocolError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    # What is packed could unpack to anything.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.RemoteProtocolError("the answer is compressed, though nobody asked for that")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)
