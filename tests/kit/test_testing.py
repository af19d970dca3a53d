"""The helpers for the tests of applications."""

from pathlib import Path

import httpx2
import pytest

from projkit import Principal, ProjKit, Settings
from projkit.testing import FakeClock, bearer, open_kit
from projkit.testing.internals import Internals
from tests.conftest import SECRET

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"


async def test_a_kit_for_tests() -> None:
    """A test gets its own kit, tokens for any subject, and a clock that it can advance."""
    clock = FakeClock()
    async with open_kit(clock=clock, require_if_match=True) as kit:
        transport = httpx2.ASGITransport(app=kit)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            made = await client.post(URL, json={"name": "A"}, headers=bearer(kit, "alice"))
            assert made.json()["created_at"].startswith("2026-01-01T00:00:00")
            clock.advance(minutes=5)
            later = await client.post(URL, json={"name": "B"}, headers=bearer(kit, "alice"))
            assert later.json()["created_at"].startswith("2026-01-01T00:05:00")
            reader = bearer(kit, "bob", "projects:read")
            assert (await client.get(URL, headers=reader)).json()["items"] == []
            assert (await client.post(URL, json={"name": "C"}, headers=reader)).status_code == 403
            unconditional = await client.put(
                made.headers["location"], json={"name": "C"}, headers=bearer(kit, "alice")
            )
            assert unconditional.status_code == 428


async def test_two_kits_know_nothing_of_each_other() -> None:
    """Each kit has its own database."""
    async with open_kit() as first, open_kit() as second:
        for kit, expected in ((first, 1), (second, 0)):
            transport = httpx2.ASGITransport(app=kit)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                if expected:
                    await client.post(URL, json={"name": "A"}, headers=bearer(kit, "alice"))
                page = await client.get(URL, headers=bearer(kit, "alice"))
                assert len(page.json()["items"]) == expected


async def test_a_file_in_place_of_any_database(tmp_path: Path) -> None:
    """The SQLite file of tests replaces a PostgreSQL with a schema, policies and Redis, in every part of the kit."""
    settings = Settings(
        secret=SECRET,
        database_url="postgresql://127.0.0.1:1/none",
        database_schema="kit",
        database_mode="transactional",
        row_level_security=True,
        redis_url="redis://127.0.0.1:1/0",
    )
    kit = ProjKit(settings)
    Internals(kit).use_file(tmp_path / "projkit.db")
    async with kit.lifespan():
        project = await kit.projects.create(Principal("alice"), name="A")
        assert (await kit.projects.get(Principal("alice"), project.id)).name == "A"
        transport = httpx2.ASGITransport(app=kit)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            validated = await client.get(
                "/api/v1/monitoring/validate/endpoints", headers=bearer(kit, "alice", "monitoring:read")
            )
            assert validated.status_code == 200, validated.text
