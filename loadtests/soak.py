"""The baseline's mix for hours: is the last quarter as fast as the first, and does the server's memory stay?

locust -f loadtests/soak.py --headless -H URL -t 8h
"""

from argparse import Namespace

import gevent
from locust.env import Environment
from support import options as given
from support import plans, server, suite
from support.client import Client
from support.schedule import Lane, Plan
from support.slo import Broken
from support.suite import Run

__all__ = ["Lane"]  # Locust looks for its users in this file

QUARTERS = ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter")
GROWTH_PERCENT = 15.0  # of the resident memory of all workers, after the first quarter's warming up
SLOWER, SLOWER_MS = (
    1.5,
    2.0,
)  # the last quarter's medians may be so many times the first one's, and so much more
LEAST = 30  # requests of which a median is compared


def make_plan(options: Namespace) -> Plan:
    """50 requests a second; each quarter is judged by itself."""
    quarter = given.seconds(options, 3600.0) / len(QUARTERS)
    made = plans.everyday(options, 50.0)
    made.stage = lambda elapsed: QUARTERS[min(int(elapsed / quarter), len(QUARTERS) - 1)]
    return made


def watch(run: Run, environment: Environment) -> None:
    """Reads the server's memory when it has warmed up."""
    gevent.sleep(given.seconds(run.options, 3600.0) / len(QUARTERS))
    seen = server.look(Client(environment.host or ""))
    run.facts["memory_warm_bytes"] = seen.memory


def judge(run: Run) -> list[Broken]:
    """The targets in each quarter, the last quarter beside the first, and the memory."""
    broken = suite.by_stage(run)
    first, last_quarter = run.tally.stage(QUARTERS[0]), run.tally.stage(QUARTERS[-1])
    if not first or not last_quarter:
        broken.append(
            Broken("all", "(all)", "requests", "none in the first or the last quarter", "1 or more")
        )
    for name in sorted(first.keys() & last_quarter.keys()):
        before, after = first[name].intended, last_quarter[name].intended
        limit = SLOWER * before.percentile(0.5) + SLOWER_MS
        if min(before.count, after.count) >= LEAST and after.percentile(0.5) > limit:
            broken.append(
                Broken(
                    QUARTERS[-1], name, "p50", f"{after.percentile(0.5):.2f} ms", f"< {limit:.2f} ms", limit
                )
            )
    warm, last = run.facts.get("memory_warm_bytes"), run.after.memory if run.after else 0.0
    if not isinstance(warm, float) or not warm or not last:
        print("The server's memory was not looked at, since there was no scrape of it at both times")
        return broken
    grown = 100 * (last / warm - 1)
    run.facts["memory_grown_percent"] = round(grown, 2)
    print(f"Memory of the server since the first quarter: {grown:+.1f} %, now {last / 2**20:.0f} MiB")
    if grown > GROWTH_PERCENT:
        broken.append(Broken("all", "(server)", "memory", f"{grown:+.1f} %", f"< +{GROWTH_PERCENT:g} %"))
    return broken


suite.declare("soak", make_plan, judge=judge, watch=watch, needs_data=True)
