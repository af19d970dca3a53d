"""Selection of a request's credential: ``Authorization``, then ``auth_token``, then the legacy ``access_token``.

The first one that is present decides, valid or not. Those after it are counted and otherwise ignored, so a leftover
legacy cookie does not lock a user out. Cookie names are compared by their exact bytes: a name that a lenient parser
would trim to one of the kit's is a different cookie (RFC 6265 §4.2.1).
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from projkit.errors import AmbiguousCredentialsError, InvalidTokenError, UnauthenticatedError

BEARER: Final = "bearer"
AUTH_COOKIE: Final = "auth_token"
LEGACY_COOKIE: Final = "access_token"
REFRESH_COOKIE: Final = "refresh_token"
DEVICE_COOKIE: Final = "known_device"
LOGIN_COOKIE: Final = "oidc_login"
HOST_PREFIX: Final = "__Host-"

RawHeaders = Iterable[tuple[bytes, bytes]]


class Credential(NamedTuple):
    """A token and its transport; ``ignored`` names the transports of lower-ranked credentials."""

    token: str
    transport: str
    ignored: tuple[str, ...] = ()

    @property
    def is_cookie(self) -> bool:
        """Whether browsers send it automatically, so that another site could have caused the request."""
        return self.transport != BEARER


class CookieNames:
    """The names of the kit's cookies, with or without the ``__Host-`` prefix (RFC 6265bis §4.1.3.2)."""

    def __init__(self, *, host_prefix: bool, csrf: str) -> None:
        prefix = HOST_PREFIX if host_prefix else ""
        self.host_prefix = host_prefix
        self.auth = prefix + AUTH_COOKIE
        self.csrf = prefix + csrf
        self.refresh = prefix + REFRESH_COOKIE
        self.device = prefix + DEVICE_COOKIE
        self.login = prefix + LOGIN_COOKIE
        self.legacy = LEGACY_COOKIE


class CredentialReader:
    """A reader of the credential in a request's headers."""

    def __init__(self, names: CookieNames) -> None:
        self._auth = names.auth.encode()
        self._legacy = names.legacy.encode()
        self._transports = ((self._auth, AUTH_COOKIE), (self._legacy, LEGACY_COOKIE))

    def read(self, headers: Mapping[bytes, bytes], repeated: Iterable[bytes], raw: RawHeaders) -> Credential:
        """Return the credential that decides.

        Args:
            headers: each name once, in lower case.
            repeated: the names that were sent more than once.
            raw: the headers as received.

        Raises:
            UnauthenticatedError: there is no credential.
            AmbiguousCredentialsError: the same credential was sent twice.
            InvalidTokenError: the scheme of ``Authorization`` is not Bearer.
        """
        authorization = headers.get(b"authorization")
        cookie = headers.get(b"cookie")
        if authorization is not None:
            if b"authorization" in repeated:
                raise AmbiguousCredentialsError
            ignored = tuple(transport for transport, _ in self._cookies(raw)) if cookie is not None else ()
            scheme, _, token = authorization.decode("latin-1").partition(" ")
            if scheme.lower() != BEARER:
                raise InvalidTokenError("Authorization must be a Bearer token")
            return Credential(token.strip(" "), BEARER, ignored)
        if cookie is None:
            raise UnauthenticatedError
        cookies = self._cookies(raw)
        if not cookies:
            raise UnauthenticatedError
        transport, value = cookies[0]
        token = value.decode("latin-1")
        if transport == LEGACY_COOKIE:
            token = _unwrap(token)
        return Credential(token, transport, tuple(name for name, _ in cookies[1:]))

    def _cookies(self, raw: RawHeaders) -> list[tuple[str, bytes]]:
        cookies = []
        for name, transport in self._transports:
            values = cookie_values(raw, name)
            if len(values) > 1:
                raise AmbiguousCredentialsError
            if values:
                cookies.append((transport, values[0]))
        return cookies


def cookie_values(raw: RawHeaders, name: bytes) -> list[bytes]:
    """Return up to two values of the cookie ``name`` (RFC 6265 §4.2.1), matching the exact bytes of the name.

    Two values are ambiguous already, so the search stops there. Other cookies are not parsed, so a header of a megabyte
    costs no more than three substring searches.
    """
    pair = name + b"="
    values: list[bytes] = []
    for header, value in raw:
        if header == b"cookie":
            if value.startswith(pair):
                values.append(value[len(pair) :].partition(b";")[0])
            for separated in (b"; " + pair, b";" + pair):
                start = value.find(separated)
                while start >= 0 and len(values) < 2:
                    rest = start + len(separated)
                    end = value.find(b";", rest)
                    values.append(value[rest:] if end < 0 else value[rest:end])
                    start = value.find(separated, rest)
    return values


def _unwrap(token: str) -> str:
    """Remove the double quotes and the ``Bearer`` prefix that http.cookies and older back ends add."""
    if len(token) >= 2 and token[0] == token[-1] == '"':
        token = token[1:-1]
    scheme, separator, rest = token.partition(" ")
    return rest if separator and scheme.lower() == BEARER else token
