"""Refresh tokens: opaque to clients, stored as hashes, each the parent of its one successor.

A token holds where its session is (tenant, hash of the subject, session id) and a 256-bit secret. The first secret of a
family is random; each other one is an HMAC over its parent, the family and the generation, so that a client whose
answer was lost gets the same successor again without anything being stored in clear.
"""

import base64
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from projkit.auth.keys import SecretsOf
from projkit.auth.sessions.port import Session, SessionKey, sha256_hex, subject_hash
from projkit.errors import InvalidRefreshTokenError

LABEL: Final = "refresh"
_VERSION: Final = b"\x01"
_BYTES: Final = 32
_SUBJECT_HASH_BYTES: Final = 16
_TENANT: Final = 1 + 2 * _BYTES + _SUBJECT_HASH_BYTES  # where the tenant's name begins
_MAX_LENGTH: Final = 1600  # a tenant's name may have 255 characters


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a refresh token holds."""

    session_id: str
    secret: bytes
    subject_hash: str
    tenant_id: str

    @property
    def key(self) -> SessionKey:
        """Where the session is kept."""
        return SessionKey(self.tenant_id, self.subject_hash, sha256_hex(self.session_id))

    def encode(self) -> str:
        """The token's text."""
        raw = b"".join(
            (
                _VERSION,
                _unpack(self.session_id),
                self.secret,
                bytes.fromhex(self.subject_hash),
                self.tenant_id.encode(),
            )
        )
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class RefreshTokens:
    """Makes and reads refresh tokens."""

    def __init__(self, keys: SecretsOf) -> None:
        """``keys`` gives the secrets of the label ``refresh``, newest first."""
        self._keys = keys

    @staticmethod
    def first(session_id: str, subject: str, tenant_id: str) -> RefreshToken:
        """The first one of a new family."""
        return RefreshToken(
            session_id, secrets.token_bytes(_BYTES), subject_hash(tenant_id, subject), tenant_id
        )

    def successor(self, parent: RefreshToken, generation: int) -> RefreshToken:
        """The one that follows ``parent`` as number ``generation`` of the family, by the newest key."""
        return _successor(self._keys()[0], parent, generation)

    def present(self, parent: RefreshToken, session: Session) -> RefreshToken | None:
        """The successor of ``parent`` that the session holds now, if that is what it holds."""
        for key in self._keys():
            candidate = _successor(key, parent, session.generation)
            if hmac.compare_digest(sha256_hex(candidate.encode()), session.refresh_hash):
                return candidate
        return None

    @staticmethod
    def read(text: str) -> RefreshToken:
        """What a token holds; nothing of it is known to be true.

        Raises:
            InvalidRefreshTokenError: it does not look like one of ours.
        """
        try:
            if len(text) > _MAX_LENGTH:
                raise InvalidRefreshTokenError
            raw = base64.b64decode(
                text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
            )
            session_id, secret, subject, tenant_id = _cut(raw)
            return RefreshToken(_pack(session_id), secret, subject.hex(), tenant_id.decode())
        except ValueError:
            raise InvalidRefreshTokenError from None


def _cut(raw: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    if raw[:1] != _VERSION or len(raw) < _TENANT or b"\0" in raw[_TENANT:]:
        raise ValueError("too short, of another version, or with a tenant that no database keeps")
    ends = (1, 1 + _BYTES, 1 + 2 * _BYTES, _TENANT)
    return raw[ends[0] : ends[1]], raw[ends[1] : ends[2]], raw[ends[2] : ends[3]], raw[_TENANT:]


def _successor(key: bytes, parent: RefreshToken, generation: int) -> RefreshToken:
    # Each part with its length before it, so that no two sets of parts make the same input.
    parts = (parent.secret, parent.session_id.encode(), str(generation).encode())
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    secret = hmac.digest(key, message, "sha256")
    return RefreshToken(parent.session_id, secret, parent.subject_hash, parent.tenant_id)


def _pack(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
