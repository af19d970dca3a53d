"""Litestar: ``@get("/reports", guards=[require_scopes(kit, "projects:read")])``, and ``request.user``.

``request.user`` is the :class:`Principal` on every request that :class:`AuthMiddleware` or this guard has accepted.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from projkit.auth.connection import Authenticates
from projkit.errors import ProjkitError
from projkit.hosts.guard import authorize_request, error_response, guard_of

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


def require_scopes(kit: Authenticates, *scopes: str) -> Guard:
    """Return the guard that requires all of ``scopes``; without scopes, authentication.

    It rejects requests by raising ``NotAuthorizedException``, ``PermissionDeniedException`` or, with 503,
    ``HTTPException``, so that the application's own handlers respond, and WebSockets before they are accepted. Calls
    with the same kit and scopes return the same guard.
    """
    return guard_of(kit, "litestar", scopes, partial(_create_guard, kit))


def _create_guard(kit: Authenticates, scopes: tuple[str, ...]) -> Guard:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        # Litestar has its own type for scopes.
        scope: Any = connection.scope
        try:
            await authorize_request(kit, scope, scopes)
        except ProjkitError as error:
            response = error_response(error, scope)
            exceptions = {401: NotAuthorizedException, 403: PermissionDeniedException}
            exception = exceptions.get(response.status, HTTPException)
            raise exception(
                detail=response.detail, status_code=response.status, headers=response.headers
            ) from None

    return guard
