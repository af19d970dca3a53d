"""Each event loop has its own value, however many threads run event loops, and values of closed loops are dropped."""

import asyncio
import threading

import pytest

from projkit.per_loop import PerLoop


async def value_of(values: PerLoop[object]) -> object:
    """Return the running loop's value."""
    return values.get()


@pytest.mark.anyio
async def test_one_value_per_loop() -> None:
    """A loop gets the same value every time, another loop gets another one."""
    values = PerLoop(object)
    here = values.get()
    there = await asyncio.to_thread(asyncio.run, value_of(values))
    assert values.get() is here
    assert there is not here


def test_values_of_closed_loops_are_dropped() -> None:
    """A new loop drops the values of all closed loops, so that at most one is left behind."""
    dropped: list[object] = []
    values = PerLoop(object, dropped.append)
    created = [asyncio.run(value_of(values)) for _ in range(3)]
    assert dropped == created[:2]


def test_loops_of_several_threads() -> None:
    """A loop never gets the value of another thread's loop, however often both read theirs."""
    values = PerLoop(asyncio.get_running_loop)
    wrong: list[object] = []

    async def read_often() -> None:
        loop = asyncio.get_running_loop()
        wrong.extend(1 for _ in range(100_000) if values.get() is not loop)

    threads = [threading.Thread(target=asyncio.run, args=(read_often(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_values_of_a_parent_process() -> None:
    """After a fork each loop gets a new value, and the parent's are kept as they are."""
    dropped: list[object] = []
    values = PerLoop(object, dropped.append)
    parents = asyncio.run(value_of(values))
    values.reset_after_fork()
    assert asyncio.run(value_of(values)) is not parents
    assert (list(values.inherited.values()), dropped) == ([parents], [])


def test_values_are_dropped_once() -> None:
    """A value is dropped once, even if a loop of another thread drops closed loops at the same time."""
    dropped: list[object] = []
    created: list[object] = []

    def drop(value: object) -> None:
        dropped.append(value)
        if len(dropped) == 1:  # another loop comes and drops the rest
            thread = threading.Thread(target=asyncio.run, args=(value_of(values),))
            thread.start()
            thread.join()

    def create() -> object:
        created.append(object())
        return created[-1]

    values = PerLoop(create, drop)
    loops = [asyncio.new_event_loop() for _ in range(4)]
    for loop in loops:
        loop.run_until_complete(value_of(values))
    for loop in loops:
        loop.close()
    asyncio.run(value_of(values))
    assert len(created) == 6
    assert set(dropped) == set(created[:4])
    assert len(dropped) == 4
