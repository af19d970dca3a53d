"""The gate: baseline, health and errors against ``projkit serve`` on PostgreSQL and Redis, with 200,000 projects.

    python loadtests/gate.py             # three minutes; exit code 1 where a target was missed
    python loadtests/gate.py --slowed    # the same server behind a delay: ends with 0 only where the gate fails

The database, its rows and its server are those of the benchmarks. PROJKIT_LOAD_SLACK stretches the targets of time.
"""

import asyncio
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from harness import data, kit, servers  # noqa: E402  # found by the line above

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
DELAY_MS = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slowed", action="store_true", help="serve with a delay, and expect the gate to fail"
    )
    parser.add_argument("--reports", default="", help="a directory for HTML, CSV and JSON")
    chosen = parser.parse_args(arguments)
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    set_user(environment)
    spec = kit.spec()
    try:
        with servers.running(spec, environment) as server:
            host = f"http://127.0.0.1:{server.port}"
            load = load_environment([server.token(owner) for owner in OWNERS])
            if chosen.slowed:
                return slowed(host, load)
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


def load_environment(tokens: list[str]) -> dict[str, str]:
    """What a tester would set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
    return {
        **kept,
        "PROJKIT_LOAD_TOKEN": " ".join(tokens),
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


def slowed(host: str, load: dict[str, str]) -> int:
    """The baseline through a delay: 0 where it failed as it must, with a table that names the list."""
    delay = subprocess.Popen(
        [sys.executable, str(HERE / "slow.py"), host.rpartition(":")[2], str(DELAY_MS)],
        stdout=subprocess.PIPE,
    )
    try:
        assert delay.stdout is not None, "it was asked for"
        port = delay.stdout.readline().decode().strip()
        done = subprocess.run(
            command("baseline", f"http://127.0.0.1:{port}", 12),
            env=load,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        delay.terminate()
        delay.wait()
    print(done.stdout)
    _, _, table = done.stdout.partition("\nBROKEN\n")
    if done.returncode == 1 and "GET /projects " in table and "p99" in table:
        print(f"As it must, the gate failed on a server that is {DELAY_MS} ms slower")
        return 0
    print(
        f"The gate let a server pass that is {DELAY_MS} ms slower: exit code {done.returncode}\n{done.stderr}"
    )
    return 1


async def forget() -> None:
    """Takes away what walks have left, deleted rows included: the benchmarks count the rows."""
    async with data.connected() as connection:
        await connection.execute(f"DELETE FROM {kit.TABLE} WHERE tags @> '[\"load\"]'")


if __name__ == "__main__":
    sys.exit(main())
