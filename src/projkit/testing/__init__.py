"""Helpers for the tests of applications that mount the kit.

async with open_kit() as kit:
    app = FastAPI(); app.mount("/kit", kit)
    headers = bearer(kit, "alice")

The database is SQLite by default; ``open_kit(database="postgresql", redis=True)`` uses real servers, which
``pip install 'projkit[testing]'`` brings and which start by themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.errors import ConfigurationError
from projkit.identity import DEFAULT_SCOPES
from projkit.kit import ProjKit
from projkit.known_secrets import FOR_TESTS
from projkit.settings import Settings
from projkit.testing.databases import postgresql_databases, redis_url, sqlite_url

SECRET: Final = FOR_TESTS


class FakeClock:
    """A clock that stands still until it is advanced: ``ProjKit(clock=FakeClock())``."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Advance by a ``timedelta`` of these parts: ``clock.advance(minutes=5)``."""
        self.now += timedelta(**duration)


@asynccontextmanager
async def open_kit(
    *,
    clock: FakeClock | None = None,
    database: Literal["sqlite", "postgresql"] = "sqlite",
    redis: bool = False,
    **settings: Any,
) -> AsyncIterator[ProjKit]:
    """Start a kit on an empty, migrated database of its own, which is removed afterwards.

    The first kit of a process that needs PostgreSQL or Redis starts a server, which ends with the process; the next
    ones get another database on it. They need the packages of ``projkit[testing]``.

    Args:
        clock: The source of the rows' timestamps; by default the real time.
        database: The kind of database. To use a server of your own, pass ``database_url`` instead.
        redis: Set ``redis_url`` to an empty database on a Valkey server, which is compatible with Redis.
        settings: Other settings of the kit.

    Raises:
        ConfigurationError: A setting is invalid, or a server's package is not installed.
    """
    if database == "postgresql" and "database_url" in settings:
        raise ConfigurationError("database='postgresql' starts a server; omit it if you pass a database_url")
    given = {"secret": SECRET, **settings}
    async with AsyncExitStack() as stack:
        if redis:
            given["redis_url"] = await stack.enter_async_context(redis_url())
        if database == "postgresql":
            databases = await asyncio.to_thread(postgresql_databases)
            given["database_url"] = databases.new_url()
        elif "database_url" not in given:
            given["database_url"] = await stack.enter_async_context(sqlite_url())
        made = Settings(**given)
        if database == "postgresql":
            url = given["database_url"]
            await asyncio.to_thread(databases.create, url, made)
            stack.push_async_callback(asyncio.to_thread, databases.drop, url)
        kit = ProjKit(made) if clock is None else ProjKit(made, clock=clock)
        async with kit.lifespan():
            yield kit


def bearer(
    kit: ProjKit, subject: str, scopes: str | Iterable[str] = DEFAULT_SCOPES, **claims: Any
) -> dict[str, str]:
    """Return the Authorization header of a request by ``subject``.

    Args:
        kit: The kit that will receive the request.
        subject: The ``sub`` claim of the token.
        scopes: The scopes of the token; in a string they are separated by spaces.
        claims: Other arguments of :meth:`TokenIssuer.issue`.
    """
    names = scopes.split() if isinstance(scopes, str) else scopes
    token = TokenIssuer(load_keys(kit.settings), kit.settings).issue(subject, tuple(names), **claims)
    return {"Authorization": f"Bearer {token}"}
