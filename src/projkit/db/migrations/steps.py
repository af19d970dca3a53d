"""The steps of which migrations consist; none blocks reads or writes for more than a second, at any size of a table.

The module of a revision has either a function ``upgrade()`` with Alembic's operations, which runs in one transaction,
or a function ``steps(prefix)`` that returns steps from here. On PostgreSQL, each step is run and recorded by itself
(:mod:`projkit.db.step_runner`), so that a migration that was interrupted continues with the step that it had not
finished: running a step a second time must have the same result. SQLite, and a PostgreSQL database that has no tables
yet, run all steps in one transaction.

An index::

    def steps(prefix: str) -> list[Step]:
        table = f"{prefix}projects"
        return [
            CreateIndex(
                f"ix_{table}_status",
                table,
                ("tenant_id", "owner_id", "status", "created_at", "id"),
                where="deleted_at IS NULL",
            )
        ]
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from alembic import op

from projkit.db.table_names import TableNames, quote

_NEW: Final = "_new"


@dataclass(frozen=True, slots=True)
class Transaction:
    """Operations of Alembic that run in one transaction, with locks that exist for less than a second.

    ``locks`` names the tables that already exist and that the operations lock: creating or dropping a column, or
    dropping an index. If the operations do not end within the second, they are rolled back and tried again. They change
    no rows, whose number is unlimited.
    """

    title: str
    run: Callable[[], None]
    locks: tuple[str, ...] = ()
    dialect: str = ""  # run it on this one only
    condition: str = ""


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """An index that PostgreSQL builds while the table is read and written (``CREATE INDEX CONCURRENTLY``).

    ``columns`` are SQL: names, expressions in parentheses, operator classes, directions. ``using``, ``include`` and
    ``parameters`` (``fastupdate = off``) exist on PostgreSQL only; set ``dialect`` if SQLite needs no such index.
    ``condition`` is a query of one boolean on PostgreSQL, without which the index is not created: ``SELECT EXISTS
    (SELECT FROM pg_extension WHERE extname = 'pg_trgm')``.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    where: str = ""
    unique: bool = False
    using: str = ""
    include: tuple[str, ...] = ()
    parameters: str = ""
    dialect: str = ""  # create it on this one only
    condition: str = ""

    @property
    def title(self) -> str:
        """What the step does, for people."""
        return f"create the index {self.name}"

    def sql(self, names: TableNames, *, concurrently: bool) -> str:
        """Return the statement that creates the index."""
        parts = [
            "CREATE UNIQUE INDEX" if self.unique else "CREATE INDEX",
            "CONCURRENTLY" if concurrently else "",
            f"{quote(self.name)} ON {names.qualified(self.table)}",
            f"USING {self.using}" if self.using else "",
            f"({', '.join(self.columns)})",
            f"INCLUDE ({', '.join(self.include)})" if self.include else "",
            f"WITH ({self.parameters})" if self.parameters else "",
            f"WHERE {self.where}" if self.where else "",
        ]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class DropIndex:
    """An index that PostgreSQL drops while the table is read and written."""

    name: str
    dialect: str = ""  # drop it on this one only
    condition: str = ""

    @property
    def title(self) -> str:
        """What the step does, for people."""
        return f"drop the index {self.name}"


@dataclass(frozen=True, slots=True)
class ValidateConstraint:
    """A check of the rows that existed before a constraint was added as NOT VALID; reads and writes continue."""

    name: str
    table: str
    dialect: str = "postgresql"
    condition: str = ""

    @property
    def title(self) -> str:
        """What the step does, for people."""
        return f"validate the constraint {self.name}"

    def sql(self, names: TableNames) -> str:
        """Return the statement that checks the rows."""
        return f"ALTER TABLE {names.qualified(self.table)} VALIDATE CONSTRAINT {quote(self.name)}"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A change of all rows ``where`` it is needed, in batches, each in a short transaction of its own.

    ``key`` has the columns of the primary key, by which the rows are read in order; ``changes`` and ``where`` are SQL
    (``name_key = lower(name)``, ``name_key IS NULL``). How far it has come is recorded with each batch.
    """

    table: str
    key: tuple[str, ...]
    changes: str
    where: str
    dialect: str = ""
    condition: str = ""

    @property
    def title(self) -> str:
        """What the step does, for people."""
        return f"change the rows of {self.table}: {self.changes}"

    def sql(self, names: TableNames) -> str:
        """Return the statement that changes all rows at once."""
        return f"UPDATE {names.qualified(self.table)} SET {self.changes} WHERE {self.where}"  # noqa: S608

    def batch_sql(self, names: TableNames, cursor: str | None, limit: int, progress: str) -> str:
        """Return the statement that changes the rows after a cursor, and records the next cursor.

        It returns the number of rows that it has read and the next cursor, a SQL text of literals that PostgreSQL has
        quoted; at the end of the table, nothing. ``progress`` is SQL, the arguments of
        ``json_build_object`` that come before the cursor.
        """
        table, key = names.qualified(self.table), ", ".join(self.key)
        version = names.qualified(names.version_table)
        after = f"WHERE ({key}) > {cursor}" if cursor else ""
        # Names of its own, so that the columns' names in the SQL of the migration are unambiguous.
        aliases = [f"batch_key_{number}" for number in range(len(self.key))]
        selected = ", ".join(f"{column} AS {alias}" for column, alias in zip(self.key, aliases, strict=True))
        same = " AND ".join(f"{column} = {alias}" for column, alias in zip(self.key, aliases, strict=True))
        literals = f"format('({', '.join(['%L'] * len(aliases))})', {', '.join(aliases)})"
        descending = ", ".join(f"{alias} DESC" for alias in aliases)
        return f"""
            WITH batch AS (SELECT {selected} FROM {table} {after} ORDER BY {key} LIMIT {limit}),
            changed AS (UPDATE {table} SET {self.changes} FROM batch WHERE {same} AND ({self.where})),
            last AS (SELECT {literals} AS cursor FROM batch ORDER BY {descending} LIMIT 1)
            UPDATE {version} SET progress = json_build_object({progress}, 'cursor', last.cursor)::text
            FROM last RETURNING (SELECT count(*) FROM batch), last.cursor
        """  # noqa: S608  # names are validated, and the rest is of the migration


Step = Transaction | CreateIndex | DropIndex | ValidateConstraint | Backfill


def replace_index(index: CreateIndex) -> list[Step]:
    """Return the steps that replace the index of this name by one with another definition.

    The new one is built next to the old one, which serves queries until then.
    """
    new = replace(index, name=f"{index.name}{_NEW}")

    def rename() -> None:
        op.drop_index(index.name, table_name=index.table)
        op.execute(f"ALTER INDEX {quote(new.name)} RENAME TO {quote(index.name)}")

    title = f"replace the index {index.name}"
    return [new, Transaction(title, rename, (index.table,), index.dialect, index.condition)]


def add_check(table: str, name: str, expression: str) -> list[Step]:
    """Return the steps that add a CHECK constraint on PostgreSQL: first for new rows, then for those that exist.

    SQLite would have to copy the table. To make a column NOT NULL, add the check ``column IS NOT NULL``.
    """

    def add() -> None:
        op.execute(f"ALTER TABLE {quote(table)} ADD CONSTRAINT {quote(name)} CHECK ({expression}) NOT VALID")

    title = f"add the constraint {name}"
    return [Transaction(title, add, (table,), "postgresql"), ValidateConstraint(name, table)]
