"""Engines that hosts bring: other drivers, and sessions with settings of the host's own."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.adapt import Loader
from psycopg.types.datetime import TimestamptzLoader
from sqlalchemy.dialects.mssql.aioodbc import dialect as aioodbc
from sqlalchemy.dialects.mysql.asyncmy import dialect as asyncmy
from sqlalchemy.dialects.oracle.oracledb import OracleDialectAsync_oracledb
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.pg8000 import dialect as pg8000
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.dialects.postgresql.psycopg2 import dialect as psycopg2
from sqlalchemy.dialects.sqlite.aiosqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite.pysqlite import dialect as pysqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import AssertionPool, NullPool, StaticPool
from sqlalchemy.util import await_only

from projkit import ProjKit, Settings
from projkit.db import migrate
from projkit.db.engine import EngineDatabase
from projkit.db.engine_check import TABLE
from projkit.db.host_engine import connected, resolve_engine
from projkit.db.raw_sql import RawConnection
from projkit.db.server_version import require_server
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError, DatabaseUnavailableError
from tests.conftest import MODES, SECRET, Client, Clock, kit_in_mode, settings_for
from tests.host_engines import host_engine, url_with
from tests.services import default_of_database

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"


def on(dialect: Callable[[], sa.Dialect]) -> sa.Engine:
    """Create an engine on a dialect, whose driver need not be installed."""
    pool = NullPool(lambda: None)  # type: ignore[arg-type]  # is never connected
    return sa.Engine(pool, dialect(), sa.make_url("x://me:hidden@h/n"))


class OtherDriver(PGDialect_asyncpg):
    """A driver of PostgreSQL that the kit does not know."""

    driver = "other"


def asynchronous(dialect: Callable[[], sa.Dialect]) -> AsyncEngine:
    """Create an asynchronous engine on a dialect."""
    return AsyncEngine(on(dialect))


def on_aiosqlite(url: str) -> str:
    """Return the URL of an SQLite database for aiosqlite."""
    return url.replace("sqlite:", "sqlite+aiosqlite:", 1)


async def use_of(engine: Any) -> dict[str, Any]:
    """Use a kit on an engine, and return a project."""
    kit = ProjKit(settings_for("sqlite:///unused.db"), engine=engine)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        body = {"name": "A", "metadata": {"b": 1.5, "a": [1]}, "tags": ["t"], "external_id": "E"}
        project = await client.project(**body, due_date="2026-12-31")
        assert (await client.get(f"{URL}?tag=t")).json()["items"] == [project]
        assert (await client.post(URL, json=body)).status_code == 409
        assert (await client.get("/api/v1/monitoring/metrics/database")).json()["reachable"]
        return project


@pytest.fixture(params=["America/New_York", "Asia/Kolkata"])
async def url_elsewhere(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[str]:
    """Give the database of each test the time zone of a place that is not on UTC."""
    async with default_of_database(postgres_url, "timezone", request.param):
        yield postgres_url


@pytest.mark.parametrize("mode", ["fast", "asyncpg", "psycopg"])
async def test_times_are_utc(url_elsewhere: str, mode: str, clock: Clock) -> None:
    """All times are those that were written, in UTC, whatever the time zone of the session."""
    now = "2026-06-15T12:00:00.12345"
    async with (
        kit_in_mode(mode, url_elsewhere, options={"clock": clock}) as kit,
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


@pytest.mark.parametrize("mode", ["fast", "asyncpg", "psycopg"])
async def test_times_at_the_end_of_summer_time(url_elsewhere: str, mode: str, clock: Clock) -> None:
    """The hour that local time repeats (01:30 in New York, twice) is read as the two hours that it is."""
    async with (
        kit_in_mode(mode, url_elsewhere, options={"clock": clock}) as kit,
        Client(kit, kit.settings) as client,
    ):
        made = []
        for hour in (5, 6):
            clock.now = datetime(2026, 11, 1, hour, 30, tzinfo=UTC)
            made.append(await client.project())
        times = [each["created_at"][:16] for each in made]
        assert times == ["2026-11-01T05:30", "2026-11-01T06:30"]
        page = await client.get(URL, params={"sort": "created_at"})
        assert page.json()["items"] == made
        page = await client.get(URL, params={"created_after": "2026-11-01T06:00:00Z"})
        assert page.json()["items"] == made[1:]


@pytest.mark.parametrize("value", ["0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00", "-infinity"])
@pytest.mark.parametrize("mode", ["fast", "transactional", "asyncpg", "psycopg"])
async def test_times_that_python_does_not_have(postgres_url: str, mode: str, value: str) -> None:
    """A time that only another program can have written fails the requests for its row, and costs no connection."""
    settings: dict[str, Any] = {"database_pool_size": 1} if mode in MODES else {}
    async with kit_in_mode(mode, postgres_url, **settings) as kit, Client(kit, kit.settings) as client:
        good, bad = (await client.project())["id"], (await client.project())["id"]
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"UPDATE projkit_projects SET created_at = '{value}' WHERE id = '{bad}'")
        await connection.close()
        for _ in range(10):
            assert (await client.get(f"{URL}/{bad}")).status_code == 500
            assert (await client.get(f"{URL}/{good}")).status_code == 200


DEFAULT = "default_transaction_isolation"
ANOTHER = "on the same database for the kit: create_async_engine"
ONLY = r"PostgreSQL \(on asyncpg or psycopg\) and SQLite \(on aiosqlite\)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: on(psycopg_dialect), rf"an Engine on postgresql\+psycopg, .*{ANOTHER}\(engine.url\)"),
        (lambda: on(psycopg2), rf'postgresql\+psycopg2, .*{ANOTHER}.*drivername="postgresql\+psycopg".*pip install'),
        (lambda: on(pg8000), r"postgresql\+pg8000"),
        (lambda: on(pysqlite), rf'sqlite\+pysqlite, .*{ANOTHER}.*drivername="sqlite\+aiosqlite"'),
        (lambda: sessionmaker(on(psycopg2)), r"a sessionmaker on postgresql\+psycopg2"),
        (lambda: scoped_session(sessionmaker(on(psycopg2))), r"a sessionmaker on postgresql\+psycopg2"),
        (sessionmaker, "sessionmaker; create one with: create_async_engine"),
        (Session, "a Session, which lasts for one use"),
        (AsyncSession, "a AsyncSession, which lasts for one use"),
        (async_sessionmaker, "None, which an unbound sessionmaker has"),
        (lambda: asynchronous(asyncmy), rf"mysql \(mysql\+asyncmy\), which is not supported.*{ONLY}"),
        (lambda: asynchronous(aioodbc), r"mssql \(mssql\+aioodbc\), which is not supported"),
        (lambda: asynchronous(OracleDialectAsync_oracledb), "oracle .*, which is not supported"),
        (lambda: asynchronous(OtherDriver), rf"driver postgresql\+other .*{ANOTHER}"),
        (lambda: "postgresql://me:hidden@h/n", "not a URL; .*PROJKIT_DATABASE_URL"),
        (lambda: sa.make_url("postgresql://me:hidden@h/n"), "not a URL"),
        (lambda: AsyncEngine, "not AsyncEngine; create one"),
        (lambda: 7, "not int; create one"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_function", [False, True])
def test_other_objects_are_rejected_by_name(
    given: Callable[[], Any], message: str, as_function: bool
) -> None:
    """What is not an engine, or not one of a supported driver, is rejected with the call that creates one."""
    engine = partial(given) if as_function else given()
    with pytest.raises(ConfigurationError, match=message) as caught:
        resolve_engine(engine)
    assert "hidden" not in str(caught.value)


def test_coroutine_functions_are_rejected() -> None:
    """A function that has to be awaited is rejected, and its coroutine is not left unawaited."""

    async def engine() -> AsyncEngine:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="not a coroutine function"):
        resolve_engine(engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dialect", "version", "is_enough"),
    [
        ("postgresql", "10.23 (Debian 10.23-1)", False),
        ("postgresql", "11.0", True),
        ("postgresql", "19beta1", True),
        ("sqlite", "3.34.1", False),
        ("sqlite", "3.35.0", True),
    ],
)
async def test_servers_that_are_too_old(dialect: str, version: str, is_enough: bool) -> None:
    """A server that does not know the SQL of the kit is rejected with the oldest version that does."""

    async def first_row(sql: str) -> tuple[str]:
        return ("UTF8" if sql == "SHOW server_encoding" else version,)

    rejected = pytest.raises(ConfigurationError, match=r"too old: (11|3\.35) is required")
    with nullcontext() if is_enough else rejected:
        await require_server(RawConnection(dialect, first_row))


OPTIONS: dict[str, dict[str, Any]] = {
    "pre-ping": {"pool_pre_ping": True, "pool_recycle": 1},
    "no pool": {"poolclass": NullPool},
    "autocommit": {"isolation_level": "AUTOCOMMIT"},
    "serializable": {"execution_options": {"isolation_level": "SERIALIZABLE"}},
    "schemas": {"execution_options": {"schema_translate_map": {None: "elsewhere"}}},
    "streams": {"execution_options": {"stream_results": True, "yield_per": 1, "no_parameters": True}},
    "streams on asyncpg": {"execution_options": {"stream_results": True, "yield_per": 1, "no_parameters": True}},
    "json": {"json_serializer": str, "json_deserializer": lambda _: object()},
    "echo": {"echo": True, "hide_parameters": False},
    "echo with rows": {"echo": "debug"},
    "style": {"connect_args": {"options": "-c datestyle=SQL,DMY -c bytea_output=escape -c intervalstyle=sql_standard"}},
    "strings": {"connect_args": {"options": "-c standard_conforming_strings=off -c escape_string_warning=off"}},
    "prepared": {"connect_args": {"prepare_threshold": 0}},
    "not prepared": {"connect_args": {"prepare_threshold": None}},
    "client cursors": {"connect_args": {"cursor_factory": psycopg.AsyncClientCursor}},
}  # fmt: skip
DRIVERS = {"style": ["asyncpg"], "streams on asyncpg": ["asyncpg"], "strings": ["psycopg"], "prepared": ["psycopg"],
           "not prepared": ["psycopg"], "client cursors": ["psycopg"]}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*hide_parameters")
@pytest.mark.parametrize("option", OPTIONS)
async def test_options_of_engines(postgres_url: str, option: str, caplog: pytest.LogCaptureFixture) -> None:
    """The kit works the same whatever options the host's engine has, and logs no values through it."""
    options = OPTIONS[option]
    for driver in DRIVERS.get(option, ["psycopg"]):
        if driver == "asyncpg" and "connect_args" in options:
            settings = dict(
                each.split("=") for each in options["connect_args"]["options"].split() if "=" in each
            )
            options = {"connect_args": {"server_settings": settings}}
        async with host_engine(postgres_url, driver, **options) as engine:
            project = await use_of(engine)
            assert project["metadata"] == {"b": 1.5, "a": [1]}
            assert list(project["metadata"]) == ["b", "a"]
    assert "'E'" not in caplog.text


@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
async def test_sessions_whose_times_psycopg_cannot_read(postgres_url: str, style: str) -> None:
    """On psycopg, a DateStyle other than ISO is rejected at startup, with the option that sets it."""
    async with default_of_database(postgres_url, "datestyle", style):
        async with host_engine(postgres_url, "psycopg") as engine:
            with pytest.raises(ConfigurationError, match=rf"DateStyle {style}.*-c datestyle=ISO"):
                await use_of(engine)
        async with host_engine(
            postgres_url, "psycopg", connect_args={"options": "-c datestyle=ISO"}
        ) as engine:
            await use_of(engine)


async def test_sessions_that_cannot_represent_all_text(postgres_url: str) -> None:
    """On psycopg, a client encoding other than UTF-8 is rejected at startup, with the argument that sets it."""
    async with default_of_database(postgres_url, "client_encoding", "LATIN1"):
        async with host_engine(postgres_url, "psycopg") as engine:
            with pytest.raises(ConfigurationError, match=r'LATIN1.*"client_encoding": "utf8"'):
                await use_of(engine)
        utf8 = {"client_encoding": "utf8"}
        async with host_engine(postgres_url, "psycopg", connect_args=utf8) as engine:
            await use_of(engine)


class _Number(TimestamptzLoader):
    def load(self, data: Any) -> Any:
        return super().load(data).timestamp()


class _Failing(TimestamptzLoader):
    def load(self, data: Any) -> Any:
        raise psycopg.DataError("no times today")


@pytest.mark.parametrize("loader", [_Number, _Failing])
async def test_type_codecs_that_change_values(postgres_url: str, loader: type[TimestamptzLoader]) -> None:
    """Loaders of the host that return other values than the kit expects are rejected at startup."""
    async with host_engine(postgres_url, "psycopg") as engine:

        @sa.event.listens_for(engine.sync_engine, "connect")
        def register(connection: Any, _: object) -> None:
            connection.driver_connection.adapters.register_loader("timestamptz", loader)

        with pytest.raises(ConfigurationError, match=r"type codecs, or give the kit an engine of its own"):
            await use_of(engine)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_codecs_for_json(postgres_url: str, driver: str) -> None:
    """JSON is stored and read the same, whatever a host's codecs make of it."""
    async with host_engine(postgres_url, driver, json_serializer=str, json_deserializer=str) as engine:

        @sa.event.listens_for(engine.sync_engine, "connect")
        def register(connection: Any, _: object) -> None:
            for name in ("json", "jsonb"):
                if driver == "asyncpg":
                    codec = {"encoder": json.dumps, "decoder": json.loads, "schema": "pg_catalog"}
                    connection.run_async(partial(asyncpg.Connection.set_type_codec, typename=name, **codec))
                else:
                    connection.driver_connection.adapters.register_loader(name, _Failing)

        project = await use_of(engine)
        assert (project["metadata"], project["tags"]) == ({"b": 1.5, "a": [1]}, ["t"])
    connection = await asyncpg.connect(postgres_url)
    stored = await connection.fetchrow("SELECT metadata, tags FROM projkit_projects")
    await connection.close()
    assert tuple(stored) == ('{"b":1.5,"a":[1]}', '["t"]')


@pytest.mark.parametrize(
    ("options", "begins"),
    [({"isolation_level": "AUTOCOMMIT"}, False), ({"isolation_level": "AUTOCOMMIT"}, True), ({}, False)],
)
async def test_transactions_on_sqlite(sqlite_url: str, options: dict[str, Any], begins: bool) -> None:
    """An engine on SQLite that commits each statement is rejected, unless the host itself begins transactions."""
    engine = create_async_engine(on_aiosqlite(sqlite_url), **options)
    if begins:
        sa.event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    rejected = pytest.raises(ConfigurationError, match="without isolation_level=AUTOCOMMIT")
    with rejected if options and not begins else nullcontext():
        await use_of(engine)
    await engine.dispose()


@pytest.mark.parametrize("env", ["development", "production"])
async def test_no_url_is_required(postgres_url: str, env: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a host's engine nothing else names the database, in production and with row-level security as well."""
    settings = Settings(env=env, secret=SECRET)
    async with host_engine(postgres_url, "psycopg") as engine:
        async with ProjKit(settings, engine=engine).lifespan():
            assert caplog.messages == []
        secured = Settings(env=env, secret=SECRET, row_level_security=True)
        with pytest.raises(ConfigurationError, match="create them with: projkit migrate"):
            await ProjKit(secured, engine=engine).startup()


async def test_two_databases(
    postgres_url: str, empty_postgres_url: str, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine is used, and a warning names both databases if the URL is that of another one."""
    async with host_engine(postgres_url, "psycopg") as engine:
        for same in (
            postgres_url,
            postgres_url.replace("127.0.0.1", "localhost"),
            url_with("psycopg", postgres_url),
        ):
            kit = ProjKit(settings_for(same), engine=engine)
            async with kit.lifespan():
                assert caplog.messages == []
        for other in (empty_postgres_url, sqlite_url):
            caplog.clear()
            kit = ProjKit(settings_for(other), engine=engine)
            async with kit.lifespan(), Client(kit, kit.settings) as client:
                await client.project()
            (message,) = caplog.messages
            shown = sa.make_url(url_with("psycopg", postgres_url)).render_as_string()  # without its password
            assert f"engine, {shown}; PROJKIT_DATABASE_URL is" in message
            assert urlsplit(other).path in message


async def test_an_engine_on_sqlite_and_its_url(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A relative path of an SQLite file is compared with the absolute one."""
    engine = create_async_engine(on_aiosqlite(sqlite_url))
    async with ProjKit(settings_for("sqlite:///projkit.db"), engine=engine).lifespan():
        assert caplog.messages == []
    await engine.dispose()


async def test_schemas_of_host_engines(empty_postgres_url: str) -> None:
    """Without its tables, the error names the host's engine and the command with the URL."""
    async with host_engine(empty_postgres_url, "psycopg") as engine:
        with pytest.raises(
            ConfigurationError, match=r"host's engine has no .*PROJKIT_DATABASE_URL=.* projkit migrate"
        ):
            await use_of(engine)


@pytest.mark.parametrize("mode", ["fast", "asyncpg", "psycopg"])
async def test_search_does_not_depend_on_the_session(postgres_url: str, mode: str) -> None:
    """Wildcards in a search are escaped whatever the session does with backslashes in SQL text."""
    async with (
        default_of_database(postgres_url, "standard_conforming_strings", "off"),
        kit_in_mode(mode, postgres_url) as kit,
        Client(kit, kit.settings) as client,
    ):
        project = await client.project(name="100% a/b c\\d_")
        await client.project(name="1000 a-b c-d")
        for text in ("0%", "a/b", "c\\d", "d_", "100% a/b c\\d_"):
            assert (await client.get(URL, params={"q": text})).json()["items"] == [project], text


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_cancellation_while_the_host_prepares_a_connection(postgres_url: str, driver: str) -> None:
    """A connection that a host's event still prepares when the request is cancelled is returned to its pool."""
    async with host_engine(postgres_url, driver, pool_size=1, max_overflow=0) as engine:
        reached, proceed = asyncio.Event(), asyncio.Event()

        @sa.event.listens_for(engine.sync_engine, "engine_connect")
        def prepare(_: sa.Connection) -> None:
            reached.set()
            await_only(proceed.wait())

        database = EngineDatabase(engine, sa.MetaData(), statement_seconds=5, owned=False)
        request = asyncio.create_task(database.ping())
        await reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert database.connections()["checked_out"] == 1
        proceed.set()
        await database.close()
        assert database.connections() == {"maximum": 1, "open": 1, "checked_out": 0, "overflow": 0}
        await database.ping()


async def patch_at_once(kit: ProjKit) -> list[int]:
    """Change one project from several requests at the same time, and return the status of each response."""
    async with Client(kit, kit.settings) as client:
        url = f"{URL}/{(await client.project())['id']}"
        changes = ({"priority": ("low", "high")[number % 2]} for number in range(12))
        responses = await asyncio.gather(*(client.patch(url, json=each) for each in changes))
        return [each.status_code for each in responses]


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
@pytest.mark.parametrize("mode", [*MODES, "asyncpg", "psycopg"])
async def test_isolation_levels_of_databases(postgres_url: str, mode: str, level: str) -> None:
    """Concurrent changes of one project succeed whatever isolation level is the default of the database."""
    async with (
        default_of_database(postgres_url, DEFAULT, level),
        kit_in_mode(mode, postgres_url) as kit,
    ):
        assert await patch_at_once(kit) == [200] * 12


async def test_concurrent_migrations_in_serializable_databases(empty_postgres_url: str) -> None:
    """A migration that has waited for another one sees the tables that it created."""
    async with default_of_database(empty_postgres_url, DEFAULT, "serializable"):
        revisions = await asyncio.gather(*(migrate.upgrade(empty_postgres_url) for _ in range(3)))
        assert len(set(revisions)) == 1


def on_connect(engine: AsyncEngine, register: Callable[[Any], object]) -> None:
    """Call ``register`` with each connection that the engine's pool opens."""
    sa.event.listen(engine.sync_engine, "connect", lambda connection, _: register(connection))


async def level_of(engine: AsyncEngine) -> str:
    """Return the isolation level of a transaction of the host."""
    async with engine.begin() as connection:
        return str((await connection.exec_driver_sql("SHOW transaction_isolation")).scalar_one())


# SQLAlchemy 2.0 begins each transaction on asyncpg at READ COMMITTED, unless it is given another level itself.
SQLALCHEMY_SETS_LEVEL = sa.__version__.startswith("2.0.")
SERIALIZABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "arguments of asyncpg": ("asyncpg", {"connect_args": {"server_settings": {DEFAULT: "serializable"}}}),
    "arguments of psycopg": ("psycopg", {"connect_args": {"options": f"-c {DEFAULT}=serializable"}}),
    "options on asyncpg": ("asyncpg", {"execution_options": {"isolation_level": "SERIALIZABLE"}}),
    "options on psycopg": ("psycopg", {"execution_options": {"isolation_level": "SERIALIZABLE"}}),
    "level on asyncpg": ("asyncpg", {"isolation_level": "SERIALIZABLE"}),
    "level on psycopg": ("psycopg", {"isolation_level": "SERIALIZABLE"}),
}  # fmt: skip


@pytest.mark.parametrize("option", SERIALIZABLE)
async def test_isolation_levels_of_engines(postgres_url: str, option: str) -> None:
    """The kit's transactions are READ COMMITTED, and the host's keep their level on the same connection."""
    driver, options = SERIALIZABLE[option]
    async with host_engine(postgres_url, driver, pool_size=1, max_overflow=9, **options) as engine:
        before = await level_of(engine)
        assert before == "serializable" or SQLALCHEMY_SETS_LEVEL
        kit = ProjKit(settings_for("sqlite:///unused.db"), engine=engine)
        async with kit.lifespan():
            assert await patch_at_once(kit) == [200] * 12
            assert await level_of(engine) == before


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("event", ["connect", "begin"])
async def test_isolation_levels_of_events(postgres_url: str, driver: str, event: str) -> None:
    """A level that an event sets, and that the kit could not set back, is rejected with the option that replaces it."""
    async with host_engine(postgres_url, driver) as engine:
        if event == "connect":

            def register(connection: Any) -> None:
                cursor = connection.cursor()
                cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                connection.commit()

            on_connect(engine, register)
        else:
            sql = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
            sa.event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(sql))
        if (driver, event) == ("asyncpg", "connect") and SQLALCHEMY_SETS_LEVEL:
            assert await level_of(engine) == "read committed"
            await use_of(engine)
            return
        with pytest.raises(
            ConfigurationError, match=r'event .* SERIALIZABLE.*isolation_level="SERIALIZABLE"'
        ):
            await use_of(engine)
        assert await level_of(engine) == "serializable"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("as_option", [False, True])
async def test_transactions_on_engines_without(postgres_url: str, driver: str, as_option: bool) -> None:
    """With AUTOCOMMIT, the kit has transactions and the host has none."""
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    if as_option:
        options = {"execution_options": options}
    async with host_engine(postgres_url, driver, **options) as engine:
        kit = ProjKit(settings_for("sqlite:///unused.db"), engine=engine)
        async with kit.lifespan():
            assert await patch_at_once(kit) == [200] * 12
        async with engine.connect() as connection:
            await connection.exec_driver_sql("DELETE FROM projkit_projects")
            await connection.rollback()
            count = await connection.exec_driver_sql("SELECT count(*) FROM projkit_projects")
            assert count.scalar_one() == 0


async def test_connections_without_transactions(postgres_url: str) -> None:
    """Autocommit that SQLAlchemy does not know of is rejected with the option by which it does."""
    async with host_engine(postgres_url, "psycopg", connect_args={"autocommit": True}) as engine:
        with pytest.raises(ConfigurationError, match='by isolation_level="AUTOCOMMIT"'):
            await use_of(engine)


@pytest.mark.parametrize("pool", [StaticPool, AssertionPool])
async def test_pools_of_one_connection(postgres_url: str, sqlite_url: str, pool: type[sa.Pool]) -> None:
    """A pool whose one connection concurrent transactions would share is rejected by name."""
    for url in (
        url_with("psycopg", postgres_url),
        url_with("asyncpg", postgres_url),
        on_aiosqlite(sqlite_url),
    ):
        engine = create_async_engine(url, poolclass=pool)
        with pytest.raises(ConfigurationError, match=f"has a {pool.__name__}.* without poolclass"):
            resolve_engine(engine)


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
def test_in_memory_databases(url: str) -> None:
    """An in-memory database, which has one connection, is rejected with the URL of a file."""
    with pytest.raises(ConfigurationError, match=r"in-memory .*; use a file: create_async_engine"):
        resolve_engine(create_async_engine(url))


@pytest.mark.parametrize("query", ["?cache=shared&uri=true", "?mode=rwc&cache=shared&uri=true"])
def test_shared_caches(sqlite_url: str, query: str) -> None:
    """SQLite's shared cache, in which statements do not wait for locks, is rejected."""
    url = on_aiosqlite(sqlite_url).replace("sqlite+aiosqlite:///", "sqlite+aiosqlite:///file:") + query
    with pytest.raises(ConfigurationError, match="cache=shared"):
        resolve_engine(create_async_engine(url))


TYPES = [
    "bool", "bpchar", "bytea", "date", "float4", "float8", "int2", "int4", "int8", "interval", "json", "jsonb",
    "name", "numeric", "oid", "regclass", "text", "timestamp", "timestamptz", "uuid", "varchar", "xid",
]  # fmt: skip


class _Changing(Loader):
    """A loader that returns something else than the value."""

    def load(self, data: Any) -> Any:
        return ("changed", bytes(data))


# SQLAlchemy 2.0 leaves a connection open on which its own first statements fail.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("type_", TYPES)
async def test_codecs_for_each_type(postgres_url: str, driver: str, type_: str) -> None:
    """A codec is rejected at startup, by the name of a value, or changes nothing that the kit does."""

    def register(connection: Any) -> None:
        if driver == "psycopg":
            connection.driver_connection.adapters.register_loader(type_, _Changing)
            return
        codec = {"encoder": str, "decoder": lambda text: ("changed", text), "schema": "pg_catalog"}
        with suppress(asyncpg.InterfaceError):  # older releases allow no codec for some types
            connection.run_async(partial(asyncpg.Connection.set_type_codec, typename=type_, **codec))

    async with host_engine(postgres_url, driver) as engine:
        on_connect(engine, register)
        kit = ProjKit(settings_for("sqlite:///unused.db"), engine=engine)
        try:
            async with kit.lifespan():
                pass
        except ConfigurationError as error:
            assert "remove its type codecs" in str(error)  # noqa: PT017  # a codec of no consequence raises nothing
        else:
            await use_of(engine)


CONVERTED = ["CHAR", "DATE", "INTEGER", "SMALLINT", "TEXT", "TIMESTAMP", "VARCHAR"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("type_", CONVERTED)
async def test_converters_for_each_type(
    sqlite_url: str, type_: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter of SQLite is rejected at startup, or changes nothing that the kit does."""
    monkeypatch.setitem(sqlite3.converters, type_, lambda data: ("changed", data))
    detect = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
    engine = create_async_engine(
        on_aiosqlite(sqlite_url), native_datetime=native, connect_args={"detect_types": detect}
    )
    rejected = pytest.raises(ConfigurationError, match="remove its type codecs")
    with rejected if type_ not in {"DATE", "TIMESTAMP"} else nullcontext():
        await use_of(engine)
    await engine.dispose()


def test_each_type_of_column_is_checked() -> None:
    """The check at startup has a column of each type that the tables have."""
    dialect = sqlite_dialect()
    checked, used = (
        {(type(column.type), column.type.compile(dialect)) for table in tables for column in table.c}
        for tables in ([TABLE], build_tables("projkit_").metadata.tables.values())
    )
    assert used <= checked


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_connections_whose_level_cannot_be_set(postgres_url: str, driver: str) -> None:
    """A connection is returned to the host's pool if its isolation level cannot be set."""
    async with host_engine(postgres_url, driver, pool_size=1, max_overflow=0, pool_timeout=1) as engine:
        for _ in range(2):
            with pytest.raises(sa.exc.ArgumentError, match="isolation_level"):
                await connected(engine, "NO SUCH LEVEL")
        assert await level_of(engine) == "read committed"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_connections_lost_while_they_are_checked(postgres_url: str, driver: str) -> None:
    """A connection that ends during the check at startup is reported as an unavailable database, not as codecs."""
    async with host_engine(postgres_url, driver) as engine:
        terminate = "SELECT pg_terminate_backend(pg_backend_pid())"
        sa.event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(terminate))
        with pytest.raises(DatabaseUnavailableError, match=r"host's engine, .*unavailable"):
            await use_of(engine)
