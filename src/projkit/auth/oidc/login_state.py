"""The state of an OIDC login in progress, kept by the browser in a signed cookie.

The cookie holds no secret: a random value, the provider, the path to redirect to and the expiry, under a MAC. The
``state`` and ``nonce`` sent to the provider and the PKCE verifier are derived from the random value with the key, so
they are bound to this browser, provider and login.
"""

import base64
import hmac
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from projkit.auth.keys import SecretsOf
from projkit.clock import Clock
from projkit.errors import LoginFailedError

LABEL: Final = "oidc-login"
LIFETIME_SECONDS: Final = 600
_VERSION: Final = b"\x01"
_RANDOM_BYTES: Final = 32
_HEAD: Final = struct.Struct(
    f">1s32sQ{_RANDOM_BYTES}sB"
)  # version, MAC, end, random value, provider's length
_MAX_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class LoginState:
    """A login in progress (RFC 6749 §10.12, RFC 7636)."""

    provider: str
    next: str
    expires_at: datetime
    state: str
    nonce: str
    verifier: str


class LoginStateCodec:
    """Encodes login states as cookie values and decodes them."""

    def __init__(self, keys: SecretsOf, *, clock: Clock) -> None:
        """``keys`` gives the secrets of the label ``oidc-login``, newest first."""
        self._keys = keys
        self._clock = clock

    def start(self, provider: str, next_path: str) -> tuple[str, LoginState]:
        """Return a cookie value and the login state in it; both arguments must be ASCII."""
        key = self._keys()[0]
        expires = int((self._clock() + timedelta(seconds=LIFETIME_SECONDS)).timestamp())
        random, name, path = secrets.token_bytes(_RANDOM_BYTES), provider.encode(), next_path.encode()
        mac = _mac(key, b"ticket", str(expires).encode(), random, name, path)
        raw = _HEAD.pack(_VERSION, mac, expires, random, len(name)) + name + path
        return _text(raw), _login_state(key, expires, random, name, path)

    def decode(self, cookie: str) -> LoginState:
        """Return the login state of a cookie value.

        Raises:
            LoginFailedError: the value was not issued here, or it has expired.
        """
        try:
            mac, expires, random, name, path = _cut(cookie)
        except ValueError:
            raise LoginFailedError from None
        for key in self._keys():
            if hmac.compare_digest(mac, _mac(key, b"ticket", str(expires).encode(), random, name, path)):
                login_state = _login_state(key, expires, random, name, path)
                if self._clock() >= login_state.expires_at:
                    raise LoginFailedError
                return login_state
        raise LoginFailedError


def _cut(text: str) -> tuple[bytes, int, bytes, bytes, bytes]:
    if len(text) > _MAX_LENGTH:
        raise ValueError("too long")
    encoded = text.encode("ascii")
    raw = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    if raw[:1] != _VERSION or len(raw) < _HEAD.size:
        raise ValueError("too short, or of another version")
    _, mac, expires, random, length = _HEAD.unpack_from(raw)
    end = _HEAD.size + length
    return mac, expires, random, raw[_HEAD.size : end], raw[end:]


def _login_state(key: bytes, expires: int, random: bytes, name: bytes, path: bytes) -> LoginState:
    state, nonce, verifier = (
        _text(_mac(key, purpose, random, name)) for purpose in (b"state", b"nonce", b"verifier")
    )
    ends = datetime.fromtimestamp(expires, UTC)
    return LoginState(name.decode(), path.decode(), ends, state, nonce, verifier)


def _mac(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    # Each part with its length before it, so that no two sets of parts make the same input.
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (_VERSION, purpose, *parts))
    return hmac.digest(key, message, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
