"""Operations on projects, with their rules, independent of HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from projkit.clock import Clock
from projkit.db.port import Database, Queries, Transaction, required_row
from projkit.db.statement import Params, Row, Statement
from projkit.db.tables import Tables
from projkit.errors import (
    DatabaseConstraintError,
    ExternalIdTakenError,
    NotFoundError,
    PreconditionFailedError,
    ProjectArchivedError,
    QueryTooCostlyError,
)
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.listing import MAX_TOTAL, Listing, search_text
from projkit.projects.query import ProjectQuery
from projkit.projects.schemas import PRIORITIES, RANK, STATUSES, ProjectInput
from projkit.projects.scoping import scope_params, scoped_queries
from projkit.projects.statements import ProjectRow, project_statements

# Shorter than the limit of a statement, with which a count would be a failure of the database.
EXACT_COUNT_SECONDS: Final = 2.0

# Returns whether the caller's precondition allows changing this version; None without a precondition.
VersionCheck = Callable[[int], bool] | None
# Returns the new content of a project.
Change = Callable[[ProjectRow], ProjectInput]


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, the cursor of the next page, and the total if it was requested."""

    rows: Sequence[Row]  # each with the columns of ProjectRow
    next_cursor: str | None
    total: int | None = None
    total_is_capped: bool = False  # whether there are more than ``total`` projects


class ProjectService:
    """The projects of one kit on one event loop; each call is restricted to its principal's tenant and subject."""

    def __init__(self, database: Database, tables: Tables, *, cursors: CursorCodec, clock: Clock) -> None:
        self._database = database
        self._tables = tables
        self._statements = project_statements(tables)
        self._cursors = cursors
        self._clock = clock

    async def create(self, principal: Principal, content: ProjectInput) -> ProjectRow:
        """Create a project.

        Raises:
            ExternalIdTakenError: another undeleted project of the caller has this ``external_id``.
        """
        row = await self._write(principal, self._statements.insert, self.new_row(principal, content))
        return ProjectRow(*required_row(row))

    def new_row(
        self, principal: Principal, content: ProjectInput, *, identifier: UUID | None = None
    ) -> dict[str, Any]:
        """Return the parameters of the statement that inserts a new project."""
        now = self._clock()
        return {
            **scope_params(principal),
            **editable_values(content),
            "id": identifier or uuid7(),
            "created_by": principal.subject,
            "completed_at": now if content.status == "completed" else None,
            "created_at": now,
            "updated_at": now,
        }

    async def get(self, principal: Principal, identifier: UUID) -> ProjectRow:
        """Return a project.

        Raises:
            NotFoundError: the caller has no such project.
        """
        row = await scoped_queries(self._database, principal).fetch_one(
            self._statements.get, {**scope_params(principal), "id": identifier}
        )
        if row is None:
            raise NotFoundError
        return ProjectRow(*row)

    async def list(self, principal: Principal, query: ProjectQuery) -> Page:
        """Return a page of the caller's projects.

        Raises:
            InvalidCursorError: the cursor belongs to another list.
            QueryTooCostlyError: an exact count took longer than ``EXACT_COUNT_SECONDS``.
        """
        listing = Listing(principal, query, self._cursors, self._tables)
        database = scoped_queries(self._database, principal)
        rows = await database.fetch_all(listing.page, listing.params)
        next_cursor = None
        if len(rows) > query.limit:
            rows = rows[: query.limit]
            next_cursor = listing.next_cursor(rows[-1])
        if query.total == "false":
            return Page(rows, next_cursor)
        if query.total == "exact":
            return Page(rows, next_cursor, await _exact_count(database, listing))
        (counted,) = required_row(await database.fetch_one(listing.capped_count, listing.params))
        return Page(rows, next_cursor, min(counted, MAX_TOTAL), total_is_capped=counted > MAX_TOTAL)

    async def update(
        self,
        principal: Principal,
        identifier: UUID,
        change: Change,
        expected: VersionCheck = None,
    ) -> ProjectRow:
        """Replace the writable fields by the result of ``change`` for the current row.

        Raises:
            NotFoundError: the caller has no such project.
            PreconditionFailedError: ``expected`` rejects the current version.
            ProjectArchivedError: the project is archived.
            ExternalIdTakenError: another undeleted project of the caller has this ``external_id``.
        """

        def params(row: ProjectRow) -> Params:
            if row.archived_at is not None:
                raise ProjectArchivedError
            content = change(row)
            completed_at = None
            if content.status == "completed":
                completed_at = row.completed_at if row.status == "completed" else self._clock()
            return {**editable_values(content), "completed_at": completed_at}

        return ProjectRow(
            *await self._change(self._statements.update, principal, identifier, params, expected)
        )

    async def delete(self, principal: Principal, identifier: UUID, expected: VersionCheck = None) -> None:
        """Mark the project as deleted; it can be restored until it is purged.

        Raises:
            NotFoundError: the caller has no such undeleted project.
            PreconditionFailedError: ``expected`` rejects the current version.
        """
        await self._change(self._statements.delete, principal, identifier, lambda _: {}, expected)

    async def restore(
        self, principal: Principal, identifier: UUID, expected: VersionCheck = None
    ) -> ProjectRow:
        """Restore a deleted project; one that is not deleted is returned unchanged.

        Raises:
            NotFoundError: the caller has no such project, or it has been purged.
            PreconditionFailedError: ``expected`` rejects the current version.
            ExternalIdTakenError: another project has its ``external_id`` by now.
        """
        key = {**scope_params(principal), "id": identifier}
        row = await scoped_queries(self._database, principal).fetch_one(self._statements.get_deleted, key)
        if row is not None:
            deleted = ProjectRow(*row)
            _check(expected, deleted)
            changed = {**key, "updated_at": self._clock(), "expected_version": deleted.version}
            restored = await self._write(principal, self._statements.restore, changed)
            if restored is not None:
                return ProjectRow(*restored)
        # The project was not deleted, or a concurrent request has restored it.
        current = await self.get(principal, identifier)
        _check(expected, current)
        return current

    async def archive(
        self, principal: Principal, identifier: UUID, expected: VersionCheck = None
    ) -> ProjectRow:
        """Archive the project, which removes it from the default lists and rejects edits; idempotent."""
        return await self._set_archived(principal, identifier, expected, archived=True)

    async def unarchive(
        self, principal: Principal, identifier: UUID, expected: VersionCheck = None
    ) -> ProjectRow:
        """Unarchive the project; idempotent."""
        return await self._set_archived(principal, identifier, expected, archived=False)

    async def stats(self, principal: Principal) -> dict[str, Any]:
        """Return statistics of the caller's undeleted projects, read in one round trip."""
        now = self._clock()
        params = {
            **scope_params(principal),
            "today": now.date(),
            "in_a_week": now.date() + timedelta(days=7),
            "a_month_ago": now - timedelta(days=30),
        }
        row = await scoped_queries(self._database, principal).fetch_one(self._statements.stats, params)
        total, archived, *rest = required_row(row)
        by_status = dict(zip(STATUSES, rest, strict=False))
        by_priority = dict(zip(PRIORITIES, rest[len(STATUSES) :], strict=False))
        overdue, due_soon, created, completed, latest = rest[len(STATUSES) + len(PRIORITIES) :]
        countable = total - by_status["cancelled"]
        return {
            "total": total,
            "active_total": total - archived,
            "archived": archived,
            "by_status": by_status,
            "by_priority": by_priority,
            "overdue": overdue,
            "due_within_7_days": due_soon,
            "created_last_30_days": created,
            "completed_last_30_days": completed,
            "completion_rate": by_status["completed"] / countable if countable else None,
            "updated_at_latest": latest,
        }

    async def _set_archived(
        self, principal: Principal, identifier: UUID, expected: VersionCheck, *, archived: bool
    ) -> ProjectRow:
        def params(row: ProjectRow) -> Params | None:
            return None if (row.archived_at is not None) == archived else {}

        statement = self._statements.archive if archived else self._statements.unarchive
        return ProjectRow(*await self._change(statement, principal, identifier, params, expected))

    async def _change(
        self,
        statement: Statement,
        principal: Principal,
        identifier: UUID,
        params: Callable[[ProjectRow], Params | None],
        expected: VersionCheck,
    ) -> Row:
        """Read a project and write the changes that ``params`` returns, if its version is still the same then.

        After a concurrent write, repeat this with the row locked, so that it ends with the second attempt however many
        requests compete. If ``params`` returns None, there is nothing to change.
        """
        key = {**scope_params(principal), "id": identifier}

        def decide(row: ProjectRow) -> Params | None:
            _check(expected, row)
            changes = params(row)
            if changes is None:
                return None
            return {**key, **changes, "updated_at": self._clock(), "expected_version": row.version}

        row = await self.get(principal, identifier)
        changed = decide(row)
        if changed is None:
            return row
        written = await self._write(principal, statement, changed)
        if written is not None:
            return written

        async def work(transaction: Transaction) -> Row:
            locked = await transaction.fetch_one(self._statements.get_locked(self._database.dialect), key)
            if locked is None:
                raise NotFoundError
            changed = decide(ProjectRow(*locked))
            if changed is None:
                return locked
            return required_row(await transaction.fetch_one(statement, changed))

        try:
            return await scoped_queries(self._database, principal).transact(work)
        except DatabaseConstraintError as error:
            raise self.conflict_error(error) from None

    async def _write(self, principal: Principal, statement: Statement, params: Params) -> Row | None:
        try:
            return await scoped_queries(self._database, principal).write_one(statement, params)
        except DatabaseConstraintError as error:
            raise self.conflict_error(error) from None

    def conflict_error(
        self, error: DatabaseConstraintError
    ) -> ExternalIdTakenError | DatabaseConstraintError:
        """Return the error for a violated constraint, as the API reports it."""
        return ExternalIdTakenError() if error.constraint == self._tables.external_id_constraint else error


async def _exact_count(database: Queries, listing: Listing) -> int:
    try:
        async with asyncio.timeout(EXACT_COUNT_SECONDS):
            (total,) = required_row(await database.fetch_one(listing.exact_count, listing.params))
    except TimeoutError:
        detail = (
            f"Counting took longer than {EXACT_COUNT_SECONDS:g} seconds. "
            f"Narrow the filter, or use total=true, which counts up to {MAX_TOTAL:,}."
        )
        raise QueryTooCostlyError(detail, parameter="total") from None
    return int(total)


def _check(expected: VersionCheck, row: ProjectRow) -> None:
    if expected is not None and not expected(row.version):
        raise PreconditionFailedError


def editable_values(content: ProjectInput) -> dict[str, Any]:
    """Return the writable fields as parameters of statements."""
    return {
        "name": content.name,
        "description": content.description,
        "search_text": search_text(content.name, content.description),
        "status": content.status.value,
        "priority": RANK[content.priority.value],
        "tags": orjson.dumps(content.tags).decode(),
        "start_date": content.start_date,
        "due_date": content.due_date,
        "metadata": orjson.dumps(content.metadata).decode(),
        "external_id": content.external_id,
    }
