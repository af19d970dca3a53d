"""A kit whose sessions are in Redis, with a user who is logged in."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import uuid4

from projkit import ProjKit, Settings
from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.tables import tables_of
from projkit.identity import DEFAULT_SCOPES
from tests.conftest import Client, settings_for, token_for

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery"
# A command (a second), the close of its connection, and a slow machine.
BOUND_SECONDS = 4.0
CACHE_SECONDS = 0.5


class TimedResponse(NamedTuple):
    """The response to a request, and when it was sent."""

    status: int
    began: float
    seconds: float
    retry_after: str | None


class FaultScenario:
    """A kit and its client.

    Attributes:
        session: credentials with a session.
        stateless: credentials without a session.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stateless = bearer(token_for(client.kit_settings, "alice"))
        self.session: dict[str, str] = {}
        self.refresh_token = ""

    async def log_in(self, password: str = PASSWORD, username: str = "alice") -> Any:
        """Log in; the new session becomes the current one."""
        answer = await self.client.post(f"{AUTH}/login", json={"username": username, "password": password})
        if answer.status_code == 200:
            self.session = bearer(answer.json()["access_token"])
            self.refresh_token = answer.json()["refresh_token"]
        return answer

    async def refresh(self) -> Any:
        """Exchange the current refresh token."""
        answer = await self.client.post(f"{AUTH}/refresh", json={"refresh_token": self.refresh_token})
        if answer.status_code == 200:
            self.session = bearer(answer.json()["access_token"])
            self.refresh_token = answer.json()["refresh_token"]
        return answer

    async def request(
        self, credentials: dict[str, str] | None = None, path: str = "/api/v1/projects", method: str = "GET"
    ) -> TimedResponse:
        """Send a request, by default with the session's credentials."""
        headers = self.session if credentials is None else credentials
        return await timed(self.client.request(method, path, headers=headers))

    async def wait_until_recovered(self) -> float:
        """Wait until the session's credentials are accepted again; return the seconds that took."""
        began = time.monotonic()
        while time.monotonic() - began < 20:
            if (await self.request()).status == 200:
                return time.monotonic() - began
        raise AssertionError("no recovery")


async def timed(request: Awaitable[Any]) -> TimedResponse:
    """Wait for the response to a request."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        answer = await request
    return TimedResponse(
        answer.status_code, began, time.monotonic() - began, answer.headers.get("retry-after")
    )


@asynccontextmanager
async def fault_scenario(
    url: str, redis_url: str, redis: Any = None, **changes: Any
) -> AsyncIterator[FaultScenario]:
    """Open a kit on which alice has a password and is logged in."""
    settings = settings_for(
        url, redis_url=redis_url, redis_prefix=f"{uuid4().hex}:", login_limit_address="1000/minute",
        login_limit_account="1000/minute", **{"session_cache_seconds": CACHE_SECONDS, **changes},
    )  # fmt: skip
    await add_users(settings, PASSWORD, "alice", "bob")
    kit = ProjKit(settings, redis=redis)
    async with kit.lifespan(), Client(kit, settings, None, timeout=30) as client:
        scenario = FaultScenario(client)
        for _ in range(10):  # on a busy machine even a healthy Redis may not answer in time
            answer = await scenario.log_in()
            if answer.status_code != 503:
                break
        assert answer.status_code == 200, answer.text
        yield scenario


async def add_users(settings: Settings, password: str, *names: str) -> None:
    """Add users whose subjects are their names."""
    tables = tables_of(settings)
    database = await open_database(settings, tables)
    passwords = Passwords()
    try:
        stored = await passwords.hash(password)
        users = Users(database, tables, clock=utc_now)
        for name in names:
            await users.add(name, stored, subject=name, scopes=DEFAULT_SCOPES)
    finally:
        passwords.close()
        await database.close()


def bearer(token: str) -> dict[str, str]:
    """Return the header with a bearer token."""
    return {"Authorization": f"Bearer {token}"}
