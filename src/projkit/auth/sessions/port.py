"""What a session is, and what a store of sessions promises.

Three implementations, one contract, one test suite over all of them:
:class:`~projkit.auth.sessions.database.DatabaseSessions`, :class:`~projkit.auth.sessions.redis.RedisSessions`, and
:class:`~projkit.auth.sessions.cached.CachedSessions`, which puts a short memory before another one.

Rules that all keep: a session is found by the hash of its id alone, so that what is stored lets nobody in; an expired
one is not found; a refresh token is exchanged by one atomic conditional write; a store that does not answer is a
:class:`~projkit.errors.SessionStoreUnavailableError` or :class:`~projkit.errors.DatabaseUnavailableError` within a
second or so, never "no such session".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol


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

    ``seed`` is what the id is derived from; ``generation`` counts the exchanges of the refresh token,
    ``refresh_hash`` is the present token's, ``parent_hash`` that of the one before it.
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
        """Where it is kept."""
        return SessionKey(self.tenant_id, subject_hash(self.tenant_id, self.subject), self.id_hash)

    @property
    def activity(self) -> SessionActivity:
        """The part of the session that every request checks."""
        return SessionActivity(self.subject, self.used_at, self.idle_expires_at, self.expires_at)


@dataclass(frozen=True, slots=True)
class Rotation:
    """An exchange of refresh tokens: it happens only if ``expected_hash`` is still the present one."""

    expected_hash: str
    new_hash: str
    generation: int
    at: datetime
    idle_expires_at: datetime


class SessionStore(Protocol):
    """Keeps sessions."""

    async def create(self, session: Session) -> None:
        """Keeps a new session."""

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        """Return the activity of a live session; a cached store may return it as it was a moment ago."""

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        """The whole session, if it is live; never from a cache."""

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        """Notes that it was used; a session that is gone stays gone."""

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        """Exchanges the refresh token atomically; False where another request has done it already."""

    async def revoke(self, key: SessionKey) -> bool:
        """Ends a session; False where there was none."""

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        """Ends all sessions of a subject, but for the one whose id has the hash ``keep``; gives their number."""

    async def list(self, tenant_id: str, subject: str, now: datetime) -> Sequence[Session]:
        """The live sessions of a subject, newest first."""

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        """True for the first who shows this value before ``expires_at``, False for everybody after."""

    async def ping(self) -> None:
        """Asks for a sign of life."""


@lru_cache(maxsize=4096)
def key_of(tenant_id: str, subject: str, session_id: str) -> SessionKey:
    """Where the session of this id is found; remembered, since every request asks and the hashes cost 2 µs."""
    return SessionKey(tenant_id, subject_hash(tenant_id, subject), sha256_hex(session_id))


def sha256_hex(value: str) -> str:
    """Return the hex SHA-256 of ``value``, which is stored in place of a secret."""
    return hashlib.sha256(value.encode()).hexdigest()


def subject_hash(tenant_id: str, subject: str) -> str:
    """Return the hash of a tenant's subject; as a Redis hash tag it puts all of the subject's keys in one slot."""
    raw = f"{len(tenant_id)}:{tenant_id}:{subject}".encode()
    return hashlib.sha256(raw).hexdigest()[:32]
