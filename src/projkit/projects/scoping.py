"""Whose rows a statement sees: the one place that says so.

Every statement on projects is built with :func:`owned`, and every execution gets its parameters from
:func:`scope_params`; a test holds each statement of the package against that. With row-level security on, the database
holds what is asked through :func:`rows_of` against the principal once more, whatever the statement says.
"""

from typing import Any

import sqlalchemy as sa

from projkit.db.port import Database, Queries
from projkit.db.statement import equals
from projkit.identity import Principal


def owned(table: sa.Table) -> sa.ColumnElement[bool]:
    """The caller's rows, deleted ones included."""
    return sa.and_(equals(table.c.tenant_id), equals(table.c.owner_id))


def scope_params(principal: Principal) -> dict[str, Any]:
    """The parameters that :func:`owned` asks for."""
    return {"tenant_id": principal.tenant_id, "owner_id": principal.subject}


def rows_of(database: Database, principal: Principal) -> Queries:
    """The database as this caller sees it."""
    return database.scoped(principal.tenant_id, principal.subject)
