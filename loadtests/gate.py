"""The gate: baseline, health and errors against ``projkit serve`` on PostgreSQL and Redis, with 200,000 projects.

    python loadtests/gate.py             # one minute; exit code 1 if a target was missed, 2 if there is no verdict
    python loadtests/gate.py --slowed    # the same with a slow database: exit code 0 only if the gate fails

The database, its rows and the server are those of the benchmarks. PROJKIT_LOAD_SLACK multiplies the latency targets.
A suite that misses a latency target is retried; docs/load-testing.md explains the rules.
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

from harness import data, kit, servers  # noqa: E402  # needs the path above
from peers.common import DATABASE_URL  # noqa: E402
from support import retries, slo, tables  # noqa: E402

SUITES = {"baseline": 18, "health": 10, "errors": 14}  # duration in seconds
WARM_UP_SECONDS = 4
MAX_ATTEMPTS = 3
SLACK = "2.5"  # server, PostgreSQL, Redis and the load share two cores; see docs/load-testing.md
BUSY_PERCENT, MAX_WAIT_SECONDS = 25.0, 10.0
USER = "load"
PASSWORD = "a password of load tests only"
OWNERS = tuple(f"owner-{number:04}" for number in (1, 5, 20, 100, 500, 1500))  # largest first
DELAY_MS, SLOWED = 60, {"baseline": 8}


class GateError(Exception):
    """A suite ended without a verdict."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slowed", action="store_true", help="slow the database down and expect the gate to fail"
    )
    parser.add_argument("--reports", default="", help="directory for HTML, CSV and JSON reports")
    chosen = parser.parse_args(arguments)
    try:
        return run_with_database(chosen.reports, slow=chosen.slowed)
    except (GateError, servers.ServerError, OSError, subprocess.CalledProcessError) as error:
        print(f"No verdict: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def run_with_database(reports: str, *, slow: bool) -> int:
    """Prepare the database, run the gate, clean up, and return the exit code."""
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    set_user(environment)
    asyncio.run(clean_up())
    with tempfile.TemporaryDirectory() as directory:
        report_directory = Path(reports or directory)
        try:
            return (
                check_slow_database(report_directory)
                if slow
                else check_targets(environment, report_directory)
            )
        finally:
            asyncio.run(clean_up())


def check_targets(environment: Mapping[str, str], reports: Path) -> int:
    """Run all suites; return 1 if a target was missed."""
    started = time.monotonic()
    with servers.running(kit.spec(), environment, pinned=False) as server:
        missed = gate(server, SUITES, reports)
    print(f"The gate took {time.monotonic() - started:.0f} s")
    return int(any(missed.values()))


def gate(
    server: servers.Server, suites: Mapping[str, int], reports: Path
) -> dict[str, list[retries.MissedEntry]]:
    """Run the suites, print the result and return the missed targets of each."""
    host, load = f"http://127.0.0.1:{server.port}", load_environment(server)
    # Connections, caches and query plans: the gate does not measure one-time work.
    subprocess.run(command("baseline", host, WARM_UP_SECONDS), env=load, capture_output=True, check=False)
    missed = {
        suite: run_with_retries(suite, seconds, host, load, reports) for suite, seconds in suites.items()
    }
    for suite, each in missed.items():
        print(f"{suite:10} {'FAILED' if each else 'passed'}")
    return missed


def run_with_retries(
    suite: str, seconds: int, host: str, load: dict[str, str], reports: Path
) -> list[retries.MissedEntry]:
    """Run one suite with up to `MAX_ATTEMPTS` attempts and return the missed targets."""
    results: list[retries.Report] = []
    busy: list[float] = []
    missed: list[retries.MissedEntry] = []
    while len(results) < MAX_ATTEMPTS:
        busy.append(other_load_percent(MAX_WAIT_SECONDS if results else 0.0))
        number = len(results) + 1
        print(f"\n=== {suite}" + (f", attempt {number} of {MAX_ATTEMPTS}" if results else ""), flush=True)
        results.append(run(suite, seconds, host, load, reports / (f"{suite}-{number}" if results else suite)))
        missed = retries.persistent(results)
        if not missed or any(each["limit_ms"] is None for each in missed):
            break
    if missed and min(busy) > BUSY_PERCENT:
        print(
            f"\nOther programs used {min(busy):.0f} % of this machine or more before every attempt: judging by medians"
        )
        missed = [left for each in missed if (left := retries.by_median(each, results))]
    if missed:
        print(
            tables.missed_targets(
                f"MISSED in {len(results)} attempts" if len(results) > 1 else "MISSED", missed
            )
        )
    return missed


def other_load_percent(max_wait: float) -> float:
    """Return the CPU use of other programs in percent; wait up to ``max_wait`` seconds for it to drop."""
    deadline = time.monotonic() + max_wait
    while (share := psutil.cpu_percent(0.5)) > BUSY_PERCENT and time.monotonic() < deadline:
        time.sleep(0.5)
    return share


def set_user(environment: dict[str, str]) -> None:
    """Create the user whose logins are measured, or reset the password."""
    command = [servers.find_kit() or "projkit", "user"]
    response = f"{PASSWORD}\n".encode()
    added = subprocess.run(
        [*command, "add", USER], input=response, env=environment, capture_output=True, check=False
    )
    if added.returncode:  # exists from an earlier run
        subprocess.run(
            [*command, "password", USER], input=response, env=environment, capture_output=True, check=True
        )


def load_environment(server: servers.Server) -> dict[str, str]:
    """Return the environment variables that a tester would set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
    return {
        **inherited,
        "PROJKIT_LOAD_TOKEN": " ".join(map(server.token, OWNERS)),
        "PROJKIT_LOAD_USER": USER,
        "PROJKIT_LOAD_PASSWORD": PASSWORD,
        "PROJKIT_LOAD_SLACK": os.environ.get("PROJKIT_LOAD_SLACK", SLACK),
    }


def command(suite: str, host: str, seconds: int) -> list[str]:
    """Return the command that a tester would run."""
    return [
        *[sys.executable, "-m", "locust", "-f", str(HERE / f"{suite}.py"), "--headless", "--only-summary"],
        *["--host", host, "--run-time", f"{seconds}s", "--loglevel", "WARNING"],
    ]


def run(suite: str, seconds: int, host: str, load: dict[str, str], at: Path) -> retries.Report:
    """Run one attempt and return its JSON report.

    Raises:
        GateError: the suite ended without a verdict.
    """
    at.parent.mkdir(parents=True, exist_ok=True)
    extra = ["--html", f"{at}.html", "--csv", str(at), "--report", f"{at}.json"]
    Path(f"{at}.json").unlink(missing_ok=True)
    code = subprocess.call([*command(suite, host, seconds), *extra], env=load)
    if not Path(f"{at}.json").exists():
        raise GateError(f"{suite} ended with exit code {code} and without a verdict")
    report: dict[str, Any] = json.loads(Path(f"{at}.json").read_text())
    if code != int(not report["passed"]):
        raise GateError(f"{suite} ended with exit code {code}, which contradicts its report")
    report["missed"] += retries.slow_medians(report, limits())
    return report


@cache
def limits() -> dict[str, float]:
    """Return the limit of each endpoint's median: its declared target without slack."""
    targets = slo.load(str(HERE / "slo.toml"))
    return {name: limit for name, each in targets.items() if (limit := each.p99_ms or each.mean_ms)}


def check_slow_database(reports: Path) -> int:
    """Run the baseline with a slow database; return 0 if the gate fails and names the list endpoint."""
    database = urlsplit(DATABASE_URL)
    with delayed(database.port or 5432) as port:
        user = f"{database.username}@" if database.username else ""
        url = urlunsplit(database._replace(netloc=f"{user}127.0.0.1:{port}"))
        environment = servers.environment({"PROJKIT_DATABASE_URL": url})
        with servers.running(kit.spec(), environment, pinned=False) as server:
            missed = gate(server, SLOWED, reports)["baseline"]
    if any(each["endpoint"] == "GET /projects" and each["limit_ms"] is not None for each in missed):
        print(f"As expected, the gate failed on a database that is {DELAY_MS} ms slower")
        return 0
    print(f"ERROR: the gate passed a database that is {DELAY_MS} ms slower")
    return 1


@contextmanager
def delayed(upstream: int) -> Iterator[int]:
    """Start a proxy that delays every response; yield its port."""
    line = [sys.executable, str(HERE / "delay_proxy.py"), str(upstream), str(DELAY_MS)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as proxy:
        try:
            assert proxy.stdout is not None, "stdout is a pipe"
            yield int(proxy.stdout.readline())
        finally:
            proxy.terminate()


async def clean_up() -> None:
    """Delete the rows that iterations left, soft-deleted ones included, and vacuum the table."""
    async with data.connected() as connection:
        await connection.execute(f"DELETE FROM {kit.TABLE} WHERE tags @> '[\"load\"]'")
        await data.settle(connection, kit.TABLE)


if __name__ == "__main__":
    sys.exit(main())
