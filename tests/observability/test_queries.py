"""Every query that is shipped, asked of a real Prometheus."""

import json
import math
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import pytest

from tests.corpora import ROOT
from tests.observability.conftest import Scene
from tests.observability.parts import ASSETS, PROMETHEUS, Samples

yaml: Final[Any] = import_module("yaml")
# One endpoint after the other, until one of them has what the panel shows.
ROUTES: Final = ("/api/v1/projects", "/api/v1/projects/{project_id}", "/slow", "/broken")


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a shipped file."""
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Board and panel by name, and each query."""
    for path in sorted((ASSETS / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield path.stem, panel["title"], target


def with_values(expr: str, route: str) -> str:
    """A query as Grafana sends it: of one endpoint, where the board shows one, else of all."""
    values = {
        "$job": "projkit", "$instance": ".*", "$method": ".*", "$__rate_interval": "1m", "$__range": "1m",
        '="$route"': f'="{route}"', "$route": ".*",
    }  # fmt: skip
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def has_values(found: Samples) -> bool:
    """Whether there is a number among the samples."""
    pairs = [pair for each in found for pair in each.get("values", [each.get("value")])]
    return any(not math.isnan(float(value)) for _, value in pairs)


@pytest.mark.parametrize(
    "target",
    [pytest.param(asked, id=f"{board}-{title}-{asked['refId']}") for board, title, asked in panels()],
)
def test_every_panel_has_data(scene: Scene, target: dict[str, Any]) -> None:
    """The query of each panel is one that Prometheus understands, and it has an answer."""
    ask = scene.prometheus.query if target.get("instant") else scene.prometheus.over_time
    answers = [ask(with_values(target["expr"], route)) for route in ROUTES]
    assert any(map(has_values, answers)), target["expr"]


@pytest.mark.parametrize("board", ["overview", "endpoints"])
def test_every_variable_has_values(scene: Scene, board: str) -> None:
    """What a variable offers to choose is there."""
    for variable in json.loads((ASSETS / "grafana" / f"{board}.json").read_text())["templating"]["list"]:
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked
        series = with_values(asked[1], ROUTES[0])
        assert scene.prometheus.get(f"/label/{asked[2]}/values", **{"match[]": series}), variable["name"]


def test_every_rule_is_well(scene: Scene) -> None:
    """Prometheus evaluates each rule without an error or a warning."""
    groups = scene.prometheus.get("/rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules("recording-rules.yml")) + len(rules("alerts.yml"))
    assert {(rule["health"], rule.get("lastError")) for rule in found} == {("ok", None)}


@pytest.mark.parametrize("record", sorted({rule["record"] for rule in rules("recording-rules.yml")}))
def test_every_recorded_series_has_data(scene: Scene, record: str) -> None:
    """Each recording rule records something, an objective's for each objective."""
    found = scene.prometheus.query(record)
    assert has_values(found)
    if "slo" in found[0]["metric"]:
        assert {each["metric"]["slo"] for each in found} == {"availability", "latency", "health"}


def uncompared(expr: str) -> str:
    """An alert's expression that has a value, 0 or 1, also where the alert is not to fire.

    What lies an hour back is looked for now, since the scene is not that old; and that something is absent cannot be
    while it is there.
    """
    parts = re.split(r"(\{[^}]*\})", expr)
    parts[::2] = [re.sub(r"(>=|<=|==|!=|>|<)", r"\1 bool", part) for part in parts[::2]]
    return re.sub(r"absent\((.*)\)", r"\1", "".join(parts).replace(" offset 1h", ""))


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=f"{rule['alert']}-{n}") for n, rule in enumerate(rules("alerts.yml"))]
)
def test_every_alert_has_data(scene: Scene, rule: dict[str, Any]) -> None:
    """Each alert's expression, without its comparison, has an answer: it looks at series that there are."""
    found = scene.prometheus.query(uncompared(rule["expr"]))
    assert has_values(found), rule["expr"]


def documented() -> Iterator[Any]:
    """The queries of the documents, by document."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number, query in enumerate(re.findall(r"```promql\n(.*?)\n```", path.read_text(), re.DOTALL)):
            yield pytest.param(query, id=f"{path.stem}-{number}")


@pytest.mark.parametrize("query", list(documented()))
def test_every_documented_query_is_good(scene: Scene, query: str) -> None:
    """What a document or a runbook says to ask is understood, and asks for series that there are."""
    scene.prometheus.query(query)
    known = set(scene.prometheus.get("/label/__name__/values"))
    assert set(re.findall(r"[a-z_:]*projkit_[a-z0-9_:]+|\bup\b", query)) <= known
