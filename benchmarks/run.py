"""The kit compared with its peers: the same requests, interleaved, and the ratios as a table.

Every round measures each case on every server, one after the other, so that other load on the machine affects all of
them. Ratios are computed within each round; the table has their median and range. The exit code is 1 if a median
misses its goal.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import typer
from harness import data, kit, servers, wrk
from peers.common import API
from rich.console import Console
from rich.table import Table

KIT, BARE, STOCK, FLOOR = "projkit", "fastapi_orm", "fastapi_stock", "floor"
BODY = json.dumps(
    {
        "name": "Move the data centre",
        "description": "Everything in the cellar goes to the new building before the lease ends. " * 3,
        "status": "active", "priority": "high", "tags": ["infrastructure", "2026"],
        "start_date": "2026-02-01", "due_date": "2026-09-30", "metadata": {"cost_centre": 4711, "approved": True},
    }
)  # fmt: skip
console = Console(width=110)
QUICK_SLACK = 0.7  # the tolerance for short runs on a busy machine


@dataclass(frozen=True)
class Case:
    """Requests that are repeated on a number of connections, as one user."""

    name: str
    requests: list[wrk.Request]
    connections: int
    subject: str = data.READER
    servers: tuple[str, ...] = (FLOOR, BARE, STOCK, KIT)


@dataclass(frozen=True)
class Goal:
    """A ratio of the kit's result to a peer's, and the value that it must reach."""

    case: str
    peer: str
    must: float
    latency: bool = False  # compare the p50, where less is better, instead of the throughput
    peer_case: str = ""  # the peer's case, if it is not the same

    @property
    def title(self) -> str:
        """The comparison in words."""
        figure = "p50" if self.latency else "req/s"
        peer_case = self.peer_case and f"{self.peer_case} of "
        return f"{self.case} {figure} against {peer_case}{self.peer}"


GOALS = (
    *(Goal(case, BARE, 4.0) for case in ("GET 16", "LIST 16", "POST 16")),
    *(Goal(case, STOCK, 7.0) for case in ("GET 16", "LIST 16", "POST 16")),
    Goal("GET 16", FLOOR, 0.45),
    Goal("GET 1", FLOOR, 1.4, latency=True),
    Goal("health/live 64", BARE, 2.2),
    Goal("health/ready 64", BARE, 2.2, peer_case="health/live 64"),
    Goal("page 1,000", KIT, 1.5, latency=True, peer_case="page 1"),
)

Results = dict[tuple[str, str], list[wrk.Measurement]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="The duration of each measurement.")] = 8.0,
    quick: Annotated[bool, typer.Option(help="3 rounds of 2 seconds, and 30 % lower goals.")] = False,
    only: Annotated[str, typer.Option(help="Measure only cases whose name contains this text.")] = "",
    fresh: Annotated[bool, typer.Option(help="Create the benchmark's database again.")] = False,
    report: Annotated[str, typer.Option(help="Write all measurements to this file, as JSON.")] = "",
) -> None:
    """Measure, print the tables, and fail if a goal is missed."""
    if quick:
        rounds, seconds = 3, 2.0
    environment = servers.environment()
    asyncio.run(data.make_database(fresh=fresh))
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    specs = (
        servers.peer(FLOOR, "raw ASGI + asyncpg + orjson", "floor"),
        servers.peer(BARE, "FastAPI + SQLAlchemy ORM", "fastapi_orm"),
        servers.peer(STOCK, "the same with stock observability", "fastapi_stock"),
        kit.spec(),
    )
    with ExitStack() as stack:
        running = {spec.name: stack.enter_context(servers.running(spec, environment)) for spec in specs}
        cases = [case for case in _cases(running[KIT]) if only in case.name]
        _check_responses(running)
        results = measure(cases, running, rounds, seconds)
    _show_measurements(cases, results)
    if report:
        write(Path(report), results, rounds, seconds)
    missed = _show_goals(results, QUICK_SLACK if quick else 1.0)
    if missed:
        console.print(f"missed: {', '.join(missed)}")
        sys.exit(1)


def write(path: Path, results: Results, rounds: int, seconds: float) -> None:
    """Write the measurements of all cases and servers, in the order in which they were made."""
    cases = [
        {"case": case, "server": name, "rounds": [asdict(each) for each in measurements]}
        for (case, name), measurements in results.items()
    ]
    document = {"rounds": rounds, "seconds": seconds, "cases": cases}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cases(server: servers.Server) -> list[Case]:
    ids = asyncio.run(data.some_ids(data.READER, 512))
    gets = [wrk.Request("GET", f"{API}/projects/{each}") for each in ids]
    lists = [wrk.Request("GET", f"{API}/projects?limit=20")]
    posts = [wrk.Request("POST", f"{API}/projects", BODY)]

    def deep(name: str, path: str) -> Case:
        return Case(name, [wrk.Request("GET", path)], 1, data.DEEP, (KIT,))

    return [
        Case("GET 1", gets, 1),
        Case("GET 16", gets, 16),
        Case("LIST 16", lists, 16),
        Case("POST 16", posts, 16, data.WRITER),
        Case("health/live 64", [wrk.Request("GET", f"{API}/health/live")], 64),
        Case("health/ready 64", [wrk.Request("GET", f"{API}/health/ready")], 64, servers=(KIT,)),
        deep("page 1", f"{API}/projects?limit=20"),
        deep("page 1,000", thousandth_page(server)),
        deep("page 1 with total", f"{API}/projects?limit=20&total=true"),
    ]


def thousandth_page(server: servers.Server) -> str:
    """Follow the cursors to the thousandth page and return its path."""
    path = f"{API}/projects?limit=20"
    for _ in range(999):
        cursor = _get(server, path, data.DEEP)["next_cursor"]
        path = f"{API}/projects?limit=20&cursor={cursor}"
    return path


def _get(server: servers.Server, path: str, subject: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {server.token(subject)}"}
    with urlopen(HttpRequest(f"http://127.0.0.1:{server.port}{path}", headers=headers)) as response:
        content: dict[str, Any] = json.load(response)
        return content


def _check_responses(running: dict[str, servers.Server]) -> None:
    """Check that all servers do the same work: they return the same page."""
    (expected, *others) = (
        [
            (each["id"], each["name"], each["tags"], each["version"])
            for each in _get(server, f"{API}/projects?limit=20", data.READER)["items"]
        ]
        for server in running.values()
    )
    if any(other != expected for other in others) or len(expected) != 20:
        raise servers.ServerError("the servers do not return the same list")


def measure(cases: list[Case], running: dict[str, servers.Server], rounds: int, seconds: float) -> Results:
    """Measure every case on every server, round by round."""
    results: Results = {}
    for server in running.values():  # warm-up: caches, connections, lazy imports
        for case in cases:
            if server.spec.name in case.servers:
                _run(case, server, 1.0)
    for number in range(1, rounds + 1):
        asyncio.run(data.delete_writes(*{server.spec.table for server in running.values()}))
        for case in cases:
            for name in case.servers:
                results.setdefault((case.name, name), []).append(_run(case, running[name], seconds))
        console.print(f"round {number} of {rounds}")
    return results


def _run(case: Case, server: servers.Server, seconds: float) -> wrk.Measurement:
    server.expect_alive()
    token = server.token(case.subject)
    return wrk.run(server.port, case.requests, token, connections=case.connections, seconds=seconds)


def _show_measurements(cases: list[Case], results: Results) -> None:
    table = Table(
        "case", *(FLOOR, BARE, STOCK, KIT), title="req/s, p50 and p99 in ms: medians over the rounds"
    )
    for case in cases:
        cells = []
        for name in (FLOOR, BARE, STOCK, KIT):
            measurements = results.get((case.name, name))
            cells.append("" if measurements is None else _cell(measurements))
        table.add_row(case.name, *cells)
    console.print(table)


def _cell(measurements: list[wrk.Measurement]) -> str:
    per_second = median(each.per_second for each in measurements)
    p50, p99 = (median(getattr(each, name) for each in measurements) / 1000 for name in ("p50_us", "p99_us"))
    return f"{per_second:,.0f}  {p50:.2f}  {p99:.1f}"


def _show_goals(results: Results, slack: float) -> list[str]:
    table = Table("ratio", "median", "range", "goal", "", title="the goals")
    missed = []
    for goal in GOALS:
        own, peers = results.get((goal.case, KIT)), results.get((goal.peer_case or goal.case, goal.peer))
        if own is None or peers is None:
            continue
        quantity = "p50_us" if goal.latency else "per_second"
        ratios = [getattr(a, quantity) / getattr(b, quantity) for a, b in zip(own, peers, strict=True)]
        middle = median(ratios)
        reached = middle * slack <= goal.must if goal.latency else middle >= goal.must * slack
        if not reached:
            missed.append(goal.title)
        limit = f"{'≤' if goal.latency else '≥'} {goal.must:g}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add_row(goal.title, f"{middle:.2f}", spread, limit, "reached" if reached else "MISSED")
    console.print(table)
    return missed


if __name__ == "__main__":
    typer.run(main)
