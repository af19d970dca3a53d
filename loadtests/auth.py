"""Sessions: login, refresh, logout, failed logins, and reads of the session at 50 requests per second.

The default is 0.5 logins per second, failed ones included, because a deployment allows 60 attempts per minute from one
address.
"""

from argparse import Namespace

from support import plans, suite
from support.scenarios import FAILED_LOGINS, LOGINS, SESSION_READS
from support.schedule import ArrivalStream, Plan

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file


def make_plan(options: Namespace) -> Plan:
    """Return the plan: four logins in five succeed."""
    attempts = 0.5 if options.login_rate is None else options.login_rate
    return Plan(
        [
            plans.steady(SESSION_READS, options.rate or 50.0),
            plans.steady(LOGINS, 0.8 * attempts * LOGINS[0].requests),
            plans.steady(FAILED_LOGINS, 0.2 * attempts * FAILED_LOGINS[0].requests),
        ]
    )


suite.declare("auth", make_plan, needs_user=True)
