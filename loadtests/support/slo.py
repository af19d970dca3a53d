"""The targets of ``slo.toml``, and what of them was missed."""

import math
import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.tally import Row

_LEAST_ASKED: Final = 12.0  # of so many that are expected, none at all is no accident
_LEAST_SHARE, _RATE_SECONDS = 0.6, 15.0  # of what was due, once walks have filled up
_CHANCE: Final = 0.05
_MANY, _DEVIATIONS = 10_000, 1.645  # from so many on that chance is taken of a normal distribution
_TIMES: Final = {"p99_ms", "p95_ms", "mean_ms", "added_mean_ms"}
_FIELDS: Final = _TIMES | {"twin", "failures_percent"}


@dataclass(frozen=True)
class Target:
    """What one endpoint must do; times are in milliseconds, None asks nothing."""

    p99_ms: float | None = None
    p95_ms: float | None = None
    mean_ms: float | None = None
    added_mean_ms: float | None = None
    twin: str = ""
    failures_percent: float = 0.0


@dataclass(frozen=True)
class Broken:
    """One target that was missed."""

    stage: str
    endpoint: str
    what: str
    measured: str
    target: str
    limit_ms: float | None = None  # of a target of time, slack included


def load(path: str) -> dict[str, Target]:
    """The targets by endpoint.

    Raises:
        SystemExit: the file cannot be read, or holds what is no target.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict) or not table.keys() <= _FIELDS:
            raise SystemExit(f"{path}: {name!r} may only have {', '.join(sorted(_FIELDS))}")
        if ("added_mean_ms" in table) != ("twin" in table):
            raise SystemExit(f"{path}: {name!r} needs added_mean_ms and twin together")
        for key, value in table.items():
            check(f"{path}: {key} of {name!r}", key, value)
        if not table.keys() & _TIMES:
            raise SystemExit(f"{path}: {name!r} asks nothing; give it one of {', '.join(sorted(_TIMES))}")
    return {name: Target(**table) for name, table in tables.items()}


def check(what: str, key: str, value: object) -> None:
    """Refuses a value that is no target.

    Raises:
        SystemExit: with what is wrong.
    """
    if key == "twin":
        good = isinstance(value, str)
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        good = number and (value >= 0 if key == "failures_percent" else value > 0)  # type: ignore[operator]
    if not good:
        wanted = {"twin": "an endpoint's name", "failures_percent": "a number, 0 or more"}
        raise SystemExit(f"{what} is {value!r}, and must be {wanted.get(key, 'a number above 0')}")


def judge(
    stage: str, rows: Mapping[str, Row], targets: Mapping[str, Target], slack: float, *, times: bool = True
) -> list[Broken]:
    """What these rows miss; an endpoint without a target is missed as well. Without ``times`` only failures count."""
    broken = []
    for name, row in sorted(rows.items()):
        target = targets.get(name)
        if target is None:
            broken.append(Broken(stage, name, "target", "none declared", "one in slo.toml"))
            continue
        percent = 100 * row.failed / max(row.intended.count, 1)
        if percent > target.failures_percent:
            why = ", ".join(f"{count} times {what}" for what, count in row.failures.most_common(3))
            broken.append(
                Broken(stage, name, "failures", f"{percent:.2f} % ({why})", f"{target.failures_percent:g} %")
            )
        if times:
            broken += _times(stage, name, row, rows.get(target.twin), target, slack)
    return broken


def unmeasured(
    seen: AbstractSet[str], sent: int, asked: Mapping[str, float], due: float, seconds: float
) -> list[Broken]:
    """What a schedule asks, so often by expectation, and was not asked; and a rate that was not reached by far."""
    broken = [
        Broken("all", name, "requests", "0", f"about {number:.0f}")
        for name, number in asked.items()
        if number >= _LEAST_ASKED and name not in seen
    ]
    if seconds >= _RATE_SECONDS and sent < _LEAST_SHARE * due:
        broken.append(Broken("all", "(all)", "requests", str(sent), f"about {due:.0f}"))
    return broken


def _times(stage: str, name: str, row: Row, twin: Row | None, target: Target, slack: float) -> list[Broken]:
    broken = []
    for what, share, limit in (("p99", 0.99, target.p99_ms), ("p95", 0.95, target.p95_ms)):
        number, of = row.intended.above(limit * slack) if limit else 0, row.intended.count
        if limit and number >= too_many(of, 1 - share):
            text = f"{row.intended.percentile(share):.2f} ms, {number} of {of} above"
            broken.append(Broken(stage, name, what, text, f"< {limit * slack:g} ms", limit * slack))
    measured = [("mean", row.intended.mean, target.mean_ms)]
    if target.added_mean_ms is not None:
        if twin is None:
            return [*broken, Broken(stage, name, "twin", "not measured", target.twin)]
        measured.append(
            # From the moment of sending: steps of one walk wait for each other, so that later ones have waited longer.
            (f"added to {target.twin}", row.service.mean - twin.service.mean, target.added_mean_ms)
        )
    return broken + [
        Broken(stage, name, what, f"{ms:.2f} ms", f"< {limit * slack:g} ms", limit * slack)
        for what, ms, limit in measured
        if limit is not None and not ms < limit * slack
    ]


def too_many(of: int, share: float) -> int:
    """So many above a limit that this share may exceed are no accident: chance brings them in less than one of twenty.

    Of sixty requests whose true p99 meets the target one is above it in every second run.
    """
    if of > _MANY:
        return math.ceil(of * share + _DEVIATIONS * math.sqrt(of * share * (1 - share)))
    exactly = (1 - share) ** of
    more, number = 1 - exactly, 1
    while more >= _CHANCE:  # that so many or more are above it
        exactly *= (of - number + 1) / number * share / (1 - share)
        more -= exactly
        number += 1
    return number
