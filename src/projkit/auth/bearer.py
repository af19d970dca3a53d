"""From a request to its principal."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Final

from projkit.auth.tokens import TokenVerifier
from projkit.errors import AmbiguousCredentialsError, InvalidTokenError, UnauthenticatedError
from projkit.http.request import Request, Scope
from projkit.identity import Principal

GetPrincipal = Callable[[Scope], Principal | None | Awaitable[Principal | None]]
_SCHEME: Final = "bearer"


class BearerAuthenticator:
    """Reads ``Authorization: Bearer`` (RFC 6750 §2.1)."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def __call__(self, request: Request) -> Principal:
        """The caller.

        Raises:
            UnauthenticatedError: there are no credentials.
            AmbiguousCredentialsError: there are two.
            InvalidTokenError: the token is not valid, or the scheme is not Bearer.
        """
        value = request.headers.get(b"authorization")
        if value is None:
            raise UnauthenticatedError
        if b"authorization" in request.repeated:
            raise AmbiguousCredentialsError
        scheme, _, token = value.decode("latin-1").partition(" ")
        if scheme.lower() != _SCHEME:
            raise InvalidTokenError("Authorization must be a Bearer token")
        return self._verifier.verify(token.strip(" "))


class HostAuthenticator:
    """Asks the host who is calling; the kit's own tokens are then not read at all."""

    def __init__(self, get_principal: GetPrincipal) -> None:
        self._get_principal = get_principal

    async def __call__(self, request: Request) -> Principal:
        """The caller, as the host knows it.

        Raises:
            UnauthenticatedError: the host says that nobody is signed in.
        """
        found = self._get_principal(request.scope)
        principal = await found if inspect.isawaitable(found) else found
        if principal is None:
            raise UnauthenticatedError
        return principal
