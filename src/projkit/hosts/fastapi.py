"""FastAPI: ``Depends(require_scopes(kit, "projects:read"))``, or ``Security(current_principal(kit), scopes=[…])``.

The dependencies work with and without :class:`AuthMiddleware`, for HTTP and WebSocket routes, and appear in the
application's OpenAPI document as the security schemes ``projkit_bearer`` and ``projkit_cookie``.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import HTTPException, Response, Security
from fastapi.openapi.models import APIKey, HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from projkit.auth.connection import Authenticates, pop_response_headers
from projkit.auth.credentials import CookieNames
from projkit.hosts.guard import guard_of
from projkit.hosts.starlette import authorize_or_raise
from projkit.identity import Principal

Dependency = Callable[..., Awaitable[Principal]]


class _Scheme(SecurityBase):
    """A security scheme for the OpenAPI document only: the kit reads the credentials."""

    def __init__(self, name: str, model: HTTPBearer | APIKey) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        return None


def current_principal(kit: Authenticates) -> Dependency:
    """Return the dependency that provides the authenticated :class:`Principal`; the same one for each call.

    With ``Security(…, scopes=[…])`` the caller must have all of the scopes. Other requests are rejected, as by
    :func:`require_scopes`.
    """
    return require_scopes(kit)


def require_scopes(kit: Authenticates, *scopes: str) -> Dependency:
    """Return the dependency that provides the :class:`Principal`, who must have all of ``scopes``.

    Other requests are rejected by raising ``fastapi.HTTPException``, so that the application's own handlers respond:
    401 with ``WWW-Authenticate``, 403, or 503 with ``Retry-After``. WebSockets are rejected before they are accepted.

    Calls with the same kit and scopes, in any order, return the same dependency, so that tests can replace it:
    ``app.dependency_overrides[require_scopes(kit, "projects:read")] = …``. Without scopes, it is that of
    :func:`current_principal`.
    """
    return guard_of(kit, "fastapi", scopes, partial(_create_dependency, kit))


def _create_dependency(kit: Authenticates, scopes: tuple[str, ...]) -> Dependency:
    names = CookieNames(host_prefix=kit.settings.cookie_host_prefix, csrf=kit.settings.csrf_cookie_name)
    bearer = _Scheme("projkit_bearer", HTTPBearer(bearerFormat="JWT"))
    cookie = _Scheme("projkit_cookie", APIKey.model_validate({"in": "cookie", "name": names.auth}))

    async def dependency(
        connection: HTTPConnection,
        response: Response,
        security_scopes: SecurityScopes,
        _bearer: None = Security(bearer, scopes=scopes),
        _cookie: None = Security(cookie, scopes=scopes),
    ) -> Principal:
        principal = await authorize_or_raise(
            kit, connection.scope, (*scopes, *security_scopes.scopes), HTTPException
        )
        for name, value in pop_response_headers(connection.scope):
            response.headers.append(name.decode(), value.decode())
        return principal

    return dependency
