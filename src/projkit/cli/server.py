"""The server that ``projkit serve`` starts: uvicorn, with draining and a tamed garbage collector."""

import asyncio
import gc
import json
import logging
import signal
import socket
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from projkit.http.request import ASGIApp
from projkit.kit import ProjKit
from projkit.settings import Settings

logger: Final = logging.getLogger("projkit")

# Full collections walk every imported module's objects and stop the server for it; what is there at start-up is
# there for good, so it is taken out of sight, and the young generation is given room for a few requests.
_GC_THRESHOLDS: Final = (20_000, 50, 100)
_EXTRA: Final = ("request_id", "method", "route", "status", "duration_ms", "db_ms")
_serving: list[ProjKit] = []


def create_app() -> ASGIApp:
    """The app that each worker runs; CORS only here, a mounted kit adds none."""
    settings = Settings()
    configure_logging(settings)
    kit = ProjKit(settings)
    _serving.append(kit)
    if not settings.allowed_origins:
        return kit
    return CORSMiddleware(
        kit,
        allow_origins=settings.allowed_origins,
        allow_credentials="*" not in settings.allowed_origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "X-Request-ID"],
        expose_headers=["ETag", "Location", "Link", "X-Request-ID", "X-Process-Time", "Server-Timing"],
    )


class DrainingServer(uvicorn.Server):
    """Answers readiness probes with 503 for ``drain_seconds`` before it closes its listeners."""

    def __init__(self, config: uvicorn.Config, *, drain_seconds: float, freeze_gc: bool) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._freeze_gc = freeze_gc
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self._freeze_gc:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining or not self.started or self._drain_seconds == 0:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        for kit in _serving:
            kit.drain()
        logger.info("draining for %g s, then stopping; a second signal stops at once", self._drain_seconds)
        # A signal may come between two steps of the loop: only what is thread-safe is allowed here.
        loop = self._loop
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, super().handle_exit, signal.SIGTERM, None)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _EXTRA if hasattr(record, name)})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(settings: Settings) -> None:
    """Sends the kit's and uvicorn's log lines to standard error, as text or as JSON."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("projkit.access").setLevel(logging.INFO if settings.access_log else logging.WARNING)
    for quiet in ("alembic", "uvicorn.error"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
