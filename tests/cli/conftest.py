"""Running commands in the process of the tests."""

import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from projkit.cli import main


@dataclass(frozen=True)
class Done:
    """The output of a command."""

    stdout: str
    stderr: str


Run = Callable[..., Done]


@contextmanager
def loggers_kept() -> Iterator[None]:
    """Restore the loggers afterwards; levels by ``setLevel``, because loggers cache which levels are enabled."""
    root = logging.getLogger()
    touched = [logging.getLogger(name) for name in (None, "projkit.access", "alembic", "uvicorn.error")]
    handlers, levels = root.handlers, [each.level for each in touched]
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    log_format = os.environ.get("PROJKIT_LOG_FORMAT")
    try:
        yield
    finally:
        root.handlers = handlers
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        if log_format is None:
            os.environ.pop("PROJKIT_LOG_FORMAT", None)
        for each, level in zip(touched, levels, strict=True):
            each.setLevel(level)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, which is faster than starting another one, and check its exit code."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str, expect: int = 0, stdin: str = "", **variables: str) -> Done:
        with monkeypatch.context() as patch, warnings.catch_warnings(), loggers_kept():
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["projkit", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
            said = capsys.readouterr()
        assert (ended.value.code or 0) == expect, said.out + said.err
        return Done(said.out, said.err)

    return command
