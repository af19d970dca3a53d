"""Connections with the hosts and parameters of a URL, in every place where the kit opens one."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from projkit.db import migrate
from projkit.db.connect import open_database, open_probe
from projkit.db.errors import DRIVER_ERRORS
from projkit.db.postgresql_connector import ConnectionParameterError, NoUsableHostError, PostgresqlConnector
from projkit.db.raw_sql import raw_connection
from projkit.db.tables import tables_of
from projkit.errors import DatabaseUnavailableError
from projkit.testing import servers
from tests.conftest import MODES, settings_for

pytestmark = pytest.mark.anyio


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that accepts connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def with_hosts(url: str, *ports: int, query: str = "") -> str:
    """Return the URL with more hosts before its own one."""
    parts = urlsplit(url)
    others = "".join(f"127.0.0.1:{port}," for port in ports)
    own = f"{parts.hostname}:{parts.port or 5432}"
    credentials = parts.netloc.rpartition("@")[0]
    return f"postgresql://{credentials}@{others}{own}{parts.path}{query}"


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Any]:
    """Open a connection and close it afterwards."""
    connection = await PostgresqlConnector(url, **{"connect_seconds": 5.0, **options})()
    try:
        yield connection
    finally:
        await connection.close()


async def test_all_connections_try_all_hosts(empty_postgres_url: str, silent: int) -> None:
    """Migrations, checks, probes and both modes reach the host that is available, though it is the last."""
    url = with_hosts(empty_postgres_url, servers.free_port(), silent)
    await migrate.upgrade(url)
    for mode in MODES:
        settings = settings_for(url, database_mode=mode)
        async with raw_connection(settings) as raw:
            assert await raw.first_row("SELECT 1") is not None
        database = await open_database(settings, tables_of(settings))
        await asyncio.gather(*(database.ping() for _ in range(4)))
        await database.close()
        probe = open_probe(settings, None, seconds=3.0)
        assert await probe.accepts_writes()  # type: ignore[misc]
        await probe.close()


async def test_latest_host_first(postgres_url: str, silent: int) -> None:
    """A host that does not respond uses up a part of the time, and only once."""
    connect = PostgresqlConnector(with_hosts(postgres_url, silent), connect_seconds=2.0)
    loop, seconds = asyncio.get_running_loop(), []
    for _ in range(2):
        began = loop.time()
        await (await connect()).close()
        seconds.append(loop.time() - began)
    assert seconds[0] >= 1.0
    assert seconds[1] < 0.8


async def test_no_usable_host(silent: int) -> None:
    """If all hosts fail, the error names each with the reason."""
    refused = servers.free_port()
    connect = PostgresqlConnector(
        f"postgresql://u:pa55word@127.0.0.1:{refused},127.0.0.1:{silent}/db", connect_seconds=0.4
    )
    with pytest.raises(NoUsableHostError) as caught:
        await connect()
    assert f"127.0.0.1:{refused} ConnectionRefusedError: " in str(caught.value)
    assert f"127.0.0.1:{silent} TimeoutError" in str(caught.value)
    assert "pa55word" not in str(caught.value)


async def test_rejected_by_the_server(postgres_url: str, silent: int) -> None:
    """What every host would reject, such as a database that does not exist, is not tried on the others."""
    url = with_hosts(postgres_url).rpartition("/")[0] + f",127.0.0.1:{silent}/no_such_database"
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await PostgresqlConnector(url, connect_seconds=3.0)()


async def test_settings_of_the_session(postgres_url: str) -> None:
    """Settings in the URL apply to the session, next to those of the kit."""
    query = "?application_name=web&options=-c%20work_mem%3D8MB&search_path=pg_catalog"
    async with connected(with_hosts(postgres_url, query=query), suffix="-health") as connection:
        for name, value in {
            "application_name": "web-health",
            "work_mem": "8MB",
            "search_path": "pg_catalog",
        }.items():
            assert await connection.fetchval(f"SHOW {name}") == value
    async with connected(postgres_url, server_settings={"jit": "off"}) as connection:
        assert await connection.fetchval("SHOW application_name") == "projkit"
        assert await connection.fetchval("SHOW jit") == "off"


async def test_variables_of_libpq(postgres_url: str) -> None:
    """What the URL leaves out is read from the variables of libpq."""
    parts = urlsplit(postgres_url)
    variables = {
        "PGHOST": parts.hostname,
        "PGPORT": parts.port or 5432,
        "PGUSER": parts.username,
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.lstrip("/"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, str(value))
        async with connected("postgresql://") as connection:
            assert await connection.fetchval("SELECT current_database()") == variables["PGDATABASE"]
        patch.setenv("PGTARGETSESSIONATTRS", "standby")
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            await PostgresqlConnector("postgresql://", connect_seconds=5.0)()


def option_of(connection: Any, level: int, name: int) -> int:
    """Return an option of the connection's socket."""
    opened: socket.socket = connection._transport.get_extra_info("socket")  # noqa: SLF001  # as in the connector
    return opened.getsockopt(level, name)


async def test_keepalives(postgres_url: str) -> None:
    """The system checks idle connections, as with libpq, with the times of the URL."""
    query = "?keepalives_idle=31&keepalives_interval=7&keepalives_count=4&tcp_user_timeout=9000"
    async with connected(with_hosts(postgres_url, query=query)) as connection:
        assert option_of(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in {
            "TCP_KEEPIDLE": 31,
            "TCP_KEEPINTVL": 7,
            "TCP_KEEPCNT": 4,
            "TCP_USER_TIMEOUT": 9000,
        }.items():
            assert option_of(connection, socket.IPPROTO_TCP, getattr(socket, name)) == value
    async with connected(postgres_url) as connection:
        assert option_of(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    async with connected(with_hosts(postgres_url, query="?keepalives=0")) as connection:
        assert option_of(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_missing_file(postgres_url: str, name: str) -> None:
    """A file that cannot be read is named, with its parameter."""
    with pytest.raises(ConnectionParameterError, match=f"{name}=/no/such/file cannot be read"):
        await PostgresqlConnector(
            f"{postgres_url}?sslmode=require&{name}=/no/such/file", connect_seconds=3.0
        )()


async def test_unusable_at_startup(postgres_url: str) -> None:
    """At the start the message names the setting, the database and the reason."""
    settings = settings_for(f"{postgres_url}?sslmode=require&sslrootcert=/no/such/file")
    with pytest.raises(DatabaseUnavailableError) as caught:
        await open_database(settings, tables_of(settings))
    assert str(caught.value).startswith("PROJKIT_DATABASE_URL: ")
    assert "sslrootcert=/no/such/file cannot be read" in str(caught.value)


def test_errors_of_the_driver() -> None:
    """The errors of this module are reported as those of a driver."""
    kinds: list[Callable[[str], Exception]] = [NoUsableHostError, ConnectionParameterError]
    assert all(isinstance(kind("x"), DRIVER_ERRORS) for kind in kinds)
