"""A slow database pages the person on call."""

from tests.faults.conftest import headers
from tests.observability.conftest import Deployment
from tests.observability.load import PROJECTS
from tests.observability.monitoring_stack import wait_until

FAST = "ProjkitLatencyBudgetBurnsFast"
BURNT = 'job:projkit_slo_bad:ratio_rate5m{slo="latency"}'


def test_page(deployment: Deployment) -> None:
    """A database with 60 ms of delay triggers a page through Alertmanager, with a runbook."""
    before = deployment.prometheus.value(BURNT)
    deployment.database.delay = 0.06
    try:
        for _ in range(60):
            deployment.load.request("GET", PROJECTS, 200, by=("bearer", "enhanced"), headers=headers())
        wait_until(
            lambda: FAST in deployment.receiver.names("/page"), lambda: deployment.prometheus.get("/alerts")
        )
    finally:
        deployment.database.delay = 0.0
    deployment.prometheus.catch_up()
    alert = next(each for path, each in deployment.receiver.alerts if each["labels"]["alertname"] == FAST)
    assert (alert["labels"]["severity"], alert["labels"]["job"]) == ("page", "projkit")
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{FAST}.md"
    assert deployment.prometheus.value(BURNT) > max(before, 0.144)
