"""Times every response, gives every request its id, and tells the recorder how it went.

A request's duration goes until its response is complete, or, where the response is streamed, until that begins: how
long a client listens says nothing of the server. ``X-Process-Time`` goes until the headers.
"""

import logging
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.http import scope_keys
from projkit.http.disconnects import DisconnectDetector
from projkit.http.response import Header
from projkit.http.tracing import RequestTrace, Tracing, trace_id_of
from projkit.observers import Observer
from projkit.request_stats import REQUEST_STATS, RequestStats

access_logger: Final = logging.getLogger("projkit.access")
slow_logger: Final = logging.getLogger("projkit.slow")

UNKNOWN_ROUTE: Final = "__unknown__"
CLIENT_CLOSED_REQUEST: Final = 499  # as nginx writes it into its log; nobody gets it
_TO_NOBODY: Final = 400  # which, other than that, is a status that everything knows
# Who takes longer to answer looks whether anybody still waits for it.
_LONG_SECONDS: Final = 0.05
_BODIES: Final = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives every request its id.

    One that the client sent is kept if it is sane. Otherwise one is made: random per process, counted within it,
    which is a tenth of the price of a UUID.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8).encode()
        self._counter = count(secrets.randbelow(1 << 24))

    def get(self, scope: Scope) -> bytes:
        """The id of the request, or of the WebSocket's handshake; the one that it has, if it has one already."""
        return self.read(scope, frozenset())[0]

    def read(self, scope: Scope, parents: frozenset[bytes]) -> tuple[bytes, bool]:
        """The id, and whether the request has one of the headers ``parents``: in one pass over all of them."""
        headers = dict(scope["headers"])  # of a header that comes twice, the last
        has_parent = not parents.isdisjoint(headers)
        if (known := scope.get(scope_keys.REQUEST_ID)) is not None:
            return str(known).encode(), has_parent
        given = headers.get(b"x-request-id")
        if given is not None and _SANE_ID.fullmatch(given):
            return bytes(given), has_parent
        return b"%b-%08x" % (self._prefix, next(self._counter)), has_parent


async def _answer_nobody(send: Send) -> None:
    """Where the client has gone servers drop whatever is sent, but what stands between may insist on an answer."""
    with suppress(OSError):  # of servers that say that it has gone
        await send(
            {"type": "http.response.start", "status": _TO_NOBODY, "headers": [(b"content-length", b"0")]}
        )
        await send({"type": "http.response.body", "body": b""})


def timing_headers(
    elapsed: float, request_id: bytes, stats: RequestStats | None = None
) -> tuple[Header, Header, Header]:
    """What every answer of the kit says of itself: the seconds it took, what of them the database, and its id."""
    timing = b"app;dur=%.1f" % (elapsed * 1000)
    if stats is not None and stats.statements:
        timing += b", db;dur=%.1f" % (stats.database_seconds * 1000)
    return (
        (b"x-process-time", b"%.6f" % elapsed),
        (b"server-timing", timing),
        (b"x-request-id", request_id),
    )


class Exchange:
    """One request and its response, as far as time goes."""

    __slots__ = (
        "asked",
        "complete",
        "gone",
        "receive",
        "request_id",
        "seconds",
        "send",
        "started",
        "stats",
        "status",
        "trace",
    )  # fmt: skip

    def __init__(self, request_id: bytes, asked: Iterable[Header], receive: Receive, send: Send) -> None:
        """``asked`` are the request's headers."""
        self.started = perf_counter()
        self.asked = asked
        self.receive = receive
        self.request_id = request_id
        self.send = send
        self.status = 0
        self.seconds = -1.0  # until the response is complete or begins to be streamed
        self.complete = False
        self.gone = False  # the client has left before it had its answer
        self.stats = RequestStats()
        self.trace: RequestTrace | None = None

    async def timed_send(self, message: Message) -> None:
        """Passes a message on; adds what is known to the headers."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            if perf_counter() - self.started > _LONG_SECONDS and not self.gone and self.may_look():
                self.gone = await DisconnectDetector(self.receive).is_disconnected()
            message["headers"] = self.told(message.get("headers", ()))
            await self.send(message)
        elif self.complete or kind not in _BODIES:
            await self.send(message)
        elif not message.get("more_body", False):
            await self.send(message)
            self.complete = True
            if self.seconds < 0:
                self.seconds = perf_counter() - self.started
        else:
            if self.seconds < 0 and message.get("body"):
                self.seconds = perf_counter() - self.started
            await self.send(message)

    def may_look(self) -> bool:
        """Whether asking for more of the request does no more than tell whether the client is still there.

        Where it expects a word of ours before it sends its body, asking for that is the word (RFC 9110 §10.1.1).
        """
        return all(name != b"expect" for name, _ in self.asked)

    def told(self, headers: Iterable[Header]) -> list[Header]:
        """The headers, and what is known of the time; a list is added to, since the kit makes one for each response."""
        told: list[Header] = headers if isinstance(headers, list) else list(headers)
        told += timing_headers(perf_counter() - self.started, self.request_id, self.stats)
        if self.trace is not None and self.trace.response_header is not None:
            told.append((b"traceresponse", self.trace.response_header))
        return told

    @property
    def duration(self) -> float:
        """Seconds until the response was complete or began to be streamed; where there is none yet, until now."""
        return self.seconds if self.seconds >= 0 else perf_counter() - self.started


class TimingMiddleware:
    """Adds ``X-Process-Time``, ``Server-Timing`` and ``X-Request-ID`` to what the kit answers, and records it.

    One log line for each request if asked to, and one for each slow request.
    """

    def __init__(self, app: ASGIApp, observer: Observer, tracing: Tracing, request_ids: RequestIds) -> None:
        self._app = app
        self._observer = observer
        self._tracing = tracing
        self._request_ids = request_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id, has_parent = self._request_ids.read(scope, self._tracing.parents)
        exchange = Exchange(request_id, scope["headers"], receive, send)
        scope[scope_keys.REQUEST_ID] = exchange.request_id.decode()
        trace = exchange.trace = scope[scope_keys.TRACE] = self._tracing.begin(scope, has_parent=has_parent)
        if trace is not None:
            exchange.stats.client_spans = trace.client_spans
        token = REQUEST_STATS.set(exchange.stats)
        self._observer.begin_request()
        try:
            await self._app(scope, receive, exchange.timed_send)
            if exchange.status == 0:
                await _answer_nobody(send)
        finally:
            # A client that went away has had no answer: the kit then makes none, or was cancelled.
            REQUEST_STATS.reset(token)
            self._observer.end_request()
            route = scope.get(scope_keys.ROUTE) or UNKNOWN_ROUTE
            record(self._observer, scope, route, exchange)
            if access_logger.isEnabledFor(logging.INFO):
                line = fields(scope, route, exchange)
                access_logger.info(
                    "%(method)s %(route)s %(status)d %(duration_ms).1f ms %(request_id)s", line, extra=line
                )
            if trace is not None:
                trace.end(exchange.status)


def record(observer: Observer, scope: Scope, route: str, exchange: Exchange) -> None:
    """Tells the recorder how an exchange went, and the log if it was slow."""
    seconds = exchange.seconds if exchange.seconds >= 0 else exchange.duration
    if exchange.gone or exchange.status == 0 or exchange.seconds < 0:
        exchange.status = CLIENT_CLOSED_REQUEST
        observer.record_disconnect(scope["method"], route)
    else:
        trace = exchange.trace
        observer.record_request(
            scope["method"], route, exchange.status, seconds, None if trace is None else trace.exemplar
        )
        # Whoever has begun the trace counts the request as well.
        if observer.meters is not None and (trace is None or not trace.is_joined):
            observer.meters.record_request(scope, route, exchange.status, seconds)
    if (error_type := scope.get(scope_keys.ERROR_TYPE)) is not None:
        observer.record_exception(route, error_type)
    if seconds > observer.slow_seconds:
        line = fields(scope, route, exchange)
        slow_logger.warning(
            "slow request: %(method)s %(route)s %(status)d %(duration_ms).1f ms, database %(db_ms).1f ms, "
            "request %(request_id)s, trace %(trace_id)s",
            line,
            extra=line,
        )


def fields(scope: Scope, route: str, exchange: Exchange) -> dict[str, Any]:
    """What a log line says of an exchange: never the query, never a raw path."""
    return {
        "request_id": scope[scope_keys.REQUEST_ID],
        "trace_id": trace_id_of(scope) or "-",
        "method": scope["method"] if scope["method"].isalpha() else "_OTHER",
        "route": route,
        "status": exchange.status,
        "duration_ms": round(exchange.duration * 1000, 1),
        "db_ms": round(exchange.stats.database_seconds * 1000, 1),
    }
