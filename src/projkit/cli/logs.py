"""Logging for ``projkit serve``: one line per record, as text or JSON, with trace and span ids.

With ``LOG_FORMAT=json`` everything that the server writes is JSON: also what is said before the settings are read,
warnings of Python, and uncaught exceptions. ``docs/monitoring.md`` describes the fields.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from projkit.settings import Settings

logger: Final = logging.getLogger("projkit")

# The fields of a line, in this order; those without a value are left out.
FIELDS: Final = (
    "time", "level", "logger", "message", "pid", "request_id", "trace_id", "span_id", "client", "method", "route",
    "status", "duration_ms", "db_ms", "left_out", "url", "traceback",
)  # fmt: skip
_EXTRA: Final = tuple(
    name for name in FIELDS if name not in {"time", "level", "logger", "message", "pid", "traceback"}
)
_OTEL_INTERVAL_SECONDS: Final = 60.0
# Their messages can contain credentials in headers and addresses; cli/otel/export_log.py logs the failures instead.
_SILENT: Final = ("opentelemetry.exporter", "opentelemetry.util.re")
_VARIABLE: Final = "PROJKIT_LOG_FORMAT"


class JsonFormatter(logging.Formatter):
    """A formatter that writes one JSON object per line, in ASCII, so that any terminal and any pipe keeps it valid."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "pid": record.process,
        }
        line.update((name, getattr(record, name, None)) for name in _EXTRA)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        elif record.stack_info:
            line["traceback"] = self.formatStack(record.stack_info)
        present = {name: value for name, value in line.items() if not _is_absent(value)}
        try:
            return json.dumps(present, default=_text, allow_nan=False)
        except Exception:  # a cycle, NaN or a key that is not text; logging would report it as plain text
            return json.dumps({name: _as_json(value) for name, value in present.items()}, default=_text)


def _as_json(value: object) -> object:
    try:
        json.dumps(value, default=_text, allow_nan=False)
    except Exception:
        return _text(value)
    return value


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, str) and value in {"", "-"})


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not match the text, or that are not text
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        return f"{_text(record.msg)} ({', '.join(map(_text, arguments))})"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


class TextFormatter(logging.Formatter):
    """A formatter for people; client, trace and span ids, if any, follow the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        message = super().formatMessage(record)
        names = ("client", "trace_id", "span_id") if hasattr(record, "span_id") else ("client",)
        more = [f"{name}={getattr(record, name)}" for name in names if hasattr(record, name)]
        return " ".join([message, *more])


def add_trace(record: logging.LogRecord) -> bool:
    """Add the ids of the current span to a record, unless it names another trace."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        trace_id = format_trace_id(context.trace_id)
        if getattr(record, "trace_id", None) in {None, "-", trace_id}:
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
    _configure(settings.log_format)
    logging.getLogger("projkit.access").setLevel(logging.INFO if settings.access_log else logging.WARNING)


def configure_early_logging() -> bool:
    """Do the same before the settings are read, if the environment asks for JSON; return whether it does."""
    if not writes_json():
        return False
    _configure("json")
    return True


def writes_json() -> bool:
    """Return whether the environment asks for JSON."""
    return os.environ.get(_VARIABLE) == "json"


def _configure(log_format: Literal["console", "json"]) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(RateLimitOtelLogs())
    handler.addFilter(add_trace)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for quiet in ("alembic", "uvicorn.error"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    if log_format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread
        sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    logger.critical("uncaught %s", kind.__name__, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        name = "" if arguments.thread is None else arguments.thread.name
        error = arguments.exc_value
        logger.critical("uncaught %s in thread %s", type(error).__name__, name, exc_info=error)


def _log_unraisable(unraisable: Any) -> None:
    error = unraisable.exc_value
    logger.error("%s: %r", unraisable.err_msg or "exception ignored in", unraisable.object, exc_info=error)
