"""One iteration of a scenario: requests on a schedule that is fixed before the first one is sent."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import gevent

from support.client import Client, Response
from support.credentials import Credential, CredentialPool
from support.options import PREFIX


class IterationEndedError(Exception):
    """Raised to end an iteration: a response was not the expected one, or the test is over."""


@dataclass(frozen=True)
class Sample:
    """One measured request. Times are in seconds of the monotonic clock."""

    name: str
    method: str
    route: str
    due: float
    sent: float
    ended: float
    late: (
        float | None
    )  # delay of the generator itself in seconds; None if it did not sleep before this request
    bytes: int
    failure: str


@dataclass(eq=False)
class Iteration:
    """A sequence of requests with fixed start times.

    Each request is due one think time after the previous one was *due*, not after its response. A server that stalls
    therefore delays the requests behind it as well, and their latencies show it.
    """

    client: Client
    credentials: CredentialPool
    due: float
    think_time: tuple[float, float]  # seconds, uniform
    record: Callable[[Sample], None]
    over: Callable[[], bool]
    late: float | None = (
        None  # delay of the generator before the first request, which the arrival stream measured
    )
    credential: Credential | None = None
    created: str = ""  # path of the project that this iteration created and has not deleted yet
    etag: str = ""  # of that project when it was created
    _first: bool = True
    _last: Sample | None = None  # the last request
    _in_flight: bool = False

    def send(
        self,
        method: str,
        path: str,
        expected: int,
        *,
        route: str = "",
        name: str = "",
        body: object = None,
        headers: dict[str, str] | None = None,
        credential: Credential | None = None,
        anonymous: bool = False,
    ) -> Response:
        """Send the next request when it is due.

        Args:
            path: relative to the API prefix.
            route: template of the path; by default the path itself.
            name: entry in slo.toml; by default method and route.

        Raises:
            IterationEndedError: the status is not ``expected``, or the test is over.
        """
        route = route or path.partition("?")[0]
        name = name or f"{method} {route}"
        if not self._first:
            self.due += random.uniform(*self.think_time)
        self._first = False
        sent_headers = dict(headers or {})
        if not anonymous:
            sent_headers |= (credential or self.chosen_credential).headers(method)
        late = self._wait()
        sent = time.monotonic()
        self._last = Sample(name, method, PREFIX + route, self.due, sent, sent, late, 0, "")
        self._in_flight = True
        response = self.client.send(method, PREFIX + path, sent_headers, body)
        self._in_flight = False
        failure = (
            ""
            if response.status == expected
            else response.error or f"{response.status} instead of {expected}"
        )
        self._last = replace(self._last, ended=time.monotonic(), bytes=len(response.body), failure=failure)
        self.record(self._last)
        if failure:
            raise IterationEndedError(failure)
        return response

    def create_project(self, body: object) -> str:
        """Create a project and return its path."""
        response = self.send("POST", "/projects", 201, body=body)
        self.etag = response.headers.get("etag", "")
        self.created = f"/projects/{response.json()['id']}"
        return self.created

    def delete_project(self) -> None:
        """Delete the project that this iteration created."""
        self.send("DELETE", self.created, 204, route="/projects/{project_id}")
        self.created = ""

    def fail(self, why: str) -> None:
        """Record the last request as failed: there was no response, or one that the iteration cannot use."""
        if self._last is not None:
            self.record(replace(self._last, ended=time.monotonic(), late=None, failure=why))

    def abort(self) -> None:
        """Record a request in flight as failed."""
        if self._in_flight:
            self.fail("no response before the end of the test")

    @property
    def chosen_credential(self) -> Credential:
        """The credential of this iteration, chosen at its first request.

        Raises:
            CredentialError: the environment provides no credentials.
        """
        if self.credential is None:
            self.credential = self.credentials.choose()
        return self.credential

    def _wait(self) -> float | None:
        pause = self.due - time.monotonic()
        if pause > 0:
            gevent.sleep(pause)
        if self.over():
            raise IterationEndedError("the test is over")
        late, self.late = self.late, None
        return time.monotonic() - self.due if pause > 0 else late
