"""Schedules that more than one suite has."""

from argparse import Namespace

from support.credentials import login_body
from support.journeys import EVERYDAY, LOG_INS, Journey
from support.schedule import Plan, Stream


def steady(journeys: tuple[Journey, ...] | list[Journey], per_second: float) -> Stream:
    """The same rate all the time."""
    return Stream(journeys, lambda _: per_second)


def logins(options: Namespace) -> list[Stream]:
    """Sessions from log-in to log-out, where the environment names a user: 0.5 a second unless told otherwise.

    The default limit of a deployment is 60 attempts a minute from one address.
    """
    per_second = 0.5 if options.login_rate is None else options.login_rate
    return [steady(LOG_INS, per_second * LOG_INS[0].steps)] if login_body() else []


def everyday(options: Namespace, per_second: float) -> Plan:
    """The realistic mix, and log-ins beside it."""
    return Plan([steady(list(EVERYDAY), options.rate or per_second), *logins(options)])
