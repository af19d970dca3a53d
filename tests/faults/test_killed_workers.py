"""A worker that is killed during writes loses none that it acknowledged."""

import asyncio
import os
import random
import signal
from typing import Any

import httpx2
import pytest

from tests.faults.conftest import Server, headers, serve

KILLS = 50
WRITERS = 4


class Ledger:
    """The acknowledged writes: each project's last version and name, and the write that was in flight."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.under_way: dict[str, str] = {}
        self.writes = 0


async def write(server: Server, ledger: Ledger, seed: int) -> None:
    """Create and rename projects until the server is gone."""
    async with httpx2.AsyncClient(headers=headers(), timeout=5) as client:
        number = 0
        while True:
            number += 1
            made = await client.post(server.projects, json={"name": f"{seed}/{number}", "tags": ["x", "y"]})
            assert made.status_code == 201, made.text
            project = made.json()
            ledger.acknowledged[project["id"]] = project
            ledger.writes += 1
            ledger.under_way[project["id"]] = f"{project['name']} renamed"
            renamed = await client.patch(
                f"{server.projects}/{project['id']}", json={"name": ledger.under_way[project["id"]]}
            )
            assert renamed.status_code == 200, renamed.text
            ledger.acknowledged[project["id"]] = renamed.json()
            del ledger.under_way[project["id"]]
            ledger.writes += 1


async def until_killed(server: Server, ledger: Ledger, seed: int) -> None:
    """Write from several clients, and kill the server at a random moment."""
    writers = [asyncio.create_task(write(server, ledger, seed * WRITERS + each)) for each in range(WRITERS)]
    before = ledger.writes
    while ledger.writes == before:
        await asyncio.sleep(0.001)
    await asyncio.sleep(random.Random(seed).uniform(0, 0.08))
    os.kill(server.process.pid, signal.SIGKILL)
    for outcome in await asyncio.gather(*writers, return_exceptions=True):
        assert isinstance(outcome, httpx2.TransportError), outcome


async def check(server: Server, ledger: Ledger) -> None:
    """Check that all acknowledged writes are there, and that those in flight are complete or absent."""
    async with httpx2.AsyncClient(headers=headers(), timeout=5) as client:
        projects: dict[str, dict[str, Any]] = {}
        query = "?limit=100"
        while query:
            page = (await client.get(server.projects + query)).json()
            projects.update({each["id"]: each for each in page["items"]})
            query = f"?limit=100&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    for identifier, project in ledger.acknowledged.items():
        there = projects[identifier]
        if there != project:
            assert there["name"] == ledger.under_way[identifier]
            assert there["version"] == project["version"] + 1
    for each in projects.values():
        assert each["tags"] == ["x", "y"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_in_the_middle_of_writes(database: str, request: pytest.FixtureRequest) -> None:
    """After each of 50 kills the next server has all acknowledged writes."""
    url = request.getfixturevalue("sqlite_url" if database == "sqlite" else "postgres_url")
    ledger = Ledger()
    for number in range(KILLS):
        with serve(url) as server:
            asyncio.run(until_killed(server, ledger, number))
    with serve(url) as server:
        asyncio.run(check(server, ledger))
    print(f"{database}: {KILLS} kills, {ledger.writes} acknowledged writes, none lost")  # noqa: T201
    assert ledger.writes >= 2 * KILLS
