"""Users: their credentials and scopes, and the time since when their tokens are valid.

There is a row for each user who has a password here, has logged in through OpenID Connect, or whose tokens were
revoked. Name and password are optional: with users of the host's own, rows only hold the revocation times.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from projkit.auth.sessions.port import KeptSession
from projkit.clock import Clock
from projkit.db.port import Database, Transaction, required_row
from projkit.db.statement import Row, Statement, bind, equals
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, NotFoundError, UsernameTakenError

MAX_USERNAME_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class User:
    """A user, as stored."""

    tenant_id: str
    subject: str
    username: str | None
    password_hash: str | None
    scopes: tuple[str, ...]
    disabled_at: datetime | None
    valid_after: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RevocationStatus:
    """Why a token without a session may be rejected: its user is disabled, or it has been revoked."""

    disabled: bool
    valid_after: datetime | None
    revoked: bool


_IGNORED_CATEGORIES: Final = "MZC"  # marks, separators, and controls (Unicode §4.5)
_FIELDS: Final = tuple(User.__slots__)


def username_key(username: str) -> str:
    """Return the form in which user names are compared: trimmed, NFKC, with case folding (UAX #15)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username.strip()).casefold())


def folded_name(username: str) -> str:
    """Return a form that is equal for names that lenient look-ups of hosts do not distinguish.

    Besides what :func:`username_key` ignores, these are accents and other marks, spaces, and invisible characters, as
    in many collations of databases.
    """
    decomposed = unicodedata.normalize("NFKD", username_key(username))
    return "".join(each for each in decomposed if unicodedata.category(each)[0] not in _IGNORED_CATEGORIES)


class Users:
    """The users of a kit, and the revocation of tokens that have no session."""

    def __init__(self, database: Database, tables: Tables, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._statements = _Statements(tables)

    async def add(
        self,
        username: str | None,
        password_hash: str | None,
        *,
        subject: str,
        scopes: Sequence[str],
        tenant_id: str = "",
    ) -> User:
        """Store a new user.

        Raises:
            UsernameTakenError: another user has this name or subject.
        """
        now = self._clock()
        params = {
            "tenant_id": tenant_id,
            "subject": subject,
            "username": username,
            "username_key": None if username is None else username_key(username),
            "password_hash": password_hash,
            "scopes": " ".join(scopes),
            "valid_after": None,
            "created_at": now,
            "updated_at": now,
        }
        try:
            row = await self._database.write_one(self._statements.insert, params)
        except DatabaseConstraintError:
            raise UsernameTakenError from None
        return _user(required_row(row))

    async def by_name(self, username: str, tenant_id: str = "") -> User | None:
        """Return the user with this name, disabled or not."""
        params = {"tenant_id": tenant_id, "username_key": username_key(username)}
        row = await self._database.fetch_one(self._statements.by_name, params)
        return None if row is None else _user(row)

    async def by_subject(self, subject: str, tenant_id: str = "") -> User | None:
        """Return the user with this subject, disabled or not."""
        params = {"tenant_id": tenant_id, "subject": subject}
        row = await self._database.fetch_one(self._statements.by_subject, params)
        return None if row is None else _user(row)

    async def list(self, tenant_id: str = "") -> list[User]:
        """Return the users that have a name, ordered by it."""
        rows = await self._database.fetch_all(self._statements.list, {"tenant_id": tenant_id})
        return [_user(row) for row in rows]

    async def set_disabled(self, username: str, *, disabled: bool, tenant_id: str = "") -> User:
        """Disable or enable a user; existing tokens are revoked either way.

        A user without a name (from OpenID Connect) is identified by the subject.

        Raises:
            NotFoundError: there is no such user.
        """
        now = self._clock()
        params = {
            "tenant_id": tenant_id,
            "username_key": username_key(username),
            "subject": username,
            "disabled_at": now if disabled else None,
            "valid_after": now,
            "updated_at": now,
        }
        row = await self._database.write_one(self._statements.set_disabled, params)
        if row is None:
            row = await self._database.write_one(self._statements.set_disabled_unnamed, params)
        if row is None:
            raise NotFoundError(f"There is no user {username}")
        return _user(row)

    async def set_password(self, user: User, password_hash: str, *, keep: KeptSession | None = None) -> None:
        """Set a password and revoke the user's existing tokens, except those of the session ``keep``."""
        now = self._clock()
        await self._keep(keep, user.tenant_id, now)
        params = {
            "tenant_id": user.tenant_id,
            "subject": user.subject,
            "password_hash": password_hash,
            "valid_after": now,
            "updated_at": now,
        }
        await self._database.write_one(self._statements.set_password, params)

    async def rehash(self, user: User, password_hash: str) -> None:
        """Store a hash of the same password with the current parameters."""
        params = {
            "tenant_id": user.tenant_id,
            "subject": user.subject,
            "old_hash": user.password_hash,
            "password_hash": password_hash,
            "updated_at": self._clock(),
        }
        await self._database.write_one(self._statements.rehash, params)

    async def end_tokens(self, subject: str, tenant_id: str = "", *, keep: KeptSession | None = None) -> None:
        """Revoke all tokens of a subject that were issued until now, also if the subject has no row yet.

        The session ``keep`` can be refreshed all the same.
        """
        now = self._clock()
        await self._keep(keep, tenant_id, now)
        key = {"tenant_id": tenant_id, "subject": subject}

        async def work(transaction: Transaction) -> None:
            params = {**key, "valid_after": now, "updated_at": now}
            if await transaction.fetch_one(self._statements.end_tokens, params) is None:
                absent = {"username": None, "username_key": None, "password_hash": None, "scopes": ""}
                await transaction.fetch_one(self._statements.insert, {**params, **absent, "created_at": now})

        try:
            await self._database.transact(work)
        except DatabaseConstraintError:  # the row was created at the same time
            await self._database.transact(work)

    async def revocation_status(self, subject: str, tenant_id: str, token_hash: str) -> RevocationStatus:
        """Return the revocation status of a token and its subject, in one round trip."""
        params = {"tenant_id": tenant_id, "subject": subject, "token_hash": token_hash}
        row = await self._database.fetch_one(self._statements.revocation_status, params)
        disabled_at, valid_after, revoked = required_row(row)
        return RevocationStatus(disabled_at is not None, valid_after, bool(revoked))

    async def revoke_token(self, token_hash: str, tenant_id: str, expires_at: datetime) -> None:
        """Revoke one token, or record another one-time value; the record expires with the token."""
        params = {"tenant_id": tenant_id, "value_hash": token_hash, "expires_at": expires_at}
        try:
            await self._database.write_one(self._statements.revoke_token, params)
        except DatabaseConstraintError:
            return  # it is revoked already

    async def _keep(self, keep: KeptSession | None, tenant_id: str, valid_after: datetime) -> None:
        # Before the revocation, which alone gives it a meaning: a refresh in between must not end the session.
        if keep is not None:
            await self.revoke_token(keep.mark(valid_after), tenant_id, keep.expires_at)

    async def by_identity(self, issuer: str, issuer_subject: str, tenant_id: str = "") -> User | None:
        """Return the user that is linked to ``issuer_subject`` at ``issuer``."""
        params = {"tenant_id": tenant_id, "issuer": issuer, "issuer_subject": issuer_subject}
        row = await self._database.fetch_one(self._statements.by_identity, params)
        return None if row is None else _user(row)

    async def add_identity(
        self, issuer: str, issuer_subject: str, *, subject: str, scopes: Sequence[str], tenant_id: str = ""
    ) -> User:
        """Create a user linked to an identity at ``issuer``, or return the one that is linked already."""
        now = self._clock()
        identity = {
            "tenant_id": tenant_id,
            "issuer": issuer,
            "issuer_subject": issuer_subject,
            "subject": subject,
            "created_at": now,
        }
        user = {
            "tenant_id": tenant_id,
            "subject": subject,
            "username": None,
            "username_key": None,
            "password_hash": None,
            "scopes": " ".join(scopes),
            "valid_after": None,
            "created_at": now,
            "updated_at": now,
        }

        async def work(transaction: Transaction) -> User:
            await transaction.fetch_one(self._statements.add_identity, identity)
            row = await transaction.fetch_one(self._statements.insert, user)
            return _user(required_row(row))

        try:
            return await self._database.transact(work)
        except DatabaseConstraintError:
            known = await self.by_identity(issuer, issuer_subject, tenant_id)
            if known is None:
                raise UsernameTakenError from None
            return known


class _Statements:
    def __init__(self, tables: Tables) -> None:
        users, once, identities = tables.users, tables.one_time_values, tables.identities
        fields = [users.c[name] for name in _FIELDS]
        by_name = sa.and_(equals(users.c.tenant_id), equals(users.c.username_key))
        by_subject = sa.and_(equals(users.c.tenant_id), equals(users.c.subject))
        stored = (
            "tenant_id",
            "subject",
            "username",
            "username_key",
            "password_hash",
            "scopes",
            "valid_after",
            "created_at",
            "updated_at",
        )
        self.insert = Statement(
            sa.insert(users).values({name: bind(users.c[name]) for name in stored}).returning(*fields)
        )
        self.by_name = Statement(sa.select(*fields).where(by_name))
        self.by_subject = Statement(sa.select(*fields).where(by_subject))
        self.list = Statement(
            sa.select(*fields)
            .where(equals(users.c.tenant_id), users.c.username.is_not(None))
            .order_by(users.c.username_key)
        )
        self.set_disabled = Statement(
            _update(users, by_name, "disabled_at", "valid_after").returning(*fields)
        )
        unnamed = sa.and_(by_subject, users.c.username.is_(None))
        self.set_disabled_unnamed = Statement(
            _update(users, unnamed, "disabled_at", "valid_after").returning(*fields)
        )
        self.set_password = Statement(_update(users, by_subject, "password_hash", "valid_after"))
        self.rehash = Statement(
            _update(
                users,
                sa.and_(by_subject, equals(users.c.password_hash, "old_hash")),
                "password_hash",
            )
        )
        self.end_tokens = Statement(_update(users, by_subject, "valid_after").returning(users.c.subject))
        of_subject = (
            equals(users.c.tenant_id),
            equals(users.c.subject),
        )
        revoked = sa.select(sa.func.count()).where(
            equals(once.c.tenant_id),
            equals(once.c.value_hash, "token_hash"),
        )
        self.revocation_status = Statement(
            sa.select(
                sa.select(users.c.disabled_at).where(*of_subject).scalar_subquery().label("disabled_at"),
                sa.select(users.c.valid_after).where(*of_subject).scalar_subquery().label("valid_after"),
                revoked.scalar_subquery().label("revoked"),
            )
        )
        self.revoke_token = Statement(
            sa.insert(once).values(
                {name: bind(once.c[name]) for name in ("tenant_id", "value_hash", "expires_at")}
            )
        )
        self.by_identity = Statement(
            sa.select(*fields)
            .join_from(
                users,
                identities,
                sa.and_(users.c.tenant_id == identities.c.tenant_id, users.c.subject == identities.c.subject),
            )
            .where(
                equals(identities.c.tenant_id),
                equals(identities.c.issuer),
                equals(identities.c.issuer_subject),
            )
        )
        self.add_identity = Statement(
            sa.insert(identities).values({column.name: bind(column) for column in identities.c})
        )


def _update(users: sa.Table, where: sa.ColumnElement[bool], *names: str) -> sa.Update:
    return (
        sa.update(users).where(where).values({name: bind(users.c[name]) for name in (*names, "updated_at")})
    )


def _user(row: Row) -> User:
    values = dict(zip(_FIELDS, row, strict=True))
    values["scopes"] = tuple(values["scopes"].split())
    return User(**values)
