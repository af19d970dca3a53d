"""Records how the kit compares with its peers on this machine, for compare.py to hold a later run against.

    python loadtests/record.py FILE                      # a quarter of an hour
    python loadtests/record.py FILE --part schedule      # that half alone; what FILE has of the other one stays

Two halves: what benchmarks/run.py measures, wrk against one server after the other, and beside.py, Locust's open-loop
schedule with the servers in turns. All servers run on PostgreSQL with the benchmarks' rows, on one core. Turns are
short and many: what else a machine does changes from second to second, and within a short round falls on all alike.
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

from harness import data, kit, servers  # noqa: E402  # found by the line above
from redis import Redis  # noqa: E402

LIBRARIES = (
    "projkit", "starlette", "uvicorn", "uvloop", "httptools", "asyncpg", "sqlalchemy", "pydantic", "orjson",
    "redis", "hiredis", "joserfc", "fastapi", "opentelemetry-sdk", "locust",
)  # fmt: skip
TURN_SECONDS = 2.0
Parts = dict[str, dict[str, Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--part", choices=("benchmark", "schedule"), help="one half alone")
    parser.add_argument("--rounds", type=int, default=30, help="of each half; 30")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of the benchmark; 1")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 2:
        parser.error("noise is what rounds differ by: two or more")
    figures, method = {}, {}
    if chosen.part and chosen.file.exists():
        kept = read(chosen.file)
        figures, method = dict(kept.figures), dict(kept.method)
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
    """What wrk sees; missed goals are the benchmark's own business."""
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
            raise SystemExit("the benchmark measured nothing")
        return from_benchmark(json.loads(path.read_text()))


def schedule(rounds: int) -> dict[str, Figure]:
    """What Locust sees."""
    environment = servers.environment()
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(environment)
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    specs = [servers.peer(name, name, name) for name in ("floor", "fastapi_orm", "fastapi_stock")]
    specs.append(kit.spec())
    tables = {spec.table for spec in specs}
    asyncio.run(data.forget_writes(*tables))
    try:
        with ExitStack() as stack:
            return take_turns(
                [stack.enter_context(servers.running(spec, environment)) for spec in specs], rounds
            )
    finally:
        asyncio.run(data.forget_writes(*tables))


def take_turns(running: Sequence[servers.Server], rounds: int) -> dict[str, Figure]:
    """Locust's run, and what it reported."""
    kit_url = f"http://127.0.0.1:{running[-1].port}"
    told = {
        "seconds": TURN_SECONDS,
        "ids": asyncio.run(data.some_ids(data.READER, 512)),
        "servers": [
            {"name": server.spec.name, "url": f"http://127.0.0.1:{server.port}",
             "reader": server.token(data.READER), "writer": server.token(data.WRITER)}
            for server in running
        ],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        turns, report = Path(directory) / "turns.json", Path(directory) / "report.json"
        turns.write_text(json.dumps(told), encoding="utf-8")
        line = [
            *[sys.executable, "-m", "locust", "-f", str(HERE / "beside.py"), "--headless", "--only-summary"],
            *[
                "--host",
                kit_url,
                "--run-time",
                f"{rounds * TURN_SECONDS * len(running):g}s",
            ],
            *["--loglevel", "WARNING", "--report", str(report)],
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
        code = subprocess.call(line, env={**kept, "PROJKIT_LOAD_BESIDE": str(turns)})
        if code:
            raise SystemExit(f"the schedule ended with exit code {code}")
        return from_schedule(json.loads(report.read_text()), rounds)


async def describe() -> dict[str, Any]:
    """The machine, as far as it bears on speed; nothing by which it could be found."""
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
    """Its model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def installed(name: str) -> str:
    """A library's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
