"""Whether another site may have caused a request that a cookie authenticates.

Three rules, all of them: (1) the browser says that the request is same-origin, or its ``Origin`` is allowed; (2) the
header repeats the signed value of the readable cookie, which belongs to the session; (3) a body is JSON. ``Origin`` is
never compared with ``Host``, which the client chooses as well.
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
CsrfCheck = Callable[[Request], Awaitable[bool]]
# Counts a check by mode (``signed``, ``origin`` or ``own``) and outcome.
LABEL: Final = "csrf"
_JSON: Final = ("application/json", "application/merge-patch+json")


class CsrfGuard:
    """Makes CSRF values and checks requests."""

    def __init__(
        self,
        settings: Settings,
        keys: SigningKeys,
        names: CookieNames,
        *,
        observer: Observer,
        own_check: CsrfCheck | None = None,
    ) -> None:
        """``keys`` gives the secrets of the label ``csrf``; ``own_check`` stands in for rule 2."""
        self._signer = Signer(keys)
        self._observer = observer
        self._cookie = names.csrf.encode()
        self._header_name = settings.csrf_header_name
        self._header = settings.csrf_header_name.lower().encode()
        self._mode: Literal["signed", "origin", "own"] = settings.csrf_mode if own_check is None else "own"
        self._own_check = own_check
        self._origins = allowed_origins(settings)

    def issue(self, binding: str) -> str:
        """A new value for a session (or the subject of a token without one)."""
        return self._signer.sign_random(binding.encode())

    async def check(self, request: Request, binding: str) -> None:
        """Holds a request against all three rules.

        Raises:
            CsrfFailedError: with the rule that it fails.
        """
        try:
            self.check_origin(request)
            self.check_content_type(request)
            outcome = await self._check_proof(request, binding)
        except CsrfFailedError:
            self._observer.record_csrf_check(self._mode, "refused")
            raise
        self._observer.record_csrf_check(self._mode, outcome)

    def check_before_login(self, request: Request) -> None:
        """Rules 1 and 3, where a browser sent the request: there is no session yet that rule 2 could name.

        Raises:
            CsrfFailedError: with the rule that it fails.
        """
        if b"origin" in request.headers or b"sec-fetch-site" in request.headers:
            self.check_origin(request)
            self.check_content_type(request)

    def check_origin(self, request: Request) -> None:
        """Rule 1.

        Raises:
            CsrfFailedError: the request comes from another site, or does not say from where.
        """
        site = request.header(b"sec-fetch-site")
        if site in {"same-origin", "none"} and b"sec-fetch-site" not in request.repeated:
            return
        if self.allows_origin(request.header(b"origin")) and b"origin" not in request.repeated:
            return
        raise CsrfFailedError(
            "origin",
            "Sec-Fetch-Site must be same-origin, or Origin one of PROJKIT_ALLOWED_ORIGINS or of PROJKIT_PUBLIC_URL",
        )

    def allows_origin(self, origin: str | None) -> bool:
        """Whether pages of this origin may use cookies here."""
        return origin is not None and origin in self._origins

    def check_content_type(self, request: Request) -> None:
        """Rule 3: a body that a plain HTML form could not have sent (RFC 6454 does not cover forms).

        Raises:
            CsrfFailedError: there is a body, and it is not JSON.
        """
        media_type = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        # What comes neither announced nor named is no form's, and is refused by whoever reads it.
        if not (request.has_body or (media_type and request.may_have_body)):
            return
        if media_type not in _JSON:
            raise CsrfFailedError("content_type", "Content-Type must be application/json")

    async def _check_proof(self, request: Request, binding: str) -> str:
        if self._own_check is not None:
            if not await self._own_check(request):
                raise CsrfFailedError("token", "The application's own check refused the request")
            return "accepted"
        try:
            self._check_token(request, binding)
        except CsrfFailedError:
            if self._mode == "signed":
                raise
            return "accepted_without_token"  # counted, so that a team knows when it may ask for the token
        return "accepted"

    def _check_token(self, request: Request, binding: str) -> None:
        cookies = cookie_values(request.scope["headers"], self._cookie)
        header = request.headers.get(self._header)
        if header is None or len(cookies) != 1 or self._header in request.repeated:
            raise CsrfFailedError(
                "token", f"Send the value of the cookie {self._cookie.decode()} in {self._header_name}"
            )
        if (
            not hmac.compare_digest(header, cookies[0])
            or self._signer.unsign(header, binding.encode()) is None
        ):
            raise CsrfFailedError("token", f"{self._header_name} does not belong to this session")


def binding_of(principal: Principal) -> str:
    """What a CSRF value belongs to: the session, or the subject of a token that has none."""
    if principal.session_id is not None:
        return session_binding(principal.session_id)
    return f"subject:{len(principal.tenant_id)}:{principal.tenant_id}:{principal.subject}"


def session_binding(session_id: str) -> str:
    """What the CSRF values of a session belong to."""
    return f"session:{session_id}"


def allowed_origins(settings: Settings) -> frozenset[str]:
    """The origins whose pages may use cookies: those that are named (never by ``*``), and our own."""
    own = [origin_of(settings.public_url)] if settings.public_url else []
    return frozenset([*(each for each in settings.allowed_origins if each != "*"), *own])
