"""Schedules that several suites share."""

from argparse import Namespace

from support.credentials import login_body
from support.scenarios import EVERYDAY, LOGINS, Scenario
from support.schedule import Plan, Workload


def steady(scenarios: tuple[Scenario, ...] | list[Scenario], per_second: float) -> Workload:
    """Return a workload with a constant rate."""
    return Workload(scenarios, lambda _: per_second)


def logins(options: Namespace) -> list[Workload]:
    """Return the workload of complete sessions if the environment names a user: 0.5 per second by default.

    The default limit of a deployment is 60 login attempts per minute from one address.
    """
    per_second = 0.5 if options.login_rate is None else options.login_rate
    return [steady(LOGINS, per_second * LOGINS[0].requests)] if login_body() else []


def everyday(options: Namespace, per_second: float) -> Plan:
    """Return the realistic mix, with logins."""
    return Plan([steady(list(EVERYDAY), options.rate or per_second), *logins(options)])
