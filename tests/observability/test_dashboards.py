"""The dashboards are what Grafana's SDK makes of their source, and what Grafana can lay out."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import ROOT
from tests.observability.parts import ASSETS

BOARDS = ("endpoints.json", "overview.json")


def test_they_are_made_by_their_source(tmp_path: Path) -> None:
    """What is shipped is, to the byte, what scripts/dashboards.py writes; write it anew after a change."""
    subprocess.run([sys.executable, ROOT / "scripts" / "dashboards.py", tmp_path], check=True)
    assert tuple(sorted(path.name for path in tmp_path.iterdir())) == BOARDS
    for name in BOARDS:
        assert (ASSETS / "grafana" / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("name", BOARDS)
def test_they_can_be_laid_out(name: str) -> None:
    """No two panels overlap or share an id, none is wider than the grid, and each but a row says what it shows."""
    panels: list[dict[str, Any]] = json.loads((ASSETS / "grafana" / name).read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert panel["type"] == "row" or panel["description"], panel["title"]
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two places on the grid have a field in common."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("name", BOARDS)
def test_they_ask_the_chosen_prometheus(name: str) -> None:
    """Each query goes to the data source that is chosen above, and each board can be narrowed to job and instance."""
    board = json.loads((ASSETS / "grafana" / name).read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", ())]
    assert targets
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
    assert [each["name"] for each in board["templating"]["list"]][:3] == ["datasource", "job", "instance"]
