"""Creating a project at most once per ``Idempotency-Key``."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from projkit.clock import Clock
from projkit.db.port import Database, Transaction, required_row
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, IdempotencyKeyInUseError, IdempotencyKeyReusedError
from projkit.http.conditional import etag_of
from projkit.identity import Principal
from projkit.projects.rendering import render_project
from projkit.projects.schemas import ProjectInput
from projkit.projects.scoping import rows_of, scope_params
from projkit.projects.service import ProjectService
from projkit.projects.statements import (
    IDEMPOTENCY_WINDOW,
    ProjectRow,
    idempotency_statements,
    project_statements,
)


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a creation, the first or a replayed one."""

    id: UUID
    etag: str
    body: bytes
    replayed: bool


class IdempotentCreation:
    """Stores the project, its key and its answer in one transaction.

    A second request with the same key while the first is under way is told so at once, not kept waiting: within
    the process by a set, between processes by an advisory lock; on SQLite it waits its turn to write.
    """

    def __init__(self, database: Database, tables: Tables, service: ProjectService, *, clock: Clock) -> None:
        self._database = database
        self._service = service
        self._clock = clock
        self._insert = project_statements(tables).insert
        self._statements = idempotency_statements(tables)
        self._under_way: set[tuple[str, str, str]] = set()

    async def create(self, principal: Principal, key: str, content: ProjectInput, raw: Any) -> Created:
        """Stores a new project, or returns what the first request with this key was answered.

        ``raw`` is the body as it was parsed: the same body is the same JSON value, however it was spaced.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body within 24 hours.
            IdempotencyKeyInUseError: a request with this key is under way.
            ExternalIdTakenError: another undeleted project of the caller has this ``external_id``.
        """
        mark = (principal.tenant_id, principal.subject, key)
        if mark in self._under_way:
            raise IdempotencyKeyInUseError
        self._under_way.add(mark)
        try:
            return await self._create(principal, key, content, _fingerprint(raw))
        finally:
            self._under_way.discard(mark)

    async def _create(
        self, principal: Principal, key: str, content: ProjectInput, fingerprint: str
    ) -> Created:
        named = {**scope_params(principal), "key": key}
        new = self._service.new_row(principal, content)

        async def work(transaction: Transaction) -> Created:
            if self._database.dialect == "postgresql":
                locked = await transaction.fetch_one(self._statements.lock, {"lock": _lock_number(named)})
                if not locked or not locked[0]:
                    raise IdempotencyKeyInUseError
            found = await transaction.fetch_one(self._statements.find, named)
            if found is not None:
                known, project_id, etag, body, created_at = found
                if created_at > self._clock() - IDEMPOTENCY_WINDOW:
                    if known != fingerprint:
                        raise IdempotencyKeyReusedError
                    return Created(project_id, etag, body.encode(), replayed=True)
                await transaction.fetch_one(self._statements.forget, named)
            row = ProjectRow(*required_row(await transaction.fetch_one(self._insert, new)))
            created = Created(row.id, etag_of(row.version), render_project(row), replayed=False)
            await transaction.fetch_one(
                self._statements.remember,
                {
                    **named,
                    "fingerprint": fingerprint,
                    "project_id": created.id,
                    "etag": created.etag,
                    "body": created.body.decode(),
                    "created_at": self._clock(),
                },
            )
            return created

        try:
            return await rows_of(self._database, principal).transact(work)
        except DatabaseConstraintError as error:
            raise self._service.conflict(error) from None


def _fingerprint(raw: Any) -> str:
    return hashlib.sha256(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _lock_number(named: dict[str, Any]) -> int:
    digest = hashlib.sha256(orjson.dumps(["projkit-idempotency", *named.values()])).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
