"""The server's own counts during the test, from ``/metrics``."""

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from support.stats import EndpointStats

if TYPE_CHECKING:
    from support.client import Client

_PATH: Final = os.environ.get("PROJKIT_LOAD_METRICS_PATH", "/metrics")
_DURATION: Final = "projkit_http_server_request_duration_seconds"
_SERIES: Final = re.compile(rf"^{_DURATION}_(count|sum)\{{(.*?)\}} ([0-9.e+-]+)", re.MULTILINE)
_ROUTE: Final = re.compile(r"^projkit_http_server_route_info\{(.*)\} ", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_MEMORY: Final = re.compile(r"^projkit_process_resident_memory_bytes\{.*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Scrape:
    """One scrape: count and sum of seconds by method and route, the kit's routes, and the memory of all workers."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    routes: frozenset[str] = frozenset()
    memory: float = 0.0
    mount: str = ""  # the path of the kit's mount, as clients see it
    problem: str = ""  # why the scrape failed


@dataclass(frozen=True)
class RouteComparison:
    """One route as client and server measured it, with mean latencies."""

    route: str
    client_count: int
    server_count: int
    client_ms: float
    server_ms: float


def scrape(client: "Client") -> Scrape:
    """Scrape ``/metrics``; on failure the result contains the problem."""
    tokens = [
        os.environ.get("PROJKIT_LOAD_METRICS_TOKEN", ""),
        *os.environ.get("PROJKIT_LOAD_TOKEN", "").split()[:1],
    ]
    for token in [*filter(None, tokens), ""]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = client.send("GET", _PATH, headers)
        if response.status == 200:
            return replace(read(response.body.decode()), mount=client.mount)
    hint = "; set PROJKIT_LOAD_METRICS_TOKEN" if response.status in {401, 403} else ""
    return Scrape(problem=f"GET {_PATH} returned {response.reason}{hint}")


def read(text: str) -> Scrape:
    """Parse the series that are needed here."""
    counts: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for kind, labels, value in _SERIES.findall(text):
        named = dict(_LABEL.findall(labels))
        key = (named["method"], named["route"])
        if kind == "count":
            counts[key] += int(float(value))
        else:
            seconds[key] += float(value)
    routes = frozenset(dict(_LABEL.findall(labels))["route"] for labels in _ROUTE.findall(text))
    return Scrape(counts, dict(seconds), routes, sum(map(float, _MEMORY.findall(text))))


def compare(rows: list[EndpointStats], before: Scrape, after: Scrape) -> list[RouteComparison]:
    """Compare request counts and mean latencies of each route, from sending (client) and from arrival (server)."""
    sent: dict[tuple[str, str], EndpointStats] = {}
    for row in rows:
        sent.setdefault((row.method, row.route), EndpointStats(row.method, row.route)).merge(row)
    compared = []
    for key, row in sorted(sent.items()):
        counted, spent = 0, 0.0
        for route in _served_as(row.route, after):
            served = (row.method, route)
            count, seconds = after.counts[served], after.seconds.get(served, 0.0)
            if count >= before.counts[served]:  # otherwise the server has been restarted in between
                count, seconds = count - before.counts[served], seconds - before.seconds.get(served, 0.0)
            counted, spent = counted + count, spent + seconds
        mean = 1000 * spent / counted if counted else 0.0
        compared.append(RouteComparison(" ".join(key), row.service.count, counted, row.service.mean, mean))
    return compared


def _served_as(route: str, scrape: Scrape) -> list[str]:
    """Return the server's names of a route: with the mount's path, or with another if a proxy changes it."""
    if scrape.mount + route in scrape.routes:
        return [scrape.mount + route]
    return [each for each in scrape.routes if each.endswith(route)] or [route]
