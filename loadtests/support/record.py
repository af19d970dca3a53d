"""Records: the kit's figures as ratios to those of its peers, per round, with a description of the machine."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

FORMAT: Final = 1
_KIT: Final = "projkit"


class RecordError(Exception):
    """A file is not a valid record."""


@dataclass(frozen=True)
class Figure:
    """One comparison: the ratio of each round, and both medians over the rounds."""

    better: str  # "more" or "less"
    ratios: Sequence[float]
    kit: float
    peer: float
    unit: str


@dataclass(frozen=True)
class Record:
    """The contents of one file."""

    recorded: str  # date
    machine: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: the file is missing or invalid.
    """
    try:
        exported = json.loads(path.read_text(encoding="utf-8"))
        if exported["format"] != FORMAT:
            raise RecordError(
                f"{path} has the format {exported['format']}; this program reads format {FORMAT}"
            )
        figures = {name: Figure(**each) for name, each in exported["figures"].items()}
        record = Record(exported["recorded"], exported["machine"], exported["method"], figures)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"{path} is not a valid record: {error!r}") from error
    if not figures:
        raise RecordError(f"{path} is not a valid record: it has no figures")
    for name, figure in figures.items():
        ratios: Sequence[object] = figure.ratios
        numbers = [isinstance(each, int | float) and 0 < each < math.inf for each in ratios]
        if len(numbers) < 2 or not all(numbers) or figure.better not in {"more", "less"}:
            raise RecordError(
                f"{path} is not a valid record: {name!r} needs two or more ratios above 0, better more or less"
            )
    return record


def write(path: Path, record: Record) -> None:
    """Write a record, one figure per line."""
    lines = [
        f"    {json.dumps(name)}: {json.dumps(vars(figure) | {'ratios': list(figure.ratios)})}"
        for name, figure in record.figures.items()
    ]
    head = {"format": FORMAT, "recorded": record.recorded, "machine": record.machine, "method": record.method}
    text = json.dumps(head, indent=2).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + ',\n  "figures": {\n' + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8")


def from_benchmark(document: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of a report of ``benchmarks/run.py``: requests per second, and the p50 at one connection."""
    cases = {(each["case"], each["server"]): each["rounds"] for each in document["cases"]}
    figures = {}
    for (case, server), theirs in cases.items():
        mine = cases[case, _KIT]
        if server == _KIT:
            continue
        if case.endswith(" 1"):  # one connection waits for each response, so its rate is its latency
            name, pick, better, unit = "p50", "p50_us", "less", "ms"
        else:
            name, pick, better, unit = "req/s", "per_second", "more", "req/s"
        scale = 1000 if unit == "ms" else 1
        figures[f"{case} connections, {name}, against {server}"] = _figure(
            better, unit, [each[pick] / scale for each in mine], [each[pick] / scale for each in theirs]
        )
    return figures


def from_schedule(document: Mapping[str, Any], rounds: int) -> dict[str, Figure]:
    """Return the figures of a report of ``versus_peers.py``: the median latency of each request in each full round."""
    complete = [f"round {number + 1}" for number in range(rounds)]
    seen: dict[str, dict[str, float]] = {}
    for each in document["endpoints"]:
        seen.setdefault(each["endpoint"], {})[each["stage"]] = each["intended"]["p50"]
    figures = {}
    for name, theirs in sorted(seen.items()):
        request, _, server = name.partition(" of ")
        mine = seen[f"{request} of {_KIT}"]
        both = [stage for stage in complete if stage in theirs and stage in mine]
        if server != _KIT:
            figures[f"{request} on a schedule, p50, against {server}"] = _figure(
                "less", "ms", [mine[stage] for stage in both], [theirs[stage] for stage in both]
            )
    return figures


def _figure(better: str, unit: str, mine: Sequence[float], theirs: Sequence[float]) -> Figure:
    ratios = [round(one / other, 4) for one, other in zip(mine, theirs, strict=True)]
    return Figure(better, ratios, round(median(mine), 3), round(median(theirs), 3), unit)
