"""Probes are answered at the door: what they say is there already.

Where a server is busy its code is cold, and each function on a probe's way costs two to three times what it costs in a
loop. So whoever asks plainly is answered here, without the usual way. A trace that begins further out, a log line for
each request, a host's meters, another method than GET: all that goes the usual way and is answered the same.
"""

import logging
from collections.abc import Iterable
from time import perf_counter

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.http import scope_keys
from projkit.http.routing import Endpoint, Instant
from projkit.http.timing import RequestIds, access_logger, timing_headers
from projkit.http.tracing import Tracing
from projkit.observers import Observer


class InstantAnswers:
    """Answers GET at the endpoints that declare an ``instant``, times and records it; all else is for ``app``."""

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Iterable[Endpoint],
        routes: Iterable[Route],
        observer: Observer,
        tracing: Tracing,
        request_ids: RequestIds,
    ) -> None:
        self._app = app
        self._observer = observer
        self._tracing = tracing
        self._request_ids = request_ids
        self._answers: dict[str, tuple[Instant, Route]] = {
            endpoint.path: (endpoint.instant, route)
            for endpoint, route in zip(endpoints, routes, strict=True)
            if endpoint.instant is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        found = self._answers.get(path)
        if found is None or scope["method"] != "GET" or not self._nobody_looks(scope):
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id, has_parent = self._request_ids.read(scope, self._tracing.parents)
        if has_parent:
            await self._app(scope, receive, send)
            return
        instant, scope[scope_keys.MATCHED_ROUTE] = found
        response = instant()
        headers = [*response.complete_headers, *timing_headers(perf_counter() - started, request_id)]
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})
        except BaseException:
            self._observer.record_disconnect("GET", path)
            raise
        self._observer.record_request("GET", path, response.status, perf_counter() - started)

    def _nobody_looks(self, scope: Scope) -> bool:
        """Whether the request's id, route and time are for nobody but the recorder and whoever asks."""
        return (
            self._observer.meters is None
            and not self._tracing.has_begun()
            and scope_keys.HOST_EXCHANGE not in scope
            and not access_logger.isEnabledFor(logging.INFO)
        )
