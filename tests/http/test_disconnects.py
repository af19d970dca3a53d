"""Whether a client is still there is asked in passing: that ends no request, and goes on for no longer than it."""

import asyncio
from typing import Any

import pytest

from tests.http.test_concurrency import BODY, Asked, Host, opened

pytestmark = pytest.mark.anyio


class Ended(Asked):
    """A request that its server ends while it is asked for more of it, or (``late``) when that has been given up."""

    def __init__(self, app: Any, *, late: bool) -> None:
        self.late = late
        self.left = False  # whether nobody asks any more
        super().__init__(app, method="POST", name="ended", body=[BODY], headers=[(b"content-length", b"13")])

    async def _receive(self) -> dict[str, Any]:
        if not self.reads:
            return await super()._receive()
        if not self.late:
            self.task.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.left = True
            if self.late:
                self.task.cancel()
            raise
        raise AssertionError


@pytest.mark.parametrize("late", [False, True])
async def test_ended_while_the_server_is_asked(sqlite_url: str, late: bool) -> None:
    """A request that is cancelled in that very moment is cancelled, and leaves no question behind."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        ended = Ended(kit, late=late)
        await host.arrived("ended")
        await asyncio.sleep(0.1)  # who takes longer than 50 ms looks whether anybody still waits
        host.go_on("ended")
        async with asyncio.timeout(20):
            await asyncio.wait({ended.task})
        assert ended.task.cancelled()
        assert not ended.messages
        await asyncio.sleep(0.01)
        assert ended.left
