"""The gate: baseline, health and errors against ``projkit serve`` on PostgreSQL and Redis, with 200,000 projects.

    python loadtests/gate.py             # a minute; exit code 1 where a target was missed, 2 without a verdict
    python loadtests/gate.py --slowed    # the same with a slow database: ends with 0 only where the gate fails

The database, its rows and its server are those of the benchmarks. PROJKIT_LOAD_SLACK stretches the targets of time.
A suite that misses a target of time is tried again: docs/load-testing.md says what counts then.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from harness import data, kit, servers  # noqa: E402  # found by the line above
from peers.common import DATABASE_URL  # noqa: E402
from support import slo, tables, tries  # noqa: E402

SUITES = {"baseline": 18, "health": 10, "errors": 14}  # and for how many seconds
WARM_UP_SECONDS = 4
TRIES = 3
SLACK = "2.5"  # two cores for the server, PostgreSQL, Redis and the load; docs/load-testing.md says why
BUSY_PERCENT, CALM_SECONDS = 25.0, 10.0
USER = "load"
PASSWORD = "a load test's password, of no worth"
OWNERS = (
    "owner-0001",
    "owner-0005",
    "owner-0020",
    "owner-0100",
    "owner-0500",
    "owner-1500",
)  # large ones first
DELAY_MS, SLOWED = 60, {"baseline": 8}


class GateError(Exception):
    """A suite that gave no verdict."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slowed", action="store_true", help="slow the database down, and expect the gate to fail"
    )
    parser.add_argument("--reports", default="", help="a directory for HTML, CSV and JSON")
    chosen = parser.parse_args(arguments)
    try:
        return prepared(chosen.reports, slow=chosen.slowed)
    except (GateError, servers.ServerError, OSError, subprocess.CalledProcessError) as error:
        print(f"No verdict: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def prepared(reports: str, *, slow: bool) -> int:
    """The exit code, with the database made ready before and cleared up after."""
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    set_user(environment)
    asyncio.run(forget())
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(reports or directory)
        try:
            return slowed(kept) if slow else honest(environment, kept)
        finally:
            asyncio.run(forget())


def honest(environment: Mapping[str, str], reports: Path) -> int:
    """All suites on the server as it is: 1 where something was missed."""
    started = time.monotonic()
    with servers.running(kit.spec(), environment, pinned=False) as server:
        missed = gate(server, SUITES, reports)
    print(f"The gate took {time.monotonic() - started:.0f} s")
    return int(any(missed.values()))


def gate(server: servers.Server, suites: Mapping[str, int], reports: Path) -> dict[str, list[tries.Missed]]:
    """What each suite missed in the end; said as well."""
    host, load = f"http://127.0.0.1:{server.port}", load_environment(server)
    # Connections, caches, statements' plans: what a server does once is not what is asked about.
    subprocess.run(command("baseline", host, WARM_UP_SECONDS), env=load, capture_output=True, check=False)
    missed = {suite: settled(suite, seconds, host, load, reports) for suite, seconds in suites.items()}
    for suite, each in missed.items():
        print(f"{suite:10} {'FAILED' if each else 'good'}")
    return missed


def settled(suite: str, seconds: int, host: str, load: dict[str, str], reports: Path) -> list[tries.Missed]:
    """What one suite missed after as many tries as it needs."""
    results: list[tries.Report] = []
    busy: list[float] = []
    missed: list[tries.Missed] = []
    while len(results) < TRIES:
        busy.append(others(CALM_SECONDS if results else 0.0))
        number = len(results) + 1
        print(f"\n=== {suite}" + (f", try {number} of {TRIES}" if results else ""), flush=True)
        results.append(run(suite, seconds, host, load, reports / (f"{suite}-{number}" if results else suite)))
        missed = tries.lasting(results)
        if not missed or any(each["limit_ms"] is None for each in missed):
            break
    if missed and min(busy) > BUSY_PERCENT:
        print(
            f"\nOther programs used {min(busy):.0f} % of this machine or more, before every try: medians are judged"
        )
        missed = [left for each in missed if (left := tries.by_median(each, results))]
    if missed:
        print(tables.broken(f"MISSED in {len(results)} tries" if len(results) > 1 else "MISSED", missed))
    return missed


def others(patience: float) -> float:
    """What part of the machine other programs use while nothing is asked, in percent; waits for them for a while."""
    deadline = time.monotonic() + patience
    while (share := psutil.cpu_percent(0.5)) > BUSY_PERCENT and time.monotonic() < deadline:
        time.sleep(0.5)
    return share


def set_user(environment: dict[str, str]) -> None:
    """The user whose log-ins are measured, with the password of this file."""
    command = [servers.find_kit() or "projkit", "user"]
    answer = f"{PASSWORD}\n".encode()
    added = subprocess.run(
        [*command, "add", USER], input=answer, env=environment, capture_output=True, check=False
    )
    if added.returncode:  # there from an earlier run
        subprocess.run(
            [*command, "password", USER], input=answer, env=environment, capture_output=True, check=True
        )


def load_environment(server: servers.Server) -> dict[str, str]:
    """What a tester would set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
    return {
        **kept,
        "PROJKIT_LOAD_TOKEN": " ".join(map(server.token, OWNERS)),
        "PROJKIT_LOAD_USER": USER,
        "PROJKIT_LOAD_PASSWORD": PASSWORD,
        "PROJKIT_LOAD_SLACK": os.environ.get("PROJKIT_LOAD_SLACK", SLACK),
    }


def command(suite: str, host: str, seconds: int) -> list[str]:
    """What a tester would type."""
    return [
        *[sys.executable, "-m", "locust", "-f", str(HERE / f"{suite}.py"), "--headless", "--only-summary"],
        *["--host", host, "--run-time", f"{seconds}s", "--loglevel", "WARNING"],
    ]


def run(suite: str, seconds: int, host: str, load: dict[str, str], at: Path) -> tries.Report:
    """One try: its JSON report.

    Raises:
        GateError: it neither passed nor failed.
    """
    at.parent.mkdir(parents=True, exist_ok=True)
    extra = ["--html", f"{at}.html", "--csv", str(at), "--report", f"{at}.json"]
    Path(f"{at}.json").unlink(missing_ok=True)
    code = subprocess.call([*command(suite, host, seconds), *extra], env=load)
    if not Path(f"{at}.json").exists():
        raise GateError(f"{suite} ended with exit code {code} and without a verdict")
    report: dict[str, Any] = json.loads(Path(f"{at}.json").read_text())
    if code != int(not report["passed"]):
        raise GateError(f"{suite} ended with exit code {code}, and its report says otherwise")
    report["broken"] += tries.slow_medians(report, limits())
    return report


@cache
def limits() -> dict[str, float]:
    """What each endpoint's median must stay below: its target, as it is declared."""
    targets = slo.load(str(HERE / "slo.toml"))
    return {name: limit for name, each in targets.items() if (limit := each.p99_ms or each.mean_ms)}


def slowed(reports: Path) -> int:
    """The baseline on a server whose database is slow: 0 where the gate failed as it must, and says where."""
    database = urlsplit(DATABASE_URL)
    with delayed(database.port or 5432) as port:
        user = f"{database.username}@" if database.username else ""
        url = urlunsplit(database._replace(netloc=f"{user}127.0.0.1:{port}"))
        environment = servers.environment({"PROJKIT_DATABASE_URL": url})
        with servers.running(kit.spec(), environment, pinned=False) as server:
            missed = gate(server, SLOWED, reports)["baseline"]
    if any(each["endpoint"] == "GET /projects" and each["limit_ms"] is not None for each in missed):
        print(f"As it must, the gate failed on a database that is {DELAY_MS} ms slower")
        return 0
    print(f"The gate let a database pass that is {DELAY_MS} ms slower")
    return 1


@contextmanager
def delayed(upstream: int) -> Iterator[int]:
    """The port of a proxy of our own that holds back every answer."""
    line = [sys.executable, str(HERE / "slow.py"), str(upstream), str(DELAY_MS)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as proxy:
        try:
            assert proxy.stdout is not None, "it was asked for"
            yield int(proxy.stdout.readline())
        finally:
            proxy.terminate()


async def forget() -> None:
    """Takes away what walks have left, deleted ones included, and does PostgreSQL's housekeeping in time."""
    async with data.connected() as connection:
        await connection.execute(f"DELETE FROM {kit.TABLE} WHERE tags @> '[\"load\"]'")
        await data.settle(connection, kit.TABLE)


if __name__ == "__main__":
    sys.exit(main())
