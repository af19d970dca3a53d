"""The CPU time of the kit's own code per request: GET, LIST, POST, probes and errors, in process.

There is no server and no load generator, which cannot resolve a few microseconds: the kit is called as a server calls
it, on uvloop, with PostgreSQL and a session in Redis. ``--against`` names the ``src`` directory of another version;
both are measured in turn, and ratios are computed within each round, so that other load on the machine affects both.
With ``--python``, the other version is run by another Python.
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
SECRET = "a secret for the benchmarks only, long enough"
# The successful counterpart of each error.
COUNTERPARTS = {
    "401, no credentials": "GET", "401, a forged token": "GET", "404, no such project": "GET",
    "404, no such path": "live", "422, wrong fields": "POST",
}  # fmt: skip
LIMIT_US = 100.0  # that an error may cost more than its counterpart
console = Console(width=110)


@dataclass
class Version:
    """A process that runs one version of the kit."""

    process: subprocess.Popen[str]
    cases: list[str]
    cpu_us: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, case: str, requests: int) -> None:
        """Measure the CPU time of a number of requests."""
        self.cpu_us.setdefault(case, []).append(float(_request(self.process, [case, requests])))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each case.")] = 15,
    requests: Annotated[int, typer.Option(min=80, help="The number of requests of each measurement.")] = 800,
    against: Annotated[Path | None, typer.Option(help="The src directory of another version.")] = None,
    python: Annotated[str, typer.Option(help="Another Python that has the kit's dependencies.")] = "",
    only: Annotated[str, typer.Option(help="Measure only cases whose name contains this text.")] = "",
    quick: Annotated[bool, typer.Option(help="5 rounds of 400 requests.")] = False,
) -> None:
    """Measure, print the table, and fail if an error costs too much."""
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
    """Run a version of the kit on a database of its own, which is dropped afterwards.

    A version that has this benchmark brings its own worker script, which fits its names.
    """
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
            [python, str(_worker(source))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=directory,
        ) as process,
    ):  # fmt: skip
        try:
            yield Version(process, json.loads(_read_line(process)))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)
            asyncio.run(_database(name, None))


def _worker(source: Path | None) -> Path:
    own = HERE / "harness" / "laps.py"
    other = own if source is None else source.resolve().parent / own.relative_to(HERE.parent)
    return other if other.exists() else own


async def _database(name: str, url: str | None) -> None:
    administrator = await asyncpg.connect(f"{SERVER}/postgres")
    try:
        await administrator.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        if url is not None:
            await administrator.execute(f'CREATE DATABASE "{name}"')
            await migrate.upgrade(url.replace("postgresql://", "postgresql+asyncpg://"))
    finally:
        await administrator.close()


def _request(process: subprocess.Popen[str], command: list[str | int]) -> str:
    assert process.stdin is not None
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    return _read_line(process)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the worker process has ended; its error is above")
    return line


def _show(cases: list[str], versions: list[Version]) -> None:
    columns = ["request", "CPU µs", "range"]
    if len(versions) > 1:
        columns += ["other version", "ratio", "range"]
    table = Table(*columns, "added by the error", title="CPU time per request: medians over the rounds")
    missed = []
    here = versions[-1].cpu_us
    for case in cases:
        cells = [f"{median(here[case]):.1f}", _range(here[case], ".1f")]
        for other in versions[:-1]:
            other_times = other.cpu_us[case]
            ratios = [own / each for own, each in zip(here[case], other_times, strict=True)]
            cells += [f"{median(other_times):.1f}", f"{median(ratios):.3f}", _range(ratios, ".2f")]
        added = ""
        if (counterpart := here.get(COUNTERPARTS.get(case, ""))) is not None:
            difference = median(own - each for own, each in zip(here[case], counterpart, strict=True))
            added = f"{difference:+.1f}"
            if difference >= LIMIT_US:
                missed.append(case)
        table.add_row(case, *cells, added)
    console.print(table)
    if missed:
        raise SystemExit(f"these errors cost more than {LIMIT_US:g} µs: {'; '.join(missed)}")


def _range(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


if __name__ == "__main__":
    typer.run(main)
