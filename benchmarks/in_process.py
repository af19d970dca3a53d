"""What the kit's own code costs: the processor time of GET, LIST, POST, the probes and the errors, in process.

No server and no load generator, which cannot resolve a few microseconds: the kit is driven as a server drives it, on
uvloop, with PostgreSQL and a session in Redis. ``--against`` names the ``src`` of another version: both are then
measured in turn, round by round, and the ratio is taken within a round, so that the machine's other work falls on both.
``--python`` has the other one run by another Python.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from projkit.db import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
SERVER = os.environ.get("BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432")
REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/9")
SECRET = "a secret of the benchmarks, long enough to be taken"
TWINS = {
    "401, no credentials": "GET", "401, a forged token": "GET", "404, no such project": "GET",
    "404, no such path": "live", "422, wrong fields": "POST",
}  # fmt: skip
LIMIT_US = 100.0  # what an error may add to its successful twin
console = Console(width=110)


@dataclass
class Version:
    """A process with one version of the kit."""

    process: subprocess.Popen[str]
    cases: list[str]
    spent: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, case: str, requests: int) -> None:
        """Has it answered so many requests."""
        self.spent.setdefault(case, []).append(float(_ask(self.process, [case, requests])))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 15,
    requests: Annotated[int, typer.Option(min=80, help="Requests of each measurement.")] = 800,
    against: Annotated[Path | None, typer.Option(help="The src directory of another version.")] = None,
    python: Annotated[str, typer.Option(help="Another Python, which has the kit's dependencies.")] = "",
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    quick: Annotated[bool, typer.Option(help="5 rounds of 400 requests.")] = False,
) -> None:
    """Measure and print the table; fail where an error adds too much."""
    if quick:
        rounds, requests = 5, 400
    others = [(against, python or sys.executable)] if against or python else []
    with ExitStack() as stack:
        versions = [
            stack.enter_context(_running(source, interpreter, number))
            for number, (source, interpreter) in enumerate([*others, (None, sys.executable)])
        ]
        cases = [case for case in versions[-1].cases if only in case]
        for number in range(rounds):
            for case in cases:
                for version in versions if number % 2 else reversed(versions):
                    version.measure(case, requests)
    _show(cases, versions)


@contextmanager
def _running(source: Path | None, python: str, number: int) -> Iterator[Version]:
    """A version of the kit on a database of its own, which is gone afterwards."""
    name = f"projkit_bench_in_process_{number}"
    url = f"{SERVER}/{name}"
    asyncio.run(_database(name, url))
    path = (
        [str(HERE), os.environ.get("PYTHONPATH", "")]
        if source is None
        else [str(source.resolve()), str(HERE)]
    )
    kept = {each: value for each, value in os.environ.items() if not each.startswith("PROJKIT_")}
    environment = kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)), "PROJKIT_ENV": "development", "PROJKIT_SECRET": SECRET,
        "PROJKIT_DATABASE_URL": url, "PROJKIT_REDIS_URL": REDIS, "PROJKIT_REDIS_PREFIX": f"{name}:",
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(
            [python, str(HERE / "harness" / "laps.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=directory,
        ) as process,
    ):  # fmt: skip
        try:
            yield Version(process, json.loads(_answer(process)))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)
            asyncio.run(_database(name, None))


async def _database(name: str, url: str | None) -> None:
    administrator = await asyncpg.connect(f"{SERVER}/postgres")
    try:
        await administrator.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        if url is not None:
            await administrator.execute(f'CREATE DATABASE "{name}"')
            await migrate.upgrade(url.replace("postgresql://", "postgresql+asyncpg://"))
    finally:
        await administrator.close()


def _ask(process: subprocess.Popen[str], question: list[str | int]) -> str:
    assert process.stdin is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the measuring process has ended; its words are above")
    return line


def _show(cases: list[str], versions: list[Version]) -> None:
    columns = ["request", "CPU µs", "range"]
    if len(versions) > 1:
        columns += ["the other's", "ratio", "range"]
    table = Table(
        *columns, "added to its twin", title="processor time of one request: medians over the rounds"
    )
    missed = []
    here = versions[-1].spent
    for case in cases:
        cells = [f"{median(here[case]):.1f}", _range(here[case], ".1f")]
        for other in versions[:-1]:
            theirs = other.spent[case]
            ratios = [mine / each for mine, each in zip(here[case], theirs, strict=True)]
            cells += [f"{median(theirs):.1f}", f"{median(ratios):.3f}", _range(ratios, ".2f")]
        added = ""
        if (twin := here.get(TWINS.get(case, ""))) is not None:
            more = median(mine - each for mine, each in zip(here[case], twin, strict=True))
            added = f"{more:+.1f}"
            if more >= LIMIT_US:
                missed.append(case)
        table.add_row(case, *cells, added)
    console.print(table)
    if missed:
        raise SystemExit(f"more than {LIMIT_US:g} µs added: {'; '.join(missed)}")


def _range(figures: list[float], form: str) -> str:
    return f"{min(figures):{form}} to {max(figures):{form}}"


if __name__ == "__main__":
    typer.run(main)
