"""Request ids, response times and the record of every request.

A request's duration ends when its response is complete or, if the response is streamed, when the first part of the body
is sent: how long a client takes to read says nothing about the server. ``X-Process-Time`` ends at the headers.
"""

import logging
import re
import secrets
import sys
from collections.abc import Iterable, Set
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.forks import reset_in_forks
from projkit.http import scope_keys
from projkit.http.disconnects import DisconnectDetector
from projkit.http.response import Header
from projkit.http.tracing import RequestTrace, Tracing, trace_id_of
from projkit.log_limit import LogLimit
from projkit.observers import Observer
from projkit.request_stats import REQUEST_STATS, RequestStats

access_logger: Final = logging.getLogger("projkit.access")
slow_logger: Final = logging.getLogger("projkit.slow")
slow_limit: Final = LogLimit(slow_logger, "slow requests")
if access_logger.level == logging.NOTSET:
    # A host's server writes access lines of its own, and logging.basicConfig(level=INFO) would add these to them.
    access_logger.setLevel(logging.WARNING)

UNKNOWN_ROUTE: Final = "__unknown__"
CLIENT_CLOSED_REQUEST: Final = 499  # nginx's status in logs and metrics; never sent
# Sent after a disconnect. 499 would describe it better, but some middleware fails on what http.HTTPStatus lacks.
_DISCONNECTED_STATUS: Final = 400
# A response that took longer is preceded by a poll for a disconnect.
_POLL_AFTER_SECONDS: Final = 0.05
_BODY_MESSAGES: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
)
_CORRELATION_ID: Final = "asgi_correlation_id.context"
VALID_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Source of request ids.

    A valid ``X-Request-ID`` of the client is kept. A new id is a random prefix and a counter, which costs a tenth of a
    UUID. Both are new in a forked process, where they would otherwise repeat the parent's ids.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Choose a prefix and a start of the counter at random."""
        self._prefix = secrets.token_hex(8).encode()
        self._counter = count(secrets.randbelow(1 << 24))

    def get(self, scope: Scope) -> bytes:
        """Return the id of a request or of a WebSocket's handshake, creating one if it has none."""
        return self.read(scope, frozenset())[0]

    def read(self, scope: Scope, parent_headers: frozenset[bytes]) -> tuple[bytes, bool]:
        """Return the id, and whether any of ``parent_headers`` is present, in one pass over the headers."""
        headers = dict(scope["headers"])  # the last value of a repeated header
        has_parent = not parent_headers.isdisjoint(headers)
        if (request_id := scope.get(scope_keys.REQUEST_ID)) is not None:
            return str(request_id).encode(), has_parent
        client_id = headers.get(b"x-request-id")
        if client_id is not None and VALID_ID.fullmatch(client_id):
            return bytes(client_id), has_parent
        return b"%b-%08x" % (self._prefix, next(self._counter)), has_parent


def timing_headers(
    elapsed: float, request_id: bytes, stats: RequestStats | None = None
) -> tuple[Header, ...]:
    """Return ``X-Process-Time`` (seconds), ``Server-Timing`` (ms in all and in the database) and ``X-Request-ID``."""
    timing = b"app;dur=%.1f" % (elapsed * 1000)
    if stats is not None and stats.statements:
        timing += b", db;dur=%.1f" % (stats.database_seconds * 1000)
    process_time = (b"x-process-time", b"%.6f" % elapsed)
    if _CORRELATION_ID in sys.modules and _is_added_outside(request_id):
        return process_time, (b"server-timing", timing)
    return process_time, (b"server-timing", timing), (b"x-request-id", request_id)


def _is_added_outside(request_id: bytes) -> bool:
    """Return whether asgi-correlation-id, around the kit, adds this id to the response whether it has one or not.

    It has put the id into the request's headers, from which the kit took it, and into its context variable.
    """
    module: Any = sys.modules[_CORRELATION_ID]
    return bool(module.correlation_id.get() == request_id.decode())


class Exchange:
    """The timing of one request and its response.

    Attributes:
        status: the response's status; 0 before it is sent.
        seconds: the duration until the response was complete or began to be streamed; negative before that.
        complete: whether the response has been sent completely.
        disconnected: whether the client disconnected before the response.
    """

    __slots__ = (
        "complete",
        "disconnected",
        "receive",
        "request_headers",
        "request_id",
        "seconds",
        "send",
        "started",
        "stats",
        "status",
        "trace",
    )

    def __init__(
        self, request_id: bytes, request_headers: Iterable[Header], receive: Receive, send: Send
    ) -> None:
        self.started = perf_counter()
        self.request_headers = request_headers
        self.receive = receive
        self.request_id = request_id
        self.send = send
        self.status = 0
        self.seconds = -1.0
        self.complete = False
        self.disconnected = False
        self.stats = RequestStats()
        self.trace: RequestTrace | None = None

    async def timed_send(self, message: Message) -> None:
        """Send a message, with the timing headers if it starts the response."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            if (
                perf_counter() - self.started > _POLL_AFTER_SECONDS
                and not self.disconnected
                and self.can_poll()
            ):
                self.disconnected = await self.is_disconnected()
            message["headers"] = self.with_timing_headers(message.get("headers", ()))
            await self.send(message)
        elif self.complete or kind not in _BODY_MESSAGES:
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

    def can_poll(self) -> bool:
        """Return whether polling ``receive`` for a disconnect has no other effect.

        If the client sent ``Expect``, a server answers ``receive`` with 100 Continue (RFC 9110 §10.1.1).
        """
        return all(name != b"expect" for name, _ in self.request_headers)

    async def is_disconnected(self) -> bool:
        """Poll once; return whether the client has already disconnected."""
        detector = DisconnectDetector(self.receive)
        try:
            return await detector.is_disconnected()
        finally:
            detector.close()  # nothing is read after the start of the kit's own responses

    def with_timing_headers(self, headers: Iterable[Header]) -> list[Header]:
        """Return ``headers`` with the timing headers; a list is extended in place, to save a copy."""
        extended: list[Header] = headers if isinstance(headers, list) else list(headers)
        extended += timing_headers(perf_counter() - self.started, self.request_id, self.stats)
        if self.trace is not None and self.trace.response_header is not None:
            extended.append((b"traceresponse", self.trace.response_header))
        return extended

    @property
    def duration(self) -> float:
        """Seconds until the response was complete or began to be streamed, or until now if it has not."""
        return self.seconds if self.seconds >= 0 else perf_counter() - self.started


class TimingMiddleware:
    """Middleware that adds ``X-Process-Time``, ``Server-Timing`` and ``X-Request-ID``, and records each request.

    It also writes the access log, if that is enabled, and a warning for each slow request.

    Args:
        app: the kit's endpoints.
        observer: records the requests.
        tracing: starts their traces.
        request_ids: the source of their ids.
        unlogged_paths: the paths of probes and scrapes, whose expected responses get no access line.
    """

    def __init__(
        self,
        app: ASGIApp,
        observer: Observer,
        tracing: Tracing,
        request_ids: RequestIds,
        *,
        unlogged_paths: Set[str] = frozenset(),
    ) -> None:
        self._app = app
        self._observer = observer
        self._tracing = tracing
        self._request_ids = request_ids
        self._unlogged_paths = unlogged_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id, has_parent = self._request_ids.read(scope, self._tracing.parent_headers)
        exchange = Exchange(request_id, scope["headers"], receive, send)
        scope[scope_keys.REQUEST_ID] = exchange.request_id.decode()
        trace = exchange.trace = scope[scope_keys.TRACE] = self._tracing.start(scope, has_parent=has_parent)
        if trace is not None:
            exchange.stats.client_spans = trace.client_spans
        if self._observer.client_of is not None:
            scope[scope_keys.CLIENT_ADDRESS] = self._observer.client_of(scope)
        token = REQUEST_STATS.set(exchange.stats)
        self._observer.begin_request()
        try:
            await self._app(scope, receive, exchange.timed_send)
            if exchange.status == 0:
                await _respond_to_disconnected(send)
        finally:
            # Without a status the client has disconnected: the kit then sends no response, or was cancelled.
            REQUEST_STATS.reset(token)
            self._observer.end_request()
            route = scope.get(scope_keys.ROUTE) or UNKNOWN_ROUTE
            record_exchange(self._observer, scope, route, exchange)
            if access_logger.isEnabledFor(logging.INFO) and self._is_logged(scope, exchange):
                fields = log_fields(scope, route, exchange)
                access_logger.info(
                    "%(method)s %(route)s %(status)d %(duration_ms).1f ms %(request_id)s",
                    fields,
                    extra=fields,
                )
            if trace is not None:
                trace.end(exchange.status)

    def _is_logged(self, scope: Scope, exchange: Exchange) -> bool:
        """Return whether the request gets an access line: of a probe or scrape, only what it should not return."""
        expected = exchange.status < 400 or exchange.status == 503
        return not expected or scope.get(scope_keys.PATH) not in self._unlogged_paths


def record_exchange(observer: Observer, scope: Scope, route: str, exchange: Exchange) -> None:
    """Record the response, or the disconnect, of an exchange that has ended, and log it if it was slow."""
    seconds = exchange.seconds if exchange.seconds >= 0 else exchange.duration
    if exchange.disconnected or exchange.status == 0 or exchange.seconds < 0:
        exchange.status = CLIENT_CLOSED_REQUEST
        observer.record_disconnect(scope["method"], route)
    else:
        trace = exchange.trace
        observer.record_request(
            scope["method"], route, exchange.status, seconds, None if trace is None else trace.exemplar
        )
        # The instrumentation that started a joined trace records the duration itself.
        if observer.meters is not None and (trace is None or not trace.is_joined):
            observer.meters.record_request(scope, route, exchange.status, seconds)
    if (error_type := scope.get(scope_keys.ERROR_TYPE)) is not None:
        observer.record_exception(route, error_type)
    if seconds > observer.slow_seconds:
        fields = log_fields(scope, route, exchange)
        slow_limit.warning(
            f"{fields['method']} {route}",
            "slow request: %(method)s %(route)s %(status)d %(duration_ms).1f ms, database %(db_ms).1f ms, "
            "request %(request_id)s" + (", trace %(trace_id)s" if "trace_id" in fields else ""),
            fields,
            extra=fields,
        )


def log_fields(scope: Scope, route: str, exchange: Exchange) -> dict[str, Any]:
    """Return the fields of a log line about a response; never the query string or a raw path."""
    return {
        **request_fields(scope, route),
        "method": scope["method"] if scope["method"].isalpha() else "_OTHER",
        "status": exchange.status,
        "duration_ms": round(exchange.duration * 1000, 1),
        "db_ms": round(exchange.stats.database_seconds * 1000, 1),
    }


def request_fields(scope: Scope, route: str) -> dict[str, str]:
    """Return the fields that identify a request in log lines, without those that are not known."""
    fields = {
        "request_id": scope[scope_keys.REQUEST_ID],
        "trace_id": trace_id_of(scope),
        "client": scope.get(scope_keys.CLIENT_ADDRESS),
        "route": route,
    }
    return {name: value for name, value in fields.items() if value}


async def _respond_to_disconnected(send: Send) -> None:
    """Send a response that the server discards: middleware around the kit may require one."""
    with suppress(OSError):  # some servers raise after a disconnect
        await send(
            {
                "type": "http.response.start",
                "status": _DISCONNECTED_STATUS,
                "headers": [(b"content-length", b"0")],
            }
        )
        await send({"type": "http.response.body", "body": b""})
