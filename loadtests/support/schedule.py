"""The open-loop schedule: iterations start at random times at a given rate, whether or not earlier ones have ended."""

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
from support.credentials import CredentialError, CredentialPool
from support.iteration import Iteration, IterationEndedError, Sample
from support.options import ARRIVAL_STREAMS
from support.scenarios import Scenario

MAX_ITERATIONS: Final = (
    1_000  # running at once in one arrival stream; later ones wait, and their latency counts
)
DRAIN_SECONDS: Final = 15
_RATE_STEP_SECONDS: Final = 0.1  # the rate counts as constant for this long
# Fired for each request with its ``sample`` and its ``stage``, in addition to Locust's own event.
sample_recorded: Final = EventHook()


@dataclass(frozen=True)
class Workload:
    """Scenarios that share a rate: a function from seconds since the start to requests per second."""

    scenarios: Sequence[Scenario]
    rate: Callable[[float], float]

    @cached_property
    def requests_per_iteration(self) -> float:
        """Average number of requests of one iteration."""
        return sum(each.weight * each.requests for each in self.scenarios) / self.weight

    @cached_property
    def weight(self) -> float:
        """Total weight of all scenarios."""
        return sum(each.weight for each in self.scenarios)

    def iterations_per_second(self, elapsed: float) -> float:
        """Return the rate of iterations."""
        return self.rate(elapsed) / self.requests_per_iteration

    def requests(self, seconds: float) -> float:
        """Return the number of requests due in the first ``seconds``."""
        return (
            sum(
                self.rate(number * _RATE_STEP_SECONDS)
                for number in range(round(seconds / _RATE_STEP_SECONDS))
            )
            * _RATE_STEP_SECONDS
        )


@dataclass
class Plan:
    """The schedule of a suite. ``stage`` returns the name of the part of the test that a time belongs to."""

    workloads: Sequence[Workload] = ()
    stage: Callable[[float], str] = lambda _: "all"

    def requests(self, seconds: float) -> float:
        """Return the number of requests due in the first ``seconds``."""
        return sum(each.requests(seconds) for each in self.workloads)

    def expected_requests(self, seconds: float) -> dict[str, float]:
        """Return the minimum number of requests expected for each endpoint that the scenarios require."""
        expected: dict[str, float] = {}
        for workload in self.workloads:
            iterations = workload.requests(seconds) / workload.requests_per_iteration / workload.weight
            for scenario in workload.scenarios:
                for name in scenario.endpoints:
                    expected[name] = expected.get(name, 0.0) + iterations * scenario.weight
        return expected


plan: Final = Plan()  # filled in by the suite once Locust has parsed its options
_arrival_streams: list["ArrivalStream"] = []
_shared: dict[str, tuple[Client, CredentialPool]] = {}


def end_all() -> None:
    """End every arrival stream of this process: no iteration starts, and running ones send nothing more."""
    for arrival_stream in _arrival_streams:
        arrival_stream.end()


def await_all() -> None:
    """Wait for responses up to `DRAIN_SECONDS`, then record missing ones as failed."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while any(arrival_stream.busy for arrival_stream in _arrival_streams) and time.monotonic() < deadline:
        time.sleep(0.05)
    for arrival_stream in _arrival_streams:
        arrival_stream.abort()


def shared_client(host: str) -> tuple[Client, CredentialPool]:
    """Return the client and the credentials that all arrival streams of this process share."""
    if host not in _shared:
        client = Client(host)
        _shared[host] = (client, CredentialPool(client))
    return _shared[host]


class ArrivalStream(User):
    """An independent share of the schedule: one in `ARRIVAL_STREAMS` (Poisson processes add up to one)."""

    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._client, self._credentials = shared_client(environment.host or "")
        self._pool = Pool(MAX_ITERATIONS)
        self._started = time.monotonic()
        self._over = Event()
        self._next: list[tuple[float, int]] = []
        self._iterations: set[Iteration] = set()
        self._pool_was_full = False
        _arrival_streams.append(self)

    def on_start(self) -> None:
        """Schedule the first iteration of each workload."""
        self._started = time.monotonic()
        for number in range(len(plan.workloads)):
            self._schedule(number, self._started)

    def on_stop(self) -> None:
        """Wait for requests in flight."""
        self.end()
        self._pool.join(DRAIN_SECONDS)
        self.abort()

    def end(self) -> None:
        """Start no more iterations; running ones send nothing more."""
        self._over.set()  # also wakes a stream that sleeps until its next iteration

    def abort(self) -> None:
        """Record requests in flight as failed and stop waiting for them."""
        for iteration in list(self._iterations):
            iteration.abort()
        self._pool.kill(block=False)

    @property
    def busy(self) -> bool:
        """Whether iterations are still running."""
        return len(self._pool) > 0

    @task
    def start_next(self) -> None:
        """Sleep until the next iteration is due and start it."""
        if self._over.is_set():
            time.sleep(0.1)  # gevent's
            return
        due, number = self._next.pop(0)
        self._schedule(number, due)
        pause = due - time.monotonic()
        if pause > 0:
            self._over.wait(pause)
        # If the pool was full, the delay is the server's and not the generator's.
        late = None if self._pool_was_full and pause <= 0 else time.monotonic() - due
        if not self._over.is_set():
            self._pool_was_full = self._pool.full()
            self._pool.spawn(self._run_iteration, plan.workloads[number], due, late)

    def _schedule(self, number: int, after: float) -> None:
        """Draw the start of the next iteration from a Poisson process with a variable rate."""
        workload, left = plan.workloads[number], random.expovariate(1.0)
        for step in count():
            begins = after + step * _RATE_STEP_SECONDS
            rate = workload.iterations_per_second(begins - self._started) / ARRIVAL_STREAMS
            if left <= rate * _RATE_STEP_SECONDS:
                break
            left -= rate * _RATE_STEP_SECONDS
        self._next.append((begins + left / rate, number))
        self._next.sort()

    def _run_iteration(self, workload: Workload, due: float, late: float | None) -> None:
        scenario = random.choices(workload.scenarios, [each.weight for each in workload.scenarios])[0]
        iteration = Iteration(
            self._client, self._credentials, due, scenario.think_time, self._record, self._over.is_set, late
        )
        self._iterations.add(iteration)
        try:
            scenario.run(iteration)
        except IterationEndedError:
            pass
        except CredentialError as error:
            now = time.monotonic()
            self._record(Sample("POST /auth/login", "POST", "", due, now, now, None, 0, str(error)))
        except Exception as error:  # a response that the scenario cannot use, such as an HTML login page
            iteration.fail(f"unusable response: {type(error).__name__}: {error}")
        finally:
            self._iterations.discard(iteration)

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
        sample_recorded.fire(sample=sample, stage=stage)
