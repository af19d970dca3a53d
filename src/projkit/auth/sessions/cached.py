"""A cache in front of a session store: a session is not looked up again within ``seconds`` (default: 0.5).

The age of an entry counts from before its look-up began, so a revocation takes effect on every worker after that time
at the latest, without any message between workers. The worker that revokes discards its entry at once, and does not
store the result of a look-up that was in progress at that moment.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from projkit.auth.sessions.port import (
    ListPosition,
    Rotation,
    Session,
    SessionActivity,
    SessionKey,
    SessionStore,
    subject_hash,
)
from projkit.bounded_cache import BoundedCache

_MAX_CACHED: Final = 10_000


class CachedSessions:
    """A :class:`~projkit.auth.sessions.port.SessionStore` that caches the live sessions of another one."""

    def __init__(
        self, store: SessionStore, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self.is_durable = store.is_durable
        self.seconds = seconds
        self._monotonic = monotonic
        self._cache: BoundedCache[SessionKey, SessionActivity] = BoundedCache(_MAX_CACHED, monotonic)

    async def create(self, session: Session, *, limit: int = 0) -> Sequence[Session]:
        return await self._store.create(session, limit=limit)

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        cached = self._cache.get(key)
        if cached is not None and cached.is_live(now):
            return cached
        generation, expires = self._cache.generation, self._monotonic() + self.seconds
        activity = await self._store.get(key, now)
        if activity is not None:
            self._cache.put(key, activity, expires, generation)
        return activity

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        session = await self._store.get_fresh(key, now)
        if session is None:
            self._cache.discard(key)
        return session

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        self._cache.replace(
            key, lambda activity: activity._replace(used_at=now, idle_expires_at=idle_expires_at)
        )
        await self._store.touch(key, now, idle_expires_at)

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        self._cache.discard(key)
        return await self._store.rotate(key, rotation)

    async def revoke(self, key: SessionKey) -> bool:
        try:
            return await self._store.revoke(key)
        finally:
            self._cache.discard(key)

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        try:
            return await self._store.revoke_all(tenant_id, subject, keep=keep)
        finally:
            hashed = subject_hash(tenant_id, subject)
            self._cache.invalidate(lambda key: key.subject_hash == hashed and key.id_hash != keep)

    async def list(
        self, tenant_id: str, subject: str, now: datetime, *, limit: int, after: ListPosition | None = None
    ) -> Sequence[Session]:
        return await self._store.list(tenant_id, subject, now, limit=limit, after=after)

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        return await self._store.consume(value, now, expires_at)

    async def ping(self) -> None:
        await self._store.ping()
