"""The request as handlers see it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Set
from typing import Any, Final

from projkit.errors import BadRequestError, ContentTooLargeError, RequestTimeoutError
from projkit.identity import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


_NONE: Final[Set[bytes]] = frozenset()


class ClientDisconnectedError(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class Request:
    """One HTTP request inside the kit.

    ``root_path`` is what stands before the kit (``/kit``), ``path`` what comes after it. ``headers`` holds each
    name once, in lower case, repeated ones joined by ``", "`` (RFC 9110 §5.3) and listed in ``repeated``. A public
    endpoint's request has no ``principal``.
    """

    __slots__ = (
        "_receive",
        "answer_headers",
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

    principal: Principal

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["projkit.path"]
        self.root_path: str = scope["root_path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.request_id: str = scope["projkit.request_id"]
        self.params: dict[str, str] = {}
        # Headers for the answer, whatever it will be; None is the common case.
        self.answer_headers: list[tuple[bytes, bytes]] | None = None
        self.repeated: Set[bytes] = _NONE
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        if len(self.headers) != len(scope["headers"]):
            self.headers, self.repeated = _joined(scope["headers"])

    def header(self, name: bytes) -> str | None:
        """The header's value as text (field values are bytes, read as latin-1: RFC 9110 §5.5)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def has_body(self) -> bool:
        """Whether content was announced (RFC 9112 §6.3)."""
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    def add_answer_header(self, name: bytes, value: bytes) -> None:
        """Adds a header to the answer, be it a success or a failure."""
        if self.answer_headers is None:
            self.answer_headers = []
        self.answer_headers.append((name, value))

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

    async def drain(self, limit: int, seconds: float) -> bool:
        """Reads the rest of a body that nobody wants; False where it is too long, or takes too long.

        A client that writes all of its body before it reads would otherwise see a reset, and never the answer.
        """
        if b"expect" in self.headers:
            return False  # it waits for a word of ours before it sends anything
        announced = self.headers.get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > 18 or int(announced) > limit:
            return False
        try:
            async with asyncio.timeout(seconds):
                while limit > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnectedError
                    limit -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return True
        except TimeoutError:
            pass
        return False

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


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], set[bytes]]:
    """Each name once, with all of its values, and the names that came more than once."""
    found: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in headers:
        if name in found:
            repeated.add(name)
            found[name] = found[name] + b", " + value
        else:
            found[name] = value
    return found, repeated
