"""From a request to its principal."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from starlette.types import Scope

from projkit.auth.credentials import AUTH_COOKIE, BEARER, Credential, CredentialReader
from projkit.auth.csrf import SAFE_METHODS, CsrfGuard, binding_of
from projkit.auth.legacy import LEGACY, LegacyProfile
from projkit.auth.oidc.resource import EXTERNAL, ExternalTokens
from projkit.auth.tokens import TokenVerifier
from projkit.errors import AmbiguousCredentialsError, CsrfFailedError, InvalidTokenError, UnauthenticatedError
from projkit.http.in_process import is_in_process
from projkit.http.request import Request
from projkit.identity import Principal
from projkit.observers import Observer

GetPrincipal = Callable[[Scope], Principal | Awaitable[Principal | None] | None]
_UNKNOWN: Final = "unknown"
_NONE: Final = "none"


class ChecksRevocation(Protocol):
    """Tells whether what a token says still holds."""

    async def check(self, principal: Principal, token: str) -> None:
        """Returns where it does.

        Raises:
            InvalidTokenError: it was called back.
            UnavailableError: nobody can tell.
        """


class Authenticator:
    """Reads the one credential that decides, verifies it, asks whether it still holds, and guards against CSRF."""

    def __init__(
        self,
        reader: CredentialReader,
        verifier: TokenVerifier,
        revocation: ChecksRevocation,
        csrf: CsrfGuard,
        legacy: LegacyProfile,
        observer: Observer,
        *,
        external: ExternalTokens | None = None,
    ) -> None:
        self._reader = reader
        self._verifier = verifier
        self._revocation = revocation
        self._csrf = csrf
        self._legacy = legacy
        self._observer = observer
        self._external = external

    async def __call__(self, request: Request) -> Principal:
        """The caller.

        Raises:
            UnauthenticatedError: there are no credentials, or bad ones.
            CsrfFailedError: a cookie authenticates, and another site may have caused the request.
            UnavailableError: nobody can tell, since a store does not answer.
        """
        credential, principal = await self.identify(request)
        if credential.is_cookie and is_unsafe(request):
            await self.guard(request, binding_of(principal))
        return principal

    async def identify(self, request: Request) -> tuple[Credential, Principal]:
        """The caller and the credential, without a look at CSRF."""
        headers = request.scope["headers"]
        try:
            credential = self._reader.read(request.headers, request.repeated, headers)
        except (InvalidTokenError, AmbiguousCredentialsError):
            self._observer.record_credential(_UNKNOWN, _UNKNOWN, "refused")
            raise
        for transport in credential.ignored:
            self._observer.record_credential(transport, _UNKNOWN, "ignored")
        try:
            principal = await self._verify(credential)
        except UnauthenticatedError:
            self._observer.record_credential(credential.transport, self._format_of(credential), "refused")
            raise
        self._observer.record_credential(credential.transport, principal.token_format or _NONE, "accepted")
        if principal.token_format == LEGACY:
            for name, value in self._legacy.answer_headers:
                request.add_response_header(name, value)
        return credential, principal

    async def guard(self, request: Request, binding: str) -> None:
        """Holds a request that a cookie authenticates against the rules of CSRF.

        Raises:
            CsrfFailedError: with the rule that it fails.
        """
        if request.scope["type"] == "websocket":
            # A handshake has no custom header; browsers always send its Origin (RFC 6455 §10.2).
            if not self._csrf.allows_origin(request.header(b"origin")):
                raise CsrfFailedError("origin", "A WebSocket with cookies needs an allowed Origin")
            return
        await self._csrf.check(request, binding)

    async def _verify(self, credential: Credential) -> Principal:
        if self._external is not None and self._is_external(credential, self._external):
            principal = await self._external.verify(credential.token)
        else:
            principal = self._verifier.verify(credential.token)
        if principal.token_format == LEGACY and credential.transport == AUTH_COOKIE:
            raise InvalidTokenError  # the secure cookie never held one
        await self._revocation.check(principal, credential.token)
        return principal

    def _is_external(self, credential: Credential, external: ExternalTokens) -> bool:
        # Never in a cookie: the external issuer's tokens were not given to a browser by us.
        if credential.transport != BEARER or self._verifier.has_verified(credential.token):
            return False
        return external.owns(credential.token)

    def _format_of(self, credential: Credential) -> str:
        if self._external is not None and self._is_external(credential, self._external):
            return EXTERNAL
        return self._verifier.format_of(credential.token)


class HostAuthenticator:
    """Asks the host who is calling; the kit's own tokens are then not read at all."""

    def __init__(self, get_principal: GetPrincipal) -> None:
        self._get_principal = get_principal

    async def __call__(self, request: Request) -> Principal:
        """The caller, as the host knows it.

        Raises:
            UnauthenticatedError: the host says that nobody is signed in.
        """
        if is_in_process(request.scope):
            raise UnauthenticatedError  # the host knows nothing of what the kit asks itself
        found = self._get_principal(request.scope)
        principal = await found if inspect.isawaitable(found) else found
        if principal is None or not principal.is_authenticated:
            raise UnauthenticatedError
        return principal


def is_unsafe(request: Request) -> bool:
    """Whether the request may change something (RFC 9110 §9.2.1); a WebSocket may."""
    return request.method not in SAFE_METHODS or request.scope["type"] == "websocket"
