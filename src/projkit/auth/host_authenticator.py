"""Authentication by the host's ``get_principal``, and by the kit's own credentials where the host passes a request on.

What the function returns decides, in this order:

1. :data:`~projkit.identity.NOT_MINE`: the kit's own credentials decide, as if there were no function.
2. None, or an anonymous caller: 401.
3. A :class:`~projkit.identity.HostCredential` or a plain :class:`~projkit.identity.Principal`: the caller. An unsafe
   request or a WebSocket that a cookie authenticated must not come from another site.

A plain principal does not tell what authenticated the request. If a browser sends it with cookies, and without an
``Authorization`` header that only a page's own script can have set, rule 1 (the origin) applies to it all the same.
Rule 3 does not: the host's own HTML forms are not JSON, and the kit's routes accept nothing else anyway.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.types import Scope

from projkit.auth.authenticator import Authenticator, is_unsafe
from projkit.auth.csrf import CsrfGuard, is_from_browser
from projkit.errors import UnauthenticatedError
from projkit.http.in_process import is_in_process
from projkit.http.request import Request
from projkit.identity import NOT_MINE, HostCredential, NotMine, Principal

HostCaller = Principal | HostCredential | NotMine | None
# Takes the scope, and ``watch``.
AwaitableGetPrincipal = Callable[..., Awaitable[HostCaller]]
GetPrincipal = Callable[[Scope], HostCaller | Awaitable[HostCaller]]
# Schemes whose credentials browsers repeat by themselves (RFC 7617 §2.2, RFC 7616, RFC 4559).
_AMBIENT_SCHEMES: Final = frozenset({b"basic", b"digest", b"negotiate", b"ntlm"})


class HostAuthenticator:
    """Authentication by the host's ``get_principal``.

    Args:
        get_principal: the host's function.
        own: authenticates the requests that the function passes on.
        csrf: checks the requests that the host's cookies authenticate.

    Attributes:
        passes_on: whether the function has returned NOT_MINE, so that the kit's credentials are in use.
    """

    def __init__(self, get_principal: AwaitableGetPrincipal, own: Authenticator, csrf: CsrfGuard) -> None:
        self._get_principal = get_principal
        self._own = own
        self._csrf = csrf
        self.passes_on = False

    async def __call__(self, request: Request) -> Principal:
        """Return the caller.

        Raises:
            UnauthenticatedError: the host names no caller, or passes on a request without valid credentials.
            CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
            UnavailableError: a store that must be consulted does not respond.
        """
        if is_in_process(request.scope):
            raise UnauthenticatedError  # a request that the kit sends to itself is unknown to the host
        caller = await self._get_principal(request.scope, watch=request.watch_client)
        if caller is NOT_MINE:
            self.passes_on = True
            return await self._own(request)
        principal = _principal_of(caller)
        if principal is None:
            raise UnauthenticatedError
        if is_unsafe(request):
            is_cookie = isinstance(caller, HostCredential) and caller.cookie
            if is_cookie or (not isinstance(caller, HostCredential) and _may_be_forged(request)):
                await self._csrf.check_host_credential(request, is_cookie=is_cookie)
        return principal


def _principal_of(caller: object) -> Principal | None:
    """Return the principal in what ``get_principal`` returned; None for an anonymous caller.

    Raises:
        TypeError: it is something else, such as a user object of the host, which would fail later in obscure ways.
    """
    principal = caller.principal if isinstance(caller, HostCredential) else caller
    if principal is None or getattr(principal, "is_authenticated", None) is False:
        return None
    if isinstance(principal, Principal):
        return principal
    raise TypeError(
        f"get_principal must return a Principal, a HostCredential, NOT_MINE or None, not {type(principal).__name__}"
    )


def _may_be_forged(request: Request) -> bool:
    """Return whether a browser sends the request, and may have added its credential without the page's knowledge."""
    scheme = request.headers.get(b"authorization", b"").partition(b" ")[0].lower()
    is_ambient = scheme in _AMBIENT_SCHEMES if scheme else b"cookie" in request.headers
    return is_ambient and is_from_browser(request)
