"""The fast path of probes: responses that are prepared in advance are sent without the normal path.

On a busy server code is cold, and each function on a probe's path costs two to three times as much as in a loop. So a
plain GET is answered here, before entry, timing, routing and handler, which would nearly double its cost. A request
takes the normal path, and gets the same response, if an outer trace, an access log of probes or a host's meters observe
it, or if it uses another method.
"""

import logging
from collections.abc import Iterable
from time import perf_counter

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.http import scope_keys
from projkit.http.mounts import MountedRoutes
from projkit.http.routing import Endpoint, PreparedHandler
from projkit.http.timing import RequestIds, access_logger, timing_headers
from projkit.http.tracing import Tracing
from projkit.observers import Observer


class PreparedEndpoints:
    """Middleware that serves GET at the endpoints with a ``prepared`` handler, and passes all else to ``app``.

    It times and records requests itself: going through :class:`~projkit.http.timing.TimingMiddleware` alone would cost
    as much as the whole normal path.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Iterable[Endpoint],
        routes: Iterable[Route],
        observer: Observer,
        tracing: Tracing,
        request_ids: RequestIds,
        mounted: MountedRoutes,
        *,
        log_probes: bool,
    ) -> None:
        self._app = app
        self._observer = observer
        self._tracing = tracing
        self._request_ids = request_ids
        self._mounted = mounted
        self._log_probes = log_probes
        self._prepared: dict[str, tuple[PreparedHandler, Route]] = {
            endpoint.path: (endpoint.prepared, route)
            for endpoint, route in zip(endpoints, routes, strict=True)
            if endpoint.prepared is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        prepared = self._prepared.get(path)
        if prepared is None or scope["method"] != "GET" or not self._is_unobserved(scope):
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id, has_parent = self._request_ids.read(scope, self._tracing.parent_headers)
        if has_parent:
            await self._app(scope, receive, send)
            return
        handler, scope[scope_keys.MATCHED_ROUTE] = prepared
        route = path if not root_path and self._mounted.at_root else self._mounted.full(scope, path)
        response = handler()
        headers = [*response.complete_headers, *timing_headers(perf_counter() - started, request_id)]
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})
        except BaseException:
            self._observer.record_disconnect("GET", route)
            raise
        self._observer.record_request("GET", route, response.status, perf_counter() - started)

    def _is_unobserved(self, scope: Scope) -> bool:
        """Return whether only the recorder needs the request's id, route and duration."""
        return (
            self._observer.meters is None
            and not self._tracing.has_current_context()
            and scope_keys.HOST_EXCHANGE not in scope
            and not (self._log_probes and access_logger.isEnabledFor(logging.INFO))
        )
