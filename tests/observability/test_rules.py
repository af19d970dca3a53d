"""Tests of the rules with the tools of Prometheus and Alertmanager."""

import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from tests.observability.monitoring_stack import METRICS_TOKEN, PROMETHEUS, installed
from tests.observability.test_queries import rules

yaml: Final[Any] = import_module("yaml")
CASES: Final = Path(__file__).with_name("rules")


def run(*arguments: str | Path) -> str:
    """Run a tool that must succeed, and return its output."""
    installed(str(arguments[0]))
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid() -> None:
    """promtool accepts the rules without a warning."""
    output = run(
        "promtool",
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        *PROMETHEUS.glob("*-rules.yml"),
        PROMETHEUS / "alerts.yml",
    )
    assert output.count("SUCCESS") == 2


def test_configurations_are_valid(tmp_path: Path) -> None:
    """promtool and amtool accept the example configurations, with the rules and a token."""
    for source in PROMETHEUS.glob("*.yml"):
        (tmp_path / source.name).write_text(source.read_text())
    (tmp_path / "metrics-token").write_text(METRICS_TOKEN)
    run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert "2 receivers" in run("amtool", "check-config", tmp_path / "alertmanager.yml")


@pytest.mark.parametrize("cases", sorted(CASES.glob("*.yml")), ids=lambda path: path.stem)
def test_cases(cases: Path) -> None:
    """Each alert fires only when it should, with its labels and annotations."""
    assert "SUCCESS" in run("promtool", "test", "rules", cases)


def test_each_alert_has_both_cases() -> None:
    """Each alert has a case in which it fires and one in which it does not."""
    fires: dict[bool, set[str]] = {True: set(), False: set()}
    for path in CASES.glob("*.yml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for test in case.get("alert_rule_test", ()):
                fires[bool(test["exp_alerts"])].add(test["alertname"])
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    assert fires == {True: alerts, False: alerts}
