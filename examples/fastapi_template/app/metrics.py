"""Metrics of the service for Prometheus."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, generate_latest

from app.kit import kit

REQUESTS = Counter("app_requests", "Requests that the service has answered.", ["method", "status"])
kit.registry.register(REGISTRY)  # one scrape of the kit's /metrics gets the metrics of both


async def count_requests(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Count a request."""
    response = await call_next(request)
    REQUESTS.labels(request.method, str(response.status_code)).inc()
    return response


def get_metrics() -> Response:
    """Return the metrics as text."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
