"""Half as much load again every five seconds until a target is missed: what rate can this deployment sustain?

    locust -f loadtests/breakpoint.py --headless -H URL -t 2m

The third step is the required rate: ``--rate``, or 100 requests per second. The exit code is 1 only if that rate was
not sustained or not reached.
"""

import time
from argparse import Namespace
from itertools import count

import gevent
from locust.env import Environment
from support import slo, suite
from support.scenarios import EVERYDAY
from support.schedule import ArrivalStream, Plan, Workload
from support.slo import MissedTarget
from support.suite import MAX_LATENESS_MS, TestRun

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

REQUIRED_RATE, GROWTH, STEPS_BELOW, STEP_SECONDS = 100.0, 1.5, 2, 5.0
SETTLE_SECONDS = 1.5  # after a step, for responses in flight and the workers' reports


def step_rate(options: Namespace, number: int) -> float:
    """Return the rate of a step in requests per second."""
    required: float = options.rate or REQUIRED_RATE
    return required * GROWTH ** (number - STEPS_BELOW)


def stage_name(options: Namespace, number: int) -> str:
    """Return the name of a step in tables."""
    return f"{step_rate(options, number):.0f}/s"


def make_plan(options: Namespace) -> Plan:
    """Return the plan: a staircase of rates."""
    return Plan(
        [Workload(EVERYDAY, lambda elapsed: step_rate(options, int(elapsed / STEP_SECONDS)))],
        lambda elapsed: stage_name(options, int(elapsed / STEP_SECONDS)),
    )


def missed_targets(run: TestRun, number: int) -> list[MissedTarget]:
    """Return the targets that one step missed; none if it was not reached."""
    stage = stage_name(run.options, number)
    return slo.judge(stage, run.stats.stage(stage), run.targets, run.options.slack)


def has_failures(missed: list[MissedTarget]) -> bool:
    """Return whether anything other than a latency target was missed."""
    return any(each.limit_ms is None for each in missed)


def step_failed(run: TestRun, number: int) -> bool:
    """Return whether a step failed: wrong responses, or a latency target that the next step, if any, misses too.

    A latency target that is met again at a higher rate was missed because of a stall, not because of the rate.
    """
    missed = missed_targets(run, number)
    if not missed or has_failures(missed):
        return bool(missed)
    after = run.stats.stage(stage_name(run.options, number + 1))
    return bool(missed_targets(run, number + 1)) or run.seconds < STEP_SECONDS * (number + 2) or not after


def watch(run: TestRun, environment: Environment) -> None:
    """End the test after the first failed step, or the one after it."""
    for number in count():
        gevent.sleep(
            max(STEP_SECONDS * (number + 1) + SETTLE_SECONDS - (time.monotonic() - run.started), 0.0)
        )
        missed, before = missed_targets(run, number), number and missed_targets(run, number - 1)
        if missed and (before or has_failures(missed)):
            assert environment.runner is not None, "a running test has a runner"
            run.ended_by_suite = True
            environment.runner.quit()
            return


def judge(run: TestRun) -> list[MissedTarget]:
    """Print the breakpoint; it is a failure if it is at or below the required rate."""
    number, held, missed = 0, 0.0, list[MissedTarget]()
    while run.stats.stage(stage_name(run.options, number)):
        if step_failed(run, number):
            missed = missed_targets(run, number)
            break
        # An incomplete last step can fail, but it cannot count as sustained.
        if run.seconds < STEP_SECONDS * (number + 1):
            break
        held = step_rate(run.options, number)
        number += 1
    run.facts["held_per_second"] = held
    held_text = f"sustained {held:.0f}/s" if held else "sustained no step"
    if missed:
        print_breakpoint(run, number, held_text, missed)
    else:
        print(f"BREAKPOINT: none, {held_text}; extend the test with -t")
    required = run.options.rate or REQUIRED_RATE
    if held >= required:
        return []
    return missed or [
        MissedTarget("all", "(all)", "rate", held_text, f"{required:g}/s: extend the test with -t")
    ]


def print_breakpoint(run: TestRun, number: int, held: str, missed: list[MissedTarget]) -> None:
    """Print the rate at which a step failed, and the missed targets."""
    rate, stage = step_rate(run.options, number), stage_name(run.options, number)
    sent = sum(row.intended.count for row in run.stats.stage(stage).values())
    seconds = min(STEP_SECONDS, run.seconds - STEP_SECONDS * number)
    print(f"BREAKPOINT: {held}, failed at {rate:.0f} requests per second ({sent / seconds:.0f} were sent)")
    run.facts["breaks_at_per_second"] = rate
    if run.stats.lateness.percentile(0.99) > MAX_LATENESS_MS:
        print("The generator was late to send: the breakpoint may be its own")
    for each in missed:
        print(f"  {each.endpoint}: {each.what} {each.measured}, target {each.target}")


suite.declare("breakpoint", make_plan, judge=judge, watch=watch, needs_data=True)
