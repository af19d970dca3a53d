"""The API behaves the same with row-level security: a selection of its tests runs again."""

from collections.abc import AsyncIterator

import pytest

from projkit import ProjKit
from tests.api import test_lists as lists
from tests.api.test_idempotency import (  # noqa: F401  # collected here once more
    test_keys_belong_to_their_owner_and_expire,
    test_rejected_bodies_use_no_key,
    test_same_key_and_another_body,
    test_same_key_and_body_replays,
    test_twenty_at_once_make_one_row,
)
from tests.api.test_life import (  # noqa: F401
    test_archived_projects_reject_edits,
    test_completion_time,
    test_creation,
    test_deletion_and_restoration,
    test_external_id_is_unique_among_the_undeleted,
    test_patch_merges,
    test_projects_of_other_owners_are_not_found,
    test_put_replaces_and_accepts_the_document_of_get,
    test_stats,
)
from tests.api.test_lists import (  # noqa: F401
    test_equal_keys_page_by_id,
    test_pages_during_changes,
    test_total_counts_all_matches,
)
from tests.api.test_preconditions import (  # noqa: F401
    test_concurrent_conditional_writes,
    test_concurrent_unconditional_writes,
)
from tests.conftest import Client, Clock, OpenClient
from tests.db.clients import ALL_MODES, clients_in_mode
from tests.db.conftest import RlsDatabase

pytestmark = pytest.mark.anyio


@pytest.fixture
def rls_database(emptied_rls_database: RlsDatabase) -> RlsDatabase:
    """Return a database with row-level security."""
    return emptied_rls_database


@pytest.fixture(params=ALL_MODES)
def open_client(request: pytest.FixtureRequest, rls_database: RlsDatabase, clock: Clock) -> OpenClient:
    """Return a function that starts a kit with row-level security, in each mode."""
    return clients_in_mode(request.param, clock, rls_database.settings)


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[Client]:
    """Yield a client of such a kit, authenticated as alice."""
    async with open_client() as opened:
        yield opened


@pytest.mark.parametrize("key", ["due_date", "name"])
async def test_orders(client: Client, subtests: pytest.Subtests, key: str) -> None:
    """Pages keep their order, also in the list with two segments."""
    await lists.test_orders(client, subtests, key)


async def test_metrics_name_the_table(rls_database: RlsDatabase) -> None:
    """The metrics name the table of the inner statement, not of the one that sets the scope."""
    settings = rls_database.settings()
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings) as client:
        await client.project()
        await client.get("/api/v1/projects")
        metrics = (await client.get("/api/v1/monitoring/metrics/database")).json()
    kinds = {(each["operation"], each["table"]) for each in metrics["statements"]}
    assert {("INSERT", "projkit_projects"), ("SELECT", "projkit_projects")} <= kinds
