"""Every statement on projects is restricted to its owner."""

from typing import Any

import pytest
import sqlalchemy as sa

from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.projects.listing import Shape, count_statement, page_statement
from projkit.projects.query import SORT_KEYS
from projkit.projects.statements import idempotency_statements, project_statements
from projkit.projects.transfer import _existing_statement
from projkit.validation.cleanup import cleanup_statements

TABLES = build_tables("projkit_")


def statements() -> list[tuple[str, Statement]]:
    """Return all statements that requests run, with names."""
    named: list[tuple[str, Statement]] = []
    for holder in (project_statements(TABLES), idempotency_statements(TABLES), cleanup_statements(TABLES)):
        named += [(name, value) for name, value in vars(holder).items() if isinstance(value, Statement)]
    for key in SORT_KEYS:
        for after in ("", "key", "null"):
            if after != "null" or key == "due_date":
                shape = Shape(sort_key=key, after=after, search=True, tags=1)
                named.append((f"page by {key} after {after!r}", page_statement(TABLES, shape)))
    for capped in (False, True):
        named.append(
            (
                f"count, {capped=}",
                count_statement(
                    TABLES, Shape(statuses=("active", "planning"), archived="any"), capped=capped
                ),
            )
        )
    named.append(("import", _existing_statement(TABLES)))
    return named


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
@pytest.mark.parametrize(("name", "statement"), statements())
def test_each_statement_is_restricted_to_tenant_and_owner(
    name: str, statement: Statement, dialect: str
) -> None:
    """Each SELECT, UPDATE and DELETE compares tenant and owner; each INSERT sets them."""
    if name == "claim" and dialect == "sqlite":
        return  # only for PostgreSQL
    if name == "lock":
        assert "FROM" not in str(statement.clause)
        return
    compiled: Any = statement.for_postgresql() if dialect == "postgresql" else statement.for_sqlite()
    sql: str = compiled.sql
    assert {"tenant_id", "owner_id"} <= set(compiled.names)
    if isinstance(statement.clause, sa.Insert):
        return
    scans = sql.count("FROM projkit_") + sql.count("UPDATE projkit_")
    assert scans >= 1
    for column in ("tenant_id =", "owner_id ="):
        assert sql.count(column) >= scans, sql
