"""Kinds of the kit's routes, by which statistics, recording rules and dashboards select them.

A route's path does not tell: a host may have a path that ends in the same way. Only the kit's own routes have a kind.
"""

from typing import Final

from projkit.telemetry.families import ROUTES
from projkit.telemetry.store import Table

PROJECTS: Final = "projects"
AUTH: Final = "auth"
PROBE: Final = "probe"  # health: its 503 reports that something else fails
VALIDATION: Final = "validation"  # so does the 503 of a self-test
MONITORING: Final = "monitoring"
PAGE: Final = "page"  # the pages and the OpenAPI document


def kinds_in(table: Table) -> dict[str, str]:
    """Return the kinds of the kit's routes that any worker has served."""
    return {labels[0]: labels[1] for family, labels in table if family == ROUTES.name}


def reports_state(kind: str | None) -> bool:
    """Return whether a 503 of such a route reports the state of something else, and is no error of its own."""
    return kind in {PROBE, VALIDATION}
