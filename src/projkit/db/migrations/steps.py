"""The steps of which migrations consist; none blocks reads or writes for more than a second, at any size of a table.

The module of a revision has either a function ``upgrade()`` with Alembic's operations, which runs in one transaction,
or a function ``steps(prefix)`` that returns steps from here. On PostgreSQL, each step is run and recorded by itself
(:mod:`projkit.db.migrate`), so that a migration that was interrupted continues with the step that it had not finished:
running a step a second time must have the same result. SQLite, and a PostgreSQL database that has no tables yet, run
all steps in one transaction.

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


Step = Transaction | CreateIndex | DropIndex


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
