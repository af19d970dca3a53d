"""Five times the load for a fifth of the test: does the deployment recover?

During the spike, only lost connections and 5xx responses other than 503 would be failures of the server. An iteration
cannot continue after any of them, so all are counted, and up to 5 % are allowed.
"""

from argparse import Namespace

from support import options as given
from support import slo, suite
from support.scenarios import EVERYDAY
from support.schedule import ArrivalStream, Plan, Workload
from support.slo import MissedTarget
from support.suite import TestRun

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

FACTOR = 5.0
SPIKE_START, SPIKE_END, RECOVERED = 0.4, 0.6, 0.7  # shares of the test's duration


def make_plan(options: Namespace) -> Plan:
    """Return the plan: 50 requests per second, and 250 during the spike."""
    usual, seconds = options.rate or 50.0, given.seconds(options, 60.0)

    def rate(elapsed: float) -> float:
        return usual * (FACTOR if SPIKE_START <= elapsed / seconds < SPIKE_END else 1.0)

    def stage(elapsed: float) -> str:
        share = elapsed / seconds
        return (
            "before"
            if share < SPIKE_START
            else "spike"
            if share < SPIKE_END
            else "recovery"
            if share < RECOVERED
            else "after"
        )

    return Plan([Workload(EVERYDAY, rate)], stage)


def judge(run: TestRun) -> list[MissedTarget]:
    """Check all targets before and after the spike; during the spike and the recovery, check the share of failures."""
    missed = [
        MissedTarget(stage, "(all)", "requests", "0", "1 or more")
        for stage in ("before", "spike", "after")
        if not run.stats.stage(stage)
    ]
    for stage in run.stats.stages():
        calm = stage in {"before", "after"}
        rows = run.stats.stage(stage)
        if calm:
            missed += slo.judge(stage, rows, run.targets, run.options.slack)
            continue
        sent, failed = (
            sum(row.intended.count for row in rows.values()),
            sum(row.failed for row in rows.values()),
        )
        percent = 100 * failed / sent
        if percent > 5:
            missed.append(MissedTarget(stage, "(all)", "failures", f"{percent:.1f} %", "5 %"))
    return missed


suite.declare("spike", make_plan, judge=judge, needs_data=True)
