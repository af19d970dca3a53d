"""From a slow database to somebody's pager."""

from tests.faults.conftest import headers
from tests.observability.conftest import Scene
from tests.observability.load import PROJECTS
from tests.observability.parts import until

FAST = "ProjkitLatencyBudgetBurnsFast"
BURNT = 'job:projkit_slo_bad:ratio_rate5m{slo="latency"}'


def test_it_pages(scene: Scene) -> None:
    """A database that answers 60 ms late pages on call through Alertmanager, with a runbook."""
    before = scene.prometheus.value(BURNT)
    scene.database.delay = 0.06
    try:
        for _ in range(60):
            scene.load.ask("GET", PROJECTS, 200, by=("bearer", "enhanced"), headers=headers())
        until(lambda: FAST in scene.receiver.names("/page"), lambda: scene.prometheus.get("/alerts"))
    finally:
        scene.database.delay = 0.0
    scene.prometheus.catch_up()
    alert = next(each for path, each in scene.receiver.told if each["labels"]["alertname"] == FAST)
    assert (alert["labels"]["severity"], alert["labels"]["job"]) == ("page", "projkit")
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{FAST}.md"
    assert scene.prometheus.value(BURNT) > max(before, 0.144)
