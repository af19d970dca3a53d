"""OpenTelemetry's ASGI instrumentation around a host that has none, configured for the kit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.semconv.attributes.http_attributes import HTTP_ROUTE
from opentelemetry.trace import Span, TracerProvider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.errors import ConfigurationError
from projkit.http import scope_keys
from projkit.http.client import ClientAddresses
from projkit.http.host_timing import RouteOf, SafeRouteOf
from projkit.http.timing import UNKNOWN_ROUTE
from projkit.telemetry.otel.attributes import Attributes, method_of, name_of, request_attributes

# Instrumentations use the old conventions unless this variable says otherwise, which they read once.
_OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
# Attributes that may contain a query string, in the new conventions and the old ones.
_WITH_QUERY: Final = ("url.full", "url.query", "http.url", "http.target")
_REDACTED: Final = "REDACTED"


def instrument(
    host: ASGIApp,
    route_of: RouteOf,
    addresses: ClientAddresses,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
) -> ASGIApp:
    """Wrap a host so that each request has a server span: stable conventions, a route, no query, no message spans.

    Raises:
        ConfigurationError: the instrumentation is not installed.
    """
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "kit.wrap(instrument=True) needs OpenTelemetry's ASGI instrumentation; install it with: "
            "pip install 'projkit[otel]'"
        ) from error

    def details(scope: Scope) -> tuple[str, Attributes]:
        if scope["type"] != "http":
            return "WebSocket", {}
        return name_of(method_of(scope), None), request_attributes(scope, addresses)

    def without_query(span: Span, _: Scope) -> None:
        attributes: Any = getattr(span, "attributes", None) or {}
        for name in _WITH_QUERY:
            value = attributes.get(name)
            if value and (name == "url.query" or "?" in value):
                kept = "" if name == "url.query" else value.partition("?")[0] + "?"
                span.set_attribute(name, kept + _REDACTED)

    with _stable_conventions():
        instrumented: ASGIApp = OpenTelemetryMiddleware(
            _with_route(host, SafeRouteOf(route_of)),
            default_span_details=details,
            server_request_hook=without_query,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            exclude_spans=["send", "receive"],
        )
    return instrumented


def _with_route(host: ASGIApp, route_of: SafeRouteOf) -> ASGIApp:
    """Name the span at the start of the response, when the route is known."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await host(scope, receive, send)
            return
        scope.setdefault(scope_keys.FASTAPI_TELEMETRY, None)
        span = trace.get_current_span()

        async def send_and_name(message: Message) -> None:
            if message["type"] == "http.response.start" and (route := route_of(scope)) != UNKNOWN_ROUTE:
                span.update_name(name_of(method_of(scope), route))
                span.set_attribute(HTTP_ROUTE, route)
            await send(message)

        await host(scope, receive, send_and_name)

    return app


@contextmanager
def _stable_conventions() -> Iterator[None]:
    """Select the stable HTTP conventions, unless the variable is set."""
    if _OPT_IN in os.environ:
        yield
        return
    os.environ[_OPT_IN] = "http"
    try:
        yield
    finally:
        del os.environ[_OPT_IN]
