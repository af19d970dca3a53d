"""A kit that keeps its sessions in Redis, with somebody who has logged in."""

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
from projkit.db.tables import build_tables
from projkit.identity import DEFAULT_SCOPES
from tests.conftest import Client, settings_for, token_for

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery"
# What a command may take (a second), a connection that is closed after it, and a slow machine.
BOUND = 4.0
CACHE = 0.5


class Outcome(NamedTuple):
    """What a request came to."""

    status: int
    began: float
    seconds: float
    retry_after: str | None


class Scene:
    """A kit and a client of it; ``session`` and ``plain`` are credentials with and without a session."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.plain = bearer(token_for(client.kit_settings, "alice"))
        self.session: dict[str, str] = {}
        self.refresh_token = ""

    async def log_in(self, password: str = PASSWORD, username: str = "alice") -> Any:
        """A new session, which becomes the present one."""
        answer = await self.client.post(f"{AUTH}/login", json={"username": username, "password": password})
        if answer.status_code == 200:
            self.session = bearer(answer.json()["access_token"])
            self.refresh_token = answer.json()["refresh_token"]
        return answer

    async def refresh(self) -> Any:
        """The present refresh token exchanged."""
        answer = await self.client.post(f"{AUTH}/refresh", json={"refresh_token": self.refresh_token})
        if answer.status_code == 200:
            self.session = bearer(answer.json()["access_token"])
            self.refresh_token = answer.json()["refresh_token"]
        return answer

    async def ask(
        self, credentials: dict[str, str] | None = None, path: str = "/api/v1/projects", method: str = "GET"
    ) -> Outcome:
        """A request, by default with the session's credentials."""
        headers = self.session if credentials is None else credentials
        return await timed(self.client.request(method, path, headers=headers))

    async def recovers(self) -> float:
        """Waits until the session's credentials are good again; tells how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < 20:
            if (await self.ask()).status == 200:
                return time.monotonic() - began
        raise AssertionError("it does not recover")


async def timed(answering: Awaitable[Any]) -> Outcome:
    """What a request comes to."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        answer = await answering
    return Outcome(answer.status_code, began, time.monotonic() - began, answer.headers.get("retry-after"))


@asynccontextmanager
async def playing(url: str, redis_url: str, redis: Any = None, **changes: Any) -> AsyncIterator[Scene]:
    """The scene: alice has a password and has logged in."""
    settings = settings_for(
        url, redis_url=redis_url, redis_prefix=f"{uuid4().hex}:", login_limit_address="1000/minute",
        login_limit_account="1000/minute", **{"session_cache_seconds": CACHE, **changes},
    )  # fmt: skip
    await add_users(settings, PASSWORD, "alice", "bob")
    kit = ProjKit(settings, redis=redis)
    async with kit.lifespan(), Client(kit, settings, None, timeout=30) as client:
        scene = Scene(client)
        for _ in range(10):  # on a busy machine even a good Redis may not answer in time
            answer = await scene.log_in()
            if answer.status_code != 503:
                break
        assert answer.status_code == 200, answer.text
        yield scene


async def add_users(settings: Settings, password: str, *names: str) -> None:
    """Users whose subjects are their names."""
    tables = build_tables(settings.table_prefix)
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
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}
