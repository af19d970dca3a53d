"""Sessions: log-in, refresh and log-out, refusals, and at 50 requests a second the look at who is asking.

It makes 0.5 log-ins a second, refused ones included, since a deployment allows 60 attempts a minute from one address.
"""

from argparse import Namespace

from support import plans, suite
from support.journeys import LOG_INS, REFUSALS, TOKENS
from support.schedule import Lane, Plan

__all__ = ["Lane"]  # Locust looks for its users in this file


def make_plan(options: Namespace) -> Plan:
    """Four log-ins in five are good ones."""
    attempts = 0.5 if options.login_rate is None else options.login_rate
    return Plan(
        [
            plans.steady(TOKENS, options.rate or 50.0),
            plans.steady(LOG_INS, 0.8 * attempts * LOG_INS[0].steps),
            plans.steady(REFUSALS, 0.2 * attempts * REFUSALS[0].steps),
        ]
    )


suite.declare("auth", make_plan, needs_user=True)
