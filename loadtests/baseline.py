"""Typical use at 100 requests per second: does every endpoint meet its target?

PROJKIT_LOAD_TOKEN=… locust -f loadtests/baseline.py --headless -H http://127.0.0.1:8000 -t 20s
"""

from support import plans, suite
from support.schedule import ArrivalStream

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

suite.declare("baseline", lambda options: plans.everyday(options, 100.0), needs_data=True)
