"""In Starlette: ``@require_scopes(kit, "projects:read")`` on endpoints, and ``request.user``.

``request.user`` and ``starlette.authentication.requires`` work wherever :class:`AuthMiddleware` or this decorator has
let the request through.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isawaitable, iscoroutinefunction
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from projkit.auth.connection import Authenticates, pop_response_headers
from projkit.errors import ProjkitError
from projkit.hosts.refusal import admit, refusal_of
from projkit.http.denial import DENIAL_EXTENSION, POLICY_VIOLATION
from projkit.identity import Principal

F = TypeVar("F", bound=Callable[..., Any])


def require_scopes(kit: Authenticates, *scopes: str) -> Callable[[F], F]:
    """Lets callers who have all of ``scopes`` (none: any who are signed in) through to an endpoint.

    For functions that take a request or a WebSocket, and for the methods of ``HTTPEndpoint`` and
    ``WebSocketEndpoint``. Others are refused by ``HTTPException``, so that the app's own handlers answer; a
    WebSocket before it is accepted.
    """

    def decorate(endpoint: F) -> F:
        @wraps(endpoint)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            connection = next(
                (each for each in (*args, *kwargs.values()) if isinstance(each, HTTPConnection)), None
            )
            if connection is None:
                raise TypeError(f"{endpoint.__qualname__} takes neither a request nor a WebSocket")
            await admit_or_raise(kit, connection.scope, scopes, HTTPException)
            if iscoroutinefunction(endpoint):
                answer = await endpoint(*args, **kwargs)
            else:
                answer = await run_in_threadpool(endpoint, *args, **kwargs)
                if isawaitable(answer):
                    answer = await answer
            if isinstance(answer, Response):
                for name, value in pop_response_headers(connection.scope):
                    answer.headers.append(name.decode(), value.decode())
            return answer

        return guarded  # type: ignore[return-value]  # it is called as the endpoint was

    return decorate


async def admit_or_raise(
    kit: Authenticates, scope: Scope, scopes: tuple[str, ...], refused: type[HTTPException]
) -> Principal:
    """The caller, who has all of ``scopes``.

    Raises:
        HTTPException: of the class ``refused``, with status, ``WWW-Authenticate`` and ``Retry-After``.
        WebSocketException: the same for a WebSocket, where the server cannot answer its handshake with a response.
    """
    try:
        return await admit(kit, scope, scopes)
    except ProjkitError as error:
        refusal = refusal_of(error, scope)
        if scope["type"] == "websocket" and DENIAL_EXTENSION not in (scope.get("extensions") or {}):
            raise WebSocketException(POLICY_VIOLATION, refusal.detail) from None
        raise refused(refusal.status, refusal.detail, refusal.headers) from None
