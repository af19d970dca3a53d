"""Sessions as those who have them see them: opened, prolonged, listed, ended. The rules, and no HTTP."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from projkit.auth.csrf import CsrfGuard, session_binding
from projkit.auth.refresh import RefreshToken, RefreshTokens
from projkit.auth.sessions.port import Rotation, Session, SessionKey, SessionStore, sha256_hex, subject_hash
from projkit.auth.tokens import TokenIssuer
from projkit.auth.users import User, Users
from projkit.clock import Clock
from projkit.errors import InvalidCredentialsError, InvalidRefreshTokenError, NotFoundError, UnavailableError
from projkit.identity import Principal
from projkit.observers import Observer
from projkit.settings import Settings
from projkit.signing import SigningKeys, encode

Transport = Literal["body", "cookie"]

SESSION_LABEL: Final = "session-id"
GRACE_SECONDS: Final = 10  # within which a retry of the same refresh gets the same answer
_SEED_BYTES: Final = 32
_USER_AGENT_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class Client:
    """What a session remembers of where it began, so that its owner knows it again in a list."""

    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a login or a refresh gives; lifetimes in seconds."""

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


class SessionService:
    """Opens, prolongs and ends sessions."""

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
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._users = users
        self._issuer = issuer
        self._csrf = csrf
        self._refresh = RefreshTokens(refresh_keys)
        self._keys = session_keys
        self._clock = clock
        self._observer = observer

    async def open(
        self,
        subject: str,
        scopes: Sequence[str],
        tenant_id: str,
        transport: Transport,
        client: Client,
        *,
        known: User | None = None,
    ) -> IssuedTokens:
        """A new session with an id, a family of refresh tokens and a CSRF value of its own.

        ``known`` is the user as they were before their password was looked at.

        Raises:
            InvalidCredentialsError: the user has been disabled, or given another password, since then.
            UnavailableError: the store does not answer.
        """
        now = self._clock()
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
            # No database takes U+0000, which some servers let through.
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
        await self._store.create(session)
        # Only now: what ended the user's other sessions while we looked may have missed this one.
        present = await self._users.by_subject(subject, tenant_id)
        if _is_shut_out(present, known):
            await self._store.revoke(session.key)
            raise InvalidCredentialsError
        return self._issue(session, session_id, refresh, now)

    async def refresh(self, text: str) -> IssuedTokens:
        """Exchanges a refresh token for a new one, and a new access token.

        A retry within ten seconds gets the same successor; whoever shows an older token ends the session, since one
        of the two who have it must be a thief.

        Raises:
            InvalidRefreshTokenError: it is no present token of a live session.
            UnavailableError: the store does not answer.
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
        """What becomes of a refresh token, and what it is exchanged for."""
        now = self._clock()
        session = await self._store.get_fresh(shown.key, now)
        if session is None:
            return "refused", None
        if _is_shut_out(await self._users.by_subject(session.subject, session.tenant_id), None):
            await self._store.revoke(shown.key)
            return "refused", None
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
                return "rotated", self._issue(session, shown.session_id, successor, now)
            session = await self._store.get_fresh(shown.key, now)  # somebody was faster
            if session is None:
                return "refused", None
        present = self._retried(shown, text, session, now)
        if present is None:
            await self._store.revoke(shown.key)
            return "reused", None
        return "replayed", self._issue(session, shown.session_id, present, now)

    def _retried(
        self, shown: RefreshToken, text: str, session: Session, now: datetime
    ) -> RefreshToken | None:
        """The session's present token where ``shown`` is the one before it, and was exchanged a moment ago."""
        parent = session.parent_hash
        if parent is None or not hmac.compare_digest(parent, sha256_hex(text)):
            return None
        if now - session.rotated_at > timedelta(seconds=GRACE_SECONDS):
            return None
        return self._refresh.current(shown, session)

    def binding_of_refresh(self, text: str) -> str:
        """What the CSRF values belong to of the session that a refresh token is to prolong.

        Raises:
            InvalidRefreshTokenError: it does not look like one of ours, and counts as refused.
        """
        try:
            return session_binding(RefreshTokens.read(text).session_id)
        except InvalidRefreshTokenError:
            self._observer.record_refresh("refused")
            raise

    def read_refresh_token(self, text: str) -> RefreshToken:
        """What a refresh token says of itself.

        Raises:
            InvalidRefreshTokenError: it does not look like one of ours.
        """
        return RefreshTokens.read(text)

    async def end_by_refresh_token(self, text: str) -> None:
        """Ends the session of a refresh token, if it is its present one or the one before."""
        try:
            shown = RefreshTokens.read(text)
        except InvalidRefreshTokenError:
            return
        session = await self._store.get_fresh(shown.key, self._clock())
        if session is not None and sha256_hex(text) in {session.refresh_hash, session.parent_hash}:
            await self._store.revoke(shown.key)

    async def end(self, principal: Principal, session_id: str) -> None:
        """Ends a session of the principal's, named by its id.

        Raises:
            NotFoundError: the principal has no such session.
        """
        subject = subject_hash(principal.tenant_id, principal.subject)
        for id_hash in (
            sha256_hex(session_id),
            session_id,
        ):  # the hash is the name where the id cannot be derived
            key = SessionKey(principal.tenant_id, subject, id_hash)
            session = await self._store.get_fresh(key, self._clock())
            if session is not None and session.subject == principal.subject:
                await self._store.revoke(key)
                return
        raise NotFoundError

    async def end_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> None:
        """Ends all sessions of a subject, but for the one whose id is ``keep``."""
        await self._store.revoke_all(tenant_id, subject, keep=None if keep is None else sha256_hex(keep))

    async def list(self, principal: Principal) -> list[SessionListing]:
        """The live sessions of the principal, newest first."""
        sessions = await self._store.list(principal.tenant_id, principal.subject, self._clock())
        return [SessionListing(self._id_of(session), session) for session in sessions]

    def csrf_token(self, session_id: str) -> str:
        """A new CSRF value for a session."""
        return self._csrf.issue(session_binding(session_id))

    def _id_of(self, session: Session) -> str:
        # Nothing in clear is stored: the id is derived anew. Where its key has been retired, its hash names it.
        candidates = (_derive(key, session.seed) for key in self._keys())
        return next((each for each in candidates if sha256_hex(each) == session.id_hash), session.id_hash)

    def _issue(self, session: Session, session_id: str, refresh: RefreshToken, now: datetime) -> IssuedTokens:
        left = int((session.expires_at - now).total_seconds())
        seconds = max(1, min(self._settings.access_token_seconds, left))
        access = self._issuer.issue(
            session.subject,
            session.scopes,
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


def _is_shut_out(present: User | None, known: User | None) -> bool:
    """Whether the user is disabled now, or has lost what was good when they were ``known``."""
    if present is None:
        return known is not None
    return present.disabled_at is not None or (known is not None and present.valid_after != known.valid_after)


def _derive(key: bytes, seed: str) -> str:
    return encode(hmac.digest(key, seed.encode(), "sha256"))
