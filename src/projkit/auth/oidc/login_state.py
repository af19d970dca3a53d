"""The state of an OIDC login in progress, kept by the browser in a signed cookie.

The cookie holds no secret: a random value, the provider, the path to redirect to and the expiry, signed. The ``state``
and ``nonce`` sent to the provider and the PKCE verifier are derived from the random value with the key that signed, so
they are bound to this browser, provider and login.
"""

import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from projkit.clock import Clock
from projkit.errors import LoginFailedError
from projkit.signing import Signer, SigningKeys, encode, mac

LABEL: Final = "oidc-login"
LIFETIME_SECONDS: Final = 600
_VERSION: Final = 2
_RANDOM_BYTES: Final = 32
_HEAD: Final = struct.Struct(f">Q{_RANDOM_BYTES}sB")  # expiry, random value, length of the provider's name


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

    def __init__(self, keys: SigningKeys, *, clock: Clock) -> None:
        """Create a codec; ``keys`` returns the secrets of the label ``oidc-login``, newest first."""
        self._keys = keys
        self._signer = Signer(keys, version=_VERSION)
        self._clock = clock

    def start(self, provider: str, next_path: str) -> tuple[str, LoginState]:
        """Return a cookie value and the login state in it; both arguments must be ASCII."""
        key = self._keys()[0]
        expires = int((self._clock() + timedelta(seconds=LIFETIME_SECONDS)).timestamp())
        random, name, path = secrets.token_bytes(_RANDOM_BYTES), provider.encode(), next_path.encode()
        cookie = self._signer.sign(_HEAD.pack(expires, random, len(name)) + name + path, key=key)
        return cookie, _login_state(key, expires, random, name, path)

    def decode(self, cookie: str) -> LoginState:
        """Return the login state of a cookie value.

        Raises:
            LoginFailedError: the value was not issued here, or it has expired.
        """
        verified = self._signer.verify(cookie)
        if verified is None:
            raise LoginFailedError
        payload, key = verified
        expires, random, length = _HEAD.unpack_from(payload)
        end = _HEAD.size + length
        login_state = _login_state(key, expires, random, payload[_HEAD.size : end], payload[end:])
        if self._clock() >= login_state.expires_at:
            raise LoginFailedError
        return login_state


def _login_state(key: bytes, expires: int, random: bytes, name: bytes, path: bytes) -> LoginState:
    state, nonce, verifier = (
        encode(mac(key, purpose, random, name)) for purpose in (b"state", b"nonce", b"verifier")
    )
    ends = datetime.fromtimestamp(expires, UTC)
    return LoginState(name.decode(), path.decode(), ends, state, nonce, verifier)
