"""Error responses next to the successful ones: does an error add less than 5 ms?"""

from support import plans, suite
from support.scenarios import ERRORS
from support.schedule import ArrivalStream, Plan

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

suite.declare("errors", lambda options: Plan([plans.steady(ERRORS, options.rate or 100.0)]))
