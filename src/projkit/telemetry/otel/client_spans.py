"""Client spans of a traced request's database statements and Redis commands, created when these have ended."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg
from opentelemetry.context import Context
from opentelemetry.semconv.attributes import db_attributes as db
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from projkit.request_stats import StatementInfo
from projkit.settings import Settings
from projkit.telemetry.otel.attributes import (
    DB_RESPONSE_RETURNED_ROWS,
    Attributes,
    database_attributes,
    redis_attributes,
)
from projkit.telemetry.otel.never_raise import OnError, never_raise

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from projkit.redis.connect import RedisClient

_ERROR: Final = Status(StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Attributes of the database and of Redis for their spans; None where the kit creates none.

    ``instrumented`` is whether OpenTelemetry's instrumentation creates the spans of one of them instead.
    """

    database: Attributes | None = None
    redis: Attributes | None = None
    instrumented: bool = False


def dependencies_of(
    settings: Settings, engine: "AsyncEngine | None", redis: "RedisClient | None"
) -> Dependencies:
    """Return the dependencies of a kit, with a host's ``engine`` if it has one, and the Redis client in use."""
    dialect: str = settings.dialect
    url = settings.database_url
    if engine is not None:
        dialect, url = engine.dialect.name, engine.url.render_as_string(hide_password=True)
    statements_instrumented = dialect == "postgresql" and hasattr(asyncpg.Connection.fetchrow, "__wrapped__")
    statements_instrumented = statements_instrumented or (engine is not None and _is_instrumented(engine))
    commands_instrumented = redis is not None and hasattr(
        getattr(type(redis), "execute_command", None), "__wrapped__"
    )
    return Dependencies(
        database=None if statements_instrumented else database_attributes(dialect, url),
        redis=None if redis is None or commands_instrumented else redis_attributes(redis),
        instrumented=statements_instrumented or commands_instrumented,
    )


def _is_instrumented(engine: "AsyncEngine") -> bool:
    """Return whether OpenTelemetry's instrumentation listens to the engine's statements."""
    listeners = engine.sync_engine.dispatch.before_cursor_execute
    return any("opentelemetry" in type(getattr(each, "__self__", None)).__module__ for each in listeners)


class RequestClientSpans:
    """Client spans below one request's span (:class:`projkit.request_stats.ClientSpans`)."""

    __slots__ = ("_context", "_dependencies", "_offset", "_tracer", "on_error")

    def __init__(
        self, tracer: Tracer, context: Context, dependencies: Dependencies, on_error: OnError
    ) -> None:
        self.on_error = on_error
        self._tracer = tracer
        self._context = context
        self._dependencies = dependencies
        self._offset = time.time_ns() - time.perf_counter_ns()

    @never_raise
    def statement(
        self,
        statement: StatementInfo,
        started: float,
        ended: float,
        rows: int | None,
        error: BaseException | None,
    ) -> None:
        """Create the span of a database statement; its text has placeholders instead of values."""
        if self._dependencies.database is None:
            return
        summary = f"{statement.operation} {statement.collection}".rstrip()
        attributes: Attributes = {
            **self._dependencies.database,
            db.DB_OPERATION_NAME: statement.operation,
            db.DB_QUERY_SUMMARY: summary,
            db.DB_QUERY_TEXT: statement.sql,
        }
        if statement.collection:
            attributes[db.DB_COLLECTION_NAME] = statement.collection
        if rows is not None:
            attributes[DB_RESPONSE_RETURNED_ROWS] = rows
        self._create(summary, attributes, started, ended, error)

    @never_raise
    def command(self, operation: str, started: float, ended: float, error: BaseException | None) -> None:
        """Create the span of a Redis command, with its name but without keys and values."""
        if self._dependencies.redis is not None:
            attributes = {**self._dependencies.redis, db.DB_OPERATION_NAME: operation}
            self._create(operation, attributes, started, ended, error)

    def _create(
        self, name: str, attributes: Attributes, started: float, ended: float, error: BaseException | None
    ) -> None:
        if error is not None:
            attributes[ERROR_TYPE] = type(error).__name__
            code = getattr(error, "sqlstate", None)
            if isinstance(code, str):
                attributes[db.DB_RESPONSE_STATUS_CODE] = code
        span = self._tracer.start_span(
            name, self._context, SpanKind.CLIENT, attributes, start_time=self._nanoseconds(started)
        )
        if error is not None:
            span.set_status(_ERROR)
        span.end(self._nanoseconds(ended))

    def _nanoseconds(self, seconds: float) -> int:
        return self._offset + int(seconds * 1e9)
