"""Authentication of a request: from its credentials to its principal."""

from collections.abc import Awaitable, Callable
from typing import Final

from projkit.auth.credentials import AUTH_COOKIE, BEARER, Credential, CredentialReader
from projkit.auth.csrf import SAFE_METHODS, CsrfGuard, binding_of
from projkit.auth.host_validity import HostValidity
from projkit.auth.legacy import LEGACY, LegacyProfile
from projkit.auth.oidc.resource import EXTERNAL, ExternalTokens
from projkit.auth.tokens import TokenVerifier
from projkit.errors import AmbiguousCredentialsError, CsrfFailedError, InvalidTokenError, UnauthenticatedError
from projkit.http.request import Request
from projkit.identity import Principal
from projkit.observers import Observer

# Returns if a verified token has not been revoked; raises InvalidTokenError, or UnavailableError without its store.
CheckRevocation = Callable[[Principal, str], Awaitable[None]]
_UNKNOWN: Final = "unknown"
_NONE: Final = "none"


class Authenticator:
    """The kit's authentication: reads the credential, verifies it, checks revocation, and applies the CSRF rules."""

    def __init__(
        self,
        reader: CredentialReader,
        verifier: TokenVerifier,
        check_revocation: CheckRevocation,
        csrf: CsrfGuard,
        legacy: LegacyProfile,
        observer: Observer,
        *,
        external: ExternalTokens | None = None,
        validity: HostValidity | None = None,
    ) -> None:
        self._reader = reader
        self._verifier = verifier
        self._check_revocation = check_revocation
        self._csrf = csrf
        self._legacy = legacy
        self._observer = observer
        self._external = external
        self._validity = validity

    async def __call__(self, request: Request) -> Principal:
        """Return the caller.

        Raises:
            UnauthenticatedError: there are no credentials, or they are invalid.
            CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
            UnavailableError: a store that must be consulted does not respond.
        """
        credential, principal = await self.identify(request)
        if credential.is_cookie and is_unsafe(request):
            await self.guard(request, binding_of(principal))
        return principal

    async def identify(self, request: Request) -> tuple[Credential, Principal]:
        """Return the credential and the caller, without the CSRF rules."""
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
            for name, value in self._legacy.response_headers:
                request.add_response_header(name, value)
        return credential, principal

    async def guard(self, request: Request, binding: str) -> None:
        """Apply the CSRF rules to a request that a cookie authenticates.

        Raises:
            CsrfFailedError: the request fails a rule; the error names it.
        """
        if request.scope["type"] == "websocket":
            # A handshake has no custom header; browsers always send its Origin (RFC 6455 §10.2).
            if not self._csrf.allows_origin(request.header(b"origin")):
                raise CsrfFailedError(
                    "origin", "A WebSocket authenticated by a cookie must have an allowed Origin"
                )
            return
        await self._csrf.check(request, binding)

    async def _verify(self, credential: Credential) -> Principal:
        if self._external is not None and self._is_external(credential, self._external):
            principal = await self._external.verify(credential.token)
        else:
            principal = self._verifier.verify(credential.token)
        if principal.token_format == LEGACY and credential.transport == AUTH_COOKIE:
            raise InvalidTokenError  # this cookie never holds a legacy token
        await self._check_revocation(principal, credential.token)
        if principal.token_format == LEGACY and self._validity is not None:
            return await self._validity.restrict(principal)
        return principal

    def _is_external(self, credential: Credential, external: ExternalTokens) -> bool:
        # Bearer only: the kit never stores an external issuer's token in a cookie.
        if credential.transport != BEARER or self._verifier.has_verified(credential.token):
            return False
        return external.owns(credential.token)

    def _format_of(self, credential: Credential) -> str:
        if self._external is not None and self._is_external(credential, self._external):
            return EXTERNAL
        return self._verifier.format_of(credential.token)


def is_unsafe(request: Request) -> bool:
    """Return whether the request is not safe (RFC 9110 §9.2.1); a WebSocket never is."""
    return request.method not in SAFE_METHODS or request.scope["type"] == "websocket"
