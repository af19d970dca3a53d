"""The report of a run: tables for people and JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from support import tables
from support.server import RouteComparison
from support.slo import MissedTarget
from support.stats import Histogram, Stats


def measured(stats: Stats) -> str:
    """Return a table of each endpoint in each stage: latency from the intended start, and the p99 from sending."""
    rows = [
        [
            name,
            stage,
            str(row.intended.count),
            str(row.failed),
            *(
                f"{ms:.2f}"
                for ms in (
                    row.intended.mean,
                    row.intended.percentile(0.5),
                    row.intended.percentile(0.99),
                    row.intended.max,
                    row.service.percentile(0.99),
                )
            ),
        ]
        for (stage, name), row in sorted(stats.rows.items(), key=lambda each: (each[0][1], each[0][0]))
    ]
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


def cross_check(compared: Sequence[RouteComparison]) -> str:
    """Return a table of each route as client and server measured it; network and queues make up the difference."""
    rows = [
        [
            each.route,
            str(each.client_count),
            str(each.server_count),
            f"{each.client_ms:.2f}",
            f"{each.server_ms:.2f}",
            f"{each.client_ms - each.server_ms:+.2f}",
        ]
        for each in compared
    ]
    head = ["route", "sent", "counted by server", "client mean ms", "server mean ms", "difference"]
    return tables.table("THE SERVER'S OWN HISTOGRAM", head, rows)


def write_json(
    path: str,
    stats: Stats,
    missed: Sequence[MissedTarget],
    compared: Sequence[RouteComparison],
    facts: dict[str, object],
) -> None:
    """Write one document: facts of the run, endpoints by stage, missed targets, and the server's view."""
    endpoints = [
        {
            "stage": stage,
            "endpoint": name,
            "failures": dict(row.failures),
            "intended": _figures(row.intended),
            "service": _figures(row.service),
        }
        for (stage, name), row in sorted(stats.rows.items())
    ]
    document = {
        **facts,
        "passed": not missed,
        "lateness_ms": _figures(stats.lateness),
        "endpoints": endpoints,
        "missed": [asdict(each) for each in missed],
        "server": [asdict(each) for each in compared],
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _figures(histogram: Histogram) -> dict[str, float]:
    shares = {f"p{100 * share:g}": histogram.percentile(share) for share in (0.5, 0.95, 0.99, 0.999)}
    figures = {"mean": histogram.mean, **shares, "max": histogram.max}
    return {"count": histogram.count, **{name: round(ms, 3) for name, ms in figures.items()}}
