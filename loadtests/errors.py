"""Refusals beside the answers to the same requests done right: does an error add less than 5 ms?"""

from support import plans, suite
from support.journeys import ERRORS
from support.schedule import Lane, Plan

__all__ = ["Lane"]  # Locust looks for its users in this file

suite.declare("errors", lambda options: Plan([plans.steady(ERRORS, options.rate or 100.0)]))
