"""The kit on uvicorn, as ``projkit serve`` runs it, and on granian: the same requests, interleaved.

For applications that mount the kit and choose their own server. Requires ``pip install granian`` and the database of
``run.py``, which is filled if it is empty. Ratios are computed within each round; the table has their median and range.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Annotated

import typer
from harness import data, kit, servers, wrk
from peers.common import API
from rich.console import Console
from rich.table import Table
from run import BODY, Case, measure

UVICORN, GRANIAN = "projkit", "granian"
console = Console(width=110)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="The duration of each measurement.")] = 4.0,
) -> None:
    """Measure and print the table."""
    environment = servers.environment()
    asyncio.run(data.make_database(fresh=False))
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    own = kit.spec()
    variables = {**own.variables, "PROJKIT_ACCESS_LOG": "false"}
    specs = (own, replace(own, name=GRANIAN, command=_granian, variables=variables))
    with ExitStack() as stack:
        running = {spec.name: stack.enter_context(servers.running(spec, environment)) for spec in specs}
        cases = _cases()
        results = measure(cases, running, rounds, seconds)
    table = Table("case", *(f"{name} req/s, p99 ms" for name in (UVICORN, GRANIAN)), "ratio", "range")
    for case in cases:
        first, second = (results[case.name, name] for name in (UVICORN, GRANIAN))
        ratios = [b.per_second / a.per_second for a, b in zip(first, second, strict=True)]
        cells = [
            f"{median(each.per_second for each in server):,.0f}  {median(each.p99_us for each in server) / 1000:.1f}"
            for server in (first, second)
        ]
        table.add_row(case.name, *cells, f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}")
    console.print(table)


def _granian(port: int) -> list[str]:
    return [
        *[sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--workers", "1"],
        *[
            "--no-access-log",
            "--loop",
            "uvloop",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "projkit.cli.server:create_app",
        ],
    ]


def _cases() -> list[Case]:
    ids = asyncio.run(data.some_ids(data.READER, 512))
    gets = [wrk.Request("GET", f"{API}/projects/{each}") for each in ids]
    both = (UVICORN, GRANIAN)
    return [
        Case("health/live 64", [wrk.Request("GET", f"{API}/health/live")], 64, servers=both),
        Case("GET 1", gets, 1, servers=both),
        Case("GET 16", gets, 16, servers=both),
        Case("LIST 16", [wrk.Request("GET", f"{API}/projects?limit=20")], 16, servers=both),
        Case("POST 16", [wrk.Request("POST", f"{API}/projects", BODY)], 16, data.WRITER, servers=both),
    ]


if __name__ == "__main__":
    typer.run(main)
