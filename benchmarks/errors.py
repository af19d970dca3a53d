"""What error handling adds to a request: 401, 404, 422 and an unhandled exception against their successful twins.

In process, one request at a time, each beside its twin, in five rounds; the table has medians over the rounds. What an
error adds must be under 5 ms, in the median and at the 99th percentile, or the exit code is 1. The percentile is one of
processor time, of all threads: by the clock it would be the scheduler's, on a machine that does other things as well.
The traceback of an unhandled exception is formatted and written as ``projkit serve`` does it.
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

SECRET = "a secret of the benchmark, of no worth to anybody"
LIMIT_MS = 5.0
ROUNDS = 5
console = Console(width=110)


@dataclass
class Case:
    """A request that fails, beside one that does not; durations in ms, by the clock and of the processor."""

    name: str
    good: Callable[[], Awaitable[int]]
    good_status: int
    bad: Callable[[], Awaitable[int]]
    bad_status: int
    clock: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "bad": []})
    processor: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "bad": []})

    async def measure(self) -> None:
        """Once each, the one right after the other."""
        for kind, ask, expected in (
            ("good", self.good, self.good_status),
            ("bad", self.bad, self.bad_status),
        ):
            started, spent = time.perf_counter(), time.process_time()
            status = await ask()
            self.processor[kind].append((time.process_time() - spent) * 1000)
            self.clock[kind].append((time.perf_counter() - started) * 1000)
            if status != expected:
                raise SystemExit(f"{self.name}: {status} instead of {expected}")


def main(
    requests: Annotated[int, typer.Option(min=100, help="Requests of each kind.")] = 2000,
    quick: Annotated[bool, typer.Option(help="400 of each kind.")] = False,
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
    made = json.loads((await _ask(kit, "POST", path, token, b'{"name":"A"}'))[1])["id"]
    absent = "0197a0a0-0000-7000-8000-000000000000"

    def ask(
        app: ProjKit, method: str, at: str, bearer: str, body: bytes = b""
    ) -> Callable[[], Awaitable[int]]:
        async def once() -> int:
            return (await _ask(app, method, at, bearer, body))[0]

        return once

    get = ask(kit, "GET", f"{path}/{made}", token)
    return [
        Case("401, no credentials", get, 200, ask(kit, "GET", f"{path}/{made}", ""), 401),
        Case("401, a forged token", get, 200, ask(kit, "GET", f"{path}/{made}", token[:-4] + "AAAA"), 401),
        Case("404, no such project", get, 200, ask(kit, "GET", f"{path}/{absent}", token), 404),
        Case("404, no such path", ask(kit, "GET", "/api/v1/health/live", ""), 200, ask(kit, "GET", "/none", ""), 404),
        Case(
            "422, a wrong field",
            ask(kit, "POST", path, token, b'{"name":"A"}'), 201,
            ask(kit, "POST", path, token, b'{"name":"","status":"x","tags":[1]}'), 422,
        ),
        Case("500, unhandled", get, 200, ask(broken, "GET", f"{path}/{made}", token), 500),
    ]  # fmt: skip


async def _ask(app: ProjKit, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
    status, answer = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, answer
        status, answer = message.get("status", status), message.get("body", answer)

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
    return status, answer


def _p99(figures: list[float]) -> float:
    return quantiles(figures, n=100)[98]


def _rounds(figures: list[float], of: Callable[[list[float]], float]) -> list[float]:
    """What a figure was in each round."""
    size = len(figures) // ROUNDS
    return [of(figures[start : start + size]) for start in range(0, size * ROUNDS, size)]


def _show(cases: list[Case]) -> None:
    table = Table(
        "error", "median ms", "its twin's", "added", "p99 CPU ms", "its twin's", "added",
        title=f"what error handling adds (must be < {LIMIT_MS:g} ms)",
    )  # fmt: skip
    missed = False
    for case in cases:
        cells = []
        for figures, of in ((case.clock, median), (case.processor, _p99)):
            good, bad = (_rounds(figures[kind], of) for kind in ("good", "bad"))
            added = median(mine - twin for mine, twin in zip(bad, good, strict=True))
            cells += [f"{median(bad):.3f}", f"{median(good):.3f}", f"{added:+.3f}"]
            missed = missed or added >= LIMIT_MS
        table.add_row(case.name, *cells)
    console.print(table)
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
