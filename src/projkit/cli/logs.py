"""Logging for ``projkit serve``: one line per record, as text or JSON, with trace and span ids."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from projkit.settings import Settings

_EXTRA: Final = ("request_id", "trace_id", "span_id", "method", "route", "status", "duration_ms", "db_ms")
_OTEL_INTERVAL_SECONDS: Final = 60.0
# Their messages can contain credentials in headers and addresses; cli/otel/export_log.py logs the failures instead.
_SILENT: Final = ("opentelemetry.exporter", "opentelemetry.util.re")


class JsonFormatter(logging.Formatter):
    """A formatter that writes one JSON object per line."""

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


class TextFormatter(logging.Formatter):
    """A formatter for people; trace and span ids, if any, follow the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        message = super().formatMessage(record)
        if (span_id := getattr(record, "span_id", None)) is None:
            return message
        return f"{message} trace_id={getattr(record, 'trace_id', '-')} span_id={span_id}"


def add_trace(record: logging.LogRecord) -> bool:
    """Add the ids of the current span to a record, unless it names another trace."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        trace_id = format_trace_id(context.trace_id)
        if getattr(record, "trace_id", "-") in {"-", trace_id}:
            record.trace_id, record.span_id = trace_id, format_span_id(context.span_id)
    return True


class RateLimitOtelLogs(logging.Filter):
    """A filter that limits each OpenTelemetry logger to one warning per minute; it could log one for every span."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last_logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        if record.levelno < logging.WARNING or record.name.startswith(_SILENT):
            return False
        now = self._clock()
        if now < self._last_logged.get(record.name, float("-inf")) + _OTEL_INTERVAL_SECONDS:
            return False
        self._last_logged[record.name] = now
        return True


def configure_logging(settings: Settings) -> None:
    """Send the log of the kit, uvicorn and OpenTelemetry to standard error, as text or JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    handler.addFilter(RateLimitOtelLogs())
    handler.addFilter(add_trace)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("projkit.access").setLevel(logging.INFO if settings.access_log else logging.WARNING)
    for quiet in ("alembic", "uvicorn.error"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
