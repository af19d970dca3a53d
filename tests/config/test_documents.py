"""The documents agree with the code."""

import ast
import re
from collections import defaultdict
from datetime import datetime
from typing import Any, Final

import pytest

from projkit import Settings, errors
from projkit.http.problem import status_of
from tests.corpora import ROOT

DOCS: Final = ROOT / "docs"


def rows(name: str) -> list[list[str]]:
    """Return the cells of every table row in a document."""
    lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [cells for cells in found if not set("".join(cells)) <= set("-: ")]


def names(cell: str) -> list[str]:
    """Return the code spans in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def format_default(default: Any) -> str:
    """Format a default as in the table; empty if there is none."""
    if default in (None, "", (), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:g}" if default < 100_000 else str(int(default))
    if isinstance(default, datetime):
        return f"`{default:%Y-%m-%d}`"
    return f"`{default}`"


def test_every_setting_is_documented() -> None:
    """The table lists exactly the existing settings, with their defaults."""
    table = {name: cells[1] for cells in rows("settings.md")[1:] for name in names(cells[0])}
    fields = {name.upper(): format_default(field.default) for name, field in Settings.model_fields.items()}
    assert table == fields


def all_errors() -> list[type[errors.ProjkitError]]:
    """Return every error class."""
    found, waiting = [], [errors.ProjkitError]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += each.__subclasses__()
    return [each for each in found if each.__module__ == errors.__name__]


def test_every_error_is_documented() -> None:
    """The table lists exactly the existing codes, with their statuses."""
    statuses: dict[str, set[int]] = defaultdict(set)
    for each in all_errors():
        if not issubclass(each, errors.ConfigurationError):  # start-up alone raises it
            statuses[each.code].add(status_of(each))
    table: dict[str, set[int]] = defaultdict(set)
    for status, codes, *_ in rows("errors.md")[1:]:
        for code in names(codes):
            table[code].add(int(status))
    assert table == statuses


@pytest.mark.parametrize("document", ["security.md", "migrating-from-legacy-cookies.md"])
def test_named_tests_exist(document: str) -> None:
    """Each test that a document names exists."""
    text = (DOCS / document).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert named
    for path, function in named:
        assert (ROOT / path).exists(), path
        if function:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            functions = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in functions, f"{path}::{function}"


def test_the_map_of_the_code_names_existing_modules_and_classes() -> None:
    """Each module that CONTRIBUTING.md names exists, and so does each class named next to one."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*\w+\.py)`(?:\s+`(\w+)(?:\.\w+)?`)?", text)
    assert len(named) > 40
    for module, name in named:
        path = next((each for each in (ROOT / "src/projkit" / module, ROOT / module) if each.exists()), None)
        assert path is not None, module
        definition = re.compile(rf"^(?:async )?(?:class|def) {name}\b", re.MULTILINE)
        assert not name or definition.search(path.read_text(encoding="utf-8")), f"{module}: {name}"


@pytest.mark.parametrize("document", [f"{path.relative_to(DOCS)}" for path in sorted(DOCS.rglob("*.md"))])
def test_named_settings_exist(document: str) -> None:
    """Each variable that a document names is a setting."""
    text = (DOCS / document).read_text(encoding="utf-8")
    named = set(re.findall(r"PROJKIT_([A-Z_]*[A-Z])(?![A-Z_])", text))
    named -= {"KIT", "SCOPES"}  # settings of Django's
    named -= {name for name in named if name.startswith(("LOAD_", "TEST_"))}  # of load tests, of this suite
    assert named <= {name.upper() for name in Settings.model_fields}
