"""The baseline's mix for hours: does latency or the server's memory grow from the first quarter to the last?

locust -f loadtests/soak.py --headless -H URL -t 8h
"""

from argparse import Namespace

import gevent
from locust.env import Environment
from support import options as given
from support import plans, server, suite
from support.client import Client
from support.schedule import ArrivalStream, Plan
from support.slo import MissedTarget
from support.suite import TestRun

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

QUARTERS = ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter")
MAX_MEMORY_GROWTH_PERCENT = 15.0  # resident memory of all workers, compared with the end of the first quarter
MAX_MEDIAN_FACTOR, MAX_MEDIAN_ADDED_MS = 1.5, 2.0  # limit of a last median: first median * factor + added
MIN_REQUESTS = 30  # to compare medians


def make_plan(options: Namespace) -> Plan:
    """Return the plan: 50 requests per second, each quarter a stage of its own."""
    quarter = given.seconds(options, 3600.0) / len(QUARTERS)
    plan = plans.everyday(options, 50.0)
    plan.stage = lambda elapsed: QUARTERS[min(int(elapsed / quarter), len(QUARTERS) - 1)]
    return plan


def watch(run: TestRun, environment: Environment) -> None:
    """Read the server's memory after the first quarter."""
    gevent.sleep(given.seconds(run.options, 3600.0) / len(QUARTERS))
    scrape = server.scrape(Client(environment.host or ""))
    run.facts["memory_warm_bytes"] = scrape.memory


def judge(run: TestRun) -> list[MissedTarget]:
    """Check the targets in each quarter, the last quarter against the first, and the memory."""
    missed = suite.by_stage(run)
    first, last_quarter = run.stats.stage(QUARTERS[0]), run.stats.stage(QUARTERS[-1])
    if not first or not last_quarter:
        missed.append(
            MissedTarget("all", "(all)", "requests", "none in the first or the last quarter", "1 or more")
        )
    for name in sorted(first.keys() & last_quarter.keys()):
        before, after = first[name].intended, last_quarter[name].intended
        limit = MAX_MEDIAN_FACTOR * before.percentile(0.5) + MAX_MEDIAN_ADDED_MS
        if min(before.count, after.count) >= MIN_REQUESTS and after.percentile(0.5) > limit:
            missed.append(
                MissedTarget(
                    QUARTERS[-1], name, "p50", f"{after.percentile(0.5):.2f} ms", f"< {limit:.2f} ms", limit
                )
            )
    warm, last = run.facts.get("memory_warm_bytes"), run.after.memory if run.after else 0.0
    if not isinstance(warm, float) or not warm or not last:
        print("The server's memory was not compared, because a scrape failed")
        return missed
    grown = 100 * (last / warm - 1)
    run.facts["memory_grown_percent"] = round(grown, 2)
    print(f"Server memory since the first quarter: {grown:+.1f} %, now {last / 2**20:.0f} MiB")
    if grown > MAX_MEMORY_GROWTH_PERCENT:
        missed.append(
            MissedTarget(
                "all", "(server)", "memory", f"{grown:+.1f} %", f"< +{MAX_MEMORY_GROWTH_PERCENT:g} %"
            )
        )
    return missed


suite.declare("soak", make_plan, judge=judge, watch=watch, needs_data=True)
