"""The server that ``projkit serve`` starts: uvicorn, with draining and a tamed garbage collector."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.cli.logs import configure_logging
from projkit.cli.malloc import share_arena
from projkit.cli.otel import open_telemetry
from projkit.kit import ProjKit
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.cli.otel.providers import TelemetryProviders

logger: Final = logging.getLogger("projkit")

# Full collections walk every imported module's objects and stop the server for it; what is there at start-up is
# there for good, so it is taken out of sight, and the young generation is given room for a few requests.
_GC_THRESHOLDS: Final = (20_000, 50, 100)
_STOPPED: Final = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")
_ALLOWED_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "Idempotency-Key",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
_EXPOSED_HEADERS: Final = (
    "ETag",
    "Location",
    "Link",
    "Allow",
    "Retry-After",
    "WWW-Authenticate",
    "Idempotent-Replayed",
    "RateLimit",
    "RateLimit-Policy",
    "Deprecation",
    "Sunset",
    "X-Request-ID",
    "X-Process-Time",
    "Server-Timing",
    "traceresponse",
)


def create_app() -> ASGIApp:
    """The app that each worker runs; CORS only here, a mounted kit adds none."""
    share_arena()
    settings = Settings()
    configure_logging(settings)
    kit = ProjKit(settings)
    telemetry = open_telemetry(settings, kit.count_spans)
    if telemetry is not None:
        for outcome in ("exported", "failed", "dropped"):
            kit.count_spans(
                outcome, 0
            )  # so that each is seen before the first, and no other thread begins a series
    if not settings.allowed_origins:
        return Served(kit, kit, settings, telemetry)
    cors = _Cors(
        kit,
        allow_origins=settings.allowed_origins,
        allow_credentials="*" not in settings.allowed_origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[*_ALLOWED_HEADERS, settings.csrf_header_name],
        expose_headers=_EXPOSED_HEADERS,
    )
    return Served(cors, kit, settings, telemetry)


class _Cors(CORSMiddleware):
    """Lets the kit answer preflights as every OPTIONS, and adds what the browser asks for."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if (
            scope.get("method") != "OPTIONS"
            or "origin" not in headers
            or "access-control-request-method" not in headers
        ):
            await super().__call__(scope, receive, send)
            return
        answer = self.preflight_response(request_headers=headers)
        granted = [pair for pair in answer.raw_headers if pair[0] == b"vary" or answer.status_code == 200]
        more = [pair for pair in granted if pair[0].startswith((b"access-control-", b"vary"))]

        async def granting(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, granting)


class Served:
    """The app as a server's worker runs it: drains before it stops, and tames the garbage collector.

    ``telemetry`` is closed when everything else has been.
    On a signal to stop, readiness turns to 503 for ``drain_seconds`` while requests are still answered; only then
    does the server's own handler get the signal. A second signal stops at once.
    """

    def __init__(
        self, app: ASGIApp, kit: ProjKit, settings: Settings, telemetry: "TelemetryProviders | None" = None
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._kit = kit
        self._settings = settings
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, _closing(send) if self._draining else send)
            return

        async def watching(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._settle()
            elif self._telemetry is not None and message["type"] in _STOPPED:
                await self._telemetry.close()  # before the server hears of it, since then the process ends
            await send(message)

        await self._app(scope, receive, watching)

    def _settle(self) -> None:
        if self._settings.freeze_gc:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
        if self._settings.drain_seconds:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._drainer(loop, signal.getsignal(number)))

    def _drainer(self, loop: asyncio.AbstractEventLoop, stop: Any) -> Callable[[int, FrameType | None], None]:
        seconds = self._settings.drain_seconds

        def handle(number: int, frame: FrameType | None) -> None:
            if self._draining:
                stop(number, frame)
                return
            self._draining = True
            self._kit.drain()
            logger.info("draining for %g s, then stopping; a second signal stops at once", seconds)
            # A signal may come between two steps of the loop: only what is thread-safe is allowed here.
            loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)

        return handle


def _closing(send: Send) -> Send:
    """Asks the client to come back on another connection (RFC 9112 §9.6).

    A request that is sent on an idle connection in the moment in which the server closes it would be lost.
    """

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing
