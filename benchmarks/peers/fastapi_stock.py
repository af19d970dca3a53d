"""The same FastAPI application with the observability that the packages' own guides recommend.

- opentelemetry-instrumentation-asgi with its default settings (a span also for each receive and send), and
  opentelemetry-instrumentation-sqlalchemy on the engine; 1 % of traces are sampled, parent-based, and spans go in
  batches to an exporter that discards them, so that no collector is measured;
- a Prometheus counter and histogram, whose children are looked up by ``labels()`` for each request;
- one ``BaseHTTPMiddleware`` that adds ``X-Request-ID`` and ``X-Process-Time``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import Counter, Histogram, make_asgi_app
from starlette.middleware.base import BaseHTTPMiddleware

from peers.fastapi_orm import make_app, make_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from opentelemetry.sdk.trace import ReadableSpan
    from sqlalchemy.ext.asyncio import AsyncEngine
    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response

LABELS = ("method", "route", "status")
REQUESTS = Counter("http_requests", "Requests answered", LABELS)
SECONDS = Histogram("http_request_duration_seconds", "Seconds to answer a request", LABELS)


class Dropped(SpanExporter):
    """An exporter that discards spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Discard the spans."""
        return SpanExportResult.SUCCESS


class Observed(BaseHTTPMiddleware):
    """Middleware that times and counts requests, and adds a request id."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Handle a request."""
        started = time.perf_counter()
        response = await call_next(request)
        seconds = time.perf_counter() - started
        route = getattr(request.scope.get("route"), "path", "unknown")
        labels = (request.method, route, str(response.status_code))
        REQUESTS.labels(*labels).inc()
        SECONDS.labels(*labels).observe(seconds)
        response.headers["X-Request-ID"] = request.headers.get("X-Request-ID") or str(uuid4())
        response.headers["X-Process-Time"] = f"{seconds:.6f}"
        return response


def observe(app: FastAPI, engine: AsyncEngine) -> None:
    """Add tracing and metrics to the application and its engine."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)))
    provider.add_span_processor(BatchSpanProcessor(Dropped()))
    # Without `skip_dep_check` this release creates no spans on SQLAlchemy 2.1, and only logs that.
    SQLAlchemyInstrumentor().instrument(
        engine=engine.sync_engine, tracer_provider=provider, skip_dep_check=True
    )
    app.mount("/metrics", make_asgi_app())
    app.add_middleware(Observed)
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider)


def create_app() -> FastAPI:
    """Create the application, for uvicorn's ``--factory``."""
    engine = make_engine()
    app = make_app(engine)
    observe(app, engine)
    return app
