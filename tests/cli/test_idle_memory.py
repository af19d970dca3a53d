"""The memory and the modules of an idle server."""

import asyncio
import os
import re
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from projkit.cli.demo import DEMO_PASSWORD, DEMO_USER
from tests.cli import running
from tests.cli.running import projkit, redis_server, serving

# Writes at its end what it has imported.
TELLING = (
    "import atexit, os, pathlib, sys\n"
    "atexit.register(lambda: pathlib.Path(os.environ['IMPORTED']).write_text('\\n'.join(sys.modules)))\n"
    "from projkit.cli import main; main()"
)
# Together some 30 MiB, and half a second of each start.
NEVER = {
    "alembic", "authlib", "celery", "google", "httpx2", "kombu", "mako", "opentelemetry.exporter",
    "opentelemetry.sdk.trace", "projkit.cli.transfer", "pygments", "requests", "rich", "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
}  # fmt: skip
HASH_MIB = 19
MANY_LOGINS = {"PROJKIT_LOGIN_LIMIT_ACCOUNT": "1000/minute", "PROJKIT_LOGIN_LIMIT_ADDRESS": "1000/minute"}


def imported_by(monkeypatch: pytest.MonkeyPatch, directory: Path, **variables: str) -> set[str]:
    """Return the modules imported by a server that has served a probe and a list."""
    told = directory / "imported"
    with monkeypatch.context() as patch:
        patch.setattr(running, "PROJKIT", [sys.executable, "-c", TELLING])
        with serving(IMPORTED=str(told), **variables) as (url, token):
            answer = httpx2.get(f"{url}/api/v1/projects", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200
    return set(told.read_text().split())


def test_imports_with_the_embedded_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server with a migrated embedded database imports no migrations, ORM, Redis or HTTP client."""
    monkeypatch.chdir(tmp_path)
    first = imported_by(monkeypatch, tmp_path)
    assert "alembic" in first  # so that what is asked for here can be told from what is never there
    assert not imported_by(monkeypatch, tmp_path) & (NEVER | {"redis"})


def test_imports_with_postgresql_and_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_postgres_url: str
) -> None:
    """A server on PostgreSQL with sessions in Redis imports both drivers, and nothing it can do without."""
    monkeypatch.chdir(tmp_path)
    projkit("migrate", PROJKIT_DATABASE_URL=empty_postgres_url)
    with redis_server(tmp_path) as redis_url:
        found = imported_by(
            monkeypatch, tmp_path, PROJKIT_DATABASE_URL=empty_postgres_url, PROJKIT_REDIS_URL=redis_url
        )
    assert {"asyncpg", "redis"} <= found
    assert not found & NEVER


def private_mib(pid: int) -> float:
    """Return the private memory of a process in MiB."""
    found = re.search(r"Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.anyio
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells what memory is whose")
async def test_logins_leave_no_memory_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seconds after logins, memory has grown by less than one password hash requires."""
    monkeypatch.chdir(tmp_path)
    with serving("--demo", **MANY_LOGINS) as (url, _):
        (server,) = (each for each in psutil.Process().children() if "serve" in each.cmdline())
        before = private_mib(server.pid)
        # Kept for the next login; but where hashes end side by side, glibc may give back all of it by itself.
        async with httpx2.AsyncClient(base_url=url, timeout=30) as client, asyncio.timeout(60):
            body = {"username": DEMO_USER, "password": DEMO_PASSWORD}
            while private_mib(server.pid) - before <= HASH_MIB:
                logins = (client.post("/api/v1/auth/login", json=body) for _ in range(8))
                assert {answer.status_code for answer in await asyncio.gather(*logins)} == {200}
        async with asyncio.timeout(60):
            while private_mib(server.pid) - before > HASH_MIB:
                await asyncio.sleep(0.5)
