"""The kit on each Python and each server: the same requests, interleaved, as ratios to the first one of them.

``python benchmarks/runtimes.py [PYTHON …]`` takes commands or paths; by default python3.11, python3.12 and python3.13
where they are on the path. Each gets an environment of its own from requirements/bench.txt and the granian of
requirements/hosts.txt, kept in ``--environments``. Uvicorn is ``projkit serve``, granian serves the same app as one
worker; both on uvloop, on one core. Nothing is failed here.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from harness import data, kit, servers, wrk
from memory import Sample
from peers.common import API
from rich.table import Table
from run import BODY, Case, Results, console, measure

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHONS = ("python3.11", "python3.12", "python3.13")
ROOT = servers.HERE.parent
KEPT = Path(tempfile.gettempdir()) / "projkit-runtimes"


def main(
    pythons: Annotated[
        list[str] | None, typer.Argument(help="Interpreters; the first is compared with.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long each measurement takes.")] = 4.0,
    environments: Annotated[Path, typer.Option(help="Where environments are made and kept.")] = KEPT,
    quick: Annotated[bool, typer.Option(help="2 rounds of 2 seconds.")] = False,
) -> None:
    """Make the environments, measure, print the ratios."""
    if quick:
        rounds, seconds = 2, 2.0
    found = [path for each in pythons or PYTHONS if (path := _working(each)) is not None]
    if not found:
        raise typer.BadParameter("none of these Pythons is there")
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    variables = servers.environment({"PROJKIT_ACCESS_LOG": "false"})
    # The kit is installed there; what this process sees of it on its path would stand before it.
    variables.pop("PYTHONPATH", None)
    kit.migrate(servers.environment())
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    specs = [spec for python in found for spec in _specs(*_environment(python, environments))]
    with ExitStack() as stack:
        running = {spec.name: stack.enter_context(servers.running(spec, variables)) for spec in specs}
        idle = {name: _memory(server) for name, server in running.items()}
        cases = _cases(tuple(running))
        results = measure(cases, running, rounds, seconds)
    _show(cases, list(running), idle, results)


def _working(python: str) -> str | None:
    """Its path, if it can be started: a version manager may have a command for what is not there."""
    path = shutil.which(python)
    if path is None:
        return None
    done = subprocess.run([path, "-c", "import venv"], capture_output=True, check=False)
    return path if done.returncode == 0 else None


def _environment(python: str, kept: Path) -> tuple[str, Path]:
    """The version of a Python, and its environment with the kit as it is now."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    directory = kept / version
    interpreter = directory / "bin" / "python"
    pip = [str(interpreter), "-m", "pip", "install", "--quiet"]
    if not (directory / "complete").exists():
        console.print(f"making {directory}")
        subprocess.run([python, "-m", "venv", "--clear", str(directory)], check=True)
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        lock = str(ROOT / "requirements" / "bench.txt")
        subprocess.run([*pip, "--require-hashes", "--requirement", lock], check=True)
        subprocess.run([*pip, f"granian=={_granian()}"], check=True)
        (directory / "complete").touch()
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(ROOT)], check=True)
    return version, directory


def _granian() -> str:
    locked = re.search(r"^granian==(\S+)", (ROOT / "requirements" / "hosts.txt").read_text(), re.MULTILINE)
    if locked is None:
        raise typer.BadParameter("requirements/hosts.txt has no granian")
    return locked[1]


def _specs(version: str, directory: Path) -> list[servers.Spec]:
    programs = directory / "bin"

    def uvicorn(port: int) -> list[str]:
        return [str(programs / "projkit"), "serve", "--port", str(port)]

    def granian(port: int) -> list[str]:
        return [
            *[str(programs / "granian"), "--factory", "projkit.cli.server:create_app", "--interface", "asgi"],
            *["--workers", "1", "--loop", "uvloop", "--no-ws", "--port", str(port)],
        ]

    def spec(server: str, command: Callable[[int], list[str]]) -> servers.Spec:
        made = kit.spec()
        name = f"{version} {server}"
        return servers.Spec(
            name, name, command, made.token, made.table, is_kit=True, variables=made.variables
        )

    return [spec("uvicorn", uvicorn), spec("granian", granian)]


def _memory(server: servers.Server) -> Sample:
    """Of the process that holds the most: granian's worker has a parent."""
    return max(
        (Sample.of(pid, 0) for pid in servers.family(server.process.pid)), key=lambda each: each.private
    )


def _cases(names: tuple[str, ...]) -> list[Case]:
    ids = asyncio.run(data.some_ids(data.READER, 512))
    gets = [wrk.Request("GET", f"{API}/projects/{each}") for each in ids]
    return [
        Case("GET 16", gets, 16, servers=names),
        Case("LIST 16", [wrk.Request("GET", f"{API}/projects?limit=20")], 16, servers=names),
        Case("POST 16", [wrk.Request("POST", f"{API}/projects", BODY)], 16, data.WRITER, names),
        Case("health/live 64", [wrk.Request("GET", f"{API}/health/live")], 64, servers=names),
    ]


def _show(cases: list[Case], names: list[str], idle: dict[str, Sample], results: Results) -> None:
    titles = [case.name for case in cases]
    table = Table("", *titles, "idle MiB", "private", title=f"req/s, as ratios to {names[0]}: median (range)")
    for name in names:
        cells = []
        for case in cases:
            ratios = [
                mine.per_second / first.per_second
                for mine, first in zip(results[case.name, name], results[case.name, names[0]], strict=True)
            ]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        table.add_row(name, *cells, f"{idle[name].resident:.0f}", f"{idle[name].private:.0f}")
    console.print(table)
    tails = Table("", *titles, title="p50 and p99 in ms: medians")
    for name in names:
        tails.add_row(name, *(_tail(results[case.name, name]) for case in cases))
    console.print(tails)


def _tail(figures: list[wrk.Figures]) -> str:
    p50, p99 = (median(getattr(each, name) for each in figures) / 1000 for name in ("p50_us", "p99_us"))
    return f"{p50:.2f}  {p99:.1f}"


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "110")
    typer.run(main)
