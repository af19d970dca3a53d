"""Memory growth of one ``projkit serve`` worker over two million requests of all kinds.

On PostgreSQL and Redis, with 32 users who have sessions. Hardly any request is sent twice (harness/mix.lua): reads,
lists with any query, writes, probes, forged and missing tokens, unknown ids and paths, invalid bodies, unsupported
methods. After each slice the memory is read from ``/proc``.

The rule: the first fifth is warm-up (pools, caches, lazy imports). The line with the median slope (Theil-Sen) is fitted
to the samples after it. Its rise must be less than 1 MiB, or less than three times the scatter of the samples around it
if that is more. The exit code is 1 if the memory grows, or if a request gets a 5xx or no response.
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

USERS, PROJECTS_PER_USER = 32, 4
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
    """The memory of a process in MiB after a number of requests."""

    requests: int
    resident: float
    private: float

    def __str__(self) -> str:
        return f"{self.requests:>9,} requests: {self.resident:.1f} MiB resident, {self.private:.1f} private"

    @classmethod
    def of(cls, pid: int, requests: int) -> Sample:
        """Read the memory from ``smaps_rollup``; private memory has no file behind it, so it is what may leak."""
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        sizes = {name: int(value) / 1024 for name, value in re.findall(r"(\w+): +(\d+) kB", text)}
        return cls(requests, sizes["Rss"], sizes["Anonymous"])


@dataclass(frozen=True)
class Verdict:
    """The memory growth after the warm-up, in MiB."""

    growth: float
    scatter: float
    allowed: float
    requests: int

    @property
    def grows(self) -> bool:
        """Whether the memory grows by more than noise."""
        return self.growth > self.allowed

    def __str__(self) -> str:
        return (
            f"over the {self.requests:,} requests after the warm-up the memory grows by {self.growth:+.2f} MiB "
            f"({self.growth / self.requests * 2**20:+.2f} bytes per request), with a scatter of {self.scatter:.2f}; "
            f"the limit is {self.allowed:.2f}: {'FAILED' if self.grows else 'passed'}"
        )


def judge(samples: list[Sample], allowed: float) -> Verdict:
    """Apply the rule of this module to ``samples``."""
    total = samples[-1].requests
    counted = [each for each in samples if each.requests >= total * WARM_UP]
    slope = median((b.private - a.private) / (b.requests - a.requests) for a, b in combinations(counted, 2))
    residuals = [each.private - slope * each.requests for each in counted]
    middle = median(residuals)
    scatter = 1.4826 * median(abs(each - middle) for each in residuals)  # estimates the standard deviation
    requests = counted[-1].requests - counted[0].requests
    return Verdict(slope * requests, scatter, max(allowed, SCATTERS * scatter), requests)


def main(
    requests: Annotated[int, typer.Option(min=10_000, help="The total number of requests.")] = 2_000_000,
    slice_seconds: Annotated[float, typer.Option(min=1, help="The duration of each slice.")] = 8.0,
    quick: Annotated[
        bool, typer.Option(help="150,000 requests and a limit of 3 MiB, because caches still fill.")
    ] = False,
) -> None:
    """Send the requests, print the curve and the verdict, and fail if the memory grows."""
    if quick:
        requests, slice_seconds = 150_000, 3.0
    environment = servers.environment()
    asyncio.run(data.make_database())
    kit.migrate(environment)
    try:
        tokens = kit.make_tokens(OWNER.format(n) for n in range(USERS))
        with servers.running(kit.spec(), environment) as server, tempfile.TemporaryDirectory() as directory:
            users = Path(directory) / "users"
            users.write_text("\n".join(_users(server.port, tokens)))
            samples = _measure(server, users, requests, slice_seconds)
    finally:
        asyncio.run(_delete_rows())
    _show(samples)
    verdict = judge(samples, QUICK_ALLOWED_MIB if quick else ALLOWED_MIB)
    console.print(str(verdict), highlight=False)
    sys.exit(1 if verdict.grows else 0)


def _measure(server: servers.Server, users: Path, requests: int, seconds: float) -> list[Sample]:
    time.sleep(IDLE_SECONDS)
    samples = [Sample.of(server.process.pid, 0)]
    number, began = 0, time.monotonic()
    sums: dict[str, int] = {}
    while samples[-1].requests < requests:
        number += 1
        for name, count in _slice(server.port, users, number, seconds).items():
            sums[name] = sums.get(name, 0) + count
        server.expect_alive()
        samples.append(Sample.of(server.process.pid, sums["requests"]))
        if number % 10 == 0:
            console.print(str(samples[-1]), highlight=False)
    minutes = (time.monotonic() - began) / 60
    console.print(f"{sums['requests']:,} requests in {minutes:.1f} minutes: {sums}", highlight=False)
    if sums["failed"] or sums["broken"]:
        raise wrk.RunError(
            f"{sums['failed']} responses were 5xx, {sums['broken']} requests failed:\n{server.log_end()}"
        )
    time.sleep(IDLE_SECONDS)
    last = Sample.of(server.process.pid, sums["requests"])
    console.print(
        f"idle again: {last.resident:.1f} MiB resident, {last.private:.1f} private", highlight=False
    )
    return samples


def _slice(port: int, users: Path, number: int, seconds: float) -> dict[str, int]:
    command = shutil.which("wrk")
    if command is None:
        raise wrk.RunError(wrk.MISSING)
    arguments = [
        *[command, "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:g}s"],
        *["--timeout", "30s", "--script", str(SCRIPT)],
        *[f"http://127.0.0.1:{port}", "--", str(users), str(number)],
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wrk.pin(process.pid, wrk.LOAD_CORE)
        output, _ = process.communicate()
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise wrk.RunError(f"wrk printed no result:\n{output}")
    counts: dict[str, int] = json.loads(line.removeprefix("RESULT "))
    return counts


def _users(port: int, tokens: list[str]) -> list[str]:
    """Create each user's projects; return a line per user with the token and the ids."""
    lines = []
    for token in tokens:
        ids = [_create(port, token, f"Project {n}")["id"] for n in range(PROJECTS_PER_USER)]
        lines.append(f"{token}\t{','.join(ids)}")
    return lines


def _create(port: int, token: str, name: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"name": name}).encode()
    with urlopen(HttpRequest(f"http://127.0.0.1:{port}{API}/projects", body, headers)) as response:
        created: dict[str, Any] = json.load(response)
        return created


async def _delete_rows() -> None:
    async with data.connected() as connection:
        for table in (kit.TABLE, "projkit_idempotency_keys"):
            await connection.execute(f"DELETE FROM {table} WHERE owner_id LIKE 'memory-%'")


def _show(samples: list[Sample]) -> None:
    table = Table("requests", "resident MiB", "private MiB", "", title="the memory of one worker")
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
