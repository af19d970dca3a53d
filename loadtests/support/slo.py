"""The targets of ``slo.toml``, and what of them was missed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.tally import Row

_FIELDS: Final = {"p99_ms", "p95_ms", "mean_ms", "added_mean_ms", "twin", "failures_percent"}


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
    return {name: Target(**table) for name, table in tables.items()}


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


def _times(stage: str, name: str, row: Row, twin: Row | None, target: Target, slack: float) -> list[Broken]:
    measured = [
        ("p99", row.intended.percentile(0.99), target.p99_ms),
        ("p95", row.intended.percentile(0.95), target.p95_ms),
        ("mean", row.intended.mean, target.mean_ms),
    ]
    if target.added_mean_ms is not None:
        if twin is None:
            return [Broken(stage, name, "twin", "not measured", target.twin)]
        measured.append(
            (f"added to {target.twin}", row.intended.mean - twin.intended.mean, target.added_mean_ms)
        )
    return [
        Broken(stage, name, what, f"{ms:.2f} ms", f"< {limit * slack:g} ms", limit * slack)
        for what, ms, limit in measured
        if limit is not None and not ms < limit * slack
    ]
