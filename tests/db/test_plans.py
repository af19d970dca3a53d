"""Plans of PostgreSQL: kept for most statements, made anew where the values of the parameters matter."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from projkit.db.connect import open_database
from projkit.db.scoped import ScopedDatabase
from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.listing import Listing
from projkit.projects.query import ProjectQuery
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
TABLES = build_tables("projkit_")
KEPT = Statement(
    sa.text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%projkit_projects%'").columns(
        sa.column("kept", sa.Integer)
    )
)
MANY = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("row_level_security", [False, True])
@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ({}, True),
        ({"status": ("active",), "priority": ("low",), "sort": "due_date"}, True),
        ({"external_id": "x"}, True),
        ({"created_after": MANY, "created_before": MANY}, True),
        ({"q": "word"}, False),
        ({"tag": ("a", "b")}, False),
        ({"created_after": MANY, "sort": "name"}, False),
        ({"due_before": date(2026, 1, 1), "archived": "any"}, False),
    ],
)
async def test_filters_are_planned_for_their_values(
    postgres_url: str, query: dict[str, Any], kept: bool, row_level_security: bool
) -> None:
    """Lists and counts by values that can be rare or common have no kept plan, which would be one for all values."""
    settings = settings_for(postgres_url, database_pool_size=1)
    listing = Listing(Principal("alice"), ProjectQuery(**query), CursorCodec.throwaway(), TABLES)
    database = await open_database(settings, TABLES)
    try:
        queries = database.scoped("", "alice")
        if row_level_security:
            queries = ScopedDatabase(database, "", "alice")
        for _ in range(3):
            assert await queries.fetch_all(listing.page, listing.params) == []
            for count in (listing.capped_count, listing.exact_count):
                assert await queries.fetch_one(count, listing.params) == (0,)
        row = await database.fetch_one(KEPT, {})
    finally:
        await database.close()
    assert row == ((4 if kept else 1),)
