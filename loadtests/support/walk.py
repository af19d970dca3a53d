"""One walk through the API: requests at times that were fixed before the first was sent."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

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
    late: float | None  # how late a sleeper woke: this machine's fault; None where nobody slept
    bytes: int
    failure: str


@dataclass(eq=False)
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
    late: float | None = None  # how late the first step begins for which somebody else slept
    credential: Credential | None = None
    made: str = ""  # the project that this walk has made and not yet taken away
    tag: str = ""  # its ETag then
    _first: bool = True
    _last: Sample | None = None  # what was asked last, and whether it is still under way
    _asking: bool = False

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
            sent_headers |= (credential or self.caller).headers(method)
        late = self._wait()
        sent = time.monotonic()
        self._last = Sample(name, method, PREFIX + route, self.due, sent, sent, late, 0, "")
        self._asking = True
        answer = self.client.send(method, PREFIX + path, sent_headers, body)
        self._asking = False
        failure = (
            "" if answer.status == expected else answer.error or f"{answer.status} instead of {expected}"
        )
        self._last = replace(self._last, ended=time.monotonic(), bytes=len(answer.body), failure=failure)
        self.record(self._last)
        if failure:
            raise EndedError(failure)
        return answer

    def make(self, body: object) -> str:
        """Makes a project; gives its path."""
        answer = self.send("POST", "/projects", 201, body=body)
        self.tag = answer.headers.get("etag", "")
        self.made = f"/projects/{answer.json()['id']}"
        return self.made

    def take_away(self) -> None:
        """Deletes the project that it has made."""
        self.send("DELETE", self.made, 204, route="/projects/{project_id}")
        self.made = ""

    def fail(self, why: str) -> None:
        """Counts what was asked last as failed: there was no answer, or none with which the walk can go on."""
        if self._last is not None:
            self.record(replace(self._last, ended=time.monotonic(), late=None, failure=why))

    def give_up(self) -> None:
        """Counts what is still under way as failed."""
        if self._asking:
            self.fail("no answer before the end of the test")

    @property
    def caller(self) -> Credential:
        """Who walks, chosen once.

        Raises:
            CredentialError: the environment names nobody.
        """
        if self.credential is None:
            self.credential = self.callers.choose()
        return self.credential

    def _wait(self) -> float | None:
        pause = self.due - time.monotonic()
        if pause > 0:
            gevent.sleep(pause)
        if self.over():
            raise EndedError("the test is over")
        late, self.late = self.late, None
        return time.monotonic() - self.due if pause > 0 else late
