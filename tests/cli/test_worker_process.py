"""The pipe between a worker and its parent."""

import asyncio
import os
import threading
from multiprocessing import Pipe

import pytest
import uvicorn

from projkit.cli.worker_process import PING, PONG, STOP_NOW, ParentLink

pytestmark = pytest.mark.anyio


# So long that the end of a test does not end this process.
STOP_SECONDS = 3600.0


@pytest.fixture
def server() -> uvicorn.Server:
    """A server that is stopping."""
    server = uvicorn.Server(uvicorn.Config("nowhere:app"))
    server.should_exit = True
    return server


async def test_exits_are_reported(server: uvicorn.Server) -> None:
    """A worker reports what its parent has counted: what it knows already, and each change, on its event loop."""
    parent, worker = Pipe()
    link = ParentLink(worker, server, STOP_SECONDS)
    reported: asyncio.Queue[tuple[dict[str, int], int]] = asyncio.Queue()
    link.report_exits(lambda exits: reported.put_nowait((dict(exits), threading.get_ident())))
    link.start()
    parent.send({"SIGKILL": 1})
    assert [(await reported.get())[0] for _ in range(2)] == [{}, {"SIGKILL": 1}]
    parent.send({"SIGKILL": 2})
    async with asyncio.timeout(10):
        assert await reported.get() == ({"SIGKILL": 2}, threading.get_ident())


def test_changes_after_the_event_loop_has_ended(server: uvicorn.Server) -> None:
    """A worker responds to its parent before it serves, and after its event loop was closed."""
    parent, worker = Pipe()
    link = ParentLink(worker, server, STOP_SECONDS)
    link.start()
    parent.send({"SIGKILL": 1})
    parent.send(PING)
    assert parent.recv() == PONG

    async def report() -> None:
        link.report_exits(lambda _: None)

    asyncio.run(report())
    parent.send({"SIGKILL": 2})
    parent.send(PING)
    assert parent.recv() == PONG


def test_the_parent_ends_the_drain(server: uvicorn.Server) -> None:
    """A worker that its parent asks to stop a second time stops at once."""
    server.should_exit = False
    parent, worker = Pipe()
    ParentLink(worker, server, STOP_SECONDS).start()
    parent.send(STOP_NOW)
    parent.send(PING)
    assert parent.recv() == PONG
    assert server.should_exit


@pytest.mark.parametrize("state", ["starting", "serving", "stopping"])
def test_the_parent_is_gone(
    server: uvicorn.Server, state: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its parent a worker stops, and exits in any case, even if it is stopping already."""
    parent, worker = Pipe()
    server.started, server.should_exit = state != "starting", state == "stopping"
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    link = ParentLink(worker, server, 0.01)
    thread = link.start()
    parent.close()
    thread.join(10)
    assert not thread.is_alive()
    assert server.should_exit is (state != "starting")
    expected = {"starting": "had not started yet and exits", "serving": "finishes its requests and exits"}
    assert caplog.text.count("the parent process") == (state in expected)
    assert expected.get(state, "") in caplog.text
    assert ("did not stop in time" in caplog.text) == (state != "starting")
    assert codes == [1]
    link.send(PONG)  # nobody reads it
