"""Databases with another encoding than UTF-8 are rejected; sessions in which backslashes escape are not."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from projkit import ProjKit
from projkit.cli.check import _run_checks
from projkit.db import migrate
from projkit.errors import ConfigurationError
from tests.conftest import MODES, SECRET, Client, settings_for
from tests.host_engines import host_engine
from tests.services import Postgres, administer, database_url, postgres_server_url

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
TEXT = r"""a\b\'c"d\\ %_ \x41 \n ' OR 1=1 -- ä€"""


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def other_encoding(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[tuple[str, str]]:
    """The URL of an empty database with another encoding, and its name."""
    name = postgres.create(migrated=False)
    asyncio.run(_recreate(name, request.param))
    yield database_url(name), request.param
    postgres.drop(name)


async def _recreate(name: str, encoding: str) -> None:
    connection = await asyncpg.connect(postgres_server_url())
    # The template's provider of locales may know only UTF-8.
    provider = "LOCALE_PROVIDER libc" if connection.get_server_version().major >= 15 else ""
    await connection.close()
    options = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' {provider}"
    await administer(f'DROP DATABASE "{name}"', f'CREATE DATABASE "{name}" {options}')


async def test_other_encodings(other_encoding: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations, the check and the start reject the database, with the command that creates another."""
    url, encoding = other_encoding
    said = f"the database has the encoding {encoding}, .* CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
    with pytest.raises(ConfigurationError, match=said):
        await migrate.upgrade(url)
    for mode in MODES:
        kit = ProjKit(settings_for(url, database_mode=mode))
        with pytest.raises(ConfigurationError, match=said):
            await kit.startup()
    async with host_engine(url, "asyncpg") as engine:
        kit = ProjKit(settings_for("sqlite:///unused.db"), engine=engine)
        with pytest.raises(ConfigurationError, match=said):
            await kit.startup()
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)
    monkeypatch.setenv("PROJKIT_DATABASE_URL", url)
    finding = (await _run_checks())[-1]
    assert (finding.name, finding.ok) == ("database", False)
    assert f"the encoding {encoding}" in finding.detail


@pytest.mark.filterwarnings("ignore:.*nonstandard use of:Warning")
@pytest.mark.parametrize("mode", [*MODES, "psycopg"])
async def test_backslashes_as_escapes(empty_postgres_url: str, mode: str) -> None:
    """With standard_conforming_strings = off, text and searches are the same as otherwise."""
    name = urlsplit(empty_postgres_url).path.lstrip("/")
    await administer(f'ALTER DATABASE "{name}" SET standard_conforming_strings = off')
    await migrate.upgrade(empty_postgres_url)
    if mode in MODES:
        kit = ProjKit(settings_for(empty_postgres_url, database_mode=mode))
        await _use(kit)
    else:
        async with host_engine(empty_postgres_url, mode) as engine:
            await _use(ProjKit(settings_for("sqlite:///unused.db"), engine=engine))


async def _use(kit: ProjKit) -> None:
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        made = await client.project(name=TEXT, description=TEXT, tags=["x\\y"], metadata={"k\\": TEXT})
        await client.project(name="another")
        assert (made["name"], made["description"], made["tags"]) == (TEXT, TEXT, ["x\\y"])
        assert (await client.get(f"{URL}/{made['id']}")).json()["metadata"] == {"k\\": TEXT}
        for query in ({"q": "\\b\\'"}, {"q": "\\"}, {"q": "%_"}, {"tag": "x\\y"}):
            answer = await client.get(URL, params=query)
            assert [each["id"] for each in answer.json()["items"]] == [made["id"]], (query, answer.text)
        changed = await client.patch(f"{URL}/{made['id']}", json={"name": "\\'; DROP"})
        assert changed.json()["name"] == "\\'; DROP"
