"""Which credential a request brings: ``Authorization``, else ``auth_token``, else the legacy ``access_token``.

The first one that is present decides, good or bad; those after it are counted and otherwise ignored, so that a cookie
left over from old times locks nobody out. Cookies are told apart by the exact bytes of their names: what a lenient
parser would trim into ours is another cookie (RFC 6265 §4.2.1).
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
    """A token and how it came; ``ignored`` names what else was there."""

    token: str
    transport: str
    ignored: tuple[str, ...] = ()

    @property
    def is_cookie(self) -> bool:
        """Whether a browser sends it by itself, so that another site could have caused the request."""
        return self.transport != BEARER


class CookieNames:
    """The names under which the kit's cookies come, with or without the ``__Host-`` prefix (RFC 6265bis §4.1.3.2)."""

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
    """Finds the credential among a request's headers."""

    def __init__(self, names: CookieNames) -> None:
        self._auth = names.auth.encode()
        self._legacy = names.legacy.encode()
        self._transports = ((self._auth, AUTH_COOKIE), (self._legacy, LEGACY_COOKIE))

    def read(self, headers: Mapping[bytes, bytes], repeated: Iterable[bytes], raw: RawHeaders) -> Credential:
        """The credential that decides.

        Args:
            headers: each name once, in lower case.
            repeated: the names that came more than once.
            raw: the headers as they came.

        Raises:
            UnauthenticatedError: there is none.
            AmbiguousCredentialsError: the same one came twice.
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
        found = self._cookies(raw)
        if not found:
            raise UnauthenticatedError
        transport, value = found[0]
        token = value.decode("latin-1")
        if transport == LEGACY_COOKIE:
            token = _unwrap(token)
        return Credential(token, transport, tuple(name for name, _ in found[1:]))

    def _cookies(self, raw: RawHeaders) -> list[tuple[str, bytes]]:
        found = []
        for name, transport in self._transports:
            values = cookie_values(raw, name)
            if len(values) > 1:
                raise AmbiguousCredentialsError
            if values:
                found.append((transport, values[0]))
        return found


def cookie_values(raw: RawHeaders, name: bytes) -> list[bytes]:
    """The values that the cookie ``name`` has in the request (RFC 6265 §4.2.1), by the exact bytes of the name.

    What comes after the second one is not looked for, since two are ambiguous already; and the names of others are
    not looked at, so that a header of a megabyte costs no more than finding three strings in it.
    """
    pair = name + b"="
    found: list[bytes] = []
    for header, value in raw:
        if header == b"cookie":
            if value.startswith(pair):
                found.append(value[len(pair) :].partition(b";")[0])
            for separated in (b"; " + pair, b";" + pair):
                start = value.find(separated)
                while start >= 0 and len(found) < 2:
                    rest = start + len(separated)
                    end = value.find(b";", rest)
                    found.append(value[rest:] if end < 0 else value[rest:end])
                    start = value.find(separated, rest)
    return found


def _unwrap(token: str) -> str:
    """What http.cookies and older back ends put around the token: double quotes, and ``Bearer``."""
    if len(token) >= 2 and token[0] == token[-1] == '"':
        token = token[1:-1]
    scheme, separator, rest = token.partition(" ")
    return rest if separator and scheme.lower() == BEARER else token
