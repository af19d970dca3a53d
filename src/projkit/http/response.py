"""Responses of handlers: complete, and sent as two ASGI messages."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from starlette.types import Send

Header = tuple[bytes, bytes]

JSON_TYPE: Final[Header] = (b"content-type", b"application/json")
NO_SNIFF: Final[Header] = (b"x-content-type-options", b"nosniff")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
# The response depends on the caller. With an ETag a client may store it, but must revalidate it (REVALIDATE).
PRIVATE: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, no-store"),
    (b"vary", b"Authorization, Cookie"),
)
REVALIDATE: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization, Cookie"),
)


class Response:
    """A response with its complete body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: tuple[Header, ...] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    async def send(self, send: Send, *, head: bool, more: Sequence[Header] | None = None) -> None:
        """Send the response; for HEAD without the body, but with the length of GET's (RFC 9110 §9.3.2)."""
        headers = [*self.headers, NO_SNIFF]
        if more is not None:
            headers += more
        if self.status >= 200 and self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


class PreparedResponse(Response):
    """A response that is sent many times; ``complete_headers`` includes what ``send`` would add."""

    __slots__ = ("complete_headers",)

    def __init__(self, status: int, body: bytes, headers: tuple[Header, ...]) -> None:
        super().__init__(status, body, headers)
        self.complete_headers = (*headers, NO_SNIFF, (b"content-length", b"%d" % len(body)))


def json_response(status: int, content: Any, headers: tuple[Header, ...] = ()) -> Response:
    """Return a response with ``content`` as JSON."""
    return Response(status, orjson.dumps(content), (JSON_TYPE, *headers))
