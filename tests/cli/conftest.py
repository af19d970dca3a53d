"""Running commands within the process of the tests."""

import io
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from projkit.cli import main


@dataclass(frozen=True)
class Done:
    """What a command has said."""

    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, which saves the start of another one; its exit code must be the expected one."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str, expect: int = 0, stdin: str = "", **variables: str) -> Done:
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers)
            patch.setattr(logging.getLogger(), "level", logging.getLogger().level)
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
