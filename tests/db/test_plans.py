"""Plans of PostgreSQL: kept for most statements, made anew where the values of the parameters matter."""

from datetime import UTC, date, datetime
from typing import Any

import asyncpg
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
TRIGRAMS = (
    "CREATE INDEX trigrams ON projkit_projects USING gin (search_text gin_trgm_ops) WHERE deleted_at IS NULL"
)
# So that the plan does not depend on statistics.
DROP_OTHERS = """
    ALTER TABLE projkit_projects DROP CONSTRAINT pk_projkit_projects;
    SET LOCAL enable_seqscan = off;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM pg_indexes WHERE tablename = 'projkit_projects' LOOP
            EXECUTE 'DROP INDEX ' || name;
        END LOOP;
    END $$;
"""
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


@pytest.mark.parametrize(
    ("text", "uses"),
    [("word", True), ("Über", True), ("x abc", True), ("ab", False), ("a b c", False), ("___", False)],
)
async def test_an_index_of_trigrams(postgres_url: str, text: str, uses: bool) -> None:
    """An index of trigrams that an administrator has created serves texts that have one, and is not read for others."""
    listing = Listing(Principal("alice"), ProjectQuery(q=text), CursorCodec.throwaway(), TABLES)
    compiled = listing.exact_count.for_postgresql()
    connection = await asyncpg.connect(postgres_url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        available = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm')"
        if not await connection.fetchval(available):
            pytest.skip("this PostgreSQL has been installed without pg_trgm")
        for statement in (DROP_OTHERS, "CREATE EXTENSION IF NOT EXISTS pg_trgm", TRIGRAMS):
            await connection.execute(statement)
        rows = await connection.fetch(f"EXPLAIN {compiled.sql}", *compiled.arguments(listing.params))
    finally:
        await transaction.rollback()
        await connection.close()
    assert ("trigrams" in "\n".join(row[0] for row in rows) and "Index Cond" in str(rows)) is uses
