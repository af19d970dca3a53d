"""When walks begin: at random moments at a given rate, whether or not earlier ones have been answered."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
# Fires for each request with its ``sample`` and the ``stage`` it fell into; Locust's own event fires as well.
measured: Final = EventHook()


@dataclass(frozen=True)
class Stream:
    """Journeys that share a rate in requests a second, at so many seconds after the start."""

    journeys: Sequence[Journey]
    rate: Callable[[float], float]


@dataclass
class Plan:
    """What a suite schedules; ``stage`` names the part of the test that a moment belongs to."""

    streams: Sequence[Stream] = ()
    stage: Callable[[float], str] = lambda _: "all"


plan: Final = Plan()  # a suite's, set when Locust has read its options
_lanes: list["Lane"] = []
_shared: dict[str, tuple[Client, Callers]] = {}


def end_all() -> None:
    """Ends every lane of this process: nothing more begins, walks go no further."""
    for lane in _lanes:
        lane.end()


def await_all() -> None:
    """Waits for what has been sent."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while any(lane.busy for lane in _lanes) and time.monotonic() < deadline:
        time.sleep(0.05)


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
        self._next: list[tuple[float, int, Journey]] = []
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

    def end(self) -> None:
        """Begins nothing more; walks go no further."""
        self._over.set()  # a lane that sleeps until a walk is due wakes

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
        due, number, journey = self._next.pop(0)
        self._fix(number, due)
        pause = due - time.monotonic()
        if pause > 0:
            self._over.wait(pause)
        if not self._over.is_set():
            self._pool.spawn(self._walk, journey, due)

    def _fix(self, number: int, after: float) -> None:
        stream = plan.streams[number]
        journey = random.choices(stream.journeys, [each.weight for each in stream.journeys])[0]
        # A walk brings several requests, so that it takes the room of several in the schedule.
        walks = stream.rate(after - self._started) / LANES / journey.steps
        self._next.append((after + random.expovariate(walks), number, journey))
        self._next.sort(key=lambda each: each[0])

    def _walk(self, journey: Journey, due: float) -> None:
        walk = Walk(self._client, self._callers, due, journey.think, self._record, self._over.is_set)
        try:
            journey.walk(walk)
        except EndedError:
            walk.tidy()
        except CredentialError as error:
            now = time.monotonic()
            failed = Sample("POST /auth/login", "POST", "", due, now, now, None, 0, str(error))
            self._record(failed)

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
