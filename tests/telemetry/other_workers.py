"""Other workers that share a metrics directory with the process of the test."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = """
import sys, pathlib
from projkit.telemetry.recorder import Recorder
recorder = Recorder(pathlib.Path(sys.argv[1]))
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


class Worker:
    """Another worker of the same directory, which runs code on request."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def do(self, line: str) -> None:
        """Run a line of Python in the worker."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"

    def kill(self) -> None:
        """Kill the worker."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def workers(directory: Path, number: int) -> Iterator[list[Worker]]:
    """Run other workers during the body."""
    started = [Worker(directory) for _ in range(number)]
    try:
        yield started
    finally:
        for each in started:
            if each.process.poll() is None:
                each.kill()


@contextmanager
def another_worker(directory: Path) -> Iterator[Worker]:
    """Run another worker during the body."""
    with workers(directory, 1) as (worker,):
        yield worker
