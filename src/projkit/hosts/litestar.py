"""In Litestar: ``@get("/reports", guards=[require_scopes(kit, "projects:read")])``, and ``request.user``.

``request.user`` is the :class:`Principal` wherever :class:`AuthMiddleware` or this guard has let the request through.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from projkit.auth.connection import Authenticates
from projkit.errors import ProjkitError
from projkit.hosts.refusal import admit, refusal_of

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


def require_scopes(kit: Authenticates, *scopes: str) -> Guard:
    """A guard that lets callers through who have all of ``scopes`` (none: any who are signed in).

    Others are refused by ``NotAuthorizedException``, ``PermissionDeniedException`` or, with 503, ``HTTPException``,
    so that the app's own handlers answer. A WebSocket is refused before it is accepted.
    """

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        # Litestar types the scope as a dictionary of its own.
        scope: Any = connection.scope
        try:
            await admit(kit, scope, scopes)
        except ProjkitError as error:
            refusal = refusal_of(error, scope)
            kind = {401: NotAuthorizedException, 403: PermissionDeniedException}.get(
                refusal.status, HTTPException
            )
            raise kind(detail=refusal.detail, status_code=refusal.status, headers=refusal.headers) from None

    return guard
