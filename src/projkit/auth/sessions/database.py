"""Sessions in the database: the default, which outlives a restart. Every look-up is a fresh one."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from projkit.auth.sessions.port import (
    MAX_EXCESS,
    ListPosition,
    Rotation,
    Session,
    SessionActivity,
    SessionKey,
    sha256_hex,
)
from projkit.db.port import Database, Transaction, required_row
from projkit.db.statement import Row, Statement, bind, equals
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError

_FIELDS: Final = tuple(Session.__slots__)


class DatabaseSessions:
    """A :class:`~projkit.auth.sessions.port.SessionStore` over the database port."""

    is_durable: Final = True

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        sessions, once = tables.sessions, tables.one_time_values
        # Advisory locks belong to the whole database, which other kits may share.
        self._lock_name = sessions.fullname
        fields = [sessions.c[name] for name in _FIELDS]
        this = sa.and_(equals(sessions.c.tenant_id), equals(sessions.c.id_hash))
        live = sa.and_(
            sessions.c.idle_expires_at > bind(sessions.c.expires_at, "now"),
            sessions.c.expires_at > bind(sessions.c.expires_at, "now"),
        )
        of_subject = sa.and_(equals(sessions.c.tenant_id), equals(sessions.c.subject))
        self._insert = Statement(
            sa.insert(sessions).values({name: bind(sessions.c[name]) for name in _FIELDS})
        )
        self._get = Statement(
            sa.select(*(sessions.c[name] for name in SessionActivity._fields)).where(this, live)
        )
        self._get_whole = Statement(sa.select(*fields).where(this, live))
        place = (sessions.c.created_at, sessions.c.id_hash)
        page = (
            sa.select(*fields)
            .where(of_subject, live)
            .order_by(*(column.desc() for column in place))
            .limit(sa.bindparam("rows", type_=sa.Integer()))
        )
        self._list = Statement(page)
        self._list_after = Statement(
            page.where(
                sa.tuple_(*place) < sa.tuple_(*(bind(column, f"after_{column.name}") for column in place))
            )
        )
        self._touch = Statement(
            sa.update(sessions)
            .where(this, live)
            .values(
                used_at=bind(sessions.c.used_at, "now"),
                idle_expires_at=bind(sessions.c.idle_expires_at, "idle"),
            )
        )
        self._rotate = Statement(
            sa.update(sessions)
            .where(this, live, equals(sessions.c.refresh_hash, "expected"))
            .values(
                refresh_hash=bind(sessions.c.refresh_hash, "new_hash"),
                parent_hash=bind(sessions.c.parent_hash, "expected"),
                generation=bind(sessions.c.generation, "new_generation"),
                rotated_at=bind(sessions.c.rotated_at, "now"),
                used_at=bind(sessions.c.used_at, "now"),
                idle_expires_at=bind(sessions.c.idle_expires_at, "idle"),
            )
            .returning(sessions.c.id_hash)
        )
        self._revoke = Statement(sa.delete(sessions).where(this).returning(sessions.c.id_hash))
        others = sa.and_(of_subject, sessions.c.id_hash != bind(sessions.c.id_hash, "keep"))
        revoke_others = sa.delete(sessions).where(others).returning(sessions.c.id_hash)
        self._revoke_others = Statement(revoke_others)
        self._count_revoked = Statement(
            sa.select(sa.func.count()).select_from(revoke_others.cte("revoked"))  # not in SQLite
        )
        self._lock = Statement(
            sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("lock", type_=sa.BigInteger())))
        )
        self._excess = Statement(
            sa.select(*fields)
            .where(of_subject, live, sessions.c.id_hash != bind(sessions.c.id_hash))
            .order_by(*(column.desc() for column in place))
            .offset(sa.bindparam("others", type_=sa.Integer()))
            .limit(sa.literal_column(str(MAX_EXCESS)))
        )
        self._consume = Statement(
            sa.insert(once)
            .values({name: bind(once.c[name]) for name in ("tenant_id", "value_hash", "expires_at")})
            .returning(once.c.value_hash)
        )

    async def create(self, session: Session, *, limit: int = 0) -> Sequence[Session]:
        params = _params(session)

        async def work(transaction: Transaction) -> Sequence[Row]:
            if self._database.dialect == "postgresql":
                # Otherwise two logins at the same time would not see each other's session. SQLite has one writer.
                await transaction.fetch_one(self._lock, {"lock": _lock_number(self._lock_name, session)})
            await transaction.fetch_one(self._insert, params)
            scope = {name: params[name] for name in ("tenant_id", "subject", "id_hash")}
            return await transaction.fetch_all(
                self._excess, {**scope, "now": session.created_at, "others": limit - 1}
            )

        rows: Sequence[Row] = ()
        if limit:
            rows = await self._database.transact(work)
        else:
            await self._database.write_one(self._insert, params)
        return [_session(row) for row in rows]

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        params = {"tenant_id": key.tenant_id, "id_hash": key.id_hash, "now": now}
        row = await self._database.fetch_one(self._get, params)
        return None if row is None else SessionActivity(*row)

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        params = {"tenant_id": key.tenant_id, "id_hash": key.id_hash, "now": now}
        row = await self._database.fetch_one(self._get_whole, params)
        return None if row is None else _session(row)

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        params = {"tenant_id": key.tenant_id, "id_hash": key.id_hash, "now": now, "idle": idle_expires_at}
        await self._database.write_one(self._touch, params)

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        row = await self._database.write_one(
            self._rotate,
            {
                "tenant_id": key.tenant_id,
                "id_hash": key.id_hash,
                "expected": rotation.expected_hash,
                "new_hash": rotation.new_hash,
                "new_generation": rotation.generation,
                "now": rotation.at,
                "idle": rotation.idle_expires_at,
            },
        )
        return row is not None

    async def revoke(self, key: SessionKey) -> bool:
        params = {"tenant_id": key.tenant_id, "id_hash": key.id_hash}
        return await self._database.write_one(self._revoke, params) is not None

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        params = {"tenant_id": tenant_id, "subject": subject, "keep": keep or ""}

        if self._database.dialect == "postgresql":
            # To return 100,000 rows would block the event loop.
            (number,) = required_row(await self._database.write_one(self._count_revoked, params))
            return int(number)
        rows = await self._database.transact(
            lambda transaction: transaction.fetch_all(self._revoke_others, params)
        )
        return len(rows)

    async def list(
        self, tenant_id: str, subject: str, now: datetime, *, limit: int, after: ListPosition | None = None
    ) -> Sequence[Session]:
        params = {"tenant_id": tenant_id, "subject": subject, "now": now, "rows": limit}
        if after is None:
            rows = await self._database.fetch_all(self._list, params)
        else:
            position = {"after_created_at": after.created_at, "after_id_hash": after.id_hash}
            rows = await self._database.fetch_all(self._list_after, {**params, **position})
        return [_session(row) for row in rows]

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        if now >= expires_at:
            return False
        params = {"tenant_id": "", "value_hash": sha256_hex(value), "expires_at": expires_at}
        try:
            return await self._database.write_one(self._consume, params) is not None
        except DatabaseConstraintError:
            return False

    async def ping(self) -> None:
        await self._database.ping()


def _lock_number(table: str, session: Session) -> int:
    digest = hashlib.sha256(f"projkit-sessions {table} {session.key.subject_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _params(session: Session) -> dict[str, Any]:
    params = {name: getattr(session, name) for name in _FIELDS}
    params["scopes"] = " ".join(session.scopes)
    return params


def _session(row: Row) -> Session:
    values = dict(zip(_FIELDS, row, strict=True))
    values["scopes"] = tuple(values["scopes"].split())
    return Session(**values)
