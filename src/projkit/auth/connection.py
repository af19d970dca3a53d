"""A request or a WebSocket of the host's, as far as authentication goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from starlette.authentication import AuthCredentials
from starlette.types import Message, Scope

from projkit.auth.rules import path_of
from projkit.errors import InsufficientScopeError, ProjkitError
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.identity import ANONYMOUS, Anonymous, Principal
from projkit.settings import Settings


class Authenticates(Protocol):
    """What guards of a host's routes need of a kit."""

    settings: Settings

    async def authenticate(self, scope: Scope) -> Principal:
        """The caller.

        Raises:
            UnauthenticatedError: there are no credentials, or bad ones.
            CsrfFailedError: a cookie authenticates, and another site may have caused the request.
            UnavailableError: nobody can tell, since a store does not answer.
        """


@dataclass(frozen=True, slots=True)
class Known:
    """What a kit has found out about a request: who calls, or why it does not know."""

    kit: Authenticates
    outcome: Principal | ProjkitError

    @property
    def user(self) -> Principal | Anonymous:
        """The caller, or nobody."""
        return self.outcome if isinstance(self.outcome, Principal) else ANONYMOUS


class GrantedScopes(AuthCredentials):
    """Makes ``starlette.authentication.requires`` work: what the caller may do, and ``authenticated``."""

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
        # The scope admin has them all, those of the host too.
        return super().__contains__(scope) or (
            scope != "authenticated" and isinstance(scope, str) and self._user.allows(scope)
        )


def request_of(scope: Scope, request_id: str = "") -> Request:
    """The host's request as the kit sees requests, on a copy of the scope; of a WebSocket, its handshake."""
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


async def known_of(kit: Authenticates, scope: Scope) -> Known:
    """Asks the kit who calls, once for each request, however many guards it meets."""
    known = already_known(kit, scope)
    if known is None:
        try:
            known = Known(kit, await kit.authenticate(scope))
        except ProjkitError as error:
            known = Known(kit, error)
        scope[scope_keys.AUTH_RESULT] = known
    return known


def already_known(kit: Authenticates, scope: Scope) -> Known | None:
    """What this very kit has found out before; what another has says nothing here."""
    known = scope.get(scope_keys.AUTH_RESULT)
    return known if isinstance(known, Known) and known.kit is kit else None


def admitted(known: Known, scopes: Iterable[str]) -> Principal:
    """The caller, if it has all of ``scopes``.

    Raises:
        UnauthenticatedError: nobody is signed in.
        CsrfFailedError: somebody is, but another site may have caused the request.
        InsufficientScopeError: with what is missing.
        UnavailableError: nobody can tell who it is.
    """
    if not isinstance(known.outcome, Principal):
        raise known.outcome
    missing = [scope for scope in scopes if not known.outcome.allows(scope)]
    if missing:
        raise InsufficientScopeError(" ".join(missing))
    return known.outcome


def sign_in(scope: Scope, user: Principal | Anonymous) -> None:
    """Puts the caller where frameworks look for it: ``scope["user"]``, and ``scope["auth"]`` with the scopes."""
    scope["user"] = user
    scope["auth"] = GrantedScopes(user)


def leave_answer_headers(scope: Scope, headers: list[tuple[bytes, bytes]] | None) -> None:
    """Notes what the answer must tell the client besides, for whoever sends it."""
    scope[scope_keys.RESPONSE_HEADERS] = headers or []


def take_answer_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What the answer must tell the client besides; whoever takes it sends it."""
    headers: list[tuple[bytes, bytes]] = scope.pop(scope_keys.RESPONSE_HEADERS, [])
    return headers


async def _no_body() -> Message:
    raise RuntimeError("the body is the host's to read")
