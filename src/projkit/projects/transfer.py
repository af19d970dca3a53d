"""Import of projects, in batches, so that a second run changes nothing.

A row is identified by its ``external_id``. One without is identified by its ``id``, if it has one, otherwise by its
content and the number of preceding rows with the same content: its id is derived from these, so that the second run
finds it.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson
import sqlalchemy as sa
from pydantic import BaseModel

from projkit.clock import Clock
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement, bind
from projkit.db.tables import Tables
from projkit.errors import (
    DatabaseConstraintError,
    InvalidJsonError,
    ProjkitError,
    UnavailableError,
    ValidationFailedError,
)
from projkit.http import strict_json
from projkit.http.body import validate
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.rendering import as_document
from projkit.projects.schemas import READ_ONLY, Instant, ProjectInput
from projkit.projects.scoping import owned, scope_params, scoped_queries
from projkit.projects.service import ProjectService, editable_values
from projkit.projects.statements import ProjectRow, project_statements, resource_columns

BATCH: Final = 500
_MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was rejected, with its line number in the file."""

    line: int
    detail: str


@dataclass(slots=True)
class ImportReport:
    """The outcome of an import: the numbers of projects, and the rejected rows."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    bad: list[BadRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON, for ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Candidate:
    line: int
    content: ProjectInput
    ids: tuple[UUID, ...]
    times: "_Times"


class _Times(BaseModel):
    """The times of an exported project, which a new project keeps."""

    archived_at: Instant | None = None
    completed_at: Instant | None = None
    created_at: Instant | None = None


class Importer:
    """Import of rows for one owner; each batch is one transaction.

    A row without an ``external_id`` is identified by an id derived from it. If that project has been deleted, it is
    restored. With ``stop``, the import ends at the first invalid row, after the rows before it.
    """

    def __init__(
        self, database: Database, tables: Tables, principal: Principal, *, clock: Clock, stop: bool = False
    ) -> None:
        self._database = scoped_queries(database, principal)
        self._statements = project_statements(tables)
        self._get_existing = _existing_statement(tables)
        self._principal = principal
        self._clock = clock
        self._stop = stop
        self._service = ProjectService(database, tables, cursors=CursorCodec.throwaway(), clock=clock)
        self._seen: Counter[bytes] = Counter()
        self.report = ImportReport()

    async def import_batch(self, rows: Sequence[tuple[int, Any]]) -> None:
        """Store up to :data:`BATCH` rows, given with their line numbers."""
        candidates: dict[str | UUID, _Candidate] = {}
        for line, raw in rows:
            try:
                candidate = self._read(line, raw)
            except ProjkitError as error:
                self.report.bad.append(BadRow(line, _explain(error)))
                if self._stop:
                    break
                continue
            # Within a batch the last row with a key wins, as it does between batches.
            candidates[candidate.content.external_id or candidate.ids[-1]] = candidate
        if not candidates:
            return
        for _ in range(_MAX_ATTEMPTS):
            try:
                stored = await self._database.transact(
                    lambda transaction: self._store(transaction, list(candidates.values()))
                )
            except DatabaseConstraintError:  # a concurrent import has stored one of them
                continue
            self.report.created += stored.created
            self.report.updated += stored.updated
            self.report.unchanged += stored.unchanged
            self.report.bad += stored.bad
            return
        raise UnavailableError(
            "A concurrent import stores the same projects; run this one again after it has finished"
        )

    async def _store(self, transaction: Transaction, candidates: list[_Candidate]) -> ImportReport:
        params: dict[str, Any] = scope_params(self._principal)
        params.update({f"external_id_{index}": None for index in range(BATCH)})
        params.update({f"id_{index}": None for index in range(2 * BATCH)})
        for index, candidate in enumerate(candidates):
            params[f"external_id_{index}"] = candidate.content.external_id
            for offset, identifier in enumerate(candidate.ids):
                params[f"id_{2 * index + offset}"] = identifier
        existing_rows = [
            (ProjectRow(*columns), deleted_at)
            for *columns, deleted_at in await transaction.fetch_all(self._get_existing, params)
        ]
        deleted_ids = {row.id for row, deleted_at in existing_rows if deleted_at is not None}
        by_external_id = {
            row.external_id: row
            for row, deleted_at in existing_rows
            if row.external_id is not None and deleted_at is None
        }
        by_id = {UUID(str(row.id)): row for row, _ in existing_rows}
        inserts: list[dict[str, Any]] = []
        updates: list[dict[str, Any]] = []
        restores: list[dict[str, Any]] = []
        stored = ImportReport()
        for candidate in candidates:
            if candidate.content.external_id:
                row = by_external_id.get(candidate.content.external_id)
            else:
                row = next((by_id[each] for each in candidate.ids if each in by_id), None)
            if row is None:
                inserts.append(self._new(candidate))
            elif row.id in deleted_ids:
                restores.append(self._changed(row, candidate.content))
            elif _content_of(row) == candidate.content:
                stored.unchanged += 1
            elif row.archived_at is not None:
                detail = "the project is archived; unarchive it before editing"
                stored.bad.append(BadRow(candidate.line, detail))
            else:
                updates.append(self._changed(row, candidate.content))
        if inserts:
            await transaction.execute_many(self._statements.insert_imported, inserts)
        if updates:
            await transaction.execute_many(self._statements.update_imported, updates)
        if restores:
            await transaction.execute_many(self._statements.restore_imported, restores)
        stored.created = len(inserts) + len(restores)
        stored.updated = len(updates)
        return stored

    def _new(self, candidate: _Candidate) -> dict[str, Any]:
        identifier = None if candidate.content.external_id else candidate.ids[-1]
        row = self._service.new_row(self._principal, candidate.content, identifier=identifier)
        times = candidate.times
        row["archived_at"] = times.archived_at
        row["created_at"] = times.created_at or row["created_at"]
        if row["completed_at"] is not None:
            row["completed_at"] = times.completed_at or row["completed_at"]
        return row

    def _changed(self, row: ProjectRow, content: ProjectInput) -> dict[str, Any]:
        now = self._clock()
        return {
            **scope_params(self._principal),
            **editable_values(content),
            "id": row.id,
            "completed_at": (row.completed_at or now) if content.status == "completed" else None,
            "updated_at": now,
            "expected_version": row.version,
        }

    def _read(self, line: int, raw: Any) -> _Candidate:
        if isinstance(raw, BadRow):
            raise InvalidJsonError(raw.detail)
        document = _from_csv(raw) if isinstance(raw, dict) else _parse(raw)
        if not isinstance(document, dict):
            raise InvalidJsonError("not a JSON object")
        content = validate(
            ProjectInput, {name: value for name, value in document.items() if name not in READ_ONLY}
        )
        times = validate(_Times, {name: document.get(name) for name in _Times.model_fields})
        if content.external_id:
            return _Candidate(line, content, (), times)
        row_id = document.get("id")
        if isinstance(row_id, str):
            try:
                return _Candidate(line, content, (UUID(row_id), self._derived_id(["id", row_id])), times)
            except ValueError:
                raise InvalidJsonError("id is not a UUID") from None
        key = orjson.dumps(content.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        self._seen[key] += 1
        return _Candidate(line, content, (self._derived_id(["row", self._seen[key], key.decode()]),), times)

    def _derived_id(self, parts: list[Any]) -> UUID:
        scope = [self._principal.tenant_id, self._principal.subject]
        digest = bytearray(hashlib.sha256(orjson.dumps([*scope, *parts])).digest()[:16])
        digest[0:6] = bytes(6)  # a UUIDv7 of the year 1970: a derived id has no time
        digest[6] = 0x70 | digest[6] & 0x0F
        digest[8] = 0x80 | digest[8] & 0x3F
        return UUID(bytes=bytes(digest))


@lru_cache(maxsize=32)
def _existing_statement(tables: Tables) -> Statement:
    table = tables.projects
    external_ids = [bind(table.c.external_id, f"external_id_{index}") for index in range(BATCH)]
    ids = [bind(table.c.id, f"id_{index}") for index in range(2 * BATCH)]
    return Statement(
        sa.select(*resource_columns(table), table.c.deleted_at).where(
            owned(table),
            sa.or_(
                sa.and_(table.c.deleted_at.is_(None), table.c.external_id.in_(external_ids)),
                table.c.id.in_(ids),
            ),
        )
    )


def _parse(raw: bytes) -> Any:
    try:
        return strict_json.loads(raw)
    except (strict_json.InvalidJson, strict_json.UnrepresentableValue) as error:
        raise InvalidJsonError(f"invalid JSON: {error}") from None


def _from_csv(row: dict[str, Any]) -> dict[str, Any]:
    document = {name: value for name, value in row.items() if value != ""}
    for name in ("tags", "metadata"):
        if name in document:
            document[name] = _parse(document[name].encode("utf-8", "surrogateescape"))
    if any(any("\udc80" <= character <= "\udcff" for character in str(value)) for value in document.values()):
        raise InvalidJsonError("not UTF-8")
    return document


def _content_of(row: ProjectRow) -> ProjectInput:
    document = as_document(row)
    return ProjectInput.model_validate({name: document[name] for name in ProjectInput.model_fields})


def _explain(error: ProjkitError) -> str:
    if isinstance(error, ValidationFailedError):
        return "; ".join(
            f"{(each.pointer or '').lstrip('/') or 'row'}: {each.detail}" for each in error.errors
        )
    return error.detail
