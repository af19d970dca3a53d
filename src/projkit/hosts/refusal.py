"""What a guard tells its framework when it refuses a request."""

from dataclasses import dataclass

from starlette.types import Scope

from projkit.auth.connection import (
    Authenticates,
    authenticate_once,
    authorize,
    pop_response_headers,
    set_user,
)
from projkit.errors import ProjkitError
from projkit.http.problem import headers_of, status_of
from projkit.identity import Principal


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer without a body: the host's own error handlers give it one."""

    status: int
    detail: str
    headers: dict[str, str]


async def admit(kit: Authenticates, scope: Scope, scopes: tuple[str, ...]) -> Principal:
    """The caller, who has all of ``scopes`` and is in ``scope["user"]`` from now on.

    Raises:
        UnauthenticatedError: nobody is signed in.
        CsrfFailedError: somebody is, but another site may have caused the request.
        InsufficientScopeError: with what is missing.
        UnavailableError: nobody can tell who it is.
    """
    principal = authorize(await authenticate_once(kit, scope), scopes)
    set_user(scope, principal)
    return principal


def refusal_of(error: ProjkitError, scope: Scope) -> Refusal:
    """How an error is told: by its status and headers, ``WWW-Authenticate`` and ``Retry-After`` among them."""
    headers = (*headers_of(error), *pop_response_headers(scope))
    status = status_of(type(error))
    detail = error.detail if status != 500 else ProjkitError.title
    return Refusal(status, detail, {name.decode(): value.decode() for name, value in headers})
