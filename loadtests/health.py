"""Health endpoints at 100 requests per second: is the mean of each below 10 ms?"""

from support import plans, suite
from support.scenarios import HEALTH
from support.schedule import ArrivalStream, Plan

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

suite.declare(
    "health", lambda options: Plan([plans.steady(HEALTH, options.rate or 100.0)]), needs_credential=False
)
