"""Plain-text tables."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with fitted columns, the first one left-aligned and the others right-aligned."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([f"\n{title}", line(head), *map(line, rows)])


def missed_targets(title: str, missed: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of missed targets with the fields of `support.slo.MissedTarget`."""
    head = ["endpoint", "stage", "what", "measured", "target"]
    return table(title, head, [[each[name] for name in head] for each in missed])
