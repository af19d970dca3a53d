"""Users: who may log in, and since when their older tokens are worth nothing.

A row is there for whoever has a password here, came by OpenID Connect, or was told to log in anew. Names and
passwords are absent where there are none: a team with users of its own has rows for the ends of tokens alone.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

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
    """What may speak against a token without a session."""

    disabled: bool
    valid_after: datetime | None
    revoked: bool


_FIELDS: Final = tuple(User.__slots__)


def username_key(username: str) -> str:
    """The form in which user names are compared: two that look alike in case or width are the same (UAX #15)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


class Users:
    """The users of a kit, and what is noted of tokens that have no session."""

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
        """Stores a new user.

        Raises:
            UsernameTakenError: another one has this name or subject.
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
        """The user with this name, disabled or not."""
        params = {"tenant_id": tenant_id, "username_key": username_key(username)}
        row = await self._database.fetch_one(self._statements.by_name, params)
        return None if row is None else _user(row)

    async def by_subject(self, subject: str, tenant_id: str = "") -> User | None:
        """The user whose projects belong to ``subject``, disabled or not."""
        params = {"tenant_id": tenant_id, "subject": subject}
        row = await self._database.fetch_one(self._statements.by_subject, params)
        return None if row is None else _user(row)

    async def list(self, tenant_id: str = "") -> list[User]:
        """All who have a name, by name."""
        rows = await self._database.fetch_all(self._statements.list, {"tenant_id": tenant_id})
        return [_user(row) for row in rows]

    async def set_disabled(self, username: str, *, disabled: bool, tenant_id: str = "") -> User:
        """Shuts a user out, or lets them in again; tokens from before stay worthless either way.

        Who has no name, having come by OpenID Connect, is named by their subject.

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

    async def set_password(self, user: User, password_hash: str) -> None:
        """Sets a password; tokens from before are worth nothing any more."""
        now = self._clock()
        params = {
            "tenant_id": user.tenant_id,
            "subject": user.subject,
            "password_hash": password_hash,
            "valid_after": now,
            "updated_at": now,
        }
        await self._database.write_one(self._statements.set_password, params)

    async def rehash(self, user: User, password_hash: str) -> None:
        """Stores the same password by today's parameters."""
        params = {
            "tenant_id": user.tenant_id,
            "subject": user.subject,
            "old_hash": user.password_hash,
            "password_hash": password_hash,
            "updated_at": self._clock(),
        }
        await self._database.write_one(self._statements.rehash, params)

    async def end_tokens(self, subject: str, tenant_id: str = "") -> None:
        """From now on only tokens issued after this moment are good, for users without a row as well."""
        now = self._clock()
        key = {"tenant_id": tenant_id, "subject": subject}

        async def work(transaction: Transaction) -> None:
            params = {**key, "valid_after": now, "updated_at": now}
            if await transaction.fetch_one(self._statements.end_tokens, params) is None:
                absent = {"username": None, "username_key": None, "password_hash": None, "scopes": ""}
                await transaction.fetch_one(self._statements.insert, {**params, **absent, "created_at": now})

        try:
            await self._database.transact(work)
        except DatabaseConstraintError:  # somebody has made the row meanwhile
            await self._database.transact(work)

    async def revocation_status(self, subject: str, tenant_id: str, token_hash: str) -> RevocationStatus:
        """What is noted of a subject and a token, in one round trip."""
        params = {"tenant_id": tenant_id, "subject": subject, "token_hash": token_hash}
        row = await self._database.fetch_one(self._statements.revocation_status, params)
        disabled_at, valid_after, revoked = required_row(row)
        return RevocationStatus(disabled_at is not None, valid_after, bool(revoked))

    async def revoke_token(self, token_hash: str, tenant_id: str, expires_at: datetime) -> None:
        """Refuses one token from now on, for as long as it would have been good."""
        params = {"tenant_id": tenant_id, "value_hash": token_hash, "expires_at": expires_at}
        try:
            await self._database.write_one(self._statements.revoke_token, params)
        except DatabaseConstraintError:
            return  # it has been done

    async def by_identity(self, issuer: str, issuer_subject: str, tenant_id: str = "") -> User | None:
        """The user who comes from ``issuer`` as ``issuer_subject``."""
        params = {"tenant_id": tenant_id, "issuer": issuer, "issuer_subject": issuer_subject}
        row = await self._database.fetch_one(self._statements.by_identity, params)
        return None if row is None else _user(row)

    async def add_identity(
        self, issuer: str, issuer_subject: str, *, subject: str, scopes: Sequence[str], tenant_id: str = ""
    ) -> User:
        """A new user who comes from ``issuer``, without a name or a password; who was there already is returned."""
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
            "tenant_id", "subject", "username", "username_key", "password_hash", "scopes", "valid_after",
            "created_at", "updated_at",
        )  # fmt: skip
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
