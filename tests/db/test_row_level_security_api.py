"""Behind row-level security the API does what it does without: its own tests, run again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from projkit import ProjKit
from tests.api import test_lists as lists
from tests.api.test_idempotency import (  # noqa: F401  # collected here once more
    test_keys_belong_to_their_owner_and_expire,
    test_refused_bodies_use_no_key,
    test_same_key_and_another_body,
    test_same_key_and_body_replays,
    test_twenty_at_once_make_one_row,
)
from tests.api.test_life import (  # noqa: F401
    test_archived_projects_refuse_edits,
    test_completion_is_dated,
    test_created_project_has_everything,
    test_delete_is_soft_and_restore_takes_it_back,
    test_external_id_is_unique_among_the_undeleted,
    test_patch_merges,
    test_put_replaces_and_takes_back_what_get_gave,
    test_somebody_elses_project_is_absent,
    test_stats_summarize,
)
from tests.api.test_lists import (  # noqa: F401
    test_equal_keys_page_by_id,
    test_pages_under_change,
    test_total_counts_all_that_match,
)
from tests.api.test_preconditions import (  # noqa: F401
    test_of_two_writers_one_wins,
    test_unconditional_writers_all_get_their_turn,
)
from tests.conftest import Client, Clock, OpenClient
from tests.db.conftest import Walled

pytestmark = pytest.mark.anyio


@pytest.fixture
def walled(emptied_walled: Walled) -> Walled:
    """A database behind the wall."""
    return emptied_walled


@pytest.fixture(params=["fast", "transactional", "host's engine"])
def open_client(request: pytest.FixtureRequest, walled: Walled, clock: Clock) -> OpenClient:
    """Starts a kit behind the wall, in each mode."""

    @asynccontextmanager
    async def start(subject: str | None = "alice", **changes: Any) -> AsyncIterator[Client]:
        if request.param == "host's engine":
            settings = walled.settings(**changes)
            engine = create_async_engine(settings.database_url)
            kit = ProjKit(settings, engine=engine, clock=clock)
        else:
            settings = walled.settings(database_mode=request.param, **changes)
            engine, kit = None, ProjKit(settings, clock=clock)
        async with kit.lifespan(), Client(kit, settings, subject) as client:
            yield client
        if engine is not None:
            await engine.dispose()

    return start


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[Client]:
    """Alice's client of one of them."""
    async with open_client() as opened:
        yield opened


@pytest.mark.parametrize("key", ["due_date", "name"])
async def test_orders(client: Client, subtests: pytest.Subtests, key: str) -> None:
    """Pages keep their order, also in the list of two segments."""
    await lists.test_orders(client, subtests, key)


async def test_what_statements_are_about(walled: Walled) -> None:
    """Figures name the table that a statement within the security's own asks."""
    settings = walled.settings()
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings) as client:
        await client.project()
        await client.get("/api/v1/projects")
        found = (await client.get("/api/v1/monitoring/metrics/database")).json()
    kinds = {(each["operation"], each["table"]) for each in found["statements"]}
    assert {("INSERT", "projkit_projects"), ("SELECT", "projkit_projects")} <= kinds
