"""Spans of what a traced request asks of database and Redis; made when the answer is there."""

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

_FAILED: Final = Status(StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a kit asks, as its spans say; None of what there is none of.

    ``elsewhere`` is whether OpenTelemetry's own instrumentation makes spans of some of it, which then is left to that.
    """

    database: Attributes | None = None
    redis: Attributes | None = None
    elsewhere: bool = False


def dependencies_of(
    settings: Settings, engine: "AsyncEngine | None", redis: "RedisClient | None"
) -> Dependencies:
    """What a kit asks: with a host's ``engine``, through that; ``redis`` whoever's it is."""
    dialect: str = settings.dialect
    url = settings.database_url
    if engine is not None:
        dialect, url = engine.dialect.name, engine.url.render_as_string(hide_password=True)
    sees_statements = dialect == "postgresql" and hasattr(asyncpg.Connection.fetchrow, "__wrapped__")
    sees_statements = sees_statements or (engine is not None and _is_instrumented(engine))
    sees_commands = redis is not None and hasattr(
        getattr(type(redis), "execute_command", None), "__wrapped__"
    )
    return Dependencies(
        database=None if sees_statements else database_attributes(dialect, url),
        redis=None if redis is None or sees_commands else redis_attributes(redis),
        elsewhere=sees_statements or sees_commands,
    )


def _is_instrumented(engine: "AsyncEngine") -> bool:
    """Whether OpenTelemetry listens to the engine's statements."""
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
        """A span of a database statement: its text has placeholders where its values were."""
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
        self._span(summary, attributes, started, ended, error)

    @never_raise
    def command(self, operation: str, started: float, ended: float, error: BaseException | None) -> None:
        """A span of a Redis command: its name, never its keys and values."""
        if self._dependencies.redis is not None:
            attributes = {**self._dependencies.redis, db.DB_OPERATION_NAME: operation}
            self._span(operation, attributes, started, ended, error)

    def _span(
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
            span.set_status(_FAILED)
        span.end(self._nanoseconds(ended))

    def _nanoseconds(self, moment: float) -> int:
        return self._offset + int(moment * 1e9)
