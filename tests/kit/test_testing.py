"""The helpers for the tests of applications."""

import httpx2
import pytest

from projkit.testing import FakeClock, bearer, open_kit

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
