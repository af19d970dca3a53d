"""The plan of a migration: its steps, what each locks, and about how long it takes; nothing is changed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from projkit.db import revisions, row_security
from projkit.db.migrations.modules import steps_of
from projkit.db.migrations.steps import Backfill, CreateIndex, DropIndex, Step, Transaction
from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection, raw_connection
from projkit.db.step_runner import applies, recorded
from projkit.db.table_names import TableNames

if TYPE_CHECKING:
    from projkit.settings import Settings

NOTHING: Final = "nothing that requests use"
_SHORTLY: Final = "all access to {}, for less than a second"
_CONCURRENTLY: Final = "other migrations of {}; reads and writes continue"
_ROW_BY_ROW: Final = "changes of the same rows of {}, for a tenth of a second"
_RECORD: Final = "record the revision"
_SQLITE: Final = "all writes, until the migration ends"
# Bytes of a table for which an index is built in a second, with two scans of the table and a sort.
_INDEXED_PER_SECOND: Final = 15_000_000
# The same for reading rows, and for changing all of them in batches with pauses.
_READ_PER_SECOND: Final = 100_000_000
_CHANGED_PER_SECOND: Final = 1_000_000
_BYTES: Final = "SELECT pg_table_size(to_regclass('{}'))"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step that has not been run yet. ``seconds`` is an estimate; the step may also have to wait."""

    revision: str
    title: str
    locks: str
    seconds: float


async def plan(settings: "Settings") -> list[PlannedStep]:
    """Return the steps that ``projkit migrate`` would run.

    Raises:
        SchemaOutOfDateError: a newer version of projkit has migrated this database, or another schema has the tables.
        ConfigurationError: the role may not use the schema, or other tables have the names of the kit's.
    """
    if settings.embedded and not settings.sqlite_path.is_file():  # connecting would create the file
        return [each async for each in _of_new_tables(revisions.known(), settings, None)]
    names = TableNames.of(settings)
    async with raw_connection(settings) as connection:
        found = await revisions.current(connection, names)
        if found is not None and found.required > revisions.head():
            revisions.require_supported(found)
        current = "" if found is None else found.revision
        pending = tuple(each for each in revisions.known() if each > current)
        if found is None or connection.dialect == "sqlite":
            return [each async for each in _of_new_tables(pending, settings, connection)]
        return [each async for each in _online(pending, settings, connection, current)]


async def _of_new_tables(
    pending: tuple[str, ...], settings: "Settings", connection: RawConnection | None
) -> AsyncIterator[PlannedStep]:
    """Plan a migration in one transaction, which takes long only on SQLite with many rows."""
    locks = _SQLITE if settings.embedded else NOTHING
    for revision in pending:
        steps = steps_of(revision, settings.table_prefix)
        if connection is None:
            applying = [step for step in steps if step.dialect in ("", "sqlite")]
        else:
            applying = [step for step in steps if await applies(step, connection)]
        for title in [step.title for step in applying] or [_RECORD]:
            yield PlannedStep(revision, title, locks, 0)


async def _online(
    pending: tuple[str, ...], settings: "Settings", connection: RawConnection, current: str
) -> AsyncIterator[PlannedStep]:
    names = TableNames.of(settings)
    for revision in pending:
        done = await recorded(connection, names, revision)
        steps = steps_of(revision, names.prefix)[done.steps :]
        applying = [step for step in steps if await applies(step, connection)]
        for step in applying:
            locks, seconds = await _estimate(step, connection, names)
            yield PlannedStep(revision, step.title, locks, seconds)
        if not applying:
            yield PlannedStep(revision, _RECORD, NOTHING, 0)
    enabled = settings.row_level_security
    if current <= revisions.head() and await row_security.differs(connection, names, enabled=enabled):
        title = f"{'create' if enabled else 'drop'} the policies of row-level security"
        tables = " and ".join(row_security.tables(names))
        yield PlannedStep("", title, _SHORTLY.format(tables), 0)


async def _estimate(step: Step, connection: RawConnection, names: TableNames) -> tuple[str, float]:
    if isinstance(step, Transaction):
        return (_SHORTLY.format(" and ".join(step.locks)) if step.locks else NOTHING), 0
    if isinstance(step, DropIndex):
        return _CONCURRENTLY.format("the table"), 0
    (size,) = required_row(await connection.first_row(_BYTES.format(names.qualified(step.table))))
    if isinstance(step, Backfill):
        return _ROW_BY_ROW.format(step.table), (size or 0) / _CHANGED_PER_SECOND
    rate = _INDEXED_PER_SECOND if isinstance(step, CreateIndex) else _READ_PER_SECOND
    return _CONCURRENTLY.format(step.table), (size or 0) / rate
