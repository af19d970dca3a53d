"""The checks of dependencies: database, schema, clock, Redis, disk, event loop."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from projkit.db import revisions
from projkit.db.connect import open_probe
from projkit.health import system
from projkit.health.database import database_checks
from projkit.health.redis import RedisProbe, redis_check
from projkit.health.system import SystemSampler, disk_check, loop_check
from projkit.redis.connect import open_redis
from projkit.testing.internals import Internals
from tests.conftest import settings_for
from tests.faults.proxy import Proxy
from tests.health.conftest import OpenHealth, RunningChecks, run_checks, silent_server
from tests.redis_servers import Redises, alone, running
from tests.services import open_sqlite

pytestmark = pytest.mark.anyio
NAMES = {"sqlite": ["database", "migrations"], "postgresql": ["database", "migrations", "clock"]}


@asynccontextmanager
async def database_running(url: str, engine: Any = None, **changes: Any) -> AsyncIterator[RunningChecks]:
    """Run the checks of a database."""
    probe = open_probe(settings_for(url, **changes), engine, seconds=1.0)
    async with run_checks(database_checks(probe), probe, timeout=5.0 if engine is None else 1.0) as opened:
        yield opened


def driver_url(url: str) -> str:
    """Return the URL with SQLAlchemy's driver."""
    return url.replace("postgresql:", "postgresql+asyncpg:").replace("sqlite:", "sqlite+aiosqlite:")


async def ask(url: str, statement: str) -> Any:
    """Run a statement on a separate connection and return its first value."""
    if url.startswith("sqlite"):
        with open_sqlite(url) as connection:
            connection.execute(statement)
        return None
    opened = await asyncpg.connect(url)
    try:
        return await opened.fetchval(statement)
    finally:
        await opened.close()


@pytest.mark.parametrize("whose", ["ours", "PgBouncer's", "host's"])
async def test_healthy_database(any_database_url: str, whose: str) -> None:
    """All checks of a database pass, however it is accessed."""
    engine = create_async_engine(driver_url(any_database_url)) if whose == "host's" else None
    mode = {"database_mode": "transactional"} if whose == "PgBouncer's" else {}
    async with database_running(any_database_url, engine, **mode) as checks:
        names = NAMES[urlsplit(any_database_url).scheme]
        assert [state.name for state in checks.scheduler.snapshot()] == names
        for name in names:
            await checks.until(name, "ok")
        assert checks.scheduler.status() == "ok"
        latest = checks.state("migrations").latest
        assert latest is not None
        assert latest.data == {"revision": revisions.head()}
    if engine is not None:
        async with engine.connect():  # it was not disposed of
            pass
        await engine.dispose()


async def test_full_pool(any_database_url: str, open_health: OpenHealth) -> None:
    """The database check passes while all connections of the pool are in use."""
    async with open_health(url=any_database_url, database_pool_size=1) as health:
        database = Internals(health.kit).running.database
        held, release = asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            held.set()
            await release.wait()

        holding = asyncio.create_task(database.transact(hold))
        await held.wait()
        probe = open_probe(health.kit.settings, None, seconds=1.0)
        async with run_checks(database_checks(probe), probe) as checks:
            assert (await checks.next_result("database")).status == "ok"
        release.set()
        await holding


async def test_full_pool_of_the_host(postgres_url: str) -> None:
    """With the host's pool, the check uses a connection of the same kind outside the pool."""
    engine = create_async_engine(driver_url(postgres_url), pool_size=1, max_overflow=0)
    async with engine.connect(), database_running(postgres_url, engine) as checks:
        assert (await checks.next_result("database")).status == "ok"
    await engine.dispose()


async def connections(url: str) -> int:
    """Count the open connections of probes."""
    asked = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'projkit-health' "
        "AND datname = current_database()"
    )
    found: int = await ask(url, asked)
    return found


@pytest.mark.parametrize("whose", ["ours", "host's"])
async def test_silent_database(postgres_url: str, whose: str) -> None:
    """A silent database is an error in bounded time, recovers, and leaves no connection behind."""
    parts = urlsplit(postgres_url)
    async with Proxy(parts.port or 5432) as proxy:
        credentials = parts.netloc.rpartition("@")[0]
        url = parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}").geturl()
        engine = create_async_engine(driver_url(url)) if whose == "host's" else None
        probe = open_probe(settings_for(url), engine, seconds=0.3)
        async with run_checks(database_checks(probe)[:1], probe, timeout=0.3) as checks:
            await checks.until("database", "ok")
            proxy.silent = True
            seen = await checks.until("database", "error")
            assert any(each in seen.detail for each in ("timed out", "unavailable", "running since"))
            assert checks.scheduler.status() == "error"
            await asyncio.sleep(1)
            proxy.silent = False
            await checks.until("database", "ok")
            if whose == "ours":
                async with asyncio.timeout(20):  # the server may take a while to end the one before
                    while await connections(postgres_url) != 1:
                        await asyncio.sleep(0.05)
        if engine is not None:
            await engine.dispose()
    async with asyncio.timeout(20):
        while await connections(postgres_url):
            await asyncio.sleep(0.05)


async def test_lost_connection(postgres_url: str) -> None:
    """A lost connection is replaced in the next run."""
    async with database_running(postgres_url) as checks:
        await checks.until("database", "ok")
        await ask(
            postgres_url,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'projkit-health' AND datname = current_database()",
        )
        await checks.next_result("database")
        assert (await checks.until("database", "ok")).status == "ok"


async def test_server_that_never_responds() -> None:
    """A server that accepts and never responds is an error whose detail contains no password."""
    async with silent_server() as port:
        url = f"postgresql://u:hidden@127.0.0.1:{port}/n"
        probe = open_probe(settings_for(url), None, seconds=0.2)
        async with run_checks(database_checks(probe)[:1], probe, timeout=0.2) as checks:
            assert "hidden" not in (await checks.until("database", "error")).detail
            await checks.next_result("database")


async def test_missing_sqlite_file(sqlite_url: str, tmp_path: Path) -> None:
    """A missing SQLite file is an error, is not created, and recovers when it is back."""
    path, away = tmp_path / "projkit.db", tmp_path / "away.db"
    async with database_running(sqlite_url) as checks:
        await checks.until("database", "ok")
        path.rename(away)
        await checks.until("database", "error", "unavailable (OperationalError)")
        assert not path.exists()
        away.rename(path)
        await checks.until("database", "ok")


OTHER_VERSIONS = {
    "DELETE FROM projkit_alembic_version": "no projkit tables",
    "INSERT INTO projkit_alembic_version (version_num) VALUES ('0003')": "at revision 0003",
    "UPDATE projkit_alembic_version SET version_num = '9999'": "A newer version of projkit has migrated it",
    "DROP TABLE projkit_alembic_version": "unavailable",
}


async def test_other_schema_versions(any_database_url: str) -> None:
    """An older, newer or missing schema version is reported with the fix, and does not affect readiness."""
    async with database_running(any_database_url) as checks:
        await checks.until("migrations", "ok")
        for statement, detail in OTHER_VERSIONS.items():
            await ask(any_database_url, statement)
            await checks.until("migrations", "error", detail)
        await checks.until("database", "ok")
        assert checks.scheduler.status() == "degraded"


async def test_clock_skew(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that differs from the database's by more than two seconds is reported."""
    async with database_running(postgres_url) as checks:
        for ahead, detail in ((10, "ahead of"), (-10, "behind")):
            monkeypatch.setattr("projkit.health.database.time", lambda ahead=ahead: time.time() + ahead)
            seen = await checks.until("clock", "error", f"{detail} the database's")
            assert seen.data is not None
            assert abs(seen.data["seconds_apart"] + ahead) < 2


@pytest.fixture
def own_redis() -> Iterator[Redises]:
    """A Redis for a single test."""
    with running(alone) as opened:
        yield opened


@asynccontextmanager
async def redis_running(url: str, *, writes: bool = True) -> AsyncIterator[RunningChecks]:
    """Run the check of a Redis."""
    probe = RedisProbe(open_redis(url), prefix="h:", writes=writes, owned=True)
    async with run_checks([redis_check(probe, critical=writes)], probe) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["redis_alone", "redis_with_sentinels", "redis_in_cluster"])
def test_healthy_redis(request: pytest.FixtureRequest, kind: str) -> None:
    """A single server, Sentinel and Cluster pass, and the written key expires."""
    servers: Redises = request.getfixturevalue(kind)

    async def look() -> None:
        async with redis_running(servers.url) as checks:
            await checks.until("redis", "ok")

    asyncio.run(look())
    (master,) = [each for each in servers.masters if "h:health" in each.everything("h:")]
    assert 0 < master.ask("PTTL", "h:health") <= 60_000


async def test_redis_without_writes(own_redis: Redises) -> None:
    """A full, read-only or stopped Redis fails if it stores sessions; otherwise a full one passes."""
    server = own_redis.masters[0]
    async with (
        redis_running(own_redis.url) as checks,
        redis_running(own_redis.url, writes=False) as counts,
    ):
        await checks.until("redis", "ok")
        server.ask("CONFIG SET", "maxmemory", 1)
        await checks.until("redis", "error", "SET rejected (OutOfMemoryError)")
        assert (await counts.next_result("redis")).status == "ok"
        server.ask("CONFIG SET", "maxmemory", 0)
        await checks.until("redis", "ok")
        server.ask("REPLICAOF", "127.0.0.1", server.port)
        await checks.until("redis", "error", "SET rejected (ReadOnlyError)")
        server.ask("REPLICAOF", "NO", "ONE")
        await checks.until("redis", "ok")
        server.kill()
        for each in (checks, counts):
            await each.until("redis", "error", "unavailable (ConnectionError)")
        await asyncio.to_thread(server.start)
        await checks.until("redis", "ok")


async def test_redis_with_a_password(own_redis: Redises) -> None:
    """Rejected credentials are reported without revealing them."""
    own_redis.masters[0].ask("CONFIG SET", "requirepass", "right")
    async with redis_running(own_redis.url.replace("//", "//:hidden@")) as checks:
        seen = await checks.until("redis", "error", "rejected")
        assert "hidden" not in seen.detail
    async with redis_running(own_redis.url.replace("//", "//:right@")) as checks:
        await checks.until("redis", "ok")


async def test_silent_redis() -> None:
    """A server that accepts and never responds is an error in bounded time."""
    async with silent_server() as port, redis_running(f"redis://127.0.0.1:{port}/0") as checks:
        await checks.until("redis", "error", "timed out")


@pytest.mark.parametrize(
    ("free", "size", "wrong"),
    [
        (1 << 40, 2 << 40, False),
        (2 << 30, 100 << 30, False),
        (100 << 20, 1 << 30, False),
        (100 << 20, 20 << 30, True),
    ],
)
async def test_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, size: int, wrong: bool
) -> None:
    """A disk fails if less than 5 % and less than 1 GiB are free."""
    monkeypatch.setattr(system, "shutil", SimpleNamespace(disk_usage=lambda _: (size, size - free, free)))
    async with run_checks([disk_check(tmp_path)]) as checks:
        seen = await checks.until("disk", "error" if wrong else "ok", "100 MiB" if wrong else "")
        assert seen.data is not None
        assert seen.data["free_bytes"] == free


async def test_missing_directory(tmp_path: Path) -> None:
    """A missing directory is an error."""
    async with run_checks([disk_check(tmp_path / "none")]) as checks:
        await checks.until("disk", "error", os.strerror(2))


async def test_event_loop_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked event loop is reported with its lag."""
    monkeypatch.setattr(system, "_MAX_LAG_SECONDS", 0.2)
    monkeypatch.setattr(system, "HEARTBEAT_SECONDS", 0.05)
    sampler = SystemSampler()
    async with run_checks([loop_check(sampler)]) as checks:
        sampling = asyncio.create_task(sampler.run())
        await asyncio.sleep(0.01)
        time.sleep(0.5)
        seen = await checks.until("event_loop", "error", "lagged by")
        assert seen.data is not None
        assert seen.data["lag_ms"] > 200
        sampling.cancel()
