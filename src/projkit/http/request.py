"""The request that endpoints receive."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Set
from contextvars import Context
from functools import partial
from typing import Final

from starlette.types import Message, Receive, Scope

from projkit.errors import BadRequestError, ContentTooLargeError, RequestTimeoutError
from projkit.http import scope_keys
from projkit.http.concurrency import ConcurrencyLimiter, QueueEntry
from projkit.http.disconnects import ClientDisconnectedError, Waiter
from projkit.identity import Principal

_NONE: Final[Set[bytes]] = frozenset()
# Servers read and discard a body of this size themselves if the response precedes it.
_SHORT_BODY_BYTES: Final = 65_536
_METHODS_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


def may_have_body(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether content may follow: it is announced, or needs no announcement as in HTTP/2 (RFC 9113 §8.1.1)."""
    if b"content-length" in headers or _is_http_1(scope):
        return _announces_body(headers)
    return scope["method"] not in _METHODS_WITHOUT_BODY


def _announces_body(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _is_http_1(scope: Scope) -> bool:
    return bool(scope.get("http_version", "1.1").startswith("1"))


class Request:
    """An HTTP request to one of the kit's endpoints.

    Attributes:
        root_path: the prefix below which the kit is mounted, such as ``/kit``.
        path: the path below ``root_path``.
        headers: the values by lower-case name; values of repeated headers are joined by ``", "`` (RFC 9110 §5.3).
        repeated: the names of headers that were repeated.
        principal: the authenticated caller; not set for public endpoints.
        response_headers: headers for the response, whether it is a success or an error.
        queue_entry: the request's entry in the concurrency limiter, None for endpoints that need no slot.
    """

    __slots__ = (
        "headers",
        "method",
        "params",
        "path",
        "principal",
        "query_string",
        "queue_entry",
        "receive",
        "repeated",
        "request_id",
        "response_headers",
        "root_path",
        "scope",
    )

    principal: Principal

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.queue_entry: QueueEntry | None = None
        self.method: str = scope["method"]
        self.path: str = scope[scope_keys.PATH]
        self.root_path: str = scope["root_path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.request_id: str = scope[scope_keys.REQUEST_ID]
        self.params: dict[str, str] = {}
        self.response_headers: list[tuple[bytes, bytes]] | None = None  # None is the common case
        self.repeated: Set[bytes] = _NONE
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        if len(self.headers) != len(scope["headers"]):
            self.headers, self.repeated = _join(scope["headers"])

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, decoded as Latin-1 (RFC 9110 §5.5)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def acquire_slot(self, limiter: ConcurrencyLimiter) -> Awaitable[None] | None:
        """Acquire a slot; return an awaitable if the request has to queue for it.

        Raises, when awaited:
            OverloadedError: the queue is full, or the request waited too long.
            ClientDisconnectedError: the client disconnected while the request was queued.
        """
        self.queue_entry = entry = QueueEntry(self.receive, self.headers)
        return limiter.acquire(entry)

    def release_slot(self) -> None:
        """Release the request's slot if it holds one; for endpoints too, before they wait for something slow."""
        entry = self.queue_entry
        if entry is None:
            return
        if entry.limiter is not None:
            entry.limiter.release(entry)
        elif entry.detector is not None:
            entry.detector.close()

    def watch_client(self, waiter: Waiter, context: Context) -> None:
        """Fail ``waiter`` with ClientDisconnectedError when the client disconnects, if that can be found out.

        It cannot for endpoints that need no slot, and for the host's requests, whose messages are the host's.
        """
        entry = self.queue_entry
        if entry is not None and entry.can_poll:
            entry.watch_client(waiter, context)

    @property
    def has_body(self) -> bool:
        """Whether content is announced (RFC 9112 §6.3)."""
        return _announces_body(self.headers)

    @property
    def may_have_body(self) -> bool:
        """Whether content may follow; reading it may show that there is none."""
        return may_have_body(self.scope, self.headers)

    @property
    def has_long_body(self) -> bool:
        """Whether so much content may follow that it is better not read, even to be discarded.

        Only on HTTP/1 connections, where the next request comes after it. An HTTP/2 stream ends by itself.
        """
        if not _is_http_1(self.scope):
            return False
        announced = self.headers.get(b"content-length", b"0")
        short = announced.isdigit() and len(announced) < 10 and int(announced) <= _SHORT_BODY_BYTES
        return not short or b"transfer-encoding" in self.headers or b"expect" in self.headers

    def add_response_header(self, name: bytes, value: bytes) -> None:
        """Add a header to the response, whether it is a success or an error."""
        if self.response_headers is None:
            self.response_headers = []
        self.response_headers.append((name, value))

    async def body(self, limit: int, seconds: float) -> bytes:
        """Return the complete body; its bytes are counted as they arrive.

        Raises:
            BadRequestError: Content-Length is not a number.
            ContentTooLargeError: more than ``limit`` bytes are announced or arrive.
            RequestTimeoutError: the body does not arrive within ``seconds``.
            ClientDisconnectedError: the client disconnected.
            OverloadedError: the body was late, its slot was taken, and no other one became available in time.
        """
        announced = self.headers.get(b"content-length")
        if announced is not None:
            if not announced.isdigit():
                raise BadRequestError("Content-Length is not a number")
            if len(announced) > 18 or int(announced) > limit:
                raise ContentTooLargeError(f"The body is larger than {limit} bytes")
        entry = self.queue_entry
        if entry is None or entry.limiter is None:
            return await self._read_in_time(limit, seconds)
        return await entry.limiter.read_body(entry, partial(self._read_in_time, limit, seconds))

    async def drain(self, limit: int, seconds: float) -> bool:
        """Read and discard the rest of the body; return False if it is too long or takes too long.

        A client that sends its whole body before it reads would otherwise get a connection reset instead of the
        response.
        """
        if b"expect" in self.headers:
            return False  # the client sends nothing before a 100 Continue
        announced = self.headers.get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > 18 or int(announced) > limit:
            return False
        try:
            async with asyncio.timeout(seconds):
                while limit > 0:
                    message = await self._next_message()
                    limit -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return True
        except TimeoutError:
            pass
        return False

    async def _read_in_time(self, limit: int, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._read(limit)
        except TimeoutError:
            raise RequestTimeoutError(f"The body did not arrive within {seconds:g} seconds") from None

    async def _read(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._next_message()
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise ContentTooLargeError(f"The body is larger than {limit} bytes")
            if not message.get("more_body", False):
                return chunk if not chunks else b"".join((*chunks, chunk))
            chunks.append(chunk)

    async def _next_message(self) -> Message:
        # A queued request's messages may have been received ahead.
        receive = self.receive if self.queue_entry is None else self.queue_entry.receive
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        return message


def _join(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], set[bytes]]:
    """Return each name once, with all of its values joined, and the names that were repeated."""
    joined: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in headers:
        if name in joined:
            repeated.add(name)
            joined[name] = joined[name] + b", " + value
        else:
            joined[name] = value
    return joined, repeated
