"""Fixtures for the plain-Python parts of the load suites; Locust is not needed."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SUITES = Path(__file__).resolve().parents[2] / "loadtests"


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of ``loadtests/support``, which is on the import path of the suites only."""
    monkeypatch.setattr(sys, "path", [str(SUITES), *sys.path])
    yield lambda name: importlib.import_module(f"support.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "support"]:
        del sys.modules[name]
