"""Restriction of statements to the rows of one caller, in one place.

Every statement on projects is built with :func:`owned` and gets its parameters from :func:`scope_params`; a test checks
every statement of the package. With row-level security, the database additionally checks the rows of all that runs
through :func:`scoped_queries`, whatever the statement says.
"""

from typing import Any

import sqlalchemy as sa

from projkit.db.port import Database, Queries
from projkit.db.statement import equals
from projkit.identity import Principal


def owned(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition for the caller's rows, including deleted ones."""
    return sa.and_(equals(table.c.tenant_id), equals(table.c.owner_id))


def scope_params(principal: Principal) -> dict[str, Any]:
    """Return the parameters of :func:`owned`."""
    return {"tenant_id": principal.tenant_id, "owner_id": principal.subject}


def scoped_queries(database: Database, principal: Principal) -> Queries:
    """Return the queries of this caller."""
    return database.scoped(principal.tenant_id, principal.subject)
