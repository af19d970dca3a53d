"""Middleware that times and counts a host's requests, for hosts that do not use :meth:`ProjKit.wrap`."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from projkit.http.host_timing import HostTimingMiddleware, RouteOf
from projkit.http.timing import RequestIds
from projkit.http.tracing import Tracing
from projkit.observers import Observer
from projkit.telemetry.host_routes import HostRoutes


class KitTelemetry(Protocol):
    """The part of :class:`~projkit.ProjKit` that the middleware uses."""

    @property
    def observer(self) -> Observer:
        """The receiver of the kit's events."""

    @property
    def tracing(self) -> Tracing:
        """The traces of requests."""

    @property
    def request_ids(self) -> RequestIds:
        """The source of request ids."""


class PerformanceMiddleware(HostTimingMiddleware):
    """ASGI middleware that counts requests, logs slow ones and adds ``X-Process-Time`` and ``Server-Timing``.

    ``X-Process-Time`` is the time in seconds until the response headers. Add the middleware with
    ``app.add_middleware(PerformanceMiddleware, kit=kit)`` in Starlette and FastAPI, or wrap any ASGI application in it;
    preferably as the outermost middleware. A kit that is mounted in the application counts its own requests.

    Args:
        app: the host, or any ASGI application.
        kit: the kit to whose metrics the requests are added.
        route_of: returns the route template of a request, given its scope. The templates of Starlette, FastAPI and
            Litestar are known without it.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[Any]],
        kit: KitTelemetry,
        *,
        route_of: RouteOf | None = None,
    ) -> None:
        super().__init__(app, kit.observer, route_of or HostRoutes(app), kit.tracing, kit.request_ids)
