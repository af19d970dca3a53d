"""Whether what a token says still holds: it may be good by its signature, and yet have been called back."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from projkit.auth.sessions.port import SessionStore, key_of, sha256_hex
from projkit.auth.users import RevocationStatus, Users
from projkit.bounded_cache import BoundedCache
from projkit.clock import Clock
from projkit.errors import InvalidTokenError, UnavailableError
from projkit.identity import Principal

_MARGIN_SECONDS: Final = 60.0  # more than the leeway that a clock is given
_LONGEST_SECONDS: Final = 36_500 * 86_400.0
_MAX_CACHED: Final = 10_000


class RevocationChecker:
    """Looks the session up, or, for tokens without one, what is noted of the user and the token.

    Each look-up is fresh, unless ``cache_seconds`` allows it to be a moment old.
    """

    def __init__(
        self,
        sessions: SessionStore,
        users: Users,
        *,
        idle_seconds: int,
        cache_seconds: float,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._users = users
        self._idle = timedelta(seconds=idle_seconds)
        # Use is noted now and then only: a write for each request would cost more than the request.
        self._note_use_after = min(timedelta(minutes=1), self._idle / 10)
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._cache: BoundedCache[str, RevocationStatus] = BoundedCache(_MAX_CACHED, monotonic)

    async def check(self, principal: Principal, token: str) -> None:
        """Returns where the token still holds.

        Raises:
            InvalidTokenError: its session has ended, its user is disabled, or it was called back.
            UnavailableError: nobody can tell, since the store does not answer.
        """
        if principal.session_id is not None:
            await self._check_session(principal, principal.session_id)
            return
        status = await self._cached_status(principal, _token_hash(token))
        if status.disabled or status.revoked:
            raise InvalidTokenError
        if status.valid_after is not None:
            issued = principal.claims.get("iat")
            if issued is None or issued < status.valid_after.timestamp():
                raise InvalidTokenError

    async def revoke_token(self, principal: Principal, token: str) -> None:
        """Refuses one token without a session, from now on until it would have ended by itself."""
        now = self._clock()
        left = float(principal.claims.get("exp", 0)) - now.timestamp() + _MARGIN_SECONDS
        ends = now + timedelta(seconds=min(max(left, _MARGIN_SECONDS), _LONGEST_SECONDS))
        await self._users.revoke_token(_token_hash(token), principal.tenant_id, ends)
        self.clear_cache()

    def clear_cache(self) -> None:
        """Forgets what is remembered, and what is being asked: this worker has just changed it."""
        self._cache.clear()

    async def _check_session(self, principal: Principal, session_id: str) -> None:
        key = key_of(principal.tenant_id, principal.subject, session_id)
        now = self._clock()
        session = await self._sessions.get(key, now)
        if session is None or session.subject != principal.subject:
            raise InvalidTokenError
        if now - session.used_at > self._note_use_after:
            # The session is good: that its use cannot be noted now (a Redis that is full, say) refuses nobody.
            with suppress(UnavailableError):
                await self._sessions.touch(key, now, min(session.expires_at, now + self._idle))

    async def _cached_status(self, principal: Principal, token_hash: str) -> RevocationStatus:
        if not self._cache_seconds:
            return await self._users.revocation_status(principal.subject, principal.tenant_id, token_hash)
        status = self._cache.get(token_hash)
        if status is None:
            # The age counts from before the look-up, so another worker's revocation takes effect in time.
            generation, expires = self._cache.generation, self._monotonic() + self._cache_seconds
            status = await self._users.revocation_status(principal.subject, principal.tenant_id, token_hash)
            self._cache.put(token_hash, status, expires, generation)
        return status


def _token_hash(token: str) -> str:
    # Without its signature: anybody can write an ECDSA signature in a second way that is as good (s and n - s).
    return sha256_hex(f"token:{token.rpartition('.')[0]}")
