"""Polling for a disconnect ends no request, and does not outlast the request."""

import asyncio
from contextvars import copy_context
from typing import Any

import pytest

from projkit.http.disconnects import ClientDisconnectedError, DisconnectDetector
from tests import asgi
from tests.http.pending_requests import BODY, HoldingHost, PendingRequest, limited_kit

pytestmark = pytest.mark.anyio


class PolledRequest(PendingRequest):
    """A request whose server has nothing to say to the poll, and (``cancel``) cancels the request meanwhile.

    Attributes:
        poll_cancelled: whether the poll was cancelled.
    """

    def __init__(self, app: Any, *, cancel: bool) -> None:
        self.cancel = cancel
        self.poll_cancelled = False
        super().__init__(app, method="POST", name="polled", body=[BODY], headers=[(b"content-length", b"13")])

    async def _receive(self) -> dict[str, Any]:
        if not self.receive_calls:
            return await super()._receive()
        if self.cancel:
            self.task.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.poll_cancelled = True
            raise
        raise AssertionError


@pytest.mark.parametrize("cancel", [False, True])
async def test_the_end_of_a_poll(sqlite_url: str, cancel: bool) -> None:
    """A request that is cancelled while its client is polled is cancelled, and no request leaves a poll behind."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        request = PolledRequest(kit, cancel=cancel)
        await host.wait_for("polled")
        await asyncio.sleep(0.1)  # the client of a request that takes longer than 50 ms is polled
        host.release("polled")
        async with asyncio.timeout(20):
            await asyncio.wait({request.task})
        assert request.task.cancelled() is cancel
        assert bool(request.messages) is not cancel
        await asyncio.sleep(0.01)
        assert request.poll_cancelled


async def test_a_watch_after_the_disconnect() -> None:
    """Whoever waits for a client that is known to have disconnected is told at once."""
    calls = 0

    async def receive() -> asgi.Message:
        nonlocal calls
        calls += 1
        return asgi.DISCONNECT

    detector = DisconnectDetector(receive)
    assert await detector.is_disconnected()
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    detector.watch(waiter, copy_context())
    assert isinstance(waiter.exception(), ClientDisconnectedError)
    assert calls == 1


async def test_several_watches() -> None:
    """A second watch receives no further part of a body that nobody reads."""
    calls = 0

    async def receive() -> asgi.Message:
        nonlocal calls
        calls += 1
        return asgi.body(b"part", more=True)

    detector = DisconnectDetector(receive)
    for _ in range(2):
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        detector.watch(waiter, copy_context())
        await asyncio.sleep(0.01)
        assert not waiter.done()
    assert calls == 1
    assert await detector.receive() == asgi.body(b"part", more=True)
