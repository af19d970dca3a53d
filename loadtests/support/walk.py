"""One walk through the API: requests at times that were fixed before the first was sent."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from support.client import Answer, Client
from support.credentials import Callers, Credential
from support.options import PREFIX


class EndedError(Exception):
    """The walk goes no further: an answer was other than expected, or the test is over."""


@dataclass(frozen=True)
class Sample:
    """One request as it was measured; times are in seconds of the monotonic clock."""

    name: str
    method: str
    route: str
    due: float
    sent: float
    ended: float
    late: float | None  # how late a sleeper woke: this machine's fault; None where it did not sleep
    bytes: int
    failure: str


@dataclass
class Walk:
    """Each step is due a think time after the one before was *due*, not after it was answered.

    So a server that stalls makes the steps behind it late as well, and their times say so.
    """

    client: Client
    callers: Callers
    due: float
    think: tuple[float, float]  # seconds, uniform
    record: Callable[[Sample], None]
    over: Callable[[], bool]
    credential: Credential | None = None
    made: str = ""  # the project that this walk has made and not yet taken away
    _first: bool = True

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
    ) -> Answer:
        """The next step; ``path`` is below the API's prefix, ``route`` its template, ``name`` its entry in slo.toml.

        Raises:
            EndedError: the status was another one, or the test is over.
        """
        route = route or path.partition("?")[0]
        name = name or f"{method} {route}"
        if not self._first:
            self.due += random.uniform(*self.think)
        self._first = False
        sent_headers = dict(headers or {})
        if not anonymous:
            sent_headers |= (credential or self._caller()).headers(method)
        late = self._wait()
        sent = time.monotonic()
        answer = self.client.send(method, PREFIX + path, sent_headers, body)
        ended = time.monotonic()
        failure = (
            "" if answer.status == expected else answer.error or f"{answer.status} instead of {expected}"
        )
        self.record(
            Sample(name, method, PREFIX + route, self.due, sent, ended, late, len(answer.body), failure)
        )
        if failure:
            raise EndedError(failure)
        return answer

    def make(self, body: object) -> str:
        """Makes a project; gives its path."""
        answer = self.send("POST", "/projects", 201, body=body)
        self.made = f"/projects/{answer.json()['id']}"
        return self.made

    def take_away(self) -> None:
        """Deletes the project that it has made."""
        self.send("DELETE", self.made, 204, route="/projects/{project_id}")
        self.made = ""

    def tidy(self) -> None:
        """Takes away what a walk that ended early has left, outside of the schedule."""
        if self.made:
            self.client.send("DELETE", PREFIX + self.made, self._caller().headers("DELETE"))

    def _caller(self) -> Credential:
        if self.credential is None:
            self.credential = self.callers.choose()
        return self.credential

    def _wait(self) -> float | None:
        pause = self.due - time.monotonic()
        if pause > 0:
            gevent.sleep(pause)
        if self.over():
            raise EndedError("the test is over")
        return time.monotonic() - self.due if pause > 0 else None
