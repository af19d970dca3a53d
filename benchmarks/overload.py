"""Overload: ``projkit serve`` with 10 to 1,000 concurrent clients, and probes beside them.

For one worker and for two, on PostgreSQL and Redis, each client reads projects in a closed loop: it sends the next
request when it has the response to the last one, or when ``Retry-After`` permits. Meanwhile another process sends 20
requests a second each for liveness, readiness and ``/metrics``; their latencies are measured from the scheduled time.
Recovery is the time from the end of the load until a project is read as fast as before. ``--database-delay`` delays
each response of PostgreSQL; with ``--ignore-retry-after`` clients do not wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer
from harness import data, kit, load_clients, servers, wrk
from harness.load_clients import percentile_ms
from peers.common import API, DATABASE_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.servers import Server

HERE = Path(__file__).resolve().parent
DELAY_PROXY = HERE.parent / "loadtests" / "delay_proxy.py"
CONNECTIONS = (10, 50, 100, 300, 1000)
PROBES = (f"{API}/health/live", f"{API}/health/ready", "/metrics")
PROBE_SECONDS = 0.05
# "errors" are responses other than 200 and 503, of probes other than 200, and broken connections.
HEADINGS = (
    "workers", "clients", "200/s", "p50 ms", "p99 ms", "rejected", "p99 ms of 503", "Retry-After s", "errors",
    "live p99, max ms", "ready", "/metrics", "MiB", "recovery s",
)  # fmt: skip
RECOVERED_RESPONSES = 5  # consecutive responses that are as fast as before the load
RECOVERY_SECONDS = 30.0


@dataclass(frozen=True)
class Row:
    """The results of one load."""

    workers: int
    connections: int
    load: load_clients.LoadResult
    probes: load_clients.LoadResult
    resident: float
    recovery: float
    seconds: float


def main(
    seconds: Annotated[float, typer.Option(min=1, help="The duration of each load.")] = 8.0,
    workers: Annotated[list[int] | None, typer.Option(help="Numbers of workers; by default 1 and 2.")] = None,
    connections: Annotated[
        list[int] | None, typer.Option(help="Numbers of clients; by default 10 to 1,000.")
    ] = None,
    database_delay: Annotated[
        int, typer.Option(min=0, help="The delay of PostgreSQL's responses in milliseconds.")
    ] = 0,
    ignore_retry_after: Annotated[
        bool, typer.Option("--ignore-retry-after", help="Clients ignore Retry-After.")
    ] = False,
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting for the server, as NAME=VALUE.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="A setting for a second server, measured in turn with the first.")
    ] = None,
) -> None:
    """Measure and print the table."""
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(servers.environment())
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    ids = asyncio.run(data.some_ids(data.READER, 512))
    paths = [f"{API}/projects/{each}" for each in ids]
    variants = [setting or []] if against is None else [setting or [], against]
    print(
        f"PostgreSQL with a delay of {database_delay} ms\n"
        if database_delay
        else "PostgreSQL without a delay\n"
    )
    print(f"| {' | '.join(HEADINGS)} |\n|{'---:|' * len(HEADINGS)}", flush=True)
    with _delayed_database(database_delay) if database_delay else nullcontext(DATABASE_URL) as url:
        for count in workers or (1, 2):
            with ExitStack() as stack:
                running = [stack.enter_context(_running(count, url, each)) for each in variants]
                for number in connections or CONNECTIONS:
                    for variant, server in zip(variants, running, strict=True):
                        token = server.token(data.READER)
                        plan = load_clients.LoadPlan(
                            server.port,
                            token,
                            paths,
                            number,
                            seconds,
                            obey_retry_after=not ignore_retry_after,
                        )
                        cells = [*_cells(_measure(server, count, plan)), *variant]
                        print(f"| {' | '.join(cells)} |", flush=True)


@contextmanager
def _running(workers: int, url: str, settings: list[str]) -> Iterator[Server]:
    variables = {"PROJKIT_DATABASE_URL": url, **dict(each.split("=", 1) for each in settings)}
    with servers.running(_spec(workers), servers.environment(variables)) as server:
        if workers > 1:
            _unpin(server)
        yield server


def _spec(workers: int) -> servers.Spec:
    spec = kit.spec()

    def command(port: int) -> list[str]:
        return [*spec.command(port), "--workers", str(workers)]

    return replace(spec, command=command)


@contextmanager
def _delayed_database(milliseconds: int) -> Iterator[str]:
    """Run a proxy that delays the database; return its URL."""
    database = urlsplit(DATABASE_URL)
    command = [sys.executable, str(DELAY_PROXY), str(database.port or 5432), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            port = int(proxy.stdout.readline())
            user = f"{database.username}@" if database.username else ""
            yield urlunsplit(database._replace(netloc=f"{user}127.0.0.1:{port}"))
        finally:
            proxy.terminate()


def _unpin(server: Server) -> None:
    """Let several workers use all cores."""
    for pid in servers.family(server.process.pid):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), range(os.cpu_count() or 1))


def _measure(server: Server, workers: int, plan: load_clients.LoadPlan) -> Row:
    before = median(_read(server, plan) for _ in range(50))
    probe_plan = replace(
        plan, paths=list(PROBES), connections=1, period=PROBE_SECONDS, seconds=plan.seconds + 0.5
    )
    load = _start(plan)
    time.sleep(1.0 + plan.connections / 2000)  # until they are connected
    probes = _start(probe_plan)
    resident = 0.0
    while load.process.poll() is None:
        resident = max(resident, _resident(server))
        time.sleep(0.1)
    ended = time.perf_counter()
    result = load.result()
    consecutive = 0
    recovered = ended
    while consecutive < RECOVERED_RESPONSES and time.perf_counter() - ended < RECOVERY_SECONDS:
        sent = time.perf_counter()
        if _read(server, plan) <= max(2 * before, before + 0.01):
            recovered = sent if consecutive == 0 else recovered
            consecutive += 1
        else:
            consecutive = 0
    server.expect_alive()
    recovery = recovered - ended if consecutive == RECOVERED_RESPONSES else float("inf")
    return Row(workers, plan.connections, result, probes.result(), resident, recovery, plan.seconds)


@dataclass(frozen=True)
class LoadProcess:
    """A process with clients; its output goes to a file, because a full pipe would block it."""

    process: subprocess.Popen[str]
    output: IO[str]

    def result(self) -> load_clients.LoadResult:
        """Wait for the end and return the result."""
        if self.process.wait():
            raise servers.ServerError(f"the clients ended with {self.process.returncode}")
        with self.output:
            self.output.seek(0)
            result: dict[str, Any] = json.load(self.output)
        return load_clients.LoadResult(**result)


def _start(plan: load_clients.LoadPlan) -> LoadProcess:
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when it is read
    process = subprocess.Popen(
        [sys.executable, load_clients.__file__], stdin=subprocess.PIPE, stdout=output, text=True, cwd=HERE
    )
    if not plan.period:
        wrk.pin(process.pid, wrk.LOAD_CORE)
    assert process.stdin is not None
    with process.stdin:
        json.dump(asdict(plan), process.stdin)
    return LoadProcess(process, output)


def _read(server: Server, plan: load_clients.LoadPlan) -> float:
    """Return the seconds that it takes to read a project; infinity if that fails."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    started = time.perf_counter()
    try:
        connection.request("GET", plan.paths[0], headers={"Authorization": f"Bearer {plan.token}"})
        response = connection.getresponse()
        response.read()
    except OSError:
        return float("inf")
    finally:
        connection.close()
    return time.perf_counter() - started if response.status == 200 else float("inf")


def _resident(server: Server) -> float:
    """Return the resident memory of the largest worker in MiB."""
    pages = [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in servers.family(server.process.pid)
    ]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cells(row: Row) -> Iterator[str]:
    latencies = row.load.latencies
    succeeded, rejected = latencies.get("200", []), latencies.get("503", [])
    total = sum(map(len, latencies.values()))
    waits = sorted(int(value) for value in row.load.retry_after)
    yield from (str(row.workers), f"{row.connections:,}", f"{len(succeeded) / row.seconds:,.0f}")
    yield from (
        f"{percentile_ms(succeeded, 0.5):.1f}",
        f"{percentile_ms(succeeded, 0.99):.1f}",
    )
    yield f"{len(rejected) / total:.1%}" if total else ""
    yield f"{percentile_ms(rejected, 0.99):.0f}" if rejected else ""
    yield "" if not waits else f"{waits[0]} to {waits[-1]}"
    yield str(total - len(succeeded) - len(rejected) + row.load.broken + row.probes.broken)
    for each in row.probes.latencies.values():
        yield f"{percentile_ms(each, 0.99):.0f}, {percentile_ms(each, 1):.0f}"
    yield from (f"{row.resident:.0f}", f"{row.recovery:.2f}")


if __name__ == "__main__":
    typer.run(main)
