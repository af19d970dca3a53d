"""Authorization of a host's request, and the response to a rejected one; shared by all guards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

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

G = TypeVar("G")


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The response to a rejected request, without a body; the host's error handlers add one."""

    status: int
    detail: str
    headers: dict[str, str]


def guard_of(
    kit: Authenticates, framework: str, scopes: tuple[str, ...], create: Callable[[tuple[str, ...]], G]
) -> G:
    """Return the kit's guard for these scopes, in any order; it is created if none is in use.

    Equal calls return the same object, because hosts use guards as keys, as FastAPI's ``dependency_overrides`` does.
    The kit does not keep them alive: a host may create guards for scopes that it computes for each request.
    """
    key = (framework, frozenset(scopes))
    guard: G | None = kit.guards.get(key)
    if guard is None:
        guard = kit.guards.setdefault(key, create(tuple(dict.fromkeys(scopes))))
    return guard


async def authorize_request(kit: Authenticates, scope: Scope, scopes: tuple[str, ...]) -> Principal:
    """Return the caller, who must have all of ``scopes``, and store it in ``scope["user"]``.

    Raises:
        UnauthenticatedError: there are no credentials, or they are invalid.
        CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
        InsufficientScopeError: the caller lacks a scope.
        UnavailableError: a store that must be consulted does not respond.
    """
    principal = authorize(await authenticate_once(kit, scope), scopes)
    set_user(scope, principal)
    return principal


def error_response(error: ProjkitError, scope: Scope) -> ErrorResponse:
    """Return the response to an error, with ``WWW-Authenticate`` and ``Retry-After`` where they apply."""
    headers = (*headers_of(error), *pop_response_headers(scope))
    status = status_of(type(error))
    detail = error.detail if status != 500 else ProjkitError.title
    return ErrorResponse(status, detail, {name.decode(): value.decode() for name, value in headers})
