"""Tables of plain text."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; the first is set left, figures right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([f"\n{title}", line(head), *map(line, rows)])


def broken(title: str, missed: Sequence[Mapping[str, Any]]) -> str:
    """What was missed, as `support.slo.Broken` has it."""
    head = ["endpoint", "stage", "what", "measured", "target"]
    return table(title, head, [[each[name] for name in head] for each in missed])
