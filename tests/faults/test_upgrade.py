"""An upgrade from version 0.1.0: both versions serve requests from one database while it is migrated.

Version 0.1.0 is the source at a commit of this repository, with the dependencies of this version: building its wheel
would need a package index. ``PROJKIT_TEST_MIGRATION_ROWS=1000000`` runs the test with more rows than the default.
"""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import asyncpg
import httpx2
import pytest

from projkit.db import migrate, revisions
from tests.conftest import settings_for
from tests.faults.conftest import SERVE, Server, headers, serve
from tests.services import missing

pytestmark = pytest.mark.anyio
VERSION_0_1_0: Final = "5a673e3"
ROWS: Final = int(os.environ.get("PROJKIT_TEST_MIGRATION_ROWS", "100000"))
REQUESTS_PER_SECOND: Final = 200
LONGEST_SECONDS: Final = 1.0
MIGRATE: Final = [*SERVE[: SERVE.index("serve")], "migrate"]
OWNERS: Final = 10
FILL: Final = f"""
    INSERT INTO projkit_projects (owner_id, id, created_by, name, search_text, status, priority, created_at, updated_at)
    SELECT 'owner ' || n % {OWNERS}, gen_random_uuid(), 'test', 'project ' || n, 'project ' || n, 'active', n % 4,
        now() - n * interval '1 second', now() - n * interval '1 second'
    FROM generate_series(1, {ROWS}) n
"""
# The index as it is before revision 0004, whose migration replaces it; both versions run on any definition of it.
BEFORE_0004: Final = (
    "DROP INDEX ix_projkit_projects_created_at",
    (
        "CREATE INDEX ix_projkit_projects_created_at ON projkit_projects (tenant_id, owner_id, created_at, id) "
        "INCLUDE (archived_at) WHERE deleted_at IS NULL"
    ),
    "DELETE FROM projkit_alembic_version",
    "INSERT INTO projkit_alembic_version (version_num) VALUES ('0003')",
)


class Load:
    """Requests at a constant rate, whether or not earlier ones have been answered, to several servers in turn."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self.seconds: list[tuple[float, str]] = []
        self.failures: list[str] = []
        # Well below the five seconds after which a server closes an idle connection, perhaps as a request arrives.
        limits = httpx2.Limits(keepalive_expiry=1)
        self._client = httpx2.AsyncClient(timeout=30, headers=headers("owner 1"), limits=limits)
        self._running = True
        self._project = ""

    async def run(self) -> None:
        """Send requests until it is stopped, then wait for the responses."""
        created = await self._client.post(self.servers[0].projects, json={"name": "first"})
        self._project = created.json()["id"]
        started, tasks = perf_counter(), set()
        for number in itertools.count():
            if not self._running:
                break
            await asyncio.sleep(max(0.0, started + number / REQUESTS_PER_SECOND - perf_counter()))
            task = asyncio.create_task(self._request(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await self._client.aclose()

    def stop(self) -> None:
        """Stop sending requests."""
        self._running = False

    async def _request(self, number: int) -> None:
        url = self.servers[number % len(self.servers)].projects
        method, path, body = (
            ("GET", f"/{self._project}", None),
            ("GET", "?limit=20", None),
            ("GET", f"/{self._project}", None),
            ("POST", "", {"name": f"added {number}"}),
            ("GET", "?sort=-priority&limit=20", None),
            ("PATCH", f"/{self._project}", {"description": f"changed {number}"}),
        )[number // len(self.servers) % 6]
        started = perf_counter()
        try:
            response = await self._client.request(method, f"{url}{path}", json=body)
        except httpx2.TransportError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return
        self.seconds.append((perf_counter() - started, f"{method} {path}"))
        if not response.is_success:
            self.failures.append(f"{method} {path}: {response.status_code} {response.text}")


@pytest.fixture(scope="module")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the packages of version 0.1.0."""
    directory = tmp_path_factory.mktemp("0.1.0")
    archive = subprocess.run(
        ["git", "archive", VERSION_0_1_0, "src"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        missing(f"the history lacks the commit {VERSION_0_1_0} (git fetch --unshallow)")
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory / "src"


async def execute(url: str, *statements: str) -> None:
    """Run statements."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement, timeout=600)
    finally:
        await connection.close()


async def test_both_versions_serve_during_the_migration(empty_postgres_url: str, old_source: Path) -> None:
    """No request fails or takes more than a second, and a server of version 0.1.0 can be started afterwards."""
    await migrate.upgrade(settings_for(empty_postgres_url).database_url, revision="0004")
    await execute(empty_postgres_url, FILL, "ANALYZE projkit_projects")
    serve_old = partial(serve, empty_postgres_url, PYTHONPATH=str(old_source))
    with serve_old() as old_server, serve(empty_postgres_url) as new_server:
        await execute(empty_postgres_url, *BEFORE_0004)
        load = Load([old_server, new_server])
        running = asyncio.create_task(load.run())
        await asyncio.sleep(2)
        started = perf_counter()
        migration = await asyncio.create_subprocess_exec(
            *MIGRATE,
            env={**os.environ, "PROJKIT_DATABASE_URL": empty_postgres_url, "PROJKIT_SECRET": "x" * 40},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await migration.communicate()
        migrated = perf_counter() - started
        assert migration.returncode == 0, said.decode()
        with ExitStack() as stack:
            # In a thread, so that it does not delay the requests.
            restarted = await asyncio.to_thread(stack.enter_context, serve_old())
            load.servers = [restarted, new_server]
            await asyncio.sleep(2)
            load.stop()
            await running
    assert load.failures == []
    longest, request = max(load.seconds)
    sys.stderr.write(
        f"{ROWS} rows: migrated in {migrated:.1f} s; {len(load.seconds)} requests, "
        f"longest {longest * 1000:.0f} ms ({request})\n"
    )
    assert longest < LONGEST_SECONDS
    assert f"revision {revisions.head()}" in said.decode()
