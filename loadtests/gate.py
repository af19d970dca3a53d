"""The gate: baseline, health and errors against ``projkit serve`` on PostgreSQL and Redis, with 200,000 projects.

    python loadtests/gate.py             # three minutes; exit code 1 where a target was missed
    python loadtests/gate.py --slowed    # the same with a slow database: ends with 0 only where the gate fails

The database, its rows and its server are those of the benchmarks. PROJKIT_LOAD_SLACK stretches the targets of time.
"""

import asyncio
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from harness import data, kit, servers  # noqa: E402  # found by the line above
from peers.common import DATABASE_URL  # noqa: E402

SUITES = ("baseline", "health", "errors")
SECONDS = 25
SLACK = "2.5"  # two cores for the server, PostgreSQL, Redis and the load; docs/load-testing.md says why
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
DELAY_MS, SLOWED_SECONDS = 150, 12


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slowed", action="store_true", help="slow the database down, and expect the gate to fail"
    )
    parser.add_argument("--reports", default="", help="a directory for HTML, CSV and JSON")
    chosen = parser.parse_args(arguments)
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    set_user(environment)
    try:
        if chosen.slowed:
            return slowed()
        with servers.running(kit.spec(), environment) as server:
            host, load = f"http://127.0.0.1:{server.port}", load_environment(server)
            codes = [run(suite, host, load, chosen.reports) for suite in SUITES]
    finally:
        asyncio.run(forget())
    for suite, code in zip(SUITES, codes, strict=True):
        print(f"{suite:10} {'good' if code == 0 else f'FAILED ({code})'}")
    return int(any(codes))


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


def run(suite: str, host: str, load: dict[str, str], reports: str) -> int:
    """One suite's exit code."""
    print(f"\n=== {suite}", flush=True)
    extra = []
    if reports:
        at = str(Path(reports) / suite)
        extra = ["--html", f"{at}.html", "--csv", at, "--report", f"{at}.json"]
    return subprocess.call([*command(suite, host, SECONDS), *extra], env=load)


def slowed() -> int:
    """The baseline on a server whose database is slow: 0 where it failed as it must, with a table that says so."""
    database = urlsplit(DATABASE_URL)
    with delayed(database.port or 5432) as port:
        user = f"{database.username}@" if database.username else ""
        url = urlunsplit(database._replace(netloc=f"{user}127.0.0.1:{port}"))
        with servers.running(kit.spec(), servers.environment({"PROJKIT_DATABASE_URL": url})) as server:
            line = command("baseline", f"http://127.0.0.1:{server.port}", SLOWED_SECONDS)
            done = subprocess.run(
                line, env=load_environment(server), capture_output=True, text=True, check=False
            )
    print(done.stdout)
    _, _, table = done.stdout.partition("\nBROKEN\n")
    rows = [row.split() for row in table.splitlines()]
    if done.returncode == 1 and any(row[:2] == ["GET", "/projects"] and "p99" in row for row in rows):
        print(f"As it must, the gate failed on a database that is {DELAY_MS} ms slower")
        return 0
    print(f"The gate let a database pass that is {DELAY_MS} ms slower: {done.returncode}\n{done.stderr}")
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
    """Takes away what walks have left, deleted rows included: the benchmarks count the rows."""
    async with data.connected() as connection:
        await connection.execute(f"DELETE FROM {kit.TABLE} WHERE tags @> '[\"load\"]'")


if __name__ == "__main__":
    sys.exit(main())
