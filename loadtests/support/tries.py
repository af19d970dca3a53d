"""What counts of several tries at one suite: plain functions of the suites' JSON reports."""

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
Missed = dict[str, Any]


def lasting(reports: Sequence[Report]) -> list[Missed]:
    """What is missed after these tries: a target of time in every one, anything else in any one.

    A machine that was busy for a moment is not busy in the next try as well, and a slow server is slow in each. A wrong
    answer is no matter of luck. A try in which an endpoint was not asked says nothing for it.
    """
    found: dict[tuple[str, ...], list[Missed]] = {}
    for report in reports:
        for missed in report["broken"]:
            found.setdefault((missed["stage"], missed["endpoint"], missed["what"]), []).append(missed)
    return [
        each[-1]
        for each in found.values()
        if each[-1]["limit_ms"] is None or len(each) == sum(_asked(report, each[-1]) for report in reports)
    ]


def by_median(missed: Missed, reports: Sequence[Report]) -> Missed | None:
    """The same target held against the smallest median of these tries; None where that meets it.

    The median is what a machine's other work moves least: of a hundred requests the p99 is the slowest.
    """
    if missed["limit_ms"] is None:
        return missed
    medians = [_median(report, missed) for report in reports if _asked(report, missed)]
    least = min(medians)
    if least < missed["limit_ms"]:
        return None
    return {**missed, "what": f"p50 for {missed['what']}", "measured": f"{least:.2f} ms"}


def slow_medians(report: Report, limits: Mapping[str, float]) -> list[Missed]:
    """Endpoints whose median is not below the target itself, without any slack: no luck of a busy moment."""
    return [
        {"stage": row["stage"], "endpoint": row["endpoint"], "what": "p50", "measured": f"{ms:.2f} ms",
         "target": f"< {limit:g} ms", "limit_ms": limit}
        for row in report["endpoints"]
        if (limit := limits.get(row["endpoint"])) is not None and (ms := row["intended"]["p50"]) >= limit
    ]  # fmt: skip


def _rows(report: Report, missed: Missed, since: str) -> dict[str, float]:
    return {
        row["endpoint"]: row[since]["p50"] for row in report["endpoints"] if row["stage"] == missed["stage"]
    }


def _asked(report: Report, missed: Missed) -> bool:
    return missed["endpoint"] in _rows(report, missed, "intended")


def _median(report: Report, missed: Missed) -> float:
    """Of the endpoint in this try, in ms; of what is added, the difference to its twin's, from when they were sent."""
    _, added, twin = missed["what"].partition("added to ")
    rows = _rows(report, missed, "service" if added else "intended")
    return rows[missed["endpoint"]] - (rows[twin] if added else 0.0)
