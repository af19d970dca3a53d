"""A short memory before a store: a session that was looked up within the last half second is not asked for again.

The age counts from before the look-up began, so that a revocation holds on every worker after that time at the
latest, whatever becomes of any message. The worker that revokes forgets at once, and does not remember what was asked
before and is answered after.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from projkit.auth.sessions.port import (
    Rotation,
    Session,
    SessionActivity,
    SessionKey,
    SessionStore,
    subject_hash,
)

_ENTRIES: Final = 10_000


class CachedSessions:
    """A :class:`~projkit.auth.sessions.port.SessionStore` that remembers another one's answers for ``seconds``."""

    def __init__(
        self, store: SessionStore, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._monotonic = monotonic
        self._known: dict[SessionKey, tuple[float, SessionActivity]] = {}
        self._revocations = 0

    async def create(self, session: Session) -> None:
        await self._store.create(session)

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        known = self._known.get(key)
        asked_at = self._monotonic()
        if known is not None:
            if asked_at - known[0] < self._seconds and known[1].is_live(now):
                return known[1]
            del self._known[key]
        revocations = self._revocations
        activity = await self._store.get(key, now)
        if activity is not None and revocations == self._revocations:
            if len(self._known) >= _ENTRIES:
                del self._known[next(iter(self._known))]
            self._known[key] = (asked_at, activity)
        return activity

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        session = await self._store.get_fresh(key, now)
        if session is None:
            self._known.pop(key, None)
        return session

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        known = self._known.get(key)
        if known is not None:
            self._known[key] = (known[0], known[1]._replace(used_at=now, idle_expires_at=idle_expires_at))
        await self._store.touch(key, now, idle_expires_at)

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        self._known.pop(key, None)
        return await self._store.rotate(key, rotation)

    async def revoke(self, key: SessionKey) -> bool:
        try:
            return await self._store.revoke(key)
        finally:
            self._revocations += 1
            self._known.pop(key, None)

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        try:
            return await self._store.revoke_all(tenant_id, subject, keep=keep)
        finally:
            self._revocations += 1
            hashed = subject_hash(tenant_id, subject)
            ended = [key for key in self._known if key.subject_hash == hashed and key.id_hash != keep]
            for key in ended:
                del self._known[key]

    async def list(self, tenant_id: str, subject: str, now: datetime) -> Sequence[Session]:
        return await self._store.list(tenant_id, subject, now)

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        return await self._store.consume(value, now, expires_at)

    async def ping(self) -> None:
        await self._store.ping()
