"""Probes at 100 requests a second: does each health endpoint answer in 10 ms on average?"""

from support import plans, suite
from support.journeys import HEALTH
from support.schedule import Lane, Plan

__all__ = ["Lane"]  # Locust looks for its users in this file

suite.declare(
    "health", lambda options: Plan([plans.steady(HEALTH, options.rate or 100.0)]), needs_caller=False
)
