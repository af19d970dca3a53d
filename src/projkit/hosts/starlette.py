"""Starlette: ``@require_scopes(kit, "projects:read")`` on endpoints, and ``request.user``.

``request.user`` and ``starlette.authentication.requires`` work on every request that :class:`AuthMiddleware` or this
decorator has accepted.
"""

from collections.abc import Callable
from functools import partial, wraps
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Protocol, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from projkit.auth.connection import Authenticates, pop_response_headers
from projkit.errors import ProjkitError
from projkit.hosts.guard import authorize_request, error_response, guard_of
from projkit.http.denial import DENIAL_EXTENSION, POLICY_VIOLATION
from projkit.identity import Principal

F = TypeVar("F", bound=Callable[..., Any])


class Decorator(Protocol):
    """A decorator that keeps the signature of what it decorates."""

    def __call__(self, endpoint: F, /) -> F:
        """Return the guarded endpoint."""


def require_scopes(kit: Authenticates, *scopes: str) -> Decorator:
    """Require callers of an endpoint to have all of ``scopes``; without scopes, to be authenticated.

    The decorator applies to functions that take a request or a WebSocket, and to the methods of ``HTTPEndpoint`` and
    ``WebSocketEndpoint``. It rejects requests by raising ``HTTPException``, so that the application's own handlers
    respond, and WebSockets before they are accepted. Calls with the same kit and scopes return the same decorator.
    """
    return guard_of(kit, "starlette", scopes, partial(_create_decorator, kit))


def _create_decorator(kit: Authenticates, scopes: tuple[str, ...]) -> Decorator:
    def decorate(endpoint: F) -> F:
        @wraps(endpoint)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            connection = next(
                (each for each in (*args, *kwargs.values()) if isinstance(each, HTTPConnection)), None
            )
            if connection is None:
                raise TypeError(f"{endpoint.__qualname__} was called with neither a request nor a WebSocket")
            await authorize_or_raise(kit, connection.scope, scopes, HTTPException)
            if iscoroutinefunction(endpoint):
                response = await endpoint(*args, **kwargs)
            else:
                response = await run_in_threadpool(endpoint, *args, **kwargs)
                if isawaitable(response):
                    response = await response
            if isinstance(response, Response):
                for name, value in pop_response_headers(connection.scope):
                    response.headers.append(name.decode(), value.decode())
            return response

        return guarded  # type: ignore[return-value]  # it has the endpoint's signature

    return decorate


async def authorize_or_raise(
    kit: Authenticates, scope: Scope, scopes: tuple[str, ...], exception: type[HTTPException]
) -> Principal:
    """Return the caller, who must have all of ``scopes``.

    Raises:
        HTTPException: of the class ``exception``, with status, ``WWW-Authenticate`` and ``Retry-After``.
        WebSocketException: the same for a WebSocket, if the server does not support a response to its handshake.
    """
    try:
        return await authorize_request(kit, scope, scopes)
    except ProjkitError as error:
        response = error_response(error, scope)
        if scope["type"] == "websocket" and DENIAL_EXTENSION not in (scope.get("extensions") or {}):
            raise WebSocketException(POLICY_VIOLATION, response.detail) from None
        raise exception(response.status, response.detail, response.headers) from None
