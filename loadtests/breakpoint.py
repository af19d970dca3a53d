"""Half as much load again every five seconds, until a target breaks: at what rate does this deployment give way?

    locust -f loadtests/breakpoint.py --headless -H URL -t 2m

Ends with exit code 1 only where it gave way below ``--rate``, or below 100 requests a second where that is not given.
"""

import time
from argparse import Namespace

import gevent
from locust.env import Environment
from support import slo, suite
from support.journeys import EVERYDAY
from support.schedule import Lane, Plan, Stream
from support.slo import Broken
from support.suite import LATE_MS, Run

__all__ = ["Lane"]  # Locust looks for its users in this file

FIRST, GROWTH, SECONDS = 50.0, 1.5, 5.0
SETTLE = 1.5  # for answers that are under way, and the workers' reports, when a step is over


def step_rate(number: int) -> float:
    """Requests a second."""
    return FIRST * GROWTH**number


def stage_name(number: int) -> str:
    """As tables show it."""
    return f"{step_rate(number):.0f}/s"


def make_plan(options: Namespace) -> Plan:
    """A stair."""
    del options
    return Plan(
        [Stream(EVERYDAY, lambda elapsed: step_rate(int(elapsed / SECONDS)))],
        lambda elapsed: stage_name(int(elapsed / SECONDS)),
    )


def failed_step(run: Run, number: int) -> list[Broken]:
    """What one step missed."""
    return slo.judge(stage_name(number), run.tally.stage(stage_name(number)), run.targets, run.options.slack)


def watch(run: Run, environment: Environment) -> None:
    """Ends the test at the first step that broke."""
    number = 0
    while True:
        gevent.sleep(SECONDS * (number + 1) + SETTLE - elapsed(run))
        if failed_step(run, number):
            assert environment.runner is not None, "a test that runs has a runner"
            environment.runner.quit()
            return
        number += 1


def elapsed(run: Run) -> float:
    """Seconds since the test began."""
    return time.monotonic() - run.started


def judge(run: Run) -> list[Broken]:
    """Says where it gave way; that is a failure below what was asked for."""
    wanted = run.options.rate or 100.0
    # The last step may have been cut short, and is judged as far as it went.
    number = 0
    while run.tally.stage(stage_name(number)):
        broken = failed_step(run, number)
        if broken:
            held = f"held {step_rate(number - 1):.0f}/s, " if number else ""
            print(f"BREAKPOINT: {held}gave way at {step_rate(number):.0f} requests a second")
            run.facts["breaks_at_per_second"] = step_rate(number)
            if run.tally.lateness.percentile(0.99) > LATE_MS:
                print("This machine was late to send: the breakpoint may be its own")
            for each in broken:
                print(f"  {each.endpoint}: {each.what} {each.measured}, target {each.target}")
            return broken if step_rate(number) <= wanted else []
        number += 1
    held_rate = step_rate(number - 1)
    print(f"BREAKPOINT: none up to {held_rate:.0f} requests a second; give it more time with -t")
    run.facts["held_per_second"] = held_rate
    return []


suite.declare("breakpoint", make_plan, judge=judge, watch=watch)
