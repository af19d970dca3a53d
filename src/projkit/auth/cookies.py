"""The cookies that a login sets and a logout clears (RFC 6265bis)."""

from typing import Final

from projkit.auth.credentials import CookieNames
from projkit.auth.session_service import IssuedTokens
from projkit.http.client import ClientAddresses
from projkit.http.request import Request
from projkit.http.response import Header
from projkit.http.url_paths import cookie_prefix
from projkit.settings import Settings

_DEVICE_SECONDS: Final = 34_560_000  # 400 days, the longest that browsers keep a cookie
_LAX: Final = "SameSite=Lax"
_HIDDEN_LAX: Final = "HttpOnly; SameSite=Lax"
_HIDDEN_STRICT: Final = "HttpOnly; SameSite=Strict"


class Cookies:
    """A writer of ``Set-Cookie`` headers."""

    def __init__(
        self, settings: Settings, names: CookieNames, addresses: ClientAddresses, auth_path: str
    ) -> None:
        self.names = names
        self._settings = settings
        self._addresses = addresses
        self._auth_path = auth_path

    def login(self, request: Request, issued: IssuedTokens) -> list[Header]:
        """Return headers that set the tokens of a login and clear the legacy cookie."""
        return [
            self._set(request, self.names.auth, issued.access_token, "/", issued.expires_in, _HIDDEN_LAX),
            self._set(
                request,
                self.names.refresh,
                issued.refresh_token,
                self._path(request),
                issued.refresh_expires_in,
                _HIDDEN_STRICT,
            ),
            self.csrf(request, issued.csrf_token, issued.refresh_expires_in),
            *self.clear_legacy(request),
        ]

    def csrf(self, request: Request, value: str, seconds: int) -> Header:
        """Return the header that sets the CSRF token, which scripts can read."""
        return self._set(request, self.names.csrf, value, "/", seconds, _LAX)

    def device(self, request: Request, value: str) -> Header:
        """Return the header that sets the device token."""
        return self._set(
            request, self.names.device, value, self._path(request), _DEVICE_SECONDS, _HIDDEN_STRICT
        )

    def login_state(self, request: Request, value: str, seconds: int) -> Header:
        """Return the header that sets the state of an OIDC login; ``seconds=0`` clears it."""
        return self._set(request, self.names.login, value, self._path(request), seconds, _HIDDEN_LAX)

    def logout(self, request: Request) -> list[Header]:
        """Return headers that clear all cookies except the device token."""
        return [
            self._set(request, self.names.auth, "", "/", 0, _HIDDEN_LAX),
            self._set(request, self.names.refresh, "", self._path(request), 0, _HIDDEN_STRICT),
            self._set(request, self.names.csrf, "", "/", 0, _LAX),
            *self.clear_legacy(request),
        ]

    def clear_legacy(self, request: Request) -> list[Header]:
        """Return headers that clear ``access_token`` with and without the configured domain, which are two cookies."""
        cleared = [self._set(request, self.names.legacy, "", "/", 0, _LAX)]
        if domain := self._settings.legacy_cookie_domain:
            cleared.append(self._set(request, self.names.legacy, "", "/", 0, f"{_LAX}; Domain={domain}"))
        return cleared

    def _path(self, request: Request) -> str:
        if self.names.host_prefix:
            return "/"  # which such cookies must have
        return cookie_prefix(request, self._settings.public_path_as_written) + self._auth_path

    def _set(self, request: Request, name: str, value: str, path: str, seconds: int, flags: str) -> Header:
        expires = "; Expires=Thu, 01 Jan 1970 00:00:00 GMT" if seconds == 0 else ""
        secure = "; Secure" if self.is_secure(request) else ""
        return (
            b"set-cookie",
            f"{name}={value}; Path={path}; Max-Age={seconds}{expires}; {flags}{secure}".encode(),
        )

    def is_secure(self, request: Request) -> bool:
        """Return whether cookies are ``Secure``: always, except for plain HTTP on loopback in development."""
        settings = self._settings
        if settings.cookie_secure is not None:
            return settings.cookie_secure
        return (
            settings.env == "production"
            or settings.cookie_host_prefix
            or self._addresses.is_secure(request.scope)
            or not self._addresses.is_loopback(request.scope)
        )
