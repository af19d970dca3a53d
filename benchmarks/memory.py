"""Does one worker of ``projkit serve`` grow? Its memory over two million requests of all kinds.

PostgreSQL and Redis, 32 people with sessions, and requests of which hardly any comes twice (harness/mix.lua): reads,
lists with any query, writes, probes, forged and missing tokens, ids and paths that there are not, bodies that are
wrong, methods that nobody serves. After each slice the memory is read from ``/proc``.

The rule: the first fifth is warm-up (pools, caches, what is imported when first needed). Through the samples after it
goes the line of the median slope (Theil-Sen), and what it rises over them must be less than 1 MiB, or than three times
the scatter of the samples about it where that is more. The exit code is 1 where the memory grows, or where a request
is answered by a 5xx or not at all.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import typer
from harness import data, kit, servers, wrk
from peers.common import API
from rich.console import Console
from rich.table import Table

PEOPLE, PROJECTS_EACH = 32, 4
OWNER = "memory-{:02}"
WARM_UP = 0.2
ALLOWED_MIB, QUICK_ALLOWED_MIB = 1.0, 3.0
SCATTERS = 3.0
CONNECTIONS = 32
IDLE_SECONDS = 3.0
SCRIPT = wrk.SCRIPT.with_name("mix.lua")
console = Console(width=110)


@dataclass(frozen=True)
class Sample:
    """What a process had when so many requests had been answered; in MiB."""

    requests: int
    resident: float
    private: float

    def __str__(self) -> str:
        return f"{self.requests:>9,} requests: {self.resident:.1f} MiB resident, {self.private:.1f} private"

    @classmethod
    def of(cls, pid: int, requests: int) -> Sample:
        """Read from ``smaps_rollup``: ``private`` is what no file stands behind, so what may leak."""
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = {name: int(value) / 1024 for name, value in re.findall(r"(\w+): +(\d+) kB", text)}
        return cls(requests, found["Rss"], found["Anonymous"])


@dataclass(frozen=True)
class Verdict:
    """How memory went after the warm-up."""

    growth: float
    scatter: float
    allowed: float
    requests: int

    @property
    def grows(self) -> bool:
        """Whether it rises by more than noise."""
        return self.growth > self.allowed

    def __str__(self) -> str:
        return (
            f"over the {self.requests:,} requests after the warm-up the line rises {self.growth:+.2f} MiB "
            f"({self.growth / self.requests * 2**20:+.2f} bytes a request), the samples scatter by {self.scatter:.2f}; "
            f"allowed are {self.allowed:.2f}: {'IT GROWS' if self.grows else 'it does not grow'}"
        )


def judge(samples: list[Sample], allowed: float) -> Verdict:
    """The rule of this module."""
    whole = samples[-1].requests
    counted = [each for each in samples if each.requests >= whole * WARM_UP]
    slope = median((b.private - a.private) / (b.requests - a.requests) for a, b in combinations(counted, 2))
    about = [each.private - slope * each.requests for each in counted]
    middle = median(about)
    scatter = 1.4826 * median(abs(each - middle) for each in about)  # as a standard deviation
    requests = counted[-1].requests - counted[0].requests
    return Verdict(slope * requests, scatter, max(allowed, SCATTERS * scatter), requests)


def main(
    requests: Annotated[int, typer.Option(min=10_000, help="How many in all.")] = 2_000_000,
    slice_seconds: Annotated[float, typer.Option(min=1, help="How long each slice takes.")] = 8.0,
    quick: Annotated[
        bool, typer.Option(help="150,000 requests, and 3 MiB allowed: caches still fill.")
    ] = False,
) -> None:
    """Send them, print the curve and the verdict, fail where memory grows."""
    if quick:
        requests, slice_seconds = 150_000, 3.0
    environment = servers.environment()
    asyncio.run(data.make_database())
    kit.migrate(environment)
    try:
        tokens = kit.make_tokens(OWNER.format(n) for n in range(PEOPLE))
        with servers.running(kit.spec(), environment) as server, tempfile.TemporaryDirectory() as directory:
            people = Path(directory) / "people"
            people.write_text("\n".join(_people(server.port, tokens)))
            samples = _measure(server, people, requests, slice_seconds)
    finally:
        asyncio.run(_forget())
    _show(samples)
    verdict = judge(samples, QUICK_ALLOWED_MIB if quick else ALLOWED_MIB)
    console.print(str(verdict), highlight=False)
    sys.exit(1 if verdict.grows else 0)


def _measure(server: servers.Server, people: Path, requests: int, seconds: float) -> list[Sample]:
    time.sleep(IDLE_SECONDS)
    samples = [Sample.of(server.process.pid, 0)]
    number, began = 0, time.monotonic()
    sums: dict[str, int] = {}
    while samples[-1].requests < requests:
        number += 1
        for name, count in _slice(server.port, people, number, seconds).items():
            sums[name] = sums.get(name, 0) + count
        server.expect_alive()
        samples.append(Sample.of(server.process.pid, sums["requests"]))
        if number % 10 == 0:
            console.print(str(samples[-1]), highlight=False)
    minutes = (time.monotonic() - began) / 60
    console.print(f"{sums['requests']:,} requests in {minutes:.1f} minutes: {sums}", highlight=False)
    if sums["failed"] or sums["broken"]:
        raise wrk.RunError(
            f"{sums['failed']} answers were 5xx, {sums['broken']} requests broke:\n{server.said()}"
        )
    time.sleep(IDLE_SECONDS)
    last = Sample.of(server.process.pid, sums["requests"])
    console.print(
        f"idle again: {last.resident:.1f} MiB resident, {last.private:.1f} private", highlight=False
    )
    return samples


def _slice(port: int, people: Path, number: int, seconds: float) -> dict[str, int]:
    command = shutil.which("wrk")
    if command is None:
        raise wrk.RunError(wrk.MISSING)
    arguments = [
        *[command, "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:g}s"],
        *["--timeout", "30s", "--script", str(SCRIPT)],
        *[f"http://127.0.0.1:{port}", "--", str(people), str(number)],
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wrk.pin(process.pid, wrk.LOAD_CORE)
        output, _ = process.communicate()
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise wrk.RunError(f"wrk said no result:\n{output}")
    counts: dict[str, int] = json.loads(line.removeprefix("RESULT "))
    return counts


def _people(port: int, tokens: list[str]) -> list[str]:
    """A line for each, with the ids of their projects, which are made here."""
    lines = []
    for token in tokens:
        ids = [_create(port, token, f"Project {n}")["id"] for n in range(PROJECTS_EACH)]
        lines.append(f"{token}\t{','.join(ids)}")
    return lines


def _create(port: int, token: str, name: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"name": name}).encode()
    with urlopen(HttpRequest(f"http://127.0.0.1:{port}{API}/projects", body, headers)) as answer:
        created: dict[str, Any] = json.load(answer)
        return created


async def _forget() -> None:
    async with data.connected() as connection:
        for table in (kit.TABLE, "projkit_idempotency_keys"):
            await connection.execute(f"DELETE FROM {table} WHERE owner_id LIKE 'memory-%'")


def _show(samples: list[Sample]) -> None:
    table = Table("requests", "resident MiB", "private MiB", "", title="one worker's memory")
    step = max(1, len(samples) // 25)
    lowest, highest = (f(each.private for each in samples) for f in (min, max))
    for number, each in enumerate(samples):
        if number % step == 0 or each is samples[-1]:
            share = (each.private - lowest) / max(highest - lowest, 0.01)
            table.add_row(
                f"{each.requests:,}", f"{each.resident:.1f}", f"{each.private:.1f}", "█" * round(40 * share)
            )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
