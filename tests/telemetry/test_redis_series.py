"""Redis commands are counted and timed by name."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from projkit import ProjKit
from projkit.errors import SessionStoreUnavailableError
from projkit.redis.connect import RedisCommands, close_redis, open_redis
from projkit.telemetry.families import COMMANDS, SUM
from projkit.telemetry.recorder import Recorder
from projkit.testing.internals import Internals
from projkit.testing.servers import free_port
from tests.auth.asgi_client import ask
from tests.conftest import settings_for
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
COUNT = "projkit_redis_client_operation_duration_seconds_count"
ERRORS = "projkit_redis_errors_total"


def counted(recorder: Recorder) -> dict[str, int]:
    """Return the number of commands by name."""
    table = recorder.read()
    return {key[1][0]: int(sum(cells[:SUM])) for key, cells in table.items() if key[0] == COMMANDS.name}


def errors(recorder: Recorder) -> dict[str, float]:
    """Return the number of failures by exception class."""
    return {key[1][0]: cells[0] for key, cells in recorder.read().items() if key[0] == "redis_errors"}


async def test_of_a_kit(redis_alone: Redises, sqlite_url: str) -> None:
    """Commands for sessions and limits are counted by name; those of health checks are not."""
    kit = ProjKit(settings_for(sqlite_url, redis_url=redis_alone.url, redis_prefix=f"{uuid4().hex}:"))
    async with kit.lifespan():
        assert kit.registry.get_sample_value(COUNT, {"operation": "SET"}) is None
        login = {"username": "alice", "password": "of nobody"}
        assert (await ask(kit, "POST", "/api/v1/auth/login", json=login)).status == 401
        assert kit.registry.get_sample_value(COUNT, {"operation": "EVAL"}) == 2, "address and account"
        await Internals(kit).running.auth.store.ping()
        assert kit.registry.get_sample_value(COUNT, {"operation": "EXISTS"}) == 1
    assert errors(Internals(kit).recorder) == {}


async def test_failures(redis_alone: Redises) -> None:
    """A command that Redis rejects counts as a command and as an error."""
    recorder, client = Recorder(), open_redis(redis_alone.url)
    commands = RedisCommands(client, SessionStoreUnavailableError, recorder)
    with pytest.raises(SessionStoreUnavailableError):
        await commands.run("EVAL", "this is no Lua", 0)
    assert (counted(recorder), errors(recorder)) == ({"EVAL": 1}, {"ResponseError": 1.0})
    await close_redis(client)


async def test_unreachable_redis() -> None:
    """A command to an unreachable Redis is counted and timed."""
    recorder, client = Recorder(), open_redis(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(SessionStoreUnavailableError):
        await RedisCommands(client, SessionStoreUnavailableError, recorder).run("EXISTS", "key")
    assert (counted(recorder), errors(recorder)) == ({"EXISTS": 1}, {"ConnectionError": 1.0})
    await close_redis(client)


class Hanging:
    """A client whose commands never end."""

    async def execute_command(self, *_: object) -> Any:
        """Wait forever."""
        await asyncio.Event().wait()


async def test_time_outs_and_cancellations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timed-out command counts as an error; a cancelled one does not."""
    monkeypatch.setattr("projkit.redis.connect._COMMAND_TIMEOUT_SECONDS", 0.05)
    recorder, client = Recorder(), Hanging()
    commands = RedisCommands(client, SessionStoreUnavailableError, recorder)  # type: ignore[arg-type]
    with pytest.raises(SessionStoreUnavailableError):
        await commands.run("HGET", "secret key", "field")
    assert (counted(recorder), errors(recorder)) == ({"HGET": 1}, {"TimeoutError": 1.0})
    assert recorder.read()[(COMMANDS.name, ("HGET",))][SUM] >= 0.05
    task = asyncio.create_task(commands.run("HGET", "secret key", "field"))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (counted(recorder), errors(recorder)) == ({"HGET": 2}, {"TimeoutError": 1.0})
