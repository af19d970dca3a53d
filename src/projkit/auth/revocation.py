"""Revocation of tokens: a token may have a valid signature and yet have been revoked."""

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

_MARGIN_SECONDS: Final = 60.0  # more than the leeway for clock skew
_LONGEST_SECONDS: Final = 36_500 * 86_400.0
_MAX_CACHED: Final = 10_000


class RevocationChecker:
    """A checker of sessions and, for tokens without a session, of the user and the token.

    Each check reads the store, unless ``cache_seconds`` allows a cached result.
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
        # Use is recorded once per interval: a write per request would cost more than the request.
        self._touch_interval = min(timedelta(minutes=1), self._idle / 10)
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._cache: BoundedCache[str, RevocationStatus] = BoundedCache(_MAX_CACHED, monotonic)

    async def check(self, principal: Principal, token: str) -> None:
        """Return if the token has not been revoked.

        Raises:
            InvalidTokenError: its session has ended, its user is disabled, or it has been revoked.
            UnavailableError: the store does not respond.
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
        """Revoke one token without a session, until its expiry."""
        now = self._clock()
        left = float(principal.claims.get("exp", 0)) - now.timestamp() + _MARGIN_SECONDS
        ends = now + timedelta(seconds=min(max(left, _MARGIN_SECONDS), _LONGEST_SECONDS))
        await self._users.revoke_token(_token_hash(token), principal.tenant_id, ends)
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the cache after this worker has revoked something; look-ups in progress are not cached either."""
        self._cache.clear()

    async def _check_session(self, principal: Principal, session_id: str) -> None:
        key = key_of(principal.tenant_id, principal.subject, session_id)
        now = self._clock()
        session = await self._sessions.get(key, now)
        if session is None or session.subject != principal.subject:
            raise InvalidTokenError
        if now - session.used_at > self._touch_interval:
            # The session is valid: a failed write of its use (a full Redis, for example) must not reject the request.
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
    # Without the signature: an ECDSA signature has a second valid form (s and n - s), so one token has two texts.
    return sha256_hex(f"token:{token.rpartition('.')[0]}")
