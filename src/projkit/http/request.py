"""The request as handlers see it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from projkit.errors import BadRequestError, ContentTooLargeError, RequestTimeoutError
from projkit.identity import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOBODY: Final = Principal("", frozenset())


class ClientDisconnectedError(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class Request:
    """One HTTP request inside the kit.

    ``root_path`` is what stands before the kit (``/kit``), ``path`` what comes after it. ``headers`` holds each
    name once, in lower case, repeated ones joined by ``", "`` (RFC 9110 §5.3) and listed in ``repeated``.
    """

    __slots__ = (
        "_receive",
        "headers",
        "method",
        "params",
        "path",
        "principal",
        "query_string",
        "repeated",
        "request_id",
        "root_path",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["projkit.path"]
        self.root_path: str = scope["root_path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.request_id: str = scope["projkit.request_id"]
        self.params: dict[str, str] = {}
        self.principal: Principal = _NOBODY
        self.repeated: set[bytes] = set()
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers:
                self.repeated.add(name)
                headers[name] = headers[name] + b", " + value
            else:
                headers[name] = value
        self.headers = headers

    def header(self, name: bytes) -> str | None:
        """The header's value as text (field values are bytes, read as latin-1: RFC 9110 §5.5)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int, seconds: float) -> bytes:
        """The whole body, counted as it arrives.

        Raises:
            ContentTooLargeError: more than ``limit`` bytes are announced or arrive.
            RequestTimeoutError: it has not arrived within ``seconds``.
            ClientDisconnectedError: the client went away.
        """
        announced = self.headers.get(b"content-length")
        if announced is not None:
            if not announced.isdigit():
                raise BadRequestError("Content-Length is not a number")
            if len(announced) > 18 or int(announced) > limit:
                raise ContentTooLargeError(f"The body may have {limit} bytes")
        try:
            async with asyncio.timeout(seconds):
                return await self._read(limit)
        except TimeoutError:
            raise RequestTimeoutError(f"The body did not arrive within {seconds:g} seconds") from None

    async def _read(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise ContentTooLargeError(f"The body may have {limit} bytes")
            if not message.get("more_body", False):
                return chunk if not chunks else b"".join((*chunks, chunk))
            chunks.append(chunk)
