"""The request as handlers see it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from contextvars import Context
from functools import partial
from typing import Final, Protocol

from starlette.types import Receive, Scope

from projkit.errors import BadRequestError, ContentTooLargeError, RequestTimeoutError
from projkit.http import scope_keys
from projkit.identity import Principal

_NONE: Final[Set[bytes]] = frozenset()
# What a server reads and throws away by itself, if an answer comes before the body has.
_SHORT_BODY: Final = 65_536
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


class Gate(Protocol):
    """Where a request has its place among those that are worked on."""

    def leave(self, request: "Request") -> None:
        """Gives the place back."""

    async def body(self, request: "Request", read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Reads the request's body."""


class Watch(Protocol):
    """What listens for the end of a client that waits."""

    def rest(self) -> None:
        """The wait is over."""

    def close(self) -> None:
        """Nobody asks any more."""


def may_have_body(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether content may come: it is announced, or its protocol does not ask for that (RFC 9113 §8.1.1)."""
    if b"content-length" in headers or _is_http_1(scope):
        return _announces_body(headers)
    return scope["method"] not in _WITHOUT_BODY


def _announces_body(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _is_http_1(scope: Scope) -> bool:
    return bool(scope.get("http_version", "1.1").startswith("1"))


class ClientDisconnectedError(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class Request:
    """One HTTP request inside the kit.

    ``root_path`` is what stands before the kit (``/kit``), ``path`` what comes after it. ``headers`` holds each
    name once, in lower case, repeated ones joined by ``", "`` (RFC 9110 §5.3) and listed in ``repeated``. A public
    endpoint's request has no ``principal``.
    """

    __slots__ = (
        "answer_headers",
        "context",
        "gate",
        "headers",
        "method",
        "params",
        "path",
        "principal",
        "query_string",
        "queued_at",
        "receive",
        "repeated",
        "request_id",
        "root_path",
        "scope",
        "watch",
    )

    principal: Principal
    queued_at: float
    context: Context  # of its task, once it waits in line

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.gate: Gate | None = None
        self.watch: Watch | None = None
        self.method: str = scope["method"]
        self.path: str = scope[scope_keys.PATH]
        self.root_path: str = scope["root_path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.request_id: str = scope[scope_keys.REQUEST_ID]
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

    def give_place_back(self) -> None:
        """From here on others may be worked on in its place; for handlers as well, if they take their time."""
        if self.gate is not None:
            self.gate.leave(self)

    @property
    def has_body(self) -> bool:
        """Whether content was announced (RFC 9112 §6.3)."""
        return _announces_body(self.headers)

    @property
    def may_have_body(self) -> bool:
        """Whether content may come; whoever reads it may find that there is none."""
        return may_have_body(self.scope, self.headers)

    @property
    def has_long_body(self) -> bool:
        """Whether so much of it may be to come that it is better not read, even to throw it away.

        That is for connections on which one request follows the other; with HTTP/2 it ends with its own stream.
        """
        if not _is_http_1(self.scope):
            return False
        announced = self.headers.get(b"content-length", b"0")
        short = announced.isdigit() and len(announced) < 10 and int(announced) <= _SHORT_BODY
        return not short or b"transfer-encoding" in self.headers or b"expect" in self.headers

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
        if self.gate is None:
            return await self._read_in_time(limit, seconds)
        return await self.gate.body(self, partial(self._read_in_time, limit, seconds))

    async def _read_in_time(self, limit: int, seconds: float) -> bytes:
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
                    message = await self.receive()
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
            message = await self.receive()
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
