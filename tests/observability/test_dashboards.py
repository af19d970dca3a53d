"""The dashboards match their source and have a valid layout."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import ROOT
from tests.observability.monitoring_stack import ASSETS

BOARDS = ("endpoints.json", "overview.json")


def test_match_source(tmp_path: Path) -> None:
    """The shipped files are byte for byte the output of scripts/dashboards.py."""
    subprocess.run([sys.executable, ROOT / "scripts" / "dashboards.py", tmp_path], check=True)
    assert tuple(sorted(path.name for path in tmp_path.iterdir())) == BOARDS
    for name in BOARDS:
        assert (ASSETS / "grafana" / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("name", BOARDS)
def test_layout(name: str) -> None:
    """No two panels overlap or share an id, none exceeds the grid, and each but a row has a description."""
    panels: list[dict[str, Any]] = json.loads((ASSETS / "grafana" / name).read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert panel["type"] == "row" or panel["description"], panel["title"]
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Return whether two positions on the grid overlap."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("name", BOARDS)
def test_data_source_variable(name: str) -> None:
    """Each query uses the selected data source, and each dashboard can be filtered by job and instance."""
    board = json.loads((ASSETS / "grafana" / name).read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", ())]
    assert targets
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
    assert [each["name"] for each in board["templating"]["list"]][:3] == ["datasource", "job", "instance"]
