"""The log of ``projkit serve``: one line a record, as text or as JSON, with the trace that it belongs to."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from projkit.settings import Settings

_EXTRA: Final = ("request_id", "trace_id", "span_id", "method", "route", "status", "duration_ms", "db_ms")
_QUIET_SECONDS: Final = 60.0
# Their messages may show headers and addresses with credentials; what they mean is said by cli/otel/export_log.py.
_SILENT: Final = ("opentelemetry.exporter", "opentelemetry.util.re")


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


class TextFormatter(logging.Formatter):
    """A line for people; the ids of trace and span stand at the end of the message, where there are any."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        message = super().formatMessage(record)
        if (span_id := getattr(record, "span_id", None)) is None:
            return message
        return f"{message} trace_id={getattr(record, 'trace_id', '-')} span_id={span_id}"


def add_trace(record: logging.LogRecord) -> bool:
    """Tells a record which span it was written in, unless whoever wrote it has named another trace."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        trace_id = format_trace_id(context.trace_id)
        if getattr(record, "trace_id", "-") in {"-", trace_id}:
            record.trace_id, record.span_id = trace_id, format_span_id(context.span_id)
    return True


class QuietSdk(logging.Filter):
    """Lets each logger of OpenTelemetry warn once a minute: it may have something to say for every span."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        if record.levelno < logging.WARNING or record.name.startswith(_SILENT):
            return False
        now = self._clock()
        if now < self._said.get(record.name, float("-inf")) + _QUIET_SECONDS:
            return False
        self._said[record.name] = now
        return True


def configure_logging(settings: Settings) -> None:
    """Sends the kit's, uvicorn's and OpenTelemetry's log lines to standard error, as text or as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    handler.addFilter(QuietSdk())
    handler.addFilter(add_trace)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("projkit.access").setLevel(logging.INFO if settings.access_log else logging.WARNING)
    for quiet in ("alembic", "uvicorn.error"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
