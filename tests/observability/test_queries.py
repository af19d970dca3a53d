"""Every shipped query returns data from a real Prometheus."""

import json
import math
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import pytest

from tests.corpora import ROOT
from tests.observability.conftest import Deployment
from tests.observability.monitoring_stack import ASSETS, PROMETHEUS, Samples

yaml: Final[Any] = import_module("yaml")
# Tried in this order, as not every endpoint has data for every panel.
ROUTES: Final = ("/api/v1/projects", "/api/v1/projects/{project_id}", "/slow", "/broken")


def rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a shipped file."""
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each query with the names of its dashboard and panel."""
    for path in sorted((ASSETS / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield path.stem, panel["title"], target


def substituted(expr: str, route: str) -> str:
    """Return a query as Grafana sends it: for one route, if the dashboard selects one, otherwise for all."""
    values = {
        "$job": "projkit", "$instance": ".*", "$method": ".*", "$__rate_interval": "1m", "$__range": "1m",
        '="$route"': f'="{route}"', "$route": ".*",
    }  # fmt: skip
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def has_numbers(samples: Samples) -> bool:
    """Return whether a sample has a value that is not NaN."""
    pairs = [pair for each in samples for pair in each.get("values", [each.get("value")])]
    return any(not math.isnan(float(value)) for _, value in pairs)


@pytest.mark.parametrize(
    "target",
    [pytest.param(target, id=f"{board}-{title}-{target['refId']}") for board, title, target in panels()],
)
def test_every_panel_has_data(deployment: Deployment, target: dict[str, Any]) -> None:
    """The query of each panel is valid and returns data."""
    query = deployment.prometheus.query if target.get("instant") else deployment.prometheus.over_time
    results = [query(substituted(target["expr"], route)) for route in ROUTES]
    assert any(map(has_numbers, results)), target["expr"]


@pytest.mark.parametrize("board", ["overview", "endpoints"])
def test_every_variable_has_values(deployment: Deployment, board: str) -> None:
    """Each variable has values to choose from."""
    for variable in json.loads((ASSETS / "grafana" / f"{board}.json").read_text())["templating"]["list"]:
        if variable["type"] != "query":
            continue
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert match
        series = substituted(match[1], ROUTES[0])
        assert deployment.prometheus.get(f"/label/{match[2]}/values", **{"match[]": series}), variable["name"]


def test_every_rule_is_evaluated(deployment: Deployment) -> None:
    """Prometheus evaluates each rule without an error or a warning."""
    groups = deployment.prometheus.get("/rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules("recording-rules.yml")) + len(rules("alerts.yml"))
    assert {(rule["health"], rule.get("lastError")) for rule in evaluated} == {("ok", None)}


@pytest.mark.parametrize("record", sorted({rule["record"] for rule in rules("recording-rules.yml")}))
def test_every_recorded_series_has_data(deployment: Deployment, record: str) -> None:
    """Each recording rule has data, those of the objectives for each objective."""
    samples = deployment.prometheus.query(record)
    assert has_numbers(samples)
    if "slo" in samples[0]["metric"]:
        assert {each["metric"]["slo"] for each in samples} == {"availability", "latency", "health"}


def without_comparison(expr: str) -> str:
    """Rewrite an alert's expression so that it returns 0 or 1, also if the alert does not fire.

    Offsets of an hour are removed, since the deployment is not that old, and so is absent(), whose series exists.
    "unless on" becomes "and on", since both of its sides then have data.
    """
    expr = expr.replace(" unless on ", " and on ")
    parts = re.split(r"(\{[^}]*\})", expr)
    parts[::2] = [re.sub(r"(>=|<=|==|!=|>|<)", r"\1 bool", part) for part in parts[::2]]
    return re.sub(r"absent\((.*)\)", r"\1", "".join(parts).replace(" offset 1h", ""))


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=f"{rule['alert']}-{n}") for n, rule in enumerate(rules("alerts.yml"))]
)
def test_every_alert_has_data(deployment: Deployment, rule: dict[str, Any]) -> None:
    """Each alert's expression, without its comparison, returns data: its series exist."""
    samples = deployment.prometheus.query(without_comparison(rule["expr"]))
    assert has_numbers(samples), rule["expr"]


def documented() -> Iterator[Any]:
    """Yield the queries of the documents, by document."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number, query in enumerate(re.findall(r"```promql\n(.*?)\n```", path.read_text(), re.DOTALL)):
            yield pytest.param(query, id=f"{path.stem}-{number}")


@pytest.mark.parametrize("query", list(documented()))
def test_every_documented_query(deployment: Deployment, query: str) -> None:
    """The queries of documents and runbooks are valid, and their series exist."""
    deployment.prometheus.query(query)
    known = set(deployment.prometheus.get("/label/__name__/values"))
    assert set(re.findall(r"[a-z_:]*projkit_[a-z0-9_:]+|\bup\b", query)) <= known
