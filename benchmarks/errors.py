"""The cost of error handling: 401, 404, 422 and an unhandled exception compared with successful requests.

In process, one request at a time, each next to its successful counterpart, in five rounds; the table has medians over
the rounds. The exit code is 1 if an error costs 5 ms more, in the median or at the 99th percentile. The percentile is
of the CPU time of all threads: on a busy machine, wall time would measure the scheduler. Tracebacks of unhandled
exceptions are formatted and written as by ``projkit serve``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from projkit import ProjKit, Settings
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECRET = "a secret for the benchmark only, long enough"
LIMIT_MS = 5.0
ROUNDS = 5
console = Console(width=110)


@dataclass
class Case:
    """A failing request and its successful counterpart, with their wall and CPU times in milliseconds."""

    name: str
    good: Callable[[], Awaitable[int]]
    good_status: int
    bad: Callable[[], Awaitable[int]]
    bad_status: int
    wall: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "bad": []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "bad": []})

    async def measure(self) -> None:
        """Measure both once, one right after the other."""
        for kind, send, expected in (
            ("good", self.good, self.good_status),
            ("bad", self.bad, self.bad_status),
        ):
            started, spent = time.perf_counter(), time.process_time()
            status = await send()
            self.cpu[kind].append((time.process_time() - spent) * 1000)
            self.wall[kind].append((time.perf_counter() - started) * 1000)
            if status != expected:
                raise SystemExit(f"{self.name}: {status} instead of {expected}")


def main(
    requests: Annotated[int, typer.Option(min=100, help="The number of requests of each kind.")] = 2000,
    quick: Annotated[bool, typer.Option(help="400 requests of each kind.")] = False,
) -> None:
    """Measure and print the table."""
    logging.basicConfig(filename=os.devnull, level=logging.INFO)
    asyncio.run(_run(400 if quick else requests))


async def _run(requests: int) -> None:
    with TemporaryDirectory() as directory:
        settings = Settings(database_url=f"sqlite:///{Path(directory) / 'bench.db'}", secret=SECRET)
        kit, broken = ProjKit(settings), ProjKit(settings)
        async with kit.lifespan(), broken.lifespan():
            _break(broken)
            cases = await _cases(kit, broken)
            for _ in range(requests):
                for case in cases:
                    await case.measure()
    _show(cases)


def _break(kit: ProjKit) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    kit._lifecycle.get().projects.get = fail  # type: ignore[method-assign,assignment]


async def _cases(kit: ProjKit, broken: ProjKit) -> list[Case]:
    token = TokenIssuer(load_keys(kit.settings), kit.settings).issue(
        "alice", ("projects:read", "projects:write")
    )
    path = "/api/v1/projects"
    project_id = json.loads((await _request(kit, "POST", path, token, b'{"name":"A"}'))[1])["id"]
    absent = "0197a0a0-0000-7000-8000-000000000000"

    def sender(
        app: ProjKit, method: str, at: str, bearer: str, body: bytes = b""
    ) -> Callable[[], Awaitable[int]]:
        async def send() -> int:
            return (await _request(app, method, at, bearer, body))[0]

        return send

    get = sender(kit, "GET", f"{path}/{project_id}", token)
    return [
        Case("401, no credentials", get, 200, sender(kit, "GET", f"{path}/{project_id}", ""), 401),
        Case("401, a forged token", get, 200, sender(kit, "GET", f"{path}/{project_id}", token[:-4] + "AAAA"), 401),
        Case("404, no such project", get, 200, sender(kit, "GET", f"{path}/{absent}", token), 404),
        Case(
            "404, no such path",
            sender(kit, "GET", "/api/v1/health/live", ""), 200, sender(kit, "GET", "/none", ""), 404,
        ),
        Case(
            "422, invalid fields",
            sender(kit, "POST", path, token, b'{"name":"A"}'), 201,
            sender(kit, "POST", path, token, b'{"name":"","status":"x","tags":[1]}'), 422,
        ),
        Case("500, unhandled", get, 200, sender(broken, "GET", f"{path}/{project_id}", token), 500),
    ]  # fmt: skip


async def _request(app: ProjKit, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
    status, content = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, content
        status, content = message.get("status", status), message.get("body", content)

    headers = [(b"host", b"localhost")]
    if token:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "headers": headers, "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    return status, content


def _p99(durations: list[float]) -> float:
    return quantiles(durations, n=100)[98]


def _by_round(durations: list[float], statistic: Callable[[list[float]], float]) -> list[float]:
    """Return the statistic of each round."""
    size = len(durations) // ROUNDS
    return [statistic(durations[start : start + size]) for start in range(0, size * ROUNDS, size)]


def _show(cases: list[Case]) -> None:
    table = Table(
        "error", "median ms", "success", "added", "p99 CPU ms", "success", "added",
        title=f"the cost of error handling (limit: {LIMIT_MS:g} ms)",
    )  # fmt: skip
    missed = False
    for case in cases:
        cells = []
        for durations, statistic in ((case.wall, median), (case.cpu, _p99)):
            good, bad = (_by_round(durations[kind], statistic) for kind in ("good", "bad"))
            added = median(error - success for error, success in zip(bad, good, strict=True))
            cells += [f"{median(bad):.3f}", f"{median(good):.3f}", f"{added:+.3f}"]
            missed = missed or added >= LIMIT_MS
        table.add_row(case.name, *cells)
    console.print(table)
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
