"""Times every response and gives every request its id."""

import logging
import re
import secrets
from itertools import count
from time import perf_counter
from typing import Final

from projkit.db.port import USAGE, Usage
from projkit.http.request import ASGIApp, Message, Receive, Scope, Send

access_logger: Final = logging.getLogger("projkit.access")

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives every request its id.

    One that the client sent is kept if it is sane. Otherwise one is made: random per process, counted within it,
    which is a tenth of the price of a UUID.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._counter = count(secrets.randbelow(1 << 24))

    def of(self, scope: Scope) -> bytes:
        """The id of the request, or of the WebSocket's handshake."""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _SANE_ID.fullmatch(value):
                return bytes(value)
        return b"%s-%08x" % (self._prefix.encode(), next(self._counter))


class TimingMiddleware:
    """Adds ``X-Process-Time``, ``Server-Timing`` and ``X-Request-ID``; logs one line a request if asked to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = self._ids.of(scope)
        scope["projkit.request_id"] = request_id.decode()
        usage = Usage()
        status = 0

        async def timed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                elapsed = perf_counter() - started
                status = message["status"]
                if usage.statements:
                    timing = b"app;dur=%.1f, db;dur=%.1f" % (elapsed * 1000, usage.seconds * 1000)
                else:
                    timing = b"app;dur=%.1f" % (elapsed * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-process-time", b"%.6f" % elapsed),
                    (b"server-timing", timing),
                    (b"x-request-id", request_id),
                ]
            await send(message)

        token = USAGE.set(usage)
        try:
            await self._app(scope, receive, timed_send)
        finally:
            USAGE.reset(token)
            if access_logger.isEnabledFor(logging.INFO):
                self._log(scope, status, perf_counter() - started, usage.seconds)

    def _log(self, scope: Scope, status: int, seconds: float, database_seconds: float) -> None:
        route = scope.get("projkit.route") or "__unknown__"
        access_logger.info(
            "%s %s %d %.1f ms %s",
            scope["method"],
            route,
            status,
            seconds * 1000,
            scope["projkit.request_id"],
            extra={
                "request_id": scope["projkit.request_id"],
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
                "db_ms": round(database_seconds * 1000, 1),
            },
        )
