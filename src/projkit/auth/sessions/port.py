"""Sessions, and the interface of session stores.

There are three implementations, tested by one suite:
:class:`~projkit.auth.sessions.database.DatabaseSessions`, :class:`~projkit.auth.sessions.redis.RedisSessions`, and
:class:`~projkit.auth.sessions.cached.CachedSessions`, which puts a cache in front of another one.

All of them guarantee: a session is stored under the hash of its id, so stolen data does not contain valid ids; an
expired session is not returned; a refresh token is exchanged by one atomic conditional write; a store that does not
respond raises :class:`~projkit.errors.SessionStoreUnavailableError` or
:class:`~projkit.errors.DatabaseUnavailableError` within about a second, and never returns "no such session".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

# The number of sessions that one login ends at most, where a subject had more than the limit from before.
MAX_EXCESS: Final = 100


class SessionKey(NamedTuple):
    """The key of a stored session: its tenant, the hash of its subject, and the hash of its id."""

    tenant_id: str
    subject_hash: str
    id_hash: str


class SessionActivity(NamedTuple):
    """The part of a session that every request checks: its subject, its last use, and its two expiries."""

    subject: str
    used_at: datetime
    idle_expires_at: datetime
    expires_at: datetime

    def is_live(self, now: datetime) -> bool:
        """Return whether neither the idle nor the absolute lifetime has ended."""
        return now < self.idle_expires_at and now < self.expires_at


@dataclass(frozen=True, slots=True)
class Session:
    """A session and its family of refresh tokens.

    The id is derived from ``seed``. ``generation`` counts the exchanges of the refresh token; ``refresh_hash`` is the
    hash of the current one, ``parent_hash`` that of the previous one.
    """

    tenant_id: str
    id_hash: str
    seed: str
    subject: str
    scopes: tuple[str, ...]
    transport: str
    user_agent: str
    address: str
    refresh_hash: str
    parent_hash: str | None
    generation: int
    rotated_at: datetime
    created_at: datetime
    used_at: datetime
    idle_expires_at: datetime
    expires_at: datetime

    @property
    def key(self) -> SessionKey:
        """Its key in the store."""
        return SessionKey(self.tenant_id, subject_hash(self.tenant_id, self.subject), self.id_hash)

    @property
    def activity(self) -> SessionActivity:
        """The part of the session that every request checks."""
        return SessionActivity(self.subject, self.used_at, self.idle_expires_at, self.expires_at)


@dataclass(frozen=True, slots=True)
class Rotation:
    """An exchange of refresh tokens; it applies only while ``expected_hash`` is the current hash."""

    expected_hash: str
    new_hash: str
    generation: int
    at: datetime
    idle_expires_at: datetime


class ListPosition(NamedTuple):
    """A position in the list of a subject's sessions: that of the session with these values, stored or not."""

    created_at: datetime
    id_hash: str


class KeptSession(NamedTuple):
    """The session that survives the end of all others: the hash of its id, and the latest time of its end."""

    id_hash: str
    expires_at: datetime

    def mark(self, valid_after: datetime) -> str:
        """Return the one-time value that records that the session was kept at this revocation."""
        return sha256_hex(f"kept-session:{self.id_hash}:{valid_after.isoformat(timespec='microseconds')}")


class SessionStore(Protocol):
    """A store of sessions and one-time values."""

    @property
    def is_durable(self) -> bool:
        """Whether a session that has ended stays ended after a crash of the store."""

    async def create(self, session: Session, *, limit: int = 0) -> Sequence[Session]:
        """Store a new session; return those that its subject now has in excess of ``limit`` (0: none).

        These are the oldest, at most ``MAX_EXCESS``, and never the new one; the caller ends them. Of two calls for one
        subject, the second one counts the session of the first one.
        """

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        """Return the activity of a live session; a cached store may return it as it was a moment ago."""

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        """Return the whole session if it is live; never from a cache."""

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        """Record the use of a session; does not recreate a session that was revoked."""

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        """Exchange the refresh token atomically; return False if another request has already done so."""

    async def revoke(self, key: SessionKey) -> bool:
        """End a session; return False if there was none."""

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        """End all sessions of a subject except the one with the id hash ``keep``; return their number."""

    async def list(
        self, tenant_id: str, subject: str, now: datetime, *, limit: int, after: ListPosition | None = None
    ) -> Sequence[Session]:
        """Return up to ``limit`` live sessions of a subject, newest first, of those after a position."""

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        """Consume a one-time value; return True for the first call before ``expires_at``, then False."""

    async def ping(self) -> None:
        """Check that the store responds."""


@lru_cache(maxsize=4096)
def key_of(tenant_id: str, subject: str, session_id: str) -> SessionKey:
    """Return the key of a session; cached, since every request needs it and the hashes cost 2 µs."""
    return SessionKey(tenant_id, subject_hash(tenant_id, subject), sha256_hex(session_id))


def sha256_hex(value: str) -> str:
    """Return the hex SHA-256 of ``value``, which is stored in place of a secret."""
    return hashlib.sha256(value.encode()).hexdigest()


def subject_hash(tenant_id: str, subject: str) -> str:
    """Return the hash of a tenant's subject; as a Redis hash tag it puts all of the subject's keys in one slot."""
    raw = f"{len(tenant_id)}:{tenant_id}:{subject}".encode()
    return hashlib.sha256(raw).hexdigest()[:32]
