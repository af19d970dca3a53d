"""Ended sessions, which stay ended although their store may lose its last writes.

A Redis that restarts from its last snapshot, or a replica that lagged behind and takes over, brings back sessions that
had ended. What ends access is therefore also recorded in the database, where each refresh looks it up: the end of one
session as a one-time value, and the end of all sessions of a subject as its ``valid_after``. A session that is kept
when the others end, as at a change of the password, is recorded as well.

An access token of such a session is accepted until it expires, since only refreshes look up the records.
"""

from projkit.auth.sessions.port import KeptSession, Session, SessionStore, sha256_hex
from projkit.auth.users import Users


class EndedSessions:
    """The sessions that have ended, of one store."""

    def __init__(self, users: Users, store: SessionStore) -> None:
        self._users = users
        self._store = store

    async def add(self, session: Session) -> None:
        """End a session.

        Raises:
            UnavailableError: the store or the database does not respond; the call can be repeated.
        """
        if not self._store.is_durable:
            # First, because without the session it could not be repeated.
            await self._users.revoke_token(_mark(session), session.tenant_id, session.expires_at)
        await self._store.revoke(session.key)

    async def contains(self, session: Session) -> bool:
        """Return whether a session that the store returned has ended, or its user is disabled."""
        user = await self._users.revocation_status(session.subject, session.tenant_id, _mark(session))
        if user.disabled or self._store.is_durable:
            return user.disabled
        if user.revoked or user.valid_after is None or session.created_at > user.valid_after:
            return user.revoked
        mark = KeptSession(session.id_hash, session.expires_at).mark(user.valid_after)
        return not (await self._users.revocation_status(session.subject, session.tenant_id, mark)).revoked


def _mark(session: Session) -> str:
    return sha256_hex(f"ended-session:{session.id_hash}")
