"""Half as much load again every five seconds, until a target breaks: at what rate does this deployment give way?

    locust -f loadtests/breakpoint.py --headless -H URL -t 2m

The third step is the rate that must hold: ``--rate``, or 100 requests a second where that is not given. Ends with exit
code 1 only where it did not, or was not reached.
"""

import time
from argparse import Namespace
from itertools import count

import gevent
from locust.env import Environment
from support import slo, suite
from support.journeys import EVERYDAY
from support.schedule import Lane, Plan, Stream
from support.slo import Broken
from support.suite import LATE_MS, Run

__all__ = ["Lane"]  # Locust looks for its users in this file

WANTED, GROWTH, STEPS_BEFORE, SECONDS = 100.0, 1.5, 2, 5.0
SETTLE = 1.5  # for answers that are under way, and the workers' reports, when a step is over


def step_rate(options: Namespace, number: int) -> float:
    """Requests a second."""
    wanted: float = options.rate or WANTED
    return wanted * GROWTH ** (number - STEPS_BEFORE)


def stage_name(options: Namespace, number: int) -> str:
    """As tables show it."""
    return f"{step_rate(options, number):.0f}/s"


def make_plan(options: Namespace) -> Plan:
    """A stair."""
    return Plan(
        [Stream(EVERYDAY, lambda elapsed: step_rate(options, int(elapsed / SECONDS)))],
        lambda elapsed: stage_name(options, int(elapsed / SECONDS)),
    )


def missed(run: Run, number: int) -> list[Broken]:
    """What one step missed; nothing where it was not reached."""
    stage = stage_name(run.options, number)
    return slo.judge(stage, run.tally.stage(stage), run.targets, run.options.slack)


def is_wrong(broken: list[Broken]) -> bool:
    """Whether it was not for a time alone."""
    return any(each.limit_ms is None for each in broken)


def gave_way(run: Run, number: int) -> bool:
    """Whether a step broke: at a wrong answer, or at a time that the next step, if there is one, misses as well.

    A time that is met again at a higher rate was missed by a stall, not by the rate.
    """
    broken = missed(run, number)
    if not broken or is_wrong(broken):
        return bool(broken)
    after = run.tally.stage(stage_name(run.options, number + 1))
    return bool(missed(run, number + 1)) or run.seconds < SECONDS * (number + 2) or not after


def watch(run: Run, environment: Environment) -> None:
    """Ends the test behind the first step that broke, or the one after it."""
    for number in count():
        gevent.sleep(max(SECONDS * (number + 1) + SETTLE - (time.monotonic() - run.started), 0.0))
        broken, before = missed(run, number), number and missed(run, number - 1)
        if broken and (before or is_wrong(broken)):
            assert environment.runner is not None, "a test that runs has a runner"
            run.enough = True
            environment.runner.quit()
            return


def judge(run: Run) -> list[Broken]:
    """Says where it gave way; that is a failure at what was asked for or below."""
    number, held, broken = 0, 0.0, list[Broken]()
    while run.tally.stage(stage_name(run.options, number)):
        if gave_way(run, number):
            broken = missed(run, number)
            break
        # The last step may have been cut short: it may break as far as it went, but it has not held.
        if run.seconds < SECONDS * (number + 1):
            break
        held = step_rate(run.options, number)
        number += 1
    run.facts["held_per_second"] = held
    held_text = f"held {held:.0f}/s" if held else "held no step"
    if broken:
        say(run, number, held_text, broken)
    else:
        print(f"BREAKPOINT: none, {held_text} as long as it was asked; give it more time with -t")
    wanted = run.options.rate or WANTED
    if held >= wanted:
        return []
    return broken or [Broken("all", "(all)", "rate", held_text, f"{wanted:g}/s: give it more time with -t")]


def say(run: Run, number: int, held: str, broken: list[Broken]) -> None:
    """At which rate, and at what."""
    rate, stage = step_rate(run.options, number), stage_name(run.options, number)
    sent = sum(row.intended.count for row in run.tally.stage(stage).values())
    seconds = min(SECONDS, run.seconds - SECONDS * number)
    print(f"BREAKPOINT: {held}, gave way at {rate:.0f} requests a second ({sent / seconds:.0f} were sent)")
    run.facts["breaks_at_per_second"] = rate
    if run.tally.lateness.percentile(0.99) > LATE_MS:
        print("This machine was late to send: the breakpoint may be its own")
    for each in broken:
        print(f"  {each.endpoint}: {each.what} {each.measured}, target {each.target}")


suite.declare("breakpoint", make_plan, judge=judge, watch=watch, needs_data=True)
