"""The kit against its peers: the same requests, interleaved, and the ratios as a table.

Every round measures each case on every server, one after the other, so that what else the machine does falls on all
of them. A ratio is taken within a round; the table has the median over the rounds and their range. Ends with exit
code 1 where a median misses its bar.
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
QUICK_SLACK = 0.7  # what a busy machine does to a short run


@dataclass(frozen=True)
class Case:
    """A request, how many connections repeat it, and as whom."""

    name: str
    requests: list[wrk.Request]
    connections: int
    subject: str = data.READER
    servers: tuple[str, ...] = (FLOOR, BARE, STOCK, KIT)


@dataclass(frozen=True)
class Goal:
    """A ratio of the kit's figure to a peer's, and the bar it must reach."""

    case: str
    peer: str
    must: float
    latency: bool = False  # p50, where less is better
    against: str = ""  # another case instead of the same one

    @property
    def title(self) -> str:
        """What is compared with what."""
        figure = "p50" if self.latency else "req/s"
        of = self.against and f"{self.against} of "
        return f"{self.case} {figure} against {of}{self.peer}"


GOALS = (
    *(Goal(case, BARE, 4.0) for case in ("GET 16", "LIST 16", "POST 16")),
    *(Goal(case, STOCK, 7.0) for case in ("GET 16", "LIST 16", "POST 16")),
    Goal("GET 16", FLOOR, 0.45),
    Goal("GET 1", FLOOR, 1.4, latency=True),
    Goal("health/live 64", BARE, 2.2),
    Goal("health/ready 64", BARE, 2.2, against="health/live 64"),
    Goal("page 1,000", KIT, 1.5, latency=True, against="page 1"),
)

Results = dict[tuple[str, str], list[wrk.Figures]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long each measurement takes.")] = 8.0,
    quick: Annotated[bool, typer.Option(help="3 rounds of 2 seconds, and bars 30 % lower.")] = False,
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    fresh: Annotated[bool, typer.Option(help="Make the benchmark's database anew.")] = False,
    report: Annotated[str, typer.Option(help="A file for every round's figures, as JSON.")] = "",
) -> None:
    """Measure, print the tables, fail where a bar is missed."""
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
        _same_answers(running)
        results = measure(cases, running, rounds, seconds)
    _show_figures(cases, results)
    if report:
        write(Path(report), results, rounds, seconds)
    missed = _show_goals(results, QUICK_SLACK if quick else 1.0)
    if missed:
        console.print(f"missed: {', '.join(missed)}")
        sys.exit(1)


def write(path: Path, results: Results, rounds: int, seconds: float) -> None:
    """Every round of every case and server, in the order in which they were measured."""
    cases = [
        {"case": case, "server": name, "rounds": [asdict(each) for each in figures]}
        for (case, name), figures in results.items()
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
    """Walks there, as a client would."""
    path = f"{API}/projects?limit=20"
    for _ in range(999):
        cursor = _ask(server, path, data.DEEP)["next_cursor"]
        path = f"{API}/projects?limit=20&cursor={cursor}"
    return path


def _ask(server: servers.Server, path: str, subject: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {server.token(subject)}"}
    with urlopen(HttpRequest(f"http://127.0.0.1:{server.port}{path}", headers=headers)) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


def _same_answers(running: dict[str, servers.Server]) -> None:
    """What is compared must be the same work: every server answers the same page."""
    (wanted, *others) = (
        [
            (each["id"], each["name"], each["tags"], each["version"])
            for each in _ask(server, f"{API}/projects?limit=20", data.READER)["items"]
        ]
        for server in running.values()
    )
    if any(other != wanted for other in others) or len(wanted) != 20:
        raise servers.ServerError("the servers do not answer the same list")


def measure(cases: list[Case], running: dict[str, servers.Server], rounds: int, seconds: float) -> Results:
    results: Results = {}
    for server in running.values():  # caches, connections, lazily imported code
        for case in cases:
            if server.spec.name in case.servers:
                _run(case, server, 1.0)
    for number in range(1, rounds + 1):
        asyncio.run(data.forget_writes(*{server.spec.table for server in running.values()}))
        for case in cases:
            for name in case.servers:
                results.setdefault((case.name, name), []).append(_run(case, running[name], seconds))
        console.print(f"round {number} of {rounds}")
    return results


def _run(case: Case, server: servers.Server, seconds: float) -> wrk.Figures:
    server.expect_alive()
    token = server.token(case.subject)
    return wrk.run(server.port, case.requests, token, connections=case.connections, seconds=seconds)


def _show_figures(cases: list[Case], results: Results) -> None:
    table = Table(
        "case", *(FLOOR, BARE, STOCK, KIT), title="req/s, p50 and p99 in ms: medians over the rounds"
    )
    for case in cases:
        cells = []
        for name in (FLOOR, BARE, STOCK, KIT):
            figures = results.get((case.name, name))
            cells.append("" if figures is None else _figures(figures))
        table.add_row(case.name, *cells)
    console.print(table)


def _figures(figures: list[wrk.Figures]) -> str:
    per_second = median(each.per_second for each in figures)
    p50, p99 = (median(getattr(each, name) for each in figures) / 1000 for name in ("p50_us", "p99_us"))
    return f"{per_second:,.0f}  {p50:.2f}  {p99:.1f}"


def _show_goals(results: Results, slack: float) -> list[str]:
    table = Table("ratio", "median", "range", "must", "", title="the goals")
    missed = []
    for goal in GOALS:
        mine, theirs = results.get((goal.case, KIT)), results.get((goal.against or goal.case, goal.peer))
        if mine is None or theirs is None:
            continue
        figure = "p50_us" if goal.latency else "per_second"
        ratios = [getattr(a, figure) / getattr(b, figure) for a, b in zip(mine, theirs, strict=True)]
        middle = median(ratios)
        good = middle * slack <= goal.must if goal.latency else middle >= goal.must * slack
        if not good:
            missed.append(goal.title)
        bar = f"{'≤' if goal.latency else '≥'} {goal.must:g}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add_row(goal.title, f"{middle:.2f}", spread, bar, "good" if good else "MISSED")
    console.print(table)
    return missed


if __name__ == "__main__":
    typer.run(main)
