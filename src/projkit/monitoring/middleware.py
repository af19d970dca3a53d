"""Times and counts a host's requests where the host is not wrapped by :meth:`ProjKit.wrap`, which does it already."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from projkit.http.host_timing import HostTimingMiddleware, RouteOf
from projkit.http.timing import RequestIds
from projkit.http.tracing import Tracing
from projkit.observers import Observer
from projkit.telemetry.host_routes import HostRoutes


class Counts(Protocol):
    """A kit."""

    @property
    def observer(self) -> Observer:
        """Return the receiver of the kit's events."""

    @property
    def tracing(self) -> Tracing:
        """Who knows the traces of requests."""

    @property
    def request_ids(self) -> RequestIds:
        """Return the source of request ids."""


class PerformanceMiddleware(HostTimingMiddleware):
    """Adds ``X-Process-Time`` (seconds until the headers) and ``Server-Timing``; counts; logs slow requests.

    ``app.add_middleware(PerformanceMiddleware, kit=kit)`` in Starlette and FastAPI, or around any ASGI app; pure ASGI,
    outermost at best. A kit that is mounted in the app counts its own requests.

    Args:
        app: the host, or any ASGI app of its.
        kit: whose figures the requests are added to.
        route_of: the template of the route that has answered, from the scope; Starlette's, FastAPI's and Litestar's
            are known without.
    """

    def __init__(
        self, app: Callable[[Any, Any, Any], Awaitable[Any]], kit: Counts, *, route_of: RouteOf | None = None
    ) -> None:
        super().__init__(app, kit.observer, route_of or HostRoutes(app), kit.tracing, kit.request_ids)
