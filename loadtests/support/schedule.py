"""When walks begin: at random moments at a given rate, whether or not earlier ones have been answered."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Final

from gevent.event import Event
from gevent.pool import Pool
from locust import User, constant, task
from locust.env import Environment
from locust.event import EventHook

from support.client import Client
from support.credentials import Callers, CredentialError
from support.journeys import Journey
from support.options import LANES
from support.walk import EndedError, Sample, Walk

WALKS: Final = 1_000  # under way at once in one lane; what is due beyond them waits, and its time runs
DRAIN_SECONDS: Final = 15
_STEP: Final = 0.1  # a rate is taken as constant for so long
# Fires for each request with its ``sample`` and the ``stage`` it fell into; Locust's own event fires as well.
measured: Final = EventHook()


@dataclass(frozen=True)
class Stream:
    """Journeys that share a rate in requests a second, at so many seconds after the start."""

    journeys: Sequence[Journey]
    rate: Callable[[float], float]

    @cached_property
    def steps(self) -> float:
        """How many requests a walk brings on average."""
        return sum(each.weight * each.steps for each in self.journeys) / self.weight

    @cached_property
    def weight(self) -> float:
        """Of all journeys."""
        return sum(each.weight for each in self.journeys)

    def walks(self, elapsed: float) -> float:
        """How many walks begin in a second."""
        return self.rate(elapsed) / self.steps

    def requests(self, seconds: float) -> float:
        """How many requests it brings in all."""
        return sum(self.rate(number * _STEP) for number in range(round(seconds / _STEP))) * _STEP


@dataclass
class Plan:
    """What a suite schedules; ``stage`` names the part of the test that a moment belongs to."""

    streams: Sequence[Stream] = ()
    stage: Callable[[float], str] = lambda _: "all"

    def requests(self, seconds: float) -> float:
        """How many requests are due in so many seconds."""
        return sum(each.requests(seconds) for each in self.streams)

    def asked(self, seconds: float) -> dict[str, float]:
        """How often each endpoint is asked at the least, by what it is that its journeys cannot do without."""
        found: dict[str, float] = {}
        for stream in self.streams:
            walks = stream.requests(seconds) / stream.steps / stream.weight
            for journey in stream.journeys:
                for name in journey.asks:
                    found[name] = found.get(name, 0.0) + walks * journey.weight
        return found


plan: Final = Plan()  # a suite's, set when Locust has read its options
_lanes: list["Lane"] = []
_shared: dict[str, tuple[Client, Callers]] = {}


def end_all() -> None:
    """Ends every lane of this process: nothing more begins, walks go no further."""
    for lane in _lanes:
        lane.end()


def await_all() -> None:
    """Waits for what has been sent; what is not answered by then has failed."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while any(lane.busy for lane in _lanes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for lane in _lanes:
        lane.give_up()


def shared(host: str) -> tuple[Client, Callers]:
    """What all lanes of this process ask with."""
    if host not in _shared:
        client = Client(host)
        _shared[host] = (client, Callers(client))
    return _shared[host]


class Lane(User):
    """One part in `LANES` of the schedule. The parts know nothing of each other: sums of Poisson processes are one."""

    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._client, self._callers = shared(environment.host or "")
        self._pool = Pool(WALKS)
        self._started = time.monotonic()
        self._over = Event()
        self._next: list[tuple[float, int]] = []
        self._walks: set[Walk] = set()
        self._held_up = False
        _lanes.append(self)

    def on_start(self) -> None:
        """Fixes the first walk of each stream."""
        self._started = time.monotonic()
        for number in range(len(plan.streams)):
            self._fix(number, self._started)

    def on_stop(self) -> None:
        """Waits for what has been sent."""
        self.end()
        self._pool.join(DRAIN_SECONDS)
        self.give_up()

    def end(self) -> None:
        """Begins nothing more; walks go no further."""
        self._over.set()  # a lane that sleeps until a walk is due wakes

    def give_up(self) -> None:
        """Counts what is still not answered as failed, and waits for it no longer."""
        for walk in list(self._walks):
            walk.give_up()
        self._pool.kill(block=False)

    @property
    def busy(self) -> bool:
        """Whether walks are still under way."""
        return len(self._pool) > 0

    @task
    def begin_next(self) -> None:
        """Sleeps until the next walk is due, and lets it go."""
        if self._over.is_set():
            time.sleep(0.1)  # gevent's
            return
        due, number = self._next.pop(0)
        self._fix(number, due)
        pause = due - time.monotonic()
        if pause > 0:
            self._over.wait(pause)
        # Behind as many walks as may be under way it is the server that is late.
        late = None if self._held_up and pause <= 0 else time.monotonic() - due
        if not self._over.is_set():
            self._held_up = self._pool.full()
            self._pool.spawn(self._walk, plan.streams[number], due, late)

    def _fix(self, number: int, after: float) -> None:
        """Draws when the next walk begins: of a Poisson process whose rate may change."""
        stream, left = plan.streams[number], random.expovariate(1.0)
        for step in count():
            begins = after + step * _STEP
            rate = stream.walks(begins - self._started) / LANES
            if left <= rate * _STEP:
                break
            left -= rate * _STEP
        self._next.append((begins + left / rate, number))
        self._next.sort()

    def _walk(self, stream: Stream, due: float, late: float | None) -> None:
        journey = random.choices(stream.journeys, [each.weight for each in stream.journeys])[0]
        walk = Walk(self._client, self._callers, due, journey.think, self._record, self._over.is_set, late)
        self._walks.add(walk)
        try:
            journey.walk(walk)
        except EndedError:
            pass
        except CredentialError as error:
            now = time.monotonic()
            self._record(Sample("POST /auth/login", "POST", "", due, now, now, None, 0, str(error)))
        except Exception as error:  # an answer of another kind than the walk needs, as of a login page
            walk.fail(f"cannot go on: {type(error).__name__}: {error}")
        finally:
            self._walks.discard(walk)

    def _record(self, sample: Sample) -> None:
        stage = plan.stage(max(sample.due - self._started, 0.0))
        self.environment.events.request.fire(
            request_type=sample.method,
            name=sample.name,
            response_time=1000 * (sample.ended - sample.due),
            response_length=sample.bytes,
            exception=Exception(sample.failure) if sample.failure else None,
            context={},
        )
        measured.fire(sample=sample, stage=stage)
