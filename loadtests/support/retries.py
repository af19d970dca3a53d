"""Which missed targets count after several attempts at one suite: pure functions of the suites' JSON reports."""

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
MissedEntry = dict[str, Any]


def persistent(reports: Sequence[Report]) -> list[MissedEntry]:
    """Return the targets missed after these attempts: latency targets missed in all of them, others in any of them.

    A busy moment of the machine rarely repeats, whereas a slow server is slow in each attempt. A wrong response is
    never a matter of chance. An attempt that did not request an endpoint says nothing about it.
    """
    by_target: dict[tuple[str, ...], list[MissedEntry]] = {}
    for report in reports:
        for missed in report["missed"]:
            by_target.setdefault((missed["stage"], missed["endpoint"], missed["what"]), []).append(missed)
    return [
        each[-1]
        for each in by_target.values()
        if each[-1]["limit_ms"] is None
        or len(each) == sum(_was_requested(report, each[-1]) for report in reports)
    ]


def by_median(missed: MissedEntry, reports: Sequence[Report]) -> MissedEntry | None:
    """Judge the same target by the smallest median of these attempts; return None if that meets it.

    Other work on the machine affects the median least: of a hundred requests, the p99 is the slowest one.
    """
    if missed["limit_ms"] is None:
        return missed
    medians = [_median(report, missed) for report in reports if _was_requested(report, missed)]
    least = min(medians)
    if least < missed["limit_ms"]:
        return None
    return {**missed, "what": f"p50 for {missed['what']}", "measured": f"{least:.2f} ms"}


def slow_medians(report: Report, limits: Mapping[str, float]) -> list[MissedEntry]:
    """Return endpoints whose median misses the target itself, without slack: a busy moment does not explain that."""
    return [
        {
            "stage": row["stage"],
            "endpoint": row["endpoint"],
            "what": "p50",
            "measured": f"{ms:.2f} ms",
            "target": f"< {limit:g} ms",
            "limit_ms": limit,
        }
        for row in report["endpoints"]
        if (limit := limits.get(row["endpoint"])) is not None and (ms := row["intended"]["p50"]) >= limit
    ]


def _rows(report: Report, missed: MissedEntry, since: str) -> dict[str, float]:
    return {
        row["endpoint"]: row[since]["p50"] for row in report["endpoints"] if row["stage"] == missed["stage"]
    }


def _was_requested(report: Report, missed: MissedEntry) -> bool:
    return missed["endpoint"] in _rows(report, missed, "intended")


def _median(report: Report, missed: MissedEntry) -> float:
    """Return the median in ms; for an added latency, the difference to the twin's, measured from sending."""
    _, added, twin = missed["what"].partition("added to ")
    rows = _rows(report, missed, "service" if added else "intended")
    return rows[missed["endpoint"]] - (rows[twin] if added else 0.0)
