"""The API behaves the same with the tables in a schema of their own: a selection of its tests runs again."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from projkit import Settings
from tests.api import test_lists as lists
from tests.api.test_idempotency import (  # noqa: F401  # collected here once more
    test_keys_belong_to_their_owner_and_expire,
    test_same_key_and_body_replays,
)
from tests.api.test_life import (  # noqa: F401
    test_archived_projects_reject_edits,
    test_creation,
    test_deletion_and_restoration,
    test_external_id_is_unique_among_the_undeleted,
    test_patch_merges,
    test_put_replaces_and_accepts_the_document_of_get,
    test_stats,
)
from tests.api.test_lists import test_total_counts_all_matches  # noqa: F401
from tests.conftest import PATIENT, Client, Clock, OpenClient, settings_for
from tests.db.clients import ALL_MODES, clients_in_mode
from tests.db.conftest import OWN_SCHEMA

pytestmark = pytest.mark.anyio


def hosts_engine(url: str) -> AsyncEngine:
    """Create an engine whose host has its tables in other schemas, by a map and by the search path."""
    engine = create_async_engine(
        url,
        execution_options={"schema_translate_map": {None: "elsewhere", OWN_SCHEMA: "elsewhere"}},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def set_search_path(connection: Any, _record: object) -> None:
        connection.cursor().execute("SET search_path TO elsewhere")

    return engine


@pytest.fixture(params=ALL_MODES)
def open_client(request: pytest.FixtureRequest, schema_url: str, clock: Clock) -> OpenClient:
    """Return a function that starts a kit with a schema of its own, in each mode."""

    def settings_with(**changes: Any) -> Settings:
        return settings_for(schema_url, **{**PATIENT, **changes, "database_schema": OWN_SCHEMA})

    return clients_in_mode(request.param, clock, settings_with, hosts_engine)


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[Client]:
    """Yield a client of such a kit, authenticated as alice."""
    async with open_client() as opened:
        yield opened


@pytest.mark.parametrize("key", ["due_date", "name"])
async def test_orders(client: Client, subtests: pytest.Subtests, key: str) -> None:
    """Pages keep their order, also in the list with two segments."""
    await lists.test_orders(client, subtests, key)


async def test_every_endpoint_and_credential(open_client: OpenClient) -> None:
    """Validation finds every endpoint and credential correct, health is complete, and figures name the tables."""
    async with open_client() as client:
        headers = {"Authorization": ""}
        for path in ("endpoints", "authentication"):
            answer = await client.get(f"/api/v1/monitoring/validate/{path}", headers=headers)
            assert answer.status_code == 200, answer.text
        health = (await client.get("/api/v1/health/detailed")).json()
        assert health["checks"]["migrations"]["status"] == "ok"
        metrics = (await client.get("/api/v1/monitoring/metrics/database", headers=headers)).json()
        assert metrics["reachable"] is True
        names = {each["table"] for each in metrics["statements"]}
        assert {"projkit_projects", "projkit_sessions", "projkit_users"} <= names
        assert all(name.startswith("projkit_") for name in names - {""})
