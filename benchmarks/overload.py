"""What a server does with more than it can do: 10 to 1,000 clients at once, with probes beside them.

For one worker and for two, ``projkit serve`` on PostgreSQL and Redis is asked for projects by so many clients, each
sending its next request when it has the answer to the last, or when ``Retry-After`` lets it. Liveness, readiness and
``/metrics`` are asked 20 times a second each meanwhile, from another process and counted from when each was due.
Recovery is how long after the load's end a project is read as quickly as before. ``--slow`` holds each answer of
PostgreSQL back by so many milliseconds; ``--rude`` clients do not wait.
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
from harness import crowd, data, kit, servers, wrk
from peers.common import API, DATABASE_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.servers import Server

HERE = Path(__file__).resolve().parent
SLOW = HERE.parent / "loadtests" / "delay_proxy.py"
CONNECTIONS = (10, 50, 100, 300, 1000)
PROBES = (f"{API}/health/live", f"{API}/health/ready", "/metrics")
PROBE_SECONDS = 0.05
# "else" is whatever is neither 200 nor 503, of probes whatever is not 200, and every broken connection.
HEADINGS = (
    "workers", "clients", "good/s", "p50 ms", "p99 ms", "refused", "p99 ms of those", "Retry-After s", "else",
    "live p99, max ms", "ready", "/metrics", "MiB", "recovery s",
)  # fmt: skip
RECOVERED = 5  # so many answers in a row that take no longer than before
RECOVERY_SECONDS = 30.0


@dataclass(frozen=True)
class Row:
    """What one load showed."""

    workers: int
    connections: int
    told: crowd.Told
    probes: crowd.Told
    resident: float
    recovery: float
    seconds: float


def main(
    seconds: Annotated[float, typer.Option(min=1, help="How long each load takes.")] = 8.0,
    workers: Annotated[list[int] | None, typer.Option(help="How many workers; 1 and 2.")] = None,
    connections: Annotated[list[int] | None, typer.Option(help="How many clients; 10 to 1,000.")] = None,
    slow: Annotated[int, typer.Option(min=0, help="Milliseconds by which PostgreSQL is late.")] = 0,
    rude: Annotated[bool, typer.Option("--rude", help="Clients take no notice of Retry-After.")] = False,
    limit: Annotated[list[str] | None, typer.Option(help="A setting for the server, as NAME=VALUE.")] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="A setting for a second server, asked in turn with the first.")
    ] = None,
) -> None:
    """Measure and print the table."""
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(servers.environment())
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    ids = asyncio.run(data.some_ids(data.READER, 512))
    paths = [f"{API}/projects/{each}" for each in ids]
    variants = [limit or []] if against is None else [limit or [], against]
    print(f"PostgreSQL {slow} ms late\n" if slow else "PostgreSQL at its own speed\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---:|' * len(HEADINGS)}", flush=True)
    with _late(slow) if slow else nullcontext(DATABASE_URL) as url:
        for count in workers or (1, 2):
            with ExitStack() as stack:
                running = [stack.enter_context(_serving(count, url, each)) for each in variants]
                for number in connections or CONNECTIONS:
                    for variant, server in zip(variants, running, strict=True):
                        token = server.token(data.READER)
                        orders = crowd.Orders(server.port, token, paths, number, seconds, polite=not rude)
                        cells = [*_cells(_measure(server, count, orders)), *variant]
                        print(f"| {' | '.join(cells)} |", flush=True)


@contextmanager
def _serving(workers: int, url: str, settings: list[str]) -> Iterator[Server]:
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
def _late(milliseconds: int) -> Iterator[str]:
    """The address of a database whose answers come late."""
    database = urlsplit(DATABASE_URL)
    command = [sys.executable, str(SLOW), str(database.port or 5432), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            port = int(proxy.stdout.readline())
            user = f"{database.username}@" if database.username else ""
            yield urlunsplit(database._replace(netloc=f"{user}127.0.0.1:{port}"))
        finally:
            proxy.terminate()


def _unpin(server: Server) -> None:
    """Several workers share all cores with everything else."""
    for pid in servers.family(server.process.pid):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), range(os.cpu_count() or 1))


def _measure(server: Server, workers: int, orders: crowd.Orders) -> Row:
    before = median(_read(server, orders) for _ in range(50))
    probing = replace(
        orders, paths=list(PROBES), connections=1, period=PROBE_SECONDS, seconds=orders.seconds + 0.5
    )
    load = _start(orders)
    time.sleep(1.0 + orders.connections / 2000)  # until they are connected
    probes = _start(probing)
    resident = 0.0
    while load.process.poll() is None:
        resident = max(resident, _resident(server))
        time.sleep(0.1)
    ended = time.perf_counter()
    told = load.told()
    in_a_row = 0
    recovered = ended
    while in_a_row < RECOVERED and time.perf_counter() - ended < RECOVERY_SECONDS:
        asked = time.perf_counter()
        if _read(server, orders) <= max(2 * before, before + 0.01):
            recovered = asked if in_a_row == 0 else recovered
            in_a_row += 1
        else:
            in_a_row = 0
    server.expect_alive()
    recovery = recovered - ended if in_a_row == RECOVERED else float("inf")
    return Row(workers, orders.connections, told, probes.told(), resident, recovery, orders.seconds)


@dataclass(frozen=True)
class Running:
    """A crowd at work; what it tells goes to a file, since a pipe would hold it up."""

    process: subprocess.Popen[str]
    output: IO[str]

    def told(self) -> crowd.Told:
        """What it has told, at its end."""
        if self.process.wait():
            raise servers.ServerError(f"the crowd ended with {self.process.returncode}")
        with self.output:
            self.output.seek(0)
            told: dict[str, Any] = json.load(self.output)
        return crowd.Told(**told)


def _start(orders: crowd.Orders) -> Running:
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when it is read
    process = subprocess.Popen(
        [sys.executable, crowd.__file__], stdin=subprocess.PIPE, stdout=output, text=True, cwd=HERE
    )
    if not orders.period:
        wrk.pin(process.pid, wrk.LOAD_CORE)
    assert process.stdin is not None
    with process.stdin:
        json.dump(asdict(orders), process.stdin)
    return Running(process, output)


def _read(server: Server, orders: crowd.Orders) -> float:
    """How many seconds it takes to read a project; infinitely many where it is refused."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    started = time.perf_counter()
    try:
        connection.request("GET", orders.paths[0], headers={"Authorization": f"Bearer {orders.token}"})
        answer = connection.getresponse()
        answer.read()
    except OSError:
        return float("inf")
    finally:
        connection.close()
    return time.perf_counter() - started if answer.status == 200 else float("inf")


def _resident(server: Server) -> float:
    """The largest worker's memory in MiB."""
    pages = [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in servers.family(server.process.pid)
    ]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cells(row: Row) -> Iterator[str]:
    took = row.told.took
    good, refused = took.get("200", []), took.get("503", [])
    total = sum(map(len, took.values()))
    waits = sorted(int(value) for value in row.told.retry_after)
    yield from (str(row.workers), f"{row.connections:,}", f"{len(good) / row.seconds:,.0f}")
    yield from (f"{crowd.percentile(good, 0.5):.1f}", f"{crowd.percentile(good, 0.99):.1f}")
    yield f"{len(refused) / total:.1%}" if total else ""
    yield f"{crowd.percentile(refused, 0.99):.0f}" if refused else ""
    yield "" if not waits else f"{waits[0]} to {waits[-1]}"
    yield str(total - len(good) - len(refused) + row.told.broken + row.probes.broken)
    for each in row.probes.took.values():
        yield f"{crowd.percentile(each, 0.99):.0f}, {crowd.percentile(each, 1):.0f}"
    yield from (f"{row.resident:.0f}", f"{row.recovery:.2f}")


if __name__ == "__main__":
    typer.run(main)
