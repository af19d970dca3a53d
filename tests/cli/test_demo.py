"""The user that `serve --demo` adds."""

import pytest

from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from projkit.cli.demo import DEMO_PASSWORD, add_demo_user
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.tables import tables_of
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio


async def test_the_demo_user_is_added_once(any_database_url: str) -> None:
    """The demo user is added once, and its password is printed only while it is valid."""
    settings = settings_for(any_database_url)
    tables = tables_of(settings)
    database = await open_database(settings, tables)
    users, passwords = Users(database, tables, clock=utc_now), Passwords(threads=1)
    try:
        assert [await add_demo_user(database, tables) for _ in range(2)] == [True, True]
        (demo,) = await users.list()
        assert await passwords.verify(demo.password_hash, DEMO_PASSWORD)
        await users.set_disabled("demo", disabled=True)
        assert not await add_demo_user(database, tables)
        await users.set_disabled("demo", disabled=False)
        await users.set_password(demo, await passwords.hash("another password"))
        assert not await add_demo_user(database, tables)
        assert len(await users.list()) == 1
    finally:
        passwords.close()
        await database.close()


async def test_subject_of_another_user(sqlite_url: str) -> None:
    """If another user has the subject, no demo user is added and the other user is unchanged."""
    settings = settings_for(sqlite_url)
    tables = tables_of(settings)
    database = await open_database(settings, tables)
    try:
        users = Users(database, tables, clock=utc_now)
        await users.add("eve", None, subject="demo", scopes=())
        assert not await add_demo_user(database, tables)
        assert [user.username for user in await users.list()] == ["eve"]
    finally:
        await database.close()
