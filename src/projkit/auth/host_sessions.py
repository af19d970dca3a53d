"""``kit.sessions``: listing and ending the sessions of a subject, for host code and background tasks."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from projkit.auth.wiring import AuthServices
from projkit.http.query import MAX_LIMIT
from projkit.identity import Principal


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """A live session of a subject; ``transport`` is ``body`` or ``cookie``."""

    id: str
    transport: str
    user_agent: str
    address: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of a subject's sessions; ``next_cursor`` is None on the last page."""

    items: list[SessionDetails]
    next_cursor: str | None


class Sessions:
    """The sessions of a host's users; works on every event loop, and starts the kit there if it is not running."""

    def __init__(self, services: Callable[[], AbstractAsyncContextManager[AuthServices]]) -> None:
        self._services = services

    async def end_all(self, subject: str, *, tenant_id: str = "", keep: str | None = None) -> int:
        """End all access of a subject at once, except the session with the id ``keep``.

        Its sessions end, with their access tokens, on every worker: at the next request, with Redis within a second.
        Tokens without a session (legacy, external, ``projkit token``) that were issued until now are revoked, and
        logins in progress fail. The subject can log in again; whether it may is the host's decision.

        Returns:
            The number of sessions that were ended.

        Raises:
            ValueError: the subject or tenant cannot be one.
            UnavailableError: a store does not respond. Call this again: it is not known what has been ended.
        """
        principal = Principal(subject, tenant_id=tenant_id)
        async with self._services() as services:
            return await services.end_all(principal.subject, principal.tenant_id, keep=keep)

    async def end(self, subject: str, session_id: str, *, tenant_id: str = "") -> None:
        """End one session, with its access tokens.

        Raises:
            NotFoundError: the subject has no such session.
            UnavailableError: the store does not respond.
        """
        async with self._services() as services:
            await services.sessions.end(Principal(subject, tenant_id=tenant_id), session_id)

    async def list(
        self, subject: str, *, tenant_id: str = "", limit: int = 20, cursor: str | None = None
    ) -> SessionPage:
        """Return a page of the live sessions, newest first.

        Args:
            subject: the subject.
            tenant_id: its tenant.
            limit: the maximum number of sessions in the page, from 1 to 100.
            cursor: the ``next_cursor`` of the previous page.

        Raises:
            ValueError: ``limit`` is out of range.
            InvalidCursorError: the cursor belongs to another list.
            UnavailableError: the store does not respond.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be from 1 to {MAX_LIMIT}")
        principal = Principal(subject, tenant_id=tenant_id)
        async with self._services() as services:
            page = await services.sessions.list(principal, limit=limit, cursor=cursor)
        items = [
            SessionDetails(
                id=listing.id,
                transport=listing.session.transport,
                user_agent=listing.session.user_agent,
                address=listing.session.address,
                created_at=listing.session.created_at,
                used_at=listing.session.used_at,
                expires_at=listing.session.expires_at,
            )
            for listing in page.items
        ]
        return SessionPage(items, page.next_cursor)
