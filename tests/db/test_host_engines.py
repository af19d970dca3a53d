"""Engines that hosts bring: other drivers, and sessions with settings of the host's own."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.conftest import Client, Clock, kit_in_mode
from tests.services import administer

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"


@pytest.fixture(params=["America/New_York", "Asia/Kolkata"])
async def url_elsewhere(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[str]:
    """Give the database of each test the time zone of a place that is not on UTC."""
    name = urlsplit(postgres_url).path.strip("/")
    await administer(f"ALTER DATABASE \"{name}\" SET timezone = '{request.param}'")
    yield postgres_url
    await administer(f'ALTER DATABASE "{name}" RESET timezone')


@pytest.mark.parametrize("mode", ["fast", "asyncpg", "psycopg"])
async def test_times_are_utc(url_elsewhere: str, mode: str, clock: Clock) -> None:
    """All times are those that were written, in UTC, whatever the time zone of the session."""
    now = "2026-06-15T12:00:00.12345"
    async with (
        kit_in_mode(mode, url_elsewhere, clock=clock) as kit,
        Client(kit, kit.settings) as client,
    ):
        project = await client.project(start_date="2026-01-01", due_date="2026-12-31", status="completed")
        assert (project["start_date"], project["due_date"]) == ("2026-01-01", "2026-12-31")
        for name in ("created_at", "updated_at", "completed_at"):
            assert project[name].startswith(now)
            assert project[name].endswith("Z")
        assert (await client.get(f"{URL}/{project['id']}")).json() == project
        for sort in ("created_at", "-updated_at", "due_date"):
            page = await client.get(URL, params={"sort": sort, "created_after": "2026-06-15T11:59:59Z"})
            assert page.json()["items"] == [project]
        assert (await client.get(URL, params={"created_before": now + "Z"})).json()["items"] == []
        stats = (await client.get(f"{URL}/stats/summary")).json()
        assert stats["updated_at_latest"] == project["updated_at"]
        assert stats["created_last_30_days"] == 1
        archived = (await client.post(f"{URL}/{project['id']}/archive")).json()
        assert archived["archived_at"].startswith(now[:19])
        assert archived["archived_at"].endswith("Z")
