"""The app that ``projkit serve`` runs in uvicorn: the kit with CORS, draining and garbage-collector settings."""

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
from projkit.cli.worker_process import parent_link
from projkit.kit import ProjKit
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.cli.otel.providers import TelemetryProviders

logger: Final = logging.getLogger("projkit")

# A full collection stops the server while it walks the objects of every imported module. Objects that exist at start-up
# are permanent, so they are frozen, and the young generation is enlarged to hold a few requests.
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
    """Create the app that each worker runs. CORS is added only here, not in a mounted kit."""
    share_arena()
    settings = Settings()
    configure_logging(settings)
    kit = ProjKit(settings)
    telemetry = open_telemetry(settings, kit.count_spans)
    if telemetry is not None:
        for outcome in ("exported", "failed", "dropped"):
            # Create each series in this thread, before its first event.
            kit.count_spans(outcome, 0)
    if not settings.allowed_origins:
        return ServedApp(kit, kit, settings, telemetry)
    cors = _Cors(
        kit,
        allow_origins=settings.allowed_origins,
        allow_credentials="*" not in settings.allowed_origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[*_ALLOWED_HEADERS, settings.csrf_header_name],
        expose_headers=_EXPOSED_HEADERS,
    )
    return ServedApp(cors, kit, settings, telemetry)


class _Cors(CORSMiddleware):
    """CORS middleware in which the kit answers preflight requests like any OPTIONS request, with CORS headers added."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if (
            scope.get("method") != "OPTIONS"
            or "origin" not in headers
            or "access-control-request-method" not in headers
        ):
            await super().__call__(scope, receive, send)
            return
        preflight = self.preflight_response(request_headers=headers)
        allowed = [
            pair for pair in preflight.raw_headers if pair[0] == b"vary" or preflight.status_code == 200
        ]
        more = [pair for pair in allowed if pair[0].startswith((b"access-control-", b"vary"))]

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, send_with_cors)


class ServedApp:
    """The app of a worker: it drains before it stops, and configures the garbage collector.

    On a signal to stop, readiness returns 503 for ``drain_seconds`` while requests are still served; then the server's
    own handler gets the signal. A second signal stops the server at once. In a worker it is ignored: systemd and
    terminals signal every process of a group, and the parent passes its own signal on, which is one stop and not two;
    the parent tells of a second one through its pipe. ``telemetry`` is closed after everything else.
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
            await self._app(scope, receive, _send_with_close(send) if self._draining else send)
            return

        async def send_lifespan(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._configure_process()
            elif self._telemetry is not None and message["type"] in _STOPPED:
                await self._telemetry.close()  # before the server ends the process
            await send(message)

        await self._app(scope, receive, send_lifespan)

    def _configure_process(self) -> None:
        if (link := parent_link()) is not None:
            link.report_exits(self._kit.count_worker_exits)
        if self._settings.freeze_gc:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
        if self._settings.drain_seconds:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._drain_handler(loop, signal.getsignal(number)))

    def _drain_handler(
        self, loop: asyncio.AbstractEventLoop, stop: Any
    ) -> Callable[[int, FrameType | None], None]:
        seconds = self._settings.drain_seconds

        def handle(number: int, frame: FrameType | None) -> None:
            if self._draining:
                if parent_link() is None:
                    stop(number, frame)
                return
            self._draining = True
            self._kit.drain()
            logger.info("draining for %g s, then stopping; a second signal stops at once", seconds)
            # The signal can interrupt the event loop between two steps, so only thread-safe calls are allowed here.
            loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)

        return handle


def _send_with_close(send: Send) -> Send:
    """Add ``Connection: close`` to the response (RFC 9112 §9.6).

    A request that a client sends on an idle connection just as the server closes it would be lost.
    """

    async def send_with_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_with_close
