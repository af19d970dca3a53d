"""The trace of a request as the timing middleware sees it (:class:`projkit.http.tracing.RequestTrace`)."""

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
)

from projkit.http.timing import CLIENT_CLOSED_REQUEST
from projkit.request_stats import ClientSpans
from projkit.telemetry.otel.attributes import name_of
from projkit.telemetry.otel.never_raise import OnError, never_raise

if TYPE_CHECKING:
    from contextvars import Token

_ERROR: Final = Status(StatusCode.ERROR)


class UnrecordedTrace:
    """A trace that is not recorded: only its id is used, in logs and problem details."""

    __slots__ = ("_token", "client_spans", "is_joined", "response_header", "span_context")

    def __init__(
        self,
        span_context: SpanContext,
        *,
        is_joined: bool,
        sends_header: bool,
        token: "Token[Context] | None" = None,
    ) -> None:
        self.is_joined = is_joined
        self.span_context = span_context
        self.client_spans: ClientSpans | None = None
        self.response_header = response_header(span_context) if sends_header else None
        self._token = token

    @property
    def trace_id(self) -> str:
        return format_trace_id(self.span_context.trace_id)

    @property
    def exemplar(self) -> str | None:
        return None

    def set_route(self, route: str) -> None:
        pass

    def set_error(self, error_type: str) -> None:
        pass

    def end(self, status: int) -> None:
        if self._token is not None:
            contexts.detach(self._token)


class JoinedTrace:
    """The span of the host's instrumentation: the kit sets its route, and creates client spans below it.

    ``fastapi_telemetry`` is the state of FastAPI's own telemetry, if that has created the span.
    """

    __slots__ = (
        "_fastapi_telemetry",
        "_method",
        "_span",
        "client_spans",
        "is_joined",
        "on_error",
        "response_header",
        "span_context",
    )

    def __init__(
        self,
        span: Span,
        method: str,
        client_spans: ClientSpans,
        *,
        sends_header: bool,
        on_error: OnError,
        fastapi_telemetry: Any = None,
    ) -> None:
        self._span = span
        self.on_error = on_error
        self._fastapi_telemetry = fastapi_telemetry
        self.is_joined = True
        self._method = method
        self.span_context = span.get_span_context()
        self.client_spans: ClientSpans | None = client_spans
        self.response_header = response_header(self.span_context) if sends_header else None

    @property
    def trace_id(self) -> str:
        return format_trace_id(self.span_context.trace_id)

    @property
    def exemplar(self) -> str | None:
        return self.trace_id if self.span_context.trace_flags.sampled else None

    @never_raise
    def set_route(self, route: str) -> None:
        # At once, since the host's instrumentation ends its span with the last part of the body. A span of another
        # kind is something of the host's around the kit, with a name of its own.
        if getattr(self._span, "kind", None) is not SpanKind.SERVER:
            return
        self._span.update_name(name_of(self._method, route))
        self._span.set_attribute(http.HTTP_ROUTE, route)
        # FastAPI sets the attribute again at the end, and its metric.
        if hasattr(self._fastapi_telemetry, "route"):
            self._fastapi_telemetry.route = route

    @never_raise
    def set_error(self, error_type: str) -> None:
        self._span.set_attribute(ERROR_TYPE, error_type)

    def end(self, status: int) -> None:
        pass  # the host's instrumentation ends its span


class RecordedTrace(JoinedTrace):
    """The kit's own server span, which is the current span during the request."""

    __slots__ = ("_error_type", "_token")

    def __init__(
        self,
        span: Span,
        method: str,
        client_spans: ClientSpans,
        context: Context,
        on_error: OnError,
    ) -> None:
        super().__init__(span, method, client_spans, sends_header=True, on_error=on_error)
        self.is_joined = False
        self._error_type: str | None = None
        self._token = contexts.attach(context)

    def set_error(self, error_type: str) -> None:
        self._error_type = error_type

    @never_raise
    def end(self, status: int) -> None:
        contexts.detach(self._token)
        if status != CLIENT_CLOSED_REQUEST:  # which was not sent
            self._span.set_attribute(http.HTTP_RESPONSE_STATUS_CODE, status)
        if status >= 500:
            self._span.set_attribute(ERROR_TYPE, self._error_type or str(status))
            self._span.set_status(_ERROR)
        self._span.end()


def response_header(span_context: SpanContext) -> bytes:
    """Return the value of ``traceresponse`` (W3C Trace Context Level 2 §4)."""
    return (
        f"00-{format_trace_id(span_context.trace_id)}-{format_span_id(span_context.span_id)}"
        f"-{span_context.trace_flags:02x}"
    ).encode()
