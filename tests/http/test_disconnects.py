"""Polling for a disconnect ends no request, and does not outlast the request."""

import asyncio
from typing import Any

import pytest

from tests.http.pending_requests import BODY, HoldingHost, PendingRequest, limited_kit

pytestmark = pytest.mark.anyio


class CancelledRequest(PendingRequest):
    """A request that its server cancels while its client is polled, or (``late``) when the poll is cancelled.

    Attributes:
        poll_cancelled: whether the poll was cancelled.
    """

    def __init__(self, app: Any, *, late: bool) -> None:
        self.late = late
        self.poll_cancelled = False
        super().__init__(
            app, method="POST", name="cancelled", body=[BODY], headers=[(b"content-length", b"13")]
        )

    async def _receive(self) -> dict[str, Any]:
        if not self.receive_calls:
            return await super()._receive()
        if not self.late:
            self.task.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.poll_cancelled = True
            if self.late:
                self.task.cancel()
            raise
        raise AssertionError


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_while_polling(sqlite_url: str, late: bool) -> None:
    """A request that is cancelled while its client is polled is cancelled, and leaves no poll behind."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        request = CancelledRequest(kit, late=late)
        await host.wait_for("cancelled")
        await asyncio.sleep(0.1)  # the client of a request that takes longer than 50 ms is polled
        host.release("cancelled")
        async with asyncio.timeout(20):
            await asyncio.wait({request.task})
        assert request.task.cancelled()
        assert not request.messages
        await asyncio.sleep(0.01)
        assert request.poll_cancelled
