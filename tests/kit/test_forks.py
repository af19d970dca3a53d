"""A kit that is created, or even started, before a fork shares no state with its copies."""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from projkit import Principal, ProjKit
from projkit.testing.internals import Internals
from tests.asgi import call, http_scope
from tests.conftest import settings_for, token_for
from tests.kit.object_graph import RandomValues, suspects

URL = "/api/v1/projects"


def in_fork(work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, which is JSON, from a forked process."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the forked process failed; its traceback is above"
    return json.loads(text)


def make(url: str) -> ProjKit:
    """Create a kit."""
    return ProjKit(settings_for(url))


async def request_id(kit: ProjKit, path: str = URL) -> str:
    """Send a request, and return its id."""
    headers = [(b"authorization", f"Bearer {token_for(kit.settings, 'alice')}".encode())]
    sent = await call(kit, http_scope(path, headers=headers))
    assert sent[0]["status"] == 200
    return str(dict(sent[0]["headers"])[b"x-request-id"], "ascii")


@pytest.mark.parametrize("state", ["created", "has served", "running"])
def test_no_state_survives_a_fork(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """No counter, random value, process id, held lock, connection, thread or task of a kit is the same in a fork."""
    values = RandomValues()
    values.watch(monkeypatch)
    kit = make(sqlite_url)
    loop = asyncio.new_event_loop()
    if state != "created":
        loop.run_until_complete(kit.startup())
        loop.run_until_complete(request_id(kit))
        loop.run_until_complete(request_id(kit, "/api/v1/health/detailed"))
        loop.run_until_complete(kit.projects.create(Principal("alice"), name="Roof"))
    if state == "has served":
        loop.run_until_complete(kit.shutdown())
    pid = os.getpid()
    before = suspects(kit, values, pid)
    assert len(before) >= 2, "the search finds the request ids"
    after = in_fork(lambda: suspects(kit, values, pid))
    shared = [path for path, state in after.items() if before.get(path) == tuple(state)]
    if state == "running":
        loop.run_until_complete(kit.shutdown())
    loop.close()
    assert shared == []


def test_the_search_finds_what_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The search would report each kind of state, wherever a kit refers to it."""
    import itertools
    import random
    import secrets
    import threading
    import uuid
    from functools import partial

    values = RandomValues()
    values.watch(monkeypatch)
    lock = threading.Lock()
    lock.acquire()

    class Slotted:
        __slots__ = ("random", "unset")

        def __init__(self) -> None:
            self.random = random.Random(1)

    key = secrets.token_bytes(16)

    def closure() -> bytes:
        return key

    with (tmp_path / "file").open("w") as file:
        held = {
            "counter": [itertools.count()], "random": Slotted(), "lock": (lock,), "free": threading.Lock(),
            "key": closure, "hex": f"prefix-{secrets.token_hex(8)}", "uuid": partial(print, uuid.uuid4()),
            "pid": {"pid": os.getpid()}, "file": file, "harmless": ["text", b"bytes", 7],
        }  # fmt: skip
        found = suspects(held, values, os.getpid())
    assert len(found) == 8, found


def test_ids_differ_in_every_fork(sqlite_url: str) -> None:
    """Request ids, ids of projects, CSRF tokens and spans differ in forks of a kit that has already created some."""
    kit = make(sqlite_url)

    async def create_ids() -> list[str]:
        async with kit.lifespan():
            projects = [await kit.projects.create(Principal("alice"), name="Roof") for _ in range(20)]
            csrf = Internals(kit).running.auth.csrf
            return [
                *[await request_id(kit) for _ in range(20)],
                *[str(project.id) for project in projects],
                *[csrf.issue("session:x") for _ in range(20)],
            ]

    ids = asyncio.run(create_ids())
    for _ in range(3):
        ids += in_fork(lambda: asyncio.run(create_ids()))
    assert len(set(ids)) == len(ids) == 240


def test_a_kit_that_was_started_before_the_fork(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fork of a started kit opens connections of its own and says why; the parent keeps its own."""
    kit = make(sqlite_url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(kit.startup())
    parents = id(loop.run_until_complete(_database(kit)))

    def work() -> list[Any]:
        caplog.clear()
        opened = [asyncio.run(_serve(kit)) for _ in range(2)]
        warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        return [opened, warnings]

    opened, warnings = in_fork(work)
    assert all(database != parents for database, _ in opened)
    assert [each for each in warnings if "was started before this process was forked" in each] == warnings
    assert len(warnings) == 1
    assert loop.run_until_complete(request_id(kit))
    loop.run_until_complete(kit.shutdown())
    loop.close()


async def _serve(kit: ProjKit) -> tuple[int, str]:
    async with kit.lifespan():
        return id(await _database(kit)), await request_id(kit)


async def _database(kit: ProjKit) -> object:
    return Internals(kit).running.database
