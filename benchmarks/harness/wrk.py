"""Measurements with wrk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_name("replay.lua")
MISSING = "wrk is missing. It is a Debian package: run scripts/debian-packages, or apt-get install wrk"
PINNED = hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1
SERVER_CORE, LOAD_CORE = 0, 1


class RunError(Exception):
    """A measurement that is not valid."""


@dataclass(frozen=True)
class Request:
    """A request that is repeated."""

    method: str
    path: str
    body: str = ""

    def __str__(self) -> str:
        return f"{self.method}\t{self.path}\t{self.body}\n"


@dataclass(frozen=True)
class Measurement:
    """The result of one run."""

    per_second: float
    p50_us: float
    p99_us: float
    requests: int


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, if the system supports it."""
    if PINNED:
        os.sched_setaffinity(pid, {core})


def run(
    port: int, requests: Sequence[Request], token: str, *, connections: int, seconds: float
) -> Measurement:
    """Repeat the requests for ``seconds``.

    Raises:
        RunError: wrk is missing, or a response is not 2xx or 3xx.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RunError(MISSING)
    with tempfile.NamedTemporaryFile("w", suffix=".requests") as file:
        file.writelines(map(str, requests))
        file.flush()
        command = [
            *[wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s"],
            *["--timeout", "10s", "--latency", "--script", str(SCRIPT)],
            *["--header", f"Authorization: Bearer {token}"],
            *[f"http://127.0.0.1:{port}", "--", file.name],
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            pin(process.pid, LOAD_CORE)
            output, _ = process.communicate()
    return _parse(output)


def _parse(output: str) -> Measurement:
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RunError(f"wrk printed no result:\n{output}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    if result["refused"] or result["broken"] or not result["requests"]:
        raise RunError(
            f"of {result['requests']} requests {result['refused']} got an error and {result['broken']} failed"
        )
    return Measurement(
        per_second=result["requests"] / result["microseconds"] * 1e6,
        p50_us=result["p50"],
        p99_us=result["p99"],
        requests=result["requests"],
    )
