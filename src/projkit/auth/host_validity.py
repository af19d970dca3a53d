"""The host's ``still_valid``: whether a subject still has access, and with which scopes.

The kit asks at each refresh, and for tokens of the legacy format, which have no session that could be ended. Answers
about legacy tokens are cached for STILL_VALID_CACHE_SECONDS; concurrent requests share one call. A refresh always
asks anew.

The host's answer decides about access, so a function that raises, takes too long or returns something else is not an
answer: the request gets 503, neither access nor a 401, and no session ends.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from projkit.bounded_cache import BoundedCache
from projkit.errors import InvalidTokenError, UnavailableError
from projkit.identity import Principal
from projkit.tasks import is_being_cancelled, retrieve_exception

logger: Final = logging.getLogger("projkit.auth")

StillValidResult = bool | Collection[str] | None
AwaitableStillValid = Callable[..., Awaitable[StillValidResult]]
# Takes the subject, and with TENANT_CLAIM also the tenant.
StillValid = Callable[..., StillValidResult | Awaitable[StillValidResult]]

# None: access as before; otherwise the subject's current scopes.
CurrentScopes = frozenset[str] | None
_Key = tuple[str, str]

TIMEOUT_SECONDS: Final = 5.0
_MAX_CACHED: Final = 10_000
_LOG_INTERVAL_SECONDS: Final = 10.0


class AccessRevokedError(Exception):
    """The host's answer is that the subject has no access any more."""


class HostValidity:
    """A checker of subjects with the host's ``still_valid``.

    Args:
        still_valid: the host's function, to be awaited.
        cache_seconds: how long an answer about a legacy token is valid.
        with_tenant: whether the function also takes the tenant.
    """

    def __init__(
        self,
        still_valid: AwaitableStillValid,
        *,
        cache_seconds: float,
        with_tenant: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._still_valid = still_valid
        self._cache_seconds = cache_seconds
        self._with_tenant = with_tenant
        self._monotonic = monotonic
        # Lists, so that None, which an entry cannot be, can be told from a missing one.
        self._cache: BoundedCache[_Key, list[StillValidResult]] = BoundedCache(_MAX_CACHED, monotonic)
        self._calls: dict[_Key, asyncio.Task[StillValidResult]] = {}
        self._next_log = float("-inf")

    async def scopes_at_refresh(self, subject: str, tenant_id: str) -> CurrentScopes:
        """Return the subject's current scopes, as the host knows them now.

        Raises:
            AccessRevokedError: the subject has no access any more.
            UnavailableError: the host's function does not answer.
        """
        return _scopes_of(await self._ask((tenant_id, subject), self._cache.generation))

    async def restrict(self, principal: Principal) -> Principal:
        """Return the caller of a token without a session, with those of its scopes that the subject still has.

        Raises:
            InvalidTokenError: the subject has no access any more.
            UnavailableError: the host's function does not answer.
        """
        key = (principal.tenant_id, principal.subject)
        cached = self._cache.get(key)
        try:
            scopes = _scopes_of(await self._join(key) if cached is None else cached[0])
        except AccessRevokedError:
            raise InvalidTokenError from None
        return principal if scopes is None else principal.with_scopes(principal.scopes & scopes)

    def forget(self, subject: str, tenant_id: str) -> None:
        """Ask anew about a subject; calls in progress are not cached, and not joined, either."""
        key = (tenant_id, subject)
        self._cache.discard(key)
        self._calls.pop(key, None)

    def close(self) -> None:
        """Cancel the calls in progress."""
        for call in list(self._calls.values()):
            call.cancel()

    async def _join(self, key: _Key) -> StillValidResult:
        """Return the answer of the call in progress, or of a new one; it continues if this caller is cancelled."""
        call = self._calls.get(key)
        if call is None:
            call = asyncio.get_running_loop().create_task(self._ask(key, self._cache.generation))
            self._calls[key] = call
            call.add_done_callback(lambda done: self._end(key, done))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if call.cancelled():
                raise UnavailableError("The service is shutting down") from None
            raise

    def _end(self, key: _Key, call: "asyncio.Task[StillValidResult]") -> None:
        if self._calls.get(key) is call:
            del self._calls[key]
        retrieve_exception(call)  # in case that all callers were cancelled

    async def _ask(self, key: _Key, generation: int) -> StillValidResult:
        tenant_id, subject = key
        expires = self._monotonic() + self._cache_seconds
        arguments = (subject, tenant_id) if self._with_tenant else (subject,)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                result = await self._still_valid(*arguments)
            _check(result)
        except UnavailableError:
            raise  # too many calls are waiting for a thread
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self._log_failure(error)
            raise UnavailableError("The application cannot tell whether the user still has access") from None
        if self._cache_seconds:
            self._cache.put(key, [result], expires, generation)
        if result is None or result is False:
            logger.info("still_valid revoked the access of the subject %r", subject)
        return result

    def _log_failure(self, error: BaseException) -> None:
        # Once per interval: during an outage of the host's database every request would log a traceback.
        now = self._monotonic()
        if now < self._next_log:
            return
        self._next_log = now + _LOG_INTERVAL_SECONDS
        if isinstance(error, TimeoutError):
            logger.error("still_valid did not respond within %g seconds; requests get 503", TIMEOUT_SECONDS)
        else:
            logger.error("still_valid failed; requests get 503", exc_info=error)


def _check(result: Any) -> None:
    """Reject what is neither a bool, None, nor scopes.

    Raises:
        TypeError: it is something else, such as a user object, which would count as access.
    """
    if result is None or isinstance(result, bool | str):
        return
    if isinstance(result, Collection) and all(isinstance(scope, str) for scope in result):
        return
    raise TypeError(
        f"still_valid must return True, False, None or a collection of scopes, not {type(result).__name__}"
    )


def _scopes_of(result: StillValidResult) -> CurrentScopes:
    if result is None or result is False:
        raise AccessRevokedError
    if result is True:
        return None
    return frozenset(result.split() if isinstance(result, str) else result)
