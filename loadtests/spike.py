"""Five times the load for a fifth of the test: is all as it was afterwards?

During the spike only refusals with a 5xx other than 503, and lost connections, would be failures of the server; since a
walk cannot go on after any, all are counted, and up to 5 % of them are forgiven.
"""

from argparse import Namespace

from support import options as given
from support import slo, suite
from support.journeys import EVERYDAY
from support.schedule import Lane, Plan, Stream
from support.slo import Broken
from support.suite import Run

__all__ = ["Lane"]  # Locust looks for its users in this file

FACTOR = 5.0
BEGINS, ENDS, CALM = (
    0.4,
    0.6,
    0.7,
)  # shares of the test's time; what the spike has left behind may take until CALM


def make_plan(options: Namespace) -> Plan:
    """50 requests a second, and 250."""
    usual, seconds = options.rate or 50.0, given.seconds(options, 60.0)

    def rate(elapsed: float) -> float:
        return usual * (FACTOR if BEGINS <= elapsed / seconds < ENDS else 1.0)

    def stage(elapsed: float) -> str:
        share = elapsed / seconds
        return (
            "before"
            if share < BEGINS
            else "spike"
            if share < ENDS
            else "recovery"
            if share < CALM
            else "after"
        )

    return Plan([Stream(EVERYDAY, rate)], stage)


def judge(run: Run) -> list[Broken]:
    """All targets before and after; in between and just after it, that nearly everything is answered."""
    broken = [
        Broken(stage, "(all)", "requests", "0", "1 or more")
        for stage in ("before", "spike", "after")
        if not run.tally.stage(stage)
    ]
    for stage in run.tally.stages():
        calm = stage in {"before", "after"}
        rows = run.tally.stage(stage)
        if calm:
            broken += slo.judge(stage, rows, run.targets, run.options.slack)
            continue
        sent, failed = (
            sum(row.intended.count for row in rows.values()),
            sum(row.failed for row in rows.values()),
        )
        percent = 100 * failed / sent
        if percent > 5:
            broken.append(Broken(stage, "(all)", "failures", f"{percent:.1f} %", "5 %"))
    return broken


suite.declare("spike", make_plan, judge=judge, needs_data=True)
