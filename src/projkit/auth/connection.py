"""Authentication of the host's own requests and WebSockets, once per ASGI scope."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.authentication import AuthCredentials
from starlette.types import Message, Scope

from projkit.auth.rules import path_of
from projkit.errors import InsufficientScopeError, ProjkitError
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.http.timing import RequestIds
from projkit.identity import ANONYMOUS, Anonymous, Principal
from projkit.settings import Settings


class Authenticates(Protocol):
    """The part of :class:`~projkit.ProjKit` that guards of a host's routes use.

    Attributes:
        settings: the kit's settings.
        guards: the guards of this kit that are in use, by framework and scopes.
    """

    settings: Settings
    guards: MutableMapping[tuple[str, frozenset[str]], Any]

    @property
    def request_ids(self) -> RequestIds:
        """The source of request ids."""

    async def authenticate(self, scope: Scope) -> Principal:
        """Return the caller.

        Raises:
            UnauthenticatedError: there are no credentials, or they are invalid.
            CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
            UnavailableError: a store that must be consulted does not respond.
        """


@dataclass(frozen=True, slots=True)
class AuthResult:
    """The outcome of authenticating a request: its principal, or the error."""

    kit: Authenticates
    outcome: Principal | ProjkitError

    @property
    def user(self) -> Principal | Anonymous:
        """The principal, or :data:`~projkit.identity.ANONYMOUS` after an error."""
        return self.outcome if isinstance(self.outcome, Principal) else ANONYMOUS


class GrantedScopes(AuthCredentials):
    """The caller's scopes and ``authenticated``, for ``starlette.authentication.requires``."""

    def __init__(self, user: Principal | Anonymous) -> None:
        super().__init__()
        self.scopes = _Allowed(user)


class _Allowed(list[str]):
    def __init__(self, user: Principal | Anonymous) -> None:
        super().__init__(sorted(user.scopes))
        self._user = user
        if user.is_authenticated:
            self.append("authenticated")

    def __contains__(self, scope: object) -> bool:
        # admin includes every scope, also the host's own.
        return super().__contains__(scope) or (
            scope != "authenticated" and isinstance(scope, str) and self._user.allows(scope)
        )


def request_of(scope: Scope, request_id: str = "") -> Request:
    """Return the host's request (or a WebSocket's handshake) as a :class:`Request`, on a copy of the scope."""
    root_path: str = scope.get("root_path", "").rstrip("/")
    path = path_of(scope)
    inner = {
        **scope,
        "method": scope.get("method", "GET"),
        "root_path": "" if path is None else root_path,
        scope_keys.PATH: scope["path"] if path is None else path,
        scope_keys.REQUEST_ID: request_id or scope.get(scope_keys.REQUEST_ID, ""),
    }
    return Request(inner, _no_body)


async def authenticate_once(kit: Authenticates, scope: Scope) -> AuthResult:
    """Authenticate a request, or return the result of an earlier guard of the same request."""
    result = cached_result(kit, scope)
    if result is None:
        try:
            result = AuthResult(kit, await kit.authenticate(scope))
        except ProjkitError as error:
            result = AuthResult(kit, error)
        scope[scope_keys.AUTH_RESULT] = result
    return result


def cached_result(kit: Authenticates, scope: Scope) -> AuthResult | None:
    """Return the result that this kit stored in the scope, if any; results of other kits do not count."""
    result = scope.get(scope_keys.AUTH_RESULT)
    return result if isinstance(result, AuthResult) and result.kit is kit else None


def authorize(result: AuthResult, scopes: Iterable[str]) -> Principal:
    """Return the principal if it has all of ``scopes``.

    Raises:
        UnauthenticatedError: there are no credentials, or they are invalid.
        CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
        InsufficientScopeError: scopes are missing; the error names them.
        UnavailableError: a store that must be consulted does not respond.
    """
    if not isinstance(result.outcome, Principal):
        raise result.outcome
    missing = [scope for scope in scopes if not result.outcome.allows(scope)]
    if missing:
        raise InsufficientScopeError(" ".join(missing))
    return result.outcome


def set_user(scope: Scope, user: Principal | Anonymous) -> None:
    """Set ``scope["user"]`` and ``scope["auth"]``, where frameworks look for the caller and its scopes."""
    scope["user"] = user
    scope["auth"] = GrantedScopes(user)


def store_response_headers(scope: Scope, headers: list[tuple[bytes, bytes]] | None) -> None:
    """Store headers that authentication adds to the response, such as ``Deprecation``, in the scope."""
    scope[scope_keys.RESPONSE_HEADERS] = headers or []


def pop_response_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Remove and return the stored headers; the caller must send them."""
    headers: list[tuple[bytes, bytes]] = scope.pop(scope_keys.RESPONSE_HEADERS, [])
    return headers


async def _no_body() -> Message:
    raise RuntimeError("only the host application reads the body")
