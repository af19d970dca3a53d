"""Records how the kit compares with its peers on this machine; compare.py compares two such records.

    python loadtests/record.py FILE                      # takes 20 minutes
    python loadtests/record.py FILE --part schedule      # one part only; FILE keeps its figures of the other part

There are two parts: benchmarks/run.py (wrk against one server after the other) and versus_peers.py (Locust's open-loop
schedule with the servers in alternating turns). All servers use PostgreSQL with the benchmarks' rows, on one core.
Turns are short and many: a shared machine changes speed from second to second, and short rounds affect all equally.
"""

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from support.record import Figure, Record, from_benchmark, from_schedule, read, write

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from harness import data, kit, servers  # noqa: E402  # needs the path above
from redis import Redis  # noqa: E402

LIBRARIES = (
    "projkit",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "asyncpg",
    "sqlalchemy",
    "pydantic",
    "orjson",
    "redis",
    "hiredis",
    "joserfc",
    "fastapi",
    "opentelemetry-sdk",
    "locust",
)
TURN_SECONDS = 2.0
Parts = dict[str, dict[str, Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--part", choices=("benchmark", "schedule"), help="measure one part only")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each part (default: 30)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="duration of each measurement of the benchmark (default: 1)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 2:
        parser.error(
            "--rounds must be 2 or more, because noise is estimated from the differences between rounds"
        )
    figures, method = {}, {}
    if chosen.part and chosen.file.exists():
        earlier = read(chosen.file)
        figures, method = dict(earlier.figures), dict(earlier.method)
    if chosen.part != "schedule":
        figures |= benchmark(chosen.rounds, chosen.seconds)
        method["benchmark"] = {"rounds": chosen.rounds, "seconds": chosen.seconds}
    if chosen.part != "benchmark":
        figures |= schedule(chosen.rounds)
        method["schedule"] = {"rounds": chosen.rounds, "seconds": TURN_SECONDS}
    today = datetime.now(UTC).date().isoformat()
    write(chosen.file, Record(today, asyncio.run(describe()), method, figures))
    print(f"{len(figures)} figures in {chosen.file}")
    return 0


def benchmark(rounds: int, seconds: float) -> dict[str, Figure]:
    """Measure with wrk; goals that the benchmark misses do not matter here."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "benchmark.json"
        line = [
            sys.executable,
            str(BENCHMARKS / "run.py"),
            "--rounds",
            str(rounds),
            "--seconds",
            f"{seconds:g}",
        ]
        subprocess.run([*line, "--report", str(path)], check=False)
        if not path.exists():
            raise SystemExit("the benchmark produced no report")
        return from_benchmark(json.loads(path.read_text()))


def schedule(rounds: int) -> dict[str, Figure]:
    """Measure with Locust's open-loop schedule."""
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    specs = [servers.peer(name, name, name) for name in ("floor", "fastapi_orm", "fastapi_stock")]
    specs.append(kit.spec())
    tables = {spec.table for spec in specs}
    asyncio.run(data.delete_writes(*tables))
    try:
        with ExitStack() as stack:
            return take_turns(
                [stack.enter_context(servers.running(spec, environment)) for spec in specs], rounds
            )
    finally:
        asyncio.run(data.delete_writes(*tables))


def take_turns(running: Sequence[servers.Server], rounds: int) -> dict[str, Figure]:
    """Run Locust and return the figures of its report."""
    kit_url = f"http://127.0.0.1:{running[-1].port}"
    exported = {
        "seconds": TURN_SECONDS,
        "ids": asyncio.run(data.some_ids(data.READER, 512)),
        "servers": [
            {
                "name": server.spec.name,
                "url": f"http://127.0.0.1:{server.port}",
                "reader": server.token(data.READER),
                "writer": server.token(data.WRITER),
            }
            for server in running
        ],
    }
    with tempfile.TemporaryDirectory() as directory:
        turns, report = Path(directory) / "turns.json", Path(directory) / "report.json"
        turns.write_text(json.dumps(exported), encoding="utf-8")
        line = [
            *[
                sys.executable,
                "-m",
                "locust",
                "-f",
                str(HERE / "versus_peers.py"),
                "--headless",
                "--only-summary",
            ],
            *[
                "--host",
                kit_url,
                "--run-time",
                f"{rounds * TURN_SECONDS * len(running):g}s",
            ],
            *["--loglevel", "WARNING", "--report", str(report)],
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
        code = subprocess.call(line, env={**inherited, "PROJKIT_LOAD_PEERS": str(turns)})
        if code:
            raise SystemExit(f"the schedule ended with exit code {code}")
        return from_schedule(json.loads(report.read_text()), rounds)


async def describe() -> dict[str, Any]:
    """Describe the machine as far as it affects speed; nothing identifies it."""
    async with data.connected() as connection:
        postgresql: str = await connection.fetchval("SHOW server_version")
    with Redis.from_url(kit.REDIS_URL) as client:
        redis: str = client.info("server")["redis_version"]
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": postgresql.partition(" ")[0],
        "redis_server": redis,
        **{name: installed(name) for name in LIBRARIES},
    }


def processor() -> str:
    """Return the processor's model, or "unknown"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def installed(name: str) -> str:
    """Return the version of a library, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
