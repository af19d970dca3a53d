"""The targets of ``slo.toml`` and the check against them."""

import math
import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.stats import EndpointStats

_MIN_EXPECTED: Final = 12.0  # expected requests from which none at all is a failure
_MIN_SHARE_SENT, _MIN_RATE_SECONDS = 0.6, 15.0  # share of due requests, for tests of this length or longer
_SIGNIFICANCE: Final = 0.05
_NORMAL_FROM, _DEVIATIONS = 10_000, 1.645  # sample size from which a normal distribution is used
_TIMES: Final = {"p99_ms", "p95_ms", "mean_ms", "added_mean_ms"}
_FIELDS: Final = _TIMES | {"twin", "failures_percent"}


@dataclass(frozen=True)
class Target:
    """The target of one endpoint. Times are in milliseconds; None means no target."""

    p99_ms: float | None = None
    p95_ms: float | None = None
    mean_ms: float | None = None
    added_mean_ms: float | None = None
    twin: str = ""
    failures_percent: float = 0.0


@dataclass(frozen=True)
class MissedTarget:
    """A target that was missed."""

    stage: str
    endpoint: str
    what: str
    measured: str
    target: str
    limit_ms: float | None = None  # of a latency target, slack included


def load(path: str) -> dict[str, Target]:
    """Load the targets by endpoint.

    Raises:
        SystemExit: the file cannot be read or contains an invalid target.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict) or not table.keys() <= _FIELDS:
            raise SystemExit(f"{path}: {name!r} may only contain {', '.join(sorted(_FIELDS))}")
        if ("added_mean_ms" in table) != ("twin" in table):
            raise SystemExit(f"{path}: {name!r} needs added_mean_ms and twin together")
        for key, value in table.items():
            check(f"{path}: {key} of {name!r}", key, value)
        if not table.keys() & _TIMES:
            raise SystemExit(f"{path}: {name!r} has no target; set one of {', '.join(sorted(_TIMES))}")
    return {name: Target(**table) for name, table in tables.items()}


def check(what: str, key: str, value: object) -> None:
    """Reject an invalid value of a target.

    Raises:
        SystemExit: the value is invalid.
    """
    if key == "twin":
        valid = isinstance(value, str)
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        valid = number and (value >= 0 if key == "failures_percent" else value > 0)  # type: ignore[operator]
    if not valid:
        expected = {"twin": "an endpoint's name", "failures_percent": "a number of 0 or more"}
        raise SystemExit(f"{what} is {value!r}, but must be {expected.get(key, 'a number above 0')}")


def judge(
    stage: str,
    rows: Mapping[str, EndpointStats],
    targets: Mapping[str, Target],
    slack: float,
    *,
    times: bool = True,
) -> list[MissedTarget]:
    """Return the missed targets; an endpoint without a target is one. Without ``times``, check only failures."""
    missed = []
    for name, row in sorted(rows.items()):
        target = targets.get(name)
        if target is None:
            missed.append(MissedTarget(stage, name, "target", "none declared", "one in slo.toml"))
            continue
        percent = 100 * row.failed / max(row.intended.count, 1)
        if percent > target.failures_percent:
            why = ", ".join(f"{count} times {what}" for what, count in row.failures.most_common(3))
            missed.append(
                MissedTarget(
                    stage, name, "failures", f"{percent:.2f} % ({why})", f"{target.failures_percent:g} %"
                )
            )
        if times:
            missed += _times(stage, name, row, rows.get(target.twin), target, slack)
    return missed


def unmeasured(
    seen: AbstractSet[str], sent: int, expected: Mapping[str, float], due: float, seconds: float
) -> list[MissedTarget]:
    """Return endpoints that the schedule expects but that were not requested, and a rate that was far from reached."""
    missed = [
        MissedTarget("all", name, "requests", "0", f"about {number:.0f}")
        for name, number in expected.items()
        if number >= _MIN_EXPECTED and name not in seen
    ]
    if seconds >= _MIN_RATE_SECONDS and sent < _MIN_SHARE_SENT * due:
        missed.append(MissedTarget("all", "(all)", "requests", str(sent), f"about {due:.0f}"))
    return missed


def _times(
    stage: str, name: str, row: EndpointStats, twin: EndpointStats | None, target: Target, slack: float
) -> list[MissedTarget]:
    missed = []
    for what, share, limit in (("p99", 0.99, target.p99_ms), ("p95", 0.95, target.p95_ms)):
        number, of = row.intended.above(limit * slack) if limit else 0, row.intended.count
        if limit and number >= too_many(of, 1 - share):
            text = f"{row.intended.percentile(share):.2f} ms, {number} of {of} above"
            missed.append(MissedTarget(stage, name, what, text, f"< {limit * slack:g} ms", limit * slack))
    measured = [("mean", row.intended.mean, target.mean_ms)]
    if target.added_mean_ms is not None:
        if twin is None:
            return [*missed, MissedTarget(stage, name, "twin", "not measured", target.twin)]
        measured.append(
            # From sending, because later requests of an iteration have waited for earlier ones.
            (f"added to {target.twin}", row.service.mean - twin.service.mean, target.added_mean_ms)
        )
    return missed + [
        MissedTarget(stage, name, what, f"{ms:.2f} ms", f"< {limit * slack:g} ms", limit * slack)
        for what, ms, limit in measured
        if limit is not None and not ms < limit * slack
    ]


def too_many(of: int, share: float) -> int:
    """Return the number of values above a limit that chance exceeds in fewer than one run in twenty.

    ``share`` may exceed the limit (0.01 for a p99). Of sixty requests whose true p99 meets the target, one is above it
    in every second run.
    """
    if of > _NORMAL_FROM:
        return math.ceil(of * share + _DEVIATIONS * math.sqrt(of * share * (1 - share)))
    exactly = (1 - share) ** of  # binomial probability of this number
    more, number = 1 - exactly, 1
    while more >= _SIGNIFICANCE:  # probability of this number or more
        exactly *= (of - number + 1) / number * share / (1 - share)
        more -= exactly
        number += 1
    return number
