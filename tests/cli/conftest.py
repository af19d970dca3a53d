"""Running commands within the process of the tests."""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from projkit.cli import main


@dataclass(frozen=True)
class Done:
    """What a command has said."""

    stdout: str
    stderr: str


Run = Callable[..., Done]


@contextmanager
def loggers_kept() -> Iterator[None]:
    """What is done to the loggers is undone; levels by ``setLevel``, since loggers remember what they let through."""
    root = logging.getLogger()
    touched = [logging.getLogger(name) for name in (None, "projkit.access", "alembic", "uvicorn.error")]
    handlers, levels = root.handlers, [each.level for each in touched]
    try:
        yield
    finally:
        root.handlers = handlers
        for each, level in zip(touched, levels, strict=True):
            each.setLevel(level)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, which saves the start of another one; its exit code must be the expected one."""
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
