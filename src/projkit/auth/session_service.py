"""The rules of sessions: open, refresh (with detection of reused refresh tokens), list and end them. No HTTP."""

import hmac
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import orjson

from projkit.auth.csrf import CsrfGuard, session_binding
from projkit.auth.ended_sessions import EndedSessions
from projkit.auth.host_validity import AccessRevokedError, HostValidity
from projkit.auth.refresh import RefreshToken, RefreshTokens
from projkit.auth.sessions.port import (
    KeptSession,
    ListPosition,
    Rotation,
    Session,
    SessionKey,
    SessionStore,
    sha256_hex,
    subject_hash,
)
from projkit.auth.tokens import TokenIssuer
from projkit.auth.users import User, Users
from projkit.clock import Clock
from projkit.errors import InvalidCredentialsError, InvalidRefreshTokenError, NotFoundError, UnavailableError
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.observers import Observer
from projkit.settings import Settings
from projkit.signing import SigningKeys, encode

logger: Final = logging.getLogger("projkit.auth")

Transport = Literal["body", "cookie"]

SESSION_LABEL: Final = "session-id"
CURSOR_LABEL: Final = "session-cursor"
GRACE_SECONDS: Final = 10  # a retry of a refresh within this time gets the same successor
_SEED_BYTES: Final = 32
_USER_AGENT_LENGTH: Final = 255
_CLOCK_STEP: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Client:
    """The client that opened a session, shown to its owner in the list of sessions."""

    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """The tokens of a login or a refresh; lifetimes in seconds."""

    subject: str
    session_id: str
    transport: Transport
    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    csrf_token: str


@dataclass(frozen=True, slots=True)
class SessionListing:
    """A session with the id that its owner uses to end it."""

    id: str
    session: Session


@dataclass(frozen=True, slots=True)
class SessionListingPage:
    """A page of a user's sessions, and the cursor of the next page if there is one."""

    items: Sequence[SessionListing]
    next_cursor: str | None


class SessionService:
    """Opens, refreshes, lists and ends sessions."""

    def __init__(
        self,
        settings: Settings,
        store: SessionStore,
        users: Users,
        issuer: TokenIssuer,
        csrf: CsrfGuard,
        *,
        refresh_keys: SigningKeys,
        session_keys: SigningKeys,
        cursor_keys: SigningKeys,
        clock: Clock,
        observer: Observer,
        validity: HostValidity | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._users = users
        self._ended = EndedSessions(users, store)
        self._issuer = issuer
        self._csrf = csrf
        self._refresh = RefreshTokens(refresh_keys)
        self._keys = session_keys
        self._cursors = CursorCodec(cursor_keys)
        self._clock = clock
        self._observer = observer
        self._validity = validity

    def now(self) -> datetime:
        """Return the time by which sessions and revocations are dated."""
        return self._clock()

    async def open(
        self,
        subject: str,
        scopes: Sequence[str],
        tenant_id: str,
        transport: Transport,
        client: Client,
        *,
        known: User | None = None,
        since: datetime | None = None,
    ) -> IssuedTokens:
        """Open a session with a new id, a new family of refresh tokens and a new CSRF token.

        ``known`` is the user as read before the password was verified. For a user of the host, who is unknown until
        then, ``since`` is the time from which on a revocation of all access ends this login too.

        Raises:
            InvalidCredentialsError: the user has been disabled, or the password changed, since then.
            UnavailableError: the store does not respond.
        """
        now = self._clock()
        if known is not None and known.valid_after is not None:
            # Another server's clock may be ahead; its revocation must not end this later login.
            now = max(now, known.valid_after + _CLOCK_STEP)
        seed = secrets.token_hex(_SEED_BYTES)
        session_id = _derive(self._keys()[0], seed)
        refresh = self._refresh.first(session_id, subject, tenant_id)
        ends = now + timedelta(seconds=self._settings.session_max_seconds)
        session = Session(
            tenant_id=tenant_id,
            id_hash=sha256_hex(session_id),
            seed=seed,
            subject=subject,
            scopes=tuple(scopes),
            transport=transport,
            # PostgreSQL rejects U+0000, which some servers let through.
            user_agent=client.user_agent.replace("\0", "\ufffd")[:_USER_AGENT_LENGTH],
            address=client.address,
            refresh_hash=sha256_hex(refresh.encode()),
            parent_hash=None,
            generation=0,
            rotated_at=now,
            created_at=now,
            used_at=now,
            idle_expires_at=min(ends, now + timedelta(seconds=self._settings.session_idle_seconds)),
            expires_at=ends,
        )
        excess = await self._store.create(session, limit=self._settings.max_sessions_per_subject)
        # Checked after the session is stored: a concurrent "end all sessions" may have missed this one.
        user = await self._users.by_subject(subject, tenant_id)
        if _is_denied(user, known, since):
            await self._store.revoke(session.key)
            raise InvalidCredentialsError
        await self._end_excess(excess)
        return self._issue(session, session_id, refresh, now, session.scopes)

    async def _end_excess(self, excess: Sequence[Session]) -> None:
        for each in excess:
            await self._ended.add(each)
        if excess:
            logger.info(
                "%d sessions of the subject %r were ended by a login in excess of PROJKIT_MAX_SESSIONS_PER_SUBJECT",
                len(excess),
                excess[0].subject,
            )

    async def refresh(self, text: str) -> IssuedTokens:
        """Exchange a refresh token for a new one and a new access token.

        A retry within ten seconds gets the same successor. Reuse of any older token revokes the session, since the
        token may have been stolen (RFC 9700 §4.14.2).

        Raises:
            InvalidRefreshTokenError: the token is not the current one of a live session, or the host has revoked the
                subject's access.
            UnavailableError: the store, or the host, does not respond.
        """
        try:
            outcome, issued = await self._exchange(RefreshTokens.read(text), text)
        except InvalidRefreshTokenError:
            outcome, issued = "refused", None
        except UnavailableError:
            self._observer.record_refresh("unavailable")
            raise
        self._observer.record_refresh(outcome)
        if issued is None:
            raise InvalidRefreshTokenError
        return issued

    async def _exchange(self, shown: RefreshToken, text: str) -> tuple[str, IssuedTokens | None]:
        """Return the outcome of a refresh for the metrics, and the new tokens if there are any."""
        now = self._clock()
        session = await self._store.get_fresh(shown.key, now)
        if session is None:
            return "refused", None
        if await self._ended.contains(session):
            await self._store.revoke(shown.key)
            return "refused", None
        try:
            scopes = await self._current_scopes(session)
        except AccessRevokedError:
            await self._ended.add(session)
            logger.info("a session of the subject %r was ended at its refresh", session.subject)
            return "revoked", None
        if hmac.compare_digest(session.refresh_hash, sha256_hex(text)):
            successor = self._refresh.successor(shown, session.generation + 1)
            rotation = Rotation(
                expected_hash=session.refresh_hash,
                new_hash=sha256_hex(successor.encode()),
                generation=session.generation + 1,
                at=now,
                idle_expires_at=self._idle_end(session, now),
            )
            if await self._store.rotate(shown.key, rotation):
                return "rotated", self._issue(session, shown.session_id, successor, now, scopes)
            session = await self._store.get_fresh(shown.key, now)  # another request exchanged it first
            if session is None:
                return "refused", None
        current = self._token_for_retry(shown, text, session, now)
        if current is None:
            await self._ended.add(session)
            return "reused", None
        return "replayed", self._issue(session, shown.session_id, current, now, scopes)

    async def _current_scopes(self, session: Session) -> Sequence[str]:
        if self._validity is None:
            return session.scopes
        scopes = await self._validity.scopes_at_refresh(session.subject, session.tenant_id)
        return session.scopes if scopes is None else sorted(scopes)

    def _token_for_retry(
        self, shown: RefreshToken, text: str, session: Session, now: datetime
    ) -> RefreshToken | None:
        """Return the session's current token if ``shown`` is its parent and was exchanged within the grace period."""
        parent = session.parent_hash
        if parent is None or not hmac.compare_digest(parent, sha256_hex(text)):
            return None
        if now - session.rotated_at > timedelta(seconds=GRACE_SECONDS):
            return None
        return self._refresh.current(shown, session)

    def binding_of_refresh(self, text: str) -> str:
        """Return the CSRF binding of the session that a refresh token belongs to.

        Raises:
            InvalidRefreshTokenError: the token is malformed; this is counted as refused.
        """
        try:
            return session_binding(RefreshTokens.read(text).session_id)
        except InvalidRefreshTokenError:
            self._observer.record_refresh("refused")
            raise

    def read_refresh_token(self, text: str) -> RefreshToken:
        """Parse a refresh token.

        Raises:
            InvalidRefreshTokenError: the token is malformed.
        """
        return RefreshTokens.read(text)

    async def end_by_refresh_token(self, text: str) -> None:
        """End the session of a refresh token, if the token is its current or previous one."""
        try:
            shown = RefreshTokens.read(text)
        except InvalidRefreshTokenError:
            return
        session = await self._store.get_fresh(shown.key, self._clock())
        if session is not None and sha256_hex(text) in {session.refresh_hash, session.parent_hash}:
            await self._ended.add(session)

    async def end(self, principal: Principal, session_id: str) -> None:
        """End one of the principal's sessions by its id.

        Raises:
            NotFoundError: the principal has no such session.
        """
        subject = subject_hash(principal.tenant_id, principal.subject)
        # Sessions whose id cannot be derived any more are listed under their hash.
        for id_hash in (sha256_hex(session_id), session_id):
            key = SessionKey(principal.tenant_id, subject, id_hash)
            session = await self._store.get_fresh(key, self._clock())
            if session is not None and session.subject == principal.subject:
                await self._ended.add(session)
                return
        raise NotFoundError

    def kept(self, session_id: str | None) -> KeptSession | None:
        """Return the session that the end of all others must keep, as :class:`~projkit.auth.users.Users` takes it."""
        if session_id is None or self._store.is_durable:
            return None
        return KeptSession(
            sha256_hex(session_id), self._clock() + timedelta(seconds=self._settings.session_max_seconds)
        )

    async def end_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        """End all sessions of a subject except the one with the id ``keep``; return their number."""
        return await self._store.revoke_all(
            tenant_id, subject, keep=None if keep is None else sha256_hex(keep)
        )

    async def list(
        self, principal: Principal, *, limit: int, cursor: str | None = None
    ) -> SessionListingPage:
        """Return a page of the principal's live sessions, newest first.

        Raises:
            InvalidCursorError: the cursor was not issued here, or belongs to another list.
        """
        context, after = orjson.dumps([principal.tenant_id, principal.subject]), None
        if cursor is not None:
            created_at, id_hash = self._cursors.decode(cursor, context)
            after = ListPosition(datetime.fromisoformat(created_at), id_hash)
        sessions = await self._store.list(
            principal.tenant_id, principal.subject, self._clock(), limit=limit + 1, after=after
        )
        page, next_cursor = sessions[:limit], None
        if len(sessions) > limit:
            last = page[-1]
            next_cursor = self._cursors.encode([last.created_at.isoformat(), last.id_hash], context)
        items = [SessionListing(self._id_of(session), session) for session in page]
        return SessionListingPage(items, next_cursor)

    def csrf_token(self, session_id: str) -> str:
        """Return a new CSRF token for a session."""
        return self._csrf.issue(session_binding(session_id))

    def _id_of(self, session: Session) -> str:
        # Ids are not stored, but derived from the seed. If the key has been retired, the hash is used in place of the
        # id.
        candidates = (_derive(key, session.seed) for key in self._keys())
        return next((each for each in candidates if sha256_hex(each) == session.id_hash), session.id_hash)

    def _issue(
        self,
        session: Session,
        session_id: str,
        refresh: RefreshToken,
        now: datetime,
        scopes: Sequence[str],
    ) -> IssuedTokens:
        left = int((session.expires_at - now).total_seconds())
        seconds = max(1, min(self._settings.access_token_seconds, left))
        access = self._issuer.issue(
            session.subject,
            scopes,
            seconds=seconds,
            tenant_id=session.tenant_id,
            session_id=session_id,
        )
        idle = int((self._idle_end(session, now) - now).total_seconds())
        return IssuedTokens(
            subject=session.subject,
            session_id=session_id,
            transport="cookie" if session.transport == "cookie" else "body",
            access_token=access,
            expires_in=seconds,
            refresh_token=refresh.encode(),
            refresh_expires_in=max(1, idle),
            csrf_token=self.csrf_token(session_id),
        )

    def _idle_end(self, session: Session, now: datetime) -> datetime:
        return min(session.expires_at, now + timedelta(seconds=self._settings.session_idle_seconds))


def _is_denied(user: User | None, known: User | None, since: datetime | None) -> bool:
    """Return whether the user is disabled, or was revoked since ``known`` was read or the time ``since``."""
    if user is None:
        return known is not None
    if since is not None and user.valid_after is not None and user.valid_after >= since:
        return True
    return user.disabled_at is not None or (known is not None and user.valid_after != known.valid_after)


def _derive(key: bytes, seed: str) -> str:
    return encode(hmac.digest(key, seed.encode(), "sha256"))
