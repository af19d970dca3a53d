"""Protection against cross-site request forgery for requests that a cookie authenticates.

A request must pass three rules: (1) the browser marks it as same-origin, or its ``Origin`` is allowed; (2) a header
repeats the signed value of the readable cookie, which is bound to the session (signed double submit); (3) its body, if
any, is JSON. ``Origin`` is never compared with ``Host``, because the client chooses that too.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from projkit.auth.credentials import CookieNames, cookie_values
from projkit.errors import CsrfFailedError
from projkit.http.request import Request
from projkit.identity import Principal
from projkit.observers import Observer
from projkit.settings import Settings, origin_of
from projkit.signing import Signer, SigningKeys

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 §9.2.1
# Takes the request, and ``watch``.
AwaitableCsrfCheck = Callable[..., Awaitable[bool]]
CsrfCheck = Callable[[Request], bool | Awaitable[bool]]
LABEL: Final = "csrf"
_HOST: Final = "host"  # the mode under which checks of the host's own credentials are counted
_JSON: Final = ("application/json", "application/merge-patch+json")


class CsrfGuard:
    """Issues CSRF tokens and checks requests."""

    def __init__(
        self,
        settings: Settings,
        keys: SigningKeys,
        names: CookieNames,
        *,
        observer: Observer,
        own_check: AwaitableCsrfCheck | None = None,
    ) -> None:
        """Create a guard; ``keys`` returns the secrets of the label ``csrf``, and ``own_check`` replaces rule 2."""
        self._signer = Signer(keys)
        self._observer = observer
        self._cookie = names.csrf.encode()
        self._header_name = settings.csrf_header_name
        self._header = settings.csrf_header_name.lower().encode()
        self._mode: Literal["signed", "origin", "own"] = settings.csrf_mode if own_check is None else "own"
        self._own_check = own_check
        self._origins = allowed_origins(settings)

    def issue(self, binding: str) -> str:
        """Return a new token for a session (or for the subject of a credential without one)."""
        return self._signer.sign_random(binding.encode())

    async def check(self, request: Request, binding: str) -> None:
        """Apply all three rules to a request.

        Raises:
            CsrfFailedError: the request fails a rule; the error names it.
        """
        try:
            self.check_origin(request)
            self.check_content_type(request)
            outcome = await self._check_proof(request, binding)
        except CsrfFailedError:
            self._observer.record_csrf_check(self._mode, "refused")
            raise
        self._observer.record_csrf_check(self._mode, outcome)

    async def check_host_credential(self, request: Request, *, is_cookie: bool) -> None:
        """Apply the rules to a request that the host has authenticated.

        Rule 1 applies, and if it ``is_cookie``, also rule 3 and the host's own check. Rule 2 is for the kit's own
        sessions. A WebSocket's handshake has neither a body nor custom headers, so that rule 1 alone applies to it.

        Raises:
            CsrfFailedError: the request fails a rule; the error names it.
        """
        try:
            self.check_origin(request)
            if is_cookie and request.scope["type"] != "websocket":
                self.check_content_type(request)
                await self._check_own(request)
        except CsrfFailedError:
            self._observer.record_csrf_check(_HOST, "refused")
            raise
        self._observer.record_csrf_check(_HOST, "accepted")

    def check_before_login(self, request: Request) -> None:
        """Apply rules 1 and 3 to a request that a browser sent; rule 2 needs a session, which does not exist yet.

        Raises:
            CsrfFailedError: the request fails a rule; the error names it.
        """
        if is_from_browser(request):
            self.check_origin(request)
            self.check_content_type(request)

    def check_origin(self, request: Request) -> None:
        """Apply rule 1.

        Raises:
            CsrfFailedError: the request comes from another site, or does not state its origin.
        """
        site = request.header(b"sec-fetch-site")
        if site in {"same-origin", "none"} and b"sec-fetch-site" not in request.repeated:
            return
        if self.allows_origin(request.header(b"origin")) and b"origin" not in request.repeated:
            return
        raise CsrfFailedError(
            "origin",
            "Sec-Fetch-Site must be same-origin, or Origin must be one of PROJKIT_ALLOWED_ORIGINS "
            "or that of PROJKIT_PUBLIC_URL",
        )

    def allows_origin(self, origin: str | None) -> bool:
        """Return whether pages of this origin may send authenticated requests."""
        return origin is not None and origin in self._origins

    def check_content_type(self, request: Request) -> None:
        """Apply rule 3: the body must have a type that an HTML form cannot send without a CORS preflight.

        Raises:
            CsrfFailedError: there is a body, and it is not JSON.
        """
        media_type = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        # A body that is neither announced nor typed cannot come from a form; reading it is rejected later.
        if not (request.has_body or (media_type and request.may_have_body)):
            return
        if media_type not in _JSON:
            raise CsrfFailedError("content_type", "Content-Type must be application/json")

    async def _check_proof(self, request: Request, binding: str) -> str:
        if self._own_check is not None:
            await self._check_own(request)
            return "accepted"
        try:
            self._check_token(request, binding)
        except CsrfFailedError:
            if self._mode == "signed":
                raise
            return "accepted_without_token"  # counted, so a team can tell when to require the token
        return "accepted"

    async def _check_own(self, request: Request) -> None:
        if self._own_check is not None and not await self._own_check(request, watch=request.watch_client):
            raise CsrfFailedError("token", "The application's own CSRF check rejected the request")

    def _check_token(self, request: Request, binding: str) -> None:
        cookies = cookie_values(request.scope["headers"], self._cookie)
        header = request.headers.get(self._header)
        if header is None or len(cookies) != 1 or self._header in request.repeated:
            raise CsrfFailedError(
                "token",
                f"Send the value of the cookie {self._cookie.decode()} in the header {self._header_name}",
            )
        if (
            not hmac.compare_digest(header, cookies[0])
            or self._signer.unsign(header, binding.encode()) is None
        ):
            raise CsrfFailedError("token", f"{self._header_name} does not belong to this session")


def is_from_browser(request: Request) -> bool:
    """Return whether the request has one of the headers that browsers add to each unsafe request."""
    return b"origin" in request.headers or b"sec-fetch-site" in request.headers


def binding_of(principal: Principal) -> str:
    """Return what a CSRF token is bound to: the session, or the subject of a credential that has none."""
    if principal.session_id is not None:
        return session_binding(principal.session_id)
    return f"subject:{len(principal.tenant_id)}:{principal.tenant_id}:{principal.subject}"


def session_binding(session_id: str) -> str:
    """Return what the CSRF tokens of a session are bound to."""
    return f"session:{session_id}"


def allowed_origins(settings: Settings) -> frozenset[str]:
    """Return the origins that rule 1 allows: those in ALLOWED_ORIGINS except ``*``, and that of PUBLIC_URL."""
    own = [origin_of(settings.public_url)] if settings.public_url else []
    return frozenset([*(each for each in settings.allowed_origins if each != "*"), *own])
