"""What a run comes to, as tables for people and as JSON for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from support import tables
from support.server import Compared
from support.slo import Broken
from support.tally import Latencies, Tally


def measured(tally: Tally) -> str:
    """Each endpoint in each stage, from the intended start; ``sent`` is the p99 from the moment of sending."""
    rows = [
        [name, stage, str(row.intended.count), str(row.failed),
         *(f"{ms:.2f}" for ms in (row.intended.mean, row.intended.percentile(0.5), row.intended.percentile(0.99),
                                  row.intended.max, row.service.percentile(0.99)))]
        for (stage, name), row in sorted(tally.rows.items(), key=lambda each: (each[0][1], each[0][0]))
    ]  # fmt: skip
    head = [
        "endpoint (ms from the intended start)",
        "stage",
        "requests",
        "failed",
        "mean",
        "p50",
        "p99",
        "max",
        "sent",
    ]
    return tables.table("MEASURED", head, rows)


def cross_check(compared: Sequence[Compared]) -> str:
    """Both sides of each route: what the difference of the means is made of is the way there and back, and queues."""
    rows = [
        [each.route, str(each.here), str(each.there), f"{each.here_ms:.2f}", f"{each.there_ms:.2f}",
         f"{each.here_ms - each.there_ms:+.2f}"]
        for each in compared
    ]  # fmt: skip
    head = ["route", "sent", "counted there", "mean here ms", "mean there ms", "difference"]
    return tables.table("THE SERVER'S OWN HISTOGRAM", head, rows)


def write_json(
    path: str, tally: Tally, broken: Sequence[Broken], compared: Sequence[Compared], facts: dict[str, object]
) -> None:
    """One document: facts of the run, endpoints by stage, what broke, and the server's view."""
    endpoints = [
        {"stage": stage, "endpoint": name, "failures": dict(row.failures), "intended": _figures(row.intended),
         "service": _figures(row.service)}
        for (stage, name), row in sorted(tally.rows.items())
    ]  # fmt: skip
    document = {
        **facts,
        "passed": not broken,
        "lateness_ms": _figures(tally.lateness),
        "endpoints": endpoints,
        "broken": [asdict(each) for each in broken],
        "server": [asdict(each) for each in compared],
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _figures(latencies: Latencies) -> dict[str, float]:
    shares = {f"p{100 * share:g}": latencies.percentile(share) for share in (0.5, 0.95, 0.99, 0.999)}
    figures = {"mean": latencies.mean, **shares, "max": latencies.max}
    return {"count": latencies.count, **{name: round(ms, 3) for name, ms in figures.items()}}
