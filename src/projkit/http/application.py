"""The steps of a request: route, slot, authentication, scope, body, handler, response."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from typing import Any, Final

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from projkit import errors
from projkit.http import scope_keys
from projkit.http.body import read_json
from projkit.http.concurrency import ConcurrencyLimiter
from projkit.http.disconnects import ClientDisconnectedError
from projkit.http.mounts import MountedRoutes
from projkit.http.problem import problem_response, unhandled
from projkit.http.request import Request
from projkit.http.response import Response
from projkit.http.routing import Endpoint, Match, RouteTable
from projkit.identity import Principal
from projkit.per_loop import PerLoop

Authenticate = Callable[[Request], Awaitable[Principal]]

# The limits within which a body that is too large is read and discarded, so that the client can read the response.
_DRAINED_BYTES: Final = 16 * 1_048_576
_DRAIN_SECONDS: Final = 5.0
_UUID: Final = re.compile("-".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))


class Application:
    """The innermost ASGI app of the kit; it turns every exception into an ``application/problem+json`` response.

    Args:
        endpoints: the endpoints to serve.
        entry: the outermost ASGI app of the kit, which the routes call that are exposed to hosts.
        start: ensures that the kit is started; returns an awaitable if that takes time.
        authenticate: identifies the caller.
        max_body_bytes: the limit of a request body.
        request_timeout_seconds: the time in which a request body has to arrive.
        mounted: the full routes, for telemetry and logs.
        limiters: each event loop's limit on concurrent requests, None for no limit.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        entry: ASGIApp,
        start: Callable[[], Awaitable[None] | None],
        authenticate: Authenticate,
        max_body_bytes: int,
        request_timeout_seconds: float,
        mounted: MountedRoutes,
        limiters: PerLoop[ConcurrencyLimiter] | None,
    ) -> None:
        self.table = RouteTable(endpoints)
        self._start = start
        self._authenticate = authenticate
        self._max_body_bytes = max_body_bytes
        self._request_timeout_seconds = request_timeout_seconds
        self._mounted = mounted
        self._limiters = limiters
        # Starlette routes, in which hosts and instrumentors look up path templates.
        self.routes = [
            Route(endpoint.path, _RouteEndpoint(entry), methods=[endpoint.method], name=endpoint.operation_id)
            for endpoint in self.table.endpoints
        ]
        self._route_by_template = {route.path: route for route in reversed(self.routes)}

    def for_in_process_calls(self, authenticate: Authenticate) -> "Application":
        """Return the same endpoints with other authentication, without the start of the kit and without a limit."""
        application = copy(self)
        application._start = _is_started  # noqa: SLF001
        application._authenticate = authenticate  # noqa: SLF001
        application._limiters = None  # noqa: SLF001
        return application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            try:
                response = await self._respond(request)
            finally:
                request.release_slot()
        except ClientDisconnectedError:
            return  # the timing middleware sends a response in its place, and records the disconnect
        except errors.ContentTooLargeError as error:
            try:
                error.drained = await request.drain(_DRAINED_BYTES, _DRAIN_SECONDS)
            except ClientDisconnectedError:
                return
            response = problem_response(error, request)
        except errors.OverloadedError as error:
            error.unread = request.has_long_body
            response = problem_response(error, request)
        except errors.ProjkitError as error:
            response = problem_response(error, request)
        except Exception as error:  # the only place where unexpected exceptions become a 500
            response = unhandled(error, request)
        await response.send(send, head=request.method == "HEAD", more=request.response_headers)

    async def _respond(self, request: Request) -> Response:
        match = self.table.find(request.path)
        if match is None:
            raise errors.NotFoundError
        scope = request.scope
        scope[scope_keys.ROUTE] = route = self._mounted.full(scope, match.template)
        scope[scope_keys.MATCHED_ROUTE] = self._route_by_template[match.template]
        if (trace := scope.get(scope_keys.TRACE)) is not None:
            trace.set_route(route)
        endpoint = match.endpoints.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            return _options(match, request)
        preparing = self._prepare_standalone(endpoint) if endpoint.standalone else self._prepare(request)
        if preparing is not None:
            await preparing
        if not (
            endpoint.public or (endpoint.allows_anonymous is not None and endpoint.allows_anonymous(request))
        ):
            request.principal = await self._authenticate(request)
            if endpoint.scope is not None and not request.principal.allows(endpoint.scope):
                raise errors.InsufficientScopeError(endpoint.scope)
        if endpoint.check is not None:
            endpoint.check(request)
        if match.params:
            if not _are_valid(endpoint, match.params):
                raise errors.NotFoundError
            request.params = match.params
        handler: Callable[..., Awaitable[Response]] = endpoint.handler
        if endpoint.body is None:
            return await handler(request)
        if not endpoint.body.required and not request.may_have_body:
            return await handler(request, {})
        content: Any = await read_json(
            request,
            endpoint.body.content_types,
            self._max_body_bytes,
            self._request_timeout_seconds,
            required=endpoint.body.required,
        )
        return await handler(request, content)

    def _prepare(self, request: Request) -> Awaitable[None] | None:
        """Acquire a slot and ensure that the kit is started; return an awaitable if either takes time."""
        if self._limiters is None:
            return self._start()
        acquiring = request.acquire_slot(self._limiters.get())
        return self._start() if acquiring is None else self._prepare_after(acquiring)

    def _prepare_standalone(self, endpoint: Endpoint) -> Awaitable[None] | None:
        """Do the same for a standalone endpoint: acquire no slot, and start the kit only if ``starts_kit`` is set."""
        return self._start() if endpoint.starts_kit else None

    async def _prepare_after(self, acquiring: Awaitable[None]) -> None:
        await acquiring
        if (starting := self._start()) is not None:
            await starting


def _is_started() -> None:
    """Do nothing: in-process calls come from a kit that has started."""


def _are_valid(endpoint: Endpoint, params: Mapping[str, str]) -> bool:
    for name, value in params.items():
        declared = endpoint.params.get(name)
        if not (_UUID.fullmatch(value) if declared is None else declared.matches(value)):
            return False
    return True


def _options(match: Match, request: Request) -> Response:
    if request.method == "OPTIONS":
        return Response(204, headers=((b"allow", match.allowed.encode()),))
    raise errors.MethodNotAllowedError(match.allowed)


class _RouteEndpoint:
    """The endpoint of the Starlette routes, for hosts that serve ``kit.routes``; the kit has a faster lookup."""

    def __init__(self, entry: ASGIApp) -> None:
        self._entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entry(scope, receive, send)
