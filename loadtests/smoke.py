"""A little of everything at 20 requests per second: does this deployment work, and how fast?

PROJKIT_LOAD_TOKEN=… locust -f loadtests/smoke.py --headless -H http://127.0.0.1:8000 -t 20s
"""

from argparse import Namespace

from support import plans, suite
from support.scenarios import ERRORS, EVERYDAY, HEALTH
from support.schedule import ArrivalStream, Plan

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file


def make_plan(options: Namespace) -> Plan:
    """Return the plan: mostly typical use, with health checks and errors."""
    rate = options.rate or 20.0
    return Plan(
        [
            plans.steady(list(EVERYDAY), 0.6 * rate),
            plans.steady(HEALTH, 0.1 * rate),
            plans.steady(ERRORS, 0.3 * rate),
            *plans.logins(options),
        ]
    )


suite.declare("smoke", make_plan, needs_data=True)
