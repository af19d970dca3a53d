"""Refresh tokens: opaque to clients, stored as hashes, each the parent of its one successor.

A token holds where its session is (tenant, hash of the subject, session id) and a 256-bit secret. The first secret of a
family is random. Every other one is a MAC over its parent, the session and the generation, so a client that lost the
response gets the same successor again, although nothing is stored in clear.

:class:`projkit.auth.session_service.SessionService` exchanges the tokens and detects their reuse.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from projkit.auth.sessions.port import Session, SessionKey, sha256_hex, subject_hash
from projkit.errors import InvalidRefreshTokenError
from projkit.signing import SigningKeys, decode, encode, mac

LABEL: Final = "refresh"
_VERSION: Final = b"\x01"
_BYTES: Final = 32
_SUBJECT_HASH_BYTES: Final = 16
_MAX_LENGTH: Final = 1600  # the name of a tenant has at most 255 characters
_TENANT: Final = 1 + 2 * _BYTES + _SUBJECT_HASH_BYTES  # the offset of the tenant's name


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """The content of a refresh token."""

    session_id: str
    secret: bytes
    subject_hash: str
    tenant_id: str

    @property
    def key(self) -> SessionKey:
        """The key of its session in the store."""
        return SessionKey(self.tenant_id, self.subject_hash, sha256_hex(self.session_id))

    def encode(self) -> str:
        """Return the token as text."""
        parts = (_VERSION, decode(self.session_id), self.secret, bytes.fromhex(self.subject_hash))
        return encode(b"".join(parts) + self.tenant_id.encode())


class RefreshTokens:
    """Creates and parses refresh tokens."""

    def __init__(self, keys: SigningKeys) -> None:
        """Create a factory; ``keys`` returns the secrets of the label ``refresh``, newest first."""
        self._keys = keys

    @staticmethod
    def first(session_id: str, subject: str, tenant_id: str) -> RefreshToken:
        """Return the first token of a new family."""
        return RefreshToken(
            session_id, secrets.token_bytes(_BYTES), subject_hash(tenant_id, subject), tenant_id
        )

    def successor(self, parent: RefreshToken, generation: int) -> RefreshToken:
        """Return the token number ``generation`` of the family, derived from ``parent`` with the newest key."""
        return _successor(self._keys()[0], parent, generation)

    def current(self, parent: RefreshToken, session: Session) -> RefreshToken | None:
        """Return the successor of ``parent`` if it is the current token of the session.

        The successor is derived with every key, since a key may have been added after the exchange.
        """
        current = None
        for key in self._keys():  # without a break, so the duration does not tell which key it is
            candidate = _successor(key, parent, session.generation)
            if hmac.compare_digest(sha256_hex(candidate.encode()), session.refresh_hash):
                current = candidate
        return current

    @staticmethod
    def read(text: str) -> RefreshToken:
        """Return the content of a token; nothing in it is verified.

        Raises:
            InvalidRefreshTokenError: the text does not have the format of a refresh token.
        """
        if len(text) > _MAX_LENGTH:
            raise InvalidRefreshTokenError
        try:
            session_id, secret, subject, tenant_id = _split(decode(text))
            return RefreshToken(encode(session_id), secret, subject.hex(), tenant_id.decode())
        except ValueError:
            raise InvalidRefreshTokenError from None


def _split(raw: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    if raw[:1] != _VERSION or len(raw) < _TENANT or b"\0" in raw[_TENANT:]:
        raise ValueError("it is too short, has another version, or names a tenant that no database can store")
    ends = (1, 1 + _BYTES, 1 + 2 * _BYTES, _TENANT)
    return raw[ends[0] : ends[1]], raw[ends[1] : ends[2]], raw[ends[2] : ends[3]], raw[_TENANT:]


def _successor(key: bytes, parent: RefreshToken, generation: int) -> RefreshToken:
    secret = mac(key, parent.secret, parent.session_id.encode(), str(generation).encode())
    return RefreshToken(parent.session_id, secret, parent.subject_hash, parent.tenant_id)
