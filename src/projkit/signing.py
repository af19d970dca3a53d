"""Signed tokens for clients: cursors, CSRF values, device tokens and OIDC login states.

A token is the base64url encoding (RFC 4648 §5, without padding) of::

    version (1 byte) | payload | MAC

The MAC is the HMAC-SHA256 (RFC 2104), possibly truncated, over the version, the context and the payload. The context is
whatever a token belongs to (a session, an account, a list); it is authenticated, but not part of the token.

Three rules hold for every token:

1. *One encoding.* A token is accepted only exactly as it was issued. Other spellings of the same bytes (padding, the
   other base64 alphabet, non-zero trailing bits) are rejected, so a token can be compared, counted and stored as text.
2. *Unambiguous input.* Each part of the MAC's input is preceded by its length, so no two sequences of parts have the
   same MAC.
3. *Constant work.* Keys are a list, newest first: the first key signs, and all of them verify. Verification computes
   one MAC per key, whichever of them matches, so its duration does not tell which one did.
"""

import hmac
import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Sequence
from typing import Final

MAX_TOKEN_LENGTH: Final = 2048
_RANDOM_BYTES: Final = 16
_LENGTH_BYTES: Final = 4
# binascii with these tables takes half the time of base64.urlsafe_b64encode and its inverse.
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = bytes.maketrans(b"-_", b"+/")

# Returns the keys that are valid now, newest first; never empty.
SigningKeys = Callable[[], Sequence[bytes]]


class Signer:
    """Signs payloads for one purpose, and verifies what it has signed.

    Args:
        keys: returns the keys of this purpose.
        version: the first byte of each token; a new number for each change of the payload's format.
        mac_bytes: the length of the MAC, 16 to 32.
    """

    def __init__(self, keys: SigningKeys, *, version: int = 1, mac_bytes: int = 32) -> None:
        self._keys = keys
        self._version = bytes([version])
        self._mac_bytes = mac_bytes

    def sign(self, payload: bytes, *context: bytes, key: bytes | None = None) -> str:
        """Return a token for ``payload``, signed with ``key`` (default: the newest one)."""
        signature = mac(self._keys()[0] if key is None else key, self._version, *context, payload)
        return encode(self._version + payload + signature[: self._mac_bytes])

    def sign_random(self, *context: bytes) -> str:
        """Return a token whose payload is 16 random bytes."""
        return self.sign(secrets.token_bytes(_RANDOM_BYTES), *context)

    def unsign(self, token: str | bytes, *context: bytes) -> bytes | None:
        """Return the payload of ``token``, or None if it was not signed here for this context."""
        verified = self.verify(token, *context)
        return None if verified is None else verified[0]

    def verify(self, token: str | bytes, *context: bytes) -> tuple[bytes, bytes] | None:
        """Return the payload of ``token`` and the key that signed it, or None as :meth:`unsign` does."""
        if len(token) > MAX_TOKEN_LENGTH:
            return None
        try:
            raw = decode(token)
        except ValueError:
            return None
        if raw[:1] != self._version or len(raw) <= self._mac_bytes:
            return None
        payload, signature = raw[1 : -self._mac_bytes], raw[-self._mac_bytes :]
        message = _join((self._version, *context, payload))
        signing_key = None
        for key in self._keys():  # without a break: see rule 3
            expected = hmac.digest(key, message, "sha256")[: self._mac_bytes]
            if hmac.compare_digest(signature, expected):
                signing_key = key
        return None if signing_key is None else (payload, signing_key)


def mac(key: bytes, *parts: bytes) -> bytes:
    """Return the HMAC-SHA256 over ``parts``, each of them preceded by its length in four bytes."""
    return hmac.digest(key, _join(parts), "sha256")


def encode(raw: bytes) -> str:
    """Return ``raw`` as base64url without padding (RFC 4648 §5)."""
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URLSAFE).decode()


def decode(text: str | bytes) -> bytes:
    """Return the bytes of which ``text`` is the base64url encoding without padding.

    Raises:
        ValueError: ``text`` is not exactly what :func:`encode` returns.
    """
    encoded = text.encode("ascii") if isinstance(text, str) else text
    raw = a2b_base64(encoded.translate(_FROM_URLSAFE) + b"==")
    # The decoder ignores characters outside of its alphabet; the comparison does not.
    if encode(raw).encode() != encoded:
        raise ValueError("not canonical base64url")
    return raw


def _join(parts: Iterable[bytes]) -> bytes:
    return b"".join([len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts])
