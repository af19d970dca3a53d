"""Rejections are delivered at a limited rate, and all of them within about a second."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from projkit.errors import OverloadedError
from projkit.http.paced_rejections import BURST, PacedRejections

pytestmark = pytest.mark.anyio


class FakeLoop:
    """The part of an event loop that :class:`PacedRejections` uses, with a time that tests advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        """Return the seconds since the loop was created."""
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], **_: object) -> object:
        """Keep ``callback`` until it is due."""
        self._due.append((self.now + delay, callback))
        return self

    def run_next(self) -> None:
        """Advance to the callback that is due next and run it."""
        self._due.sort(key=lambda each: each[0])
        self.now, callback = self._due.pop(0)
        callback()


def create_error() -> Exception:
    """Return what a rejection raises."""
    return OverloadedError("The request queue is full.", retry_after=1)


@pytest.mark.parametrize("count", [100, 3_000, 9_000])
async def test_delivered_within_a_second(count: int) -> None:
    """However many requests are rejected at once, a burst is rejected immediately and the last after about a second."""
    loop = FakeLoop()
    rejections = PacedRejections(cast("Any", loop))
    futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for future in futures:
        rejections.reject(future, create_error)
    assert sum(each.done() for each in futures) == BURST
    while not all(each.done() for each in futures):
        loop.run_next()
    assert loop.now <= 1.1
    assert {type(each.exception()) for each in futures} == {OverloadedError}


async def test_cancelled_meanwhile() -> None:
    """A request that is cancelled before its rejection is delivered is skipped, and counts for nothing."""
    loop = FakeLoop()
    rejections = PacedRejections(cast("Any", loop))
    created: list[Exception] = []

    def count() -> Exception:
        created.append(create_error())
        return created[-1]

    futures = [asyncio.get_running_loop().create_future() for _ in range(BURST + 2)]
    for future in futures:
        rejections.reject(future, count)
    futures[-2].cancel()
    loop.run_next()
    assert len(created) == BURST + 1
    assert isinstance(futures[-1].exception(), OverloadedError)
    for future in futures[:BURST]:
        future.exception()
