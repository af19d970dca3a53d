"""Creation of a project at most once per ``Idempotency-Key``."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from projkit.clock import Clock
from projkit.db.expiry import IDEMPOTENCY_WINDOW
from projkit.db.port import Database, Transaction, required_row
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, IdempotencyKeyInUseError, IdempotencyKeyReusedError
from projkit.http.conditional import etag_of
from projkit.identity import Principal
from projkit.projects.rendering import render_project
from projkit.projects.schemas import ProjectInput
from projkit.projects.scoping import scope_params, scoped_queries
from projkit.projects.service import ProjectService
from projkit.projects.statements import (
    ProjectRow,
    idempotency_statements,
    project_statements,
)


@dataclass(frozen=True, slots=True)
class Created:
    """The response to a creation, the first one or a replay of it."""

    id: UUID
    etag: str
    body: bytes
    replayed: bool


class IdempotentCreation:
    """Creation of a project together with its key and its response, in one transaction.

    A second request with the same key during the first is rejected immediately: within the process by a set, between
    processes by an advisory lock. On SQLite it waits for the first one's write instead.
    """

    def __init__(self, database: Database, tables: Tables, service: ProjectService, *, clock: Clock) -> None:
        self._database = database
        self._service = service
        self._clock = clock
        self._insert = project_statements(tables).insert
        self._statements = idempotency_statements(tables)
        # Advisory locks belong to the whole database, which other kits may share.
        self._lock_name = tables.idempotency_keys.fullname
        self._in_progress: set[tuple[str, str, str]] = set()

    async def create(self, principal: Principal, key: str, content: ProjectInput, raw: Any) -> Created:
        """Create a project, or return the response to the first request with this key.

        ``raw`` is the parsed body: two bodies are the same if they are the same JSON value.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body within 24 hours.
            IdempotencyKeyInUseError: another request with this key is in progress.
            ExternalIdTakenError: another undeleted project of the caller has this ``external_id``.
        """
        scoped_key = (principal.tenant_id, principal.subject, key)
        if scoped_key in self._in_progress:
            raise IdempotencyKeyInUseError
        self._in_progress.add(scoped_key)
        try:
            return await self._create(principal, key, content, _fingerprint(raw))
        finally:
            self._in_progress.discard(scoped_key)

    async def _create(
        self, principal: Principal, key: str, content: ProjectInput, fingerprint: str
    ) -> Created:
        key_params = {**scope_params(principal), "key": key}
        new = self._service.new_row(principal, content)

        async def work(transaction: Transaction) -> Created:
            if self._database.dialect == "postgresql":
                locked = await transaction.fetch_one(
                    self._statements.lock, {"lock": _lock_number(self._lock_name, key_params)}
                )
                if not locked or not locked[0]:
                    raise IdempotencyKeyInUseError
            stored = await transaction.fetch_one(self._statements.get, key_params)
            if stored is not None:
                stored_fingerprint, project_id, etag, body, created_at = stored
                if created_at > self._clock() - IDEMPOTENCY_WINDOW:
                    if stored_fingerprint != fingerprint:
                        raise IdempotencyKeyReusedError
                    return Created(project_id, etag, body.encode(), replayed=True)
                await transaction.fetch_one(self._statements.delete, key_params)
            row = ProjectRow(*required_row(await transaction.fetch_one(self._insert, new)))
            created = Created(row.id, etag_of(row.version), render_project(row), replayed=False)
            await transaction.fetch_one(
                self._statements.insert,
                {
                    **key_params,
                    "fingerprint": fingerprint,
                    "project_id": created.id,
                    "etag": created.etag,
                    "body": created.body.decode(),
                    "created_at": self._clock(),
                },
            )
            return created

        try:
            return await scoped_queries(self._database, principal).transact(work)
        except DatabaseConstraintError as error:
            raise self._service.conflict_error(error) from None


def _fingerprint(raw: Any) -> str:
    return hashlib.sha256(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _lock_number(table: str, key_params: dict[str, Any]) -> int:
    digest = hashlib.sha256(orjson.dumps(["projkit-idempotency", table, *key_params.values()])).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
