"""What the server itself counted meanwhile, from ``/metrics``: times are in seconds there, in milliseconds here."""

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from support.tally import Row

if TYPE_CHECKING:
    from support.client import Client

_PATH: Final = os.environ.get("PROJKIT_LOAD_METRICS_PATH", "/metrics")
_DURATION: Final = "projkit_http_server_request_duration_seconds"
_SERIES: Final = re.compile(rf"^{_DURATION}_(count|sum)\{{(.*?)\}} ([0-9.e+-]+)", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_MEMORY: Final = re.compile(r"^projkit_process_resident_memory_bytes\{.*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Seen:
    """One scrape: count and sum by method and route, and the resident bytes of all workers."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    memory: float = 0.0
    problem: str = ""  # why nothing was read


@dataclass(frozen=True)
class Compared:
    """One route as both sides saw it."""

    route: str
    here: int
    there: int
    here_ms: float
    there_ms: float


def look(client: "Client") -> Seen:
    """A scrape, or why there is none."""
    tokens = [
        os.environ.get("PROJKIT_LOAD_METRICS_TOKEN", ""),
        *os.environ.get("PROJKIT_LOAD_TOKEN", "").split()[:1],
    ]
    for token in [*filter(None, tokens), ""]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = client.send("GET", _PATH, headers)
        if answer.status == 200:
            return read(answer.body.decode())
    hint = "; PROJKIT_LOAD_METRICS_TOKEN names who may" if answer.status in {401, 403} else ""
    return Seen(problem=f"GET {_PATH} was answered with {answer.reason}{hint}")


def read(text: str) -> Seen:
    """The series that are of use here."""
    counts: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for kind, labels, value in _SERIES.findall(text):
        named = dict(_LABEL.findall(labels))
        key = (named["method"], named["route"])
        if kind == "count":
            counts[key] += int(float(value))
        else:
            seconds[key] += float(value)
    return Seen(counts, dict(seconds), sum(map(float, _MEMORY.findall(text))))


def compare(rows: list[Row], before: Seen, after: Seen) -> list[Compared]:
    """Each route: requests, and mean time from sending to the answer here, from its arrival to its end there."""
    here: dict[tuple[str, str], Row] = {}
    for row in rows:
        here.setdefault((row.method, row.route), Row(row.method, row.route)).merge(row)
    compared = []
    for key, row in sorted(here.items()):
        there, spent = after.counts[key], after.seconds.get(key, 0.0)
        if there >= before.counts[key]:  # else it has begun anew in between
            there, spent = there - before.counts[key], spent - before.seconds.get(key, 0.0)
        mean = 1000 * spent / there if there else 0.0
        compared.append(Compared(" ".join(key), row.service.count, there, row.service.mean, mean))
    return compared
